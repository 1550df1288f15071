// SPDX-License-Identifier: Apache-2.0
#include "reconcile/asks.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { LIST_BYTES = 1 << 20 };

static const char *const state_names[] = { "asked", "held", "ready", "written", "done", "failed", "released" };

#define LOCK "pg_catalog.hashtextextended('foreshadow repair ' || $1, 0)"

static const char begin_sql[] =
    "SELECT (pg_catalog.to_regclass('foreshadow.repairs') IS NOT NULL)::int, pg_catalog.pg_try_advisory_lock(" LOCK ")::int";

static const char clean_sql[] =
    "UPDATE foreshadow.repairs SET state = 'released', row_values = NULL, reason = 'who asked was gone',"
    " changed_at = pg_catalog.clock_timestamp() WHERE migration = $1 AND state IN ('asked', 'held', 'ready')";

static const char send_sql[] =
    "INSERT INTO foreshadow.repairs (migration, partition, oid, version, key, key_values, state, asker_pid, hold_ms)"
    " VALUES ($1, $2, $3, $4, $5, $6, 'asked', pg_catalog.pg_backend_pid(), $7) RETURNING id";

static const char look_sql[] =
    "SELECT id, state, commit_lsn, seq, reason FROM foreshadow.repairs WHERE id = ANY ($1::bigint[])";

static const char answer_sql[] =
    "UPDATE foreshadow.repairs SET state = 'ready', row_values = $2, changed_at = pg_catalog.clock_timestamp()"
    " WHERE id = $1 AND state = 'held'";

static const char withdraw_sql[] =
    "UPDATE foreshadow.repairs SET state = 'released', row_values = NULL, reason = 'taken back',"
    " changed_at = pg_catalog.clock_timestamp() WHERE id = ANY ($1::bigint[]) AND state IN ('asked', 'held', 'ready')";

static bool run(PGconn *conn, const char *sql, int n, const char *const *values, struct fault *f)
{
	PGresult *r = pg_query_params(conn, f, sql, n, values);

	PQclear(r);
	return r != NULL;
}

bool asks_begin(PGconn *conn, const char *migration, struct fault *f)
{
	PGresult *r = pg_query_params(conn, f, begin_sql, 1, &migration);
	bool has_table, is_locked;

	if (!r)
		return false;
	has_table = pg_i64(r, 0, 0) == 1;
	is_locked = pg_i64(r, 0, 1) == 1;
	PQclear(r);
	if (!has_table)
		return fault(f, FAULT_STOP,
			     "there is no table foreshadow.repairs: an older version made the target; next step: stop "
			     "foreshadow run and start it again in this version");
	if (!is_locked)
		return fault(f, FAULT_ENVIRONMENT, "another verify --repair is running; next step: wait for its end");
	return run(conn, clean_sql, 1, &migration, f);
}

bool asks_end(PGconn *conn, const char *migration, struct fault *f)
{
	return run(conn, "SELECT pg_catalog.pg_advisory_unlock(" LOCK ")", 1, &migration, f);
}

/* ---- lists ---- */

static bool send_one(PGconn *conn, const char *migration, const struct relation *rel, struct ask *k, struct fault *f)
{
	char partition[16], oid[16], version[16], hold[16];
	const char *values[] = { migration, partition, oid, version, k->message_key.p, k->key_values.p, hold };
	PGresult *r;

	snprintf(partition, sizeof(partition), "%d", k->partition);
	snprintf(oid, sizeof(oid), "%" PRIu32, rel->oid);
	snprintf(version, sizeof(version), "%" PRIu32, rel->version);
	snprintf(hold, sizeof(hold), "%d", ASK_HOLD_MS);
	r = pg_query_params(conn, f, send_sql, 7, values);
	if (!r)
		return false;
	k->id = pg_i64(r, 0, 0);
	k->state = ASK_ASKED;
	k->reason = NULL;
	PQclear(r);
	return true;
}

bool asks_send(PGconn *conn, const char *migration, const struct relation *rel, struct ask *asks, size_t n, struct fault *f)
{
	if (!pg_do(conn, f, "BEGIN"))
		return false;
	for (size_t i = 0; i < n; i++)
		if (!send_one(conn, migration, rel, &asks[i], f))
			return false;
	return pg_do(conn, f, "COMMIT");
}

/* False: too many. */
static bool list_ids(const struct ask *asks, size_t n, struct buf *out)
{
	size_t count = 0;

	for (size_t i = 0; i < n; i++)
		if (asks[i].id)
			buf_printf(out, "%s%" PRId64, count++ ? "," : "{", asks[i].id);
	buf_str(out, count ? "}" : "{}");
	return !buf_failed(out);
}

static PGresult *ask_ids(PGconn *conn, const char *sql, const struct ask *asks, size_t n, struct fault *f)
{
	const char *ids;
	PGresult *r = NULL;
	struct buf b;

	buf_init(&b, LIST_BYTES);
	if (!list_ids(asks, n, &b))
		fault(f, FAULT_INTERNAL, "no memory for a list of repairs");
	else if ((ids = buf_cstr(&b)))
		r = pg_query_params(conn, f, sql, 1, &ids);
	buf_release(&b);
	return r;
}

static void take_row(const PGresult *r, int row, struct arena *a, struct ask *k)
{
	struct span state = pg_value(r, row, 1);

	for (size_t i = 0; i < sizeof(state_names) / sizeof(*state_names); i++)
		if (span_eq_str(state, state_names[i]))
			k->state = (enum ask_state)i;
	lsn_parse(pg_value(r, row, 2), &k->place.commit.v);
	k->place.seq = PQgetisnull(r, row, 3) ? 0 : (uint64_t)pg_i64(r, row, 3);
	k->reason = PQgetisnull(r, row, 4) ? NULL : arena_str(a, pg_value(r, row, 4));
}

bool asks_look(PGconn *conn, struct ask *asks, size_t n, struct arena *a, struct fault *f)
{
	PGresult *r = ask_ids(conn, look_sql, asks, n, f);

	for (int row = 0; r && row < PQntuples(r); row++)
		for (size_t i = 0; i < n; i++)
			if (asks[i].id == pg_i64(r, row, 0))
				take_row(r, row, a, &asks[i]);
	PQclear(r);
	return r != NULL;
}

bool asks_answer(PGconn *conn, const struct ask *k, struct span values, struct fault *f)
{
	char id[24];
	const char *params[] = { id, values.p };

	snprintf(id, sizeof(id), "%" PRId64, k->id);
	return run(conn, answer_sql, 2, params, f);
}

bool asks_withdraw(PGconn *conn, struct ask *asks, size_t n, struct fault *f)
{
	PGresult *r = ask_ids(conn, withdraw_sql, asks, n, f);

	PQclear(r);
	return r != NULL;
}
