// SPDX-License-Identifier: Apache-2.0
#include "ingest/facts.h"

#include <stdlib.h>

#include "core/buf.h"

enum { LIST_BYTES = 16 * 1024 * 1024 }; /* a list of OIDs as text */

static struct span field(struct facts *x, const PGresult *r, int row, int column)
{
	struct span s = pg_value(r, row, column);
	return s.p ? arena_dup(x->a, s) : s;
}

static bool field_bool(const PGresult *r, int row, int column)
{
	return !PQgetisnull(r, row, column) && *PQgetvalue(r, row, column) == 't';
}

void *facts_many(struct facts *x, size_t n, size_t size)
{
	return arena_alloc(x->a, (n ? n : 1) * size);
}

static int compare_oid(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

/* All three kinds of facts start with their oid and are ordered by it. */
static void *find(uint32_t oid, void *array, size_t n, size_t size)
{
	return n ? bsearch(&oid, array, n, size, compare_oid) : NULL;
}

struct facts_table *facts_find(const struct facts *x, uint32_t oid)
{
	return find(oid, x->tables, x->table_count, sizeof(struct facts_table));
}

struct facts_table *facts_find_root(const struct facts *x, uint32_t oid)
{
	return find(oid, x->roots, x->root_count, sizeof(struct facts_table));
}

const struct facts_type *facts_find_type(const struct facts *x, uint32_t oid)
{
	return find(oid, x->types, x->type_count, sizeof(struct facts_type));
}

bool facts_read_tables(PGconn *conn, struct facts *x, uint32_t only, struct fault *f)
{
	char oid[16];
	const char *values[] = { oid };

	snprintf(oid, sizeof(oid), "%u", only);
	PGresult *r = pg_query_params(conn, f,
		"SELECT c.oid, coalesce(rc.oid, 0), n.nspname, c.relname, rn.nspname, rc.relname, "
		"CASE WHEN rc.oid IS NOT NULL THEN coalesce("
		"pg_catalog.pg_get_partition_constraintdef(c.oid), 'true') END, "
		"c.relkind, c.relpersistence, c.relreplident, "
		"pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE') AND "
		"pg_catalog.has_table_privilege(c.oid, 'SELECT'), "
		"pg_catalog.row_security_active(c.oid) "
		"FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
		"LEFT JOIN pg_catalog.pg_class rc ON c.relispartition AND "
		"rc.oid = pg_catalog.pg_partition_root(c.oid) "
		"LEFT JOIN pg_catalog.pg_namespace rn ON rn.oid = rc.relnamespace "
		"WHERE c.relkind IN ('r', 'f') AND c.relpersistence <> 't' AND n.nspname NOT IN "
		"('pg_catalog', 'information_schema', 'pg_toast', 'foreshadow') AND ($1::oid = 0 OR "
		"c.oid = $1::oid OR rc.oid = pg_catalog.pg_partition_root($1::oid)) ORDER BY c.oid",
		1, values);
	if (!r)
		return false;
	x->table_count = (size_t)PQntuples(r);
	x->tables = facts_many(x, x->table_count, sizeof(*x->tables));
	for (int i = 0; x->tables && i < PQntuples(r); i++)
		x->tables[i] = (struct facts_table) {
			.oid = (uint32_t)pg_i64(r, i, 0),
			.root_oid = (uint32_t)pg_i64(r, i, 1),
			.schema = field(x, r, i, 2),
			.name = field(x, r, i, 3),
			.root_schema = field(x, r, i, 4),
			.root_name = field(x, r, i, 5),
			.bound = field(x, r, i, 6),
			.kind = *PQgetvalue(r, i, 7),
			.persistence = *PQgetvalue(r, i, 8),
			.identity = *PQgetvalue(r, i, 9),
			.can_select = field_bool(r, i, 10),
			.has_policies = field_bool(r, i, 11),
		};
	PQclear(r);
	return true;
}

/* {oid,oid,...} of the tables in scope, and of their roots. */
static void write_oids(const struct facts *x, bool with_roots, struct buf *out)
{
	char comma = '{';

	for (size_t i = 0; i < x->table_count; i++, comma = ',')
		buf_printf(out, "%c%u", comma, x->tables[i].oid);
	for (size_t i = 0; with_roots && i < x->root_count; i++, comma = ',')
		buf_printf(out, "%c%u", comma, x->roots[i].oid);
	buf_str(out, comma == '{' ? "{}" : "}");
}

static PGresult *query_oids(PGconn *conn, const char *sql, struct buf *oids, struct fault *f)
{
	const char *values[] = { buf_cstr(oids) };

	if (!buf_failed(oids))
		return pg_query_params(conn, f, sql, 1, values);
	fault(f, FAULT_INTERNAL, "too many tables for one query");
	return NULL;
}

/* How many of the rows from `first` on have the same oid in column 0. */
static int run_length(const PGresult *r, int first)
{
	int64_t oid = pg_i64(r, first, 0);
	int i = first;

	while (i < PQntuples(r) && pg_i64(r, i, 0) == oid)
		i++;
	return i - first;
}

static void take_columns(struct facts *x, struct facts_table *t, const PGresult *r, int first, int n)
{
	t->columns = facts_many(x, (size_t)n, sizeof(*t->columns));
	t->column_count = t->columns ? (size_t)n : 0;
	for (size_t i = 0; i < t->column_count; i++) {
		int row = first + (int)i;
		t->columns[i] = (struct facts_column) {
			.attnum = (int16_t)pg_i64(r, row, 1),
			.name = field(x, r, row, 2),
			.type_oid = (uint32_t)pg_i64(r, row, 3),
			.typmod = (int32_t)pg_i64(r, row, 4),
			.is_nullable = !field_bool(r, row, 5),
			.is_generated = field_bool(r, row, 6),
			.is_toastable = field_bool(r, row, 7),
			.collation = field(x, r, row, 8),
		};
	}
}

static bool read_columns(PGconn *conn, struct facts *x, struct buf *oids, struct fault *f)
{
	PGresult *r = query_oids(conn,
		"SELECT attrelid, attnum, attname, atttypid, atttypmod, attnotnull, "
		"attgenerated <> '', attlen = -1 AND attstorage <> 'p', (SELECT pg_catalog.format('%I.%I', n.nspname, "
		"l.collname) FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace n ON n.oid = "
		"l.collnamespace WHERE l.oid = attcollation AND l.collname <> 'default') "
		"FROM pg_catalog.pg_attribute WHERE attrelid = ANY($1::oid[]) "
		"AND attnum > 0 AND NOT attisdropped ORDER BY attrelid, attnum", oids, f);
	if (!r)
		return false;
	for (int i = 0, n; i < PQntuples(r); i += n) {
		struct facts_table *t = facts_find(x, (uint32_t)pg_i64(r, i, 0));
		n = run_length(r, i);
		if (t)
			take_columns(x, t, r, i, n);
	}
	PQclear(r);
	return true;
}

const struct facts_column *facts_find_column(const struct facts_table *t, int16_t attnum)
{
	for (size_t i = 0; i < t->column_count; i++)
		if (t->columns[i].attnum == attnum)
			return &t->columns[i];
	return NULL;
}

/* "1 3 0": numbers of the columns, 0 for an expression. */
static void take_attnums(struct facts *x, struct key_index *index, const char *text, size_t n)
{
	int16_t *attnums = facts_many(x, n, sizeof(*attnums));
	char *end;

	if (!attnums)
		return;
	for (; index->count < n; index->count++, text = end) {
		attnums[index->count] = (int16_t)strtol(text, &end, 10);
		if (end == text)
			break;
	}
	index->attnums = attnums;
}

static void take_index(struct facts *x, const struct facts_table *t, struct key_index *index,
		       const PGresult *r, int row)
{
	uint32_t root_table = (uint32_t)pg_i64(r, row, 13);

	*index = (struct key_index) {
		.oid = (uint32_t)pg_i64(r, row, 1),
		.name = field(x, r, row, 2),
		.is_primary = field_bool(r, row, 3),
		.is_identity = field_bool(r, row, 4),
		.is_unique = field_bool(r, row, 5),
		.is_immediate = field_bool(r, row, 6),
		.is_valid = field_bool(r, row, 7),
		.is_partial = field_bool(r, row, 8),
		.has_expressions = field_bool(r, row, 9),
		.is_deterministic = field_bool(r, row, 10),
		.spans_root = !t->is_leaf || (root_table && root_table == t->root_oid),
	};
	index->root_oid = t->is_leaf && index->spans_root ? (uint32_t)pg_i64(r, row, 14) : 0;
	take_attnums(x, index, PQgetvalue(r, row, 11), (size_t)pg_i64(r, row, 12));
	for (size_t i = 0; i < index->count; i++) {
		const struct facts_column *c = facts_find_column(t, index->attnums[i]);
		index->is_nullable |= c && c->is_nullable;
		index->has_generated |= c && c->is_generated;
	}
}

static bool read_indexes(PGconn *conn, struct facts *x, struct buf *oids, struct fault *f)
{
	PGresult *r = query_oids(conn,
		"SELECT i.indrelid, i.indexrelid, c.relname, i.indisprimary, i.indisreplident, "
		"i.indisunique AND NOT i.indisexclusion, i.indimmediate, "
		"i.indisvalid AND i.indisready, i.indpred IS NOT NULL, i.indexprs IS NOT NULL, "
		"NOT EXISTS (SELECT FROM pg_catalog.unnest(i.indcollation::oid[]) u (oid) JOIN "
		"pg_catalog.pg_collation l ON l.oid = u.oid WHERE NOT l.collisdeterministic), "
		"i.indkey::text, i.indnkeyatts, coalesce(ri.indrelid, 0), coalesce(ri.indexrelid, 0) "
		"FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid "
		"LEFT JOIN pg_catalog.pg_index ri ON c.relispartition AND "
		"ri.indexrelid = pg_catalog.pg_partition_root(i.indexrelid) "
		"WHERE i.indrelid = ANY($1::oid[]) AND (i.indisunique OR i.indisexclusion) AND "
		"i.indislive ORDER BY i.indrelid, i.indexrelid", oids, f);
	if (!r)
		return false;
	for (int i = 0, n; i < PQntuples(r); i += n) {
		uint32_t oid = (uint32_t)pg_i64(r, i, 0);
		struct facts_table *t = facts_find(x, oid);
		n = run_length(r, i);
		t = t ? t : facts_find_root(x, oid);
		if (!t)
			continue;
		t->indexes = facts_many(x, (size_t)n, sizeof(*t->indexes));
		t->index_count = t->indexes ? (size_t)n : 0;
		for (size_t j = 0; j < t->index_count; j++)
			take_index(x, t, &t->indexes[j], r, i + (int)j);
	}
	PQclear(r);
	return true;
}

/* Domains down to their base type; only the innermost domain can have a modifier. */
static bool read_types(PGconn *conn, struct facts *x, struct buf *oids, struct fault *f)
{
	PGresult *r = query_oids(conn,
		"WITH RECURSIVE d AS (SELECT t.oid AS top, t.oid, t.typtype, t.typbasetype, "
		"t.typtypmod, -1 AS typmod FROM pg_catalog.pg_type t WHERE t.oid = ANY($1::oid[]) "
		"UNION ALL SELECT d.top, t.oid, t.typtype, t.typbasetype, t.typtypmod, d.typtypmod "
		"FROM d JOIN pg_catalog.pg_type t ON d.typtype = 'd' AND t.oid = d.typbasetype) "
		/* With a modifier of -1, not NULL: NULL says "character", and a cast to that cuts. */
		"SELECT top, oid, typmod, typtype = 'e', pg_catalog.format_type(top, -1) FROM d "
		"WHERE typtype <> 'd' ORDER BY top", oids, f);
	if (!r)
		return false;
	x->type_count = (size_t)PQntuples(r);
	x->types = facts_many(x, x->type_count, sizeof(*x->types));
	for (int i = 0; x->types && i < PQntuples(r); i++)
		x->types[i] = (struct facts_type) {
			.oid = (uint32_t)pg_i64(r, i, 0),
			.base_oid = (uint32_t)pg_i64(r, i, 1),
			.typmod = (int32_t)pg_i64(r, i, 2),
			.is_enum = field_bool(r, i, 3),
			.name = field(x, r, i, 4),
		};
	PQclear(r);
	return true;
}

static void write_type_oids(const struct facts *x, const struct pgoutput_relation *message,
			    struct buf *out)
{
	char comma = '{';

	for (size_t i = 0; i < x->table_count; i++)
		for (size_t j = 0; j < x->tables[i].column_count; j++, comma = ',')
			buf_printf(out, "%c%u", comma, x->tables[i].columns[j].type_oid);
	for (size_t i = 0; message && i < message->column_count; i++, comma = ',')
		buf_printf(out, "%c%u", comma, message->columns[i].type_oid);
	buf_str(out, comma == '{' ? "{}" : "}");
}

static void collect_roots(struct facts *x)
{
	uint32_t *oids = facts_many(x, x->table_count, sizeof(*oids));
	size_t n = 0;

	for (size_t i = 0; oids && i < x->table_count; i++)
		if (x->tables[i].is_leaf)
			oids[n++] = x->tables[i].root_oid;
	x->roots = facts_many(x, n, sizeof(*x->roots));
	if (!oids || !x->roots)
		return;
	qsort(oids, n, sizeof(*oids), compare_oid);
	for (size_t i = 0; i < n; i++)
		if (i == 0 || oids[i] != oids[i - 1])
			x->roots[x->root_count++] = (struct facts_table) { .oid = oids[i] };
}

/* The columns of roots are not read: whether an index of a root is usable is never asked. */
bool facts_read_details(PGconn *conn, struct facts *x, const struct pgoutput_relation *message,
			 struct fault *f)
{
	struct buf oids;
	bool ok;

	buf_init(&oids, LIST_BYTES);
	collect_roots(x);
	write_oids(x, false, &oids);
	ok = read_columns(conn, x, &oids, f);
	buf_reset(&oids);
	write_oids(x, true, &oids);
	ok = ok && read_indexes(conn, x, &oids, f);
	buf_reset(&oids);
	write_type_oids(x, message, &oids);
	ok = ok && read_types(conn, x, &oids, f);
	buf_release(&oids);
	if (ok && arena_failed(x->a))
		return fault(f, FAULT_INTERNAL, "no memory for the source's catalog");
	return ok;
}
