// SPDX-License-Identifier: Apache-2.0
/*
 * The thin shell of reshape: the catalog's facts, the steps one by one, what was lost.
 */
#include <stdlib.h>

#include "core/buf.h"
#include "core/log.h"
#include "core/pg.h"
#include "shadow/reshape.h"
#include "shadow/role.h"

enum { FACTS_BYTES = 512 << 20, SQL_BYTES = 1 << 20 };

/* ---- facts ---- */

/* The tables, with owned sequences and what belongs to extensions left out. */
#define TABLES \
	"WITH t AS (SELECT c.oid, coalesce(pg_partition_root(c.oid)::oid, c.oid) AS root, c.relkind, n.nspname, c.relname" \
	" FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace" \
	" WHERE c.relkind IN ('r', 'p', 'S') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'" \
	" AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 1259 AND d.objid = c.oid AND (d.deptype = 'e'" \
	"  OR (c.relkind = 'S' AND d.refclassid = 1259 AND d.deptype IN ('a', 'i'))))) "
#define ORDER " ORDER BY t.nspname COLLATE \"C\", t.relname COLLATE \"C\""

static const char tables_sql[] = TABLES "SELECT t.oid, t.root, t.relkind, t.nspname, t.relname FROM t" ORDER;

/* The rest: the table's oid first, and in the order of tables. */
static const char columns_sql[] =
	TABLES "SELECT t.oid, a.attname, a.attidentity <> '', a.attgenerated <> '', a.attinhcount > 0,"
	" (SELECT d.objid::regclass::text FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'"
	"  WHERE d.classid = 1259 AND d.refclassid = 1259 AND d.refobjid = t.oid AND d.refobjsubid = a.attnum"
	"  AND d.deptype = 'a' LIMIT 1)"
	" FROM t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped"
	" WHERE t.relkind <> 'S'" ORDER ", a.attnum";

static const char companions_sql[] =
	TABLES "SELECT t.oid, x.relname FROM t JOIN (SELECT i.indrelid, i.indexrelid FROM pg_index i UNION"
	" SELECT d.refobjid, d.objid FROM pg_depend d WHERE d.classid = 1259 AND d.refclassid = 1259"
	"  AND d.deptype IN ('a', 'i')) y ON y.indrelid = t.oid"
	" JOIN pg_class x ON x.oid = y.indexrelid AND x.relkind IN ('i', 'I', 'S')" ORDER ", x.relname COLLATE \"C\"";

/* A constraint's own words end with the names of its columns, an index's with its place and method before. */
static const char indexes_sql[] =
	TABLES "SELECT t.oid, x.relname,"
	" CASE WHEN k.oid IS NULL THEN replace(y.head, ' ON ONLY ', ' ON ') ELSE substr(y.def, 1, strpos(y.def, '(')) END,"
	" CASE WHEN k.oid IS NULL THEN substr(y.def, length(y.head) + 1) ELSE substr(y.def, strpos(y.def, '(') + 1) END,"
	" i.indisreplident OR (i.indisprimary AND NOT EXISTS (SELECT FROM pg_index r WHERE r.indrelid = i.indrelid"
	"  AND r.indisreplident)), k.oid IS NOT NULL, i.indisreplident"
	" FROM t JOIN pg_index i ON i.indrelid = t.oid AND (i.indisunique OR i.indisexclusion)"
	" JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am am ON am.oid = x.relam"
	" LEFT JOIN pg_constraint k ON k.conindid = x.oid AND k.contype IN ('p', 'u', 'x')"
	" CROSS JOIN LATERAL (SELECT"
	"  CASE WHEN k.oid IS NULL THEN pg_get_indexdef(x.oid) ELSE pg_get_constraintdef(k.oid) END AS def,"
	"  format('CREATE UNIQUE INDEX %I ON %s%I.%I USING %I (', x.relname,"
	"   CASE x.relkind WHEN 'I' THEN 'ONLY ' ELSE '' END, t.nspname, t.relname, am.amname) AS head) y"
	ORDER ", x.relname COLLATE \"C\"";

static const char references_sql[] =
	TABLES "SELECT t.oid, format('constraint %I of %s', k.conname, k.conrelid::regclass), f.root"
	" FROM t JOIN pg_constraint k ON k.confrelid = t.oid AND k.contype = 'f' AND k.conparentid = 0"
	" JOIN t f ON f.oid = k.conrelid" ORDER ", k.conname COLLATE \"C\"";

static bool is_true(const PGresult *r, int row, int column)
{
	return span_eq_str(pg_value(r, row, column), "t");
}

static struct span kept(struct arena *a, const PGresult *r, int row, int column)
{
	struct span s = pg_value(r, row, column);

	return s.p ? arena_dup(a, s) : s;
}

static bool read_tables(PGconn *conn, struct reshape_facts *x, struct arena *a, struct fault *f)
{
	PGresult *r = pg_query(conn, f, tables_sql);

	if (!r)
		return false;
	size_t n = (size_t)PQntuples(r);
	x->tables = arena_alloc(a, (n + 1) * sizeof(*x->tables));
	for (int row = 0; x->tables && row < (int)n; row++)
		x->tables[x->table_count++] = (struct reshape_table) {
			.oid = (uint32_t)pg_i64(r, row, 0),
			.root_oid = (uint32_t)pg_i64(r, row, 1),
			.kind = *PQgetvalue(r, row, 2),
			.schema = kept(a, r, row, 3),
			.name = kept(a, r, row, 4),
		};
	PQclear(r);
	return true;
}

typedef void read_row(struct reshape_table *t, struct arena *a, const PGresult *r, int row);

static void read_column(struct reshape_table *t, struct arena *a, const PGresult *r, int row)
{
	t->columns[t->column_count++] = (struct reshape_column) {
		.name = kept(a, r, row, 1),
		.is_identity = is_true(r, row, 2),
		.is_generated = is_true(r, row, 3),
		.is_inherited = is_true(r, row, 4),
		.sequence = kept(a, r, row, 5),
	};
}

static void read_companion(struct reshape_table *t, struct arena *a, const PGresult *r, int row)
{
	t->companions[t->companion_count++] = kept(a, r, row, 1);
}

static void read_index(struct reshape_table *t, struct arena *a, const PGresult *r, int row)
{
	t->indexes[t->index_count++] = (struct reshape_index) {
		.name = kept(a, r, row, 1),
		.head = kept(a, r, row, 2),
		.rest = kept(a, r, row, 3),
		.is_key = is_true(r, row, 4),
		.is_constraint = is_true(r, row, 5),
		.is_replica_identity = is_true(r, row, 6),
	};
}

static void read_reference(struct reshape_table *t, struct arena *a, const PGresult *r, int row)
{
	t->references[t->reference_count++] = (struct reshape_reference) {
		.name = kept(a, r, row, 1),
		.from_oid = (uint32_t)pg_i64(r, row, 2),
	};
}

/* What tables have several of: a query whose rows come in the order of tables, and where they go. */
static const struct detail {
	const char *sql;
	size_t array, size; /* the pointer in struct reshape_table; of an element */
	read_row *read;
} details[] = {
	{ columns_sql, offsetof(struct reshape_table, columns), sizeof(struct reshape_column), read_column },
	{ companions_sql, offsetof(struct reshape_table, companions), sizeof(struct span), read_companion },
	{ indexes_sql, offsetof(struct reshape_table, indexes), sizeof(struct reshape_index), read_index },
	{ references_sql, offsetof(struct reshape_table, references), sizeof(struct reshape_reference), read_reference },
};

static bool read_detail(PGconn *conn, const struct detail *d, struct reshape_facts *x, struct arena *a, struct fault *f)
{
	PGresult *r = pg_query(conn, f, d->sql);
	int row = 0, end;

	if (!r)
		return false;
	for (size_t i = 0; i < x->table_count && !arena_failed(a); i++, row = end) {
		struct reshape_table *t = &x->tables[i];

		for (end = row; end < PQntuples(r) && pg_i64(r, end, 0) == t->oid;)
			end++;
		void *array = arena_alloc(a, (size_t)(end - row) * d->size + 1);
		memcpy((char *)t + d->array, &array, sizeof(array));
		for (int k = row; array && k < end; k++)
			d->read(t, a, r, k);
	}
	PQclear(r);
	return true;
}

static bool read_facts(PGconn *conn, struct reshape_facts *x, struct arena *a, struct fault *f)
{
	*x = (struct reshape_facts) { 0 };
	bool ok = read_tables(conn, x, a, f);
	for (size_t i = 0; ok && i < sizeof(details) / sizeof(*details); i++)
		ok = read_detail(conn, &details[i], x, a, f);
	return ok && (!arena_failed(a) || fault(f, FAULT_INTERNAL, "no memory for the mapping's facts"));
}

/* ---- steps ---- */

static bool cannot(const char *sql, struct fault *f)
{
	if (f->kind == FAULT_ENVIRONMENT)
		return false;
	f->kind = FAULT_STOP;
	return fault_in(f, "schema: create cannot make the mapped tables (next step: make them by hand and use schema: "
			"exists): %s", sql);
}

/* Does the target know the type that the file names? One column of an empty answer would be of it. */
static bool check_type(PGconn *conn, const struct migration *m, const struct reshape_step *s, struct buf *sql,
		       struct fault *f)
{
	struct fault why = { 0 };

	buf_reset(sql);
	buf_printf(sql, "SELECT CAST(NULL AS %s\n) WHERE false", s->type);
	PGresult *r = PQexecParams(conn, buf_cstr(sql), 0, NULL, NULL, NULL, NULL, 0);
	bool ok = PQresultStatus(r) == PGRES_TUPLES_OK && PQnfields(r) == 1;
	if (!ok)
		pg_fault(conn, r, &why);
	PQclear(r);
	if (ok)
		return true;
	if (why.kind == FAULT_ENVIRONMENT) {
		*f = why;
		return false;
	}
	return fault(f, FAULT_USAGE, "%s:%d: type: expected a type of the target, found \"%s\": %s", m->path, s->line,
		     s->type, why.text);
}

/* A default stays if PostgreSQL finds a cast to the new type for it. */
static bool run_retype(PGconn *conn, const struct reshape_step *s, bool says_losses, struct fault *f)
{
	static const char *const no_cast[] = { "42804", "22023" /* identity of what is no integer */ };

	if (!pg_do(conn, f, "SAVEPOINT step"))
		return false;
	if (pg_do(conn, f, s->sql))
		return pg_do(conn, f, "RELEASE step");
	if (strcmp(f->sqlstate, no_cast[0]) != 0 && strcmp(f->sqlstate, no_cast[1]) != 0)
		return cannot(s->sql, f);
	fault_reset(f);
	if (!pg_do(conn, f, "ROLLBACK TO step"))
		return false;
	if (says_losses)
		log_warn("the column's default or identity has no place in the new type and is left out: %s", s->sql);
	return pg_do(conn, f, s->otherwise) || cannot(s->otherwise, f);
}

static bool run_plan(PGconn *conn, const struct migration *m, const struct reshape_plan *plan, bool says_losses,
		     struct fault *f)
{
	struct buf sql;
	bool ok = true;

	buf_init(&sql, SQL_BYTES);
	for (size_t i = 0; ok && i < plan->count; i++) {
		const struct reshape_step *s = &plan->steps[i];

		log_debug("reshape: %s", s->sql);
		ok = !s->type || check_type(conn, m, s, &sql, f);
		if (ok)
			ok = s->otherwise ? run_retype(conn, s, says_losses, f) :
					    pg_do(conn, f, s->sql) || cannot(s->sql, f);
	}
	buf_release(&sql);
	return ok;
}

/* ---- losses ---- */

/* What may stand on a column: indexes and constraints once, however many partitions; generated columns. */
#define DEPENDENTS \
	"(SELECT 1259 AS class, c.oid AS object, 0 AS part FROM pg_class c WHERE c.relkind IN ('i', 'I')" \
	"  AND NOT c.relispartition AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = c.oid" \
	"  AND k.contype IN ('p', 'u', 'x')) AND EXISTS (SELECT FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid" \
	"  WHERE i.indexrelid = c.oid AND t.relkind IN ('r', 'p'))" \
	" UNION ALL SELECT 2606, oid, 0 FROM pg_constraint WHERE contype IN ('c', 'f', 'p', 'u', 'x') AND conrelid <> 0" \
	"  AND conparentid = 0 AND coninhcount = 0" \
	" UNION ALL SELECT 2620, oid, 0 FROM pg_trigger WHERE NOT tgisinternal AND tgparentid = 0" \
	" UNION ALL SELECT 3256, oid, 0 FROM pg_policy UNION ALL SELECT 2618, oid, 0 FROM pg_rewrite" \
	" UNION ALL SELECT 3381, oid, 0 FROM pg_statistic_ext UNION ALL SELECT 1255, oid, 0 FROM pg_proc" \
	" UNION ALL SELECT 1259, attrelid, attnum FROM pg_attribute WHERE attgenerated <> '' AND NOT attisdropped" \
	"  AND attinhcount = 0)"

static bool begin_losses(PGconn *conn, struct fault *f)
{
	return pg_do(conn, f, "CREATE TEMP TABLE before_losses ON COMMIT DROP AS"
		     " SELECT d.*, i.type || ' ' || i.identity AS name FROM " DEPENDENTS " d"
		     " CROSS JOIN LATERAL pg_identify_object(d.class, d.object, d.part) i WHERE d.object >= 16384");
}

static bool say_losses(PGconn *conn, enum role role, struct fault *f)
{
	PGresult *r = pg_query(conn, f,
			       "SELECT b.name FROM before_losses b LEFT JOIN " DEPENDENTS " d"
			       " ON d.class = b.class AND d.object = b.object AND d.part = b.part"
			       " WHERE d.object IS NULL ORDER BY b.name COLLATE \"C\"");
	if (!r)
		return false;
	for (int i = 0; i < PQntuples(r); i++)
		log_warn("schema of the %s: %s goes with a column that the mapping drops", role_traits(role)->name,
			 PQgetvalue(r, i, 0));
	PQclear(r);
	return true;
}

/* ---- the whole ---- */

/* Schemas of the mapping that nothing is left in. public is everywhere. */
static bool drop_emptied(PGconn *conn, const struct migration *m, struct fault *f)
{
	struct buf sql;
	bool ok = true;

	buf_init(&sql, SQL_BYTES);
	for (size_t i = 0; ok && i < m->mappings.table_count; i++) {
		struct span schema = m->mappings.tables[i].from_schema;

		buf_reset(&sql);
		buf_str(&sql, "SELECT EXISTS (SELECT FROM pg_namespace n WHERE n.nspname <> 'public' AND NOT EXISTS (SELECT"
			" FROM pg_depend d WHERE d.refclassid = 2615 AND d.refobjid = n.oid) AND n.nspname = ");
		pg_quote_literal(&sql, schema);
		buf_str(&sql, ")");
		PGresult *r = pg_query(conn, f, buf_cstr(&sql));
		ok = r != NULL;
		bool is_empty = r && is_true(r, 0, 0);
		PQclear(r);
		buf_reset(&sql);
		buf_str(&sql, "DROP SCHEMA ");
		pg_quote_ident(&sql, schema);
		if (is_empty)
			ok = pg_do(conn, f, buf_cstr(&sql));
	}
	buf_release(&sql);
	return ok;
}

/* Facts, a plan of them, and its steps. */
typedef bool make_plan(const struct migration *m, const struct reshape_facts *x, struct arena *a,
		       struct reshape_plan *ret, struct fault *f);

static bool plan_and_run(PGconn *conn, const struct migration *m, make_plan *make, bool says_losses, struct fault *f)
{
	struct reshape_facts facts;
	struct reshape_plan plan;
	struct arena a;

	arena_init(&a, FACTS_BYTES);
	bool ok = read_facts(conn, &facts, &a, f) && make(m, &facts, &a, &plan, f) &&
		  run_plan(conn, m, &plan, says_losses, f);
	arena_release(&a);
	return ok;
}

bool reshape_types(PGconn *scratch, const struct migration *m, bool says_losses, struct fault *f)
{
	return pg_do(scratch, f, "BEGIN") && plan_and_run(scratch, m, reshape_plan_types, says_losses, f) &&
	       pg_do(scratch, f, "COMMIT");
}

bool reshape_names(PGconn *scratch, const struct migration *m, enum role role, bool says_losses, struct fault *f)
{
	return pg_do(scratch, f, "BEGIN") && begin_losses(scratch, f) &&
	       plan_and_run(scratch, m, reshape_plan_losses, says_losses, f) &&
	       (!says_losses || say_losses(scratch, role, f)) &&
	       plan_and_run(scratch, m, reshape_plan_names, says_losses, f) && drop_emptied(scratch, m, f) &&
	       pg_do(scratch, f, "COMMIT");
}
