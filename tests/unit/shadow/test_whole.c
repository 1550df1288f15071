// SPDX-License-Identifier: Apache-2.0
/* Where a source transaction ends, as far as the records of its partition tell. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "shadow/lane_state.h"

static struct lane *l;
static struct part *p;
static uint64_t ordinal;

static int setup(void **state)
{
	(void)state;
	l = calloc(1, sizeof(*l));
	p = calloc(1, sizeof(*p));
	if (!l || !p)
		return -1;
	p->is_whole = true;
	p->state = PART_OPEN;
	p->key = (struct progress_key) { "m", "m.changes", 0 };
	p->next.at.generation = p->ended.at.generation = 1;
	ordinal = 0;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	free(p);
	free(l);
	return 0;
}

static enum sequence_verdict read_record(const struct event_head *h, struct sequence *ret_before)
{
	struct fault f = { 0 };

	*ret_before = p->next.at;
	return sequence_next(&p->next.at, h, &f);
}

static void moved_over(void)
{
	p->next.next_offset++;
	whole_passed(p);
}

/* Collects a change; false: it stayed in front. */
static bool change(uint64_t commit, uint64_t seq)
{
	const struct event_head h = { .kind = EVENT_CHANGE,
				      .op = 'u',
				      .generation = p->next.at.generation,
				      .ordinal = ordinal + 1,
				      .position = { { commit }, seq } };
	struct sequence before;

	assert_int_equal(read_record(&h, &before), SEQUENCE_NEXT);
	if (!whole_next(l, p, h.position.commit, &before)) {
		p->next.at = before;
		return false;
	}
	ordinal++;
	l->batch.count++;
	moved_over();
	return true;
}

static void barrier(uint64_t boundary)
{
	const struct event_head h = { .kind = EVENT_BARRIER,
				      .op = 'b',
				      .generation = p->next.at.generation,
				      .ordinal = ordinal,
				      .position = p->next.at.position,
				      .boundary = { boundary } };
	struct sequence before;

	assert_int_equal(read_record(&h, &before), SEQUENCE_BARRIER);
	whole_end(l, p, &before);
	moved_over();
}

static void marker(char op, uint64_t generation)
{
	const struct event_head h = { .kind = EVENT_MARKER,
				      .op = op,
				      .generation = generation,
				      .ordinal = ordinal,
				      .position = p->next.at.position };
	struct sequence before;

	assert_int_equal(read_record(&h, &before), SEQUENCE_MARK);
	moved_over();
}

/* So many records may be committed, and the partition would be there then. */
static void assert_ended(size_t records, int64_t offset, uint64_t commit)
{
	assert_int_equal(l->batch.ended_count, records);
	assert_int_equal(part_goal(p)->next_offset, offset);
	assert_int_equal(part_goal(p)->at.position.commit.v, commit);
}

static void a_transaction_ends_where_another_one_follows(void **state)
{
	(void)state;
	assert_true(change(100, 1));
	assert_true(change(100, 2));
	assert_ended(0, 0, 0);
	assert_false(part_has_moved(p));
	assert_true(change(200, 1));
	assert_ended(2, 2, 100);
	assert_true(change(200, 2));
	assert_ended(2, 2, 100);
	assert_true(change(300, 1));
	assert_ended(4, 4, 200);
}

static void a_transaction_ends_at_a_barrier(void **state)
{
	(void)state;
	assert_true(change(100, 1));
	barrier(150);
	assert_ended(1, 2, 100); /* over the barrier, too */
	assert_int_equal(part_goal(p)->at.barrier.v, 150);
	barrier(160);
	assert_ended(1, 3, 100);
	assert_true(change(200, 1));
	assert_ended(1, 3, 100);
}

static void a_new_life_of_ingest_goes_on_in_the_middle(void **state)
{
	(void)state;
	assert_true(change(100, 1));
	marker('f', 2);
	marker('s', 2);
	assert_ended(0, 0, 0);
	assert_true(change(100, 2));
	assert_ended(0, 0, 0);
	barrier(150);
	assert_ended(2, 5, 100);
	assert_int_equal(part_goal(p)->at.generation, 2);
	marker('f', 3);
	assert_ended(2, 6, 100);
	assert_int_equal(part_goal(p)->at.generation, 3);
}

/* The event of a copy at a boundary that is the next commit's LSN. */
static void what_follows_an_end_is_another_transaction_whatever_its_lsn(void **state)
{
	struct progress now = { .at = { .generation = 1, .ordinal = 1, .position = { { 100 }, 0 } } };

	(void)state;
	part_moved(p, &now);
	ordinal = 1;
	p->poison_commit = (struct commit_lsn) { 100 };
	assert_false(change(100, 1));
	assert_int_equal(p->state, PART_STOPPED);
}

static void what_cannot_be_applied_stops_in_front_of_its_transaction(void **state)
{
	(void)state;
	p->poison_commit = (struct commit_lsn) { 200 };
	snprintf(p->poison_why, sizeof(p->poison_why), "the third one");
	assert_true(change(100, 1));
	assert_false(change(200, 1));
	assert_ended(1, 1, 100);
	assert_int_equal(p->state, PART_STOPPED);
	assert_string_equal(p->why, "the third one");
}

static void while_one_is_looked_into_the_next_stays_in_front(void **state)
{
	(void)state;
	l->caution[CONSUME_CHANGES] = CAUTION_TRANSACTION;
	assert_true(change(100, 1));
	assert_true(change(100, 2));
	assert_false(change(200, 1));
	assert_ended(2, 2, 100);
	assert_int_equal(p->state, PART_OPEN);
}

static void while_one_is_open_the_next_stays_in_front(void **state)
{
	(void)state;
	assert_true(change(100, 1));
	l->is_open = true;
	l->batch.count = 0; /* the first round has it */
	assert_true(change(100, 2));
	barrier(150);
	assert_ended(1, 3, 100);
	assert_false(change(200, 1));
	assert_ended(1, 3, 100);
}

static void the_end_of_what_was_rolled_back_counts_for_nothing(void **state)
{
	(void)state;
	assert_true(change(100, 1));
	p->is_void = true;
	l->batch.count = 0;
	assert_true(change(100, 2));
	assert_false(p->needs_seek);
	assert_false(change(200, 1));
	assert_true(p->needs_seek);
	assert_ended(0, 0, 0);
	assert_false(part_has_moved(p));
	p->needs_seek = false;
	barrier(150);
	assert_true(p->needs_seek);
	assert_false(part_has_moved(p));
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_transaction_ends_where_another_one_follows),
		TEST(a_transaction_ends_at_a_barrier),
		TEST(a_new_life_of_ingest_goes_on_in_the_middle),
		TEST(what_follows_an_end_is_another_transaction_whatever_its_lsn),
		TEST(what_cannot_be_applied_stops_in_front_of_its_transaction),
		TEST(while_one_is_looked_into_the_next_stays_in_front),
		TEST(while_one_is_open_the_next_stays_in_front),
		TEST(the_end_of_what_was_rolled_back_counts_for_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
