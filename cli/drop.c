// SPDX-License-Identifier: Apache-2.0
/*
 * drop - takes away what foreshadow made, and says first what that is.
 *
 * Collect (what is there, and who still runs), list, ask, act. What is not there is passed over, so a drop that
 * was cut off can be run again. A table of the target is never touched.
 *
 * Nothing goes while a process of the migration runs. The source and the targets know those that have a connection; one that
 * has none is a member of its group in Kafka, so the groups go first: with a member they cannot.
 */
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>

#include "cli/cli.h"
#include "core/buf.h"
#include "core/clock.h"
#include "core/log.h"
#include "shadow/origin.h"
#include "shadow/role.h"
#include "shadow/schema.h"
#include "shadow/scratch.h"

enum { TOPICS = 4, GROUPS = 2, END_PATIENCE_MS = 1000, LOOK_MS = 100 };

struct find {
	bool slot, publication, shadow_database;
	bool schema[2];            /* by enum role: there is a schema foreshadow */
	bool others[2];            /* it has rows of other migrations */
	bool scratch[2];           /* a database that a killed run left behind */
	char running[600];         /* who is still there, or "" */
};

__attribute__((format(printf, 2, 3))) static void say_running(struct find *found, const char *format, ...)
{
	size_t n = strlen(found->running);
	va_list args;

	if (n)
		n += (size_t)snprintf(found->running + n, sizeof(found->running) - n, ", ");
	if (n >= sizeof(found->running))
		return;
	va_start(args, format);
	vsnprintf(found->running + n, sizeof(found->running) - n, format, args);
	va_end(args);
}

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
	found->slot = ok && PQntuples(r) > 0;
	if (found->slot && pg_i64(r, 0, 0))
		say_running(found, "an ingest is running (slot %s is in use by process %lld on the source)", m->slot,
			    (long long)pg_i64(r, 0, 0));
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

/* The tables of ours that have rows of migrations. */
static PGresult *query_tables(PGconn *conn, struct fault *f)
{
	return pg_query(conn, f,
			"SELECT quote_ident(table_name) FROM information_schema.columns"
			" WHERE table_schema = 'foreshadow' AND column_name = 'migration' ORDER BY 1");
}

static bool look_for_others(const struct migration *m, enum role role, PGconn *conn, struct find *found, struct fault *f)
{
	PGresult *tables = query_tables(conn, f);
	bool ok = tables != NULL;
	char sql[200];

	for (int i = 0; ok && !found->others[role] && i < PQntuples(tables); i++) {
		snprintf(sql, sizeof(sql), "SELECT EXISTS (SELECT FROM foreshadow.%s WHERE migration <> $1)",
			 PQgetvalue(tables, i, 0));
		ok = query_flag(conn, sql, m->name, &found->others[role], f);
	}
	PQclear(tables);
	return ok;
}

/* Who has partitions, and who compares (see windows.c for its lock). */
static bool look_for_running(const struct migration *m, enum role role, PGconn *conn, struct find *found, struct fault *f)
{
	const char *target = migration_target(m, role)->name;
	bool has_progress = false, is_free = true;
	char lock[128];
	const char *values[] = { m->name };
	PGresult *r;

	snprintf(lock, sizeof(lock), "foreshadow reconcile %s %s", m->name, role_traits(role)->name);
	if (!query_flag(conn, "SELECT pg_try_advisory_lock(hashtextextended($1, 0))", lock, &is_free, f) ||
	    !query_flag(conn, "SELECT to_regclass($1) IS NOT NULL", "foreshadow.progress", &has_progress, f))
		return false;
	if (!is_free)
		say_running(found, "a process with role reconcile is connected to the %s", target);
	if (!has_progress)
		return true;
	r = pg_query_params(conn, f,
			    "SELECT owner_instance FROM foreshadow.progress JOIN pg_stat_activity a"
			    " ON a.pid = owner_pid AND a.backend_start = owner_start WHERE migration = $1 LIMIT 1",
			    1, values);
	if (r && PQntuples(r))
		say_running(found, "instance %.100s writes to the %s", PQgetvalue(r, 0, 0), target);
	PQclear(r);
	return r != NULL;
}

/* A database that is not there has nothing of ours. */
static bool look_at_target(const struct migration *m, enum role role, struct find *found, struct fault *f)
{
	PGconn *conn = pg_connect(migration_target(m, role), PG_PLAIN, m->slot, f);

	if (!conn && role == ROLE_SHADOW) {
		fault_reset(f);
		return true;
	}
	bool ok = conn &&
		  query_flag(conn, "SELECT to_regnamespace($1) IS NOT NULL", "foreshadow", &found->schema[role], f) &&
		  look_for_running(m, role, conn, found, f) && look_for_others(m, role, conn, found, f);
	pg_close(&conn);
	return ok;
}

static bool collect(const struct migration *m, struct find *found, struct fault *f)
{
	*found = (struct find) { 0 };
	if (!look_at_source(m, found, f) || !look_at_target(m, ROLE_SHADOW, found, f) ||
	    !look_at_target(m, ROLE_PRIMARY, found, f) || !look_for_scratch(m, ROLE_SHADOW, found, f) ||
	    !look_for_scratch(m, ROLE_PRIMARY, found, f) ||
	    !schema_database_is_ours(m, ROLE_SHADOW, &found->shadow_database, f))
		return false;
	found->shadow_database &= !found->others[ROLE_SHADOW];
	return true;
}

/* The connections of a process that has just ended are there for a moment longer. */
static bool collect_at_rest(const struct migration *m, struct find *found, struct fault *f)
{
	int64_t give_up_us = clock_us() + END_PATIENCE_MS * 1000;

	while (collect(m, found, f)) {
		if (!*found->running)
			return true;
		if (clock_us() > give_up_us)
			return fault(f, FAULT_STOP,
				     "migration %s: %s; nothing was dropped; next step: stop it (SIGTERM), then drop",
				     m->name, found->running);
		poll(NULL, 0, LOOK_MS);
	}
	return false;
}

static void list_add(json_t *list, const char *what, const char *name, const char *where)
{
	json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "what", what, "name", name, "where", where));
}

/* What goes, as objects of what, name and where. */
static json_t *list_found(const struct migration *m, const struct find *found)
{
	const char *topics[TOPICS] = { m->changes_topic, m->snapshot_topic, m->control_topic, m->incidents_topic };
	json_t *list = json_array();
	char name[SCRATCH_NAME];

	if (found->slot)
		list_add(list, "replication slot", m->slot, m->source.name);
	if (found->publication)
		list_add(list, "publication", m->publication, m->source.name);
	for (int i = 0; i < TOPICS; i++)
		list_add(list, "topic", topics[i], "kafka");
	for (int role = 0; role < GROUPS; role++)
		list_add(list, "consumer group", m->group[role], "kafka");
	for (int role = 0; role < 2; role++) {
		const char *target = migration_target(m, (enum role)role)->name;

		if (found->schema[role] && !(role == ROLE_SHADOW && found->shadow_database))
			list_add(list, found->others[role] ? "rows of this migration in schema" : "schema", "foreshadow",
				 target);
		scratch_name(m, (enum role)role, name);
		if (found->scratch[role])
			list_add(list, "database that a run left behind", name, target);
	}
	if (found->shadow_database)
		list_add(list, "database that foreshadow created", m->shadow.dbname, m->shadow.name);
	return list;
}

static void show(const struct migration *m, const json_t *list)
{
	const json_t *item;
	size_t i;

	printf("drop removes, for migration %s:\n", m->name);
	json_array_foreach((json_t *)list, i, item)
		printf("  %s %s (%s)\n", json_string_value(json_object_get(item, "what")),
		       json_string_value(json_object_get(item, "name")), json_string_value(json_object_get(item, "where")));
	printf("what is not there is passed over; tables of the target are not touched\n");
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
	struct find found = { 0 };
	struct fault why = { 0 };
	const char *values[] = { m->name };
	char sql[200];
	PGconn *conn = pg_connect(migration_target(m, role), PG_PLAIN, m->slot, f);
	PGresult *tables = conn ? query_tables(conn, f) : NULL;
	bool ok = tables && pg_do(conn, f, "BEGIN");

	for (int i = 0; ok && i < PQntuples(tables); i++) {
		snprintf(sql, sizeof(sql), "DELETE FROM foreshadow.%s WHERE migration = $1", PQgetvalue(tables, i, 0));
		PGresult *r = pg_query_params(conn, f, sql, 1, values);
		ok = r != NULL;
		PQclear(r);
	}
	ok = ok && look_for_others(m, role, conn, &found, f);
	if (ok && !found.others[role])
		ok = pg_do(conn, f, "DROP SCHEMA foreshadow CASCADE");
	ok = ok && pg_do(conn, f, "COMMIT");
	if (ok && !origin_drop_all(conn, m->name, &why))
		log_warn("replication origins are left: %s", why.text);
	PQclear(tables);
	pg_close(&conn);
	return ok;
}

static bool drop_on_kafka(const struct migration *m, struct fault *f)
{
	const char *topics[TOPICS] = { m->changes_topic, m->snapshot_topic, m->control_topic, m->incidents_topic };
	const char *groups[GROUPS] = { m->group[ROLE_SHADOW], m->group[ROLE_PRIMARY] };
	const struct kafka_conf conf = { m->kafka, m->kafka_count, m->slot };
	rd_kafka_t *client = kafka_reader(&conf, f);
	bool ok = client && kafka_groups_delete(client, groups, GROUPS, f) &&
		  kafka_topics_delete(client, topics, TOPICS, f);

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
	struct fault why = { 0 };

	if (!drop_on_kafka(m, f)) {
		/* The slot fills the source's disk, also when there is no Kafka any more. */
		if (f->kind == FAULT_ENVIRONMENT && drop_on_source(m, found, &why))
			log_warn("slot and publication are removed, the rest is not");
		return false;
	}
	if (!drop_on_source(m, found, f))
		return false;
	for (int role = 0; role < 2; role++)
		if (found->scratch[role] && !drop_scratch(m, (enum role)role, f))
			return false;
	if (found->schema[ROLE_PRIMARY] && !drop_rows(m, ROLE_PRIMARY, f))
		return false;
	if (found->shadow_database)
		return schema_drop_database(m, ROLE_SHADOW, f);
	return !found->schema[ROLE_SHADOW] || drop_rows(m, ROLE_SHADOW, f);
}

bool cmd_drop(struct cli *c, struct fault *f)
{
	struct find found;
	json_t *list;
	bool ok;

	if (c->json && !c->yes)
		return fault(f, FAULT_USAGE,
			     "drop --json does not ask: give --yes, too; without --json it lists what it would remove, and asks");
	if (!collect_at_rest(&c->m, &found, f))
		return false;
	list = list_found(&c->m, &found);
	if (!c->json)
		show(&c->m, list);
	ok = c->yes || confirmed() || fault(f, FAULT_STOP, "nothing was dropped: wanted the answer y, or --yes");
	ok = ok && act(&c->m, &found, f);
	if (ok && c->json)
		cli_print_json(json_pack("{s:s, s:b, s:O}", "migration", c->m.name, "dropped", 1, "removed", list));
	else if (ok)
		printf("dropped\n");
	json_decref(list);
	return ok;
}
