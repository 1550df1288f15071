// SPDX-License-Identifier: Apache-2.0
#include "reconcile/walk.h"

#include <stdlib.h>

enum { FROM_BYTES = 1 << 20 };

void walk_init(struct walk *w)
{
	*w = (struct walk) { 0 };
	buf_init(&w->from, FROM_BYTES);
}

static void free_table(struct walk_table *t)
{
	free(t->schema);
	free(t->table);
}

/* What is to be scrubbed next begins at a beginning. */
static void leave(struct walk *w)
{
	buf_reset(&w->from);
	w->has_from = false;
}

static void forget_place(struct walk *w)
{
	free(w->at_schema);
	free(w->at_table);
	w->at_schema = w->at_table = NULL;
	leave(w);
}

void walk_release(struct walk *w)
{
	for (size_t i = 0; i < w->count; i++)
		free_table(&w->tables[i]);
	free(w->tables);
	forget_place(w);
	buf_release(&w->from);
	*w = (struct walk) { 0 };
}

/* ---- the list ---- */

static int compare(const struct walk_table *t, struct span schema, struct span table)
{
	int order = span_cmp(span_str(t->schema), schema);

	return order ? order : span_cmp(span_str(t->table), table);
}

/* Where it is, or belongs. */
static size_t find(const struct walk *w, struct span schema, struct span table, bool *ret_is_there)
{
	size_t low = 0, high = w->count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (compare(&w->tables[middle], schema, table) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	*ret_is_there = low < w->count && compare(&w->tables[low], schema, table) == 0;
	return low;
}

static bool make_room(struct walk *w)
{
	size_t cap = w->cap ? 2 * w->cap : 16;
	struct walk_table *tables;

	if (w->count < w->cap)
		return true;
	tables = realloc(w->tables, cap * sizeof(*tables));
	if (!tables)
		return false;
	w->tables = tables;
	w->cap = cap;
	return true;
}

bool walk_see(struct walk *w, struct span schema, struct span table, bool *ret_is_new)
{
	bool is_there;
	size_t i = find(w, schema, table, &is_there);
	struct walk_table t = { 0 };

	*ret_is_new = !is_there;
	if (is_there)
		return true;
	t.schema = strndup(schema.p, schema.n);
	t.table = strndup(table.p, table.n);
	if (!t.schema || !t.table || !make_room(w)) {
		free_table(&t);
		return false;
	}
	memmove(&w->tables[i + 1], &w->tables[i], (w->count - i) * sizeof(t));
	w->tables[i] = t;
	w->count++;
	return true;
}

static bool is_at(const struct walk *w, const struct walk_table *t)
{
	return w->at_table && compare(t, span_str(w->at_schema), span_str(w->at_table)) == 0;
}

static void end_pass(struct walk *w)
{
	for (size_t i = 0; i < w->count; i++)
		if (w->tables[i].is_due)
			return;
	if (w->is_passing && w->pass_is_clean)
		w->scrubbed_lsn = w->pass_lsn;
	w->is_passing = false;
}

void walk_forget(struct walk *w, const struct walk_table *t)
{
	size_t i = (size_t)(t - w->tables);

	if (is_at(w, t))
		leave(w);
	free_table(&w->tables[i]);
	w->count--;
	memmove(&w->tables[i], &w->tables[i + 1], (w->count - i) * sizeof(*t));
	end_pass(w);
}

bool walk_due(struct walk *w, struct span schema, struct span table, bool is_owed)
{
	struct walk_table *t;
	bool is_new;

	if (!walk_see(w, schema, table, &is_new))
		return false;
	t = &w->tables[find(w, schema, table, &is_new)];
	t->is_due = true;
	t->is_owed |= is_owed;
	if (is_at(w, t))
		forget_place(w);
	return true;
}

bool walk_owe(struct walk *w, struct span schema, struct span table)
{
	return walk_due(w, schema, table, true);
}

size_t walk_owed(const struct walk *w)
{
	size_t n = 0;

	for (size_t i = 0; i < w->count; i++)
		n += w->tables[i].is_owed;
	return n;
}

/* ---- going ---- */

void walk_pass(struct walk *w, uint64_t lsn, int64_t at)
{
	for (size_t i = 0; i < w->count; i++)
		w->tables[i].is_due = true;
	forget_place(w);
	w->is_passing = w->pass_is_clean = true;
	w->pass_lsn = lsn;
	w->pass_at = at;
}

void walk_dirty(struct walk *w)
{
	w->pass_is_clean = false;
}

void walk_found(struct walk *w)
{
	bool is_there = w->at_table != NULL;
	size_t i = is_there ? find(w, span_str(w->at_schema), span_str(w->at_table), &is_there) : 0;

	if (is_there)
		w->tables[i].has_found = true;
}

void walk_clear_found(struct walk *w)
{
	for (size_t i = 0; i < w->count; i++)
		w->tables[i].has_found = false;
}

static bool go_to(struct walk *w, const struct walk_table *t)
{
	if (is_at(w, t))
		return true;
	forget_place(w);
	w->at_schema = strdup(t->schema);
	w->at_table = strdup(t->table);
	return w->at_schema && w->at_table;
}

/* From the place on, and round: the table there, if it is due, else the next one that is. */
const struct walk_table *walk_next(struct walk *w)
{
	bool is_there;
	size_t from = w->at_table ? find(w, span_str(w->at_schema), span_str(w->at_table), &is_there) : 0;

	for (size_t i = 0; i < w->count; i++) {
		const struct walk_table *t = &w->tables[(from + i) % w->count];

		if (t->is_due)
			return go_to(w, t) ? t : NULL;
	}
	return NULL;
}

static void go_on_from(struct walk *w, struct span from)
{
	leave(w);
	if (!from.p)
		return;
	buf_add_span(&w->from, from);
	w->has_from = !buf_failed(&w->from);
}

bool walk_go_on(struct walk *w, struct span schema, struct span table, struct span from)
{
	bool is_there = schema.p && table.p;
	size_t i = is_there ? find(w, schema, table, &is_there) : 0;

	if (!schema.p || !table.p)
		return false;
	if (!is_there)
		return true;
	if (!go_to(w, &w->tables[i]))
		return false;
	go_on_from(w, from);
	return true;
}

void walk_went(struct walk *w, struct span from)
{
	bool is_there;
	size_t i;

	if (!w->at_table)
		return;
	go_on_from(w, from);
	if (from.p)
		return;
	i = find(w, span_str(w->at_schema), span_str(w->at_table), &is_there);
	if (is_there)
		w->tables[i].is_due = w->tables[i].is_owed = false;
	end_pass(w);
}

void walk_later(struct walk *w)
{
	bool is_there;
	size_t i;

	if (!w->at_table)
		return;
	i = find(w, span_str(w->at_schema), span_str(w->at_table), &is_there) + is_there;
	if (i < w->count)
		go_to(w, &w->tables[i]);
	else
		forget_place(w);
}
