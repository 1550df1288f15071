// SPDX-License-Identifier: Apache-2.0
#include "shadow/origin.h"

#include <stdatomic.h>
#include <stdio.h>

#include "core/log.h"

enum { ORIGINS_MAX = 1000 };

static const char wanted_sql[] =
	"SELECT (pg_catalog.current_setting('track_commit_timestamp') = 'on')::int,"
	" coalesce(pg_catalog.has_function_privilege(pg_catalog.to_regprocedure("
	"  'pg_catalog.pg_replication_origin_session_setup(text)'), 'EXECUTE')"
	" AND pg_catalog.has_function_privilege(pg_catalog.to_regprocedure("
	"  'pg_catalog.pg_replication_origin_create(text)'), 'EXECUTE'), false)::int";

static const char create_sql[] =
	"SELECT pg_catalog.pg_replication_origin_create($1) WHERE pg_catalog.pg_replication_origin_oid($1) IS NULL";

static const char drop_sql[] =
	"SELECT pg_catalog.pg_replication_origin_drop(o.roname) FROM pg_catalog.pg_replication_origin o"
	" WHERE pg_catalog.has_function_privilege('pg_catalog.pg_replication_origin_drop(text)', 'EXECUTE')"
	" AND (o.roname ~ ('^foreshadow_' || $1 || '_[0-9]+$') OR (o.roname = 'foreshadow_incomplete' AND NOT EXISTS ("
	"  SELECT FROM pg_catalog.pg_replication_origin n WHERE n.roname ~ '^foreshadow_.*_[0-9]+$'"
	"  AND n.roname !~ ('^foreshadow_' || $1 || '_[0-9]+$'))))";

static bool ask(PGconn *conn, const char *sql, const char *name, struct fault *f)
{
	PGresult *r = pg_query_params(conn, f, sql, 1, &name);

	PQclear(r);
	return r != NULL;
}

/* Two sessions may make it at once: who comes second finds it. */
static void create(PGconn *conn, const char *name)
{
	struct fault unused = { 0 };

	ask(conn, create_sql, name, &unused);
}

static void give_up(PGconn *conn, const char *why)
{
	static atomic_bool has_said;

	create(conn, "foreshadow_incomplete");
	if (!atomic_exchange(&has_said, true))
		log_warn("verify will not say who wrote a row that differs: %s", why);
}

bool origin_take(PGconn *conn, const char *migration, struct fault *f)
{
	PGresult *r = pg_query(conn, f, wanted_sql);
	bool is_wanted = r && pg_i64(r, 0, 0) == 1, may = r && pg_i64(r, 0, 1) == 1;
	char name[128];

	PQclear(r);
	if (!r || !is_wanted)
		return r != NULL;
	if (!may) {
		give_up(conn, "the target keeps commit times, but does not let this role use replication origins; next step: GRANT "
			      "EXECUTE ON FUNCTION pg_replication_origin_create(text), pg_replication_origin_session_setup(text)");
		return PQstatus(conn) == CONNECTION_OK;
	}
	for (int i = 0; i < ORIGINS_MAX && PQstatus(conn) == CONNECTION_OK; i++) {
		struct fault why = { 0 };

		snprintf(name, sizeof(name), "foreshadow_%s_%d", migration, i);
		create(conn, name);
		if (ask(conn, "SELECT pg_catalog.pg_replication_origin_session_setup($1)", name, &why))
			return true;
		if (strcmp(why.sqlstate, "55006") == 0) /* another session has it */
			continue;
		give_up(conn, why.text);
		break;
	}
	return PQstatus(conn) == CONNECTION_OK || fault(f, FAULT_ENVIRONMENT, "the connection to the target is lost");
}

bool origin_drop_all(PGconn *conn, const char *migration, struct fault *f)
{
	return ask(conn, drop_sql, migration, f);
}
