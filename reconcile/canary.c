// SPDX-License-Identifier: Apache-2.0
#include "reconcile/canary.h"


enum { SQL_BYTES = 16 << 20, CANARY_BYTES = 64 << 20, CANARY_ROWS = 1000, TRIES = 5 };

struct planted {
	struct span key;
	bool was_found;
};

static void take(void *arg, const struct difference *d)
{
	struct planted *p = arg;

	p->was_found = p->was_found || !p->key.p || span_eq(d->key, p->key);
}

/* The statement's only value, if there is one. */
static bool ask(PGconn *conn, struct buf *sql, struct arena *a, struct span *ret, struct fault *f)
{
	PGresult *r;

	*ret = span(NULL, 0);
	if (buf_failed(sql))
		return fault(f, FAULT_INTERNAL, "a statement larger than %zu bytes", sql->max_bytes);
	r = pg_query(conn, f, buf_cstr(sql));
	if (!r)
		return false;
	if (PQntuples(r))
		*ret = arena_dup(a, pg_value(r, 0, 0));
	PQclear(r);
	return true;
}

static void write_key(const struct digest *d, struct buf *out)
{
	const char *comma = "";

	buf_str(out, "(ARRAY[");
	for (size_t i = 0; i < d->column_count; i++)
		if (d->columns[i].is_key) {
			buf_printf(out, "%s%.*s", comma, SPAN_ARG(d->columns[i].text[DIGEST_TARGET]));
			comma = ", ";
		}
	buf_str(out, "])::pg_catalog.text");
}

/* Not this key, by its bytes. */
static void write_other_key(const struct digest *d, struct span key, struct buf *out)
{
	buf_str(out, "pg_catalog.textsend(");
	write_key(d, out);
	buf_str(out, ") <> '");
	pg_bytea(out, key);
	buf_str(out, "'::pg_catalog.bytea");
}

/* The key of a first row with a value in this column (NULL: any). With ranges: the lowest one. */
static bool find_row(PGconn *conn, const struct digest *d, const struct digest_column *c,
		     struct arena *a, struct span *ret, struct fault *f)
{
	const char *word = " WHERE ";
	struct buf sql;
	bool ok;

	buf_init(&sql, SQL_BYTES);
	buf_str(&sql, "SELECT ");
	write_key(d, &sql);
	buf_printf(&sql, " FROM %.*s", SPAN_ARG(d->from[DIGEST_TARGET]));
	if (d->where[DIGEST_TARGET].p) {
		buf_printf(&sql, "%s%.*s", word, SPAN_ARG(d->where[DIGEST_TARGET]));
		word = " AND ";
	}
	if (c) {
		buf_str(&sql, word);
		pg_quote_ident(&sql, c->name);
		buf_str(&sql, " IS DISTINCT FROM NULL");
	}
	if (d->range_column[DIGEST_TARGET].p)
		buf_printf(&sql, " ORDER BY %.*s", SPAN_ARG(d->range_column[DIGEST_TARGET]));
	buf_str(&sql, " LIMIT 1");
	ok = ask(conn, &sql, a, ret, f);
	buf_release(&sql);
	return ok;
}

/* The target's rows with one changed. c: NULL: left out. */
static void write_changed(const struct digest *d, const struct digest_column *c, struct span key,
			  struct buf *out)
{
	buf_str(out, "(SELECT ");
	for (size_t i = 0; i < d->target->column_count; i++) {
		const struct side_column *s = &d->target->columns[i];
		bool is_changed = c && span_eq(s->name, c->name);

		buf_str(out, i ? ", " : "");
		if (is_changed) {
			buf_str(out, "CASE WHEN ");
			write_other_key(d, key, out);
			buf_str(out, " THEN (");
		}
		pg_quote_ident(out, s->name);
		if (is_changed) {
			buf_printf(out, ")::%.*s END AS ", SPAN_ARG(s->exact));
			pg_quote_ident(out, s->name);
		}
	}
	buf_printf(out, " FROM %.*s", SPAN_ARG(d->from[DIGEST_TARGET]));
	if (!c) {
		buf_str(out, " WHERE ");
		write_other_key(d, key, out);
	}
	buf_str(out, ") AS canary");
}

/* A keyless table's rows and one of them once more. */
static void write_doubled(const struct digest *d, struct buf *out)
{
	buf_printf(out, "(SELECT * FROM %.*s UNION ALL (SELECT * FROM %.*s", SPAN_ARG(d->from[DIGEST_TARGET]),
		   SPAN_ARG(d->from[DIGEST_TARGET]));
	if (d->where[DIGEST_TARGET].p)
		buf_printf(out, " WHERE %.*s", SPAN_ARG(d->where[DIGEST_TARGET]));
	buf_str(out, " LIMIT 1)) AS canary");
}

static bool has_rows(PGconn *conn, const struct digest *d, struct arena *a, bool *ret, struct fault *f)
{
	struct span one;
	struct buf sql;
	bool ok;

	buf_init(&sql, SQL_BYTES);
	buf_printf(&sql, "SELECT 1 FROM %.*s", SPAN_ARG(d->from[DIGEST_TARGET]));
	if (d->where[DIGEST_TARGET].p)
		buf_printf(&sql, " WHERE %.*s", SPAN_ARG(d->where[DIGEST_TARGET]));
	buf_str(&sql, " LIMIT 1");
	ok = ask(conn, &sql, a, &one, f);
	buf_release(&sql);
	*ret = one.p != NULL;
	return ok;
}

/* *ret_from: absent: there is no row to plant a difference in. */
static bool plant(PGconn *conn, const struct digest *d, struct arena *a, struct span *ret_key,
		  struct span *ret_from, struct fault *f)
{
	const struct digest_column *changed = NULL;
	bool ok = true, has_any = false;
	struct buf from;

	*ret_key = *ret_from = span(NULL, 0);
	if (d->is_keyless && !has_rows(conn, d, a, &has_any, f))
		return false;
	for (size_t i = 0; ok && !d->is_keyless && !ret_key->p && i < d->column_count; i++)
		if (!d->columns[i].is_key) {
			changed = &d->columns[i];
			ok = find_row(conn, d, changed, a, ret_key, f);
		}
	if (ok && !d->is_keyless && !ret_key->p) {
		changed = NULL;
		ok = find_row(conn, d, NULL, a, ret_key, f);
	}
	if (!ok || (!ret_key->p && !has_any))
		return ok;
	buf_init(&from, SQL_BYTES);
	if (d->is_keyless)
		write_doubled(d, &from);
	else
		write_changed(d, changed, *ret_key, &from);
	*ret_from = arena_dup(a, buf_span(&from));
	ok = !buf_failed(&from) || fault(f, FAULT_INTERNAL, "no memory for the planted difference");
	buf_release(&from);
	return ok;
}

bool canary_run(struct ends *e, enum role role, const struct digest *d, int64_t seed,
		enum canary *ret, struct fault *f)
{
	struct digest changed = *d;
	struct planted planted = { 0 };
	struct arena a;
	bool ok = true, was_missed = true;

	arena_init(&a, CANARY_BYTES);
	changed.has_writers = false; /* rows that are made up have none */
	*ret = CANARY_OPEN;
	/* Tried again where the row itself was changed or deleted meanwhile. */
	for (int i = 0; ok && i < TRIES && was_missed; i++) {
		struct scrub s;

		planted.was_found = false;
		ok = plant(e->targets[role], d, &a, &planted.key, &changed.from[DIGEST_TARGET], f);
		if (!ok)
			break;
		if (!changed.from[DIGEST_TARGET].p) {
			*ret = CANARY_NO_ROW;
			was_missed = false;
			break;
		}
		scrub_init(&s, e, seed);
		s.digests[role] = &changed;
		s.found = take;
		s.arg = &planted;
		ok = scrub_first(&s, CANARY_ROWS, f);
		*ret = planted.was_found ? CANARY_FOUND : CANARY_OPEN;
		was_missed = ok && !planted.was_found && !s.results[role].open_count;
	}
	arena_release(&a);
	/* Each time the row may have been changed or deleted before it was looked at. */
	if (ok && was_missed && !e->tail->event_count)
		return fault(f, FAULT_INTERNAL,
			     "a difference planted in rows of %.*s on the %s was not found: what is compared proves nothing",
			     SPAN_ARG(d->label), ends_role_names[role]);
	return ok;
}

static bool may_try(struct ends *e, canary_try *try, void *arg, size_t table, bool may_be_large, enum canary *ret,
		    struct fault *f)
{
	if (try(arg, table, may_be_large, ret, f))
		return true;
	if (!ends_pass_over(e, f))
		return false;
	*ret = CANARY_REFUSED;
	fault_reset(f);
	return true;
}

bool canary_prove(struct ends *e, size_t table_count, canary_try *try, void *arg, enum canary *ret, struct fault *f)
{
	enum canary now;
	int open_count = 0;

	*ret = CANARY_NO_ROW;
	for (size_t k = 0; k < 2 * table_count && *ret != CANARY_FOUND && open_count < CANARY_TABLES; k++) {
		if (!may_try(e, try, arg, k % table_count, k >= table_count, &now, f))
			return false;
		open_count += now == CANARY_OPEN;
		if (now == CANARY_FOUND || now == CANARY_OPEN || *ret == CANARY_NO_ROW)
			*ret = now;
	}
	return true;
}
