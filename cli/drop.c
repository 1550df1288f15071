// SPDX-License-Identifier: Apache-2.0
/*
 * drop - takes away what foreshadow made, and says first what that is.
 *
 * Collect (what is there), show, ask, act. What is not there is passed over, so a drop that was cut
 * off can be run again. A table of the target is never touched.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/cli.h"
#include "core/buf.h"
#include "core/log.h"
#include "shadow/origin.h"
#include "shadow/schema.h"
#include "shadow/scratch.h"

enum { TOPICS = 4, GROUPS = 2 };

struct find {
	bool slot, publication, shadow_database;
	int64_t slot_pid;
	bool rows[2];              /* by enum role: progress rows of this migration */
	bool scratch[2];           /* a database that a killed run left behind */
	bool topics_reachable;
};

static bool query_flag(PGconn *conn, const char *sql, const char *value, bool *ret, struct fault *f)
{
	PGresult *r = pg_query_params(conn, f, sql, 1, &value);

	if (!r)
		return false;
	*ret = PQntuples(r) > 0 && PQgetvalue(r, 0, 0)[0] == 't';
	PQclear(r);
	return true;
}

static bool look_at_source(const struct migration *m, struct find *found, struct fault *f)
{
	const char *slot = m->slot;
	PGconn *conn = pg_connect(&m->source, PG_PLAIN, m->slot, f);
	PGresult *r = conn ? pg_query_params(conn, f,
					     "SELECT coalesce(active_pid, 0) FROM pg_replication_slots"
					     " WHERE slot_name = $1 AND database = current_database()",
					     1, &slot)
			   : NULL;
	bool ok = r && query_flag(conn, "SELECT true FROM pg_publication WHERE pubname = $1", m->publication,
				  &found->publication, f);
	if (ok) {
		found->slot = PQntuples(r) > 0;
		found->slot_pid = found->slot ? pg_i64(r, 0, 0) : 0;
	}
	PQclear(r);
	pg_close(&conn);
	return ok;
}

/* Where the role's scratch database would be: the default shadow's own database may not be there. */
static PGconn *connect_beside(const struct migration *m, enum role role, struct fault *f)
{
	bool is_default = role == ROLE_SHADOW && m->shadow_is_default;

	return pg_connect(is_default ? &m->target : migration_target(m, role), PG_PLAIN, m->slot, f);
}

static bool look_for_scratch(const struct migration *m, enum role role, struct find *found, struct fault *f)
{
	PGconn *conn = connect_beside(m, role, f);

	if (!conn && role == ROLE_SHADOW) {
		fault_reset(f);
		return true;
	}
	bool ok = conn && scratch_is_left(m, role, conn, &found->scratch[role], f);
	pg_close(&conn);
	return ok;
}

/* A database that is not there has nothing of ours. */
static bool look_at_target(const struct migration *m, enum role role, struct find *found, struct fault *f)
{
	bool has_schema = false;
	PGconn *conn = pg_connect(migration_target(m, role), PG_PLAIN, m->slot, f);

	if (!conn && role == ROLE_SHADOW) {
		fault_reset(f);
		return true;
	}
	bool ok = conn && query_flag(conn, "SELECT to_regnamespace($1) IS NOT NULL", "foreshadow", &has_schema, f);
	found->rows[role] = has_schema;
	pg_close(&conn);
	return ok;
}

static bool collect(const struct migration *m, struct find *found, struct fault *f)
{
	return look_at_source(m, found, f) && look_at_target(m, ROLE_SHADOW, found, f) &&
	       look_at_target(m, ROLE_PRIMARY, found, f) && look_for_scratch(m, ROLE_SHADOW, found, f) &&
	       look_for_scratch(m, ROLE_PRIMARY, found, f) &&
	       schema_database_is_ours(m, ROLE_SHADOW, &found->shadow_database, f);
}

static void show(const struct migration *m, const struct find *found)
{
	printf("drop removes, for migration %s:\n", m->name);
	if (found->slot)
		printf("  replication slot %s on the source\n", m->slot);
	if (found->publication)
		printf("  publication %s on the source\n", m->publication);
	printf("  topics %s, %s, %s, %s if they exist\n", m->changes_topic, m->snapshot_topic, m->control_topic,
	       m->incidents_topic);
	printf("  consumer groups %s, %s if they exist\n", m->group[ROLE_SHADOW], m->group[ROLE_PRIMARY]);
	for (int role = 0; role < 2; role++)
		if (found->rows[role] && !(role == ROLE_SHADOW && found->shadow_database))
			printf("  rows of this migration in schema foreshadow of the %s\n",
			       migration_target(m, (enum role)role)->name);
	for (int role = 0; role < 2; role++) {
		char name[SCRATCH_NAME];
		scratch_name(m, (enum role)role, name);
		if (found->scratch[role])
			printf("  database %s, which a run left behind\n", name);
	}
	if (found->shadow_database)
		printf("  the shadow database %s, which foreshadow created\n", m->shadow.dbname);
	printf("tables of the target are not touched\n");
	fflush(stdout);
}

static bool confirmed(void)
{
	char answer[16];

	printf("go on? [y/N] ");
	fflush(stdout);
	return fgets(answer, sizeof(answer), stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

static bool drop_on_source(const struct migration *m, const struct find *found, struct fault *f)
{
	struct buf sql;
	const char *slot = m->slot;
	PGresult *r = NULL;
	PGconn *conn = pg_connect(&m->source, PG_PLAIN, m->slot, f);
	bool ok = conn != NULL;

	buf_init(&sql, 4096);
	if (ok && found->slot) {
		r = pg_query_params(conn, f, "SELECT pg_drop_replication_slot($1)", 1, &slot);
		ok = r != NULL;
	}
	if (ok && found->publication) {
		buf_str(&sql, "DROP PUBLICATION ");
		pg_quote_ident(&sql, span_str(m->publication));
		ok = pg_do(conn, f, buf_cstr(&sql));
	}
	PQclear(r);
	buf_release(&sql);
	pg_close(&conn);
	return ok;
}

/* Rows of this migration in every table of schema foreshadow; the schema when it holds no other migration. */
static bool drop_rows(const struct migration *m, enum role role, struct fault *f)
{
	struct buf sql;
	struct fault why = { 0 };
	bool has_others = false;
	PGconn *conn = pg_connect(migration_target(m, role), PG_PLAIN, m->slot, f);
	PGresult *tables = conn ? pg_query(conn, f,
					   "SELECT table_name FROM information_schema.columns"
					   " WHERE table_schema = 'foreshadow' AND column_name = 'migration'")
				: NULL;
	bool ok = tables && pg_do(conn, f, "BEGIN");

	buf_init(&sql, 1 << 16);
	for (int i = 0; ok && i < PQntuples(tables); i++) {
		bool others = false;
		buf_reset(&sql);
		buf_str(&sql, "DELETE FROM foreshadow.");
		pg_quote_ident(&sql, pg_value(tables, i, 0));
		buf_str(&sql, " WHERE migration = ");
		pg_quote_literal(&sql, span_str(m->name));
		ok = pg_do(conn, f, buf_cstr(&sql));
		buf_reset(&sql);
		buf_str(&sql, "SELECT EXISTS (SELECT FROM foreshadow.");
		pg_quote_ident(&sql, pg_value(tables, i, 0));
		buf_str(&sql, " WHERE migration <> $1)");
		ok = ok && query_flag(conn, buf_cstr(&sql), m->name, &others, f);
		has_others |= others;
	}
	if (ok && !has_others)
		ok = pg_do(conn, f, "DROP SCHEMA foreshadow CASCADE");
	ok = ok && pg_do(conn, f, "COMMIT");
	if (ok && !origin_drop_all(conn, m->name, &why))
		log_warn("replication origins are left: %s", why.text);
	PQclear(tables);
	buf_release(&sql);
	pg_close(&conn);
	return ok;
}

static bool drop_on_kafka(const struct migration *m, struct fault *f)
{
	const char *topics[TOPICS] = { m->changes_topic, m->snapshot_topic, m->control_topic, m->incidents_topic };
	const char *groups[GROUPS] = { m->group[ROLE_SHADOW], m->group[ROLE_PRIMARY] };
	const struct kafka_conf conf = { m->kafka, m->kafka_count, m->slot };
	rd_kafka_t *client = kafka_reader(&conf, f);
	bool ok = client && kafka_topics_delete(client, topics, TOPICS, f) &&
		  kafka_groups_delete(client, groups, GROUPS, f);

	if (client)
		rd_kafka_destroy(client);
	return ok;
}

static bool drop_scratch(const struct migration *m, enum role role, struct fault *f)
{
	PGconn *conn = connect_beside(m, role, f);
	bool ok = conn && scratch_drop(m, role, conn, f);

	pg_close(&conn);
	return ok;
}

static bool act(const struct migration *m, const struct find *found, struct fault *f)
{
	if (!drop_on_source(m, found, f) || !drop_on_kafka(m, f))
		return false;
	for (int role = 0; role < 2; role++)
		if (found->scratch[role] && !drop_scratch(m, (enum role)role, f))
			return false;
	if (found->rows[ROLE_PRIMARY] && !drop_rows(m, ROLE_PRIMARY, f))
		return false;
	if (found->shadow_database)
		return schema_drop_database(m, ROLE_SHADOW, f);
	return !found->rows[ROLE_SHADOW] || drop_rows(m, ROLE_SHADOW, f);
}

bool cmd_drop(struct cli *c, struct fault *f)
{
	struct find found = { 0 };

	if (!collect(&c->m, &found, f))
		return false;
	if (found.slot_pid)
		return fault(f, FAULT_STOP,
			     "slot %s is in use by process %lld on the source: an ingest is running; stop it "
			     "first (SIGTERM), then drop",
			     c->m.slot, (long long)found.slot_pid);
	if (!c->json)
		show(&c->m, &found);
	if (!c->yes && !confirmed())
		return fault(f, FAULT_STOP, "nothing was dropped");
	if (!act(&c->m, &found, f))
		return false;
	if (c->json)
		cli_print_json(json_pack("{s:s, s:b}", "migration", c->m.name, "dropped", 1));
	else
		printf("dropped\n");
	return true;
}
