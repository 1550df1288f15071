// SPDX-License-Identifier: Apache-2.0
/*
 * target - see target.h.
 *
 * Three questions to the catalog (table, columns, unique indexes), then decisions that need no
 * connection. Types are named "schema"."name" from pg_type, never by format_type(oid, NULL): that
 * one says "character" and "bit", which as a cast mean character(1) and bit(1).
 */
#include "shadow/target.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "core/buf.h"

enum {
	OID_BOOL = 16,
	OID_BYTEA = 17,
	OID_CHAR = 18,
	OID_NAME = 19,
	OID_INT8 = 20,
	OID_INT2 = 21,
	OID_INT4 = 23,
	OID_TEXT = 25,
	OID_OID = 26,
	OID_BPCHAR = 1042,
	OID_VARCHAR = 1043,
	OID_DATE = 1082,
	OID_TIME = 1083,
	OID_TIMESTAMP = 1114,
	OID_TIMESTAMPTZ = 1184,
	OID_UUID = 2950,
};

static const char table_sql[] =
    "SELECT c.oid, c.relkind,"
    "  EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid IN"
    "    (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid))"
    "    AND k.contype IN ('p', 'u', 'x') AND k.condeferrable)"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = $1 AND c.relname = $2";

/* Domains are followed to the type at their end. */
static const char columns_sql[] =
    "SELECT a.attname, a.attidentity, a.attgenerated,"
    "  a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS required,"
    "  b.oid, b.typtype, b.typcategory, quote_ident(n.nspname) || '.' || quote_ident(b.typname),"
    "  format_type(a.atttypid, a.atttypmod)"
    " FROM pg_attribute a"
    " CROSS JOIN LATERAL (WITH RECURSIVE d(oid, depth) AS ("
    "    SELECT a.atttypid, 0 UNION ALL SELECT t.typbasetype, d.depth + 1"
    "    FROM d JOIN pg_type t ON t.oid = d.oid WHERE t.typtype = 'd')"
    "  SELECT d.oid FROM d ORDER BY d.depth DESC LIMIT 1) x"
    " JOIN pg_type b ON b.oid = x.oid JOIN pg_namespace n ON n.oid = b.typnamespace"
    " WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

/* A row per column of each unique or exclusion index, of partitions too. */
static const char indexes_sql[] =
    "SELECT i.indexrelid,"
    "  i.indisvalid AND NOT i.indisexclusion AND i.indpred IS NULL AND i.indexprs IS NULL AS plain,"
    "  a.attname,"
    "  (SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname)"
    "   FROM pg_opclass oc JOIN pg_am am ON am.oid = oc.opcmethod AND am.amname = 'btree'"
    "   JOIN pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amoplefttype = oc.opcintype"
    "     AND ao.amoprighttype = oc.opcintype AND ao.amopstrategy = 3"
    "   JOIN pg_operator o ON o.oid = ao.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace"
    "   WHERE oc.oid = i.indclass[k]),"
    "  i.indrelid = $1::oid AS own,"
    "  NOT i.indisexclusion AND i.indexprs IS NULL AND NOT EXISTS (SELECT FROM"
    "    unnest(i.indcollation::oid[]) u (oid) JOIN pg_collation l ON l.oid = u.oid"
    "    WHERE NOT l.collisdeterministic) AS simple,"
    "  (SELECT format('%I.%I', n.nspname, x.relname) FROM pg_class x"
    "   JOIN pg_namespace n ON n.oid = x.relnamespace WHERE x.oid = i.indexrelid)"
    " FROM pg_index i CROSS JOIN LATERAL generate_series(0, i.indnkeyatts - 1) k"
    " LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k] AND a.attnum "
    "> 0"
    " WHERE i.indrelid IN (SELECT $1::oid UNION SELECT relid FROM "
    "pg_partition_tree($1::oid::regclass))"
    "  AND (i.indisunique OR i.indisexclusion)"
    " ORDER BY i.indexrelid, k";

static bool no_memory(struct fault *f)
{
	return fault(f, FAULT_INTERNAL, "no memory for a target table");
}

static bool is_true(const PGresult *r, int row, int column)
{
	return span_eq_str(pg_value(r, row, column), "t");
}

static char letter(const PGresult *r, int row, int column)
{
	struct span s = pg_value(r, row, column);
	return s.n ? s.p[0] : 0;
}

static PGresult *ask(PGconn *conn, const char *sql, uint32_t oid, struct fault *f)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", oid);
	return pg_query_params(conn, f, sql, 1, (const char *const[]) { text });
}

/* ask() for a table by name. */
static PGresult *ask_table(PGconn *conn, const struct relation *rel, struct fault *f)
{
	struct arena a;
	PGresult *r = NULL;

	arena_init(&a, 4096);
	const char *schema = arena_str(&a, rel->target_schema);
	const char *table = arena_str(&a, rel->target_table);
	if (schema && table)
		r = pg_query_params(conn, f, table_sql, 2, (const char *const[]) { schema, table });
	else
		no_memory(f);
	arena_release(&a);
	return r;
}

static bool read_table(PGconn *conn, struct target_table *t, struct fault *f)
{
	PGresult *r = ask_table(conn, t->rel, f);
	bool ok = false;

	if (!r)
		return false;
	if (PQntuples(r) != 1) {
		fault(f, FAULT_STOP,
		      "the target has no table %.*s: create it as it is on the source (pg_dump "
		      "--schema-only --table)",
		      SPAN_ARG(t->name));
		goto done;
	}
	char kind = letter(r, 0, 1);
	if (kind != 'r' && kind != 'p') {
		fault(f, FAULT_STOP,
		      "%.*s on the target is no table (relkind %c): drop or rename it",
		      SPAN_ARG(t->name), kind);
		goto done;
	}
	t->oid = (uint32_t)pg_i64(r, 0, 0);
	t->is_partitioned = kind == 'p';
	t->has_deferred = is_true(r, 0, 2);
	ok = true;
done:
	PQclear(r);
	return ok;
}

/* The source's type as DDL would say it. */
static void write_type(const struct column *c, struct buf *out)
{
	if (c->type.kind == VALUE_DECIMAL)
		buf_printf(out, "numeric(%d,%d)", c->type.precision, c->type.scale);
	else if (c->type.kind == VALUE_BPCHAR && c->typmod > 4)
		buf_printf(out, "character(%d)", c->typmod - 4);
	else if (c->type_oid == OID_VARCHAR && c->typmod > 4)
		buf_printf(out, "character varying(%d)", c->typmod - 4);
	else
		buf_add_span(out, c->type_name);
}

/* c: the source's, or NULL where the column is not made of one. */
static bool missing_column(const struct target_table *t, struct span name, const struct column *c,
			   struct fault *f)
{
	struct buf ddl;

	buf_init(&ddl, 4096);
	buf_printf(&ddl, "ALTER TABLE %.*s ADD COLUMN ", SPAN_ARG(t->name));
	pg_quote_ident(&ddl, name);
	buf_str(&ddl, " ");
	if (c)
		write_type(c, &ddl);
	else
		buf_str(&ddl, "<type>");
	fault(f, FAULT_STOP, "%.*s on the target has no column \"%.*s\": %s", SPAN_ARG(t->label),
	      SPAN_ARG(name), buf_cstr(&ddl));
	buf_release(&ddl);
	return false;
}

/* Which type categories (pg_type.typcategory) can hold a kind; "": any that reads its text. */
static const char *categories(enum value_kind kind)
{
	switch (kind) {
	case VALUE_BOOL:
		return "BS";
	case VALUE_INT2:
	case VALUE_INT4:
	case VALUE_INT8:
	case VALUE_FLOAT4:
	case VALUE_FLOAT8:
	case VALUE_DECIMAL:
	case VALUE_NUMERIC:
		return "NS";
	case VALUE_DATE:
	case VALUE_TIME:
	case VALUE_TIMESTAMP:
	case VALUE_TIMESTAMPTZ:
		return "DS";
	case VALUE_BYTEA:
	case VALUE_UUID:
		return "US";
	case VALUE_TEXT:
	case VALUE_BPCHAR:
	case VALUE_JSONB:
	case VALUE_OTHER:
	case VALUE_KINDS:
		break;
	}
	return "";
}

static bool suits(const struct target_table *t, const struct column *c,
		  const struct target_column *tc, char category, struct fault *f)
{
	const char *wanted = categories(c->type.kind);
	struct buf ddl;

	if (!*wanted || strchr(wanted, category))
		return true;
	buf_init(&ddl, 4096);
	buf_printf(&ddl, "ALTER TABLE %.*s ALTER COLUMN ", SPAN_ARG(t->name));
	pg_quote_ident(&ddl, tc->name);
	buf_str(&ddl, " TYPE ");
	write_type(c, &ddl);
	fault(f, FAULT_STOP,
	      "%.*s on the target has type %.*s for column \"%.*s\", the source %.*s: %s, or compute "
	      "it by a transformation rule",
	      SPAN_ARG(t->label), SPAN_ARG(tc->exact_type), SPAN_ARG(tc->name),
	      SPAN_ARG(c->type_name), buf_cstr(&ddl));
	buf_release(&ddl);
	return false;
}

/* May a parameter of the kind's own type be given to a column of this base type as it is? */
static bool is_native(enum value_kind kind, uint32_t base)
{
	if (kind == VALUE_TEXT)
		return base == OID_TEXT || base == OID_VARCHAR;
	if (kind == VALUE_BPCHAR)
		return base == OID_BPCHAR;
	return value_element_oid(kind) == base;
}

/* Types whose = calls only identical values equal (text: under COLLATE "C"). */
static bool is_exact(uint32_t base, char typtype)
{
	static const uint32_t exact[] = {
		OID_BOOL, OID_BYTEA,     OID_CHAR,        OID_NAME,   OID_INT8,    OID_INT2,
		OID_INT4, OID_TEXT,      OID_OID,         OID_BPCHAR, OID_VARCHAR, OID_DATE,
		OID_TIME, OID_TIMESTAMP, OID_TIMESTAMPTZ, OID_UUID,
	};

	for (size_t i = 0; i < sizeof(exact) / sizeof(*exact); i++)
		if (exact[i] == base)
			return true;
	return typtype == 'e';
}

/* Kinds with different values that one key index calls equal. */
static bool key_is_loose(const struct relation *rel, enum value_kind kind)
{
	return !rel->merge || kind == VALUE_FLOAT4 || kind == VALUE_FLOAT8 ||
	       kind == VALUE_NUMERIC || kind == VALUE_DECIMAL || kind == VALUE_OTHER;
}

/* What the target says of one of its columns. */
static bool read_facts(const PGresult *r, int row, struct arena *a, struct target_column *tc,
		       struct fault *f)
{
	tc->name = arena_dup(a, pg_value(r, row, 0));
	tc->type_name = arena_dup(a, pg_value(r, row, 7));
	tc->exact_type = arena_dup(a, pg_value(r, row, 8));
	tc->type_oid = (uint32_t)pg_i64(r, row, 4);
	tc->is_written = letter(r, row, 2) == 0;
	tc->is_always = letter(r, row, 1) == 'a';
	tc->is_exact = is_exact(tc->type_oid, letter(r, row, 5));
	return !arena_failed(a) || no_memory(f);
}

static int find_column(const PGresult *r, struct span name)
{
	for (int row = 0; row < PQntuples(r); row++)
		if (span_eq(pg_value(r, row, 0), name))
			return row;
	return -1;
}

/* A column whose values are written as they are. */
static bool read_column(struct target_table *t, size_t i, const PGresult *r, struct arena *a,
			struct fault *f)
{
	const struct column *c = &t->rel->columns[i];
	struct target_column *tc = &t->columns[i];
	int row = find_column(r, c->target);

	if (row < 0)
		return missing_column(t, c->target, c, f);
	if (!read_facts(r, row, a, tc, f))
		return false;
	tc->is_key = c->is_key;
	tc->is_native = is_native(tc->kind, tc->type_oid);
	tc->sets_key = c->is_key && key_is_loose(t->rel, tc->kind);
	t->overrides = t->overrides || (tc->is_written && tc->is_always);
	return !tc->is_written || suits(t, c, tc, letter(r, row, 6), f);
}

/* A column that an expression or a constant fills. */
static bool read_other(struct target_table *t, struct span name, const PGresult *r, struct arena *a,
		       struct target_column *tc, struct fault *f)
{
	int row = find_column(r, name);

	if (row < 0)
		return missing_column(t, name, NULL, f);
	if (!read_facts(r, row, a, tc, f))
		return false;
	if (!tc->is_written)
		return fault(f, FAULT_STOP,
			     "column \"%.*s\" of %.*s on the target is GENERATED, and a "
			     "transformation rule computes it: drop the rule, or ALTER TABLE %.*s ALTER "
			     "COLUMN \"%.*s\" DROP EXPRESSION",
			     SPAN_ARG(name), SPAN_ARG(t->label), SPAN_ARG(t->name), SPAN_ARG(name));
	t->overrides = t->overrides || tc->is_always;
	return true;
}

static bool read_computed(struct target_table *t, const PGresult *r, struct arena *a, struct fault *f)
{
	const struct relation *rel = t->rel;

	t->computed = arena_alloc(a, rel->computed_count * sizeof(*t->computed) + 1);
	for (size_t i = 0; t->computed && i < rel->computed_count; i++) {
		struct target_computed *c = &t->computed[t->computed_count++];

		c->as = &rel->computed[i].as;
		if (!read_other(t, rel->computed[i].column, r, a, &c->column, f))
			return false;
		c->column.is_key = rel->computed[i].is_key;
		/* Equal keys of the source may differ, and then so may what is made of them. */
		c->column.sets_key = c->column.is_key;
	}
	if (t->computed && rel->origin_column.p)
		t->origin = arena_alloc(a, sizeof(*t->origin));
	if (t->origin) {
		if (!read_other(t, rel->origin_column, r, a, t->origin, f))
			return false;
		t->origin->is_key = true;
	}
	return !arena_failed(a) || no_memory(f);
}

static void mark_inputs(struct target_table *t, const struct expression *e)
{
	for (size_t i = 0; i < e->input_count; i++)
		t->columns[e->inputs[i]].is_read = true;
}

/* What does not depend on the target's columns. */
static void read_source_side(struct target_table *t)
{
	for (size_t i = 0; i < t->rel->computed_count; i++)
		mark_inputs(t, &t->rel->computed[i].as);
	mark_inputs(t, &t->rel->filter);
	for (size_t i = 0; i < t->column_count; i++) {
		struct target_column *tc = &t->columns[i];

		tc->kind = t->rel->columns[i].type.kind;
		tc->is_native = is_native(tc->kind, value_element_oid(tc->kind));
	}
}

/* Columns that only the target has must be able to do without a value. */
static bool check_others(struct target_table *t, const PGresult *r, struct fault *f)
{
	for (int row = 0; row < PQntuples(r); row++) {
		struct span name = pg_value(r, row, 0);
		bool known = relation_fills(t->rel, name);

		t->has_others |= !known && letter(r, row, 2) == 0;
		if (!known && is_true(r, row, 3))
			return fault(
			    f, FAULT_STOP,
			    "column \"%.*s\" of %.*s on the target is NOT NULL without a "
			    "default, and the source does not have it: ALTER TABLE %.*s ALTER "
			    "COLUMN \"%.*s\" DROP NOT NULL, or SET DEFAULT, or compute it by a "
			    "transformation rule",
			    SPAN_ARG(name), SPAN_ARG(t->label), SPAN_ARG(t->name), SPAN_ARG(name));
	}
	return true;
}

static bool read_columns(PGconn *conn, struct target_table *t, struct arena *a, struct fault *f)
{
	PGresult *r = ask(conn, columns_sql, t->oid, f);
	bool ok = r != NULL;

	read_source_side(t);
	for (size_t i = 0; ok && i < t->column_count; i++)
		ok = !t->rel->columns[i].target.p || read_column(t, i, r, a, f);
	ok = ok && read_computed(t, r, a, f) && check_others(t, r, f);
	PQclear(r);
	return ok;
}

/* The key column of this name, or NULL. */
static struct target_column *key_column(struct target_table *t, struct span name)
{
	for (size_t i = 0; i < t->column_count; i++)
		if (t->columns[i].is_key && span_eq(t->columns[i].name, name))
			return &t->columns[i];
	for (size_t i = 0; i < t->computed_count; i++)
		if (t->computed[i].column.is_key && span_eq(t->computed[i].column.name, name))
			return &t->computed[i].column;
	return t->origin && span_eq(t->origin->name, name) ? t->origin : NULL;
}

/* How many of the index's columns (rows first..end) are key columns. */
static size_t keys_in(struct target_table *t, const PGresult *r, int first, int end)
{
	size_t n = 0;

	for (int row = first; row < end; row++)
		n += key_column(t, pg_value(r, row, 2)) != NULL;
	return n;
}

/* The key's own index gives the operators; one on more columns than the key forbids nothing new;
 * any other is a further constraint. */
static bool read_index(struct target_table *t, const PGresult *r, int first, int end,
		       struct arena *a)
{
	size_t keys = keys_in(t, r, first, end);
	bool is_plain = is_true(r, first, 1), is_own = is_true(r, first, 4);
	bool is_simple = is_true(r, first, 5);

	if (t->is_keyless || keys < t->key_count || !is_simple) {
		if (!t->more_unique)
			t->further = arena_dup(a, pg_value(r, first, 6));
		t->more_unique = true;
		return !arena_failed(a);
	}
	if (!is_plain || !is_own || (size_t)(end - first) != t->key_count || t->has_key_index)
		return true;
	for (int row = first; row < end; row++) {
		struct target_column *c = key_column(t, pg_value(r, row, 2));
		struct span op = pg_value(r, row, 3);
		c->equals = op.p ? arena_dup(a, op) : op;
	}
	t->has_key_index = true;
	return !arena_failed(a);
}

/* Rows of several sources in one table: equal keys of two of them are different rows. */
static bool check_origin(const struct target_table *t, struct fault *f)
{
	if (!t->origin || (t->has_key_index && !t->more_unique))
		return true;
	return fault(f, FAULT_STOP,
		     "%.*s on the target takes rows of several source tables: wanted one unique index, on "
		     "its key and column \"%.*s\" together, found %s, where equal keys of two sources "
		     "would collide; next step: ALTER TABLE %.*s DROP CONSTRAINT … , ADD PRIMARY KEY "
		     "(\"%.*s\", …)",
		     SPAN_ARG(t->label), SPAN_ARG(t->origin->name),
		     t->more_unique ? "another one" : "none", SPAN_ARG(t->name),
		     SPAN_ARG(t->origin->name));
}

static bool read_indexes(PGconn *conn, struct target_table *t, struct arena *a, struct fault *f)
{
	PGresult *r = ask(conn, indexes_sql, t->oid, f);
	bool ok = r != NULL;
	int n = ok ? PQntuples(r) : 0;

	for (int first = 0, end; ok && first < n; first = end) {
		end = first + 1;
		while (end < n && pg_i64(r, end, 0) == pg_i64(r, first, 0))
			end++;
		ok = read_index(t, r, first, end, a) || no_memory(f);
	}
	PQclear(r);
	return ok && check_origin(t, f);
}

static bool name_table(struct target_table *t, struct arena *a, struct fault *f)
{
	struct buf b;

	buf_init(&b, 4096);
	pg_quote_table(&b, t->rel->target_schema, t->rel->target_table);
	t->name = arena_dup(a, buf_span(&b));
	buf_reset(&b);
	buf_add_span(&b, t->rel->target_schema);
	buf_str(&b, ".");
	buf_add_span(&b, t->rel->target_table);
	t->label = arena_dup(a, buf_span(&b));
	buf_release(&b);
	return !arena_failed(a) || no_memory(f);
}

struct target_table *target_read(PGconn *conn, const struct relation *rel, struct arena *a,
				 struct fault *f)
{
	static _Atomic uint64_t last_id;
	struct target_table *t = arena_alloc(a, sizeof(*t));
	struct target_column *columns = arena_alloc(a, rel->column_count * sizeof(*columns) + 1);

	if (!t || !columns) {
		no_memory(f);
		return NULL;
	}
	*t = (struct target_table) {
		.rel = rel,
		.id = atomic_fetch_add(&last_id, 1) + 1,
		.columns = columns,
		.column_count = rel->column_count,
		.key_count = rel->key_count + (rel->origin_column.p != NULL),
		.is_keyless = rel->keyless,
	};
	if (!name_table(t, a, f) || !read_table(conn, t, f) || !read_columns(conn, t, a, f) ||
	    !read_indexes(conn, t, a, f))
		return NULL;
	t->is_ordered = rel->keyless || !rel->merge || t->more_unique;
	t->can_replace = t->more_unique && !rel->keyless && rel->merge && !t->has_others;
	return t;
}
