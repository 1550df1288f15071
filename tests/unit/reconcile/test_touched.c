// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "reconcile/narrow.h"

#define NAME(s) { s, sizeof(s) - 1 }

/* Key (tenant, id); another leaf has its columns the other way round. */
static struct column columns[] = { { .name = NAME("tenant"), .target = NAME("shop"), .is_key = true },
				   { .name = NAME("note"), .target = NAME("note") },
				   { .name = NAME("id"), .target = NAME("id"), .is_key = true } };
static struct column other_columns[] = { { .name = NAME("id"), .target = NAME("id"), .is_key = true },
					 { .name = NAME("tenant"), .target = NAME("shop"), .is_key = true } };
static const struct relation orders = { .root_schema = NAME("public"), .root_table = NAME("orders"),
					.table = NAME("orders_1"), .columns = columns, .column_count = 3 };
static const struct relation other_leaf = { .root_schema = NAME("public"), .root_table = NAME("orders"),
					    .table = NAME("orders_2"), .columns = other_columns, .column_count = 2 };
static const struct relation items = { .root_schema = NAME("public"), .root_table = NAME("items") };

static struct touched_table *table_of(struct touched *t, const struct relation *rel)
{
	bool is_new;

	return touched_table(t, rel, &is_new);
}

static void add(struct touched_table *t, const char *a, const char *b)
{
	const struct span parts[] = { span_str(a), span_str(b) };

	touched_add(t, parts, 2);
}

static void a_key_is_there_once(void **state)
{
	struct touched t = { 0 };
	struct touched_table *table = table_of(&t, &orders);

	add(table, "1", "a");
	add(table, "1", "a");
	add(table, "a", "1");
	add(table, "1a", "");
	assert_int_equal(table->count, 3);
	touched_free(&t);
}

static void many_keys_stay_apart(void **state)
{
	struct touched t = { 0 };
	struct touched_table *table = table_of(&t, &orders);
	char text[16];

	for (int i = 0; i < 3 * 5000; i++) {
		snprintf(text, sizeof(text), "%d", i % 5000);
		add(table, text, "x");
	}
	assert_int_equal(table->count, 5000);
	assert_false(table->is_whole);
	touched_free(&t);
}

static void thinning_leaves_a_share_and_others_each_time(void **state)
{
	struct touched t = { 0 }, to = { 0 };
	struct touched_table *table = table_of(&t, &orders);
	bool was_kept[1000] = { false };
	size_t both = 0, left;
	char text[16];

	for (uint64_t salt = 1; salt <= 2; salt++) {
		for (int i = 0; i < 1000; i++) {
			snprintf(text, sizeof(text), "%d", i);
			add(table, text, "x");
		}
		left = touched_thin(table, 0.5, salt);
		assert_int_equal(left + table->count, 1000);
		assert_in_range(table->count, 420, 580);
		for (size_t i = 0; i < table->count; i++) {
			int key = atoi(table->keys[i].parts[0].p);

			both += was_kept[key];
			was_kept[key] = true;
		}
		add(table, "0", "x"); /* once, whether it was left out or not */
		assert_true(touched_move(&t, &to));
		assert_in_range(to.tables[0]->count, 420, 1000);
	}
	assert_in_range(both, 160, 340);
	assert_int_equal(touched_thin(to.tables[0], 1, 7), 0);
	touched_free(&t);
	touched_free(&to);
}

static void leaves_are_one_table(void **state)
{
	struct touched t = { 0 };
	bool is_new;

	assert_non_null(touched_table(&t, &orders, &is_new));
	assert_true(is_new);
	assert_ptr_equal(touched_table(&t, &other_leaf, &is_new), t.tables[0]);
	assert_false(is_new);
	assert_ptr_not_equal(table_of(&t, &items), t.tables[0]);
	touched_free(&t);
}

static void parts_are_in_the_order_of_names(void **state)
{
	struct touched_part parts[TOUCHED_PARTS_MAX];

	assert_int_equal(touched_parts(&orders, parts), 2);
	assert_int_equal(parts[0].column, 2);
	assert_int_equal(parts[0].ordinal, 1);
	assert_int_equal(parts[1].column, 0);
	assert_int_equal(touched_parts(&other_leaf, parts), 2);
	assert_int_equal(parts[0].column, 0);
	assert_int_equal(parts[1].column, 1);
}

static void what_does_not_fit_makes_it_whole(void **state)
{
	struct touched t = { 0 };
	struct touched_table *table = table_of(&t, &orders);

	add(table, "1", "a");
	touched_add(table, &(struct span) NAME("1"), 1);
	assert_true(table->is_whole);
	add(table, "2", "b");
	assert_int_equal(table->count, 0);
	touched_clear(table);
	assert_true(touched_is_empty(table));
	touched_free(&t);
}

static void add_many(struct touched_table *t, int first, int n)
{
	char text[16];

	for (int i = first; i < first + n; i++) {
		snprintf(text, sizeof(text), "%d", i);
		add(t, text, "x");
	}
}

static void too_much_together_makes_the_largest_whole(void **state)
{
	struct touched t = { .max_bytes = 1 << 20 };
	struct touched_table *small = table_of(&t, &items), *large = table_of(&t, &orders);

	add_many(small, 0, 100);
	add_many(large, 0, 3000);
	assert_false(small->is_whole || large->is_whole);
	for (int i = 1; i < 10; i++) {
		add_many(large, 3000 * i, 3000);
		assert_in_range(t.bytes, 1, t.max_bytes);
	}
	assert_true(large->is_whole);
	assert_int_equal(small->count, 100);
	touched_clear(large); /* was compared: there is room again */
	add_many(large, 0, 3000);
	assert_false(small->is_whole || large->is_whole);
	touched_clear(large);
	touched_clear(small);
	assert_int_equal(t.bytes, 0);
	touched_free(&t);
}

/* What was not right stays, what comes meanwhile is added. */
static void moving_adds_up(void **state)
{
	struct touched fresh = { 0 }, due = { 0 };

	add(table_of(&due, &orders), "1", "a");
	add(table_of(&fresh, &orders), "1", "a");
	add(table_of(&fresh, &orders), "2", "b");
	touched_whole(table_of(&fresh, &items));
	assert_true(touched_move(&fresh, &due));
	assert_int_equal(table_of(&due, &orders)->count, 2);
	assert_true(table_of(&due, &items)->is_whole);
	assert_true(touched_is_empty(table_of(&fresh, &orders)) && touched_is_empty(table_of(&fresh, &items)));
	touched_free(&fresh);
	touched_free(&due);
}

/* ---- conditions ---- */

static struct side_column source_columns[] = { { NAME("tenant"), 1043 }, { NAME("note"), 25 }, { NAME("id"), 23 } };
static struct side_column target_columns[] = { { NAME("shop"), 25 }, { NAME("note"), 25 }, { NAME("id"), 20 } };
static const struct side source = { .columns = source_columns, .column_count = 3 };
static const struct side target = { .columns = target_columns, .column_count = 3 };
static const struct digest digest = { .rel = &orders, .source = &source, .target = &target };

static bool make(struct touched_table *t, struct arena *a, struct span near[2])
{
	return narrow(&digest, t->keys, t->count, t->part_count, a, near);
}

static void keys_are_found_by_the_types_of_both(void **state)
{
	struct touched t = { 0 };
	struct touched_table *table = table_of(&t, &orders);
	struct span near[2];
	struct arena a;

	arena_init(&a, 1 << 20);
	add(table, "7", "it's");
	add(table, "7", "x");
	add(table, "10", "x");
	assert_true(make(table, &a, near));
	assert_string_equal(near[DIGEST_SOURCE].p, "\"id\" = ANY ('{\"10\",\"7\"}'::pg_catalog.int8[]) AND "
						   "\"tenant\" = ANY ('{\"it''s\",\"x\"}'::pg_catalog.text[])");
	assert_string_equal(near[DIGEST_TARGET].p, "\"id\" = ANY ('{\"10\",\"7\"}'::pg_catalog.int8[]) AND "
						   "\"shop\" = ANY ('{\"it''s\",\"x\"}'::pg_catalog.text[])");
	arena_release(&a);
	touched_free(&t);
}

/* A column of which a key has no value finds nothing by "=", so it does not narrow. */
static void what_would_lose_rows_does_not_narrow(void **state)
{
	struct touched t = { 0 };
	struct touched_table *table = table_of(&t, &orders);
	struct span near[2];
	struct arena a;

	arena_init(&a, 1 << 20);
	add(table, NULL, "x");
	assert_true(make(table, &a, near));
	assert_string_equal(near[DIGEST_SOURCE].p, "\"tenant\" = ANY ('{\"x\"}'::pg_catalog.text[])");
	touched_clear(table);
	add(table, "1", "caf\xc3"); /* of a corrupt row: no server takes it as a text */
	assert_true(make(table, &a, near));
	assert_string_equal(near[DIGEST_SOURCE].p, "\"id\" = ANY ('{\"1\"}'::pg_catalog.int8[])");
	touched_clear(table);
	source_columns[0].base_oid = source_columns[2].base_oid = 1042; /* char(n): blanks */
	add(table, "1", "x");
	assert_true(make(table, &a, near));
	assert_null(near[DIGEST_SOURCE].p);
	assert_null(near[DIGEST_TARGET].p);
	source_columns[0].base_oid = 1043;
	source_columns[2].base_oid = 23;
	arena_release(&a);
	touched_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_key_is_there_once),
		cmocka_unit_test(many_keys_stay_apart),
		cmocka_unit_test(thinning_leaves_a_share_and_others_each_time),
		cmocka_unit_test(leaves_are_one_table),
		cmocka_unit_test(parts_are_in_the_order_of_names),
		cmocka_unit_test(what_does_not_fit_makes_it_whole),
		cmocka_unit_test(too_much_together_makes_the_largest_whole),
		cmocka_unit_test(moving_adds_up),
		cmocka_unit_test(keys_are_found_by_the_types_of_both),
		cmocka_unit_test(what_would_lose_rows_does_not_narrow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
