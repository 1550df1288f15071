// SPDX-License-Identifier: Apache-2.0
/*
 * What is asked of the source on a plain connection: may we replicate, slots, the publication,
 * positions. The walsender side is in source.c.
 *
 * The publication names the leaves, each with ONLY: published through the root, a leaf's TRUNCATE and
 * DETACH would not be seen. It is altered by one SET TABLE, so that no moment exists at which a
 * table that stays is not in it: the slot decodes by the catalog as of each transaction.
 */
#include "ingest/source.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/buf.h"

enum {
	OLDEST = 14, NEWEST = 18,
	STATEMENT_BYTES = 64 * 1024 * 1024,
};

static bool check_settings(const PGresult *r, struct fault *f)
{
	const char *user = PQgetvalue(r, 0, 3);

	if (*PQgetvalue(r, 0, 1) == 't')
		return fault(f, FAULT_STOP,
			     "source: the server is a standby, wanted: a primary; next step: give the "
			     "primary's address in source.uri");
	if (strcmp(PQgetvalue(r, 0, 0), "logical") != 0)
		return fault(f, FAULT_STOP,
			     "source: wal_level is %s, wanted: logical; next step: ALTER SYSTEM SET "
			     "wal_level = logical, then restart the server", PQgetvalue(r, 0, 0));
	if (*PQgetvalue(r, 0, 2) != 't')
		return fault(f, FAULT_STOP,
			     "source: the user %s has no REPLICATION right; next step: ALTER ROLE \"%s\" "
			     "REPLICATION", user, user);
	return true;
}

bool source_check(PGconn *plain, struct fault *f)
{
	int major = PQserverVersion(plain) / 10000;

	if (major < OLDEST || major > NEWEST)
		return fault(f, FAULT_STOP,
			     "source: the server is PostgreSQL %d, wanted: %d to %d; next step: use a "
			     "source of these versions", major, OLDEST, NEWEST);
	/* rds_replication stands for the attribute where a provider does not give it away. */
	PGresult *r = pg_query(plain, f,
		"SELECT pg_catalog.current_setting('wal_level'), pg_catalog.pg_is_in_recovery(), "
		"u.rolsuper OR u.rolreplication OR EXISTS (SELECT FROM pg_catalog.pg_roles g WHERE "
		"g.rolname = 'rds_replication' AND pg_catalog.pg_has_role(u.oid, g.oid, 'MEMBER')), "
		"current_user FROM pg_catalog.pg_roles u WHERE u.rolname = current_user");
	if (!r)
		return fault_in(f, "source: reading its settings");
	bool ok = PQntuples(r) == 1 ? check_settings(r, f)
				    : fault(f, FAULT_INPUT, "source: the user is not in pg_roles");
	PQclear(r);
	return ok;
}

static const char *keep(const PGresult *r, int column, struct arena *a)
{
	const char *s = arena_str(a, span_str(PQgetvalue(r, 0, column)));
	return s ? s : "";
}

bool source_slot_state(PGconn *plain, const char *slot, struct arena *a, struct source_slot *ret,
		       struct fault *f)
{
	PGresult *r = pg_query_params(plain, f,
		"SELECT coalesce(active_pid, 0), coalesce(plugin, ''), coalesce(database, ''), "
		"coalesce(wal_status, ''), slot_type = 'logical', temporary, "
		"coalesce(confirmed_flush_lsn, '0/0'), coalesce(restart_lsn, '0/0'), "
		"coalesce(pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() THEN "
		"pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END, "
		"restart_lsn), 0)::int8, coalesce(safe_wal_size, -1) "
		"FROM pg_catalog.pg_replication_slots WHERE slot_name = $1", 1, &slot);
	if (!r)
		return fault_in(f, "source: state of the replication slot %s", slot);
	*ret = (struct source_slot) { .plugin = "", .database = "", .wal_status = "",
				      .safe_wal_size = -1 };
	if (PQntuples(r) == 1) {
		ret->exists = true;
		ret->active_pid = (int)pg_i64(r, 0, 0);
		ret->plugin = keep(r, 1, a);
		ret->database = keep(r, 2, a);
		ret->wal_status = keep(r, 3, a);
		ret->is_logical = *PQgetvalue(r, 0, 4) == 't';
		ret->is_temporary = *PQgetvalue(r, 0, 5) == 't';
		lsn_parse(pg_value(r, 0, 6), &ret->confirmed_flush.v);
		lsn_parse(pg_value(r, 0, 7), &ret->restart_lsn);
		ret->retained_bytes = pg_i64(r, 0, 8);
		ret->safe_wal_size = pg_i64(r, 0, 9);
	}
	PQclear(r);
	return arena_failed(a) ? fault(f, FAULT_INTERNAL, "no memory for a slot's state") : true;
}

bool source_slot_drop(PGconn *plain, const char *slot, struct fault *f)
{
	struct source_slot s;
	struct arena a;

	arena_init(&a, 64 * 1024);
	bool ok = source_slot_state(plain, slot, &a, &s, f);
	arena_release(&a);
	if (!ok || !s.exists)
		return ok;
	if (s.active_pid) {
		fault(f, FAULT_STOP,
		      "source: the replication slot %s is active for pid %d, wanted: free; next "
		      "step: stop the ingest that uses it, then try again", slot, s.active_pid);
		snprintf(f->sqlstate, sizeof(f->sqlstate), "55006");
		return false;
	}
	PGresult *r = pg_query_params(plain, f, "SELECT pg_catalog.pg_drop_replication_slot($1)", 1,
				      &slot);
	PQclear(r);
	return r || fault_in(f, "source: dropping the replication slot %s", slot);
}

/* ---- publication ---- */

static int compare_tables(const void *a, const void *b)
{
	const struct source_table *x = a, *y = b;
	int c = span_cmp(x->schema, y->schema);
	return c ? c : span_cmp(x->table, y->table);
}

/* Are the publication's tables exactly these (sorted), without filters and column lists? */
static bool has_tables(PGconn *plain, const char *publication, const struct source_table *sorted,
		       size_t n, bool *ret_same, struct fault *f)
{
	/* Row filters, column lists and whole schemas came with 15. */
	PGresult *r = pg_query_params(plain, f, PQserverVersion(plain) >= 150000 ?
		"SELECT n.nspname, c.relname, pr.prqual IS NOT NULL OR pr.prattrs IS NOT NULL "
		"OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace WHERE pnpubid = p.oid) "
		"FROM pg_catalog.pg_publication p "
		"JOIN pg_catalog.pg_publication_rel pr ON pr.prpubid = p.oid "
		"JOIN pg_catalog.pg_class c ON c.oid = pr.prrelid "
		"JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = $1 "
		"ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\"" :
		"SELECT n.nspname, c.relname, false FROM pg_catalog.pg_publication p "
		"JOIN pg_catalog.pg_publication_rel pr ON pr.prpubid = p.oid "
		"JOIN pg_catalog.pg_class c ON c.oid = pr.prrelid "
		"JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname = $1 "
		"ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\"", 1, &publication);
	if (!r)
		return false;
	*ret_same = (size_t)PQntuples(r) == n;
	for (size_t i = 0; i < n && *ret_same; i++) {
		struct source_table seen = { pg_value(r, (int)i, 0), pg_value(r, (int)i, 1) };
		*ret_same = compare_tables(&seen, &sorted[i]) == 0 &&
			    *PQgetvalue(r, (int)i, 2) == 'f';
	}
	PQclear(r);
	return true;
}

static void write_tables(struct buf *sql, const struct source_table *tables, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		buf_str(sql, i ? ", ONLY " : " TABLE ONLY ");
		pg_quote_table(sql, tables[i].schema, tables[i].table);
	}
}

/* A publication and what is to become of it. */
struct publication {
	PGconn *plain;
	const char *name;
	struct span quoted;
	const struct source_table *tables; /* sorted */
	size_t n;
	int stop_fd;
	struct buf sql;
};

static bool run(struct publication *p, struct fault *f)
{
	PGresult *r;

	if (buf_failed(&p->sql))
		return fault(f, FAULT_INTERNAL, "statement larger than %zu bytes", p->sql.max_bytes);
	r = pg_query_until(p->plain, buf_cstr(&p->sql), p->stop_fd,
			   "publishing the tables waits for a lock: an application holds one of them, "
			   "or alters it",
			   f);
	PQclear(r);
	return r != NULL;
}

static bool publication_create(struct publication *p, struct fault *f)
{
	buf_str(&p->sql, "CREATE PUBLICATION ");
	buf_add_span(&p->sql, p->quoted);
	if (p->n)
		buf_str(&p->sql, " FOR");
	write_tables(&p->sql, p->tables, p->n);
	buf_str(&p->sql, " WITH (publish = 'insert, update, delete, truncate', "
			 "publish_via_partition_root = false)");
	return run(p, f);
}

static bool publication_alter(struct publication *p, bool has_options, struct fault *f)
{
	bool is_same = false;

	if (!has_options) {
		buf_str(&p->sql, "ALTER PUBLICATION ");
		buf_add_span(&p->sql, p->quoted);
		buf_str(&p->sql, " SET (publish = 'insert, update, delete, truncate', "
				 "publish_via_partition_root = false)");
		if (!run(p, f))
			return false;
		buf_reset(&p->sql);
	}
	if (!has_tables(p->plain, p->name, p->tables, p->n, &is_same, f))
		return false;
	if (is_same)
		return true;
	if (p->n == 0)
		return fault(f, FAULT_STOP, "no table is to be published, but the publication has "
			     "some; next step: correct tables: or run foreshadow drop");
	buf_str(&p->sql, "ALTER PUBLICATION ");
	buf_add_span(&p->sql, p->quoted);
	buf_str(&p->sql, " SET");
	write_tables(&p->sql, p->tables, p->n);
	return run(p, f);
}

/* Makes or alters, as the answer about the publication (no row: there is none) says. */
static bool publication_apply(struct publication *p, const PGresult *seen, struct fault *f)
{
	if (PQntuples(seen) == 0)
		return publication_create(p, f);
	if (*PQgetvalue(seen, 0, 0) == 't')
		return fault(f, FAULT_STOP, "it is FOR ALL TABLES, wanted: FOR TABLE; next step: it is "
			     "not ours, so name the migration differently, or drop it");
	return publication_alter(p, *PQgetvalue(seen, 0, 1) == 't', f);
}

bool source_publication_ensure(PGconn *plain, const char *publication,
			       const struct source_table *tables, size_t n, int stop_fd,
			       struct fault *f)
{
	struct source_table *sorted = calloc(n ? n : 1, sizeof(*sorted));
	struct publication p = { plain, publication, { 0 }, sorted, n, stop_fd, { 0 } };
	struct buf quoted;

	if (!sorted)
		return fault(f, FAULT_INTERNAL, "no memory for %zu tables", n);
	if (n)
		memcpy(sorted, tables, n * sizeof(*sorted));
	qsort(sorted, n, sizeof(*sorted), compare_tables);
	buf_init(&quoted, 1024);
	buf_init(&p.sql, STATEMENT_BYTES);
	pg_quote_ident(&quoted, span_str(publication));
	p.quoted = buf_span(&quoted);
	PGresult *seen = pg_query_params(plain, f,
		"SELECT puballtables, pubinsert AND pubupdate AND pubdelete AND pubtruncate AND NOT "
		"pubviaroot FROM pg_catalog.pg_publication WHERE pubname = $1", 1, &publication);
	bool ok = seen && publication_apply(&p, seen, f);
	PQclear(seen);
	buf_release(&p.sql);
	buf_release(&quoted);
	free(sorted);
	return ok || fault_in(f, "source: publication %s", publication);
}

bool source_publication_drop(PGconn *plain, const char *publication, struct fault *f)
{
	struct buf sql;

	buf_init(&sql, 1024);
	buf_str(&sql, "DROP PUBLICATION IF EXISTS ");
	pg_quote_ident(&sql, span_str(publication));
	bool ok = pg_do(plain, f, buf_cstr(&sql));
	buf_release(&sql);
	return ok || fault_in(f, "source: publication %s", publication);
}

/* ---- positions ---- */

static bool ask_lsn(PGconn *plain, const char *sql, int n, const char *const *values,
		    uint64_t *ret_lsn, struct fault *f)
{
	PGresult *r = pg_query_params(plain, f, sql, n, values);

	if (!r)
		return fault_in(f, "source: WAL position");
	bool ok = PQntuples(r) == 1 && lsn_parse(pg_value(r, 0, 0), ret_lsn);
	PQclear(r);
	return ok || fault(f, FAULT_INPUT, "source: the server gave no WAL position");
}

bool source_emit(PGconn *plain, const char *content, uint64_t *ret_lsn, struct fault *f)
{
	/*
	 * A message outside a transaction is not flushed by anything before version 17. Taking a
	 * transaction id gives the statement a commit record, and that is: locally is enough.
	 */
	return ask_lsn(plain, "SELECT pg_catalog.pg_logical_emit_message(false, '" SOURCE_PREFIX
		       "', $1::text), pg_catalog.pg_current_xact_id(), "
		       "pg_catalog.set_config('synchronous_commit', 'local', true)",
		       1, &content, ret_lsn, f);
}

bool source_wal_position(PGconn *plain, uint64_t *ret_lsn, struct fault *f)
{
	return ask_lsn(plain, "SELECT pg_catalog.pg_current_wal_flush_lsn()", 0, NULL, ret_lsn, f);
}
