// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "reconcile/bookmark.h"

static void see(struct walk *w, const char *table)
{
	bool is_new;

	assert_true(walk_see(w, span_str("public"), span_str(table), &is_new));
}

static struct walk three_tables(void)
{
	struct walk w;

	walk_init(&w);
	see(&w, "b");
	see(&w, "c");
	see(&w, "a");
	return w;
}

static void assert_next(struct walk *w, const char *table)
{
	const struct walk_table *t = walk_next(w);

	if (!table) {
		assert_null(t);
		return;
	}
	assert_non_null(t);
	assert_string_equal(t->table, table);
}

static void went(struct walk *w, const char *from)
{
	walk_went(w, from ? span_str(from) : span(NULL, 0));
}

static void nothing_is_due_at_first(void **state)
{
	struct walk w = three_tables();

	assert_int_equal(w.count, 3);
	see(&w, "b");
	assert_int_equal(w.count, 3);
	assert_next(&w, NULL);
	walk_release(&w);
}

static void a_pass_goes_through_all_tables_in_order(void **state)
{
	struct walk w = three_tables();

	walk_pass(&w, 77, 1000);
	assert_next(&w, "a");
	went(&w, NULL);
	assert_next(&w, "b");
	went(&w, "10");
	assert_next(&w, "b");
	assert_true(w.has_from && span_eq(buf_span(&w.from), span_str("10")));
	went(&w, NULL);
	assert_next(&w, "c");
	assert_false(w.has_from);
	assert_int_equal(w.scrubbed_lsn, 0);
	went(&w, NULL);
	assert_next(&w, NULL);
	assert_int_equal(w.scrubbed_lsn, 77);
	assert_false(w.is_passing);
	walk_release(&w);
}

static void a_dirty_pass_proves_nothing(void **state)
{
	struct walk w;

	walk_init(&w);
	see(&w, "a");
	walk_pass(&w, 77, 1000);
	assert_next(&w, "a");
	walk_dirty(&w);
	went(&w, NULL);
	assert_false(w.is_passing);
	assert_int_equal(w.scrubbed_lsn, 0);
	walk_release(&w);
}

static void what_is_owed_begins_anew(void **state)
{
	struct walk w = three_tables();

	walk_pass(&w, 77, 1000);
	assert_next(&w, "a");
	went(&w, "10");
	assert_true(walk_owe(&w, span_str("public"), span_str("a")));
	assert_int_equal(walk_owed(&w), 1);
	went(&w, NULL); /* the chunk that ran meanwhile */
	assert_int_equal(walk_owed(&w), 1);
	assert_next(&w, "a");
	assert_false(w.has_from);
	went(&w, NULL);
	assert_int_equal(walk_owed(&w), 0);
	assert_next(&w, "b");
	walk_release(&w);
}

static void who_cannot_be_scrubbed_is_passed_over(void **state)
{
	struct walk w = three_tables();

	walk_pass(&w, 77, 1000);
	assert_next(&w, "a");
	went(&w, NULL);
	assert_next(&w, "b");
	walk_later(&w);
	assert_next(&w, "c");
	went(&w, NULL);
	assert_true(w.is_passing);
	assert_next(&w, "b");
	walk_later(&w);
	assert_next(&w, "b");
	walk_forget(&w, walk_next(&w));
	assert_next(&w, NULL);
	assert_false(w.is_passing);
	walk_release(&w);
}

static const struct tail_place places[2] = {
	{ 12, { .generation = 3, .ordinal = 900, .position = { { 0x1234 }, 5 }, .barrier = { 0x1200 } } },
	{ 0, { .generation = 3 } },
};

static void a_bookmark_is_read_as_it_was_written(void **state)
{
	struct walk w = three_tables(), again;
	struct tail_place read[2];
	struct buf text;

	walk_pass(&w, 77, 1000);
	assert_next(&w, "a");
	went(&w, NULL);
	assert_next(&w, "b");
	went(&w, "it's \"10\"");
	assert_true(walk_owe(&w, span_str("public"), span_str("c")));
	w.scrubbed_lsn = 55;
	buf_init(&text, 1 << 20);
	assert_true(bookmark_format(&w, places, 2, &text));
	walk_init(&again);
	assert_true(bookmark_parse(buf_span(&text), 2, &again, read));
	assert_memory_equal(read, places, sizeof(places));
	assert_next(&again, "b");
	assert_true(again.has_from && span_eq(buf_span(&again.from), span_str("it's \"10\"")));
	assert_int_equal(walk_owed(&again), 1);
	assert_true(again.is_passing && again.pass_is_clean);
	assert_int_equal(again.pass_lsn, 77);
	assert_int_equal(again.pass_at, 1000);
	assert_int_equal(again.scrubbed_lsn, 55);
	walk_release(&again);
	/* something differs in b, and a had been done: both are owed, b from its beginning */
	buf_reset(&text);
	walk_found(&w);
	w.tables[0].has_found = true;
	assert_true(bookmark_format(&w, places, 2, &text));
	walk_init(&again);
	assert_true(bookmark_parse(buf_span(&text), 2, &again, read));
	assert_int_equal(walk_owed(&again), 3);
	assert_next(&again, "b");
	assert_false(again.has_from);
	walk_release(&again);
	walk_clear_found(&w);
	buf_reset(&text);
	assert_true(bookmark_format(&w, places, 2, &text));
	/* of another number of partitions, cut off, or nothing */
	for (int i = 0; i < 3; i++) {
		struct span bad = i == 2 ? span("", 0) : span(buf_span(&text).p, buf_span(&text).n - (i == 1));

		walk_init(&again);
		assert_false(bookmark_parse(bad, i == 0 ? 1 : 2, &again, read));
		assert_int_equal(again.count, 0);
		walk_release(&again);
	}
	buf_release(&text);
	walk_release(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_due_at_first),
		cmocka_unit_test(a_pass_goes_through_all_tables_in_order),
		cmocka_unit_test(a_dirty_pass_proves_nothing),
		cmocka_unit_test(what_is_owed_begins_anew),
		cmocka_unit_test(who_cannot_be_scrubbed_is_passed_over),
		cmocka_unit_test(a_bookmark_is_read_as_it_was_written),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
