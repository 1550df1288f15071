// SPDX-License-Identifier: Apache-2.0
#include "shadow/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/failpoint.h"
#include "core/log.h"

enum {
	TAKE_PATIENCE_MS = 2000, /* before the old owner's backend is ended */
	TAKE_LIMIT_MS = 20000,   /* before we give up: somebody who is not ours holds the row */
};

static const char ddl[] =
	"CREATE SCHEMA IF NOT EXISTS foreshadow;"
	"CREATE TABLE IF NOT EXISTS foreshadow.progress ("
	" migration text, topic text, partition int,"
	" next_offset bigint NOT NULL DEFAULT 0, generation bigint NOT NULL DEFAULT 0,"
	" ordinal bigint NOT NULL DEFAULT 0, commit_lsn pg_lsn NOT NULL DEFAULT '0/0',"
	" seq bigint NOT NULL DEFAULT 0, barrier_lsn pg_lsn NOT NULL DEFAULT '0/0',"
	" barrier_at timestamptz, epoch bigint NOT NULL DEFAULT 0, owner_instance text,"
	" owner_pid int, owner_start timestamptz, waiting_at text,"
	" changes bigint NOT NULL DEFAULT 0, covered bigint NOT NULL DEFAULT 0,"
	" updated_at timestamptz NOT NULL DEFAULT now(),"
	" PRIMARY KEY (migration, topic, partition)) WITH (fillfactor = 50);"
	"CREATE TABLE IF NOT EXISTS foreshadow.copies ("
	" migration text, oid bigint, attempt int NOT NULL, target text,"
	" state text NOT NULL CHECK (state IN ('copying', 'live')),"
	" started_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (migration, oid));"
	"CREATE TABLE IF NOT EXISTS foreshadow.copy_parts ("
	" migration text, oid bigint, partition int, attempt int NOT NULL,"
	" records bigint NOT NULL, ended boolean NOT NULL,"
	" PRIMARY KEY (migration, oid, partition));"
	"CREATE OR REPLACE FUNCTION foreshadow.expect(seen bigint, wanted bigint, what text)"
	" RETURNS void LANGUAGE plpgsql AS $$ BEGIN"
	" IF seen IS DISTINCT FROM wanted THEN"
	"  RAISE EXCEPTION USING MESSAGE = format('%s: %s rows, expected %s', what, seen, wanted),"
	"   ERRCODE = CASE what WHEN 'progress' THEN 'FS001' ELSE 'FS002' END;"
	" END IF; END $$;"
	/* A migration that began before there were counts: what was not told apart then is of no table. */
	"DO $$ BEGIN IF to_regclass('foreshadow.counts') IS NULL THEN"
	" CREATE TABLE foreshadow.counts ("
	"  migration text, partition int, oid bigint, applied bigint NOT NULL DEFAULT 0,"
	"  covered bigint NOT NULL DEFAULT 0, passed bigint NOT NULL DEFAULT 0,"
	"  accepted bigint NOT NULL DEFAULT 0,"
	"  PRIMARY KEY (migration, partition, oid)) WITH (fillfactor = 50);"
	" INSERT INTO foreshadow.counts (migration, partition, oid, applied, covered, passed)"
	"  SELECT migration, partition, 0, changes, covered, ordinal - changes - covered"
	"  FROM foreshadow.progress WHERE topic = migration || '.changes' AND ordinal > 0;"
	" END IF; END $$;";

/* Creating needs rights on the database that a later run may not have: look first. */
static const char ddl_is_done[] =
	"SELECT (to_regclass('foreshadow.progress') IS NOT NULL"
	" AND to_regclass('foreshadow.copies') IS NOT NULL"
	" AND to_regclass('foreshadow.copy_parts') IS NOT NULL"
	" AND to_regclass('foreshadow.counts') IS NOT NULL"
	" AND to_regproc('foreshadow.expect') IS NOT NULL)::int";

static bool progress_ask_i64(PGconn *conn, const char *sql, int n, const char *const *values,
			     int64_t *ret, struct fault *f)
{
	PGresult *r = pg_query_params(conn, f, sql, n, values);

	if (!r)
		return false;
	*ret = PQntuples(r) ? pg_i64(r, 0, 0) : 0;
	PQclear(r);
	return true;
}

bool progress_prepare(PGconn *conn, struct fault *f)
{
	int64_t is_done;
	bool ok;

	if (!pg_do(conn, f, "BEGIN"))
		return false;
	ok = pg_do(conn, f, "SET LOCAL client_min_messages = warning") &&
	     pg_do(conn, f, "SELECT pg_advisory_xact_lock(hashtextextended('foreshadow ddl', 0))") &&
	     progress_ask_i64(conn, ddl_is_done, 0, NULL, &is_done, f) &&
	     (is_done || pg_do(conn, f, ddl)) && pg_do(conn, f, "COMMIT");
	if (!ok) {
		fault_in(f, "foreshadow's tables in the target");
		pg_do(conn, NULL, "ROLLBACK");
	}
	return ok;
}

char *progress_position_format(struct position p, char *text)
{
	char lsn[LSN_TEXT];

	snprintf(text, PROGRESS_POSITION_TEXT, "%s %" PRIu64, lsn_format(p.commit.v, lsn), p.seq);
	return text;
}

bool progress_position_parse(struct span s, struct position *ret)
{
	const char *blank = s.n ? memchr(s.p, ' ', s.n) : NULL;
	uint64_t seq = 0;

	if (!blank || !lsn_parse(span(s.p, (size_t)(blank - s.p)), &ret->commit.v) ||
	    blank + 1 == s.p + s.n)
		return false;
	for (const char *p = blank + 1; p < s.p + s.n; p++) {
		if (*p < '0' || *p > '9' || seq > (UINT64_MAX - 9) / 10)
			return false;
		seq = seq * 10 + (uint64_t)(*p - '0');
	}
	ret->seq = seq;
	return true;
}

static const char take_sql[] =
	"UPDATE foreshadow.progress SET epoch = epoch + 1, owner_instance = $4,"
	" owner_pid = pg_backend_pid(), owner_start ="
	" (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()),"
	" updated_at = now() WHERE migration = $1 AND topic = $2 AND partition = $3"
	" RETURNING epoch, next_offset, generation, ordinal, commit_lsn, seq, barrier_lsn,"
	" (extract(epoch FROM barrier_at) * 1000000)::bigint, waiting_at, changes, covered";

static bool progress_read_row(const PGresult *r, struct progress *ret, struct fault *f)
{
	struct progress p = {
		.epoch = (uint64_t)pg_i64(r, 0, 0),
		.next_offset = pg_i64(r, 0, 1),
		.at.generation = (uint64_t)pg_i64(r, 0, 2),
		.at.ordinal = (uint64_t)pg_i64(r, 0, 3),
		.at.position.seq = (uint64_t)pg_i64(r, 0, 5),
		.barrier_us = PQgetisnull(r, 0, 7) ? 0 : pg_i64(r, 0, 7),
		.changes = (uint64_t)pg_i64(r, 0, 9),
		.covered = (uint64_t)pg_i64(r, 0, 10),
	};

	if (!lsn_parse(pg_value(r, 0, 4), &p.at.position.commit.v) ||
	    !lsn_parse(pg_value(r, 0, 6), &p.at.barrier.v) ||
	    (!PQgetisnull(r, 0, 8) && !progress_position_parse(pg_value(r, 0, 8), &p.waiting)))
		return fault(f, FAULT_INPUT, "a row of foreshadow.progress is not of our making");
	*ret = p;
	return true;
}

/* Who keeps our UPDATE waiting? The owner the row names is ended; anybody else is named. */
static bool progress_end_blocker(const struct pg_server *server, int our_pid,
				 const struct progress_key *key, struct fault *f)
{
	static const char sql[] =
		"SELECT a.pid, a.application_name,"
		" CASE WHEN a.pid = p.owner_pid AND a.backend_start = p.owner_start"
		" THEN pg_terminate_backend(a.pid)::int ELSE 0 END"
		" FROM unnest(pg_blocking_pids($1)) AS b (pid) JOIN pg_stat_activity a USING (pid)"
		" CROSS JOIN foreshadow.progress p"
		" WHERE p.migration = $2 AND p.topic = $3 AND p.partition = $4";
	char pid[16], partition[16];
	const char *values[] = { pid, key->migration, key->topic, partition };
	PGconn *other = pg_connect(server, PG_PLAIN, "foreshadow fence", f);
	PGresult *r = NULL;

	if (!other)
		return false;
	snprintf(pid, sizeof(pid), "%d", our_pid);
	snprintf(partition, sizeof(partition), "%d", key->partition);
	r = pg_query_params(other, f, sql, 4, values);
	for (int i = 0; r && i < PQntuples(r); i++)
		log_warn("%s partition %d: backend %s (%s) holds its progress row%s", key->topic,
			 key->partition, PQgetvalue(r, i, 0), PQgetvalue(r, i, 1),
			 *PQgetvalue(r, i, 2) == '1' ? ": it is the last owner's, ended" : "");
	PQclear(r);
	pg_close(&other);
	return r != NULL;
}

/* Waits for the answer to take_sql; every TAKE_PATIENCE_MS it looks at who is in the way. */
static PGresult *progress_take_wait(PGconn *conn, const struct pg_server *server,
				    const struct progress_key *key, struct fault *f)
{
	int64_t start = clock_us(), looked = start;
	PGresult *r;

	while (PQisBusy(conn)) {
		int64_t now = clock_us();

		if (now - start > TAKE_LIMIT_MS * INT64_C(1000)) {
			PGcancel *cancel = PQgetCancel(conn);
			char text[256];

			if (cancel)
				PQcancel(cancel, text, sizeof(text));
			PQfreeCancel(cancel);
			while ((r = PQgetResult(conn)))
				PQclear(r);
			fault(f, FAULT_ENVIRONMENT,
			      "%s partition %d: its row in foreshadow.progress has been locked for "
			      "%d s by a session that is not its owner: end that session",
			      key->topic, key->partition, TAKE_LIMIT_MS / 1000);
			return NULL;
		}
		if (now - looked > TAKE_PATIENCE_MS * INT64_C(1000)) {
			if (!progress_end_blocker(server, PQbackendPID(conn), key, f))
				return NULL;
			looked = clock_us();
		}
		if (!pg_wait(conn, false, -1, 100, f))
			return NULL;
		if (!PQconsumeInput(conn)) {
			pg_fault(conn, NULL, f);
			return NULL;
		}
	}
	r = PQgetResult(conn);
	for (PGresult *more; (more = PQgetResult(conn));)
		PQclear(more);
	return r;
}

bool progress_take(PGconn *conn, const struct pg_server *server, const struct progress_key *key,
		   const char *instance, struct progress *ret, struct fault *f)
{
	char partition[16];
	const char *values[] = { key->migration, key->topic, partition, instance };
	PGresult *r;
	bool ok;

	snprintf(partition, sizeof(partition), "%d", key->partition);
	/* Not ON CONFLICT alone: that waits for a transaction that updates the row, and nobody would
	 * look at whose it is. */
	r = pg_query_params(conn, f,
			    "INSERT INTO foreshadow.progress (migration, topic, partition)"
			    " SELECT $1, $2, $3::int WHERE NOT EXISTS (SELECT FROM foreshadow.progress"
			    " WHERE migration = $1 AND topic = $2 AND partition = $3::int)"
			    " ON CONFLICT DO NOTHING",
			    3, values);
	if (!r)
		return false;
	PQclear(r);
	if (!PQsendQueryParams(conn, take_sql, 4, NULL, values, NULL, NULL, 0) || PQflush(conn) < 0)
		return pg_fault(conn, NULL, f);
	r = progress_take_wait(conn, server, key, f);
	if (!r)
		return fault_in(f, "taking %s partition %d", key->topic, key->partition);
	if (PQresultStatus(r) != PGRES_TUPLES_OK)
		ok = pg_fault(conn, r, f);
	else if (PQntuples(r) != 1)
		ok = fault(f, FAULT_ENVIRONMENT, "its row in foreshadow.progress is gone");
	else
		ok = progress_read_row(r, ret, f);
	PQclear(r);
	return ok || fault_in(f, "taking %s partition %d", key->topic, key->partition);
}

#define MOVES_SQL(fence) \
	"WITH m AS (SELECT * FROM unnest($2::text[], $3::int[], $4::bigint[], $5::bigint[]," \
	" $6::bigint[], $7::bigint[], $8::bigint[], $9::pg_lsn[], $10::bigint[], $11::pg_lsn[]," \
	" $12::float8[], $13::text[], $14::bigint[], $15::bigint[]) AS m (topic, partition, epoch," \
	" from_offset, next_offset, generation, ordinal, commit_lsn, seq, barrier_lsn, barrier_us," \
	" waiting_at, changes, covered)), done AS (UPDATE foreshadow.progress p SET" \
	" next_offset = m.next_offset, generation = m.generation, ordinal = m.ordinal," \
	" commit_lsn = m.commit_lsn, seq = m.seq, barrier_lsn = m.barrier_lsn," \
	" barrier_at = to_timestamp(nullif(m.barrier_us, 0) / 1000000)," \
	" waiting_at = nullif(m.waiting_at, ''), changes = m.changes, covered = m.covered," \
	" updated_at = now() FROM m WHERE p.migration = $1 AND p.topic = m.topic" \
	" AND p.partition = m.partition" fence \
	" RETURNING 1), counted AS (INSERT INTO foreshadow.counts AS c" \
	" (migration, partition, oid, applied, covered, passed) SELECT $1, n.*" \
	" FROM unnest($17::int[], $18::bigint[], $19::bigint[], $20::bigint[], $21::bigint[]) AS n" \
	" ON CONFLICT (migration, partition, oid) DO UPDATE SET applied = c.applied + excluded.applied," \
	" covered = c.covered + excluded.covered, passed = c.passed + excluded.passed)" \
	" SELECT foreshadow.expect((SELECT count(*) FROM done), $16, 'progress')"

static const char moves_sql[] = MOVES_SQL(" AND p.epoch = m.epoch AND p.next_offset = m.from_offset");
/* What a test needs to see that the fence is what holds a process that should be gone. */
static const char moves_unfenced_sql[] = MOVES_SQL("");

enum {
	MOVE_COLUMNS = 14, /* $2 to $15: arrays with an element per partition; $16: how many */
	COUNT_COLUMNS = 5, /* $17 to $21: with one per partition and table */
	MOVES_PARAMS = 2 + MOVE_COLUMNS + COUNT_COLUMNS,
	MOVES_TEXT_MAX = 4 * 1024 * 1024,
};

/* The i-th move's element of parameter k ($k+1) as text. Topic names hold [A-Za-z0-9._-] only. */
static void moves_element(struct buf *b, int k, const struct progress_move *m)
{
	char text[PROGRESS_POSITION_TEXT];
	const struct progress *to = m->to;

	switch (k) {
	case 1:
		buf_printf(b, "\"%s\"", m->key.topic);
		return;
	case 2:
		buf_printf(b, "%d", m->key.partition);
		return;
	case 3:
		buf_printf(b, "%" PRIu64, m->from->epoch);
		return;
	case 4:
		buf_printf(b, "%" PRId64, m->from->next_offset);
		return;
	case 5:
		buf_printf(b, "%" PRId64, to->next_offset);
		return;
	case 6:
		buf_printf(b, "%" PRIu64, to->at.generation);
		return;
	case 7:
		buf_printf(b, "%" PRIu64, to->at.ordinal);
		return;
	case 8:
		buf_str(b, lsn_format(to->at.position.commit.v, text));
		return;
	case 9:
		buf_printf(b, "%" PRIu64, to->at.position.seq);
		return;
	case 10:
		buf_str(b, lsn_format(to->at.barrier.v, text));
		return;
	case 11:
		buf_printf(b, "%" PRId64, to->barrier_us);
		return;
	case 12:
		buf_printf(b, "\"%s\"",
			   progress_is_waiting(to) ? progress_position_format(to->waiting, text) : "");
		return;
	case 13:
		buf_printf(b, "%" PRIu64, to->changes);
		return;
	default:
		buf_printf(b, "%" PRIu64, to->covered);
		return;
	}
}

static void counts_element(struct buf *b, int k, const struct count *c)
{
	const uint64_t columns[COUNT_COLUMNS] = { (uint64_t)c->partition, c->oid, c->applied, c->covered, c->passed };

	buf_printf(b, "%" PRIu64, columns[k]);
}

bool progress_moves(const struct progress_move *moves, size_t n, const struct counts *counts, struct arena *a,
		    struct apply_statement *ret, struct fault *f)
{
	const char **params = arena_alloc(a, MOVES_PARAMS * sizeof(*params));
	struct buf b;

	if (!params)
		return fault(f, FAULT_INTERNAL, "no memory for the progress of %zu partitions", n);
	buf_init(&b, MOVES_TEXT_MAX);
	params[0] = n ? moves[0].key.migration : "";
	for (int k = 1; k <= MOVE_COLUMNS; k++) {
		buf_reset(&b);
		for (size_t i = 0; i < n; i++) {
			buf_u8(&b, i ? ',' : '{');
			moves_element(&b, k, &moves[i]);
		}
		buf_str(&b, n ? "}" : "{}");
		params[k] = buf_failed(&b) ? NULL : arena_str(a, buf_span(&b));
	}
	params[1 + MOVE_COLUMNS] = arena_printf(a, "%zu", n);
	for (int k = 0; k < COUNT_COLUMNS; k++) {
		buf_reset(&b);
		buf_u8(&b, '{');
		for (size_t i = 0; counts && i < counts->count; i++) {
			if (i)
				buf_u8(&b, ',');
			counts_element(&b, k, &counts->rows[i]);
		}
		buf_u8(&b, '}');
		params[2 + MOVE_COLUMNS + k] = buf_failed(&b) ? NULL : arena_str(a, buf_span(&b));
	}
	if (buf_failed(&b))
		a->failed = true;
	buf_release(&b);
	if (arena_failed(a))
		return fault(f, FAULT_INTERNAL, "no memory for the progress of %zu partitions", n);
	*ret = (struct apply_statement) {
		.sql = failpoint("progress.ignore_fence") ? moves_unfenced_sql : moves_sql,
		.param_count = MOVES_PARAMS,
		.params = params,
		.what = "progress",
	};
	return true;
}

bool progress_run(PGconn *conn, const struct apply_statement *s, struct fault *f)
{
	PGresult *r = pg_query_params(conn, f, s->sql, s->param_count, s->params);

	PQclear(r);
	return r != NULL || fault_in(f, "%s", s->what);
}

bool progress_arrived(PGconn *conn, const struct progress_key *key, struct position p,
		      int *ret_count, struct fault *f)
{
	char at[PROGRESS_POSITION_TEXT], lsn[LSN_TEXT], seq[24];
	const char *values[] = { key->migration, key->topic, at, lsn, seq };
	int64_t count;

	progress_position_format(p, at);
	lsn_format(p.commit.v, lsn);
	snprintf(seq, sizeof(seq), "%" PRIu64, p.seq);
	if (!progress_ask_i64(conn,
			      "SELECT count(*) FROM foreshadow.progress WHERE migration = $1"
			      " AND topic = $2 AND (waiting_at = $3"
			      " OR (commit_lsn, seq) >= ($4::pg_lsn, $5::bigint))",
			      5, values, &count, f))
		return false;
	*ret_count = (int)count;
	return true;
}

bool progress_position(PGconn *conn, const struct progress_key *key, struct position *ret,
		       struct fault *f)
{
	char partition[16];
	const char *values[] = { key->migration, key->topic, partition };
	struct position p = { { 0 }, 0 };
	PGresult *r;
	bool ok = true;

	snprintf(partition, sizeof(partition), "%d", key->partition);
	r = pg_query_params(conn, f,
			    "SELECT commit_lsn, seq FROM foreshadow.progress"
			    " WHERE migration = $1 AND topic = $2 AND partition = $3",
			    3, values);
	if (!r)
		return false;
	if (PQntuples(r)) {
		ok = lsn_parse(pg_value(r, 0, 0), &p.commit.v);
		p.seq = (uint64_t)pg_i64(r, 0, 1);
	}
	PQclear(r);
	*ret = p;
	return ok || fault(f, FAULT_INPUT, "a row of foreshadow.progress is not of our making");
}

bool progress_epoch(PGconn *conn, const struct progress_key *key, uint64_t *ret, struct fault *f)
{
	char partition[16];
	const char *values[] = { key->migration, key->topic, partition };
	int64_t epoch;

	snprintf(partition, sizeof(partition), "%d", key->partition);
	if (!progress_ask_i64(conn,
			      "SELECT epoch FROM foreshadow.progress"
			      " WHERE migration = $1 AND topic = $2 AND partition = $3",
			      3, values, &epoch, f))
		return false;
	*ret = (uint64_t)epoch;
	return true;
}
