// SPDX-License-Identifier: Apache-2.0
/*
 * check - preflight: a verdict per item with its remedy. Looks only; changes nothing anywhere.
 *
 * Each item is a row of the report: ok, warn or fail. The exit code is that of the first failed item's kind:
 * 0 nothing failed, 1 something could not be reached, 3 something must be decided or changed first.
 */
#include <stdio.h>

#include "cli/check.h"
#include "cli/cli.h"
#include "ingest/source.h"
#include "shadow/client.h"
#include "shadow/reshape.h"
#include "shadow/scratch.h"

enum { CATALOG_BYTES = 512 << 20 };

/* ---- the source ---- */

static void check_slot(struct report *r, PGconn *conn, const struct migration *m, struct arena *a)
{
	struct source_slot slot;
	struct fault f = { 0 };
	char text[300];

	if (!source_slot_state(conn, m->slot, a, &slot, &f)) {
		check_say_fault(r, "slot", &f);
		return;
	}
	if (!slot.exists)
		snprintf(text, sizeof(text), "%s does not exist yet; the first run makes it", m->slot);
	else
		snprintf(text, sizeof(text), "%s %s, retains %lld bytes, wal_status %s", m->slot,
			 slot.active_pid ? "is active" : "is not active", (long long)slot.retained_bytes,
			 slot.wal_status);
	bool is_in_danger = slot.exists && (strcmp(slot.wal_status, "lost") == 0 ||
					    strcmp(slot.wal_status, "unreserved") == 0);
	check_say(r, is_in_danger ? VERDICT_WARN : VERDICT_OK, "slot", text);
}

static void check_tables(struct report *r, struct source_seen *s, const struct migration *m)
{
	const struct catalog *catalog = &s->catalog;
	struct fault f = { 0 };

	if (!catalog_read(s->conn, m, &s->arena, &s->catalog, &f)) {
		check_say_fault(r, "tables", &f);
		return;
	}
	check_constraints(r, s, m);
	for (size_t i = 0; i < catalog->relation_count; i++)
		check_table(r, catalog->relations[i], catalog->late[i]);
	for (size_t i = 0; i < catalog->note_count; i++)
		check_say(r, VERDICT_WARN, "table", catalog->notes[i]);
	for (size_t i = 0; i < catalog->mistake_count; i++) {
		struct fault mistake = { .kind = FAULT_USAGE };
		snprintf(mistake.text, sizeof(mistake.text), "%s", catalog->mistakes[i]);
		check_say_fault(r, "rule", &mistake);
	}
	for (size_t i = 0; i < catalog->refusal_count; i++) {
		struct fault refusal = { .kind = FAULT_STOP };
		snprintf(refusal.text, sizeof(refusal.text), "%s", catalog->refusals[i]);
		check_say_fault(r, "table", &refusal);
	}
	if (catalog->relation_count == 0 && catalog->refusal_count == 0 && !catalog_accept(catalog, m, &f))
		check_say_fault(r, "tables", &f);
	else
		check_say(r, VERDICT_OK, "format",
		    catalog_binary_ok(catalog) ? "binary: every column has a binary form we decode" :
						  "text: a column's type has no binary form we decode");
}

/* Leaves the connection open for what is compared with the targets. */
static void check_source(struct report *r, struct source_seen *s, const struct migration *m)
{
	struct fault f = { 0 };

	s->conn = pg_connect(&m->source, PG_PLAIN, m->slot, &f);
	if (!s->conn || !source_check(s->conn, &f)) {
		check_say_fault(r, "source", &f);
	} else {
		char text[200];
		snprintf(text, sizeof(text), "PostgreSQL %d, database %s, wal_level logical, replication allowed",
			 PQserverVersion(s->conn) / 10000, PQdb(s->conn));
		check_say(r, VERDICT_OK, "source", text);
	}
	if (!s->conn)
		return;
	check_slot(r, s->conn, m, &s->arena);
	check_tables(r, s, m);
	check_objects(r, s, m);
}

/* ---- a target ---- */

static bool check_version(PGconn *conn, const char *name, struct fault *f)
{
	int major = PQserverVersion(conn) / 10000;

	if (major >= 15 && major <= 18)
		return true;
	return fault(f, FAULT_STOP, "%s: PostgreSQL %d; wanted 15 to 18", name, major);
}

static bool check_writable(PGconn *conn, const char *name, struct fault *f)
{
	PGresult *r = pg_query(conn, f,
			       "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool,"
			       " has_database_privilege(current_database(), 'CREATE')");
	if (!r)
		return false;
	bool is_read_only = PQgetvalue(r, 0, 0)[0] == 't', may_create = PQgetvalue(r, 0, 1)[0] == 't';
	PQclear(r);
	if (is_read_only)
		return fault(f, FAULT_STOP, "%s: the server or database is read-only; wanted a primary that takes writes",
			     name);
	return may_create || fault(f, FAULT_STOP,
				   "%s: role %s may not create the schema foreshadow; run: GRANT CREATE ON DATABASE "
				   "\"%s\" TO \"%s\"",
				   name, PQuser(conn), PQdb(conn), PQuser(conn));
}

/* schema: exists. A default shadow database that is not there yet has nothing to compare. */
static void check_tables_there(struct report *r, struct source_seen *s, const struct migration *m, enum role role)
{
	const struct pg_server *server = migration_target(m, role);
	struct fault f = { 0 };
	PGconn *conn = pg_connect(server, PG_PLAIN, m->slot, &f);

	if (conn) {
		check_columns(r, s, conn, m, role);
		check_generated(r, s, conn, server->name);
	} else if (strcmp(f.sqlstate, "3D000") != 0)
		check_say_fault(r, server->name, &f);
	pg_close(&conn);
}

/* Tables that are made through a mapping are made in a database of their own first. */
static bool check_create(const struct source_seen *s, PGconn *conn, const struct migration *m, const char *name,
			 struct fault *f)
{
	struct client client;

	if (m->schema != SCHEMA_CREATE)
		return true;
	if (s->conn && !client_find(&client, s->conn, conn, f))
		return fault_in(f, "%s", name);
	return !reshape_is_wanted(&m->mappings) || scratch_check(conn, name, f);
}

static void check_target(struct report *r, struct source_seen *s, const struct migration *m, enum role role)
{
	const struct pg_server *server = migration_target(m, role);
	struct fault f = { 0 };
	char text[300];

	/* the default shadow database is made by the first run: look at its server instead */
	bool is_ours = role == ROLE_SHADOW && m->shadow_is_default;
	PGconn *conn = pg_connect(is_ours ? &m->target : server, PG_PLAIN, m->slot, &f);
	if (!conn || !check_version(conn, server->name, &f) || !check_writable(conn, server->name, &f) ||
	    !check_create(s, conn, m, server->name, &f)) {
		check_say_fault(r, server->name, &f);
	} else {
		snprintf(text, sizeof(text), "PostgreSQL %d, database %s%s", PQserverVersion(conn) / 10000,
			 is_ours ? server->dbname : PQdb(conn), is_ours ? ", made by the first run if missing" : "");
		check_say(r, VERDICT_OK, server->name, text);
		check_enforced(r, s, conn, m, role);
		if (m->schema == SCHEMA_EXISTS)
			check_tables_there(r, s, m, role);
		if (!is_ours)
			check_rules(r, s, conn, m, server->name);
	}
	pg_close(&conn);
}

/* ---- Kafka ---- */

static bool read_metadata(const struct migration *m, char *text, size_t n, struct fault *f)
{
	const struct kafka_conf conf = { m->kafka, m->kafka_count, m->slot };
	const struct rd_kafka_metadata *metadata = NULL;
	rd_kafka_t *client = kafka_reader(&conf, f);

	if (!client)
		return false;
	rd_kafka_resp_err_t err = rd_kafka_metadata(client, 0, NULL, &metadata, 10000);
	bool ok = !err || kafka_fault(err, "the brokers", f);
	if (ok) {
		snprintf(text, n, "%d broker%s answer%s, %d partitions a topic", metadata->broker_cnt,
			 metadata->broker_cnt == 1 ? "" : "s", metadata->broker_cnt == 1 ? "s" : "",
			 m->partition_count);
		rd_kafka_metadata_destroy(metadata);
	}
	rd_kafka_destroy(client);
	return ok;
}

static void check_kafka(struct report *r, const struct migration *m)
{
	struct fault f = { 0 };
	char text[200];

	if (read_metadata(m, text, sizeof(text), &f))
		check_say(r, VERDICT_OK, "kafka", text);
	else
		check_say_fault(r, "kafka", &f);
}

bool cmd_check(struct cli *c, struct fault *f)
{
	struct report r = { .json = c->json, .items = json_array() };
	struct source_seen source = { 0 };

	(void)f;
	arena_init(&source.arena, CATALOG_BYTES);
	check_source(&r, &source, &c->m);
	check_target(&r, &source, &c->m, ROLE_SHADOW);
	check_target(&r, &source, &c->m, ROLE_PRIMARY);
	check_kafka(&r, &c->m);
	c->exit_code = r.failed ? fault_exit_code(r.first_kind) : 0;
	if (c->json)
		cli_print_json(json_pack("{s:s, s:b, s:O}", "migration", c->m.name, "ok", !r.failed, "items", r.items));
	else if (r.failed)
		printf("%d items failed\n", r.failed);
	else
		puts("ready");
	json_decref(r.items);
	arena_release(&source.arena);
	pg_close(&source.conn);
	return true;
}
