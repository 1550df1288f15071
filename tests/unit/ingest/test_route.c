// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ingest/route.h"
#include "ingest/stream.h"

enum { PARTITIONS = 4, COLUMNS = 3, INT4 = 23, TEXT = 25 };

/* public.orders (id int4 key, note text, body text) as sales.orders on the target */
static struct column columns[COLUMNS];
static struct relation rel;
static struct value before[COLUMNS], after[COLUMNS];
static const struct version version = { .rel = &rel, .before = before, .after = after };
static struct route r;
static struct fault f;
static struct routed routed;

static int setup(void **state)
{
	static const char *const names[COLUMNS] = { "id", "note", "body" };

	(void)state;
	for (int i = 0; i < COLUMNS; i++)
		columns[i] = (struct column) { .name = span_str(names[i]),
					       .type_oid = i ? TEXT : INT4,
					       .typmod = -1,
					       .type = value_type_of(i ? TEXT : INT4, -1, false),
					       .is_key = i == 0,
					       .is_identity = i == 0 };
	rel = (struct relation) { .oid = 16384,
				  .version = 1,
				  .schema = span_str("public"),
				  .table = span_str("orders"),
				  .target_schema = span_str("sales"),
				  .target_table = span_str("orders"),
				  .identity = 'd',
				  .merge = true,
				  .routing = ROUTE_KEY,
				  .columns = columns,
				  .column_count = COLUMNS,
				  .key_count = 1 };
	fault_reset(&f);
	route_init(&r, PARTITIONS);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	route_release(&r);
	return 0;
}

static void identity_full(void)
{
	rel.identity = 'f';
	for (int i = 0; i < COLUMNS; i++)
		columns[i].is_identity = true;
}

static void keyless(void)
{
	identity_full();
	rel.keyless = true;
	rel.merge = false;
	rel.key_count = 0;
	columns[0].is_key = false;
}

/* "-": null, "?": unchanged, else the text. */
static struct cell cell(const char *text)
{
	if (strcmp(text, "-") == 0)
		return (struct cell) { 'n', { NULL, 0 } };
	if (strcmp(text, "?") == 0)
		return (struct cell) { 'u', { NULL, 0 } };
	return (struct cell) { 't', span_str(text) };
}

static bool change(char op, char old_kind, const char *const old[COLUMNS],
		   const char *const new[COLUMNS])
{
	static struct cell old_cells[COLUMNS], new_cells[COLUMNS];
	const struct route_source source = { op, old_kind, old_cells, new_cells };

	for (int i = 0; i < COLUMNS; i++) {
		if (old_kind)
			old_cells[i] = cell(old[i]);
		if (op != 'd')
			new_cells[i] = cell(new[i]);
	}
	return route_change(&r, &version, &source, &routed, &f);
}
#define ROW(...) ((const char *const[COLUMNS]) { __VA_ARGS__ })

static int partition_of(int id)
{
	char key[64];

	snprintf(key, sizeof(key), "[\"sales\",\"orders\",\"%d\"]", id);
	return relation_partition(&rel, span_str(key), PARTITIONS);
}

/* Another id that goes to the same, or to another, partition as id 1. */
static const char *other_id(bool same_partition)
{
	static char text[16];
	int id = 2;

	while ((partition_of(id) == partition_of(1)) != same_partition)
		id++;
	snprintf(text, sizeof(text), "%d", id);
	return text;
}

static void assert_record(int i, char op, const char *id)
{
	char key[64];

	snprintf(key, sizeof(key), "[\"sales\",\"orders\",\"%s\"]", id);
	assert_int_equal(routed.records[i].op, op);
	assert_true(span_eq_str(routed.records[i].key, key));
	assert_int_equal(routed.records[i].partition, partition_of(atoi(id)));
}

static void assert_value(const struct value *v, const char *text)
{
	if (strcmp(text, "-") == 0)
		assert_int_equal(v->state, VALUE_IS_NULL);
	else if (strcmp(text, "?") == 0)
		assert_int_equal(v->state, VALUE_IS_UNCHANGED);
	else
		assert_true(span_eq_str(v->bytes, text));
}

static void an_insert_goes_to_its_keys_partition(void **state)
{
	(void)state;
	assert_true(change('c', 0, NULL, ROW("1", "a", "-")));
	assert_int_equal(routed.kind, ROUTED_ONE);
	assert_record(0, 'c', "1");
	assert_null(routed.records[0].change.before);
	assert_value(&routed.records[0].change.after[1], "a");
	assert_value(&routed.records[0].change.after[2], "-");
}

static void an_insert_with_an_unchanged_value_is_refused(void **state)
{
	(void)state;
	assert_false(change('c', 0, NULL, ROW("1", "a", "?")));
	assert_int_equal(f.kind, FAULT_INPUT);
	assert_non_null(strstr(f.text, "public.orders, column body"));
}

static void an_update_of_the_same_key_is_one_record(void **state)
{
	(void)state;
	assert_true(change('u', 0, NULL, ROW("1", "b", "?")));
	assert_int_equal(routed.kind, ROUTED_ONE);
	assert_record(0, 'u', "1");
	assert_null(routed.records[0].change.before);
	assert_value(&routed.records[0].change.after[2], "?");
}

static void a_delete_goes_by_the_old_key(void **state)
{
	(void)state;
	assert_true(change('d', 'K', ROW("1", "-", "-"), NULL));
	assert_int_equal(routed.kind, ROUTED_ONE);
	assert_record(0, 'd', "1");
	assert_null(routed.records[0].change.after);
	assert_false(change('d', 0, NULL, NULL));
}

static void a_key_change_inside_a_partition_is_one_update(void **state)
{
	const char *id = other_id(true);

	(void)state;
	assert_true(change('u', 'K', ROW("1", "-", "-"), ROW(id, "b", "?")));
	assert_int_equal(routed.kind, ROUTED_ONE);
	assert_record(0, 'u', id);
	assert_int_equal(routed.records[0].change.before[0].i, 1);
	assert_value(&routed.records[0].change.after[2], "?");
}

static void a_key_change_across_partitions_is_two_records(void **state)
{
	const char *id = other_id(false);

	(void)state;
	assert_true(change('u', 'K', ROW("1", "-", "-"), ROW(id, "b", "c")));
	assert_int_equal(routed.kind, ROUTED_TWO);
	assert_record(0, 'd', "1");
	assert_record(1, 'c', id);
	assert_null(routed.records[0].change.after);
	assert_null(routed.records[1].change.before);
	assert_value(&routed.records[1].change.after[2], "c");
}

static void across_partitions_with_an_unchanged_value_it_is_exclusive(void **state)
{
	const char *id = other_id(false);

	(void)state;
	assert_true(change('u', 'K', ROW("1", "-", "-"), ROW(id, "b", "?")));
	assert_int_equal(routed.kind, ROUTED_REKEY);
	assert_record(0, 'u', id);
	assert_int_equal(routed.records[0].change.before[0].i, 1);
}

static void the_full_old_row_fills_in_what_is_unchanged(void **state)
{
	const char *id = other_id(false);

	(void)state;
	identity_full();
	assert_true(change('u', 'O', ROW("1", "a", "long"), ROW(id, "b", "?")));
	assert_int_equal(routed.kind, ROUTED_TWO);
	assert_value(&routed.records[1].change.after[2], "long");
	assert_true(change('u', 'O', ROW("1", "a", "long"), ROW("1", "b", "?")));
	assert_int_equal(routed.kind, ROUTED_ONE);
	assert_value(&routed.records[0].change.after[2], "long");
}

static void a_key_column_sent_only_in_the_old_key_is_taken_from_there(void **state)
{
	(void)state;
	columns[1].is_key = columns[1].is_identity = true;
	rel.key_count = 2;
	assert_true(change('u', 'K', ROW("1", "toasted key", "-"), ROW("1", "?", "b")));
	assert_int_equal(routed.kind, ROUTED_ONE);
	assert_value(&routed.records[0].change.after[1], "toasted key");
	assert_false(change('u', 0, NULL, ROW("1", "?", "b")));
	assert_non_null(strstr(f.text, "column note"));
}

static void keys_that_an_index_calls_equal_are_one_key(void **state)
{
	enum { NUMERIC = 1700 };

	(void)state;
	columns[0].type_oid = NUMERIC;
	columns[0].type = value_type_of(NUMERIC, -1, false);
	assert_true(change('u', 'K', ROW("1.0", "-", "-"), ROW("1.00", "b", "?")));
	assert_int_equal(routed.kind, ROUTED_ONE);
}

static void keyless_rows_go_to_one_partition_with_the_old_row(void **state)
{
	int partition;

	(void)state;
	keyless();
	assert_true(change('c', 0, NULL, ROW("1", "a", "b")));
	partition = routed.records[0].partition;
	assert_true(span_eq_str(routed.records[0].key, "[\"sales\",\"orders\"]"));
	assert_true(change('u', 'O', ROW("1", "a", "b"), ROW("77", "x", "?")));
	assert_int_equal(routed.kind, ROUTED_ONE);
	assert_int_equal(routed.records[0].op, 'u');
	assert_int_equal(routed.records[0].partition, partition);
	assert_value(&routed.records[0].change.before[1], "a");
	assert_true(change('d', 'O', ROW("5", "y", "z"), NULL));
	assert_int_equal(routed.records[0].partition, partition);
	assert_int_equal(route_table_partition(&r, &rel, &f), partition);
	assert_false(change('u', 0, NULL, ROW("1", "x", "y")));
	assert_non_null(strstr(f.text, "REPLICA IDENTITY FULL"));
	assert_false(change('d', 'K', ROW("1", "-", "-"), NULL));
}

static void a_table_routed_whole_keeps_its_keys_in_one_partition(void **state)
{
	int partition;

	(void)state;
	assert_int_equal(route_table_partition(&r, &rel, &f), -1);
	rel.routing = ROUTE_TABLE;
	partition = route_table_partition(&r, &rel, &f);
	assert_in_range(partition, 0, PARTITIONS - 1);
	for (int id = 1; id < 20; id++) {
		char text[16], next[16];

		snprintf(text, sizeof(text), "%d", id);
		snprintf(next, sizeof(next), "%d", id + 100);
		assert_true(change('u', 'K', ROW(text, "-", "-"), ROW(next, "b", "?")));
		assert_int_equal(routed.kind, ROUTED_ONE);
		assert_int_equal(routed.records[0].partition, partition);
	}
}

static void with_whole_transactions_every_change_is_in_one_partition(void **state)
{
	(void)state;
	rel.routing = ROUTE_TRANSACTION;
	assert_int_equal(route_table_partition(&r, &rel, &f), RELATION_TRANSACTION_PARTITION);
	for (int id = 1; id < 20; id++) {
		char text[16], next[16];

		snprintf(text, sizeof(text), "%d", id);
		snprintf(next, sizeof(next), "%d", id + 100);
		assert_true(change('u', 'K', ROW(text, "-", "-"), ROW(next, "b", "?")));
		assert_int_equal(routed.kind, ROUTED_ONE); /* a key change, too */
		assert_int_equal(routed.records[0].partition, RELATION_TRANSACTION_PARTITION);
	}
}

/* ---- which version a relation message describes ---- */

static struct pgoutput_column sent[COLUMNS];
static struct pgoutput_relation message(void)
{
	for (int i = 0; i < COLUMNS; i++)
		sent[i] = (struct pgoutput_column) { columns[i].is_identity, columns[i].name,
						     columns[i].type_oid, columns[i].typmod };
	return (struct pgoutput_relation) { rel.oid,      rel.schema, rel.table,
					    rel.identity, sent,       COLUMNS };
}

static void a_message_describes_the_version_it_agrees_with(void **state)
{
	struct pgoutput_relation m = message();

	(void)state;
	assert_true(stream_is_version(&rel, &m));
	m.table = span_str("renamed");
	assert_true(stream_is_version(&rel, &m));
	m = message();
	m.identity = 'f';
	assert_false(stream_is_version(&rel, &m));
	m = message();
	m.column_count--;
	assert_false(stream_is_version(&rel, &m));
	m = message();
	sent[1].name = span_str("remark");
	assert_false(stream_is_version(&rel, &m));
	m = message();
	sent[1].type_oid = INT4;
	assert_false(stream_is_version(&rel, &m));
	m = message();
	sent[1].typmod = 24;
	assert_false(stream_is_version(&rel, &m));
	m = message();
	sent[1].is_identity = true;
	assert_false(stream_is_version(&rel, &m));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(an_insert_goes_to_its_keys_partition),
		TEST(an_insert_with_an_unchanged_value_is_refused),
		TEST(an_update_of_the_same_key_is_one_record),
		TEST(a_delete_goes_by_the_old_key),
		TEST(a_key_change_inside_a_partition_is_one_update),
		TEST(a_key_change_across_partitions_is_two_records),
		TEST(across_partitions_with_an_unchanged_value_it_is_exclusive),
		TEST(the_full_old_row_fills_in_what_is_unchanged),
		TEST(a_key_column_sent_only_in_the_old_key_is_taken_from_there),
		TEST(keys_that_an_index_calls_equal_are_one_key),
		TEST(keyless_rows_go_to_one_partition_with_the_old_row),
		TEST(a_table_routed_whole_keeps_its_keys_in_one_partition),
		TEST(with_whole_transactions_every_change_is_in_one_partition),
		TEST(a_message_describes_the_version_it_agrees_with),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
