// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "reconcile/verdict.h"

enum { COLUMNS = 2 };

static const struct span old_row[] = { { "1", 1 }, { "old", 3 } };
static const struct span new_row[] = { { "1", 1 }, { "new", 3 } };
static const struct span null_row[] = { { "1", 1 }, { NULL, 0 } };
static const struct span empty_row[] = { { "1", 1 }, { "", 0 } };
static const struct span mixed_row[] = { { "2", 1 }, { "old", 3 } };

static struct verdict_row row(const struct span *texts)
{
	return (struct verdict_row) { texts != NULL, texts };
}

static struct verdict_image image(const struct span *texts)
{
	return (struct verdict_image) { .is_known = true, .row = row(texts) };
}

static struct verdict_case of(const struct span *source, const struct span *target)
{
	return (struct verdict_case) { .column_count = COLUMNS,
				       .source = row(source),
				       .target = row(target) };
}

static void expect(const struct verdict_case *c, enum verdict verdict, enum verdict_hop hop)
{
	enum verdict_hop seen;

	assert_int_equal(verdict_key(c, &seen), verdict);
	assert_int_equal(seen, hop);
}

static void equal_rows_are_clean(void **state)
{
	struct verdict_case c = of(old_row, old_row);

	expect(&c, VERDICT_CLEAN, HOP_UNKNOWN);
	c = of(NULL, NULL);
	expect(&c, VERDICT_CLEAN, HOP_UNKNOWN);
}

/* One column lags, the other is wrong: only that one is named. */
static void columns_that_lag_are_explained(void **state)
{
	static const struct span lags[] = { { "0", 1 }, { "wrong", 5 } };
	static const bool unsent[] = { false, true };
	static const struct span before[] = { { "0", 1 }, { NULL, 0 } }, after[] = { { "1", 1 }, { NULL, 0 } };
	struct verdict_case c = of(old_row, lags);

	c.sees_event = true;
	c.source_image = image(after);
	c.target_image = image(before);
	c.source_image.is_unsent = c.target_image.is_unsent = unsent;
	expect(&c, VERDICT_DIVERGED, HOP_TARGET);
	assert_true(verdict_explains(&c, 0));
	assert_false(verdict_explains(&c, 1));
	c.is_same = true; /* nothing is under way */
	assert_false(verdict_explains(&c, 0));
}

static void null_is_not_empty(void **state)
{
	struct verdict_case c = of(null_row, empty_row);

	c.is_same = c.is_settled = true;
	expect(&c, VERDICT_DIVERGED, HOP_UNKNOWN);
}

static void the_same_events_must_leave_the_same_row(void **state)
{
	struct verdict_case c = of(new_row, old_row);

	c.is_same = c.sees_event = true;
	expect(&c, VERDICT_DIVERGED, HOP_UNKNOWN);
	c.source_image = c.target_image = image(new_row);
	expect(&c, VERDICT_DIVERGED, HOP_TARGET);
	c.source_image = c.target_image = image(old_row);
	expect(&c, VERDICT_DIVERGED, HOP_STREAM);
}

/* A commit that is in the WAL and not yet visible may be older than all that we have read. */
static void without_events_old_transactions_are_waited_for(void **state)
{
	struct verdict_case c = of(new_row, old_row);

	c.is_same = true;
	expect(&c, VERDICT_LATER, HOP_UNKNOWN);
	c.is_settled = true;
	expect(&c, VERDICT_DIVERGED, HOP_UNKNOWN);
}

static void each_side_is_held_to_its_own_event(void **state)
{
	struct verdict_case c = of(old_row, new_row);

	c.sees_event = true;
	c.source_image = image(old_row);
	c.target_image = image(new_row);
	expect(&c, VERDICT_EXPLAINED, HOP_UNKNOWN);
	c.target_image = image(NULL);
	expect(&c, VERDICT_DIVERGED, HOP_TARGET);
	c.target_image = image(new_row);
	c.source_image = image(null_row);
	expect(&c, VERDICT_DIVERGED, HOP_STREAM);
}

static void a_row_that_came_or_went_is_explained(void **state)
{
	struct verdict_case c = of(NULL, new_row);

	c.sees_event = true;
	c.source_image = image(NULL);
	c.target_image = image(new_row);
	expect(&c, VERDICT_EXPLAINED, HOP_UNKNOWN);
	c = of(old_row, NULL);
	c.sees_event = true;
	c.source_image = image(old_row);
	c.target_image = image(NULL);
	expect(&c, VERDICT_EXPLAINED, HOP_UNKNOWN);
}

/* S saw none of the events: the next round will. But the target can be wrong already. */
static void unseen_events_are_judged_later(void **state)
{
	struct verdict_case c = of(old_row, new_row);

	c.is_settled = true;
	c.target_image = image(new_row);
	expect(&c, VERDICT_LATER, HOP_UNKNOWN);
	c.target_image = image(null_row);
	expect(&c, VERDICT_DIVERGED, HOP_TARGET);
}

static void what_is_not_known_is_judged_later(void **state)
{
	struct verdict_case c = of(old_row, new_row);

	c.sees_event = c.is_settled = true;
	expect(&c, VERDICT_LATER, HOP_UNKNOWN);
	c.source_image = image(old_row);
	expect(&c, VERDICT_LATER, HOP_UNKNOWN);
}

/* Column 2 was not sent by any event: nobody set it, so both sides must have it alike. */
static void an_unsent_column_is_compared_between_the_sides(void **state)
{
	static const bool unsent[] = { false, true };
	struct verdict_case c = of(old_row, mixed_row);

	c.sees_event = true;
	c.source_image = image(old_row);
	c.target_image = image(mixed_row);
	c.source_image.is_unsent = c.target_image.is_unsent = unsent;
	expect(&c, VERDICT_EXPLAINED, HOP_UNKNOWN);
	c.source = row(new_row);
	expect(&c, VERDICT_DIVERGED, HOP_TARGET);
}

static void a_key_twice_is_a_difference(void **state)
{
	struct verdict_case c = of(new_row, new_row);

	c.target.count = 2;
	c.sees_event = true;
	c.source_image = c.target_image = image(new_row);
	expect(&c, VERDICT_DIVERGED, HOP_TARGET);
}

static void counts_are_explained_by_what_came_between(void **state)
{
	assert_int_equal(verdict_count(3, 3, 0, false), VERDICT_CLEAN);
	assert_int_equal(verdict_count(3, 5, 2, false), VERDICT_EXPLAINED);
	assert_int_equal(verdict_count(3, 2, -1, true), VERDICT_EXPLAINED);
	assert_int_equal(verdict_count(3, 5, 1, true), VERDICT_DIVERGED);
	assert_int_equal(verdict_count(3, 3, 1, true), VERDICT_DIVERGED);
	assert_int_equal(verdict_count(3, 5, 1, false), VERDICT_LATER);
}

static void snapshots_see_what_has_ended(void **state)
{
	struct snapshot s;
	struct arena a;

	arena_init(&a, 1 << 20);
	assert_true(snapshot_parse(span_str("10:20:10,14,15"), &a, &s));
	assert_int_equal(s.running_count, 3);
	assert_true(snapshot_sees(&s, 9));
	assert_false(snapshot_sees(&s, 10));
	assert_true(snapshot_sees(&s, 11));
	assert_false(snapshot_sees(&s, 15));
	assert_false(snapshot_sees(&s, 20));
	assert_true(snapshot_parse(span_str("7:7:"), &a, &s));
	assert_true(snapshot_sees(&s, 6) && !snapshot_sees(&s, 7));
	assert_false(snapshot_parse(span_str("7:"), &a, &s));
	assert_false(snapshot_parse(span_str("7:8:x"), &a, &s));
	arena_release(&a);
}

static void transaction_ids_are_widened_across_an_epoch(void **state)
{
	struct snapshot s = { .xmin = 0x200000005, .xmax = 0x200000005 };

	assert_int_equal(snapshot_widen(&s, 4), 0x200000004);
	assert_int_equal(snapshot_widen(&s, 7), 0x200000007);
	assert_int_equal(snapshot_widen(&s, 0xfffffff0), 0x1fffffff0);
	s.xmax = 0x1fffffff0;
	assert_int_equal(snapshot_widen(&s, 4), 0x200000004);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_rows_are_clean),
		cmocka_unit_test(columns_that_lag_are_explained),
		cmocka_unit_test(null_is_not_empty),
		cmocka_unit_test(the_same_events_must_leave_the_same_row),
		cmocka_unit_test(without_events_old_transactions_are_waited_for),
		cmocka_unit_test(each_side_is_held_to_its_own_event),
		cmocka_unit_test(a_row_that_came_or_went_is_explained),
		cmocka_unit_test(unseen_events_are_judged_later),
		cmocka_unit_test(what_is_not_known_is_judged_later),
		cmocka_unit_test(an_unsent_column_is_compared_between_the_sides),
		cmocka_unit_test(a_key_twice_is_a_difference),
		cmocka_unit_test(counts_are_explained_by_what_came_between),
		cmocka_unit_test(snapshots_see_what_has_ended),
		cmocka_unit_test(transaction_ids_are_widened_across_an_epoch),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
