// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/sequence.h"

/* Position n of a test is commit LSN 100 n, seq 1; boundary n lies just behind it. */
static struct position at(uint64_t n)
{
	return (struct position) { { 100 * n }, 1 };
}

static struct event_head change(uint64_t generation, uint64_t ordinal, uint64_t n)
{
	return (struct event_head) { .kind = EVENT_CHANGE,
				     .op = 'u',
				     .generation = generation,
				     .ordinal = ordinal,
				     .position = at(n) };
}

static struct event_head exclusive(uint64_t generation, uint64_t ordinal, uint64_t n)
{
	struct event_head h = change(generation, ordinal, n);

	h.kind = EVENT_EXCLUSIVE;
	h.op = 't';
	return h;
}

static struct event_head barrier(uint64_t generation, uint64_t ordinal, uint64_t n, uint64_t x)
{
	struct event_head h = change(generation, ordinal, n);

	h.kind = EVENT_BARRIER;
	h.op = 'b';
	h.boundary.v = 100 * x + 50;
	return h;
}

static struct event_head fence(uint64_t generation)
{
	return (struct event_head) { .kind = EVENT_MARKER, .op = 'f', .generation = generation };
}

static struct event_head base(uint64_t generation, uint64_t ordinal, uint64_t n)
{
	struct event_head h = change(generation, ordinal, n);

	h.kind = EVENT_MARKER;
	h.op = 's';
	return h;
}

/* Generation 1 with ordinals 1..n at positions 1..n. */
static struct sequence after(uint64_t n)
{
	return (struct sequence) { .generation = 1, .ordinal = n, .position = at(n) };
}

static void expect(struct sequence *s, struct event_head h, enum sequence_verdict wanted)
{
	struct fault f = { 0 };

	assert_int_equal(sequence_next(s, &h, &f), wanted);
}

static void expect_fault(struct sequence *s, struct event_head h, enum sequence_verdict wanted,
			 enum fault_kind kind, const char *words)
{
	struct fault f = { 0 };

	assert_int_equal(sequence_next(s, &h, &f), wanted);
	assert_int_equal(f.kind, kind);
	if (!strstr(f.text, words))
		fail_msg("\"%s\" not in \"%s\"", words, f.text);
}

static void a_new_partition_begins_with_fence_base_and_barrier(void **state)
{
	struct sequence s = { 0 };

	expect(&s, fence(1), SEQUENCE_MARK);
	expect(&s, base(1, 0, 7), SEQUENCE_MARK);
	expect(&s, barrier(1, 0, 7, 7), SEQUENCE_BARRIER);
	expect(&s, exclusive(1, 1, 7), SEQUENCE_NEXT);
	expect(&s, change(1, 2, 8), SEQUENCE_NEXT);
	assert_int_equal(s.ordinal, 2);
	assert_int_equal(s.generation, 1);
	assert_int_equal(s.barrier.v, 750);
}

static void the_next_ordinal_at_a_later_position_is_next(void **state)
{
	struct sequence s = after(4);

	expect(&s, change(1, 5, 9), SEQUENCE_NEXT);
	assert_int_equal(s.ordinal, 5);
	assert_int_equal(position_cmp(s.position, at(9)), 0);
}

static void exclusive_events_and_changes_share_the_ordinals(void **state)
{
	struct sequence s = after(4);

	expect(&s, exclusive(1, 5, 5), SEQUENCE_NEXT);
	expect(&s, change(1, 6, 6), SEQUENCE_NEXT);
	expect(&s, exclusive(1, 6, 6), SEQUENCE_DUPLICATE);
}

static void two_changes_of_one_transaction_differ_in_seq(void **state)
{
	struct sequence s = after(4);
	struct event_head h = change(1, 5, 4);

	h.position.seq = 2;
	expect(&s, h, SEQUENCE_NEXT);
}

static void the_next_ordinal_at_the_same_position_disagrees(void **state)
{
	struct sequence s = after(4);

	expect_fault(&s, change(1, 5, 4), SEQUENCE_DISAGREE, FAULT_STOP, "ordinal 5");
	assert_int_equal(s.ordinal, 4);
}

static void the_next_ordinal_at_an_older_position_disagrees(void **state)
{
	struct sequence s = after(4);

	expect_fault(&s, change(1, 5, 3), SEQUENCE_DISAGREE, FAULT_STOP, "0/12C 1");
}

static void what_was_decoded_again_is_a_duplicate(void **state)
{
	struct sequence s = after(4);

	expect(&s, fence(2), SEQUENCE_MARK);
	expect(&s, base(2, 4, 4), SEQUENCE_MARK);
	for (uint64_t i = 1; i <= 4; i++)
		expect(&s, change(2, i, i), SEQUENCE_DUPLICATE);
	expect(&s, change(2, 5, 5), SEQUENCE_NEXT);
}

static void a_known_ordinal_at_a_newer_position_disagrees(void **state)
{
	struct sequence s = after(4);

	expect_fault(&s, change(1, 4, 5), SEQUENCE_DISAGREE, FAULT_STOP, "ordinal 4");
	expect_fault(&s, change(1, 2, 5), SEQUENCE_DISAGREE, FAULT_STOP, "ordinal 2");
	assert_int_equal(s.ordinal, 4);
}

static void an_old_ordinal_at_our_position_is_a_duplicate(void **state)
{
	struct sequence s = after(4);

	expect(&s, change(1, 4, 4), SEQUENCE_DUPLICATE);
}

static void a_zombie_that_writes_after_the_fence_is_stale(void **state)
{
	struct sequence s = after(4), before;

	expect(&s, fence(2), SEQUENCE_MARK);
	before = s;
	expect(&s, change(1, 5, 5), SEQUENCE_STALE);
	expect(&s, exclusive(1, 5, 5), SEQUENCE_STALE);
	expect(&s, barrier(1, 4, 4, 4), SEQUENCE_STALE);
	expect(&s, base(1, 4, 4), SEQUENCE_STALE);
	expect(&s, fence(1), SEQUENCE_STALE);
	assert_memory_equal(&s, &before, sizeof(s));
}

static void what_a_zombie_wrote_before_the_fence_counts(void **state)
{
	struct sequence s = after(4);

	expect(&s, change(1, 5, 5), SEQUENCE_NEXT);
	expect(&s, fence(2), SEQUENCE_MARK);
	expect(&s, base(2, 5, 5), SEQUENCE_MARK);
	expect(&s, change(2, 6, 6), SEQUENCE_NEXT);
}

static void a_zombie_between_fence_and_base_is_stale(void **state)
{
	struct sequence s = after(4);

	expect(&s, fence(2), SEQUENCE_MARK);
	expect(&s, change(1, 5, 5), SEQUENCE_STALE);
	expect(&s, base(2, 4, 4), SEQUENCE_MARK);
	expect(&s, change(1, 6, 6), SEQUENCE_STALE);
	expect(&s, change(2, 5, 5), SEQUENCE_NEXT);
}

static void of_two_fences_the_higher_generation_stays(void **state)
{
	struct sequence s = after(4);

	expect(&s, fence(3), SEQUENCE_MARK);
	expect(&s, fence(2), SEQUENCE_STALE);
	expect(&s, base(2, 4, 4), SEQUENCE_STALE);
	expect(&s, base(3, 4, 4), SEQUENCE_MARK);
	assert_int_equal(s.generation, 3);
}

static void a_fence_twice_is_one_fence(void **state)
{
	struct sequence s = after(4);

	expect(&s, fence(2), SEQUENCE_MARK);
	expect(&s, fence(2), SEQUENCE_MARK);
	expect(&s, base(2, 4, 4), SEQUENCE_MARK);
	expect(&s, change(2, 5, 5), SEQUENCE_NEXT);
}

static void behind_a_gap_nothing_counts(void **state)
{
	struct sequence s = after(4);

	expect_fault(&s, change(1, 7, 7), SEQUENCE_GAP, FAULT_LOST, "ordinals 5..6 are missing");
	assert_true(s.has_gap);
	expect(&s, change(1, 8, 8), SEQUENCE_GAP);
	expect(&s, change(1, 5, 5), SEQUENCE_GAP);
	expect(&s, exclusive(1, 9, 9), SEQUENCE_GAP);
	expect(&s, barrier(1, 9, 9, 9), SEQUENCE_GAP);
	expect(&s, barrier(1, 4, 4, 4), SEQUENCE_GAP);
	assert_int_equal(s.ordinal, 4);
	assert_int_equal(s.barrier.v, 0);
}

static void only_the_first_record_of_a_gap_is_reported(void **state)
{
	struct sequence s = after(4);
	struct event_head h = change(1, 7, 7);
	struct fault f = { 0 };

	expect_fault(&s, change(1, 6, 6), SEQUENCE_GAP, FAULT_LOST, "ordinals 5..5");
	assert_int_equal(sequence_next(&s, &h, &f), SEQUENCE_GAP);
	assert_int_equal(f.kind, FAULT_NONE);
}

static void a_base_with_our_last_ordinal_heals_a_gap(void **state)
{
	struct sequence s = after(4);

	expect(&s, change(1, 7, 7), SEQUENCE_GAP);
	expect(&s, fence(2), SEQUENCE_MARK);
	assert_true(s.has_gap);
	expect(&s, base(2, 4, 4), SEQUENCE_MARK);
	assert_false(s.has_gap);
	expect(&s, change(2, 5, 5), SEQUENCE_NEXT);
}

static void a_base_below_our_last_ordinal_heals_and_repeats(void **state)
{
	struct sequence s = after(4);

	expect(&s, change(1, 7, 7), SEQUENCE_GAP);
	expect(&s, fence(2), SEQUENCE_MARK);
	expect(&s, base(2, 2, 2), SEQUENCE_MARK);
	expect(&s, change(2, 3, 3), SEQUENCE_DUPLICATE);
	expect(&s, change(2, 4, 4), SEQUENCE_DUPLICATE);
	expect(&s, change(2, 5, 5), SEQUENCE_NEXT);
}

static void a_fence_alone_does_not_heal(void **state)
{
	struct sequence s = after(4);

	expect(&s, change(1, 7, 7), SEQUENCE_GAP);
	expect(&s, fence(2), SEQUENCE_MARK);
	expect(&s, change(2, 5, 5), SEQUENCE_GAP);
}

static void the_base_of_a_zombie_does_not_heal(void **state)
{
	struct sequence s = after(4);

	expect(&s, change(1, 7, 7), SEQUENCE_GAP);
	expect(&s, fence(3), SEQUENCE_MARK);
	expect(&s, base(2, 4, 4), SEQUENCE_STALE);
	assert_true(s.has_gap);
}

static void a_base_above_our_last_is_lost_data(void **state)
{
	struct sequence s = after(4);

	expect(&s, fence(2), SEQUENCE_MARK);
	expect_fault(&s, base(2, 9, 9), SEQUENCE_LOST, FAULT_LOST, "ordinals 5..9 are missing");
	assert_int_equal(s.ordinal, 4);
}

static void a_base_above_our_last_is_lost_data_behind_a_gap_too(void **state)
{
	struct sequence s = after(4);

	expect(&s, change(1, 7, 7), SEQUENCE_GAP);
	expect(&s, fence(2), SEQUENCE_MARK);
	expect_fault(&s, base(2, 7, 7), SEQUENCE_LOST, FAULT_LOST, "ordinals 5..7 are missing");
	assert_true(s.has_gap);
}

static void a_base_that_places_our_last_elsewhere_disagrees(void **state)
{
	struct sequence s = after(4);

	expect(&s, fence(2), SEQUENCE_MARK);
	expect_fault(&s, base(2, 4, 5), SEQUENCE_DISAGREE, FAULT_STOP, "ordinal 4");
	expect_fault(&s, base(2, 4, 3), SEQUENCE_DISAGREE, FAULT_STOP, "ordinal 4");
	expect_fault(&s, base(2, 3, 5), SEQUENCE_DISAGREE, FAULT_STOP, "ordinal 3");
}

static void a_barrier_with_our_last_ordinal_counts(void **state)
{
	struct sequence s = after(4);

	expect(&s, barrier(1, 4, 4, 6), SEQUENCE_BARRIER);
	assert_int_equal(s.barrier.v, 650);
	expect(&s, barrier(1, 4, 4, 6), SEQUENCE_BARRIER);
	expect(&s, barrier(1, 4, 4, 8), SEQUENCE_BARRIER);
	assert_int_equal(s.barrier.v, 850);
	assert_int_equal(s.ordinal, 4);
}

static void a_barrier_never_moves_back(void **state)
{
	struct sequence s = after(4);

	expect(&s, barrier(1, 4, 4, 8), SEQUENCE_BARRIER);
	expect(&s, fence(2), SEQUENCE_MARK);
	expect(&s, base(2, 4, 4), SEQUENCE_MARK);
	expect(&s, barrier(2, 4, 4, 6), SEQUENCE_DUPLICATE);
	assert_int_equal(s.barrier.v, 850);
}

static void a_barrier_that_has_seen_more_than_we_opens_a_gap(void **state)
{
	struct sequence s = after(4);

	expect_fault(&s, barrier(1, 6, 6, 6), SEQUENCE_GAP, FAULT_LOST,
		     "ordinals 5..6 are missing");
	assert_int_equal(s.barrier.v, 0);
}

static void a_barrier_that_has_seen_less_than_we_does_not_count(void **state)
{
	struct sequence s = after(4);

	expect(&s, barrier(1, 3, 3, 9), SEQUENCE_DUPLICATE);
	assert_int_equal(s.barrier.v, 0);
	expect_fault(&s, barrier(1, 3, 5, 9), SEQUENCE_DISAGREE, FAULT_STOP, "ordinal 3");
}

static void a_barrier_that_places_our_last_elsewhere_disagrees(void **state)
{
	struct sequence s = after(4);

	expect_fault(&s, barrier(1, 4, 5, 9), SEQUENCE_DISAGREE, FAULT_STOP, "ordinal 4");
	assert_int_equal(s.barrier.v, 0);
}

static void a_generation_without_its_fence_is_a_gap(void **state)
{
	struct sequence s = after(4);

	expect_fault(&s, change(2, 5, 5), SEQUENCE_GAP, FAULT_LOST, "without its fence");
	assert_int_equal(s.ordinal, 4);
	assert_int_equal(s.generation, 1);
	s = after(4);
	expect_fault(&s, barrier(2, 4, 4, 4), SEQUENCE_GAP, FAULT_LOST, "without its fence");
	s = (struct sequence) { 0 };
	expect_fault(&s, change(1, 1, 1), SEQUENCE_GAP, FAULT_LOST, "without its fence");
}

static void a_base_stands_for_its_lost_fence(void **state)
{
	struct sequence s = after(4);

	expect(&s, change(2, 5, 5), SEQUENCE_GAP);
	expect(&s, base(2, 4, 4), SEQUENCE_MARK);
	expect(&s, change(1, 5, 5), SEQUENCE_STALE);
	expect(&s, change(2, 5, 5), SEQUENCE_NEXT);
}

static void a_cut_tail_that_we_had_applied_comes_again(void **state)
{
	struct sequence s = after(6);

	/* Kafka lost ordinals 5 and 6 after we had applied them; ingest found 4 as the last. */
	expect(&s, fence(2), SEQUENCE_MARK);
	expect(&s, base(2, 4, 4), SEQUENCE_MARK);
	expect(&s, barrier(2, 4, 4, 4), SEQUENCE_DUPLICATE);
	expect(&s, change(2, 5, 5), SEQUENCE_DUPLICATE);
	expect(&s, change(2, 6, 6), SEQUENCE_DUPLICATE);
	expect(&s, barrier(2, 6, 6, 6), SEQUENCE_BARRIER);
	expect(&s, change(2, 7, 7), SEQUENCE_NEXT);
}

static void a_cut_tail_that_was_decoded_differently_disagrees(void **state)
{
	struct sequence s = after(6);

	expect(&s, fence(2), SEQUENCE_MARK);
	expect(&s, base(2, 4, 4), SEQUENCE_MARK);
	expect_fault(&s, change(2, 5, 9), SEQUENCE_DISAGREE, FAULT_STOP, "disagree");
}

static void a_read_that_starts_too_late_is_noticed(void **state)
{
	struct sequence s = after(4);

	/* The consumer's offset was lost: it reads from behind ordinals 5 and 6. */
	expect(&s, change(1, 7, 7), SEQUENCE_GAP);
	/* It is put back to where ordinal 5 is: the caller starts from its row again. */
	s = after(4);
	expect(&s, change(1, 5, 5), SEQUENCE_NEXT);
}

static void the_end_of_a_copy_is_only_marked(void **state)
{
	struct sequence s = after(4), before = s;
	struct event_head h = { .kind = EVENT_MARKER, .op = 'e', .generation = 1 };

	expect(&s, h, SEQUENCE_MARK);
	assert_memory_equal(&s, &before, sizeof(s));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_partition_begins_with_fence_base_and_barrier),
		cmocka_unit_test(the_next_ordinal_at_a_later_position_is_next),
		cmocka_unit_test(exclusive_events_and_changes_share_the_ordinals),
		cmocka_unit_test(two_changes_of_one_transaction_differ_in_seq),
		cmocka_unit_test(the_next_ordinal_at_the_same_position_disagrees),
		cmocka_unit_test(the_next_ordinal_at_an_older_position_disagrees),
		cmocka_unit_test(what_was_decoded_again_is_a_duplicate),
		cmocka_unit_test(a_known_ordinal_at_a_newer_position_disagrees),
		cmocka_unit_test(an_old_ordinal_at_our_position_is_a_duplicate),
		cmocka_unit_test(a_zombie_that_writes_after_the_fence_is_stale),
		cmocka_unit_test(what_a_zombie_wrote_before_the_fence_counts),
		cmocka_unit_test(a_zombie_between_fence_and_base_is_stale),
		cmocka_unit_test(of_two_fences_the_higher_generation_stays),
		cmocka_unit_test(a_fence_twice_is_one_fence),
		cmocka_unit_test(behind_a_gap_nothing_counts),
		cmocka_unit_test(only_the_first_record_of_a_gap_is_reported),
		cmocka_unit_test(a_base_with_our_last_ordinal_heals_a_gap),
		cmocka_unit_test(a_base_below_our_last_ordinal_heals_and_repeats),
		cmocka_unit_test(a_fence_alone_does_not_heal),
		cmocka_unit_test(the_base_of_a_zombie_does_not_heal),
		cmocka_unit_test(a_base_above_our_last_is_lost_data),
		cmocka_unit_test(a_base_above_our_last_is_lost_data_behind_a_gap_too),
		cmocka_unit_test(a_base_that_places_our_last_elsewhere_disagrees),
		cmocka_unit_test(a_barrier_with_our_last_ordinal_counts),
		cmocka_unit_test(a_barrier_never_moves_back),
		cmocka_unit_test(a_barrier_that_has_seen_more_than_we_opens_a_gap),
		cmocka_unit_test(a_barrier_that_has_seen_less_than_we_does_not_count),
		cmocka_unit_test(a_barrier_that_places_our_last_elsewhere_disagrees),
		cmocka_unit_test(a_generation_without_its_fence_is_a_gap),
		cmocka_unit_test(a_base_stands_for_its_lost_fence),
		cmocka_unit_test(a_cut_tail_that_we_had_applied_comes_again),
		cmocka_unit_test(a_cut_tail_that_was_decoded_differently_disagrees),
		cmocka_unit_test(a_read_that_starts_too_late_is_noticed),
		cmocka_unit_test(the_end_of_a_copy_is_only_marked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
