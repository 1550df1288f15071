// SPDX-License-Identifier: Apache-2.0
/*
 * Rows have three columns: id (the key), n, and note, the one that may be unchanged. Executions are
 * shown as text, one a line: "update {n} 1=7,- 2=8,-" sets n of the rows with keys 1 and 2.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/buf.h"
#include "shadow/plan.h"

enum { ID, N, NOTE, COLUMNS };
enum { ARENA_BYTES = 64 << 20, UNCHANGED = -1, GONE = -2 };

struct fixture {
	struct arena arena;
	struct plan plan;
	struct fault fault;
	struct column columns[2][COLUMNS];
	struct relation rel[2];
	struct target_column target_columns[2][COLUMNS];
	struct target_table table[2]; /* two leaves of one target table; the second's columns
					 are in reverse order */
};

/* Where column c stands in leaf l. */
static size_t at(int l, size_t c)
{
	return l == 0 ? c : COLUMNS - 1 - c;
}

static void describe(struct fixture *x, int l)
{
	static const char *const names[COLUMNS] = { "id", "n", "note" };

	x->rel[l] = (struct relation) {
		.oid = 1 + (uint32_t)l,
		.target_schema = span_str("public"),
		.target_table = span_str("t"),
		.identity = 'd',
		.merge = true,
		.columns = x->columns[l],
		.column_count = COLUMNS,
		.key_count = 1,
	};
	x->table[l] = (struct target_table) {
		.rel = &x->rel[l],
		.id = 1 + (uint64_t)l,
		.oid = 77,
		.name = span_str("\"public\".\"t\""),
		.label = span_str("public.t"),
		.columns = x->target_columns[l],
		.column_count = COLUMNS,
		.key_count = 1,
	};
	for (size_t c = 0; c < COLUMNS; c++) {
		x->columns[l][at(l, c)] = (struct column) {
			.name = span_str(names[c]),
			.type = { .kind = VALUE_INT4 },
			.is_key = c == ID,
			.is_identity = c == ID,
		};
		x->target_columns[l][at(l, c)] = (struct target_column) {
			.name = span_str(names[c]),
			.kind = VALUE_INT4,
			.is_written = true,
			.is_native = true,
			.is_key = c == ID,
		};
	}
}

static int set_up(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));

	arena_init(&x->arena, ARENA_BYTES);
	plan_init(&x->plan, &x->arena);
	describe(x, 0);
	describe(x, 1);
	*state = x;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *x = *state;

	arena_release(&x->arena);
	free(x);
	return 0;
}

static struct value number(int i)
{
	return i == UNCHANGED ? (struct value) { .state = VALUE_IS_UNCHANGED }
			      : (struct value) { .state = VALUE_IS_NATIVE, .i = i };
}

static struct value *row(struct fixture *x, int l, int id, int n, int note)
{
	struct value *v = arena_alloc(&x->arena, COLUMNS * sizeof(*v));

	v[at(l, ID)] = number(id);
	v[at(l, N)] = number(n);
	v[at(l, NOTE)] = number(note);
	return v;
}

static bool try_add(struct fixture *x, int l, char op, const struct value *before,
		    const struct value *after)
{
	struct plan_change ch = {
		.table = &x->table[l], .op = op, .before = before, .after = after
	};
	struct buf key;

	buf_init(&key, 1 << 20);
	assert_true(relation_key(&x->rel[l], after ? after : before, &key, &x->fault));
	ch.key = arena_dup(&x->arena, buf_span(&key));
	buf_release(&key);
	return plan_add(&x->plan, &ch, &x->fault);
}

static void add(struct fixture *x, char op, const struct value *before, const struct value *after)
{
	if (!try_add(x, 0, op, before, after))
		fail_msg("%s", x->fault.text);
}

static void inserted(struct fixture *x, int id, int n, int note)
{
	add(x, 'c', NULL, row(x, 0, id, n, note));
}

static void updated(struct fixture *x, int id, int n, int note)
{
	add(x, 'u', NULL, row(x, 0, id, n, note));
}

static void deleted(struct fixture *x, int id)
{
	add(x, 'd', row(x, 0, id, 0, 0), NULL);
}

static void rekeyed(struct fixture *x, int old, int id, int n, int note)
{
	add(x, 'u', row(x, 0, old, 0, 0), row(x, 0, id, n, note));
}

static void show_value(struct buf *out, struct value v)
{
	if (v.state == VALUE_IS_UNCHANGED)
		buf_str(out, "-");
	else
		buf_printf(out, "%d", (int)v.i);
}

static void show_row(struct buf *out, const struct plan_exec *e, const struct plan_row *r)
{
	int l = e->table->id == 2;

	buf_str(out, " ");
	if (r->key)
		show_value(out, r->key[at(l, ID)]);
	if (!r->row)
		return;
	buf_str(out, "=");
	for (size_t c = r->key && e->op != STATEMENT_REKEY ? N : ID; c < COLUMNS; c++) {
		show_value(out, r->row[at(l, c)]);
		if (c + 1 < COLUMNS)
			buf_str(out, ",");
	}
}

static void assert_execs(struct fixture *x, const char *expected)
{
	struct buf out;

	buf_init(&out, 1 << 20);
	for (size_t i = 0; i < x->plan.exec_count; i++) {
		const struct plan_exec *e = &x->plan.execs[i];
		buf_str(&out, statement_op_name(e->op));
		for (size_t r = 0; r < e->row_count; r++)
			show_row(&out, e, &e->rows[r]);
		buf_str(&out, "\n");
	}
	assert_string_equal(buf_cstr(&out), expected);
	buf_release(&out);
}

static void assert_plan(struct fixture *x, const char *expected)
{
	if (!plan_finish(&x->plan, &x->fault))
		fail_msg("%s", x->fault.text);
	assert_execs(x, expected);
}

static void a_plan_of_nothing_is_empty(void **state)
{
	assert_plan(*state, "");
}

static void an_update_of_a_new_row_is_part_of_its_insert(void **state)
{
	inserted(*state, 1, 10, 100);
	updated(*state, 1, 11, UNCHANGED);
	assert_plan(*state, "insert =1,11,100\n");
}

static void updates_of_a_row_become_one_and_unchanged_takes_the_earlier_value(void **state)
{
	updated(*state, 1, 10, 100);
	updated(*state, 1, 11, UNCHANGED);
	assert_plan(*state, "update 1=11,100\n");
}

static void what_no_update_of_a_row_sets_stays_unchanged(void **state)
{
	updated(*state, 1, 10, UNCHANGED);
	updated(*state, 1, 11, UNCHANGED);
	assert_plan(*state, "update 1=11,-\n");
}

static void an_updated_and_deleted_row_is_deleted(void **state)
{
	updated(*state, 1, 10, 100);
	deleted(*state, 1);
	assert_plan(*state, "delete 1\n");
}

/* What a filter said of the row before the batch is asked of the row before the batch. */
static void a_delete_has_the_row_as_it_was_before_all_changes(void **state)
{
	struct fixture *x = *state;
	const struct value *first = row(x, 0, 1, 10, 100);

	add(x, 'u', first, row(x, 0, 1, 11, 100));
	add(x, 'd', row(x, 0, 1, 11, 100), NULL);
	assert_true(plan_finish(&x->plan, &x->fault));
	assert_int_equal(x->plan.exec_count, 1);
	assert_int_equal(x->plan.execs[0].op, STATEMENT_DELETE);
	assert_ptr_equal(x->plan.execs[0].rows[0].key, first);
}

static void a_new_and_deleted_row_is_nothing(void **state)
{
	inserted(*state, 1, 10, 100);
	updated(*state, 1, 11, 100);
	deleted(*state, 1);
	assert_plan(*state, "");
}

static void a_row_deleted_and_inserted_again_is_both_in_this_order(void **state)
{
	deleted(*state, 1);
	inserted(*state, 1, 10, 100);
	updated(*state, 1, 11, UNCHANGED);
	assert_plan(*state, "delete 1\ninsert =1,11,100\n");
}

static void a_replaced_row_that_goes_again_is_deleted_once(void **state)
{
	deleted(*state, 1);
	inserted(*state, 1, 10, 100);
	deleted(*state, 1);
	assert_plan(*state, "delete 1\n");
}

static void updates_are_grouped_by_the_columns_they_set(void **state)
{
	updated(*state, 1, 10, UNCHANGED);
	updated(*state, 2, 20, 200);
	updated(*state, 3, 30, UNCHANGED);
	assert_plan(*state, "update 1=10,- 3=30,-\nupdate 2=20,200\n");
}

static void deletes_come_before_updates_before_inserts(void **state)
{
	inserted(*state, 1, 10, 100);
	updated(*state, 2, 20, 200);
	deleted(*state, 3);
	assert_plan(*state, "delete 3\nupdate 2=20,200\ninsert =1,10,100\n");
}

static void a_second_insert_of_a_row_reaches_the_server(void **state)
{
	inserted(*state, 1, 10, 100);
	inserted(*state, 1, 11, 100);
	assert_plan(*state, "insert =1,10,100\ninsert =1,11,100\n");
}

static void an_update_of_a_deleted_row_reaches_the_server(void **state)
{
	deleted(*state, 1);
	updated(*state, 1, 10, 100);
	deleted(*state, 2);
	deleted(*state, 2);
	assert_plan(*state, "delete 1\ndelete 2\nupdate 1=10,100\ndelete 2\n");
}

static void an_update_of_a_row_that_came_and_went_reaches_the_server(void **state)
{
	inserted(*state, 1, 10, 100);
	deleted(*state, 1);
	updated(*state, 1, 10, 100);
	assert_plan(*state, "update 1=10,100\n");
}

static void a_key_change_with_every_value_is_a_delete_and_an_insert(void **state)
{
	rekeyed(*state, 1, 2, 10, 100);
	assert_plan(*state, "delete 1\ninsert =2,10,100\n");
}

static void a_key_change_takes_unchanged_values_from_the_row_in_the_batch(void **state)
{
	inserted(*state, 1, 10, 100);
	rekeyed(*state, 1, 2, 11, UNCHANGED);
	assert_plan(*state, "insert =2,11,100\n");
}

static void a_key_change_takes_unchanged_values_from_a_full_old_row(void **state)
{
	struct fixture *x = *state;

	x->rel[0].identity = 'f';
	add(x, 'u', row(x, 0, 1, 10, 100), row(x, 0, 2, 11, UNCHANGED));
	assert_plan(x, "delete 1\ninsert =2,11,100\n");
}

static void a_key_change_with_an_unknown_value_runs_between_two_segments(void **state)
{
	updated(*state, 1, 10, UNCHANGED);
	inserted(*state, 5, 50, 500);
	rekeyed(*state, 1, 2, 11, UNCHANGED);
	updated(*state, 2, 12, 200);
	assert_plan(*state, "update 1=10,-\ninsert =5,50,500\nkey change 1=2,11,-\n"
			    "update 2=12,200\n");
}

static void keys_that_change_places_go_through_a_third(void **state)
{
	rekeyed(*state, 1, 3, 10, 100);
	rekeyed(*state, 2, 1, 20, 200);
	rekeyed(*state, 3, 2, 10, 100);
	assert_plan(*state, "delete 1 2\ninsert =1,20,200 =2,10,100\n");
}

static void an_old_row_with_the_same_key_is_no_key_change(void **state)
{
	rekeyed(*state, 1, 1, 10, UNCHANGED);
	assert_plan(*state, "update 1=10,-\n");
}

static void an_ordered_table_keeps_its_order(void **state)
{
	struct fixture *x = *state;

	x->table[0].is_ordered = true;
	inserted(x, 1, 10, 100);
	inserted(x, 2, 20, 200);
	updated(x, 1, 11, UNCHANGED);
	updated(x, 1, 12, UNCHANGED);
	deleted(x, 1);
	deleted(x, 2);
	inserted(x, 1, 10, 100);
	assert_plan(x, "insert =1,10,100 =2,20,200\nupdate 1=11,-\nupdate 1=12,-\ndelete 1 2\n"
		       "insert =1,10,100\n");
}

static void values_that_change_places_are_deleted_and_inserted(void **state)
{
	struct fixture *x = *state;

	x->table[0].is_ordered = x->table[0].can_replace = true;
	updated(x, 1, 20, 100);
	updated(x, 2, 10, 200);
	updated(x, 3, 30, UNCHANGED); /* its row is not known whole */
	updated(x, 1, 21, UNCHANGED);
	assert_true(plan_replacing(&x->plan, &x->fault));
	assert_execs(x, "delete 1 2\nupdate 3=30,-\ninsert =1,21,100 =2,10,200\n");
	assert_plan(x, "update 1=20,100\nupdate 2=10,200\nupdate 3=30,-\nupdate 1=21,-\n");
}

static void a_keyless_table_changes_row_by_row(void **state)
{
	struct fixture *x = *state;

	x->table[0].is_ordered = x->table[0].is_keyless = x->rel[0].keyless = true;
	add(x, 'd', row(x, 0, 1, 10, 100), NULL);
	add(x, 'd', row(x, 0, 1, 10, 100), NULL);
	add(x, 'u', row(x, 0, 1, 10, 100), row(x, 0, 2, 10, 100));
	assert_true(plan_finish(&x->plan, &x->fault));
	assert_int_equal(x->plan.exec_count, 3);
	assert_int_equal(x->plan.execs[1].op, STATEMENT_DELETE_ONE);
	assert_int_equal(x->plan.execs[2].op, STATEMENT_UPDATE_ONE);
}

static void a_row_that_moves_between_leaves_is_deleted_and_then_inserted(void **state)
{
	struct fixture *x = *state;

	assert_true(try_add(x, 1, 'c', NULL, row(x, 1, 5, 50, 500)));
	assert_true(try_add(x, 0, 'd', row(x, 0, 1, 0, 0), NULL));
	assert_true(try_add(x, 1, 'c', NULL, row(x, 1, 1, 11, 100)));
	assert_plan(x, "delete 1\ninsert =5,50,500 =1,11,100\n");
}

static void tables_do_not_wait_for_each_other(void **state)
{
	struct fixture *x = *state;

	x->table[1].oid = 78;
	inserted(x, 1, 10, 100);
	assert_true(try_add(x, 1, 'c', NULL, row(x, 1, 1, 11, 100)));
	updated(x, 1, 12, UNCHANGED);
	assert_plan(x, "insert =1,12,100\ninsert =1,11,100\n");
}

static void one_by_one_the_changes_are_executions_in_source_order(void **state)
{
	struct fixture *x = *state;

	inserted(x, 1, 10, 100);
	updated(x, 1, 11, UNCHANGED);
	rekeyed(x, 1, 2, 12, UNCHANGED);
	deleted(x, 2);
	assert_true(plan_sequential(&x->plan, &x->fault));
	assert_execs(x, "insert =1,10,100\nupdate 1=11,-\nkey change 1=2,12,-\ndelete 2\n");
	assert_plan(x, "");
}

static void an_insert_with_an_unchanged_column_is_refused(void **state)
{
	struct fixture *x = *state;

	assert_false(try_add(x, 0, 'c', NULL, row(x, 0, 1, 10, UNCHANGED)));
	assert_int_equal(x->fault.kind, FAULT_INPUT);
}

static void a_delete_without_an_old_row_is_refused(void **state)
{
	struct fixture *x = *state;
	struct plan_change ch = { .table = &x->table[0], .op = 'd', .key = span_str("[1]") };

	assert_false(plan_add(&x->plan, &ch, &x->fault));
	assert_int_equal(x->fault.kind, FAULT_INPUT);
}

static void a_deferrable_constraint_is_told(void **state)
{
	struct fixture *x = *state;

	x->table[0].has_deferred = true;
	assert_false(x->plan.has_deferred);
	inserted(x, 1, 10, 100);
	assert_true(x->plan.has_deferred);
}

/* A table as it would be: note per leaf, id is the index. n == GONE: no such row. */
enum { KEYS = 5 };
struct model_row {
	int n, note, leaf;
};
struct model {
	struct model_row rows[KEYS];
};

static struct value model_get(const struct plan_exec *e, const struct value *v, size_t c)
{
	return v[at(e->table->id == 2, c)];
}

static void model_set(struct model *m, const struct plan_exec *e, const struct plan_row *r, int id)
{
	struct model_row *to = &m->rows[id];
	struct value n = model_get(e, r->row, N), note = model_get(e, r->row, NOTE);

	if (column_set_has(e->sets, at(e->table->id == 2, N)))
		to->n = (int)n.i;
	if (column_set_has(e->sets, at(e->table->id == 2, NOTE)))
		to->note = (int)note.i;
}

/* What the server would do, with foreshadow.expect. */
static void model_execute(struct model *m, const struct plan_exec *e, const struct plan_row *r)
{
	int old = r->key ? (int)model_get(e, r->key, ID).i : -1;
	int new = r->row &&model_get(e, r->row, ID).state == VALUE_IS_NATIVE
		      ? (int)model_get(e, r->row, ID).i
		      : old;

	switch (e->op) {
	case STATEMENT_DELETE:
		assert_int_not_equal(m->rows[old].n, GONE);
		m->rows[old].n = GONE;
		break;
	case STATEMENT_UPDATE:
		assert_int_not_equal(m->rows[old].n, GONE);
		model_set(m, e, r, old);
		break;
	case STATEMENT_REKEY:
		assert_int_not_equal(m->rows[old].n, GONE);
		assert_int_equal(m->rows[new].n, GONE);
		m->rows[new] = m->rows[old];
		m->rows[old].n = GONE;
		model_set(m, e, r, new);
		break;
	case STATEMENT_INSERT:
		assert_int_equal(m->rows[new].n, GONE);
		model_set(m, e, r, new);
		break;
	case STATEMENT_UPDATE_ONE:
	case STATEMENT_DELETE_ONE:
	case STATEMENT_DELETE_CASCADED:
	case STATEMENT_DELETE_ONE_CASCADED:
	case STATEMENT_REKEY_CASCADED:
	case STATEMENT_OPS:
		fail();
	}
}

static void model_run(struct model *m, const struct plan *p)
{
	for (size_t i = 0; i < p->exec_count; i++)
		for (size_t r = 0; r < p->execs[i].row_count; r++)
			model_execute(m, &p->execs[i], &p->execs[i].rows[r]);
}

static int dice(int sides)
{
	return rand() % sides;
}

/* A full old row under identity f; else its key alone, the rest null. */
static struct value *old_row(struct fixture *x, int id, const struct model_row *r)
{
	struct value *v = row(x, r->leaf, id, r->n, r->note);

	if (x->rel[r->leaf].identity == 'f')
		return v;
	v[at(r->leaf, N)] = (struct value) { .state = VALUE_IS_NULL };
	v[at(r->leaf, NOTE)] = (struct value) { .state = VALUE_IS_NULL };
	return v;
}

static void random_update(struct fixture *x, struct model *m, int id)
{
	struct model_row *r = &m->rows[id], old = *r;
	int new = dice(3) ? id : dice(KEYS), note = dice(2) ? dice(1000) : UNCHANGED;

	if (m->rows[new].n != GONE)
		new = id;
	bool with_old = new != id || x->rel[old.leaf].identity == 'f';
	r->n = GONE;
	r = &m->rows[new];
	*r = (struct model_row) { dice(1000), note == UNCHANGED ? old.note : note, old.leaf };
	assert_true(try_add(x, old.leaf, 'u', with_old ? old_row(x, id, &old) : NULL,
			    row(x, old.leaf, new, r->n, note)));
}

/* One change that can happen, done to the model and added to the plan. */
static void random_change(struct fixture *x, struct model *m)
{
	int id = dice(KEYS);
	struct model_row *r = &m->rows[id];

	if (r->n == GONE) {
		*r = (struct model_row) { dice(1000), dice(1000), dice(2) };
		assert_true(try_add(x, r->leaf, 'c', NULL, row(x, r->leaf, id, r->n, r->note)));
	} else if (dice(3) == 0) {
		assert_true(try_add(x, r->leaf, 'd', old_row(x, id, r), NULL));
		r->n = GONE;
	} else {
		random_update(x, m, id);
	}
}

static void assert_same_model(const struct model *a, const struct model *b)
{
	for (int id = 0; id < KEYS; id++) {
		assert_int_equal(a->rows[id].n, b->rows[id].n);
		if (a->rows[id].n != GONE)
			assert_int_equal(a->rows[id].note, b->rows[id].note);
	}
}

static void the_plan_does_what_the_changes_do_one_by_one(void **state)
{
	struct fixture *x = *state;

	for (unsigned seed = 1; seed <= 20000; seed++) {
		struct model truth, merged, sequential, replaced;
		srand(seed);
		arena_reset(&x->arena);
		plan_reset(&x->plan);
		for (int l = 0; l < 2; l++) {
			x->rel[l].identity = dice(2) ? 'f' : 'd';
			x->table[l].is_ordered = dice(8) == 0;
			x->table[l].can_replace = dice(2);
		}
		for (int id = 0; id < KEYS; id++)
			truth.rows[id] = (struct model_row) { dice(2) ? GONE : dice(1000),
							      dice(1000), dice(2) };
		merged = sequential = replaced = truth;
		for (int i = 1 + dice(30); i > 0; i--)
			random_change(x, &truth);
		assert_true(plan_finish(&x->plan, &x->fault));
		model_run(&merged, &x->plan);
		assert_same_model(&truth, &merged);
		assert_true(plan_replacing(&x->plan, &x->fault));
		model_run(&replaced, &x->plan);
		assert_same_model(&truth, &replaced);
		assert_true(plan_sequential(&x->plan, &x->fault));
		model_run(&sequential, &x->plan);
		assert_same_model(&truth, &sequential);
	}
}

static void a_batch_of_many_keys_is_one_statement_a_kind(void **state)
{
	struct fixture *x = *state;

	for (int id = 0; id < 3000; id++)
		inserted(x, id, id, id);
	for (int id = 5000; id < 8000; id++)
		updated(x, id, id, id);
	assert_true(plan_finish(&x->plan, &x->fault));
	assert_int_equal(x->plan.exec_count, 2);
	assert_int_equal(x->plan.execs[0].row_count, 3000);
	assert_int_equal(x->plan.execs[0].rows[2999].change, 5999);
}

#define unit(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		unit(a_plan_of_nothing_is_empty),
		unit(an_update_of_a_new_row_is_part_of_its_insert),
		unit(updates_of_a_row_become_one_and_unchanged_takes_the_earlier_value),
		unit(what_no_update_of_a_row_sets_stays_unchanged),
		unit(an_updated_and_deleted_row_is_deleted),
		unit(a_delete_has_the_row_as_it_was_before_all_changes),
		unit(a_new_and_deleted_row_is_nothing),
		unit(a_row_deleted_and_inserted_again_is_both_in_this_order),
		unit(a_replaced_row_that_goes_again_is_deleted_once),
		unit(updates_are_grouped_by_the_columns_they_set),
		unit(deletes_come_before_updates_before_inserts),
		unit(a_second_insert_of_a_row_reaches_the_server),
		unit(an_update_of_a_deleted_row_reaches_the_server),
		unit(an_update_of_a_row_that_came_and_went_reaches_the_server),
		unit(a_key_change_with_every_value_is_a_delete_and_an_insert),
		unit(a_key_change_takes_unchanged_values_from_the_row_in_the_batch),
		unit(a_key_change_takes_unchanged_values_from_a_full_old_row),
		unit(a_key_change_with_an_unknown_value_runs_between_two_segments),
		unit(keys_that_change_places_go_through_a_third),
		unit(an_old_row_with_the_same_key_is_no_key_change),
		unit(an_ordered_table_keeps_its_order),
		unit(values_that_change_places_are_deleted_and_inserted),
		unit(a_keyless_table_changes_row_by_row),
		unit(a_row_that_moves_between_leaves_is_deleted_and_then_inserted),
		unit(tables_do_not_wait_for_each_other),
		unit(one_by_one_the_changes_are_executions_in_source_order),
		unit(an_insert_with_an_unchanged_column_is_refused),
		unit(a_delete_without_an_old_row_is_refused),
		unit(a_deferrable_constraint_is_told),
		unit(the_plan_does_what_the_changes_do_one_by_one),
		unit(a_batch_of_many_keys_is_one_statement_a_kind),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
