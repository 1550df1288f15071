// SPDX-License-Identifier: Apache-2.0
/*
 * check - preflight: a verdict per item with its remedy. Looks only; changes nothing anywhere.
 *
 * Each item is a row of the report: ok, warn or fail. The exit code is that of the first failed item's kind:
 * 0 nothing failed, 1 something could not be reached, 3 something must be decided or changed first.
 */
#include <stdio.h>

#include "cli/cli.h"
#include "ingest/catalog.h"
#include "ingest/source.h"
#include "shadow/expressions.h"
#include "shadow/schema.h"

enum verdict { VERDICT_OK, VERDICT_WARN, VERDICT_FAIL };
static const char *const verdict_names[] = { "ok", "warn", "FAIL" };

enum { CATALOG_BYTES = 512 << 20 };

struct report {
	struct arena arena;       /* of the catalog */
	struct catalog catalog;   /* the source's; empty while it could not be read */
	bool json;
	json_t *items;
	int failed;
	enum fault_kind first_kind;
};

static void say(struct report *r, enum verdict v, const char *object, const char *text)
{
	if (r->json)
		json_array_append_new(r->items, json_pack("{s:s, s:s, s:s}", "object", object, "verdict",
							  v == VERDICT_FAIL ? "fail" : verdict_names[v], "text", text));
	else
		printf("%-5s %-20s %s\n", verdict_names[v], object, text);
}

static void say_fault(struct report *r, const char *object, const struct fault *f)
{
	if (!r->failed++)
		r->first_kind = f->kind;
	say(r, VERDICT_FAIL, object, f->text);
}

/* ---- the source ---- */

static void check_slot(struct report *r, PGconn *conn, const struct migration *m, struct arena *a)
{
	struct source_slot slot;
	struct fault f = { 0 };
	char text[300];

	if (!source_slot_state(conn, m->slot, a, &slot, &f)) {
		say_fault(r, "slot", &f);
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
	say(r, is_in_danger ? VERDICT_WARN : VERDICT_OK, "slot", text);
}

/* What the mapping makes of a table's columns, where it makes anything of them. */
static void write_mapping(const struct relation *rel, struct buf *out)
{
	for (size_t i = 0; i < rel->column_count; i++) {
		const struct column *col = &rel->columns[i];

		if (col->is_dropped)
			buf_printf(out, ", %.*s dropped", SPAN_ARG(col->name));
		else if (!col->target.p)
			buf_printf(out, ", %.*s not written", SPAN_ARG(col->name));
		else if (!span_eq(col->target, col->name))
			buf_printf(out, ", %.*s -> %.*s", SPAN_ARG(col->name), SPAN_ARG(col->target));
	}
	for (size_t i = 0; i < rel->computed_count; i++)
		buf_printf(out, ", %.*s computed", SPAN_ARG(rel->computed[i].column));
	if (rel->filter.sql.p)
		buf_str(out, ", rows filtered");
	if (rel->origin_column.p)
		buf_printf(out, ", merged, %.*s = '%.*s'", SPAN_ARG(rel->origin_column),
			   SPAN_ARG(rel->origin_value));
}

static void say_table(struct report *r, const struct relation *rel)
{
	struct buf b;

	buf_init(&b, 1 << 20);
	buf_printf(&b, "%.*s.%.*s -> %.*s.%.*s", SPAN_ARG(rel->schema), SPAN_ARG(rel->table),
		   SPAN_ARG(rel->target_schema), SPAN_ARG(rel->target_table));
	write_mapping(rel, &b);
	buf_printf(&b, ", routing %s%s%.*s", rel->routing == ROUTE_KEY ? "key" : "table",
		   rel->routing_reason.n ? ": " : "", SPAN_ARG(rel->routing_reason));
	say(r, rel->keyless ? VERDICT_WARN : VERDICT_OK, "table", buf_cstr(&b));
	buf_release(&b);
}

static void check_tables(struct report *r, PGconn *conn, const struct migration *m)
{
	struct catalog catalog;
	struct fault f = { 0 };

	if (!catalog_read(conn, m, &r->arena, &r->catalog, &f)) {
		r->catalog = (struct catalog) { 0 };
		say_fault(r, "tables", &f);
		return;
	}
	catalog = r->catalog;
	for (size_t i = 0; i < catalog.relation_count; i++)
		say_table(r, catalog.relations[i]);
	for (size_t i = 0; i < catalog.note_count; i++)
		say(r, VERDICT_WARN, "table", catalog.notes[i]);
	for (size_t i = 0; i < catalog.mistake_count; i++) {
		struct fault mistake = { .kind = FAULT_USAGE };
		snprintf(mistake.text, sizeof(mistake.text), "%s", catalog.mistakes[i]);
		say_fault(r, "rule", &mistake);
	}
	for (size_t i = 0; i < catalog.refusal_count; i++) {
		struct fault refusal = { .kind = FAULT_STOP };
		snprintf(refusal.text, sizeof(refusal.text), "%s", catalog.refusals[i]);
		say_fault(r, "table", &refusal);
	}
	if (catalog.relation_count == 0 && catalog.refusal_count == 0 && !catalog_accept(&catalog, m, &f))
		say_fault(r, "tables", &f);
	else
		say(r, VERDICT_OK, "format",
		    catalog_binary_ok(&catalog) ? "binary: every column has a binary form we decode" :
						  "text: a column's type has no binary form we decode");
}

static void check_source(struct report *r, const struct migration *m)
{
	struct fault f = { 0 };
	PGconn *conn = pg_connect(&m->source, PG_PLAIN, m->slot, &f);

	if (!conn || !source_check(conn, &f)) {
		say_fault(r, "source", &f);
	} else {
		char text[200];
		snprintf(text, sizeof(text), "PostgreSQL %d, database %s, wal_level logical, replication allowed",
			 PQserverVersion(conn) / 10000, PQdb(conn));
		say(r, VERDICT_OK, "source", text);
	}
	if (conn) {
		check_slot(r, conn, m, &r->arena);
		check_tables(r, conn, m);
	}
	pg_close(&conn);
}

/* ---- a target ---- */

static bool check_version(PGconn *conn, const char *name, struct fault *f)
{
	int major = PQserverVersion(conn) / 10000;

	if (major >= 15 && major <= 18)
		return true;
	return fault(f, FAULT_STOP, "%s: PostgreSQL %d; wanted 15 to 18", name, major);
}

static bool check_replica_role(PGconn *conn, const char *name, struct fault *f)
{
	if (pg_do(conn, f, "SET session_replication_role = replica"))
		return pg_do(conn, f, "RESET session_replication_role");
	return fault(f, FAULT_STOP,
		     "%s: role %s may not set session_replication_role, which keeps triggers and foreign keys from "
		     "firing twice; run on that server: GRANT SET ON PARAMETER session_replication_role TO \"%s\"",
		     name, PQuser(conn), PQuser(conn));
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

struct said {
	struct report *r;
	const struct relation *rel;
	const char *server;
};

/* As the server prints it back: what it understood, not what was written. */
static void say_rule(void *arg, struct span column, struct span understood)
{
	struct said *s = arg;
	char text[1200];

	snprintf(text, sizeof(text), "%.*s.%.*s%s%.*s on the %s: %.*s", SPAN_ARG(s->rel->target_schema),
		 SPAN_ARG(s->rel->target_table), column.p ? "." : ", rows", SPAN_ARG(column), s->server,
		 SPAN_ARG(understood));
	say(s->r, VERDICT_OK, "rule", text);
}

/* Mistakes that the source already found would only be said again. */
static void check_rules(struct report *r, PGconn *conn, const struct migration *m, const char *server)
{
	for (size_t i = 0; r->catalog.mistake_count == 0 && i < r->catalog.relation_count; i++) {
		struct said said = { r, r->catalog.relations[i], server };
		struct fault f = { 0 };

		if (!expressions_check(conn, m, r->catalog.relations[i], say_rule, &said, &f))
			say_fault(r, "rule", &f);
	}
}

/* With schema: exists the tables are there: their columns and types. */
static void check_columns(struct report *r, PGconn *conn, const struct migration *m, enum role role)
{
	for (size_t i = 0; m->schema == SCHEMA_EXISTS && i < r->catalog.relation_count; i++) {
		struct fault f = { 0 };

		if (!schema_target(conn, m, role, r->catalog.relations[i], &r->arena, &f))
			say_fault(r, "columns", &f);
	}
}

static void check_target(struct report *r, const struct migration *m, enum role role)
{
	const struct pg_server *server = migration_target(m, role);
	struct fault f = { 0 };
	char text[300];

	/* the default shadow database is made by the first run: look at its server instead */
	bool is_ours = role == ROLE_SHADOW && m->shadow_is_default;
	PGconn *conn = pg_connect(is_ours ? &m->target : server, PG_PLAIN, m->slot, &f);
	if (!conn || !check_version(conn, server->name, &f) || !check_writable(conn, server->name, &f) ||
	    !check_replica_role(conn, server->name, &f)) {
		say_fault(r, server->name, &f);
	} else {
		snprintf(text, sizeof(text), "PostgreSQL %d, database %s%s", PQserverVersion(conn) / 10000,
			 is_ours ? server->dbname : PQdb(conn), is_ours ? ", made by the first run if missing" : "");
		say(r, VERDICT_OK, server->name, text);
		if (!is_ours) {
			check_columns(r, conn, m, role);
			check_rules(r, conn, m, server->name);
		}
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
	bool ok = !err || kafka_fault(err, "Kafka does not answer; look at bootstrap.servers", f);
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
		say(r, VERDICT_OK, "kafka", text);
	else
		say_fault(r, "kafka", &f);
}

bool cmd_check(struct cli *c, struct fault *f)
{
	struct report r = { .json = c->json, .items = json_array() };

	(void)f;
	arena_init(&r.arena, CATALOG_BYTES);
	check_source(&r, &c->m);
	check_target(&r, &c->m, ROLE_SHADOW);
	check_target(&r, &c->m, ROLE_PRIMARY);
	check_kafka(&r, &c->m);
	c->exit_code = r.failed ? fault_exit_code(r.first_kind) : 0;
	if (c->json)
		cli_print_json(json_pack("{s:s, s:b, s:O}", "migration", c->m.name, "ok", !r.failed, "items", r.items));
	else if (r.failed)
		printf("%d items failed\n", r.failed);
	else
		puts("ready");
	json_decref(r.items);
	arena_release(&r.arena);
	return true;
}
