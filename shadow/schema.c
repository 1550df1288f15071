// SPDX-License-Identifier: Apache-2.0
#include "shadow/schema.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/failpoint.h"
#include "core/log.h"
#include "shadow/database.h"
#include "shadow/enforced.h"
#include "shadow/expressions.h"
#include "shadow/generated.h"
#include "shadow/late.h"
#include "shadow/model.h"
#include "shadow/target.h"
#include "shadow/wanted.h"

enum { COLUMNS_BYTES = 64 << 20 };

/* ---- from the model to a target ---- */

static bool transfer(const struct migration *m, enum role role, PGconn *target, const struct schema_scope *scope,
		     enum toc_stage stage, bool triggers_late, int stop_fd, struct fault *f)
{
	struct dump dump = { 0 };
	struct model model;
	size_t entries = 0;
	bool ok = model_open(&model, m, role, target, scope, stage == TOC_EARLY, stop_fd, f) &&
		  dump_take(&dump, model.conn, target, stop_fd, f);

	if (ok && model.is_scratch)
		failpoint("schema.reshaped");
	ok = ok && wanted_carry(model.conn, &model.oids, triggers_late, &dump, target, stage, m->copy_jobs, &entries, f);
	ok = model_close(&model, m, role, target, ok ? f : NULL) && ok;
	if (ok)
		log_info("schema %s on the %s: %zu entries", stage == TOC_EARLY ? "prepared" : "finished",
			 migration_target(m, role)->name, entries);
	else
		fault_in(f, "schema of the %s", migration_target(m, role)->name);
	dump_release(&dump);
	return ok;
}

/* ---- the target ---- */

static bool ensure_database(const struct migration *m, struct fault *f)
{
	const char *name = m->shadow.dbname;
	char comment[200];
	bool ok = false;
	PGconn *conn = pg_connect(&m->target, PG_PLAIN, m->slot, f);
	PGresult *r = conn ? pg_query_params(conn, f, "SELECT 1 FROM pg_database WHERE datname = $1", 1, &name) : NULL;

	if (!r)
		goto done;
	if (PQntuples(r) > 0) {
		ok = true;
		goto done;
	}
	snprintf(comment, sizeof(comment), "shadow of migration %s, created by foreshadow", m->name);
	ok = database_create(conn, name, comment, f);
	if (ok)
		log_info("shadow database %s created", name);
	else if (strcmp(f->sqlstate, "42P04") == 0 || strcmp(f->sqlstate, "23505") == 0)
		ok = true; /* another process was faster, and says so in its comment */
	else
		fault_in(f, "creating the shadow database %s (grant CREATEDB, create it by hand, or set shadow.uri)", name);
done:
	PQclear(r);
	pg_close(&conn);
	return ok;
}

static int compare_targets(const void *a, const void *b)
{
	const struct relation *x = *(struct relation *const *)a, *y = *(struct relation *const *)b;
	int order = span_cmp(x->target_schema, y->target_schema);

	return order ? order : span_cmp(x->target_table, y->target_table);
}

/* One relation for each table of the target that the scope's tables go to. */
struct names {
	struct relation **relations;
	size_t count;
};

static bool scope_names(const struct schema_scope *scope, struct names *ret, struct fault *f)
{
	size_t n = 0;

	*ret = (struct names) { calloc(scope->count + 1, sizeof(struct relation *)), scope->count };
	if (!ret->relations)
		return fault(f, FAULT_INTERNAL, "schema: out of memory");
	for (size_t i = 0; i < scope->count; i++)
		ret->relations[i] = scope->relations[i];
	qsort(ret->relations, ret->count, sizeof(struct relation *), compare_targets);
	for (size_t i = 0; i < ret->count; i++)
		if (n == 0 || compare_targets(&ret->relations[i], &ret->relations[n - 1]) != 0)
			ret->relations[n++] = ret->relations[i];
	ret->count = n;
	return true;
}

static bool table_exists(PGconn *target, const struct buf *quoted, bool *ret, struct fault *f)
{
	const char *values[] = { quoted->p };
	PGresult *r = pg_query_params(target, f, "SELECT to_regclass($1) IS NOT NULL", 1, values);

	if (!r)
		return false;
	*ret = PQgetvalue(r, 0, 0)[0] == 't';
	PQclear(r);
	return true;
}

static bool table_has_rows(PGconn *target, const char *quoted, bool *ret, struct fault *f)
{
	struct buf sql;

	buf_init(&sql, 1 << 16);
	buf_printf(&sql, "SELECT EXISTS (SELECT FROM %s)", quoted);
	PGresult *r = pg_query(target, f, buf_cstr(&sql));
	buf_release(&sql);
	if (!r)
		return false;
	*ret = PQgetvalue(r, 0, 0)[0] == 't';
	PQclear(r);
	return true;
}

struct census {
	size_t tables, present;
	char first_present[300], first_missing[300], first_filled[300];
};

/* Which of the scope's tables the target has, and (exists) which hold rows. */
static bool take_census(PGconn *target, const struct names *names, bool look_for_rows, struct census *c, struct fault *f)
{
	struct buf quoted;
	bool ok = true;

	buf_init(&quoted, 4096);
	c->tables = names->count;
	for (size_t i = 0; ok && i < names->count; i++) {
		bool is_there = false, has_rows = false;
		buf_reset(&quoted);
		pg_quote_table(&quoted, names->relations[i]->target_schema, names->relations[i]->target_table);
		const char *name = buf_cstr(&quoted);
		ok = table_exists(target, &quoted, &is_there, f) &&
		     (!is_there || !look_for_rows || table_has_rows(target, name, &has_rows, f));
		c->present += is_there;
		char *note = has_rows ? c->first_filled : is_there ? c->first_present : c->first_missing;
		if (!*note)
			snprintf(note, sizeof(c->first_present), "%s", name);
	}
	buf_release(&quoted);
	return ok;
}

static bool prepare_create(const struct migration *m, enum role role, PGconn *target,
			   const struct schema_scope *scope, const struct names *names, const char *state, int stop_fd,
			   struct fault *f)
{
	struct census c = { 0 };

	if (!take_census(target, names, false, &c, f))
		return false;
	bool was_preparing = strcmp(state, "preparing") == 0;
	if (was_preparing && c.present == c.tables && c.tables)
		return schema_state_write(target, m, "prepared", f); /* it ended after the restore's commit */
	if (c.present)
		return fault(f, FAULT_STOP,
			     "%s: table %s exists already (%zu of %zu tables do), and schema: create makes them; "
			     "drop it, or use schema: exists with empty tables",
			     migration_target(m, role)->name, c.first_present, c.present, c.tables);
	if (!schema_state_write(target, m, "preparing", f) ||
	    !transfer(m, role, target, scope, TOC_EARLY, false, stop_fd, f))
		return false;
	failpoint("schema.restored");
	return schema_state_write(target, m, "prepared", f);
}

struct target_table *schema_target(PGconn *target, const struct migration *m, enum role role,
				   const struct relation *rel, struct arena *a, struct fault *f)
{
	const char *name = migration_target(m, role)->name;
	int line = mappings_line(&m->mappings, rel->root_schema, rel->root_table);
	struct target_table *t = target_read(target, rel, a, f);

	if (!t && line)
		fault_in(f, "%s: %s:%d", name, m->path, line);
	else if (!t)
		fault_in(f, "%s", name);
	return t;
}

/* Columns by name and type, as applying will want them: the first difference, with the DDL. */
static bool compare_columns(PGconn *target, const struct migration *m, enum role role,
			    const struct schema_scope *scope, struct fault *f)
{
	struct arena a;
	bool ok = true;

	arena_init(&a, COLUMNS_BYTES);
	for (size_t i = 0; ok && i < scope->count; i++) {
		ok = schema_target(target, m, role, scope->relations[i], &a, f);
		arena_reset(&a);
	}
	arena_release(&a);
	return ok;
}

static bool compare_generated(const struct migration *m, PGconn *target, const char *name,
			      const struct schema_scope *scope, struct fault *f)
{
	struct generated generated;
	struct arena a;
	PGconn *source = pg_connect(&m->source, PG_PLAIN, m->slot, f);

	arena_init(&a, COLUMNS_BYTES);
	bool ok = source && ((generated_compare(source, target, scope, &a, &generated, f) &&
			      generated_accept(&generated, f)) || fault_in(f, "%s", name));
	arena_release(&a);
	pg_close(&source);
	return ok;
}

static bool prepare_exists(const struct migration *m, enum role role, PGconn *target,
			   const struct schema_scope *scope, const struct names *names, struct fault *f)
{
	struct census c = { 0 };
	const char *name = migration_target(m, role)->name;

	if (!take_census(target, names, true, &c, f))
		return false;
	if (c.present < c.tables)
		return fault(f, FAULT_STOP,
			     "%s: table %s is missing (%zu of %zu are there), and schema: exists wants it; "
			     "create it, or use schema: create",
			     name, c.first_missing, c.present, c.tables);
	if (*c.first_filled)
		return fault(f, FAULT_STOP,
			     "%s: table %s holds rows, and its first copy wants it empty; TRUNCATE it, or exclude "
			     "it in tables:",
			     name, c.first_filled);
	return compare_generated(m, target, name, scope, f) && compare_columns(target, m, role, scope, f) &&
	       schema_state_write(target, m, "finished", f);
}

/* The rules of each table, once for all leaves of a root. */
static bool check_rules(const struct migration *m, enum role role, PGconn *target,
			const struct schema_scope *scope, struct fault *f)
{
	const struct relation *last = NULL;

	for (size_t i = 0; i < scope->count; i++) {
		const struct relation *rel = scope->relations[i];

		if (last && span_eq(rel->root_schema, last->root_schema) &&
		    span_eq(rel->root_table, last->root_table))
			continue;
		last = rel;
		if (!expressions_check(target, m, rel, NULL, NULL, f))
			return fault_in(f, "%s", migration_target(m, role)->name);
	}
	return true;
}

bool schema_prepare(const struct migration *m, enum role role, const struct schema_scope *scope, int stop_fd,
		    struct fault *f)
{
	char state[SCHEMA_STATE_BYTES];
	struct names names = { 0 };

	if (role == ROLE_SHADOW && m->shadow_is_default && !ensure_database(m, f))
		return false;
	PGconn *target = pg_connect(migration_target(m, role), PG_PLAIN, m->slot, f);
	bool ok = target && check_rules(m, role, target, scope, f) && schema_state_lock(target, stop_fd, f) &&
		  schema_state_read(target, m, state, f);
	if (ok && (!*state || strcmp(state, "preparing") == 0)) {
		ok = scope_names(scope, &names, f) &&
		     (m->schema == SCHEMA_CREATE ? prepare_create(m, role, target, scope, &names, state, stop_fd, f)
						 : prepare_exists(m, role, target, scope, &names, f));
	}
	ok = ok && late_take_back(target, m, f) && enforced_accept(target, m, role, scope, f);
	free(names.relations);
	pg_close(&target); /* gives the lock back */
	return ok;
}

/* The lock only if there is something to do: a process that stopped while it had it would hold up all that start. */
bool schema_finish(const struct migration *m, enum role role, const struct schema_scope *scope, int stop_fd,
		   struct fault *f)
{
	char state[SCHEMA_STATE_BYTES];
	bool is_replica = true;
	PGconn *target = pg_connect(migration_target(m, role), PG_PLAIN, m->slot, f);
	bool ok = target && schema_state_read(target, m, state, f);

	if (ok && strcmp(state, "prepared") == 0)
		ok = schema_state_lock(target, stop_fd, f) && schema_state_read(target, m, state, f);
	if (ok && strcmp(state, "prepared") == 0)
		ok = pg_may_be_replica(target, &is_replica, f) &&
		     transfer(m, role, target, scope, TOC_LATE, !is_replica, stop_fd, f) &&
		     schema_triggers_set(target, m, !is_replica, f) && schema_state_write(target, m, "finished", f);
	pg_close(&target);
	return ok;
}

/* ---- the database, for drop ---- */

bool schema_database_is_ours(const struct migration *m, enum role role, bool *ret, struct fault *f)
{
	char comment[200];

	*ret = false;
	if (role != ROLE_SHADOW || !m->shadow_is_default)
		return true;
	PGconn *conn = pg_connect(&m->target, PG_PLAIN, m->slot, f);
	const char *values[] = { m->shadow.dbname };
	PGresult *r = conn ? pg_query_params(conn, f,
					     "SELECT shobj_description(oid, 'pg_database') FROM pg_database"
					     " WHERE datname = $1",
					     1, values)
			   : NULL;
	snprintf(comment, sizeof(comment), "shadow of migration %s, created by foreshadow", m->name);
	if (r)
		*ret = PQntuples(r) == 1 && strcmp(PQgetvalue(r, 0, 0), comment) == 0;
	PQclear(r);
	pg_close(&conn);
	return r != NULL;
}

bool schema_drop_database(const struct migration *m, enum role role, struct fault *f)
{
	bool is_ours = false;
	struct buf sql;

	if (!schema_database_is_ours(m, role, &is_ours, f) || !is_ours)
		return is_ours || f->kind == FAULT_NONE;
	PGconn *conn = pg_connect(&m->target, PG_PLAIN, m->slot, f);
	buf_init(&sql, 1 << 16);
	buf_str(&sql, "DROP DATABASE ");
	pg_quote_ident(&sql, span_str(m->shadow.dbname));
	bool ok = conn && pg_do(conn, f, buf_cstr(&sql));
	buf_release(&sql);
	pg_close(&conn);
	return ok;
}
