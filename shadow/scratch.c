// SPDX-License-Identifier: Apache-2.0
#include "shadow/scratch.h"

#include <stdio.h>

#include "core/buf.h"
#include "core/log.h"
#include "shadow/client.h"
#include "shadow/database.h"

enum { SQL_BYTES = 1 << 16, COMMENT_BYTES = 256 };

void scratch_name(const struct migration *m, enum role role, char ret[SCRATCH_NAME])
{
	/* A name of the server's has at most 63 bytes, and a migration's has up to 40. */
	snprintf(ret, SCRATCH_NAME, "foreshadow_%s_scratch_%c", m->name, role == ROLE_SHADOW ? 's' : 'p');
}

/* ---- whose is it? ---- */

/* server is connected to the role's database, or, for the default shadow, to any of its server's. */
static void comment_of(const struct migration *m, enum role role, PGconn *server, char ret[COMMENT_BYTES])
{
	bool is_default = role == ROLE_SHADOW && m->shadow_is_default;

	snprintf(ret, COMMENT_BYTES, "scratch of migration %s for database %s, made by foreshadow", m->name,
		 is_default ? m->shadow.dbname : PQdb(server));
}

static PGconn *connect_scratch(const struct migration *m, enum role role, struct fault *f)
{
	struct pg_server server = *migration_target(m, role);
	char name[SCRATCH_NAME];

	scratch_name(m, role, name);
	server.dbname = name;
	server.name = "scratch database";
	return pg_connect(&server, PG_PLAIN, m->slot, f);
}

/* A crash between CREATE DATABASE and COMMENT leaves an empty one: nobody loses anything by its end. */
static bool is_empty(const struct migration *m, enum role role, bool *ret, struct fault *f)
{
	PGconn *conn = connect_scratch(m, role, f);
	PGresult *r = conn ? pg_query(conn, f,
				      "SELECT NOT EXISTS (SELECT FROM pg_class WHERE oid >= 16384)"
				      " AND NOT EXISTS (SELECT FROM pg_namespace WHERE oid >= 16384)"
				      " AND NOT EXISTS (SELECT FROM pg_proc WHERE oid >= 16384)")
			   : NULL;

	if (r)
		*ret = span_eq_str(pg_value(r, 0, 0), "t");
	PQclear(r);
	pg_close(&conn);
	return r != NULL;
}

enum presence { ABSENT, OURS, NOT_OURS };

static bool look(const struct migration *m, enum role role, PGconn *server, enum presence *ret, struct fault *f)
{
	char name[SCRATCH_NAME], comment[COMMENT_BYTES];
	const char *values[] = { name };
	bool ok = true, empty = false;

	scratch_name(m, role, name);
	comment_of(m, role, server, comment);
	PGresult *r = pg_query_params(server, f,
				      "SELECT shobj_description(oid, 'pg_database'), pg_has_role(datdba, 'USAGE')"
				      " FROM pg_database WHERE datname = $1", 1, values);
	if (!r)
		return false;
	if (PQntuples(r) == 0) {
		*ret = ABSENT;
	} else if (!PQgetisnull(r, 0, 0)) {
		*ret = span_eq_str(pg_value(r, 0, 0), comment) ? OURS : NOT_OURS;
	} else if (span_eq_str(pg_value(r, 0, 1), "t")) {
		ok = is_empty(m, role, &empty, f);
		*ret = empty ? OURS : NOT_OURS;
	} else {
		*ret = NOT_OURS;
	}
	PQclear(r);
	return ok;
}

bool scratch_is_left(const struct migration *m, enum role role, PGconn *server, bool *ret, struct fault *f)
{
	enum presence presence = ABSENT;

	if (!look(m, role, server, &presence, f))
		return false;
	*ret = presence == OURS;
	return true;
}

/* ---- making and dropping ---- */

/* FORCE: programs of a killed process may still be connected. */
static bool drop_database(const struct migration *m, enum role role, PGconn *server, struct fault *f)
{
	char name[SCRATCH_NAME];

	scratch_name(m, role, name);
	return pg_dof(server, f, "DROP DATABASE IF EXISTS \"%s\" WITH (FORCE)", name);
}

bool scratch_drop(const struct migration *m, enum role role, PGconn *server, struct fault *f)
{
	bool is_left = false;

	return scratch_is_left(m, role, server, &is_left, f) && (!is_left || drop_database(m, role, server, f));
}

bool scratch_check(PGconn *target, const char *name, struct fault *f)
{
	PGresult *r = pg_query(target, f,
			       "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user");
	if (!r)
		return false;
	bool may_create = PQntuples(r) == 1 && span_eq_str(pg_value(r, 0, 0), "t");
	PQclear(r);
	if (!may_create)
		return fault(f, FAULT_STOP,
			     "%s: role %s may not create databases, and schema: create needs one for a moment, to apply "
			     "the mapping; next step: ALTER ROLE \"%s\" CREATEDB on that server, or make the tables by "
			     "hand and use schema: exists",
			     name, PQuser(target), PQuser(target));
	struct client client;
	return client_find(&client, target, target, f) ||
	       fault_in(f, "%s: schema: create with a mapping dumps a database of that server (schema: exists does not)",
			name);
}

static bool create(const struct migration *m, enum role role, PGconn *target, struct fault *f)
{
	char name[SCRATCH_NAME], comment[COMMENT_BYTES];

	scratch_name(m, role, name);
	comment_of(m, role, target, comment);
	return database_create(target, name, comment, f);
}

PGconn *scratch_open(const struct migration *m, enum role role, PGconn *target, struct fault *f)
{
	enum presence presence = ABSENT;
	char name[SCRATCH_NAME];
	PGconn *scratch = NULL;

	scratch_name(m, role, name);
	if (!scratch_check(target, migration_target(m, role)->name, f) || !look(m, role, target, &presence, f))
		return NULL;
	if (presence == NOT_OURS) {
		fault(f, FAULT_STOP, "database %s is in the way and does not say that foreshadow made it for this "
		      "migration; next step: look at it, then DROP DATABASE \"%s\"", name, name);
		return NULL;
	}
	if (presence == OURS)
		log_info("scratch database %s was left behind; making it anew", name);
	if (presence == OURS && !drop_database(m, role, target, f))
		return NULL;
	if (create(m, role, target, f))
		scratch = connect_scratch(m, role, f);
	if (!scratch) {
		fault_in(f, "making scratch database %s", name);
		drop_database(m, role, target, NULL);
	}
	return scratch;
}

bool scratch_close(const struct migration *m, enum role role, PGconn *target, PGconn **scratch, struct fault *f)
{
	if (!*scratch)
		return true;
	pg_close(scratch);
	return drop_database(m, role, target, f);
}
