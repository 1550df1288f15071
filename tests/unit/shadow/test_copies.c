// SPDX-License-Identifier: Apache-2.0
/* The rules at the top of shadow/copies.h, a test a rule. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shadow/copies.h"

enum { POINT = 0x2000, BEFORE = 0x1fff, BEHIND = 0x2001 };

static struct commit_lsn at(uint64_t lsn)
{
	return (struct commit_lsn) { lsn };
}

static struct boundary upto(uint64_t lsn)
{
	return (struct boundary) { lsn };
}

static struct copies_table copying(void)
{
	return (struct copies_table) { .oid = 1, .attempt = 3, .has_point = true, .point = { POINT } };
}

static struct copies_table live(void)
{
	struct copies_table t = copying();

	t.is_live = true;
	return t;
}

static void changes_in_the_point_are_covered(void **state)
{
	struct copies_table t = copying();

	(void)state;
	assert_int_equal(copies_change(&t, at(BEFORE)), COPIES_COVERED);
}

static void they_stay_covered_when_the_table_is_live(void **state)
{
	struct copies_table t = live();

	(void)state;
	assert_int_equal(copies_change(&t, at(BEFORE)), COPIES_COVERED);
	assert_int_equal(copies_change(&t, at(BEHIND)), COPIES_APPLY);
}

static void a_commit_that_starts_at_the_point_is_not_in_it(void **state)
{
	struct copies_table t = live();

	(void)state;
	assert_int_equal(copies_change(&t, at(POINT)), COPIES_APPLY);
}

static void changes_beyond_the_point_wait_until_live(void **state)
{
	struct copies_table t = copying();

	(void)state;
	assert_int_equal(copies_change(&t, at(BEHIND)), COPIES_WAIT);
}

static void without_a_point_every_change_and_barrier_waits(void **state)
{
	struct copies_table t = copying();

	(void)state;
	t.has_point = false;
	assert_int_equal(copies_change(&t, at(BEFORE)), COPIES_WAIT);
	assert_int_equal(copies_barrier(&t, upto(BEFORE)), COPIES_WAIT);
}

static void a_void_attempt_covers_every_change_and_lets_barriers_pass(void **state)
{
	struct copies_table t = copying();

	(void)state;
	t.is_void = true;
	assert_int_equal(copies_change(&t, at(BEHIND)), COPIES_COVERED);
	assert_int_equal(copies_barrier(&t, upto(BEHIND)), COPIES_APPLY);
	t.has_point = false;
	assert_int_equal(copies_change(&t, at(BEHIND)), COPIES_COVERED);
}

static void a_void_that_comes_after_live_changes_nothing(void **state)
{
	struct copies_table t = live();

	(void)state;
	t.is_void = true;
	assert_int_equal(copies_change(&t, at(BEHIND)), COPIES_APPLY);
}

static void a_table_without_a_row_has_its_copy_in_front(void **state)
{
	(void)state;
	assert_int_equal(copies_change(NULL, at(BEHIND)), COPIES_COVERED);
}

static void barriers_wait_only_beyond_the_point(void **state)
{
	struct copies_table t = copying();

	(void)state;
	assert_int_equal(copies_barrier(&t, upto(POINT)), COPIES_APPLY);
	assert_int_equal(copies_barrier(&t, upto(BEHIND)), COPIES_WAIT);
	t.is_live = true;
	assert_int_equal(copies_barrier(&t, upto(BEHIND)), COPIES_APPLY);
}

static void copied_records_go_by_attempt(void **state)
{
	struct copies_table t = copying();

	(void)state;
	assert_int_equal(copies_record(&t, 2), COPIES_COVERED);
	assert_int_equal(copies_record(&t, 3), COPIES_APPLY);
	assert_int_equal(copies_record(&t, 4), COPIES_WAIT);
	assert_int_equal(copies_record(NULL, 1), COPIES_WAIT);
}

static void copied_records_of_a_void_or_live_attempt_are_dropped(void **state)
{
	struct copies_table t = copying();

	(void)state;
	t.is_void = true;
	assert_int_equal(copies_record(&t, 3), COPIES_COVERED);
	t = live();
	assert_int_equal(copies_record(&t, 3), COPIES_COVERED);
}

static void whole_is_complete_and_ended_everywhere(void **state)
{
	struct copies_table t = copying();
	struct fault f = { 0 };

	(void)state;
	t.complete_records = 10;
	assert_false(copies_is_whole(&t, 4, 10, 4, &f));
	t.is_complete = true;
	assert_false(copies_is_whole(&t, 3, 10, 4, &f));
	assert_true(copies_is_whole(&t, 4, 10, 4, &f));
	t.is_void = true;
	assert_false(copies_is_whole(&t, 4, 10, 4, &f));
	assert_int_equal(f.kind, FAULT_NONE);
}

static void a_sum_that_differs_is_said(void **state)
{
	struct copies_table t = copying();
	struct fault f = { 0 };

	(void)state;
	t.is_complete = true;
	t.complete_records = 11;
	assert_false(copies_is_whole(&t, 4, 10, 4, &f));
	assert_int_equal(f.kind, FAULT_LOST);
	assert_non_null(strstr(f.text, "10"));
	assert_non_null(strstr(f.text, "11"));
}

static void tables_are_found_by_oid(void **state)
{
	struct copies_table tables[] = { { .oid = 3 }, { .oid = 5, .is_live = true }, { .oid = 9 } };
	struct copies c = { .tables = tables, .count = 3 };

	(void)state;
	assert_ptr_equal(copies_find(&c, 3), &tables[0]);
	assert_ptr_equal(copies_find(&c, 5), &tables[1]);
	assert_ptr_equal(copies_find(&c, 9), &tables[2]);
	assert_null(copies_find(&c, 4));
	assert_null(copies_find(&c, 10));
}

static void one_table_that_waits_makes_a_barrier_wait(void **state)
{
	struct copies_table tables[] = { live(), copying() };
	struct copies c = { .tables = tables, .count = 2 };

	(void)state;
	assert_int_equal(copies_all_barrier(&c, upto(BEHIND)), COPIES_WAIT);
	assert_int_equal(copies_all_barrier(&c, upto(POINT)), COPIES_APPLY);
	assert_true(copies_has_copying(&c));
	tables[1].is_live = true;
	assert_int_equal(copies_all_barrier(&c, upto(BEHIND)), COPIES_APPLY);
	assert_false(copies_has_copying(&c));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(changes_in_the_point_are_covered),
		cmocka_unit_test(they_stay_covered_when_the_table_is_live),
		cmocka_unit_test(a_commit_that_starts_at_the_point_is_not_in_it),
		cmocka_unit_test(changes_beyond_the_point_wait_until_live),
		cmocka_unit_test(without_a_point_every_change_and_barrier_waits),
		cmocka_unit_test(a_void_attempt_covers_every_change_and_lets_barriers_pass),
		cmocka_unit_test(a_void_that_comes_after_live_changes_nothing),
		cmocka_unit_test(a_table_without_a_row_has_its_copy_in_front),
		cmocka_unit_test(barriers_wait_only_beyond_the_point),
		cmocka_unit_test(copied_records_go_by_attempt),
		cmocka_unit_test(copied_records_of_a_void_or_live_attempt_are_dropped),
		cmocka_unit_test(whole_is_complete_and_ended_everywhere),
		cmocka_unit_test(a_sum_that_differs_is_said),
		cmocka_unit_test(tables_are_found_by_oid),
		cmocka_unit_test(one_table_that_waits_makes_a_barrier_wait),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
