// SPDX-License-Identifier: Apache-2.0
#include "shadow/enforced.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/buf.h"
#include "core/log.h"

enum { NAMES_BYTES = 64 << 20, REFUSALS_SHOWN = 5, ACCEPT_ARENA_BYTES = 64 << 20 };

/* Sessions that are no replica fire these. A key fires by its triggers: NOT ENFORCED has none. */
#define FIRES "IN ('O', 'A')"
#define KEY_FIRES "EXISTS (SELECT FROM pg_trigger g WHERE g.tgconstraint = k.oid AND g.tgenabled " FIRES ")"
/* The table $1 and its partitions. */
#define TREE "(SELECT $1::oid UNION SELECT relid FROM pg_partition_tree($1::oid::regclass))"

/* Enabled triggers and rules of the tables in `tree`: kind, table, name, how it is disabled. */
#define FIRING_SQL(tree)                                                                                              \
	"SELECT 'trigger', t.tgrelid::regclass::text, t.tgname, format('ALTER TABLE %s DISABLE TRIGGER %I',"          \
	"   t.tgrelid::regclass, t.tgname) FROM pg_trigger t"                                                         \
	"  WHERE t.tgrelid IN " tree " AND NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgenabled " FIRES            \
	" UNION ALL SELECT 'rule', w.ev_class::regclass::text, w.rulename, format('ALTER TABLE %s DISABLE RULE %I',"  \
	"   w.ev_class::regclass, w.rulename) FROM pg_rewrite w"                                                      \
	"  WHERE w.ev_class IN " tree " AND w.ev_type <> '1' AND w.ev_enabled " FIRES " ORDER BY 2, 1, 3"

static const char firing_sql[] = FIRING_SQL(TREE);

static const char parents_sql[] =
	"SELECT DISTINCT coalesce(pg_partition_root(k.confrelid)::oid, k.confrelid), k.confdeltype, k.confupdtype"
	" FROM pg_constraint k WHERE k.contype = 'f' AND k.conrelid IN " TREE " AND " KEY_FIRES;

/* Is it referenced? By other columns than $2? */
static const char referenced_sql[] =
	"SELECT count(*) > 0, coalesce(bool_or(EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = k.confrelid"
	"  AND a.attnum = ANY (k.confkey) AND a.attname <> ALL ($2::text[]))), false)"
	" FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid IN " TREE " AND " KEY_FIRES;

/* The tables $1 (schemas), $2 (names) and their partitions. */
#define SCOPE                                                                                                         \
	"(SELECT o.oid FROM unnest($1::text[], $2::text[]) w (schema, name) JOIN pg_namespace n ON n.nspname = w.schema"\
	" JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name"                                           \
	" CROSS JOIN LATERAL (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid)) o (oid))"

static const char scope_firing_sql[] = FIRING_SQL(SCOPE);

static const char scope_keys_sql[] =
	"SELECT 'foreign key', k.conrelid::regclass::text, k.conname, format('ALTER TABLE %s DROP CONSTRAINT %I',"
	"  k.conrelid::regclass, k.conname) FROM pg_constraint k WHERE k.contype = 'f' AND k.conparentid = 0"
	" AND (k.conrelid IN " SCOPE " OR k.confrelid IN " SCOPE ") AND " KEY_FIRES " ORDER BY 2, 3";

const char *enforced_grant(PGconn *conn, struct arena *a)
{
	struct buf grant;
	const char *text;

	buf_init(&grant, 1024);
	buf_str(&grant, "GRANT SET ON PARAMETER session_replication_role TO ");
	pg_quote_ident(&grant, span_str(PQuser(conn)));
	text = arena_str(a, buf_span(&grant));
	buf_release(&grant);
	return text ? text : "GRANT SET ON PARAMETER session_replication_role";
}

/* One row of the queries about what fires, as a sentence. */
static const char *refusal(PGconn *conn, const PGresult *r, int row, struct arena *a)
{
	bool is_key = span_eq_str(pg_value(r, row, 0), "foreign key");
	const char *text = arena_printf(
		a, "%s \"%s\" of %s on the target %s, since role %s may not set session_replication_role; next step: "
		"%s and make it work again at the end, or as a superuser there: %s",
		PQgetvalue(r, row, 0), PQgetvalue(r, row, 2), PQgetvalue(r, row, 1),
		is_key ? "would be checked while rows are copied, in no order between tables"
		       : "would fire again for what the source did",
		PQuser(conn), PQgetvalue(r, row, 3), enforced_grant(conn, a));

	return text ? text : "a trigger would fire";
}

/* ---- a table ---- */

static PGresult *ask(PGconn *conn, const char *sql, const struct target_table *t, const char *names, struct fault *f)
{
	char oid[16];
	const char *values[] = { oid, names };

	snprintf(oid, sizeof(oid), "%u", t->oid);
	return pg_query_params(conn, f, sql, names ? 2 : 1, values);
}

static bool read_firing(PGconn *conn, const struct target_table *t, struct arena *a, struct fault *f)
{
	PGresult *r = ask(conn, firing_sql, t, NULL, f);
	bool ok = r && PQntuples(r) == 0;

	if (r && !ok)
		fault(f, FAULT_STOP, "%s", refusal(conn, r, 0, a));
	PQclear(r);
	return ok;
}

static bool read_parents(PGconn *conn, struct target_table *t, struct arena *a, struct fault *f)
{
	PGresult *r = ask(conn, parents_sql, t, NULL, f);
	int n = r ? PQntuples(r) : 0;

	t->parents = arena_alloc(a, (size_t)n * sizeof(*t->parents) + 1);
	for (int i = 0; t->parents && i < n; i++)
		t->parents[t->parent_count++] = (struct target_parent) {
			.oid = (uint32_t)pg_i64(r, i, 0),
			.on_delete = *PQgetvalue(r, i, 1),
			.on_update = *PQgetvalue(r, i, 2),
		};
	PQclear(r);
	return r && (t->parents || fault(f, FAULT_INTERNAL, "no memory for a target table"));
}

static bool read_referenced(PGconn *conn, struct target_table *t, bool *ret_is, struct fault *f)
{
	struct buf names;
	PGresult *r;

	buf_init(&names, NAMES_BYTES);
	pg_array_begin(&names);
	for (size_t i = 0; i < t->column_count; i++)
		if (t->columns[i].is_key)
			pg_array_add(&names, t->columns[i].name);
	pg_array_end(&names);
	r = ask(conn, referenced_sql, t, buf_cstr(&names), f);
	buf_release(&names);
	if (r) {
		*ret_is = *PQgetvalue(r, 0, 0) == 't';
		t->is_referenced_beside_key = *PQgetvalue(r, 0, 1) == 't';
	}
	PQclear(r);
	return r != NULL;
}

/* Was it routed when the right was there, or when the key was not? */
static bool check_routing(PGconn *conn, const struct target_table *t, struct arena *a, struct fault *f)
{
	return t->family.p ||
	       fault(f, FAULT_STOP,
		     "%.*s on the target has a foreign key, or is referenced by one, which role %s cannot keep from "
		     "being enforced, and the migration began with routing %s for it: %s, or drop that key until the end",
		     SPAN_ARG(t->label), PQuser(conn), routing_name(t->rel->routing), enforced_grant(conn, a));
}

bool enforced_read(PGconn *conn, struct target_table *t, struct arena *a, struct fault *f)
{
	bool is_referenced = false;

	if (t->rel->routing == ROUTE_GROUP)
		t->family = t->rel->family;
	else if (t->rel->routing == ROUTE_TRANSACTION)
		t->family = span_str("");
	if (!read_firing(conn, t, a, f) || !read_parents(conn, t, a, f) ||
	    !read_referenced(conn, t, &is_referenced, f))
		return false;
	if ((t->parent_count > 0 || is_referenced) && !check_routing(conn, t, a, f))
		return false;
	if (!t->family.p)
		return true;
	t->is_ordered = t->has_deferred = true;
	t->can_replace = false;
	return true;
}

/* ---- all of them ---- */

struct refusals {
	const char **texts;
	size_t count;
};

static bool add_refusals(PGconn *conn, const char *sql, const char *const *names, struct arena *a,
			 struct refusals *all, struct fault *f)
{
	PGresult *r = pg_query_params(conn, f, sql, 2, names);
	size_t n = r ? (size_t)PQntuples(r) : 0;
	const char **texts = arena_alloc(a, (all->count + n + 1) * sizeof(*texts));

	for (size_t i = 0; texts && i < all->count; i++)
		texts[i] = all->texts[i];
	for (size_t i = 0; texts && i < n; i++)
		texts[all->count + i] = refusal(conn, r, (int)i, a);
	all->texts = texts;
	all->count += texts ? n : 0;
	PQclear(r);
	return r && (texts || fault(f, FAULT_INTERNAL, "no memory for what a target enforces"));
}

bool enforced_refusals(PGconn *conn, const struct migration *m, const struct schema_scope *scope, struct arena *a,
		       const char ***ret, size_t *ret_count, struct fault *f)
{
	struct refusals all = { 0 };
	struct buf schemas, tables;
	bool ok;

	buf_init(&schemas, NAMES_BYTES);
	buf_init(&tables, NAMES_BYTES);
	pg_array_begin(&schemas);
	pg_array_begin(&tables);
	for (size_t i = 0; i < scope->count; i++) {
		pg_array_add(&schemas, scope->relations[i]->target_schema);
		pg_array_add(&tables, scope->relations[i]->target_table);
	}
	pg_array_end(&schemas);
	pg_array_end(&tables);
	const char *names[] = { buf_cstr(&schemas), buf_cstr(&tables) };
	ok = add_refusals(conn, scope_firing_sql, names, a, &all, f) &&
	     (m->schema == SCHEMA_CREATE || add_refusals(conn, scope_keys_sql, names, a, &all, f));
	buf_release(&schemas);
	buf_release(&tables);
	*ret = all.texts;
	*ret_count = all.count;
	return ok;
}

static bool refuse(const char **texts, size_t count, const char *name, struct fault *f)
{
	struct buf b;

	buf_init(&b, sizeof(f->text) - 200);
	for (size_t i = 0; i < count && i < REFUSALS_SHOWN && !buf_failed(&b); i++)
		buf_printf(&b, "%s%s", i ? " · " : "", texts[i]);
	fault(f, FAULT_STOP, "%s: %s%s", name, buf_cstr(&b),
	      count > REFUSALS_SHOWN || buf_failed(&b) ? " · … (foreshadow check lists all)" : "");
	buf_release(&b);
	return false;
}

bool enforced_accept(PGconn *conn, const struct migration *m, enum role role, const struct schema_scope *scope,
		     struct fault *f)
{
	const char *name = migration_target(m, role)->name;
	const char **texts;
	size_t count;
	bool may = false, ok;
	struct arena a;

	if (!pg_may_be_replica(conn, &may, f))
		return false;
	if (may)
		return true;
	arena_init(&a, ACCEPT_ARENA_BYTES);
	log_warn("%s: role %s may not set session_replication_role: foreign keys are enforced while changes are applied, so "
		 "tables that they connect are applied unmerged, in the source's order; to change that: %s",
		 name, PQuser(conn), enforced_grant(conn, &a));
	ok = enforced_refusals(conn, m, scope, &a, &texts, &count, f) && (count == 0 || refuse(texts, count, name, f));
	arena_release(&a);
	return ok;
}
