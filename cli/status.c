// SPDX-License-Identifier: Apache-2.0
/*
 * status - where everything stands, from the source's catalog and the rows in the targets.
 *
 * Collect into structs, then print as text or as one JSON object. What cannot be reached is said in its
 * place, and the rest is still shown. Lag is 0 when a target contains everything up to the source's
 * WAL position: lag in seconds is the age of the newest barrier a target has, and only while it is behind.
 */
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "cli/cli.h"
#include "core/clock.h"
#include "core/gate_record.h"
#include "core/lsn.h"

struct source_status {
	bool is_there;
	char reason[300];
	uint64_t wal_lsn, confirmed_lsn;
	bool has_slot, is_active;
	char wal_status[16];
	int64_t retained_bytes, safe_bytes; /* safe: -1 when there is no limit */
	double now;                         /* the source's clock, seconds since 1970 */
};

struct role_status {
	bool is_there;
	char reason[300];
	uint64_t barrier_lsn;
	int64_t partitions, owned, waiting;
	int64_t changes, covered;
	double barrier_at;                  /* of the oldest barrier among the partitions, 0: none yet */
	int64_t tables, tables_live, copy_rows, copy_bytes;
	double copy_seconds;                /* since the oldest copy that is not live began */
	int64_t lag_bytes;
	double lag_seconds;
	char schema[16];                    /* how far the schema is */
};

/* Of a migration with windows. */
struct gate_status {
	bool is_there, is_reached;
	char reason[300];
	uint64_t lsn; /* verified up to there; 0: closed */
};

struct overview {
	struct source_status source;
	struct role_status roles[2];
	struct gate_status gate;
	double estimated_rows, estimated_bytes;  /* of the tables in the publication, as the source stores them */
};

static const char *const role_names[] = { "shadow", "primary" };

static uint64_t lsn_field(const PGresult *r, int column)
{
	uint64_t lsn = 0;

	lsn_parse(pg_value(r, 0, column), &lsn);
	return lsn;
}

static double double_field(const PGresult *r, int column)
{
	return PQgetisnull(r, 0, column) ? 0 : strtod(PQgetvalue(r, 0, column), NULL);
}

static void collect_source(const struct migration *m, struct overview *o)
{
	struct fault f = { 0 };
	struct source_status *s = &o->source;
	const char *values[] = { m->slot, m->publication };
	PGconn *conn = pg_connect(&m->source, PG_PLAIN, m->slot, &f);
	PGresult *r = conn ? pg_query_params(
				     conn, &f,
				     "SELECT pg_current_wal_lsn(), extract(epoch FROM clock_timestamp()),"
				     " s.slot_name IS NOT NULL, s.active, s.confirmed_flush_lsn, s.wal_status,"
				     " pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint,"
				     " coalesce(s.safe_wal_size, -1),"
				     " (SELECT sum(greatest(c.reltuples, 0)) FROM pg_publication_tables p JOIN pg_class c"
				     "   ON c.oid = format('%I.%I', p.schemaname, p.tablename)::regclass WHERE p.pubname = $2),"
				     " (SELECT sum(pg_table_size(format('%I.%I', p.schemaname, p.tablename)::regclass))"
				     "   FROM pg_publication_tables p WHERE p.pubname = $2)"
				     " FROM (SELECT) one LEFT JOIN pg_replication_slots s ON s.slot_name = $1",
				     2, values)
			   : NULL;

	s->is_there = r != NULL;
	snprintf(s->reason, sizeof(s->reason), "%.299s", f.text);
	if (r) {
		s->wal_lsn = lsn_field(r, 0);
		s->now = double_field(r, 1);
		s->has_slot = PQgetvalue(r, 0, 2)[0] == 't';
		s->is_active = PQgetvalue(r, 0, 3)[0] == 't';
		s->confirmed_lsn = lsn_field(r, 4);
		snprintf(s->wal_status, sizeof(s->wal_status), "%s", PQgetvalue(r, 0, 5));
		s->retained_bytes = pg_i64(r, 0, 6);
		s->safe_bytes = pg_i64(r, 0, 7);
		o->estimated_rows = double_field(r, 8);
		o->estimated_bytes = double_field(r, 9);
	}
	PQclear(r);
	pg_close(&conn);
}

static void collect_role(const struct migration *m, enum role role, struct role_status *s)
{
	struct fault f = { 0 };
	const char *values[] = { m->name, m->changes_topic };
	PGconn *conn = pg_connect(migration_target(m, role), PG_PLAIN, m->slot, &f);
	PGresult *r = conn ? pg_query_params(
				     conn, &f,
				     "SELECT min(barrier_lsn), count(*), count(*) FILTER (WHERE a.pid IS NOT NULL),"
				     " count(*) FILTER (WHERE waiting_at IS NOT NULL),"
				     " coalesce(sum(changes), 0), coalesce(sum(covered), 0),"
				     " extract(epoch FROM min(barrier_at)),"
				     " (SELECT count(*) FROM foreshadow.copies WHERE migration = $1),"
				     " (SELECT count(*) FROM foreshadow.copies WHERE migration = $1 AND state = 'live'),"
				     " (SELECT coalesce(sum(records), 0) FROM foreshadow.copy_parts WHERE migration = $1),"
				     " (SELECT extract(epoch FROM now() - min(started_at)) FROM foreshadow.copies"
				     "   WHERE migration = $1 AND state = 'copying'),"
				     " (SELECT state FROM foreshadow.schemas WHERE migration = $1),"
				     /* what an older version wrote has no bytes */
				     " (SELECT coalesce(sum((to_jsonb(p) ->> 'bytes')::bigint), 0)"
				     "   FROM foreshadow.copy_parts p WHERE migration = $1)"
				     " FROM foreshadow.progress p"
				     " LEFT JOIN pg_stat_activity a ON a.pid = owner_pid AND a.backend_start = owner_start"
				     " WHERE migration = $1 AND topic = $2",
				     2, values)
			   : NULL;

	/* The default shadow's database is made by the first run. */
	bool has_begun = strcmp(f.sqlstate, "42P01") != 0 &&
			 !(role == ROLE_SHADOW && m->shadow_is_default && strcmp(f.sqlstate, "3D000") == 0);
	s->is_there = r != NULL;
	snprintf(s->reason, sizeof(s->reason), "%.299s", has_begun ? f.text : "nothing applied yet");
	if (r) {
		s->barrier_lsn = lsn_field(r, 0);
		s->partitions = pg_i64(r, 0, 1);
		s->owned = pg_i64(r, 0, 2);
		s->waiting = pg_i64(r, 0, 3);
		s->changes = pg_i64(r, 0, 4);
		s->covered = pg_i64(r, 0, 5);
		s->barrier_at = double_field(r, 6);
		s->tables = pg_i64(r, 0, 7);
		s->tables_live = pg_i64(r, 0, 8);
		s->copy_rows = pg_i64(r, 0, 9);
		s->copy_seconds = double_field(r, 10);
		snprintf(s->schema, sizeof(s->schema), "%.15s", PQgetvalue(r, 0, 11));
		s->copy_bytes = pg_i64(r, 0, 12);
	}
	PQclear(r);
	pg_close(&conn);
}

/* Why the control topic could not be opened: is it there at all? */
static void explain_gate(const struct migration *m, const struct kafka_conf *conf, struct gate_status *s)
{
	const struct kafka_topic_spec spec = { m->control_topic, 1, true };
	struct fault f = { 0 };
	rd_kafka_t *client = kafka_reader(conf, &f);

	if (client && !kafka_topics_ensure(client, &spec, 1, false, &f) && f.kind == FAULT_LOST)
		snprintf(s->reason, sizeof(s->reason), "there is no topic %s: foreshadow run has not begun, or somebody deleted it",
			 m->control_topic);
	if (client)
		rd_kafka_destroy(client);
}

static void collect_gate(const struct migration *m, struct gate_status *s)
{
	const struct kafka_conf conf = { m->kafka, m->kafka_count, m->slot };
	struct fault f = { 0 };
	struct control *control;

	s->is_there = m->window_ms > 0;
	if (!s->is_there)
		return;
	control = control_open(&conf, m->control_topic, &f);
	s->is_reached = control != NULL;
	snprintf(s->reason, sizeof(s->reason), "%.299s", f.text);
	if (control)
		s->lsn = gate_record_get(control).v;
	else
		explain_gate(m, &conf, s);
	control_close(control);
}

static void compute_lag(const struct source_status *source, struct role_status *s)
{
	if (!source->is_there || !s->is_there || s->barrier_lsn >= source->wal_lsn)
		return;
	s->lag_bytes = (int64_t)(source->wal_lsn - s->barrier_lsn);
	if (s->barrier_at > 0)
		s->lag_seconds = fmax(0, source->now - s->barrier_at);
}

static void collect(const struct migration *m, struct overview *o)
{
	collect_source(m, o);
	for (int role = 0; role < 2; role++) {
		collect_role(m, (enum role)role, &o->roles[role]);
		compute_lag(&o->source, &o->roles[role]);
	}
	collect_gate(m, &o->gate);
}

/* Seconds the copy still needs at the rate so far; -1: not known, as for tables that were never analyzed. */
static double copy_eta(const struct overview *o, const struct role_status *s)
{
	if (s->tables == s->tables_live || s->copy_rows == 0 || s->copy_seconds <= 0 ||
	    o->estimated_rows < (double)s->copy_rows)
		return -1;
	return (o->estimated_rows - (double)s->copy_rows) * s->copy_seconds / (double)s->copy_rows;
}

static json_t *role_json(const struct overview *o, int role)
{
	const struct role_status *s = &o->roles[role];
	double eta = copy_eta(o, s);

	if (!s->is_there)
		return json_pack("{s:s, s:s}", "role", role_names[role], "unreachable", s->reason);
	return json_pack("{s:s, s:o, s:I, s:f, s:I, s:I, s:s, s:{s:I, s:I, s:I}, s:{s:I, s:I, s:I, s:I, s:f, s:f, s:o}}",
			 "role", role_names[role], "barrier_lsn", json_lsn(s->barrier_lsn),
			 "lag_bytes", (json_int_t)s->lag_bytes, "lag_seconds", s->lag_seconds,
			 "changes", (json_int_t)s->changes, "covered", (json_int_t)s->covered,
			 "schema", s->schema,
			 "partitions", "count", (json_int_t)s->partitions, "owned", (json_int_t)s->owned,
			 "waiting", (json_int_t)s->waiting,
			 "copy", "tables", (json_int_t)s->tables, "tables_live", (json_int_t)s->tables_live,
			 "rows", (json_int_t)s->copy_rows, "bytes", (json_int_t)s->copy_bytes,
			 "estimated_rows", o->estimated_rows, "estimated_bytes", o->estimated_bytes,
			 "eta_seconds", eta < 0 ? json_null() : json_real(eta));
}

static json_t *source_json(const struct source_status *s)
{
	if (!s->is_there)
		return json_pack("{s:s}", "unreachable", s->reason);
	if (!s->has_slot)
		return json_pack("{s:o, s:n}", "wal_lsn", json_lsn(s->wal_lsn), "slot");
	return json_pack("{s:o, s:{s:b, s:o, s:I, s:o, s:s}}", "wal_lsn", json_lsn(s->wal_lsn),
			 "slot", "active", s->is_active, "confirmed_lsn", json_lsn(s->confirmed_lsn),
			 "retained_bytes", (json_int_t)s->retained_bytes,
			 "safe_bytes", s->safe_bytes < 0 ? json_null() : json_integer(s->safe_bytes),
			 "wal_status", s->wal_status);
}

static json_t *gate_json(const struct gate_status *s)
{
	if (!s->is_there)
		return json_null();
	return s->is_reached ? json_pack("{s:o}", "verified_lsn", json_lsn(s->lsn))
			     : json_pack("{s:s}", "unreachable", s->reason);
}

static void print_json(const struct migration *m, const struct overview *o)
{
	char now[CLOCK_TEXT];

	cli_print_json(json_pack("{s:s, s:s, s:o, s:[o, o], s:o}", "migration", m->name, "at",
				 clock_iso(clock_wall_us(), now), "source", source_json(&o->source),
				 "roles", role_json(o, 0), role_json(o, 1), "gate", gate_json(&o->gate)));
}

static void print_source(const struct source_status *s)
{
	char wal[LSN_TEXT], confirmed[LSN_TEXT];

	if (!s->is_there)
		printf("source   unreachable: %s\n", s->reason);
	else if (!s->has_slot)
		printf("source   wal %s, no slot yet\n", lsn_format(s->wal_lsn, wal));
	else
		printf("source   wal %s, slot %s, confirmed %s, retains %.1f MB, wal_status %s\n",
		       lsn_format(s->wal_lsn, wal), s->is_active ? "active" : "not active",
		       lsn_format(s->confirmed_lsn, confirmed), (double)s->retained_bytes / 1e6, s->wal_status);
}

static void print_role(const struct overview *o, int role)
{
	const struct role_status *s = &o->roles[role];
	char barrier[LSN_TEXT];
	double eta = copy_eta(o, s);

	if (!s->is_there) {
		printf("%-8s %s\n", role_names[role], s->reason);
		return;
	}
	printf("%-8s contains %s, lag %" PRId64 " bytes %.1f s, %" PRId64 " changes applied, %" PRId64
	       " covered by copies, partitions %" PRId64 "/%" PRId64 " owned, %" PRId64 " waiting, schema %s\n",
	       role_names[role], lsn_format(s->barrier_lsn, barrier), s->lag_bytes, s->lag_seconds, s->changes,
	       s->covered, s->owned, s->partitions, s->waiting, s->schema);
	printf("         copy %" PRId64 "/%" PRId64 " tables live, %" PRId64, s->tables_live, s->tables, s->copy_rows);
	if (o->estimated_rows >= (double)s->copy_rows && o->estimated_rows > 0)
		printf(" of about %.0f", o->estimated_rows);
	printf(" rows, %.1f MB of values (the tables: %.1f MB)", (double)s->copy_bytes / 1e6, o->estimated_bytes / 1e6);
	if (eta >= 0)
		printf(", about %.0f s to go", eta);
	putchar('\n');
}

static void print_gate(const struct gate_status *s)
{
	char lsn[LSN_TEXT];

	if (!s->is_there)
		return;
	if (!s->is_reached)
		printf("gate     unreachable: %s\n", s->reason);
	else if (!s->lsn)
		printf("gate     closed: the shadow was not compared to its end yet\n");
	else
		printf("gate     open to %s, up to where the shadow is verified\n", lsn_format(s->lsn, lsn));
}

static void print_text(const struct migration *m, const struct overview *o)
{
	printf("migration %s\n", m->name);
	print_source(&o->source);
	print_role(o, 0);
	print_role(o, 1);
	print_gate(&o->gate);
	fflush(stdout);
}

static volatile sig_atomic_t interrupted;

/* A second one does not wait for a server that does not answer. */
static void on_interrupt(int sig)
{
	interrupted = 1;
	signal(sig, SIG_DFL);
}

bool cmd_status(struct cli *c, struct fault *f)
{
	struct overview o;

	(void)f;
	if (c->watch) {
		signal(SIGINT, on_interrupt);
		signal(SIGTERM, on_interrupt);
	}
	do {
		o = (struct overview) { 0 };
		collect(&c->m, &o);
		if (c->watch && !c->json)
			fputs("\033[H\033[J", stdout);
		if (c->json)
			print_json(&c->m, &o);
		else
			print_text(&c->m, &o);
	} while (c->watch && !interrupted && sleep(1) == 0);
	return true;
}
