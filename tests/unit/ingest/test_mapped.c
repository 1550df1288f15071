// SPDX-License-Identifier: Apache-2.0
/* What the file's mapping makes of a relation: names, computed columns, filter, origin, mistakes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "ingest/mapped.h"

#define BASE                                                                                       \
	"migration: shop\nsource: {uri: \"host=old dbname=a\"}\ntarget: {uri: \"host=new dbname=b\"}\n" \
	"kafka: {bootstrap.servers: h}\ntables: {include: [\"public.*\"]}\n"

enum { ID, CUSTOMER, NOTE, CENTS, COLUMNS };

static struct {
	struct migration m;
	struct arena a;
	struct column columns[2][COLUMNS];
	struct relation rel[2];
	struct facts_column facts_columns[COLUMNS];
	struct facts_table facts;
	struct mistakes mistakes;
} rig;

static int set_up(void **state)
{
	static const char *const names[COLUMNS] = { "id", "customer", "note", "cents" };

	memset(&rig, 0, sizeof(rig));
	arena_init(&rig.a, 1 << 20);
	for (int r = 0; r < 2; r++) {
		rig.rel[r] = (struct relation) {
			.oid = 1 + (uint32_t)r,
			.schema = span_str("public"),
			.table = span_str(r ? "others" : "orders"),
			.root_schema = span_str("public"),
			.root_table = span_str(r ? "others" : "orders"),
			.identity = 'd',
			.columns = rig.columns[r],
			.column_count = COLUMNS,
			.key_count = 1,
		};
		for (int i = 0; i < COLUMNS; i++)
			rig.columns[r][i] = (struct column) { .name = span_str(names[i]), .is_key = i == ID };
	}
	for (int i = 0; i < COLUMNS; i++)
		rig.facts_columns[i] = (struct facts_column) { .name = span_str(names[i]),
							       .is_toastable = i == NOTE };
	rig.facts = (struct facts_table) { .rel = &rig.rel[0],
					   .columns = rig.facts_columns,
					   .column_count = COLUMNS };
	*state = NULL;
	return 0;
}

static int tear_down(void **state)
{
	migration_release(&rig.m);
	arena_release(&rig.a);
	return 0;
}

static void apply(const char *yaml)
{
	char text[2000];
	struct fault f = { 0 };

	snprintf(text, sizeof(text), "%s%s", BASE, yaml);
	if (!migration_parse(&rig.m, "m.yaml", span_str(text), &f))
		fail_msg("%s", f.text);
	mapped_apply(&rig.m, &rig.a, &rig.rel[0]);
	mapped_apply(&rig.m, &rig.a, &rig.rel[1]);
}

static void reads(struct expression *e, uint32_t first, int second)
{
	uint32_t *inputs = arena_alloc(&rig.a, 2 * sizeof(*inputs));

	inputs[0] = first;
	inputs[1] = (uint32_t)second;
	e->inputs = inputs;
	e->input_count = second < 0 ? 1 : 2;
}

static void assert_mistake(size_t i, const char *word)
{
	if (rig.mistakes.count <= i || !strstr(rig.mistakes.texts[i], word))
		fail_msg("mistake %zu lacks \"%s\": %s", i, word,
			 rig.mistakes.count > i ? rig.mistakes.texts[i] : "(none)");
}

static void without_a_mapping_everything_keeps_its_name(void **state)
{
	apply("");
	assert_true(span_eq_str(rig.rel[0].target_schema, "public"));
	assert_true(span_eq_str(rig.rel[0].target_table, "orders"));
	for (int i = 0; i < COLUMNS; i++)
		assert_true(span_eq(rig.columns[0][i].target, rig.columns[0][i].name));
	assert_true(relation_is_plain(&rig.rel[0]));
}

static void columns_are_renamed_dropped_or_only_read(void **state)
{
	apply("schema_mapping: [{from: public.orders, to: sales.o, columns: {customer: who, note: ~, cents: {to: ~}}}]\n");
	assert_true(span_eq_str(rig.rel[0].target_schema, "sales"));
	assert_true(span_eq_str(rig.rel[0].target_table, "o"));
	assert_true(span_eq_str(rig.columns[0][CUSTOMER].target, "who"));
	assert_true(rig.columns[0][NOTE].is_dropped);
	assert_null(rig.columns[0][NOTE].target.p);
	assert_false(rig.columns[0][CENTS].is_dropped);
	assert_null(rig.columns[0][CENTS].target.p);
	assert_true(span_eq_str(rig.rel[1].target_table, "others"));
	mapped_check(&rig.m, &rig.a, &rig.facts, false, &rig.mistakes);
	assert_int_equal(rig.mistakes.count, 0);
}

static void a_computed_column_takes_the_place_of_the_one_of_its_name(void **state)
{
	apply("transformation_rules: [{table: public.orders, column: id, as: id * 2}, {table: public.orders, column: new, as: cents}]\n");
	assert_int_equal(rig.rel[0].computed_count, 2);
	assert_true(rig.rel[0].computed[0].is_key);
	assert_null(rig.columns[0][ID].target.p);
	assert_false(rig.rel[0].computed[1].is_key);
	assert_true(relation_fills(&rig.rel[0], span_str("id")));
	assert_true(relation_fills(&rig.rel[0], span_str("new")));
	assert_int_equal(rig.rel[1].computed_count, 0);
	reads(&rig.rel[0].computed[0].as, ID, CENTS);
	mapped_check(&rig.m, &rig.a, &rig.facts, false, &rig.mistakes);
	assert_mistake(0, "m.yaml:6: transformation_rules: column \"id\" is part of the key");
}

static void a_rule_over_several_columns_needs_them_all(void **state)
{
	apply("transformation_rules: [{table: public.orders, column: new, as: note || cents}]\n");
	reads(&rig.rel[0].computed[0].as, NOTE, -1);
	mapped_check(&rig.m, &rig.a, &rig.facts, false, &rig.mistakes);
	assert_int_equal(rig.mistakes.count, 0);
	reads(&rig.rel[0].computed[0].as, NOTE, CENTS);
	mapped_check(&rig.m, &rig.a, &rig.facts, false, &rig.mistakes);
	assert_mistake(0, "REPLICA IDENTITY FULL");
	rig.mistakes.count = 0;
	rig.rel[0].identity = 'f';
	mapped_check(&rig.m, &rig.a, &rig.facts, false, &rig.mistakes);
	assert_int_equal(rig.mistakes.count, 0);
}

static void a_filter_needs_the_old_row_or_the_key_alone(void **state)
{
	apply("transformation_rules: [{table: public.orders, where: cents > 0}]\n");
	reads(&rig.rel[0].filter, CENTS, -1);
	mapped_check(&rig.m, &rig.a, &rig.facts, false, &rig.mistakes);
	assert_mistake(0, "not part of its replica identity");
	reads(&rig.rel[0].filter, ID, -1);
	mapped_check(&rig.m, &rig.a, &rig.facts, false, &rig.mistakes);
	assert_mistake(1, "out of line");
	rig.facts_columns[NOTE].is_toastable = false;
	mapped_check(&rig.m, &rig.a, &rig.facts, false, &rig.mistakes);
	assert_int_equal(rig.mistakes.count, 2);
	rig.facts_columns[NOTE].is_toastable = true;
	rig.rel[0].identity = 'f';
	reads(&rig.rel[0].filter, CENTS, -1);
	mapped_check(&rig.m, &rig.a, &rig.facts, false, &rig.mistakes);
	assert_int_equal(rig.mistakes.count, 2);
}

static void tables_are_merged_by_an_origin_that_differs(void **state)
{
	struct relation *relations[] = { &rig.rel[0], &rig.rel[1] };

	apply("schema_mapping:\n- {from: public.orders, to: x.y, origin: {column: o, value: a}}\n"
	      "- {from: public.others, to: x.y, origin: {column: o, value: b}}\n");
	mapped_check_all(&rig.m, &rig.a, relations, 2, &rig.mistakes);
	assert_int_equal(rig.mistakes.count, 0);
	rig.rel[1].origin_value = span_str("a");
	mapped_check_all(&rig.m, &rig.a, relations, 2, &rig.mistakes);
	assert_mistake(0, "m.yaml:8: schema_mapping.origin");
	rig.rel[1].origin_column = rig.rel[1].origin_value = span(NULL, 0);
	mapped_check_all(&rig.m, &rig.a, relations, 2, &rig.mistakes);
	assert_mistake(1, "nothing tells their rows apart");
	rig.rel[1].target_table = span_str("z");
	mapped_check_all(&rig.m, &rig.a, relations, 2, &rig.mistakes);
	assert_int_equal(rig.mistakes.count, 2);
}

#define unit(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		unit(without_a_mapping_everything_keeps_its_name),
		unit(columns_are_renamed_dropped_or_only_read),
		unit(a_computed_column_takes_the_place_of_the_one_of_its_name),
		unit(a_rule_over_several_columns_needs_them_all),
		unit(a_filter_needs_the_old_row_or_the_key_alone),
		unit(tables_are_merged_by_an_origin_that_differs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
