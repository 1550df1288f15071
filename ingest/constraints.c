// SPDX-License-Identifier: Apache-2.0
#include "ingest/constraints.h"

#include <stdio.h>

#include "core/buf.h"

enum { NAMES_BYTES = 64 << 20 };

/* A row per column (NULL: an expression) of each index; one that is part of a partitioned index is that one. */
static const char indexes_sql[] =
	"SELECT i.indexrelid, n.nspname, t.relname, x.relname, i.indisexclusion,"
	"  NOT i.indisexclusion AND i.indexprs IS NULL AND NOT EXISTS (SELECT FROM unnest(i.indcollation::oid[]) u (oid)"
	"   JOIN pg_collation l ON l.oid = u.oid WHERE NOT l.collisdeterministic), a.attname"
	" FROM (SELECT DISTINCT * FROM unnest($1::text[], $2::text[])) w (schema, name)"
	" JOIN pg_namespace n ON n.nspname = w.schema"
	" JOIN pg_class t ON t.relnamespace = n.oid AND t.relname = w.name AND t.relkind IN ('r', 'p')"
	" CROSS JOIN LATERAL (SELECT t.oid UNION SELECT relid FROM pg_partition_tree(t.oid)) p (oid)"
	" JOIN pg_index i ON i.indrelid = p.oid"
	" JOIN pg_class x ON x.oid = i.indexrelid AND NOT x.relispartition"
	" CROSS JOIN LATERAL generate_series(0, i.indnkeyatts - 1) k"
	" LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k] AND a.attnum > 0"
	" WHERE (i.indisunique OR i.indisexclusion) AND i.indislive %s ORDER BY 2, 3, 4, 1, k";
static const char not_ours[] = "AND NOT EXISTS (SELECT FROM foreshadow.late l WHERE l.table_schema = n.nspname"
			       " AND l.name = x.relname)";

/* What fires is its triggers: ENABLE REPLICA, DISABLE and NOT ENFORCED keep them from that. */
#define KEY_COLUMNS(fires)                                                                                            \
	"k.conname, pn.nspname, p.relname,"                                                                           \
	"  EXISTS (SELECT FROM pg_trigger g WHERE g.tgconstraint = k.oid" fires "),"                                  \
	"  k.confupdtype IN ('c', 'n', 'd') OR k.confdeltype IN ('n', 'd') "
#define KEY_PARENT                                                                                                    \
	" JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace "

static const char keys_sql[] =
	"SELECT DISTINCT n.nspname, t.relname, " KEY_COLUMNS(" AND g.tgenabled IN ('O', 'A')") "FROM"
	" (SELECT DISTINCT * FROM unnest($1::text[], $2::text[])) w (schema, name)"
	" JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_class t ON t.relnamespace = n.oid AND t.relname = w.name"
	" CROSS JOIN LATERAL (SELECT t.oid UNION SELECT relid FROM pg_partition_tree(t.oid)) o (oid)"
	" JOIN pg_constraint k ON k.conrelid = o.oid" KEY_PARENT
	"WHERE k.contype = 'f' AND k.conparentid = 0 ORDER BY 1, 2, 3";

/* Those of partitioned tables and of their leaves. */
static const char source_keys_sql[] =
	"SELECT n.nspname, t.relname, " KEY_COLUMNS("") "FROM pg_constraint k"
	" JOIN pg_class t ON t.oid = k.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace" KEY_PARENT
	"WHERE k.contype = 'f' ORDER BY 1, 2, 3";

struct reading {
	const struct migration *m;
	const char *names[2];        /* arrays: schemas, tables */
	struct arena *a;
	struct constraints *ret;
};

static struct span field(const struct reading *x, const PGresult *r, int row, int column)
{
	return arena_dup(x->a, pg_value(r, row, column));
}

static bool is_true(const PGresult *r, int row, int column)
{
	return span_eq_str(pg_value(r, row, column), "t");
}

/* The array with room for n more; NULL: no memory, which the arena remembers. */
static void *grown(const struct reading *x, const void *old, size_t used, size_t n, size_t size)
{
	char *all = arena_alloc(x->a, (used + n + 1) * size);

	if (all && used)
		memcpy(all, old, used * size);
	return all;
}

static void take_indexes(const struct reading *x, enum role role, const PGresult *r)
{
	struct constraints *c = x->ret;
	int n = PQntuples(r);

	c->indexes = grown(x, c->indexes, c->index_count, (size_t)n, sizeof(*c->indexes));
	for (int first = 0, end; c->indexes && first < n; first = end) {
		struct constraint *k = &c->indexes[c->index_count++];
		*k = (struct constraint) {
			.role = role, .schema = field(x, r, first, 1), .table = field(x, r, first, 2),
			.name = field(x, r, first, 3), .is_exclusion = is_true(r, first, 4),
			.is_plain = is_true(r, first, 5),
		};
		for (end = first; end < n && pg_i64(r, end, 0) == pg_i64(r, first, 0);)
			end++;
		k->columns = arena_alloc(x->a, (size_t)(end - first) * sizeof(*k->columns));
		for (int row = first; k->columns && row < end; row++)
			k->columns[k->column_count++] = field(x, r, row, 6);
	}
}

static void take_keys(const struct reading *x, enum role role, const PGresult *r, struct constraints_key **keys,
		      size_t *count)
{
	*keys = grown(x, *keys, *count, (size_t)PQntuples(r), sizeof(**keys));
	for (int i = 0; *keys && i < PQntuples(r); i++)
		(*keys)[(*count)++] = (struct constraints_key) {
			.role = role, .schema = field(x, r, i, 0), .table = field(x, r, i, 1),
			.name = field(x, r, i, 2), .to_schema = field(x, r, i, 3), .to_table = field(x, r, i, 4),
			.is_enforced = is_true(r, i, 5), .rewrites = is_true(r, i, 6),
		};
}

/* The default shadow is made by the first run of its role. */
static bool is_made(const struct migration *m, enum role role, bool *ret, struct fault *f)
{
	PGconn *conn;
	PGresult *r;

	*ret = true;
	if (role != ROLE_SHADOW || !m->shadow_is_default)
		return true;
	conn = pg_connect(&m->target, PG_PLAIN, m->slot, f);
	r = conn ? pg_query_params(conn, f, "SELECT FROM pg_database WHERE datname = $1", 1, &m->shadow.dbname) : NULL;
	*ret = r && PQntuples(r) > 0;
	PQclear(r);
	pg_close(&conn);
	return r != NULL;
}

static PGresult *ask_indexes(const struct reading *x, PGconn *conn, struct fault *f)
{
	PGresult *late = pg_query(conn, f, "SELECT to_regclass('foreshadow.late') IS NOT NULL");
	char sql[2048];

	if (!late)
		return NULL;
	snprintf(sql, sizeof(sql), indexes_sql, is_true(late, 0, 0) ? not_ours : "");
	PQclear(late);
	return pg_query_params(conn, f, sql, 2, x->names);
}

static bool ask_right(const struct reading *x, enum role role, PGconn *conn, struct fault *f)
{
	bool may;

	if (!pg_may_be_replica(conn, &may, f))
		return false;
	x->ret->lacks_replica[role] = !may;
	return true;
}

static bool read_target(const struct reading *x, enum role role, struct fault *f)
{
	bool has;

	if (!is_made(x->m, role, &has, f))
		return false;
	/* The right is the server's. */
	PGconn *conn = pg_connect(has ? migration_target(x->m, role) : &x->m->target, PG_PLAIN, x->m->slot, f);
	bool ok = conn && ask_right(x, role, conn, f);
	PGresult *indexes = ok && has ? ask_indexes(x, conn, f) : NULL;
	PGresult *keys = indexes ? pg_query_params(conn, f, keys_sql, 2, x->names) : NULL;

	ok = ok && (!has || keys);
	if (keys) {
		take_indexes(x, role, indexes);
		take_keys(x, role, keys, &x->ret->keys, &x->ret->key_count);
	}
	PQclear(indexes);
	PQclear(keys);
	pg_close(&conn);
	return ok || fault_in(f, "asking the %s for its constraints", migration_target(x->m, role)->name);
}

/* With schema: create the targets get the source's, after the copy. */
static bool read_source(const struct reading *x, PGconn *source, struct fault *f)
{
	struct constraints *c = x->ret;
	PGresult *r;

	if (x->m->schema != SCHEMA_CREATE || (!c->lacks_replica[ROLE_SHADOW] && !c->lacks_replica[ROLE_PRIMARY]))
		return true;
	r = pg_query(source, f, source_keys_sql);
	if (r)
		take_keys(x, ROLE_PRIMARY, r, &c->source_keys, &c->source_key_count);
	PQclear(r);
	return r || fault_in(f, "asking the source for its foreign keys");
}

bool constraints_read(const struct migration *m, PGconn *source, struct relation *const *relations, size_t count,
		      struct arena *a, struct constraints *ret, struct fault *f)
{
	struct reading x = { .m = m, .a = a, .ret = ret };
	struct fault why = { 0 };
	struct buf schemas, tables;

	*ret = (struct constraints) { 0 };
	buf_init(&schemas, NAMES_BYTES);
	buf_init(&tables, NAMES_BYTES);
	pg_array_begin(&schemas);
	pg_array_begin(&tables);
	for (size_t i = 0; i < count; i++) {
		pg_array_add(&schemas, relations[i]->target_schema);
		pg_array_add(&tables, relations[i]->target_table);
	}
	pg_array_end(&schemas);
	pg_array_end(&tables);
	x.names[0] = buf_cstr(&schemas);
	x.names[1] = buf_cstr(&tables);
	bool ok = read_target(&x, ROLE_SHADOW, &why) && read_target(&x, ROLE_PRIMARY, &why) &&
		  read_source(&x, source, &why);
	if (ok && arena_failed(a))
		ok = fault(&why, FAULT_INTERNAL, "no memory for the targets' constraints");
	if (!ok && f)
		*f = why;
	buf_release(&schemas);
	buf_release(&tables);
	return ok;
}

static bool has_column(const struct constraint *k, struct span name)
{
	for (size_t i = 0; i < k->column_count; i++)
		if (span_eq(k->columns[i], name))
			return true;
	return false;
}

/* Two rows that meet in it have the same key anyway: the key's own index is such a one. */
static bool is_implied(const struct constraint *k, const struct relation *rel)
{
	for (size_t i = 0; i < rel->column_count; i++)
		if (rel->columns[i].is_key && rel->columns[i].target.p && !has_column(k, rel->columns[i].target))
			return false;
	for (size_t i = 0; i < rel->computed_count; i++)
		if (rel->computed[i].is_key && !has_column(k, rel->computed[i].column))
			return false;
	return k->is_plain && !rel->keyless && (!rel->origin_column.p || has_column(k, rel->origin_column));
}

const struct constraint *constraints_further(const struct constraints *c, const struct relation *rel)
{
	for (size_t i = 0; i < c->index_count; i++) {
		const struct constraint *k = &c->indexes[i];
		if (span_eq(k->table, rel->target_table) && span_eq(k->schema, rel->target_schema) &&
		    !is_implied(k, rel))
			return k;
	}
	return NULL;
}

void constraints_route(const struct constraints *c, struct relation *rel, struct arena *a)
{
	const struct constraint *k = constraints_further(c, rel);

	if (!k || rel->routing != ROUTE_KEY)
		return;
	rel->routing = ROUTE_TABLE;
	rel->routing_reason = span_str(arena_printf(a, "the %s target has a further %s index: \"%.*s\"",
						    k->role == ROLE_SHADOW ? "shadow" : "primary",
						    k->is_exclusion ? "exclusion" : "unique", SPAN_ARG(k->name)));
}

static bool is_leaf(const struct relation *rel)
{
	return !span_eq(rel->table, rel->root_table) || !span_eq(rel->schema, rel->root_schema);
}

void constraints_follow(struct relation *rel, const struct relation *previous)
{
	if (previous->routing == ROUTE_GROUP) {
		rel->routing = ROUTE_GROUP;
		rel->routing_reason = previous->routing_reason;
		rel->family = previous->family;
		return;
	}
	/* Otherwise the key decides, not what is beside it. */
	if (rel->keyless || previous->keyless || !rel->merge || !previous->merge ||
	    (rel->routing == ROUTE_TABLE && !is_leaf(rel)))
		return;
	rel->routing = previous->routing;
	rel->routing_reason = previous->routing_reason;
}
