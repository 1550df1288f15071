// SPDX-License-Identifier: Apache-2.0
#include "reconcile/side.h"

#include <stdio.h>
#include <stdlib.h>

/* The estimate of a partitioned table is the sum of its leaves'. A table without statistics: from its size. */
static const char table_sql[] =
    "SELECT c.oid, c.relkind,"
    "  (SELECT coalesce(sum(greatest(l.reltuples, pg_relation_size(l.oid) / 100)), 0) FROM pg_class l WHERE l.oid = c.oid"
    "   OR l.oid IN (SELECT relid FROM pg_partition_tree(c.oid) WHERE isleaf)),"
    "  pg_catalog.current_setting('track_commit_timestamp') = 'on'"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";

static const char columns_sql[] =
    "SELECT a.attname, b.oid, quote_ident(n.nspname) || '.' || quote_ident(b.typname),"
    "  format_type(b.oid, x.typmod), format_type(a.atttypid, a.atttypmod),"
    "  n.nspname = 'pg_catalog', b.typtype, b.typcategory, a.attgenerated <> '',"
    "  EXISTS (SELECT FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid"
    "    JOIN pg_am m ON m.oid = ic.relam WHERE i.indrelid = a.attrelid AND i.indisvalid"
    "    AND i.indpred IS NULL AND m.amname = 'btree' AND i.indkey[0] = a.attnum)"
    " FROM pg_attribute a"
    " CROSS JOIN LATERAL (WITH RECURSIVE d(oid, typmod, depth) AS ("
    "    SELECT a.atttypid, a.atttypmod, 0 UNION ALL"
    "    SELECT t.typbasetype, t.typtypmod, d.depth + 1"
    "    FROM d JOIN pg_type t ON t.oid = d.oid WHERE t.typtype = 'd')"
    "  SELECT d.oid, d.typmod FROM d ORDER BY d.depth DESC LIMIT 1) x"
    " JOIN pg_type b ON b.oid = x.oid JOIN pg_namespace n ON n.oid = b.typnamespace"
    " WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

static bool is_true(const PGresult *r, int row, int column)
{
	return span_eq_str(pg_value(r, row, column), "t");
}

static void read_column(const PGresult *r, int row, struct arena *a, struct side_column *c)
{
	c->name = arena_dup(a, pg_value(r, row, 0));
	c->base_oid = (uint32_t)pg_i64(r, row, 1);
	c->base_name = arena_dup(a, pg_value(r, row, 2));
	c->exact = arena_dup(a, pg_value(r, row, 3));
	c->full = arena_dup(a, pg_value(r, row, 4));
	c->is_builtin = is_true(r, row, 5);
	c->typtype = *PQgetvalue(r, row, 6);
	c->category = *PQgetvalue(r, row, 7);
	c->is_generated = is_true(r, row, 8);
	c->leads_index = is_true(r, row, 9);
}

static bool read_columns(PGconn *conn, const char *oid, struct arena *a, struct side *ret,
			 struct fault *f)
{
	PGresult *r = pg_query_params(conn, f, columns_sql, 1, &oid);

	if (!r)
		return false;
	ret->column_count = (size_t)PQntuples(r);
	ret->columns = arena_alloc(a, ret->column_count * sizeof(*ret->columns) + 1);
	for (size_t i = 0; ret->columns && i < ret->column_count; i++)
		read_column(r, (int)i, a, &ret->columns[i]);
	PQclear(r);
	return !arena_failed(a) || fault(f, FAULT_INTERNAL, "no memory for a table's columns");
}

bool side_read(PGconn *conn, const char *where, struct span schema, struct span table,
	       struct arena *a, struct side *ret, struct fault *f)
{
	const char *values[] = { arena_str(a, schema), arena_str(a, table) };
	PGresult *r = values[0] && values[1] ? pg_query_params(conn, f, table_sql, 2, values) : NULL;
	bool ok;

	*ret = (struct side) { 0 };
	if (!r)
		return fault_in(f, "%s", where);
	if (PQntuples(r) == 1) {
		ret->is_partitioned = *PQgetvalue(r, 0, 1) == 'p';
		ret->row_estimate = strtod(PQgetvalue(r, 0, 2), NULL);
		ret->has_commit_times = is_true(r, 0, 3);
		ok = read_columns(conn, PQgetvalue(r, 0, 0), a, ret, f);
	} else {
		ok = fault(f, FAULT_STOP, "there is no table %.*s.%.*s", SPAN_ARG(schema),
			   SPAN_ARG(table));
	}
	PQclear(r);
	return ok || fault_in(f, "%s", where);
}

const struct side_column *side_column(const struct side *s, struct span name)
{
	for (size_t i = 0; i < s->column_count; i++)
		if (span_eq(s->columns[i].name, name))
			return &s->columns[i];
	return NULL;
}
