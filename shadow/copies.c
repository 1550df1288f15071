// SPDX-License-Identifier: Apache-2.0
#include "shadow/copies.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

enum copies_verdict copies_change(const struct copies_table *t, struct commit_lsn commit)
{
	if (!t)
		return COPIES_COVERED;
	if (t->is_void && !t->is_live)
		return COPIES_COVERED;
	if (!t->has_point)
		return COPIES_WAIT;
	if (boundary_has(t->point, commit))
		return COPIES_COVERED;
	return t->is_live ? COPIES_APPLY : COPIES_WAIT;
}

enum copies_verdict copies_barrier(const struct copies_table *t, struct boundary x)
{
	if (t->is_live || t->is_void)
		return COPIES_APPLY;
	return t->has_point && boundary_cmp(x, t->point) <= 0 ? COPIES_APPLY : COPIES_WAIT;
}

enum copies_verdict copies_record(const struct copies_table *t, uint32_t attempt)
{
	if (!t || attempt > t->attempt)
		return COPIES_WAIT;
	return attempt == t->attempt && !t->is_live && !t->is_void ? COPIES_APPLY : COPIES_COVERED;
}

bool copies_is_whole(const struct copies_table *t, int ended_count, uint64_t records,
		     int partition_count, struct fault *f)
{
	if (t->is_void || !t->is_complete || ended_count < partition_count)
		return false;
	if (records != t->complete_records)
		return fault(f, FAULT_LOST,
			     "copy %" PRIu32 " of the table with OID %" PRIu32 " has %" PRIu64
			     " rows here, but %" PRIu64 " were copied from the source: copy it again",
			     t->attempt, t->oid, records, t->complete_records);
	return true;
}

void copies_init(struct copies *c, struct control *control, const char *migration)
{
	*c = (struct copies) { .control = control, .migration = migration };
}

void copies_release(struct copies *c)
{
	free(c->tables);
	c->tables = NULL;
	c->count = 0;
}

/* Field of the JSON object under copy/<oid>/<attempt>/<what>; false: there is no such key. */
static bool copies_control(const struct copies *c, const struct copies_table *t, const char *what,
			   struct arena *a, json_t **ret)
{
	const char *key = arena_printf(a, "copy/%" PRIu32 "/%08" PRIu32 "/%s", t->oid, t->attempt, what);
	struct span value = key ? control_get(c->control, span_str(key), a) : span(NULL, 0);

	if (!value.p)
		return false;
	*ret = json_loadb(value.p, value.n, 0, NULL);
	return *ret != NULL;
}

static void copies_refresh_table(struct copies *c, struct copies_table *t, struct arena *a)
{
	json_t *json;
	const char *boundary;

	if (!t->has_point && copies_control(c, t, "point", a, &json)) {
		boundary = json_string_value(json_object_get(json, "boundary"));
		t->has_point = boundary && lsn_parse(span_str(boundary), &t->point.v);
		json_decref(json);
	}
	if (!t->is_complete && copies_control(c, t, "complete", a, &json)) {
		t->complete_records =
			(uint64_t)json_integer_value(json_object_get(json, "records"));
		t->is_complete = true;
		json_decref(json);
	}
	if (!t->is_void && copies_control(c, t, "void", a, &json)) {
		t->is_void = true;
		json_decref(json);
	}
}

void copies_refresh(struct copies *c)
{
	uint64_t version = control_version(c->control);
	struct arena a;

	if (version == c->control_seen)
		return;
	c->control_seen = version;
	arena_init(&a, 1024 * 1024);
	for (size_t i = 0; i < c->count; i++) {
		arena_reset(&a);
		copies_refresh_table(c, &c->tables[i], &a);
	}
	arena_release(&a);
}

const struct copies_table *copies_find(const struct copies *c, uint32_t oid)
{
	size_t low = 0, high = c->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (c->tables[middle].oid == oid)
			return &c->tables[middle];
		if (c->tables[middle].oid < oid)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

enum copies_verdict copies_all_barrier(const struct copies *c, struct boundary x)
{
	for (size_t i = 0; i < c->count; i++)
		if (copies_barrier(&c->tables[i], x) == COPIES_WAIT)
			return COPIES_WAIT;
	return COPIES_APPLY;
}

bool copies_has_copying(const struct copies *c)
{
	for (size_t i = 0; i < c->count; i++)
		if (!c->tables[i].is_live)
			return true;
	return false;
}

bool copies_has_live(const struct copies *c)
{
	for (size_t i = 0; i < c->count; i++)
		if (c->tables[i].is_live)
			return true;
	return false;
}

bool copies_load(struct copies *c, PGconn *conn, bool *ret_changed, struct fault *f)
{
	PGresult *r = pg_query_params(conn, f,
				      "SELECT oid, attempt, (state = 'live')::int FROM foreshadow.copies"
				      " WHERE migration = $1 ORDER BY oid",
				      1, &c->migration);
	struct copies_table *tables;
	bool is_changed;
	size_t n;

	if (!r)
		return false;
	n = (size_t)PQntuples(r);
	tables = calloc(n + 1, sizeof(*tables));
	if (!tables) {
		PQclear(r);
		return fault(f, FAULT_INTERNAL, "no memory for the state of %zu copies", n);
	}
	is_changed = n != c->count;
	for (size_t i = 0; i < n; i++) {
		struct copies_table *t = &tables[i];
		const struct copies_table *old;

		t->oid = (uint32_t)pg_i64(r, (int)i, 0);
		t->attempt = (uint32_t)pg_i64(r, (int)i, 1);
		old = copies_find(c, t->oid);
		if (old && old->attempt == t->attempt)
			*t = *old;
		t->is_live = pg_i64(r, (int)i, 2) != 0;
		is_changed |= !old || old->attempt != t->attempt || old->is_live != t->is_live;
	}
	PQclear(r);
	free(c->tables);
	c->tables = tables;
	c->count = n;
	c->control_seen = 0;
	copies_refresh(c);
	if (ret_changed)
		*ret_changed = is_changed;
	return true;
}

bool copies_begin(struct copies *c, PGconn *conn, const struct exclusive_table *tables,
		  const struct span *targets, size_t count, struct fault *f)
{
	for (size_t i = 0; i < count; i++) {
		char oid[16], attempt[16], target[600];
		const char *values[] = { c->migration, oid, attempt, target };
		PGresult *r;

		snprintf(oid, sizeof(oid), "%" PRIu32, tables[i].oid);
		snprintf(attempt, sizeof(attempt), "%" PRIu32, tables[i].attempt);
		snprintf(target, sizeof(target), "%.*s", SPAN_ARG(targets[i]));
		r = pg_query_params(conn, f,
				    "INSERT INTO foreshadow.copies (migration, oid, attempt, target, state)"
				    " VALUES ($1, $2, $3, $4, 'copying') ON CONFLICT (migration, oid)"
				    " DO UPDATE SET attempt = excluded.attempt, target = excluded.target,"
				    " state = 'copying', started_at = now()",
				    4, values);
		if (!r)
			return false;
		PQclear(r);
		r = pg_query_params(conn, f,
				    "DELETE FROM foreshadow.copy_parts WHERE migration = $1 AND oid = $2",
				    2, values);
		if (!r)
			return false;
		PQclear(r);
	}
	return true;
}

static const char count_sql[] =
	"WITH t AS (SELECT oid FROM foreshadow.copies WHERE migration = $1 AND oid = $2::bigint"
	" AND attempt = $3::int AND state = 'copying' FOR SHARE),"
	" part AS (INSERT INTO foreshadow.copy_parts AS p"
	" (migration, oid, partition, attempt, records, ended, bytes)"
	" SELECT $1, oid, $4::int, $3::int, $5::bigint, $6::boolean, $8::bigint FROM t"
	" ON CONFLICT (migration, oid, partition) DO UPDATE SET attempt = excluded.attempt,"
	" records = CASE p.attempt WHEN excluded.attempt THEN p.records ELSE 0 END"
	" + excluded.records, ended = excluded.ended,"
	" bytes = CASE p.attempt WHEN excluded.attempt THEN p.bytes ELSE 0 END + excluded.bytes"
	" RETURNING records)"
	" SELECT foreshadow.expect((SELECT count(*) FROM part), 1, 'progress'),"
	" CASE WHEN $6::boolean THEN foreshadow.expect((SELECT records FROM part), $7::bigint,"
	" 'copied rows of a partition, as its end marker says') END";

bool copies_count(const char *migration, uint32_t oid, uint32_t attempt, int partition,
		  uint64_t records, uint64_t bytes, bool ended, uint64_t wanted, struct arena *a,
		  struct apply_statement *ret, struct fault *f)
{
	const char **params = arena_alloc(a, 8 * sizeof(*params));

	if (params) {
		params[0] = migration;
		params[1] = arena_printf(a, "%" PRIu32, oid);
		params[2] = arena_printf(a, "%" PRIu32, attempt);
		params[3] = arena_printf(a, "%d", partition);
		params[4] = arena_printf(a, "%" PRIu64, records);
		params[5] = ended ? "t" : "f";
		params[6] = arena_printf(a, "%" PRIu64, wanted);
		params[7] = arena_printf(a, "%" PRIu64, bytes);
	}
	if (arena_failed(a))
		return fault(f, FAULT_INTERNAL, "no memory for a batch of a copy");
	*ret = (struct apply_statement) { count_sql, 8, params, "count of copied rows" };
	return true;
}

/* Marks those of the answer that are whole; how many. */
static size_t copies_mark_whole(struct copies *c, const PGresult *r, int partition_count,
				struct fault *f)
{
	size_t whole = 0;

	for (int i = 0; i < PQntuples(r); i++) {
		uint32_t oid = (uint32_t)pg_i64(r, i, 0);

		for (size_t k = 0; k < c->count; k++) {
			struct copies_table *t = &c->tables[k];

			if (t->oid != oid || t->is_live)
				continue;
			t->is_whole = copies_is_whole(t, (int)pg_i64(r, i, 1),
						      (uint64_t)pg_i64(r, i, 2), partition_count, f);
			whole += t->is_whole;
		}
	}
	return whole;
}

bool copies_ready(struct copies *c, PGconn *conn, int partition_count, enum copies_stage *ret,
		  struct fault *f)
{
	size_t copying = 0, voids = 0, whole;
	struct fault reason = { 0 };
	PGresult *r;

	*ret = COPIES_UNDER_WAY;
	for (size_t i = 0; i < c->count; i++) {
		const struct copies_table *t = &c->tables[i];

		if (!t->is_live && !t->is_void && !t->is_complete)
			return true; /* no need to ask */
		copying += !t->is_live && !t->is_void;
		voids += !t->is_live && t->is_void;
	}
	if (copying == 0)
		return true;
	r = pg_query_params(conn, f,
			    "SELECT c.oid, count(*) FILTER (WHERE p.ended), coalesce(sum(p.records), 0)"
			    " FROM foreshadow.copies c JOIN foreshadow.copy_parts p"
			    " USING (migration, oid, attempt)"
			    " WHERE migration = $1 AND c.state = 'copying' GROUP BY c.oid",
			    1, &c->migration);
	if (!r)
		return false;
	whole = copies_mark_whole(c, r, partition_count, &reason);
	PQclear(r);
	if (reason.kind != FAULT_NONE) {
		*f = reason;
		return false;
	}
	if (whole == copying)
		*ret = voids ? COPIES_WHOLE_BUT_VOID : COPIES_WHOLE;
	return true;
}

bool copies_go_live(struct copies *c, PGconn *conn, struct fault *f)
{
	for (size_t i = 0; i < c->count; i++) {
		char oid[16], attempt[16];
		const char *values[] = { c->migration, oid, attempt };
		PGresult *r;

		if (c->tables[i].is_live || !c->tables[i].is_whole)
			continue;
		snprintf(oid, sizeof(oid), "%" PRIu32, c->tables[i].oid);
		snprintf(attempt, sizeof(attempt), "%" PRIu32, c->tables[i].attempt);
		r = pg_query_params(conn, f,
				    "WITH done AS (UPDATE foreshadow.copies SET state = 'live'"
				    " WHERE migration = $1 AND oid = $2 AND attempt = $3"
				    " AND state = 'copying' RETURNING 1) SELECT foreshadow.expect("
				    "(SELECT count(*) FROM done), 1, 'progress')",
				    3, values);
		if (!r)
			return false;
		PQclear(r);
	}
	return true;
}
