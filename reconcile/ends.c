// SPDX-License-Identifier: Apache-2.0
#include "reconcile/ends.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/log.h"

enum {
	PATIENCE_US = 60 * 1000 * 1000,
	PATIENCE_AT_GATE_US = 10 * PATIENCE_US, /* a table that is compared as a whole holds it for that long */
	POLL_FIRST_MS = 2,
	POLL_MS = 20,
	LIST_BYTES = 16 << 20,
};

const char *const ends_role_names[2] = { "shadow", "primary" };

static bool must_stop(const struct ends *e, struct fault *f)
{
	return e->stop && atomic_load(e->stop) && !fault(f, FAULT_ENVIRONMENT, "told to stop");
}

bool ends_go_on(const struct ends *e, struct fault *f)
{
	if (e->alive)
		e->alive(e->arg);
	return !must_stop(e, f);
}

/* One core of a server at most: source_load is a share of that. */
static const char settings_sql[] = "SET max_parallel_workers_per_gather = 0";

static PGconn *connect_to(const struct migration *m, const struct pg_server *server, struct fault *f)
{
	PGconn *conn = pg_connect(server, PG_PLAIN, m->slot, f);
	PGresult *r = conn ? pg_query(conn, f, settings_sql) : NULL;

	if (conn && !r) {
		fault_in(f, "%s", server->name);
		pg_close(&conn);
	}
	PQclear(r);
	return conn;
}

bool ends_connect(struct ends *e, const bool roles[2], struct fault *f)
{
	e->source = connect_to(e->m, &e->m->source, f);
	for (int role = 0; e->source && role < 2; role++) {
		if (!roles[role])
			continue;
		e->targets[role] = connect_to(e->m, migration_target(e->m, (enum role)role), f);
		if (!e->targets[role])
			return false;
	}
	return e->source != NULL;
}

void ends_close(struct ends *e)
{
	pg_close(&e->source);
	for (int role = 0; role < 2; role++)
		pg_close(&e->targets[role]);
}

/* Before version 17 a message alone is not flushed: the transaction's commit record is. */
const char ends_mark_sql[] =
    "SELECT pg_catalog.pg_logical_emit_message(false, 'foreshadow', 'verify'),"
    " pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(),"
    " pg_catalog.set_config('synchronous_commit', 'local', true)";

bool ends_mark_read(const PGresult *r, struct ends_moment *ret, struct fault *f)
{
	bool ok = lsn_parse(pg_value(r, 0, 0), &ret->lsn);

	ret->xid = strtoull(PQgetvalue(r, 0, 1), NULL, 10);
	snprintf(ret->at, sizeof(ret->at), "%s", PQgetvalue(r, 0, 2));
	return ok || fault(f, FAULT_INPUT, "source: the server gave no WAL position");
}

bool ends_mark(struct ends *e, struct ends_moment *ret, struct fault *f)
{
	int64_t began_us = clock_us();
	PGresult *r = pg_query(e->source, f, ends_mark_sql);
	bool ok;

	if (!r)
		return fault_in(f, "source");
	ok = ends_mark_read(r, ret, f);
	PQclear(r);
	if (e->answered)
		e->answered(e->arg, clock_us() - began_us);
	return ok;
}

bool ends_barrier(struct ends *e, enum role role, uint64_t *ret_lsn, struct fault *f)
{
	const char *values[] = { e->m->name, e->m->changes_topic };
	PGresult *r = pg_query_params(e->targets[role], f,
				      "SELECT min(barrier_lsn) FROM foreshadow.progress"
				      " WHERE migration = $1 AND topic = $2",
				      2, values);

	*ret_lsn = 0;
	if (!r)
		return fault_in(f, "%s", ends_role_names[role]);
	lsn_parse(pg_value(r, 0, 0), ret_lsn);
	PQclear(r);
	return true;
}

static bool is_behind_gate(const struct ends *e, enum role role)
{
	return role == ROLE_PRIMARY && e->m->window_ms > 0;
}

static bool stands(const struct ends *e, enum role role, uint64_t barrier, uint64_t lsn, struct fault *f)
{
	char at[LSN_TEXT], wanted[LSN_TEXT];

	return fault(f, FAULT_ENVIRONMENT,
		     "the %s does not move: it contains the source up to %s, wanted: %s; next step: see that foreshadow run is running%s",
		     ends_role_names[role], lsn_format(barrier, at), lsn_format(lsn, wanted),
		     is_behind_gate(e, role) ? " and why the gate stands, where it waits (foreshadow status), or foreshadow verify --role shadow"
					     : " (foreshadow status)");
}

int64_t ends_patience_us(const struct ends *e, enum role role)
{
	if (e->is_patient)
		return INT64_MAX;
	return is_behind_gate(e, role) ? PATIENCE_AT_GATE_US : PATIENCE_US;
}

static bool wait_for_target(struct ends *e, enum role role, uint64_t lsn, struct fault *f)
{
	int64_t moved_us = clock_us(), stood_us;
	uint64_t seen = 0, barrier;
	bool is_said = e->is_patient;

	for (int poll_ms = POLL_FIRST_MS;; poll_ms = 2 * poll_ms < POLL_MS ? 2 * poll_ms : POLL_MS) {
		if (!ends_barrier(e, role, &barrier, f))
			return false;
		if (barrier >= lsn)
			return true;
		if (barrier > seen) {
			moved_us = clock_us();
			if (!ends_go_on(e, f))
				return false;
		}
		seen = barrier;
		stood_us = clock_us() - moved_us;
		if (stood_us > ends_patience_us(e, role))
			return stands(e, role, barrier, lsn, f);
		if (!is_said && stood_us > PATIENCE_US)
			log_info("the primary has not moved for a minute: it waits at the gate, or foreshadow run is not running");
		is_said = is_said || stood_us > PATIENCE_US;
		if (must_stop(e, f) || !tail_poll(e->tail, poll_ms, f))
			return false;
	}
}

bool ends_wait(struct ends *e, enum role role, uint64_t lsn, struct fault *f)
{
	int64_t began_us = clock_us();
	bool ok = e->are_still || wait_for_target(e, role, lsn, f);

	e->waited_us += clock_us() - began_us;
	return ok;
}

bool ends_places(struct ends *e, enum role role, struct position *ret_places, struct fault *f)
{
	const char *values[] = { e->m->name, e->m->changes_topic };
	PGresult *r = pg_query_params(e->targets[role], f,
				      "SELECT partition, commit_lsn, seq FROM foreshadow.progress"
				      " WHERE migration = $1 AND topic = $2 ORDER BY partition",
				      2, values);
	bool ok;

	if (!r)
		return fault_in(f, "%s", ends_role_names[role]);
	ok = PQntuples(r) == e->m->partition_count;
	for (int p = 0; ok && p < PQntuples(r); p++) {
		ok = pg_i64(r, p, 0) == p && lsn_parse(pg_value(r, p, 1), &ret_places[p].commit.v);
		ret_places[p].seq = (uint64_t)pg_i64(r, p, 2);
	}
	PQclear(r);
	return ok || fault(f, FAULT_INPUT, "%s: foreshadow.progress lacks rows of this migration",
			   ends_role_names[role]);
}

static const char copies_sql[] =
    "SELECT coalesce(string_agg(oid || ':' || attempt, ' ' ORDER BY oid), ''),"
    "  count(*) > 0 AND bool_and(state = 'live')"
    " FROM foreshadow.copies WHERE migration = $1 AND oid = ANY ($2::bigint[])";

static void list_leaves(struct ends *e, const struct relation *rel, struct buf *out)
{
	char text[16];

	pg_array_begin(out);
	for (size_t i = 0; i < known_count(e->tail->known); i++) {
		const struct relation *leaf = known_newest(e->tail->known, i);

		if (!span_eq(leaf->root_schema, rel->root_schema) ||
		    !span_eq(leaf->root_table, rel->root_table))
			continue;
		snprintf(text, sizeof(text), "%u", leaf->oid);
		pg_array_add(out, span_str(text));
	}
	pg_array_end(out);
}

bool ends_copies(struct ends *e, enum role role, const struct relation *rel, struct arena *a,
		 struct span *ret_copies, bool *ret_are_live, struct fault *f)
{
	const char *values[2] = { e->m->name, NULL };
	struct buf oids;
	PGresult *r;

	buf_init(&oids, LIST_BYTES);
	list_leaves(e, rel, &oids);
	values[1] = buf_cstr(&oids);
	r = pg_query_params(e->targets[role], f, copies_sql, 2, values);
	buf_release(&oids);
	if (!r)
		return fault_in(f, "%s", ends_role_names[role]);
	*ret_copies = arena_dup(a, pg_value(r, 0, 0));
	*ret_are_live = *PQgetvalue(r, 0, 1) == 't';
	PQclear(r);
	return !arena_failed(a) || fault(f, FAULT_INTERNAL, "no memory for the copies of a table");
}

/* However much it is: what was not compared for a day is read before anything is. */
static bool read_to(struct ends *e, int p, struct position place, struct fault *f)
{
	int64_t moved_us = clock_us();

	while (!tail_has(e->tail, p, place)) {
		uint64_t taken = e->tail->taken;
		int64_t next = e->tail->next[p];

		if (!ends_go_on(e, f) || !tail_poll(e->tail, POLL_MS, f))
			return false;
		if (e->tail->next[p] != next)
			moved_us = clock_us();
		else if (clock_us() - moved_us > PATIENCE_US)
			return fault(f, FAULT_ENVIRONMENT,
				     "topic %s partition %d: records that the target has applied do not come",
				     e->m->changes_topic, p);
		else if (e->tail->taken == taken)
			tail_wake(e->tail, p);
	}
	return true;
}

bool ends_read_to(struct ends *e, const struct position *places, struct fault *f)
{
	int64_t began_us = clock_us();
	bool ok = true;

	for (int p = 0; ok && p < e->m->partition_count; p++)
		ok = read_to(e, p, places[p], f);
	e->waited_us += clock_us() - began_us;
	return ok;
}

bool ends_read_past(struct ends *e, uint64_t lsn, int64_t timeout_us, bool *ret_is_read, struct fault *f)
{
	int64_t deadline_us = clock_us() + timeout_us;

	*ret_is_read = false;
	for (int p = 0; p < e->m->partition_count; p++)
		while (e->tail->parts[p].barrier.v < lsn) {
			if (clock_us() > deadline_us)
				return true;
			if (must_stop(e, f) || !tail_poll(e->tail, POLL_MS, f))
				return false;
		}
	*ret_is_read = true;
	return true;
}

static const char unsettled_sql[] =
    "SELECT pg_catalog.count(*) FROM pg_catalog.unnest($1::pg_catalog.text[]) x"
    " WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a"
    "  WHERE a.backend_xid = x::pg_catalog.xid8::pg_catalog.xid"
    "  AND (a.state LIKE 'idle in transaction%' OR a.query_start > $2::pg_catalog.timestamptz))";

bool ends_is_settled(struct ends *e, const struct snapshot *s, const struct ends_moment *since,
		     bool *ret_is_settled, struct fault *f)
{
	const char *values[2] = { NULL, since->at };
	struct buf list;
	char text[24];
	PGresult *r;

	buf_init(&list, LIST_BYTES);
	pg_array_begin(&list);
	*ret_is_settled = true;
	for (size_t i = 0; i < s->running_count; i++)
		if (s->running[i] < since->xid) {
			snprintf(text, sizeof(text), "%" PRIu64, s->running[i]);
			pg_array_add(&list, span_str(text));
			*ret_is_settled = false;
		}
	if (*ret_is_settled || buf_failed(&list)) {
		buf_release(&list);
		return true;
	}
	pg_array_end(&list);
	values[0] = buf_cstr(&list);
	r = pg_query_params(e->source, f, unsettled_sql, 2, values);
	buf_release(&list);
	if (!r)
		return fault_in(f, "source");
	*ret_is_settled = pg_i64(r, 0, 0) == 0;
	PQclear(r);
	return true;
}

static void end_transaction(PGconn *conn)
{
	if (conn && PQtransactionStatus(conn) != PQTRANS_IDLE)
		PQclear(pg_query(conn, NULL, "ROLLBACK"));
}

bool ends_pass_over(struct ends *e, const struct fault *f)
{
	if ((f->kind != FAULT_STOP && f->kind != FAULT_DATA) || e->tail->has_refused)
		return false;
	end_transaction(e->source);
	for (int role = 0; role < 2; role++)
		end_transaction(e->targets[role]);
	return true;
}

bool ends_begin(PGconn *conn, struct fault *f)
{
	return pg_do(conn, f, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
}

bool ends_commit(PGconn *conn, struct fault *f)
{
	return pg_do(conn, f, "COMMIT");
}
