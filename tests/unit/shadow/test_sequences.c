// SPDX-License-Identifier: Apache-2.0
/* What a sequence of a target is set to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shadow/sequences.h"

static const struct sequences_state bigserial = { 1, 1, 1, INT64_MAX, 1, false, false };

static struct sequences_state at(struct sequences_state s, int64_t value, bool is_called)
{
	s.value = value;
	s.is_called = is_called;
	return s;
}

static struct sequences_state down(int64_t value, bool is_called)
{
	return (struct sequences_state) { value, -1, INT64_MIN, -1, 1, is_called, false };
}

static void assert_set(struct sequences_state source, struct sequences_state target, int64_t margin, int64_t value)
{
	int64_t seen = 0;

	assert_int_equal(sequences_decide(&source, &target, margin, &seen), SEQUENCES_SET);
	assert_int_equal(seen, value);
}

static void assert_not_set(struct sequences_state source, struct sequences_state target, int64_t margin,
			   enum sequences_verdict verdict)
{
	int64_t seen = 77;

	assert_int_equal(sequences_decide(&source, &target, margin, &seen), verdict);
	assert_int_equal(seen, 77);
}

static void a_fresh_target_becomes_as_the_source_is(void **state)
{
	assert_set(at(bigserial, 500, true), bigserial, 0, 500);
	assert_set(at(bigserial, 500, false), bigserial, 0, 500);
	assert_not_set(bigserial, bigserial, 0, SEQUENCES_KEEP);
	assert_set(at(bigserial, 1, true), bigserial, 0, 1); /* the same value, but given out */
}

static void a_margin_is_counted_in_increments(void **state)
{
	struct sequences_state by_five = at(bigserial, 100, true);

	by_five.increment = 5;
	assert_set(at(bigserial, 500, true), bigserial, 1000, 1500);
	assert_set(by_five, bigserial, 1000, 5100);
	assert_set(down(-7, true), down(-1, false), 1000, -1007);
}

static void a_target_is_never_set_back(void **state)
{
	assert_not_set(at(bigserial, 500, true), at(bigserial, 501, true), 0, SEQUENCES_KEEP);
	assert_not_set(at(bigserial, 500, true), at(bigserial, 501, false), 0, SEQUENCES_KEEP); /* 501 comes next in both */
	assert_set(at(bigserial, 500, true), at(bigserial, 500, false), 0, 500);
	assert_not_set(at(bigserial, 500, true), at(bigserial, 1500, true), 1000, SEQUENCES_KEEP);
	assert_not_set(down(-7, true), down(-8, true), 0, SEQUENCES_KEEP);
	assert_set(down(-8, true), down(-7, true), 0, -8);
}

static void a_margin_takes_half_of_what_is_left_at_most(void **state)
{
	struct sequences_state s = at(bigserial, 900, true);

	s.max = 1000;
	assert_set(s, bigserial, 1000, 950);
	assert_set(at(s, 999, true), bigserial, 1000, 999);
	assert_set(at(s, 1000, true), bigserial, 1000, 1000); /* used up, there as here */
	s = down(INT64_MIN + 10, true);
	assert_set(s, down(-1, false), 1000, INT64_MIN + 5);
	s = at(bigserial, INT64_MAX - 3, true);
	assert_set(s, bigserial, INT64_MAX, INT64_MAX - 2);
	s = at(bigserial, INT64_MIN, false);
	s.min = INT64_MIN;
	s.increment = INT64_MAX; /* two steps from one end to the other */
	struct sequences_state lowest = at(bigserial, INT64_MIN, false);
	lowest.min = INT64_MIN;
	assert_set(s, lowest, 1000, -1);
}

static void bounds_of_the_target_count(void **state)
{
	struct sequences_state small = bigserial;

	small.max = 32767;
	assert_set(at(bigserial, 32000, true), small, 1000, 32383);
	assert_not_set(at(bigserial, 40000, true), small, 1000, SEQUENCES_UNFIT);
	small.min = small.value = 100;
	assert_not_set(at(bigserial, 40, true), small, 0, SEQUENCES_KEEP); /* begins further up */
	assert_not_set(at(bigserial, 5, true), down(-1, false), 0, SEQUENCES_UNFIT);
}

static void one_that_cycles_is_set_as_it_is(void **state)
{
	struct sequences_state s = at(bigserial, 10, true);

	s.max = 5000;
	s.is_cycle = true;
	assert_set(s, at(s, 4000, true), 1000, 10);
	assert_set(s, at(s, 5, true), 1000, 10);
	assert_not_set(s, s, 1000, SEQUENCES_KEEP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_fresh_target_becomes_as_the_source_is),
		cmocka_unit_test(a_margin_is_counted_in_increments),
		cmocka_unit_test(a_target_is_never_set_back),
		cmocka_unit_test(a_margin_takes_half_of_what_is_left_at_most),
		cmocka_unit_test(bounds_of_the_target_count),
		cmocka_unit_test(one_that_cycles_is_set_as_it_is),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
