// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "shadow/scale.h"

static struct scale two(void)
{
	return (struct scale) { .lanes = 2, .max = 2 };
}

/* What is asked for after n windows of one load. */
static int after(struct scale *s, int n, double load)
{
	int lanes = 0;

	while (n-- > 0)
		lanes = scale_ask(s, load, 0);
	return lanes;
}

static void one_lane_that_could_do_it_alone_is_asked_for_three_times(void **state)
{
	struct scale s = two();

	assert_int_equal(after(&s, 2, 0.8), 2);
	assert_int_equal(after(&s, 1, 0.8), 1);
	assert_int_equal(s.lanes, 2); /* asking changes nothing */
}

static void what_one_lane_could_not_do_keeps_two(void **state)
{
	struct scale s = two();

	assert_int_equal(after(&s, 10, 1.1), 2);
	assert_int_equal(after(&s, 10, 2), 2); /* and there are no more */
}

static void windows_that_disagree_or_are_idle_begin_anew(void **state)
{
	struct scale s = two();

	for (int i = 0; i < 5; i++) {
		assert_int_equal(after(&s, 2, 0.8), 2);
		assert_int_equal(after(&s, 1, i % 2 ? 1.8 : 0.01), 2);
	}
	assert_int_equal(after(&s, 10, 0.01), 2);
}

static void lanes_that_never_rest_become_more(void **state)
{
	struct scale s = { .lanes = 1, .max = 3 };

	assert_int_equal(after(&s, 2, 0.9), 1);
	assert_int_equal(after(&s, 2, 1), 2);
	scale_set(&s, 2, 0);
	assert_int_equal(after(&s, 1, 2), 2);
	assert_int_equal(after(&s, 1, 2), 3);
	scale_set(&s, 3, 0);
	assert_int_equal(after(&s, 9, 3), 3);
}

static void what_had_to_grow_does_not_shrink_for_a_while(void **state)
{
	struct scale s = { .lanes = 1, .max = 2 };

	scale_set(&s, 2, 1000);
	assert_int_equal(after(&s, 9, 0.5), 2);
	assert_int_equal(scale_ask(&s, 0.5, 1000 + SCALE_HOLD_US), 2);
	assert_int_equal(scale_ask(&s, 0.5, 1000 + SCALE_HOLD_US), 2);
	assert_int_equal(scale_ask(&s, 0.5, 1000 + SCALE_HOLD_US), 1);
	scale_set(&s, 1, 1000 + SCALE_HOLD_US);
	assert_int_equal(scale_ask(&s, 1, 0), 1);
	assert_int_equal(scale_ask(&s, 1, 0), 2); /* up again at once */
}

static void a_step_that_could_not_be_made_is_not_tried_at_once(void **state)
{
	struct scale s = { .lanes = 2, .max = 3 };

	scale_hold(&s, 1000);
	assert_int_equal(after(&s, 9, 0.5), 2);
	assert_int_equal(after(&s, 9, 2), 2);
	assert_int_equal(scale_ask(&s, 2, 1000 + SCALE_HOLD_US), 2);
	assert_int_equal(scale_ask(&s, 2, 1000 + SCALE_HOLD_US), 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_lane_that_could_do_it_alone_is_asked_for_three_times),
		cmocka_unit_test(what_one_lane_could_not_do_keeps_two),
		cmocka_unit_test(windows_that_disagree_or_are_idle_begin_anew),
		cmocka_unit_test(lanes_that_never_rest_become_more),
		cmocka_unit_test(what_had_to_grow_does_not_shrink_for_a_while),
		cmocka_unit_test(a_step_that_could_not_be_made_is_not_tried_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
