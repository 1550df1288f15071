// SPDX-License-Identifier: Apache-2.0
#include "shadow/schema_parts.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/buf.h"
#include "core/relation.h"

enum { OIDS_BYTES = 64 << 20, SCHEMA_LOCK = 0x666f7265 /* "fore": first key of our advisory locks */ };

static char *oid_array(const struct schema_scope *scope, bool with_keyless)
{
	struct buf b;
	const char *comma = "";

	buf_init(&b, OIDS_BYTES);
	buf_str(&b, "{");
	for (size_t i = 0; i < scope->count; i++) {
		if (!with_keyless && scope->relations[i]->keyless)
			continue;
		buf_printf(&b, "%s%u", comma, scope->oids[i]);
		comma = ",";
	}
	buf_str(&b, "}");
	return (char *)buf_cstr(&b); /* the caller frees what the buf grew */
}

char *schema_scope_oids(const struct schema_scope *scope)
{
	return oid_array(scope, true);
}

void schema_oids_make(struct schema_oids *o, const struct migration *m, const struct schema_scope *scope)
{
	static const struct schema_scope none = { NULL, NULL, 0 };

	o->scope = schema_scope_oids(scope);
	o->late = oid_array(m->unique == UNIQUE_LATE ? scope : &none, false);
}

void schema_oids_release(struct schema_oids *o)
{
	free(o->scope);
	free(o->late);
}

static bool take_lock(PGconn *target, int stop_fd, struct fault *f)
{
	char sql[64];

	snprintf(sql, sizeof(sql), "SELECT pg_advisory_lock(%d, 1)", SCHEMA_LOCK);
	PGresult *r = pg_query_until(target, sql, stop_fd, "another process works on the schema of this target", f);
	PQclear(r);
	return r != NULL;
}

/* An earlier version's table has neither the column nor the state: it knew `early` only. */
bool schema_state_lock(PGconn *target, int stop_fd, struct fault *f)
{
	return take_lock(target, stop_fd, f) &&
	       pg_do(target, f, "CREATE SCHEMA IF NOT EXISTS foreshadow") &&
	       pg_do(target, f,
		     "CREATE TABLE IF NOT EXISTS foreshadow.schemas (migration text PRIMARY KEY,"
		     " state text NOT NULL, updated_at timestamptz NOT NULL DEFAULT now());"
		     "ALTER TABLE foreshadow.schemas ADD COLUMN IF NOT EXISTS unique_mode text NOT NULL DEFAULT 'early',"
		     " ADD COLUMN IF NOT EXISTS triggers_late boolean NOT NULL DEFAULT false,"
		     " DROP CONSTRAINT IF EXISTS schemas_state_check, ADD CONSTRAINT schemas_state_check"
		     " CHECK (state IN ('preparing', 'prepared', 'finished', 'complete'));"
		     "CREATE TABLE IF NOT EXISTS foreshadow.late (migration text, rank int NOT NULL,"
		     " kind text NOT NULL, table_schema text, table_name text,"
		     " name text, seconds double precision NOT NULL, built_at timestamptz NOT NULL DEFAULT now(),"
		     " PRIMARY KEY (migration, table_schema, table_name, name));"
		     "ALTER TABLE foreshadow.late DROP CONSTRAINT IF EXISTS late_kind_check, ADD CONSTRAINT late_kind_check"
		     " CHECK (kind IN ('index', 'constraint', 'trigger', 'rule'))");
}

static bool check_mode(const struct migration *m, const char *began, struct fault *f)
{
	const char *now = unique_mode_name(m->unique);

	return strcmp(began, now) == 0 ||
	       fault(f, FAULT_STOP,
		     "unique is %s, but this migration began with %s, which decided how its tables are routed and "
		     "which indexes the targets have: write unique: %s, or start over (foreshadow drop)",
		     now, began, began);
}

bool schema_state_read(PGconn *target, const struct migration *m, char ret_state[SCHEMA_STATE_BYTES],
		       struct fault *f)
{
	const char *values[] = { m->name };
	PGresult *r = pg_query_params(target, f,
				      "SELECT state, unique_mode FROM foreshadow.schemas WHERE migration = $1", 1,
				      values);
	bool ok = r != NULL;

	ret_state[0] = 0;
	if (ok && PQntuples(r)) {
		snprintf(ret_state, SCHEMA_STATE_BYTES, "%s", PQgetvalue(r, 0, 0));
		ok = check_mode(m, PQgetvalue(r, 0, 1), f);
	}
	PQclear(r);
	return ok;
}

bool schema_state_write(PGconn *target, const struct migration *m, const char *state, struct fault *f)
{
	const char *values[] = { m->name, state, unique_mode_name(m->unique) };
	PGresult *r = pg_query_params(target, f,
				      "INSERT INTO foreshadow.schemas (migration, state, unique_mode) VALUES ($1, $2, $3)"
				      " ON CONFLICT (migration) DO UPDATE SET state = $2, updated_at = now()",
				      3, values);
	PQclear(r);
	return r != NULL;
}

bool schema_triggers_set(PGconn *target, const struct migration *m, bool are_late, struct fault *f)
{
	const char *values[] = { m->name, are_late ? "t" : "f" };
	PGresult *r = pg_query_params(target, f, "UPDATE foreshadow.schemas SET triggers_late = $2 WHERE migration = $1", 2,
				      values);

	PQclear(r);
	return r != NULL;
}

bool schema_triggers_read(PGconn *target, const struct migration *m, bool *ret_are_late, struct fault *f)
{
	const char *values[] = { m->name };
	PGresult *r = pg_query_params(target, f, "SELECT FROM foreshadow.schemas WHERE migration = $1 AND triggers_late", 1,
				      values);

	*ret_are_late = r && PQntuples(r) > 0;
	PQclear(r);
	return r != NULL;
}
