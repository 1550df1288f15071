// SPDX-License-Identifier: Apache-2.0
#include "reconcile/survey.h"

#include <stdlib.h>

enum { SQL_BYTES = 64 << 20 };

static bool no_memory(struct fault *f)
{
	return fault(f, FAULT_INTERNAL, "no memory for the digests of a table");
}

enum { ANSWER = 2, THEN = 5, ALL }; /* results, in the order of the statements */

/*
 * Rows next to each other by key seldom are on a target's disk, where lanes write side by side: a bitmap takes each page
 * once where an index scan takes one per row. Of rows in order it costs the same. For a chunk of a tenth of the table
 * the planner would rather read all of it, ten times. (Of a whole table it should, and a scan that cannot be
 * avoided must not be forbidden: all plans would look alike.) then: NULL: none.
 */
static bool send_sql(PGconn *conn, const struct digest_plan *p, const struct buf *statement, const char *then,
		     struct fault *f)
{
	bool is_part = p->range.from.p || p->range.to.p || p->near.p;
	struct buf sql;
	bool ok;

	buf_init(&sql, SQL_BYTES);
	buf_printf(&sql, "SET enable_indexscan = off; SET enable_seqscan = %s; %.*s; RESET enable_indexscan; RESET enable_seqscan",
		   is_part ? "off" : "on", SPAN_ARG(buf_span(statement)));
	if (then)
		buf_printf(&sql, "; %s", then);
	if (buf_failed(statement) || buf_failed(&sql))
		ok = fault(f, FAULT_INTERNAL, "a statement larger than %zu bytes", sql.max_bytes);
	else
		ok = pg_send(conn, f, buf_cstr(&sql));
	buf_release(&sql);
	return ok;
}

/* The answer; *ret_then: of the statement that was sent behind it. NULL ret_then: there was none. */
static PGresult *take(PGconn *conn, PGresult **ret_then, struct fault *f)
{
	PGresult *results[ALL];

	if (!pg_take(conn, results, ret_then ? ALL : THEN, f))
		return NULL;
	for (int i = 0; i < THEN; i++)
		if (i != ANSWER)
			PQclear(results[i]);
	if (ret_then)
		*ret_then = results[THEN];
	return results[ANSWER];
}

static int compare_leaves(const void *a, const void *b)
{
	const struct survey_leaf *x = a, *y = b;

	return x->leaf < y->leaf ? -1 : x->leaf > y->leaf;
}

static bool survey_read(const PGresult *r, struct arena *a, struct survey *ret, struct fault *f)
{
	*ret = (struct survey) { .leaf_count = (size_t)PQntuples(r) };
	ret->leaves = arena_alloc(a, ret->leaf_count * sizeof(*ret->leaves) + 1);
	for (int i = 0; ret->leaves && i < PQntuples(r); i++) {
		ret->leaves[i] = (struct survey_leaf) { pg_i64(r, i, 0), pg_i64(r, i, 1),
							pg_i64(r, i, 2),
							arena_dup(a, pg_value(r, i, 3)) };
		ret->row_count += ret->leaves[i].count;
	}
	ret->took_us = ret->leaf_count ? pg_i64(r, 0, 4) : 0;
	if (arena_failed(a))
		return no_memory(f);
	qsort(ret->leaves, ret->leaf_count, sizeof(*ret->leaves), compare_leaves);
	return true;
}

bool survey_send(PGconn *conn, const struct digest_plan *p, const char *then, struct fault *f)
{
	struct buf sql;
	bool ok;

	buf_init(&sql, SQL_BYTES);
	digest_survey(p, &sql);
	ok = send_sql(conn, p, &sql, then, f);
	buf_release(&sql);
	return ok;
}

bool survey_take(PGconn *conn, struct arena *a, struct survey *ret, PGresult **ret_then, struct fault *f)
{
	PGresult *r = take(conn, ret_then, f);
	bool ok = r && survey_read(r, a, ret, f);

	PQclear(r);
	if (r && !ok && ret_then)
		PQclear(*ret_then);
	return ok;
}

bool survey_ask(PGconn *conn, const struct digest_plan *p, struct arena *a, struct survey *ret,
		struct fault *f)
{
	return survey_send(conn, p, NULL, f) && survey_take(conn, a, ret, NULL, f);
}

bool survey_drill(PGconn *conn, const struct digest_plan *p, const int64_t *leaves, size_t n,
		  struct arena *a, struct survey_keys *ret, struct fault *f)
{
	struct buf sql;
	PGresult *r;

	*ret = (struct survey_keys) { 0 };
	buf_init(&sql, SQL_BYTES);
	digest_drill(p, leaves, n, &sql);
	r = send_sql(conn, p, &sql, NULL, f) ? take(conn, NULL, f) : NULL;
	buf_release(&sql);
	if (!r)
		return false;
	ret->count = (size_t)PQntuples(r);
	ret->keys = arena_alloc(a, ret->count * sizeof(*ret->keys) + 1);
	for (int i = 0; ret->keys && i < PQntuples(r); i++)
		ret->keys[i] = (struct survey_key) { arena_dup(a, pg_value(r, i, 0)),
						     pg_i64(r, i, 1), pg_i64(r, i, 2) };
	PQclear(r);
	return !arena_failed(a) || no_memory(f);
}

int64_t *survey_differ(const struct survey *s, const struct survey *t, struct arena *a,
		       size_t *ret_count)
{
	int64_t *found = arena_alloc(a, (s->leaf_count + t->leaf_count) * sizeof(*found) + 1);
	size_t i = 0, j = 0, n = 0;

	while (found && (i < s->leaf_count || j < t->leaf_count)) {
		const struct survey_leaf *x = i < s->leaf_count ? &s->leaves[i] : NULL;
		const struct survey_leaf *y = j < t->leaf_count ? &t->leaves[j] : NULL;
		int order = !y ? -1 : !x ? 1 : compare_leaves(x, y);

		if (order != 0 || x->count != y->count || x->xor != y->xor ||
		    !span_eq(x->sum, y->sum))
			found[n++] = order <= 0 ? x->leaf : y->leaf;
		i += order <= 0;
		j += order >= 0;
	}
	*ret_count = n;
	return found;
}

static int compare_keys(const void *a, const void *b)
{
	const struct survey_key *x = a, *y = b;
	int order = span_cmp(x->key, y->key);

	if (order)
		return order;
	return x->hash < y->hash ? -1 : x->hash > y->hash;
}

/* How many from i on have the same key. */
static size_t same_keys(const struct survey_keys *k, size_t i)
{
	size_t n = 1;

	while (i + n < k->count && span_eq(k->keys[i].key, k->keys[i + n].key))
		n++;
	return n;
}

static bool is_same_run(const struct survey_key *x, const struct survey_key *y, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (x[i].hash != y[i].hash || x[i].count != y[i].count)
			return false;
	return true;
}

struct span *survey_suspects(struct survey_keys *s, struct survey_keys *t, struct arena *a,
			     size_t *ret_count)
{
	struct span *found = arena_alloc(a, (s->count + t->count) * sizeof(*found) + 1);
	size_t i = 0, j = 0, n = 0, x_run, y_run;

	qsort(s->keys, s->count, sizeof(*s->keys), compare_keys);
	qsort(t->keys, t->count, sizeof(*t->keys), compare_keys);
	while (found && (i < s->count || j < t->count)) {
		int order = j == t->count   ? -1
			    : i == s->count ? 1
					    : span_cmp(s->keys[i].key, t->keys[j].key);

		x_run = order <= 0 ? same_keys(s, i) : 0;
		y_run = order >= 0 ? same_keys(t, j) : 0;
		if (x_run != y_run || !is_same_run(&s->keys[i], &t->keys[j], x_run))
			found[n++] = order <= 0 ? s->keys[i].key : t->keys[j].key;
		i += x_run;
		j += y_run;
	}
	*ret_count = n;
	return found;
}
