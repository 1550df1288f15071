// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/buf.h"
#include "shadow/reshape.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define S(text) { text, sizeof(text) - 1 }

static const char head[] =
	"migration: m\nsource: {uri: \"service=a\"}\ntarget: {uri: \"service=b\"}\n"
	"kafka: {bootstrap.servers: k}\ntables: {include: [\"public.*\"]}\n";

struct test {
	struct migration m;
	struct reshape_facts facts;
	struct arena a;
	struct fault f;
};

static void setup(struct test *t, const char *yaml, struct reshape_table *tables, size_t n)
{
	struct buf b;

	*t = (struct test) { .facts = { tables, n } };
	arena_init(&t->a, 1 << 20);
	buf_init(&b, 1 << 16);
	buf_str(&b, head);
	buf_str(&b, yaml);
	if (!migration_parse(&t->m, "m.yaml", buf_span(&b), &t->f))
		fail_msg("%s", t->f.text);
	buf_release(&b);
}

static void teardown(struct test *t)
{
	migration_release(&t->m);
	arena_release(&t->a);
}

typedef bool make_plan(const struct migration *m, const struct reshape_facts *x, struct arena *a,
		       struct reshape_plan *ret, struct fault *f);

/* The plan as text, a step a line. */
static void assert_plan(struct test *t, make_plan *make, const char *expected)
{
	struct reshape_plan plan;
	struct buf b;

	if (!make(&t->m, &t->facts, &t->a, &plan, &t->f))
		fail_msg("%s", t->f.text);
	buf_init(&b, 1 << 16);
	for (size_t i = 0; i < plan.count; i++) {
		buf_str(&b, plan.steps[i].sql);
		if (plan.steps[i].otherwise)
			buf_printf(&b, "\n  else %s", plan.steps[i].otherwise);
		buf_str(&b, "\n");
	}
	assert_string_equal(buf_cstr(&b), expected);
	buf_release(&b);
}

static struct reshape_column order_columns[] = {
	{ .name = S("id"), .is_identity = true },
	{ .name = S("cust") },
	{ .name = S("n"), .sequence = S("public.orders_n_seq") },
	{ .name = S("note") },
	{ .name = S("made"), .is_generated = true },
};
static struct reshape_table orders[] = {
	{ .oid = 1, .root_oid = 1, .kind = 'r', .schema = S("public"), .name = S("orders"), .columns = order_columns,
	  .column_count = COUNT(order_columns) },
};

static void types_change_with_their_sequences(void **state)
{
	struct test t;

	(void)state;
	setup(&t,
	      "schema_mapping: [{from: public.orders, to: sales.orders, columns: {id: {to: key, type: bigint}, "
	      "n: {to: n, type: \"numeric(9,2)\"}, note: {to: ~, type: text}}}]\n"
	      "transformation_rules: [{table: sales.orders, column: made, as: \"1\"}]\n",
	      orders, 1);
	assert_true(reshape_is_wanted(&t.m.mappings));
	assert_plan(&t, reshape_plan_types,
		    "ALTER TABLE \"public\".\"orders\" ALTER COLUMN \"id\" TYPE bigint USING CAST(NULL AS bigint)\n"
		    "  else ALTER TABLE \"public\".\"orders\" ALTER COLUMN \"id\" DROP IDENTITY; "
		    "ALTER TABLE \"public\".\"orders\" ALTER COLUMN \"id\" TYPE bigint USING CAST(NULL AS bigint)\n"
		    "ALTER TABLE \"public\".\"orders\" ALTER COLUMN \"n\" TYPE numeric(9,2) USING CAST(NULL AS numeric(9,2))\n"
		    "  else ALTER TABLE \"public\".\"orders\" ALTER COLUMN \"n\" DROP DEFAULT; "
		    "ALTER TABLE \"public\".\"orders\" ALTER COLUMN \"n\" TYPE numeric(9,2) USING CAST(NULL AS numeric(9,2))\n"
		    "ALTER SEQUENCE public.orders_n_seq AS bigint\n"
		    "ALTER TABLE \"public\".\"orders\" ALTER COLUMN \"made\" DROP EXPRESSION\n");
	teardown(&t);
}

static void a_rule_wins_over_the_mapping_s_type(void **state)
{
	struct test t;
	struct reshape_plan plan;

	(void)state;
	setup(&t,
	      "schema_mapping: [{from: public.orders, to: sales.orders, columns: {cust: {to: who, type: bigint}}}]\n"
	      "transformation_rules: [{table: sales.orders, column: who, type: text, as: \"cust::text\"}]\n",
	      orders, 1);
	assert_true(reshape_plan_types(&t.m, &t.facts, &t.a, &plan, &t.f));
	assert_int_equal(plan.count, 1);
	assert_string_equal(plan.steps[0].type, "text");
	assert_int_equal(plan.steps[0].line, 7);
	assert_plan(&t, reshape_plan_losses, "");
	teardown(&t);
}

static void dropped_and_not_written_columns_go(void **state)
{
	struct test t;

	(void)state;
	setup(&t, "schema_mapping: [{from: public.orders, to: public.orders, columns: {note: ~, cust: {to: ~}}}]\n", orders, 1);
	assert_plan(&t, reshape_plan_losses, "ALTER TABLE \"public\".\"orders\" DROP COLUMN \"cust\" CASCADE\n"
					     "ALTER TABLE \"public\".\"orders\" DROP COLUMN \"note\" CASCADE\n");
	teardown(&t);
}

static void columns_swap_by_way_of_other_names(void **state)
{
	struct test t;

	(void)state;
	setup(&t,
	      "schema_mapping: [{from: public.orders, to: public.orders, columns: {id: cust, cust: id}}]\n"
	      "transformation_rules: [{table: public.orders, column: total, type: int, as: \"1\"}]\n",
	      orders, 1);
	assert_plan(&t, reshape_plan_names,
		    "ALTER TABLE \"public\".\"orders\" RENAME COLUMN \"id\" TO \"foreshadow column 0\"\n"
		    "ALTER TABLE \"public\".\"orders\" RENAME COLUMN \"cust\" TO \"foreshadow column 1\"\n"
		    "ALTER TABLE \"public\".\"orders\" RENAME COLUMN \"foreshadow column 0\" TO \"cust\"\n"
		    "ALTER TABLE \"public\".\"orders\" RENAME COLUMN \"foreshadow column 1\" TO \"id\"\n"
		    "ALTER TABLE \"public\".\"orders\" ADD COLUMN \"total\" int\n");
	teardown(&t);
}

static void tables_swap_by_way_of_schemas_of_their_own(void **state)
{
	static struct span x_index[] = { S("x_pkey") }, y_index[] = { S("y_pkey") };
	struct reshape_table tables[] = {
		{ .oid = 1, .root_oid = 1, .kind = 'r', .schema = S("public"), .name = S("x"), .companions = x_index, .companion_count = 1 },
		{ .oid = 2, .root_oid = 2, .kind = 'r', .schema = S("public"), .name = S("y"), .companions = y_index, .companion_count = 1 },
		{ .oid = 3, .root_oid = 3, .kind = 'r', .schema = S("public"), .name = S("z") },
	};
	struct test t;

	(void)state;
	setup(&t, "schema_mapping: [{from: public.x, to: public.y}, {from: public.y, to: public.x}]\n", tables, COUNT(tables));
	assert_plan(&t, reshape_plan_names,
		    "CREATE SCHEMA IF NOT EXISTS \"public\"\n"
		    "CREATE SCHEMA \"foreshadow table 0\"\n"
		    "ALTER TABLE \"public\".\"x\" SET SCHEMA \"foreshadow table 0\"\n"
		    "ALTER TABLE \"foreshadow table 0\".\"x\" RENAME TO \"y\"\n"
		    "CREATE SCHEMA \"foreshadow table 1\"\n"
		    "ALTER TABLE \"public\".\"y\" SET SCHEMA \"foreshadow table 1\"\n"
		    "ALTER TABLE \"foreshadow table 1\".\"y\" RENAME TO \"x\"\n"
		    "ALTER TABLE \"foreshadow table 0\".\"y\" SET SCHEMA \"public\"\n"
		    "DROP SCHEMA \"foreshadow table 0\"\n"
		    "ALTER TABLE \"foreshadow table 1\".\"x\" SET SCHEMA \"public\"\n"
		    "DROP SCHEMA \"foreshadow table 1\"\n");
	teardown(&t);
}

/* Two tables bring an index of one name, and the next free one is taken already. */
static void indexes_make_way_for_each_other(void **state)
{
	static struct span taken[] = { S("i_1"), S("i") }, brought[] = { S("i") };
	struct reshape_table tables[] = {
		{ .oid = 1, .root_oid = 1, .kind = 'r', .schema = S("a"), .name = S("t"), .companions = brought, .companion_count = 1 },
		{ .oid = 2, .root_oid = 2, .kind = 'r', .schema = S("public"), .name = S("u"), .companions = taken, .companion_count = 2 },
	};
	struct test t;

	(void)state;
	setup(&t, "schema_mapping: [{from: a.t, to: public.t}]\n", tables, COUNT(tables));
	assert_plan(&t, reshape_plan_names,
		    "CREATE SCHEMA IF NOT EXISTS \"public\"\n"
		    "CREATE SCHEMA \"foreshadow table 0\"\n"
		    "ALTER TABLE \"a\".\"t\" SET SCHEMA \"foreshadow table 0\"\n"
		    "ALTER TABLE \"foreshadow table 0\".\"i\" RENAME TO \"i_2\"\n"
		    "ALTER TABLE \"foreshadow table 0\".\"t\" SET SCHEMA \"public\"\n"
		    "DROP SCHEMA \"foreshadow table 0\"\n");
	teardown(&t);
}

static void partitions_and_sequences_follow_by_name_only(void **state)
{
	static struct reshape_column columns[] = { { .name = S("id") } };
	struct reshape_table tables[] = {
		{ .oid = 2, .root_oid = 1, .kind = 'r', .schema = S("parts"), .name = S("leaf"), .columns = columns, .column_count = 1 },
		{ .oid = 3, .root_oid = 3, .kind = 'S', .schema = S("public"), .name = S("numbers") },
		{ .oid = 1, .root_oid = 1, .kind = 'p', .schema = S("public"), .name = S("root"), .columns = columns, .column_count = 1 },
	};
	struct test t;

	(void)state;
	setup(&t, "schema_mapping: [{from: public.root, to: public.root, columns: {id: key}}, {from: \"public.*\", to: \"s.*\"}, "
		  "{from: \"parts.*\", to: \"s.*\"}]\n", tables, COUNT(tables));
	assert_plan(&t, reshape_plan_names,
		    "ALTER TABLE \"public\".\"root\" RENAME COLUMN \"id\" TO \"foreshadow column 0\"\n"
		    "ALTER TABLE \"public\".\"root\" RENAME COLUMN \"foreshadow column 0\" TO \"key\"\n"
		    "CREATE SCHEMA IF NOT EXISTS \"s\"\n"
		    "CREATE SCHEMA \"foreshadow table 0\"\n"
		    "ALTER TABLE \"parts\".\"leaf\" SET SCHEMA \"foreshadow table 0\"\n"
		    "CREATE SCHEMA \"foreshadow table 1\"\n"
		    "ALTER SEQUENCE \"public\".\"numbers\" SET SCHEMA \"foreshadow table 1\"\n"
		    "ALTER TABLE \"foreshadow table 0\".\"leaf\" SET SCHEMA \"s\"\n"
		    "DROP SCHEMA \"foreshadow table 0\"\n"
		    "ALTER SEQUENCE \"foreshadow table 1\".\"numbers\" SET SCHEMA \"s\"\n"
		    "DROP SCHEMA \"foreshadow table 1\"\n");
	teardown(&t);
}

/* ---- merged tables ---- */

static const char merging[] =
	"schema_mapping:\n"
	"  - {from: b.items, to: public.items, origin: {column: shop, value: us}}\n"
	"  - {from: a.items, to: public.items, origin: {column: shop, value: eu}}\n";
static struct reshape_column item_columns[] = { { .name = S("id") }, { .name = S("code") } };
static struct reshape_index a_indexes[] = {
	{ .name = S("items_pkey"), .head = S("PRIMARY KEY ("), .rest = S("id)"), .is_key = true, .is_constraint = true },
	{ .name = S("items_code"), .head = S("UNIQUE ("), .rest = S("code)"), .is_constraint = true },
};
static struct reshape_index b_indexes[] = {
	{ .name = S("by_code"), .head = S("CREATE UNIQUE INDEX by_code ON b.items USING btree ("), .rest = S("code) INCLUDE (id)"),
	  .is_key = true, .is_replica_identity = true },
};
static struct reshape_reference b_references[] = { { S("constraint x of public.lines"), 9 } };

static void merged_tables_are_one_with_the_origin_in_front_of_the_key(void **state)
{
	struct reshape_table tables[] = {
		{ .oid = 1, .root_oid = 1, .kind = 'r', .schema = S("a"), .name = S("items"), .columns = item_columns, .column_count = 2,
		  .indexes = a_indexes, .index_count = 2 },
		{ .oid = 2, .root_oid = 2, .kind = 'r', .schema = S("b"), .name = S("items"), .columns = item_columns, .column_count = 2,
		  .indexes = b_indexes, .index_count = 1 },
	};
	struct test t;

	(void)state;
	setup(&t, merging, tables, COUNT(tables));
	/* b.items is first in the file */
	assert_plan(&t, reshape_plan_names,
		    "DROP TABLE \"a\".\"items\"\n"
		    "ALTER TABLE \"b\".\"items\" ADD COLUMN \"foreshadow column 2\" text NOT NULL\n"
		    "DROP INDEX \"b\".\"by_code\"\n"
		    "CREATE UNIQUE INDEX by_code ON b.items USING btree (\"foreshadow column 2\", code) INCLUDE (id)\n"
		    "ALTER TABLE \"b\".\"items\" REPLICA IDENTITY USING INDEX \"by_code\"\n"
		    "ALTER TABLE \"b\".\"items\" RENAME COLUMN \"foreshadow column 2\" TO \"shop\"\n"
		    "CREATE SCHEMA IF NOT EXISTS \"public\"\n"
		    "CREATE SCHEMA \"foreshadow table 1\"\n"
		    "ALTER TABLE \"b\".\"items\" SET SCHEMA \"foreshadow table 1\"\n"
		    "ALTER TABLE \"foreshadow table 1\".\"items\" SET SCHEMA \"public\"\n"
		    "DROP SCHEMA \"foreshadow table 1\"\n");
	teardown(&t);
}

static void what_cannot_be_merged_is_named(void **state)
{
	struct reshape_table unique[] = {
		{ .oid = 1, .root_oid = 1, .kind = 'r', .schema = S("b"), .name = S("items"), .columns = item_columns, .column_count = 2,
		  .indexes = a_indexes, .index_count = 2 },
	};
	struct reshape_table referred[] = {
		{ .oid = 1, .root_oid = 1, .kind = 'r', .schema = S("b"), .name = S("items"), .columns = item_columns, .column_count = 2,
		  .indexes = b_indexes, .index_count = 1, .references = b_references, .reference_count = 1 },
	};
	struct reshape_plan plan;
	struct test t;

	(void)state;
	setup(&t, merging, unique, 1);
	assert_false(reshape_plan_names(&t.m, &t.facts, &t.a, &plan, &t.f));
	assert_int_equal(t.f.kind, FAULT_STOP);
	assert_non_null(strstr(t.f.text, "m.yaml:7: schema_mapping: b.items"));
	assert_non_null(strstr(t.f.text, "(items_code)"));
	assert_non_null(strstr(t.f.text, "schema: exists"));
	t.facts = (struct reshape_facts) { referred, 1 };
	assert_false(reshape_plan_names(&t.m, &t.facts, &t.a, &plan, &t.f));
	assert_non_null(strstr(t.f.text, "(constraint x of public.lines)"));
	teardown(&t);
}

static void a_file_that_keeps_shapes_needs_nothing(void **state)
{
	struct test t;

	(void)state;
	setup(&t, "transformation_rules: [{table: public.orders, where: \"id > 1\"}, {table: public.orders, column: note, as: \"upper(note)\"}]\n",
	      orders, 1);
	assert_false(reshape_is_wanted(&t.m.mappings));
	assert_plan(&t, reshape_plan_types, "");
	assert_plan(&t, reshape_plan_losses, "");
	assert_plan(&t, reshape_plan_names, "");
	teardown(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(types_change_with_their_sequences),
		cmocka_unit_test(a_rule_wins_over_the_mapping_s_type),
		cmocka_unit_test(dropped_and_not_written_columns_go),
		cmocka_unit_test(columns_swap_by_way_of_other_names),
		cmocka_unit_test(tables_swap_by_way_of_schemas_of_their_own),
		cmocka_unit_test(indexes_make_way_for_each_other),
		cmocka_unit_test(partitions_and_sequences_follow_by_name_only),
		cmocka_unit_test(merged_tables_are_one_with_the_origin_in_front_of_the_key),
		cmocka_unit_test(what_cannot_be_merged_is_named),
		cmocka_unit_test(a_file_that_keeps_shapes_needs_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
