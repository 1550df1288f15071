// SPDX-License-Identifier: Apache-2.0
/* When a role may end because nothing can move, and what its lag is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "core/clock.h"
#include "shadow/status.h"

enum { PARTITIONS = 3 };
static const int64_t later = 1000 * 1000 * 1000;

static int setup(void **state)
{
	*state = shadow_status_new(PARTITIONS);
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	shadow_status_free(*state);
	return 0;
}

static void set(struct shadow_status *s, enum consume_topic topic, int partition, enum part_state state)
{
	struct shadow_status_part p = { .is_ours = true, .state = state, .is_dry = true };

	snprintf(p.why, sizeof(p.why), "why");
	shadow_status_set(s, topic, partition, &p);
}

static bool is_stuck(struct shadow_status *s)
{
	struct shadow_summary sum = shadow_status_sum(s);

	return shadow_summary_is_stuck(&sum, later);
}

static void one_partition_that_moves_keeps_the_role_going(void **state)
{
	set(*state, CONSUME_CHANGES, 0, PART_STOPPED);
	set(*state, CONSUME_CHANGES, 1, PART_OPEN);
	assert_false(is_stuck(*state));
}

static void all_stopped_is_stuck(void **state)
{
	set(*state, CONSUME_CHANGES, 0, PART_STOPPED);
	set(*state, CONSUME_CHANGES, 1, PART_STOPPED);
	assert_true(is_stuck(*state));
	assert_string_equal(shadow_status_sum(*state).why, "why");
}

static void waiting_beside_a_stopped_one_is_stuck(void **state)
{
	set(*state, CONSUME_CHANGES, 0, PART_STOPPED);
	set(*state, CONSUME_CHANGES, 1, PART_WAITS_EXCLUSIVE);
	set(*state, CONSUME_CHANGES, 2, PART_WAITS_COPY);
	assert_true(is_stuck(*state));
}

static void a_stopped_copy_makes_its_waiters_stuck(void **state)
{
	set(*state, CONSUME_CHANGES, 0, PART_WAITS_COPY);
	assert_false(is_stuck(*state));
	set(*state, CONSUME_SNAPSHOT, 0, PART_STOPPED);
	assert_true(is_stuck(*state));
}

static void waiting_for_a_persons_ddl_is_not_stuck(void **state)
{
	set(*state, CONSUME_CHANGES, 0, PART_WAITS_TARGET);
	set(*state, CONSUME_CHANGES, 1, PART_STOPPED);
	assert_false(is_stuck(*state));
}

static void a_moment_of_waiting_is_not_stuck(void **state)
{
	struct shadow_summary sum;

	set(*state, CONSUME_CHANGES, 0, PART_STOPPED);
	sum = shadow_status_sum(*state);
	assert_false(shadow_summary_is_stuck(&sum, 1000));
}

static const int64_t second = 1000 * 1000;

static double lag(struct shadow_status *s, const struct shadow_status_part *p)
{
	shadow_status_set(s, CONSUME_CHANGES, 0, p);
	return shadow_status_sum(s).lag_seconds;
}

static void lag_is_the_age_of_the_barrier_until_all_was_applied_once(void **state)
{
	struct shadow_status_part p = { .is_ours = true, .state = PART_OPEN, .at_us = clock_us(),
					.barrier_us = clock_wall_us() - 10 * second };

	assert_true(lag(*state, &p) > 9);
	p.is_dry = true;
	assert_true(lag(*state, &p) == 0);
	p.read_offset = 1;
	assert_true(lag(*state, &p) < 1);
}

static void lag_begins_when_all_was_applied_last(void **state)
{
	struct shadow_status_part p = { .is_ours = true, .state = PART_OPEN, .is_dry = true, .at_us = clock_us() - 4 * second,
					.barrier_us = clock_wall_us() - 100 * second };

	shadow_status_set(*state, CONSUME_CHANGES, 0, &p);
	p.at_us = clock_us();
	p.state = PART_UNTAKEN;
	assert_true(lag(*state, &p) > 3 && lag(*state, &p) < 50);
	p.barrier_us = clock_wall_us() - 2 * second;
	assert_true(lag(*state, &p) > 1 && lag(*state, &p) < 3);
}

static void a_lane_that_says_nothing_is_behind(void **state)
{
	struct shadow_status_part p = { .is_ours = true, .state = PART_OPEN, .is_dry = true, .at_us = clock_us() - 4 * second,
					.barrier_us = clock_wall_us() - 100 * second };

	assert_true(lag(*state, &p) > 3);
}

static void the_barrier_is_the_least_of_ours(void **state)
{
	struct shadow_status_part p = { .is_ours = true, .barrier = { 200 } };

	shadow_status_set(*state, CONSUME_CHANGES, 0, &p);
	p.barrier.v = 100;
	shadow_status_set(*state, CONSUME_CHANGES, 2, &p);
	assert_int_equal(shadow_status_sum(*state).barrier.v, 100);
}

/* What a lane says of partition 0 of changes, at that time. */
static void say(struct shadow_status *s, int at, struct shadow_status_part p)
{
	p.is_ours = true;
	p.at_us = at;
	shadow_status_set(s, CONSUME_CHANGES, 0, &p);
}

static void assert_well_at(struct shadow_status *s, int at)
{
	assert_int_equal(shadow_status_get(s, CONSUME_CHANGES, 0).well_us, at);
}

static void what_moves_or_has_nothing_to_do_is_well(void **state)
{
	say(*state, 1, (struct shadow_status_part) { .state = PART_OPEN, .offset = 10, .read_offset = 10 });
	assert_well_at(*state, 1);
	say(*state, 2, (struct shadow_status_part) { .state = PART_OPEN, .offset = 11, .read_offset = 11 });
	assert_well_at(*state, 2);
	say(*state, 3, (struct shadow_status_part) { .state = PART_OPEN, .is_dry = true, .offset = 11, .read_offset = 11 });
	assert_well_at(*state, 3);
	say(*state, 4, (struct shadow_status_part) { .state = PART_OPEN, .offset = 11, .read_offset = 11 });
	assert_well_at(*state, 3);
}

static void reading_a_large_transaction_is_moving_but_not_reading_it_again(void **state)
{
	say(*state, 1, (struct shadow_status_part) { .state = PART_OPEN, .offset = 10, .read_offset = 10 });
	say(*state, 2, (struct shadow_status_part) { .state = PART_OPEN, .offset = 10, .read_offset = 500 });
	assert_well_at(*state, 2);
	say(*state, 3, (struct shadow_status_part) { .state = PART_SEEKING, .offset = 10, .read_offset = 10 });
	say(*state, 4, (struct shadow_status_part) { .state = PART_OPEN, .offset = 10, .read_offset = 500 });
	assert_well_at(*state, 2);
	say(*state, 5, (struct shadow_status_part) { .state = PART_OPEN, .offset = 10, .read_offset = 501 });
	assert_well_at(*state, 5);
	say(*state, 6, (struct shadow_status_part) { .state = PART_OPEN, .offset = 11, .read_offset = 11 });
	assert_well_at(*state, 6);
}

static void who_waits_for_others_is_well_unless_his_lane_fails(void **state)
{
	say(*state, 1, (struct shadow_status_part) { .state = PART_WAITS_COPY, .offset = 10 });
	say(*state, 2, (struct shadow_status_part) { .state = PART_WAITS_COPY, .offset = 10 });
	assert_well_at(*state, 2);
	say(*state, 3, (struct shadow_status_part) { .state = PART_WAITS_COPY, .offset = 10, .is_failing = true });
	say(*state, 4, (struct shadow_status_part) { .state = PART_OPEN, .is_dry = true, .offset = 10, .is_failing = true });
	say(*state, 5, (struct shadow_status_part) { .state = PART_UNTAKEN, .offset = 10 });
	say(*state, 6, (struct shadow_status_part) { .state = PART_WAITS_SCHEMA, .offset = 10 });
	assert_well_at(*state, 2);
}

static void the_worst_needs_a_person_or_was_not_well_for_longest(void **state)
{
	struct shadow_worst worst;
	bool needs_person;

	assert_false(shadow_status_worst(*state, &worst, &needs_person));
	say(*state, 7, (struct shadow_status_part) { .state = PART_OPEN });
	shadow_status_set(*state, CONSUME_SNAPSHOT, 2,
			  &(struct shadow_status_part) { .is_ours = true, .state = PART_OPEN, .at_us = 5 });
	assert_true(shadow_status_worst(*state, &worst, &needs_person));
	assert_false(needs_person);
	assert_int_equal(worst.topic, CONSUME_SNAPSHOT);
	assert_int_equal(worst.partition, 2);
	shadow_status_set(*state, CONSUME_CHANGES, 1,
			  &(struct shadow_status_part) { .is_ours = true, .state = PART_WAITS_TARGET, .at_us = 9 });
	assert_true(shadow_status_worst(*state, &worst, &needs_person));
	assert_true(needs_person);
	assert_int_equal(worst.topic, CONSUME_CHANGES);
	assert_int_equal(worst.partition, 1);
}

static void a_problem_is_as_old_as_its_beginning(void **state)
{
	char why[512];
	int64_t since_us;

	assert_int_equal(shadow_status_get_problem(*state, why, sizeof(why)), 0);
	shadow_status_problem(*state, "first");
	since_us = shadow_status_get_problem(*state, why, sizeof(why));
	assert_true(since_us > 0);
	shadow_status_problem(*state, "second");
	assert_int_equal(shadow_status_get_problem(*state, why, sizeof(why)), since_us);
	assert_string_equal(why, "second");
	shadow_status_problem(*state, NULL);
	assert_int_equal(shadow_status_get_problem(*state, why, sizeof(why)), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(one_partition_that_moves_keeps_the_role_going),
		TEST(all_stopped_is_stuck),
		TEST(waiting_beside_a_stopped_one_is_stuck),
		TEST(a_stopped_copy_makes_its_waiters_stuck),
		TEST(waiting_for_a_persons_ddl_is_not_stuck),
		TEST(a_moment_of_waiting_is_not_stuck),
		TEST(lag_is_the_age_of_the_barrier_until_all_was_applied_once),
		TEST(lag_begins_when_all_was_applied_last),
		TEST(a_lane_that_says_nothing_is_behind),
		TEST(the_barrier_is_the_least_of_ours),
		TEST(what_moves_or_has_nothing_to_do_is_well),
		TEST(reading_a_large_transaction_is_moving_but_not_reading_it_again),
		TEST(who_waits_for_others_is_well_unless_his_lane_fails),
		TEST(the_worst_needs_a_person_or_was_not_well_for_longest),
		TEST(a_problem_is_as_old_as_its_beginning),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
