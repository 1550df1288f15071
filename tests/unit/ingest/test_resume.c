// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ingest/resume.h"

enum { OURS = 9, CONFIRMED = 500, ORIGIN = 100 };

static struct resume r;
static struct fault f;

/* A window in the middle of the log; a window at its beginning. */
static void window(void)
{
	fault_reset(&f);
	resume_init(&r, (struct boundary) { CONFIRMED }, OURS, NULL, false);
}

static void log_start(uint64_t confirmed)
{
	struct boundary origin = { ORIGIN };

	fault_reset(&f);
	resume_init(&r, (struct boundary) { confirmed }, OURS, &origin, true);
}

static enum resume_step feed(enum event_kind kind, char op, uint64_t generation, uint64_t ordinal,
			     uint64_t commit, uint64_t boundary)
{
	struct event_head h = { .kind = kind,
				.op = op,
				.generation = generation,
				.ordinal = ordinal,
				.position = { { commit }, 1 },
				.boundary = { boundary } };

	return resume_feed(&r, &h, &f);
}
static enum resume_step change(uint64_t generation, uint64_t ordinal, uint64_t commit)
{
	return feed(EVENT_CHANGE, 'c', generation, ordinal, commit, 0);
}
static enum resume_step barrier(uint64_t generation, uint64_t ordinal, uint64_t commit, uint64_t x)
{
	return feed(EVENT_BARRIER, 'b', generation, ordinal, commit, x);
}
static enum resume_step fence(uint64_t generation)
{
	return feed(EVENT_MARKER, 'f', generation, 0, 0, 0);
}
static enum resume_step base(uint64_t generation, uint64_t ordinal, uint64_t commit)
{
	return feed(EVENT_MARKER, 's', generation, ordinal, commit, 0);
}

static void assert_stands_at(uint64_t ordinal, uint64_t commit, uint64_t x)
{
	assert_int_equal(r.sequence.ordinal, ordinal);
	assert_int_equal(r.sequence.position.commit.v, commit);
	assert_int_equal(r.sequence.barrier.v, x);
}

static void the_run_goes_on_behind_the_confirmed_barrier(void **state)
{
	(void)state;
	window();
	change(8, 39, 390);
	assert_int_equal(barrier(8, 39, 390, 400), RESUME_COUNTS);
	change(8, 40, 450);
	assert_int_equal(barrier(8, 40, 450, 500), RESUME_COUNTS);
	change(8, 41, 510);
	assert_int_equal(barrier(8, 41, 510, 520), RESUME_GO_ON);
	change(8, 42, 530);
	assert_int_equal(fence(OURS), RESUME_END);
	assert_true(resume_is_sure(&r));
	assert_true(resume_check(&r, 0, &f));
	assert_stands_at(42, 530, 520);
	assert_int_equal(r.counted.v, 500);
}

static void a_window_without_a_start_is_too_small(void **state)
{
	(void)state;
	window();
	change(8, 41, 510);
	barrier(8, 41, 510, 520);
	fence(OURS);
	assert_false(resume_is_sure(&r));
}

static void a_cut_tail_is_named(void **state)
{
	(void)state;
	window();
	barrier(8, 39, 390, 400);
	change(8, 40, 450);
	fence(OURS);
	assert_true(resume_is_sure(&r));
	assert_false(resume_check(&r, 7, &f));
	assert_int_equal(f.kind, FAULT_LOST);
	assert_non_null(strstr(f.text, "partition 7"));
	assert_non_null(strstr(f.text, "Kafka lost 0/190..0/1F4"));
}

static void a_tail_cut_and_written_on_is_a_gap(void **state)
{
	(void)state;
	window();
	barrier(8, 39, 390, 400);
	change(8, 40, 420);
	change(8, 43, 510);
	barrier(8, 43, 510, 520);
	fence(OURS);
	assert_int_equal(r.gaps, 1);
	assert_false(resume_check(&r, 0, &f));
	assert_int_equal(f.kind, FAULT_LOST);
}

static void a_base_heals_a_gap(void **state)
{
	(void)state;
	window();
	barrier(7, 39, 390, 500);
	change(7, 40, 510);
	change(7, 42, 512);
	fence(8);
	base(8, 40, 510);
	change(8, 41, 511);
	change(8, 42, 512);
	barrier(8, 42, 512, 520);
	fence(OURS);
	assert_true(resume_is_sure(&r));
	assert_true(resume_check(&r, 0, &f));
	assert_stands_at(42, 512, 520);
}

static void what_a_zombie_wrote_behind_a_fence_does_not_count(void **state)
{
	(void)state;
	window();
	barrier(7, 39, 390, 500);
	fence(8);
	change(7, 40, 510);
	barrier(7, 40, 510, 520);
	fence(OURS);
	assert_true(resume_is_sure(&r));
	assert_stands_at(39, 390, 500);
}

static void a_zombies_barrier_is_no_start(void **state)
{
	(void)state;
	window();
	fence(8);
	assert_int_equal(barrier(7, 39, 390, 400), RESUME_GO_ON);
	change(8, 30, 310);
	assert_false(r.has_start);
	barrier(8, 30, 310, 400);
	assert_true(r.has_start);
}

/* The fence of 8 may lie before the window, and the barrier behind it: only more window can tell.
 */
static void a_generation_whose_fence_is_not_seen_asks_for_more(void **state)
{
	(void)state;
	window();
	barrier(7, 39, 390, 500);
	fence(OURS);
	assert_false(resume_is_sure(&r));

	window();
	barrier(7, 39, 390, 500);
	fence(8);
	fence(OURS);
	assert_true(resume_is_sure(&r));

	window();
	barrier(5, 39, 390, 500);
	fence(6);
	fence(8);
	fence(OURS);
	assert_false(resume_is_sure(&r));
}

static void at_the_logs_beginning_the_slot_itself_is_the_start(void **state)
{
	(void)state;
	log_start(ORIGIN);
	fence(8);
	fence(OURS);
	assert_true(resume_is_sure(&r));
	assert_true(resume_check(&r, 0, &f));
	assert_int_equal(r.sequence.ordinal, 0);
	assert_int_equal(r.sequence.barrier.v, ORIGIN);
	assert_int_equal(
	    position_cmp(r.sequence.position, position_at((struct boundary) { ORIGIN })), 0);

	log_start(300);
	fence(8);
	base(8, 0, ORIGIN);
	barrier(8, 0, ORIGIN, 100);
	change(8, 1, 150);
	barrier(8, 1, 150, 300);
	fence(OURS);
	assert_true(resume_check(&r, 0, &f));
	assert_stands_at(1, 150, 300);
}

static void a_new_empty_topic_is_a_loss_once_something_was_confirmed(void **state)
{
	(void)state;
	log_start(CONFIRMED);
	fence(OURS);
	assert_true(resume_is_sure(&r));
	assert_false(resume_check(&r, 3, &f));
	assert_int_equal(f.kind, FAULT_LOST);
}

static void records_that_disagree_are_a_fault(void **state)
{
	(void)state;
	window();
	barrier(8, 39, 390, 400);
	assert_int_equal(change(8, 39, 450), RESUME_FAULT);
	assert_int_equal(f.kind, FAULT_STOP);
}

static void counts_are_those_of_the_barrier_at_the_confirmed_boundary(void **state)
{
	(void)state;
	window();
	assert_int_equal(barrier(8, 39, 390, 400), RESUME_COUNTS);
	assert_int_equal(barrier(8, 39, 390, 500), RESUME_COUNTS);
	assert_int_equal(barrier(8, 39, 390, 501), RESUME_GO_ON);
	assert_int_equal(r.counted.v, 500);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_run_goes_on_behind_the_confirmed_barrier),
		cmocka_unit_test(a_window_without_a_start_is_too_small),
		cmocka_unit_test(a_cut_tail_is_named),
		cmocka_unit_test(a_tail_cut_and_written_on_is_a_gap),
		cmocka_unit_test(a_base_heals_a_gap),
		cmocka_unit_test(what_a_zombie_wrote_behind_a_fence_does_not_count),
		cmocka_unit_test(a_zombies_barrier_is_no_start),
		cmocka_unit_test(a_generation_whose_fence_is_not_seen_asks_for_more),
		cmocka_unit_test(at_the_logs_beginning_the_slot_itself_is_the_start),
		cmocka_unit_test(a_new_empty_topic_is_a_loss_once_something_was_confirmed),
		cmocka_unit_test(records_that_disagree_are_a_fault),
		cmocka_unit_test(counts_are_those_of_the_barrier_at_the_confirmed_boundary),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
