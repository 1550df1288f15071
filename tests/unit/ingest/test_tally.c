// SPDX-License-Identifier: Apache-2.0
/* How a table is called in the metrics. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ingest/tally.h"

static void assert_label(const char *quoted, const char *wanted)
{
	char label[300];

	tally_label(span_str(quoted), label, sizeof(label));
	assert_string_equal(label, wanted);
}

static void plain_names_lose_their_quotes(void **state)
{
	(void)state;
	assert_label("\"public\".\"orders\"", "public.orders");
	assert_label("\"s_1\".\"t_2\"", "s_1.t_2");
}

static void names_that_could_be_mistaken_keep_them(void **state)
{
	(void)state;
	assert_label("\"public\".\"Orders\"", "\"public\".\"Orders\"");
	assert_label("\"a.b\".\"c\"", "\"a.b\".\"c\"");
	assert_label("\"a\".\"b\"\"c\"", "\"a\".\"b\"\"c\"");
	assert_label("\"a\".\"\xc3\xa4\"", "\"a\".\"\xc3\xa4\"");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain_names_lose_their_quotes),
		cmocka_unit_test(names_that_could_be_mistaken_keep_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
