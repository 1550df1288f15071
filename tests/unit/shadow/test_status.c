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

static void lag_is_zero_when_there_is_nothing_left_to_read(void **state)
{
	struct shadow_status_part p = { .is_ours = true, .state = PART_OPEN, .is_dry = true,
					.barrier_us = clock_wall_us() - 10 * 1000 * 1000 };

	shadow_status_set(*state, CONSUME_CHANGES, 0, &p);
	assert_true(shadow_status_sum(*state).lag_seconds == 0);
	p.is_dry = false;
	shadow_status_set(*state, CONSUME_CHANGES, 0, &p);
	assert_true(shadow_status_sum(*state).lag_seconds > 9);
}

static void the_barrier_is_the_least_of_ours(void **state)
{
	struct shadow_status_part p = { .is_ours = true, .barrier = { 200 } };

	shadow_status_set(*state, CONSUME_CHANGES, 0, &p);
	p.barrier.v = 100;
	shadow_status_set(*state, CONSUME_CHANGES, 2, &p);
	assert_int_equal(shadow_status_sum(*state).barrier.v, 100);
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
		TEST(lag_is_zero_when_there_is_nothing_left_to_read),
		TEST(the_barrier_is_the_least_of_ours),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
