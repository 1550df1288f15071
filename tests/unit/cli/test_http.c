// SPDX-License-Identifier: Apache-2.0
/* Who may ask, where a token is needed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/http.h"

static const char token[] = "0123456789abcdef";

static void the_token_lets_in(void **state)
{
	(void)state;
	assert_true(http_is_authorized(token, "Bearer 0123456789abcdef"));
	assert_true(http_is_authorized(token, "bearer 0123456789abcdef"));
}

static void anything_else_does_not(void **state)
{
	static const char *const given[] = {
		NULL, "", "Bearer", "Bearer ", "0123456789abcdef", "Basic 0123456789abcdef", "Bearer 0123456789abcdeF",
		"Bearer 0123456789abcde", "Bearer 0123456789abcdef0", "Bearer 0123456789abcdef0123456789abcdef",
		"Bearer  0123456789abcdef", "Bearer 0123456789abcdef ",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(given) / sizeof(given[0]); i++)
		if (http_is_authorized(token, given[i]))
			fail_msg("let in by \"%s\"", given[i]);
	assert_false(http_is_authorized("", "Bearer "));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_token_lets_in),
		cmocka_unit_test(anything_else_does_not),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
