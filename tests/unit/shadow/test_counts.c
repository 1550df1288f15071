// SPDX-License-Identifier: Apache-2.0
/* What a batch counts, and what it counts of records that were collected more than once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shadow/counts.h"

static void assert_row(struct counts *c, int partition, uint32_t oid, uint64_t applied, uint64_t covered, uint64_t passed)
{
	const struct count *row = counts_at(c, partition, oid);

	assert_non_null(row);
	assert_int_equal(row->applied, applied);
	assert_int_equal(row->covered, covered);
	assert_int_equal(row->passed, passed);
}

static void a_row_per_partition_and_table(void **state)
{
	struct counts c = { 0 };

	(void)state;
	for (int round = 0; round < 3; round++)
		for (int partition = 0; partition < 7; partition++)
			for (uint32_t oid = 16384; oid < 16384 + 90; oid++)
				counts_at(&c, partition, oid)->applied += oid % 5;
	assert_int_equal(c.count, 7 * 90);
	assert_row(&c, 6, 16384 + 89, (uint64_t)3 * ((16384 + 89) % 5), 0, 0);
	assert_row(&c, 0, 16384, (uint64_t)3 * (16384 % 5), 0, 0);
	counts_reset(&c);
	assert_int_equal(c.count, 0);
	assert_row(&c, 6, 16384, 0, 0, 0);
	assert_int_equal(c.count, 1);
	counts_release(&c);
}

/* Ordinals 1, 3 and 4 covered, 5 passed; 2 was applied. */
static void note(struct count_notes *notes)
{
	static const struct {
		uint64_t ordinal;
		uint32_t oid;
		bool is_passed;
	} seen[] = { { 1, 10, false }, { 3, 10, false }, { 4, 10, false }, { 5, 11, true } };

	for (size_t i = 0; i < sizeof(seen) / sizeof(*seen); i++) {
		count_notes_reach(notes, seen[i].ordinal);
		assert_true(count_notes_add(notes, seen[i].ordinal, seen[i].oid, seen[i].is_passed));
	}
}

static void a_batch_counts_what_is_between_its_places(void **state)
{
	struct count_notes notes = { 0 };
	struct counts c = { 0 };

	(void)state;
	note(&notes);
	assert_int_equal(notes.count, 3); /* 3 and 4 are one run */
	assert_true(count_notes_sum(&notes, 0, 3, 2, &c));
	assert_row(&c, 2, 10, 0, 2, 0);
	assert_row(&c, 2, 11, 0, 0, 0);
	count_notes_forget(&notes, 3);
	counts_reset(&c);
	assert_true(count_notes_sum(&notes, 3, 5, 2, &c));
	assert_row(&c, 2, 10, 0, 1, 0);
	assert_row(&c, 2, 11, 0, 0, 1);
	count_notes_forget(&notes, 5);
	assert_int_equal(notes.count, 0);
	count_notes_release(&notes);
	counts_release(&c);
}

static void what_was_given_up_does_not_count(void **state)
{
	struct count_notes notes = { 0 };
	struct counts c = { 0 };

	(void)state;
	note(&notes);
	/* Back to ordinal 3, which is applied this time; 4 is covered by another copy, 5 as before. */
	count_notes_reach(&notes, 4);
	count_notes_reach(&notes, 3);
	count_notes_reach(&notes, 4);
	assert_true(count_notes_add(&notes, 4, 12, false));
	count_notes_reach(&notes, 5);
	assert_true(count_notes_add(&notes, 5, 11, true));
	assert_true(count_notes_sum(&notes, 0, 5, 0, &c));
	assert_row(&c, 0, 10, 0, 1, 0);
	assert_row(&c, 0, 12, 0, 1, 0);
	assert_row(&c, 0, 11, 0, 0, 1);
	count_notes_release(&notes);
	counts_release(&c);
}

static void a_long_run_is_cut_where_it_is_read_again(void **state)
{
	struct count_notes notes = { 0 };
	struct counts c = { 0 };

	(void)state;
	for (uint64_t ordinal = 1; ordinal <= 1000; ordinal++) {
		count_notes_reach(&notes, ordinal);
		assert_true(count_notes_add(&notes, ordinal, 7, false));
	}
	assert_int_equal(notes.count, 1);
	count_notes_reach(&notes, 400);
	assert_true(count_notes_sum(&notes, 100, 1000, 0, &c));
	assert_row(&c, 0, 7, 0, 299, 0);
	count_notes_release(&notes);
	counts_release(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_row_per_partition_and_table),
		cmocka_unit_test(a_batch_counts_what_is_between_its_places),
		cmocka_unit_test(what_was_given_up_does_not_count),
		cmocka_unit_test(a_long_run_is_cut_where_it_is_read_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
