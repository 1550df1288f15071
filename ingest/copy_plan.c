// SPDX-License-Identifier: Apache-2.0
/*
 * Before a table is read under the snapshot it is looked at twice. The catalog read by SQL is the one of
 * the snapshot, so it says what the table's columns are at the point: they must be those of the
 * version. What the server's caches say is the present: a storage file other than the snapshot's means that
 * the table was rewritten or truncated since, and an older snapshot finds it *empty*, without an
 * error. ACCESS SHARE is taken before, so that nothing changes while a range is read; it is given back behind
 * each range, and the next one looks again. Whoever kept it longer would keep an application's TRUNCATE
 * waiting, behind which the next range would wait in turn: a deadlock that the server cannot see.
 */
#include <stdio.h>
#include <stdlib.h>

#include "core/buf.h"
#include "core/failpoint.h"
#include "core/log.h"
#include "ingest/copy_round.h"

enum {
	RANGE_BYTES = 64 * 1024 * 1024,
	RANGE_SMALL_BYTES = 64 * 1024, /* failpoint copy.small_ranges */
	STATEMENT_BYTES = 64 * 1024,
};

/* What of the table the snapshot has, and whether the present still agrees. */
struct look {
	bool is_same;
	uint64_t bytes, block_bytes, rows_estimate;
};

static bool lock_table(const struct copy *c, PGconn *conn, const struct relation *rel,
		       struct fault *f)
{
	char slow[512];
	struct buf sql;

	snprintf(slow, sizeof(slow),
		 "the copy of %.*s.%.*s waits for a lock: an application holds the table exclusively",
		 SPAN_ARG(rel->schema), SPAN_ARG(rel->table));
	buf_init(&sql, STATEMENT_BYTES);
	buf_str(&sql, "LOCK TABLE ONLY ");
	pg_quote_table(&sql, rel->schema, rel->table);
	buf_str(&sql, " IN ACCESS SHARE MODE");
	PGresult *r = pg_query_until(conn, buf_cstr(&sql), c->stop_fd, slow, f);
	buf_release(&sql);
	PQclear(r);
	return r != NULL;
}

/* $1 is the name, $2 the OID: another table may have the name by now. */
static bool look_at(PGconn *conn, const struct relation *rel, struct look *ret, struct fault *f)
{
	char oid[16];
	struct buf name;
	const char *values[2] = { NULL, oid };

	snprintf(oid, sizeof(oid), "%u", rel->oid);
	buf_init(&name, STATEMENT_BYTES);
	pg_quote_table(&name, rel->schema, rel->table);
	values[0] = buf_cstr(&name);
	PGresult *r = pg_query_params(conn, f,
		"SELECT $1::regclass::oid = c.oid AND pg_catalog.pg_relation_filenode(c.oid) = "
		"c.relfilenode, pg_catalog.pg_relation_size(c.oid), "
		"pg_catalog.current_setting('block_size')::int8, "
		"greatest(c.reltuples, 0)::int8 FROM pg_catalog.pg_class c WHERE c.oid = $2::oid",
		2, values);
	buf_release(&name);
	if (!r)
		return false;
	*ret = (struct look) { 0 };
	if (PQntuples(r) == 1) {
		ret->is_same = *PQgetvalue(r, 0, 0) == 't';
		ret->bytes = (uint64_t)pg_i64(r, 0, 1);
		ret->block_bytes = (uint64_t)pg_i64(r, 0, 2);
		ret->rows_estimate = (uint64_t)pg_i64(r, 0, 3);
	}
	PQclear(r);
	return true;
}

static bool same_columns(PGconn *conn, const struct relation *rel, bool *ret_same, struct fault *f)
{
	char oid[16];
	const char *values[] = { oid };

	snprintf(oid, sizeof(oid), "%u", rel->oid);
	PGresult *r = pg_query_params(conn, f,
		"SELECT attname, atttypid, atttypmod FROM pg_catalog.pg_attribute WHERE attrelid = "
		"$1::oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum",
		1, values);
	if (!r)
		return false;
	*ret_same = (size_t)PQntuples(r) == rel->column_count;
	for (int i = 0; *ret_same && i < PQntuples(r); i++) {
		const struct column *col = &rel->columns[i];
		*ret_same = span_eq(pg_value(r, i, 0), col->name) &&
			    (uint32_t)pg_i64(r, i, 1) == col->type_oid &&
			    (int32_t)pg_i64(r, i, 2) == col->typmod;
	}
	PQclear(r);
	return true;
}

/* Are the version's columns there now? Types that changed without a rewrite read the same. */
static bool try_columns(PGconn *conn, const struct relation *rel, struct fault *f)
{
	struct buf sql;

	buf_init(&sql, STATEMENT_BYTES + 256 * 1600);
	buf_str(&sql, "SELECT");
	for (size_t i = 0; i < rel->column_count; i++) {
		buf_str(&sql, i ? ", " : " ");
		pg_quote_ident(&sql, rel->columns[i].name);
	}
	buf_str(&sql, " FROM ONLY ");
	pg_quote_table(&sql, rel->schema, rel->table);
	buf_str(&sql, " LIMIT 0");
	bool ok = pg_do(conn, f, buf_cstr(&sql));
	buf_release(&sql);
	return ok;
}

static bool is_missing(const struct fault *f)
{
	static const char *const codes[] = { "42P01", "42703", "3F000" };

	for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
		if (strcmp(f->sqlstate, codes[i]) == 0)
			return true;
	return false;
}

static bool inspect(const struct copy *c, PGconn *conn, const struct relation *rel,
		    struct look *ret, struct fault *f)
{
	bool is_same = false;

	if (!lock_table(c, conn, rel, f) || !look_at(conn, rel, ret, f) ||
	    !same_columns(conn, rel, &is_same, f))
		return false;
	ret->is_same = ret->is_same && is_same;
	return !ret->is_same || try_columns(conn, rel, f);
}

static bool add_tasks(struct copy *c, size_t table, const struct look *look, size_t *room,
		      struct fault *f)
{
	struct copy_work *t = &c->tables[table];
	uint64_t range = failpoint("copy.small_ranges") ? RANGE_SMALL_BYTES : RANGE_BYTES;
	uint64_t blocks = look->bytes / look->block_bytes, step = range / look->block_bytes;
	size_t n = (size_t)(blocks ? (blocks + step - 1) / step : 1);

	if (c->task_count + n > *room) {
		*room = (c->task_count + n) * 2;
		struct copy_task *grown = realloc(c->tasks, *room * sizeof(*grown));
		if (!grown)
			return fault(f, FAULT_INTERNAL, "no memory for %zu copy tasks", *room);
		c->tasks = grown;
	}
	log_debug("copy of %.*s.%.*s in %zu ranges", SPAN_ARG(t->conf.rel->schema), SPAN_ARG(t->conf.rel->table), n);
	pthread_mutex_lock(&c->lock);
	t->tasks_left = n;
	t->bytes_total = look->bytes;
	t->rows_estimate = look->rows_estimate;
	pthread_mutex_unlock(&c->lock);
	for (size_t i = 0; i < n; i++) {
		uint64_t to = i + 1 < n ? (i + 1) * step : 0;
		c->tasks[c->task_count++] = (struct copy_task) {
			.table = table,
			.from = i * step,
			.to = to,
			.bytes = ((to ? to : blocks) - i * step) * look->block_bytes,
		};
	}
	return true;
}

bool copy_let_go(PGconn *conn, struct fault *f)
{
	return pg_do(conn, f, "ROLLBACK TO SAVEPOINT look; RELEASE SAVEPOINT look");
}

/* *ret_is_same false: it is void now, and let go. */
static bool hold(struct copy *c, PGconn *conn, size_t table, struct look *ret, bool *ret_is_same, struct fault *f)
{
	const struct relation *rel = c->tables[table].conf.rel;
	const char *reason = "the table was changed, rewritten or truncated around its point";
	struct fault why = { 0 };

	*ret_is_same = false;
	if (!pg_do(conn, f, "SAVEPOINT look"))
		return false;
	if (inspect(c, conn, rel, ret, &why)) {
		*ret_is_same = ret->is_same;
	} else if (is_missing(&why)) {
		reason = why.text;
	} else {
		if (f)
			*f = why;
		return fault_in(f, "copy of %.*s.%.*s", SPAN_ARG(rel->schema), SPAN_ARG(rel->table));
	}
	if (*ret_is_same)
		return true;
	copy_table_void(c, table, reason);
	return copy_let_go(conn, f);
}

bool copy_hold(struct copy *c, PGconn *conn, size_t table, bool *ret_is_same, struct fault *f)
{
	struct look look;

	return hold(c, conn, table, &look, ret_is_same, f);
}

static bool plan_table(struct copy *c, PGconn *conn, size_t table, size_t *room, struct fault *f)
{
	struct look look;
	bool is_same;

	if (!hold(c, conn, table, &look, &is_same, f))
		return false;
	return !is_same || (copy_let_go(conn, f) && add_tasks(c, table, &look, room, f));
}

/* The largest table first, the ranges of a table in order: so tables get complete one after another. */
static int compare_tasks(const void *a, const void *b, void *arg)
{
	const struct copy *c = arg;
	const struct copy_task *x = a, *y = b;
	uint64_t xb = c->tables[x->table].bytes_total, yb = c->tables[y->table].bytes_total;

	if (xb != yb)
		return xb > yb ? -1 : 1;
	if (x->table != y->table)
		return x->table < y->table ? -1 : 1;
	return x->from < y->from ? -1 : x->from > y->from;
}

bool copy_plan(struct copy *c, PGconn *conn, struct fault *f)
{
	size_t room = 0;

	for (size_t i = 0; i < c->table_count; i++) {
		if (atomic_load(&c->is_stopping))
			return fault(f, FAULT_ENVIRONMENT, "the copy is being stopped");
		if (!plan_table(c, conn, i, &room, f))
			return false;
	}
	if (c->task_count)
		qsort_r(c->tasks, c->task_count, sizeof(*c->tasks), compare_tasks, c);
	return true;
}
