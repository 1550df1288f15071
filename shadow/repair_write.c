// SPDX-License-Identifier: Apache-2.0
/*
 * The statements are those of changes (statement.h), of one row, with values as texts: so mapping, rules and
 * renamed columns are what they are everywhere. Only the filter is left out: the source has been asked about its row,
 * and nobody knows the source's row of what is on the target.
 */
#include "shadow/repair.h"

#include <stdlib.h>

#include "core/buf.h"
#include "shadow/statement.h"

enum { SQL_BYTES = 16 << 20, PARAMS_BYTES = 1 << 30, OID_INT8 = 20 };

struct writer {
	PGconn *conn;
	const struct target_table *table;
	const struct repair_row *row;
	struct buf sql, text;
	const char **values;
	uint32_t *types;
	int count;
	struct arena *a;
	struct fault *f;
};

static bool no_memory(struct writer *w)
{
	return fault(w->f, FAULT_INTERNAL, "%.*s: no memory for a row to repair", SPAN_ARG(w->table->label));
}

/* An array of one element. */
static void add_param(struct writer *w, struct span text, size_t column)
{
	buf_reset(&w->text);
	pg_array_begin(&w->text);
	pg_array_add(&w->text, text);
	pg_array_end(&w->text);
	w->types[w->count] = statement_array_oid(w->table, column);
	w->values[w->count++] = arena_str(w->a, buf_span(&w->text));
}

static void add_params(struct writer *w, const struct statement_key *k, const struct span *old)
{
	w->count = 0;
	for (size_t i = 0; i < w->table->column_count; i++)
		if (statement_has_key(k, i))
			add_param(w, old[i], i);
	for (size_t i = 0; i < w->table->column_count; i++)
		if (statement_has_set(k, i))
			add_param(w, w->row->row[i], i);
}

static PGresult *run(struct writer *w)
{
	PGresult *r = NULL;

	if (buf_failed(&w->sql) || buf_failed(&w->text) || arena_failed(w->a)) {
		no_memory(w);
		return NULL;
	}
	r = PQexecParams(w->conn, buf_cstr(&w->sql), w->count, w->types, w->values, NULL, NULL, 0);
	if (PQresultStatus(r) == PGRES_TUPLES_OK || PQresultStatus(r) == PGRES_COMMAND_OK)
		return r;
	pg_fault(w->conn, r, w->f);
	PQclear(r);
	return NULL;
}

static bool run_op(struct writer *w, enum statement_op op)
{
	uint64_t *sets = arena_alloc(w->a, column_set_words(w->table->column_count) * sizeof(*sets) + 1);
	struct statement_key k = { w->table, op, op == STATEMENT_DELETE ? NULL : sets };
	PGresult *r;

	if (!sets)
		return no_memory(w);
	for (size_t i = 0; i < w->table->column_count; i++)
		column_set_add(sets, i);
	buf_reset(&w->sql);
	statement_write(&k, &w->sql);
	add_params(w, &k, w->row->key);
	w->types[w->count] = OID_INT8;
	w->values[w->count++] = "1";
	r = run(w);
	PQclear(r);
	return r != NULL || fault_in(w->f, "%.*s %s", SPAN_ARG(w->table->label), statement_op_name(op));
}

/* The target's row with this key. */
static bool look_up(struct writer *w, const struct span *key, struct span *ret)
{
	const struct statement_key k = { w->table, STATEMENT_DELETE, NULL };
	PGresult *r;
	bool ok;

	buf_reset(&w->sql);
	statement_write_lookup(w->table, &w->sql);
	add_params(w, &k, key);
	r = run(w);
	if (!r)
		return fault_in(w->f, "%.*s", SPAN_ARG(w->table->label));
	*ret = PQntuples(r) ? arena_dup(w->a, pg_value(r, 0, 0)) : span(NULL, 0);
	ok = PQntuples(r) <= 1 || fault(w->f, FAULT_DATA, "%.*s has %d rows with this key; next step: delete all but one there",
					SPAN_ARG(w->table->label), PQntuples(r));
	PQclear(r);
	return ok && (!arena_failed(w->a) || no_memory(w));
}

/* Has it a column that an UPDATE cannot set, and is all of the row ours, so that it may be made anew? */
static bool must_replace(const struct target_table *t)
{
	bool has_always = false;

	for (size_t i = 0; i < t->column_count; i++)
		has_always = has_always || (t->columns[i].is_written && t->columns[i].is_always && !t->columns[i].is_key);
	for (size_t i = 0; i < t->computed_count; i++)
		has_always = has_always || (t->computed[i].column.is_always && !t->computed[i].column.is_key);
	return has_always && !t->has_others && !t->family.p;
}

static bool change(struct writer *w, bool is_there)
{
	if (!w->row->row)
		return !is_there || run_op(w, STATEMENT_DELETE);
	if (!is_there)
		return run_op(w, STATEMENT_INSERT);
	if (must_replace(w->table))
		return run_op(w, STATEMENT_DELETE) && run_op(w, STATEMENT_INSERT);
	return run_op(w, STATEMENT_UPDATE);
}

bool repair_apply(PGconn *conn, const struct target_table *t, const struct repair_row *row, struct arena *a,
		  struct span *ret_before, struct span *ret_after, struct fault *f)
{
	struct relation rel = *t->rel;
	struct target_table whole = *t;
	struct writer w = { .conn = conn, .table = &whole, .row = row, .a = a, .f = f };
	size_t most = 2 * t->column_count + 1;
	bool ok;

	rel.filter = (struct expression) { 0 };
	whole.rel = &rel;
	w.values = arena_alloc(a, most * sizeof(*w.values));
	w.types = arena_alloc(a, most * sizeof(*w.types));
	if (!w.values || !w.types)
		return no_memory(&w);
	buf_init(&w.sql, SQL_BYTES);
	buf_init(&w.text, PARAMS_BYTES);
	*ret_after = span(NULL, 0);
	ok = look_up(&w, row->key, ret_before) && change(&w, ret_before->p) &&
	     look_up(&w, row->row ? row->row : row->key, ret_after);
	buf_release(&w.sql);
	buf_release(&w.text);
	return ok;
}
