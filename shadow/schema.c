// SPDX-License-Identifier: Apache-2.0
#include "shadow/schema.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/failpoint.h"
#include "core/log.h"
#include "shadow/dump.h"
#include "shadow/expressions.h"
#include "shadow/generated.h"
#include "shadow/sequences.h"
#include "shadow/late.h"
#include "shadow/schema_parts.h"
#include "shadow/target.h"

enum { COLUMNS_BYTES = 64 << 20 };

/* ---- what of the source is wanted ---- */

/* Of an index, as enum toc_stage. */
#define STAGE_OF(oid)                                                                                                 \
	"CASE WHEN " oid " IN (SELECT oid FROM first) THEN 0 WHEN " oid " IN (SELECT oid FROM late) THEN 2 ELSE 1 END"

/*
 * One row an object: class, oid, stage (enum toc_stage), label, ident. A foreign key out of scope is left out; one
 * that refers to a late unique index comes behind it. ident names the object on the target.
 */
static const char objects_sql[] =
	SCHEMA_SCOPE
	", r AS (SELECT c.oid, n.nspname, c.relname, a.rolname FROM pg_class c"
	"  JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles a ON a.oid = c.relowner"
	"  JOIN scope s ON s.oid = c.oid)"
	"SELECT 1259, r.oid, 0, r.nspname || ' ' || r.relname || ' ' || r.rolname, NULL FROM r "
	"UNION ALL SELECT 1259, x.oid, " STAGE_OF("x.oid") ","
	"  r.nspname || ' ' || x.relname || ' ' || r.rolname, 'index ' || r.nspname || ' ' || x.relname"
	"  FROM pg_index i JOIN r ON r.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid "
	"UNION ALL SELECT 2606, k.oid, " STAGE_OF("k.conindid") ", NULL,"
	"  'constraint ' || r.nspname || ' ' || r.relname || ' ' || k.conname"
	"  FROM pg_constraint k JOIN r ON r.oid = k.conrelid WHERE k.contype IN ('p', 'u', 'x') "
	"UNION ALL SELECT 2606, k.oid, CASE WHEN k.conindid IN (SELECT oid FROM late) THEN 2 ELSE 1 END, NULL,"
	"  'constraint ' || r.nspname || ' ' || r.relname || ' ' || k.conname"
	"  FROM pg_constraint k JOIN r ON r.oid = k.conrelid"
	"  WHERE k.contype = 'c' OR (k.contype = 'f' AND k.confrelid IN (SELECT oid FROM scope)) "
	"UNION ALL SELECT 2604, d.oid, 0, NULL, NULL FROM pg_attrdef d JOIN r ON r.oid = d.adrelid "
	"UNION ALL SELECT 2620, t.oid, 1, NULL,"
	"  'trigger ' || r.nspname || ' ' || r.relname || ' ' || t.tgname"
	"  FROM pg_trigger t JOIN r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal "
	"UNION ALL SELECT 2618, w.oid, 1, NULL,"
	"  'rule ' || r.nspname || ' ' || r.relname || ' ' || w.rulename"
	"  FROM pg_rewrite w JOIN r ON r.oid = w.ev_class "
	"UNION ALL SELECT 3256, p.oid, 1, NULL,"
	"  'policy ' || r.nspname || ' ' || r.relname || ' ' || p.polname"
	"  FROM pg_policy p JOIN r ON r.oid = p.polrelid "
	"UNION ALL SELECT 3381, e.oid, 1, NULL, 'statistics ' || n.nspname || ' ' || e.stxname"
	"  FROM pg_statistic_ext e JOIN r ON r.oid = e.stxrelid JOIN pg_namespace n ON n.oid = e.stxnamespace "
	"UNION ALL SELECT 1259, q.oid, 0, n.nspname || ' ' || q.relname || ' ' || a.rolname, NULL"
	"  FROM pg_class q JOIN pg_namespace n ON n.oid = q.relnamespace JOIN pg_roles a ON a.oid = q.relowner"
	"  WHERE " SEQUENCES_IN_SCOPE;

/* The same idents on the target. */
static const char idents_sql[] =
	"SELECT 'index ' || n.nspname || ' ' || c.relname FROM pg_class c"
	" JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('i', 'I') "
	"UNION ALL SELECT 'constraint ' || n.nspname || ' ' || c.relname || ' ' || k.conname FROM pg_constraint k"
	" JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
	"UNION ALL SELECT 'trigger ' || n.nspname || ' ' || c.relname || ' ' || t.tgname FROM pg_trigger t"
	" JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT t.tgisinternal "
	"UNION ALL SELECT 'rule ' || n.nspname || ' ' || c.relname || ' ' || w.rulename FROM pg_rewrite w"
	" JOIN pg_class c ON c.oid = w.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace "
	"UNION ALL SELECT 'policy ' || n.nspname || ' ' || c.relname || ' ' || p.polname FROM pg_policy p"
	" JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
	"UNION ALL SELECT 'statistics ' || n.nspname || ' ' || e.stxname FROM pg_statistic_ext e"
	" JOIN pg_namespace n ON n.oid = e.stxnamespace";

struct wanted {
	PGresult *rows;                /* owns the texts */
	struct toc_object *objects;
	const char **idents;           /* by row; NULL where the object has none */
	size_t count;
};

static void wanted_release(struct wanted *w)
{
	PQclear(w->rows);
	free(w->objects);
	free(w->idents);
}

static int compare_strings(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The listing prints line ends inside names as blanks. */
static struct span label_of(char *text)
{
	for (char *p = text; *p; p++)
		if (*p == '\n' || *p == '\r')
			*p = ' ';
	return span_str(text);
}

/* Marks what the target has (conn NULL: nothing). */
static bool mark_present(struct wanted *w, PGconn *target, struct fault *f)
{
	PGresult *r = pg_query(target, f, idents_sql);
	if (!r)
		return false;
	size_t n = (size_t)PQntuples(r);
	const char **there = calloc(n + 1, sizeof(*there));
	for (size_t i = 0; there && i < n; i++)
		there[i] = PQgetvalue(r, (int)i, 0);
	if (there) {
		qsort(there, n, sizeof(*there), compare_strings);
		for (size_t i = 0; i < w->count; i++)
			w->objects[i].is_there = w->idents[i] && bsearch(&w->idents[i], there, n, sizeof(*there),
									 compare_strings);
	}
	PQclear(r);
	free(there);
	return there || fault(f, FAULT_INTERNAL, "schema: out of memory");
}

static bool wanted_read(struct wanted *w, PGconn *source, PGconn *target, const struct schema_oids *oids,
			struct fault *f)
{
	w->rows = pg_query_params(source, f, objects_sql, 2, (const char *const[]) { oids->scope, oids->late });
	if (!w->rows)
		return false;
	w->count = (size_t)PQntuples(w->rows);
	w->objects = calloc(w->count + 1, sizeof(*w->objects));
	w->idents = calloc(w->count + 1, sizeof(*w->idents));
	if (!w->objects || !w->idents)
		return fault(f, FAULT_INTERNAL, "schema: out of memory");
	for (size_t i = 0; i < w->count; i++) {
		int row = (int)i;
		w->objects[i] = (struct toc_object) {
			.class_oid = (uint32_t)pg_i64(w->rows, row, 0),
			.oid = (uint32_t)pg_i64(w->rows, row, 1),
			.stage = (enum toc_stage)pg_i64(w->rows, row, 2),
		};
		if (!PQgetisnull(w->rows, row, 3))
			w->objects[i].label = label_of(PQgetvalue(w->rows, row, 3));
		if (!PQgetisnull(w->rows, row, 4))
			w->idents[i] = PQgetvalue(w->rows, row, 4);
	}
	if (target && !mark_present(w, target, f))
		return false;
	toc_sort(w->objects, w->count);
	return true;
}

/* ---- from the source to a target ---- */

/* Restores into `to` what of `from` belongs to a stage; dump is of from. */
static bool carry(PGconn *from, const struct schema_oids *oids, struct dump *dump, PGconn *to, enum toc_stage stage, int jobs,
		  size_t *ret_entries, struct fault *f)
{
	struct wanted wanted = { 0 };
	bool ok = wanted_read(&wanted, from, stage == TOC_LATE ? to : NULL, oids, f) &&
		  dump_restore(dump, to, wanted.objects, wanted.count, stage, jobs, ret_entries, f);

	wanted_release(&wanted);
	return ok;
}

static bool transfer(const struct migration *m, enum role role, PGconn *target, const struct schema_scope *scope,
		     enum toc_stage stage, struct fault *f)
{
	struct dump dump = { 0 };
	struct schema_oids oids;
	size_t entries = 0;
	PGconn *source = pg_connect(&m->source, PG_PLAIN, m->slot, f);
	schema_oids_make(&oids, m, scope);
	bool ok = source && dump_take(&dump, source, f) &&
		  carry(source, &oids, &dump, target, stage, m->copy_jobs, &entries, f);

	if (ok)
		log_info("schema %s on the %s: %zu entries", stage == TOC_EARLY ? "prepared" : "finished",
			 migration_target(m, role)->name, entries);
	else
		fault_in(f, "schema of the %s", migration_target(m, role)->name);
	dump_release(&dump);
	pg_close(&source);
	schema_oids_release(&oids);
	return ok;
}

/* ---- the target ---- */

static bool ensure_database(const struct migration *m, struct fault *f)
{
	const char *name = m->shadow.dbname;
	const char *values[] = { name };
	bool ok = false;
	struct buf sql;
	PGconn *conn = pg_connect(&m->target, PG_PLAIN, m->slot, f);

	buf_init(&sql, 1 << 16);
	PGresult *r = conn ? pg_query_params(conn, f, "SELECT 1 FROM pg_database WHERE datname = $1", 1, values) : NULL;
	if (!r)
		goto done;
	if (PQntuples(r) > 0) {
		ok = true;
		goto done;
	}
	buf_str(&sql, "CREATE DATABASE ");
	pg_quote_ident(&sql, span_str(name));
	buf_str(&sql, " TEMPLATE template0");
	ok = pg_do(conn, f, buf_cstr(&sql));
	if (!ok && (strcmp(f->sqlstate, "42P04") == 0 || strcmp(f->sqlstate, "23505") == 0)) {
		ok = true; /* another process was faster, and says so in its comment */
		goto done;
	}
	if (!ok) {
		fault_in(f, "creating the shadow database %s (grant CREATEDB, create it by hand, or set shadow.uri)",
			 name);
		goto done;
	}
	buf_reset(&sql);
	buf_str(&sql, "COMMENT ON DATABASE ");
	pg_quote_ident(&sql, span_str(name));
	buf_printf(&sql, " IS 'shadow of migration %s, created by foreshadow'", m->name);
	ok = pg_do(conn, f, buf_cstr(&sql));
	log_info("shadow database %s created", name);
done:
	PQclear(r);
	buf_release(&sql);
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
			   const struct schema_scope *scope, const struct names *names, const char *state, struct fault *f)
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
	if (!schema_state_write(target, m, "preparing", f) || !transfer(m, role, target, scope, TOC_EARLY, f))
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

bool schema_prepare(const struct migration *m, enum role role, const struct schema_scope *scope, struct fault *f)
{
	char state[SCHEMA_STATE_BYTES];
	struct names names = { 0 };

	if (role == ROLE_SHADOW && m->shadow_is_default && !ensure_database(m, f))
		return false;
	PGconn *target = pg_connect(migration_target(m, role), PG_PLAIN, m->slot, f);
	bool ok = target && check_rules(m, role, target, scope, f) && schema_state_lock(target, f) &&
		  schema_state_read(target, m, state, f);
	if (ok && (!*state || strcmp(state, "preparing") == 0)) {
		ok = scope_names(scope, &names, f) &&
		     (m->schema == SCHEMA_CREATE ? prepare_create(m, role, target, scope, &names, state, f)
						 : prepare_exists(m, role, target, scope, &names, f));
	}
	ok = ok && late_take_back(target, m, f);
	free(names.relations);
	pg_close(&target); /* gives the lock back */
	return ok;
}

bool schema_finish(const struct migration *m, enum role role, const struct schema_scope *scope, struct fault *f)
{
	char state[SCHEMA_STATE_BYTES];
	PGconn *target = pg_connect(migration_target(m, role), PG_PLAIN, m->slot, f);
	bool ok = target && schema_state_lock(target, f) && schema_state_read(target, m, state, f);

	if (ok && strcmp(state, "prepared") == 0)
		ok = transfer(m, role, target, scope, TOC_LATE, f) && schema_state_write(target, m, "finished", f);
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
