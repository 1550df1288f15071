// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shadow/client.h"

#define assert_chosen(expected, from, to, ...)                                                                        \
	do {                                                                                                          \
		const int installed[] = { __VA_ARGS__ };                                                              \
		assert_int_equal(client_choose(installed, sizeof(installed) / sizeof(installed[0]), from, to), expected); \
	} while (0)

static void the_newest_that_the_target_is_not_older_than(void **state)
{
	(void)state;
	assert_chosen(15, 15, 15, 15);
	assert_chosen(15, 14, 15, 18, 15, 14);
	assert_chosen(17, 15, 17, 15, 16, 17, 18);
	assert_chosen(16, 15, 17, 15, 16, 18);
}

static void an_older_one_for_a_newer_target(void **state)
{
	(void)state;
	assert_chosen(15, 15, 18, 15);
	assert_chosen(0, 15, 18, 14);
}

static void a_newer_one_where_there_is_nothing_else(void **state)
{
	(void)state;
	assert_chosen(16, 15, 15, 16, 17);
	assert_chosen(18, 17, 17, 18, 16);
	assert_chosen(18, 18, 17, 18, 17);
}

static void none_from_17_on_for_a_target_before_17(void **state)
{
	(void)state;
	assert_chosen(0, 15, 15, 17, 18);
	assert_chosen(0, 15, 16, 14, 17);
	assert_chosen(0, 17, 16, 15, 16, 17, 18);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_newest_that_the_target_is_not_older_than),
		cmocka_unit_test(an_older_one_for_a_newer_target),
		cmocka_unit_test(a_newer_one_where_there_is_nothing_else),
		cmocka_unit_test(none_from_17_on_for_a_target_before_17),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
