// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "core/relation.h"
#include "random_relation.h"

struct rig {
	struct arena a;
	struct buf out, again;
	struct fault f;
};

static struct rig rig;

static int setup(void **state)
{
	arena_init(&rig.a, 64 << 20);
	buf_init(&rig.out, 16 << 20);
	buf_init(&rig.again, 16 << 20);
	fault_reset(&rig.f);
	return 0;
}

static int teardown(void **state)
{
	arena_release(&rig.a);
	buf_release(&rig.out);
	buf_release(&rig.again);
	return 0;
}

/* Key: a bigint, b text, in table sales."o d". */
static struct relation *orders(void)
{
	static struct column columns[3];
	static const uint32_t inputs[] = { 0, 1 };
	static struct computed computed;
	static struct relation rel;

	columns[0] = (struct column) { .name = span_str("a"),
				       .type_oid = 20,
				       .typmod = -1,
				       .type_name = span_str("bigint"),
				       .type.kind = VALUE_INT8,
				       .is_key = true,
				       .is_identity = true };
	columns[1] = (struct column) { .name = span_str("total"),
				       .type_oid = 1700,
				       .typmod = 786438,
				       .type_name = span_str("numeric"),
				       .type = { VALUE_DECIMAL, 12, 2 } };
	computed = (struct computed) { span_str("cents"), { span_str("total * 100"), inputs + 1, 1 }, false };
	columns[2] = columns[0];
	columns[0].target = span_str("a");
	columns[2].target = span_str("bb");
	columns[2].collation = span_str("pg_catalog.\"C\"");
	columns[2].name = span_str("b");
	columns[2].type.kind = VALUE_TEXT;
	rel = (struct relation) {
		.oid = 16384,
		.version = 2,
		.from = { { 0x16b374d848 }, 3 },
		.schema = span_str("public"),
		.table = span_str("orders"),
		.root_schema = span_str("public"),
		.root_table = span_str("orders"),
		.target_schema = span_str("sales"),
		.target_table = span_str("o d"),
		.identity = 'd',
		.merge = true,
		.fingerprint = 0xc15d213aa4d7a795,
		.columns = columns,
		.column_count = 3,
		.key_count = 2,
		.computed = &computed,
		.computed_count = 1,
		.filter = { span_str("a > 0"), inputs, 1 },
		.origin_column = span_str("shop"),
		.origin_value = span_str("eu"),
	};
	return &rel;
}

static const char orders_json[] =
    "{\"oid\":16384,\"version\":2,\"from\":{\"commit_lsn\":\"16/B374D848\",\"seq\":3},"
    "\"schema\":\"public\",\"table\":\"orders\",\"root_schema\":\"public\",\"root_table\":"
    "\"orders\","
    "\"target_schema\":\"sales\",\"target_table\":\"o d\",\"bound\":null,\"identity\":\"d\","
    "\"keyless\":false,\"merge\":true,\"routing\":\"key\",\"routing_reason\":null,"
    "\"fingerprint\":\"c15d213aa4d7a795\",\"columns\":["
    "{\"name\":\"a\",\"type_oid\":20,\"typmod\":-1,\"type_name\":\"bigint\",\"kind\":\"int8\","
    "\"precision\":0,\"scale\":0,\"key\":true,\"identity\":true,\"collates\":false,"
    "\"dropped\":false,\"target\":\"a\",\"collation\":null},"
    "{\"name\":\"total\",\"type_oid\":1700,\"typmod\":786438,\"type_name\":\"numeric\","
    "\"kind\":\"decimal\",\"precision\":12,\"scale\":2,\"key\":false,\"identity\":false,"
    "\"collates\":false,\"dropped\":false,\"target\":null,\"collation\":null},"
    "{\"name\":\"b\",\"type_oid\":20,\"typmod\":-1,\"type_name\":\"bigint\",\"kind\":\"text\","
    "\"precision\":0,\"scale\":0,\"key\":true,\"identity\":true,\"collates\":false,"
    "\"dropped\":false,\"target\":\"bb\",\"collation\":\"pg_catalog.\\\"C\\\"\"}],"
    "\"computed\":[{\"column\":\"cents\",\"as\":\"total * 100\",\"inputs\":[1],\"key\":false}],"
    "\"filter\":{\"as\":\"a > 0\",\"inputs\":[0]},"
    "\"origin_column\":\"shop\",\"origin_value\":\"eu\"}";

static void a_relation_is_written_like_this(void **state)
{
	assert_true(relation_write(orders(), &rig.out));
	assert_string_equal(buf_cstr(&rig.out), orders_json);
}

static void a_relation_comes_back_as_it_was(void **state)
{
	struct relation *rel;

	for (int i = 0; i < 300; i++) {
		buf_reset(&rig.out);
		buf_reset(&rig.again);
		assert_true(relation_write(random_relation(&rig.a), &rig.out));
		if (!relation_read(buf_span(&rig.out), &rig.a, &rel, &rig.f))
			fail_msg("%s", rig.f.text);
		assert_true(relation_write(rel, &rig.again));
		assert_string_equal(buf_cstr(&rig.out), buf_cstr(&rig.again));
		assert_int_equal(rel->keyless, rel->key_count == 0);
		arena_reset(&rig.a);
	}
}

static void what_was_read_does_not_point_into_the_text(void **state)
{
	char *copy = strdup(orders_json);
	struct relation *rel;

	assert_true(relation_read(span_str(copy), &rig.a, &rel, &rig.f));
	free(copy);
	assert_true(span_eq_str(rel->target_table, "o d"));
	assert_true(span_eq_str(rel->columns[1].name, "total"));
	assert_null(rel->bound.p);
	assert_int_equal(rel->key_count, 2);
	assert_true(rel->from.commit.v == 0x16b374d848);
	assert_true(rel->fingerprint == 0xc15d213aa4d7a795);
}

static void the_key_of_a_record_says_which_version_it_is(void **state)
{
	uint32_t oid = 0, version = 0;

	assert_true(relation_of_record(span_str("relation/16384/00000012"), &oid, &version));
	assert_int_equal(oid, 16384);
	assert_int_equal(version, 12);
	assert_false(relation_of_record(span_str("relation/16384"), &oid, &version));
	assert_false(relation_of_record(span_str("schema/16384/00000012"), &oid, &version));
}

static void replace(const char *what, const char *with)
{
	const char *at = strstr(orders_json, what);

	assert_non_null(at);
	buf_reset(&rig.out);
	buf_add(&rig.out, orders_json, (size_t)(at - orders_json));
	buf_str(&rig.out, with);
	buf_str(&rig.out, at + strlen(what));
}

static void anything_else_is_refused(void **state)
{
	static const struct {
		const char *what, *with, *words;
	} rows[] = {
		{ "{\"oid\"", "{oid", "not JSON" },
		{ "{\"oid\":16384,", "{", "\"oid\"" },
		{ "\"oid\":16384", "\"oid\":0", "\"oid\"" },
		{ "\"oid\":16384", "\"oid\":4294967296", "\"oid\"" },
		{ "\"oid\":16384", "\"oid\":\"16384\"", "\"oid\"" },
		{ "\"oid\":16384", "\"oid\":16384.0", "\"oid\"" },
		{ "\"oid\":16384", "\"oid\":16384,\"oid\":16384", "not JSON" },
		{ "\"oid\":16384", "\"new\":1,\"oid\":16384", "does not know" },
		{ "\"version\":2", "\"version\":0", "\"version\"" },
		{ "16/B374D848", "16-B374D848", "\"commit_lsn\"" },
		{ "\"seq\":3", "\"seq\":-3", "\"seq\"" },
		{ "\"seq\":3", "\"seq\":3,\"x\":0", "\"from\"" },
		{ "\"schema\":\"public\"", "\"schema\":\"\"", "\"schema\" is empty" },
		{ "\"schema\":\"public\"", "\"schema\":null", "\"schema\"" },
		{ "\"bound\":null", "\"bound\":false", "\"bound\"" },
		{ "\"identity\":\"d\"", "\"identity\":\"n\"", "\"identity\"" },
		{ "\"identity\":\"d\"", "\"identity\":\"df\"", "\"identity\"" },
		{ "\"keyless\":false", "\"keyless\":true", "\"keyless\"" },
		{ "\"merge\":true", "\"merge\":1", "\"merge\"" },
		{ "\"routing\":\"key\"", "\"routing\":\"nowhere\"", "\"routing\"" },
		{ "\"routing\":\"key\"", "\"routing\":\"group\"", "\"family\"" },
		{ "\"routing\":\"key\"", "\"routing\":\"key\",\"family\":\"f\"", "relation" },
		{ "c15d213aa4d7a795", "c15d213aa4d7a79", "\"fingerprint\"" },
		{ "c15d213aa4d7a795", "C15D213AA4D7A795", "\"fingerprint\"" },
		{ "\"columns\":[", "\"columns\":[7,", "\"name\"" },
		{ "\"columns\":[", "\"columns\":{},\"x\":[", "\"columns\"" },
		{ "\"name\":\"b\"", "\"name\":\"a\"", "two of the same name" },
		{ "\"name\":\"a\"", "\"name\":\"a\",\"more\":1", "\"columns\"" },
		{ "\"kind\":\"int8\"", "\"kind\":\"int9\"", "\"kind\"" },
		{ "\"kind\":\"int8\"", "\"kind\":\"decimal\"", "\"precision\"" },
		{ "\"precision\":12", "\"precision\":39", "\"precision\"" },
		{ "\"precision\":12", "\"precision\":0", "\"scale\"" },
		{ "\"scale\":2", "\"scale\":13", "\"scale\"" },
		{ "\"typmod\":-1", "\"typmod\":2147483648", "\"typmod\"" },
		{ "\"dropped\":false,\"target\":null", "\"dropped\":true,\"target\":\"x\"", "\"dropped\"" },
		{ "\"dropped\":false,\"target\":null", "\"dropped\":true,\"target\":null", "\"inputs\"" },
		{ "\"dropped\":false,\"target\":\"a\"", "\"dropped\":true,\"target\":null", "\"dropped\"" },
		{ "\"inputs\":[1]", "\"inputs\":[3]", "\"inputs\"" },
		{ "\"inputs\":[1]", "\"inputs\":[-1]", "\"inputs\"" },
		{ "\"inputs\":[1]", "\"inputs\":[1,1]", "\"inputs\"" },
		{ "\"inputs\":[1]", "\"inputs\":[\"a\"]", "\"inputs\"" },
		{ "\"inputs\":[0]", "\"inputs\":null", "\"inputs\"" },
		{ "\"as\":\"total * 100\"", "\"as\":\"\"", "\"as\"" },
		{ "\"computed\":[", "\"computed\":{},\"x\":[", "\"computed\"" },
		{ "\"filter\":{", "\"filter\":{\"y\":1,", "\"filter\"" },
		{ "\"origin_value\":\"eu\"", "\"origin_value\":null", "\"origin_value\"" },
	};
	struct relation *rel;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		replace(rows[i].what, rows[i].with);
		if (relation_read(buf_span(&rig.out), &rig.a, &rel, &rig.f))
			fail_msg("accepted: %s", buf_cstr(&rig.out));
		assert_int_equal(rig.f.kind, FAULT_INPUT);
		if (!strstr(rig.f.text, rows[i].words))
			fail_msg("\"%s\" not in \"%s\"", rows[i].words, rig.f.text);
	}
	assert_false(relation_read(span_str("[]"), &rig.a, &rel, &rig.f));
	assert_false(relation_read(span(NULL, 0), &rig.a, &rel, &rig.f));
}

static void the_shape_is_name_type_typmod_and_key_in_order(void **state)
{
	struct column columns[3];
	struct relation a = *orders(), b = a;

	memcpy(columns, a.columns, sizeof(columns));
	b.columns = columns;
	b.version = 3;
	b.fingerprint = 1;
	b.target_table = span_str("elsewhere");
	assert_true(relation_same_shape(&a, &b));
	columns[1].typmod++;
	assert_false(relation_same_shape(&a, &b));
	columns[1] = a.columns[1];
	columns[1].type_oid++;
	assert_false(relation_same_shape(&a, &b));
	columns[1] = a.columns[1];
	columns[1].name = span_str("totals");
	assert_false(relation_same_shape(&a, &b));
	columns[1] = a.columns[1];
	columns[1].is_key = true;
	assert_false(relation_same_shape(&a, &b));
	columns[1] = a.columns[2];
	columns[2] = a.columns[1];
	assert_false(relation_same_shape(&a, &b));
	memcpy(columns, a.columns, sizeof(columns));
	b.identity = 'f';
	assert_false(relation_same_shape(&a, &b));
	b.identity = 'd';
	b.keyless = true;
	assert_false(relation_same_shape(&a, &b));
	b.keyless = false;
	b.column_count = 2;
	assert_false(relation_same_shape(&a, &b));
}

static void the_mapping_is_all_that_decides_what_is_on_the_target(void **state)
{
	struct column columns[3];
	struct computed computed;
	struct relation a = *orders(), b = a;

	memcpy(columns, a.columns, sizeof(columns));
	computed = a.computed[0];
	b.columns = columns;
	b.computed = &computed;
	b.version = 3;
	assert_true(relation_same_mapping(&a, &b));
	b.target_table = span_str("elsewhere");
	assert_false(relation_same_mapping(&a, &b));
	b.target_table = a.target_table;
	columns[0].target = span_str("x");
	assert_false(relation_same_mapping(&a, &b));
	columns[0].target = a.columns[0].target;
	columns[1].is_dropped = true;
	assert_false(relation_same_mapping(&a, &b));
	columns[1].is_dropped = false;
	computed.as.sql = span_str("total * 10");
	assert_false(relation_same_mapping(&a, &b));
	computed = a.computed[0];
	b.filter.sql = span(NULL, 0);
	assert_false(relation_same_mapping(&a, &b));
	b.filter = a.filter;
	b.origin_value = span_str("us");
	assert_false(relation_same_mapping(&a, &b));
	b.origin_value = a.origin_value;
	b.computed_count = 0;
	assert_false(relation_same_mapping(&a, &b));
}

/* --- keys --- */

static const char *key(const struct relation *rel, int64_t a, const char *b)
{
	struct value values[3] = { { .state = VALUE_IS_NATIVE, .i = a },
				   { .state = VALUE_IS_NULL },
				   { .state = VALUE_IS_NATIVE, .bytes = span_str(b) } };

	buf_reset(&rig.out);
	if (!relation_key(rel, values, &rig.out, &rig.f))
		fail_msg("%s", rig.f.text);
	return buf_cstr(&rig.out);
}

static void a_key_is_the_target_table_and_the_key_columns_in_column_order(void **state)
{
	struct relation plain = *orders();

	plain.origin_column = plain.origin_value = span(NULL, 0);
	assert_string_equal(key(&plain, -7, "x"), "[\"sales\",\"o d\",\"-7\",\"x\"]");
	/* What tells merged tables apart is part of it. */
	assert_string_equal(key(orders(), -7, "x"), "[\"sales\",\"o d\",\"eu\",\"-7\",\"x\"]");
}

static void a_key_is_valid_json_whatever_is_in_it(void **state)
{
	struct relation *rel = orders();

	assert_string_equal(
	    key(rel, 1, "a\"b\\c/\b\n\x1f\x7fgrün"),
	    "[\"sales\",\"o d\",\"eu\",\"1\",\"a\\\"b\\\\c/\\u0008\\u000a\\u001f\x7fgrün\"]");
	assert_string_equal(key(rel, 1, "\"\"\""), "[\"sales\",\"o d\",\"eu\",\"1\",\"\\\"\\\"\\\"\"]");
	assert_string_equal(key(rel, 1, ""), "[\"sales\",\"o d\",\"eu\",\"1\",\"\"]");
	rel->origin_column = rel->origin_value = span(NULL, 0);
	rel->target_schema = span_str("s\"1");
	rel->target_table = span_str("t\\\t");
	assert_string_equal(key(rel, 1, ""), "[\"s\\\"1\",\"t\\\\\\u0009\",\"1\",\"\"]");
}

static void the_key_of_a_keyless_table_is_the_table(void **state)
{
	struct relation *rel = orders();

	rel->keyless = true;
	assert_string_equal(key(rel, 1, "x"), "[\"sales\",\"o d\",\"eu\"]");
}

static void a_null_in_a_key_is_refused(void **state)
{
	struct value values[3] = { { .state = VALUE_IS_NULL } };

	assert_false(relation_key(orders(), values, &rig.out, &rig.f));
	assert_string_equal(rig.f.text, "table public.orders: key column a is null");
	values[0].state = VALUE_IS_UNCHANGED;
	assert_false(relation_key(orders(), values, &rig.out, &rig.f));
	assert_non_null(strstr(rig.f.text, "unchanged"));
}

static void a_key_that_does_not_fit_is_refused(void **state)
{
	struct value values[3] = { { .state = VALUE_IS_NATIVE },
				   { .state = VALUE_IS_NULL },
				   { .state = VALUE_IS_NATIVE,
				     .bytes = span_str("\"\"\"\"\"\"\"\"") } };
	struct buf small;

	buf_init(&small, 30);
	assert_false(relation_key(orders(), values, &small, &rig.f));
	buf_release(&small);
}

/* --- partitions --- */

/* These numbers are for ever: records of a migration that runs are where they say. */
static void partitions_are_stable(void **state)
{
	struct relation *rel = orders();

	rel->origin_column = rel->origin_value = span(NULL, 0);
	assert_int_equal(relation_partition(rel, span_str("[\"sales\",\"o d\",\"1\",\"x\"]"), 12),
			 6);
	assert_int_equal(relation_partition(rel, span_str("[\"sales\",\"o d\",\"2\",\"x\"]"), 12),
			 7);
	assert_int_equal(relation_partition(rel, span_str("[\"sales\",\"o d\",\"2\",\"x\"]"), 1),
			 0);
	rel->routing = ROUTE_TABLE;
	assert_int_equal(relation_partition(rel, span_str("[\"sales\",\"o d\",\"2\",\"x\"]"), 12),
			 5);
}

static void keys_spread_over_the_partitions(void **state)
{
	struct relation *rel = orders();
	int seen[12] = { 0 };

	for (int i = 0; i < 12000; i++) {
		key(rel, i, "x");
		seen[relation_partition(rel, buf_span(&rig.out), 12)]++;
	}
	for (int p = 0; p < 12; p++)
		assert_in_range(seen[p], 800, 1200);
}

static void a_table_routed_as_a_whole_is_in_one_partition(void **state)
{
	struct relation *rel = orders();
	int first;

	rel->routing = ROUTE_TABLE;
	rel->target_table = span_str("a\"],\\");
	key(rel, 0, "x");
	first = relation_partition(rel, buf_span(&rig.out), 64);
	for (int i = 0; i < 1000; i++) {
		key(rel, i, "y\"");
		assert_int_equal(relation_partition(rel, buf_span(&rig.out), 64), first);
	}
	rel->routing = ROUTE_KEY;
	rel->keyless = true;
	key(rel, 0, "x");
	assert_int_equal(relation_partition(rel, buf_span(&rig.out), 64), first);
}

static void a_family_shares_a_partition_while_its_copied_rows_spread(void **state)
{
	struct relation *rel = orders();
	int by_key, spread = 0;

	for (int i = 0; i < 1000; i++) {
		rel->target_table = span_str(i % 2 ? "a" : "b");
		rel->family = span_str("sales.a");
		key(rel, i, "x");
		rel->routing = ROUTE_KEY;
		by_key = relation_partition(rel, buf_span(&rig.out), 64);
		rel->routing = ROUTE_GROUP;
		assert_int_equal(relation_partition(rel, buf_span(&rig.out), 64), 51);
		assert_int_equal(relation_copy_partition(rel, buf_span(&rig.out), 64), by_key);
		spread += by_key != 51;
		rel->family = span_str("sales.c");
		assert_int_not_equal(relation_partition(rel, buf_span(&rig.out), 64), 51);
	}
	assert_in_range(spread, 900, 1000);
}

/* All changes are in one partition, while copied rows spread as they always do. */
static void with_whole_transactions_only_changes_share_a_partition(void **state)
{
	struct relation *rel = orders();
	int seen[12] = { 0 };

	for (int i = 0; i < 12000; i++) {
		int by_key;

		key(rel, i, "x");
		rel->routing = ROUTE_KEY;
		by_key = relation_partition(rel, buf_span(&rig.out), 12);
		rel->routing = ROUTE_TRANSACTION;
		assert_int_equal(relation_partition(rel, buf_span(&rig.out), 12),
				 RELATION_TRANSACTION_PARTITION);
		assert_int_equal(relation_copy_partition(rel, buf_span(&rig.out), 12), by_key);
		seen[by_key]++;
	}
	for (int p = 0; p < 12; p++)
		assert_in_range(seen[p], 800, 1200);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_relation_is_written_like_this),
		TEST(a_relation_comes_back_as_it_was),
		TEST(what_was_read_does_not_point_into_the_text),
		TEST(the_key_of_a_record_says_which_version_it_is),
		TEST(anything_else_is_refused),
		TEST(the_shape_is_name_type_typmod_and_key_in_order),
		TEST(the_mapping_is_all_that_decides_what_is_on_the_target),
		TEST(a_key_is_the_target_table_and_the_key_columns_in_column_order),
		TEST(a_key_is_valid_json_whatever_is_in_it),
		TEST(the_key_of_a_keyless_table_is_the_table),
		TEST(a_null_in_a_key_is_refused),
		TEST(a_key_that_does_not_fit_is_refused),
		TEST(partitions_are_stable),
		TEST(keys_spread_over_the_partitions),
		TEST(a_table_routed_as_a_whole_is_in_one_partition),
		TEST(a_family_shares_a_partition_while_its_copied_rows_spread),
		TEST(with_whole_transactions_only_changes_share_a_partition),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
