// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "reconcile/stride.h"

static void rows_follow_the_time(void **state)
{
	struct stride s;

	(void)state;
	stride_init(&s);
	stride_took(&s, 100000, 750 * 1000);
	assert_int_equal(s.rows, 40000);
	stride_took(&s, 40000, 1);
	assert_int_equal(s.rows, 160000); /* by a factor of four at most */
	stride_took(&s, 160000, 60 * 1000 * 1000);
	assert_int_equal(s.rows, 40000);
	stride_took(&s, 2000, 60 * 1000 * 1000);
	assert_int_equal(s.rows, STRIDE_ROWS_LEAST);
	stride_shrink(&s, 80000);
	assert_int_equal(s.rows, 20000);
}

static void a_dense_key_is_counted_off(void **state)
{
	struct stride s;

	(void)state;
	stride_init(&s);
	assert_int_equal(stride_reach(&s), 0);
	stride_went(&s, span_str("-1000"), span_str("3000"), 2000);
	stride_took(&s, 1000, 375 * 1000);
	assert_int_equal(stride_reach(&s), 2001);
}

static void what_is_not_known_or_thin_is_for_the_index(void **state)
{
	struct stride s;

	(void)state;
	stride_init(&s);
	stride_went(&s, span_str("1"), span_str("10001"), 2000); /* five values a row */
	assert_int_equal(stride_reach(&s), 0);
	stride_went(&s, span_str("1"), span_str("10001"), 10000);
	assert_true(stride_reach(&s) > 0);
	stride_went(&s, span_str("1"), span_str("10001"), 0); /* a gap */
	assert_int_equal(stride_reach(&s), 0);
	stride_went(&s, span(NULL, 0), span_str("10001"), 10000);
	assert_int_equal(stride_reach(&s), 0);
	stride_went(&s, span_str("10001"), span(NULL, 0), 10000);
	assert_int_equal(stride_reach(&s), 0);
	stride_went(&s, span_str("2026-01-01"), span_str("2026-01-02"), 10000);
	assert_int_equal(stride_reach(&s), 0);
}

/* Further than an int64 goes. */
static void the_ends_of_bigint_are_no_problem(void **state)
{
	struct stride s;

	(void)state;
	stride_init(&s);
	stride_went(&s, span_str("-9223372036854775808"), span_str("9223372036854775807"), 10);
	assert_int_equal(stride_reach(&s), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rows_follow_the_time),
		cmocka_unit_test(a_dense_key_is_counted_off),
		cmocka_unit_test(what_is_not_known_or_thin_is_for_the_index),
		cmocka_unit_test(the_ends_of_bigint_are_no_problem),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
