// SPDX-License-Identifier: Apache-2.0
/*
 * The plan of a family: tables p (parent) and c (child, references p), rows (id, key). Executions are shown as text:
 * "insert p 1 2" is one with two rows, "delete? c 1" one that a cascade may have been faster with.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/buf.h"
#include "shadow/plan.h"

enum { P, C, OTHER, TABLES };

static struct arena a;
static struct plan plan;
static struct fault f;
static struct column columns[1];
static struct target_column target_columns[1];
static struct relation rel;
static struct target_table tables[TABLES];
static struct target_parent parent;

static int set_up(void **state)
{
	static const char *const labels[] = { "p", "c", "o" };
	(void)state;
	arena_init(&a, 1 << 24);
	plan_init(&plan, &a);
	columns[0] = (struct column) { .name = span_str("id"), .type = { .kind = VALUE_INT4 }, .is_key = true,
				       .is_identity = true };
	target_columns[0] = (struct target_column) { .name = span_str("id"), .kind = VALUE_INT4, .is_written = true,
						     .is_native = true, .is_key = true };
	rel = (struct relation) { .target_schema = span_str("s"), .target_table = span_str("t"), .identity = 'd',
				  .merge = true, .columns = columns, .column_count = 1, .key_count = 1 };
	parent = (struct target_parent) { .oid = 1, .on_delete = 'c', .on_update = 'c' };
	for (int i = 0; i < TABLES; i++)
		tables[i] = (struct target_table) {
			.rel = &rel, .id = (uint64_t)i + 1, .oid = (uint32_t)i + 1, .label = span_str(labels[i]),
			.columns = target_columns, .column_count = 1, .key_count = 1,
		};
	for (int i = P; i <= C; i++) {
		tables[i].family = span_str("s.c");
		tables[i].is_ordered = true;
	}
	tables[C].parents = &parent;
	tables[C].parent_count = 1;
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	plan_release(&plan);
	arena_release(&a);
	return 0;
}

static struct value *row(int id)
{
	struct value *v = arena_alloc(&a, sizeof(*v));

	*v = (struct value) { .state = VALUE_IS_NATIVE, .i = id };
	return v;
}

static void change(int table, char op, int old, int new, uint64_t commit)
{
	struct plan_change ch = {
		.table = &tables[table], .op = op, .before = old ? row(old) : NULL, .after = new ? row(new) : NULL,
		.commit = { commit },
	};
	struct buf key;

	buf_init(&key, 1 << 16);
	assert_true(relation_key(&rel, ch.after ? ch.after : ch.before, &key, &f));
	ch.key = arena_dup(&a, buf_span(&key));
	buf_release(&key);
	assert_true(plan_add(&plan, &ch, &f));
}

static void inserted(int table, int id, uint64_t commit)
{
	change(table, 'c', 0, id, commit);
}

static void deleted(int table, int id, uint64_t commit)
{
	change(table, 'd', id, 0, commit);
}

static void rekeyed(int table, int old, int new, uint64_t commit)
{
	change(table, 'u', old, new, commit);
}

static void assert_execs(const char *expected)
{
	struct buf out;

	buf_init(&out, 1 << 16);
	for (size_t i = 0; i < plan.exec_count; i++) {
		const struct plan_exec *e = &plan.execs[i];
		bool is_cascaded = e->op == STATEMENT_DELETE_CASCADED || e->op == STATEMENT_REKEY_CASCADED;

		buf_printf(&out, "%s%s %.*s", statement_op_name(e->op), is_cascaded ? "?" : "", SPAN_ARG(e->table->label));
		for (size_t r = 0; r < e->row_count; r++)
			buf_printf(&out, " %d", (int)(e->rows[r].key ? e->rows[r].key : e->rows[r].row)[0].i);
		buf_str(&out, "\n");
	}
	assert_string_equal(buf_cstr(&out), expected);
	buf_release(&out);
}

static void assert_plan(const char *expected)
{
	assert_true(plan_finish(&plan, &f));
	assert_execs(expected);
}

static void changes_keep_their_order_across_tables(void **state)
{
	(void)state;
	inserted(P, 1, 100);
	inserted(P, 2, 100);
	inserted(C, 1, 100);
	deleted(C, 1, 100);
	inserted(C, 1, 200);
	deleted(C, 3, 200);
	deleted(C, 4, 200);
	assert_plan("insert p 1 2\ninsert c 1\ndelete c 1\ninsert c 1\ndelete c 3 4\n");
}

static void other_tables_are_merged_as_ever(void **state)
{
	(void)state;
	inserted(OTHER, 1, 100);
	inserted(P, 1, 100);
	deleted(OTHER, 1, 100);
	inserted(C, 1, 100);
	rekeyed(OTHER, 7, 8, 100);
	assert_plan("insert p 1\ndelete o 7\ninsert o 8\ninsert c 1\n");
}

static void a_key_change_is_an_update_of_the_key(void **state)
{
	(void)state;
	rekeyed(P, 1, 2, 100);
	rekeyed(C, 1, 2, 100);
	rekeyed(C, 3, 4, 200);
	assert_plan("key change p 1\nkey change? c 1\nkey change c 3\n");
}

static void only_what_was_deleted_before_in_the_transaction_explains_a_missing_row(void **state)
{
	(void)state;
	deleted(C, 1, 100);
	deleted(P, 1, 100);
	deleted(C, 2, 100);
	deleted(C, 3, 100);
	deleted(C, 4, 200);
	deleted(P, 5, 200);
	assert_plan("delete c 1\ndelete p 1\ndelete? c 2 3\ndelete c 4\ndelete p 5\n");
	assert_true(plan_sequential(&plan, &f));
	assert_execs("delete c 1\ndelete p 1\ndelete? c 2\ndelete? c 3\ndelete c 4\ndelete p 5\n");
}

static void only_the_action_of_the_key_explains_it(void **state)
{
	(void)state;
	parent.on_delete = 'a';
	rekeyed(P, 1, 2, 100);
	deleted(P, 3, 100);
	deleted(C, 1, 100);
	rekeyed(C, 4, 5, 200);
	assert_plan("key change p 1\ndelete p 3\ndelete c 1\nkey change c 4\n");
	parent = (struct target_parent) { .oid = 1, .on_delete = 'd', .on_update = 'a' };
	assert_true(cascades_note(&plan.after, &tables[P], (struct commit_lsn) { 1 }, true));
	assert_true(cascades_explain(&plan.after, &tables[C], (struct commit_lsn) { 1 }, false));
	assert_false(cascades_explain(&plan.after, &tables[C], (struct commit_lsn) { 1 }, true));
}

/* A column that others reference, and that is not the key. */
static void an_update_of_a_parent_counts_if_more_than_its_key_is_referenced(void **state)
{
	(void)state;
	change(P, 'u', 0, 1, 100);
	rekeyed(C, 1, 2, 100);
	assert_plan("update p 1\nkey change c 1\n");
	tables[P].is_referenced_beside_key = true;
	assert_plan("update p 1\nkey change? c 1\n");
}

static void rounds_of_one_transaction_know_of_each_other(void **state)
{
	(void)state;
	plan_begin(&plan);
	deleted(P, 1, 100);
	assert_plan("delete p 1\n");
	plan_carry(&plan);
	plan_reset(&plan);
	deleted(C, 1, 100);
	deleted(C, 2, 200);
	assert_plan("delete? c 1\ndelete c 2\n");
	plan_reset(&plan);
	plan_begin(&plan);
	deleted(C, 1, 100);
	assert_plan("delete c 1\n");
}

#define unit(t) cmocka_unit_test_setup_teardown(t, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		unit(changes_keep_their_order_across_tables),
		unit(other_tables_are_merged_as_ever),
		unit(a_key_change_is_an_update_of_the_key),
		unit(only_what_was_deleted_before_in_the_transaction_explains_a_missing_row),
		unit(only_the_action_of_the_key_explains_it),
		unit(an_update_of_a_parent_counts_if_more_than_its_key_is_referenced),
		unit(rounds_of_one_transaction_know_of_each_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
