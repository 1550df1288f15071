// SPDX-License-Identifier: Apache-2.0
/* The statements of digest.h: from what digest_make has put together, and a plan. */
#include <inttypes.h>

#include "reconcile/digest.h"

/* The texts of the key's columns. */
static void write_key_texts(const struct digest_plan *p, struct buf *out)
{
	bool is_first = true;

	for (size_t i = 0; i < p->digest->column_count; i++) {
		const struct digest_column *c = &p->digest->columns[i];

		if (!c->is_key)
			continue;
		buf_str(out, is_first ? "" : ", ");
		is_first = false;
		buf_add_span(out, c->text[p->server]);
	}
}

/* Seeds that are far from each other: by the golden ratio of 2^64. */
static int64_t column_seed(const struct digest_plan *p, size_t column)
{
	return (int64_t)((uint64_t)p->seed + (column + 1) * UINT64_C(0x9e3779b97f4a7c15));
}

/* Has a value for NULL, too. */
static void write_column_hash(const struct digest_plan *p, size_t column, struct buf *out)
{
	const struct digest_column *c = &p->digest->columns[column];
	struct span form = c->form[p->server];
	int64_t seed = column_seed(p, column);

	if (!c->hash)
		buf_printf(out, "pg_catalog.hash_array_extended(ARRAY[%.*s], %" PRId64 ")", SPAN_ARG(form), seed);
	else if (c->is_seed)
		buf_printf(out, "COALESCE(pg_catalog.%s(%" PRId64 ", %.*s), %" PRId64 ")", c->hash, seed, SPAN_ARG(form), seed);
	else
		buf_printf(out, "COALESCE(pg_catalog.%s(%.*s, %" PRId64 "), %" PRId64 ")", c->hash, SPAN_ARG(form), seed, seed);
}

static void write_hash(const struct digest_plan *p, bool keys_only, struct buf *out)
{
	bool is_first = true;

	buf_printf(out, "pg_catalog.hashint8extended(%" PRId64 ", ", p->seed);
	for (size_t i = 0; i < p->digest->column_count; i++) {
		if (keys_only && !p->digest->columns[i].is_key)
			continue;
		buf_str(out, is_first ? "" : " # ");
		is_first = false;
		write_column_hash(p, i, out);
	}
	buf_str(out, is_first ? "0)" : ")");
}

/* The leaf, of a row whose digest is h, its key's k. */
static void write_leaf(const struct digest_plan *p, struct buf *out)
{
	if (p->digest->is_keyless)
		buf_str(out, "h");
	else
		buf_str(out, "k");
	buf_printf(out, " & %" PRId64, p->mask);
}

static void write_key(const struct digest_plan *p, struct buf *out)
{
	if (p->digest->is_keyless) {
		buf_str(out, "(");
		write_hash(p, false, out);
		buf_str(out, ")::pg_catalog.text");
		return;
	}
	buf_str(out, "(ARRAY[");
	write_key_texts(p, out);
	buf_str(out, "])::pg_catalog.text");
}

static void write_bound(const struct digest_plan *p, const char *operator, struct span value,
			struct buf * out)
{
	buf_add_span(out, p->digest->range_column[p->server]);
	buf_str(out, operator);
	pg_quote_literal(out, value);
	buf_printf(out, "::%.*s", SPAN_ARG(p->digest->range_type[p->server]));
}

/* The range as " WHERE …" or "" */
static void write_where(const struct digest_plan *p, struct buf *out)
{
	struct span filter = p->digest->where[p->server];
	const char *word = " WHERE ";

	if (filter.p) {
		buf_printf(out, " WHERE %.*s", SPAN_ARG(filter));
		word = " AND ";
	}
	if (p->range.from.p) {
		buf_str(out, word);
		word = " AND ";
		buf_str(out, "(");
		write_bound(p, " >= ", p->range.from, out);
		if (!p->range.to.p)
			buf_printf(out, " OR %.*s IS NULL",
				   SPAN_ARG(p->digest->range_column[p->server]));
		buf_str(out, ")");
	}
	if (p->range.to.p) {
		buf_str(out, word);
		word = " AND ";
		write_bound(p, " < ", p->range.to, out);
	}
	if (p->near.p)
		buf_printf(out, "%s%.*s", word, SPAN_ARG(p->near));
}

static void write_from(const struct digest_plan *p, struct buf *out)
{
	buf_printf(out, " FROM %.*s", SPAN_ARG(p->digest->from[p->server]));
	write_where(p, out);
}

/* The first row goes out when all are grouped. */
static const char took_sql[] =
    "(EXTRACT(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.statement_timestamp()) * 1000000)::pg_catalog.int8";

/* All rows as one, each hash used once. */
static void write_sum(const struct digest_plan *p, struct buf *out)
{
	buf_str(out, "SELECT 0, pg_catalog.count(*), pg_catalog.bit_xor(");
	write_hash(p, false, out);
	buf_printf(out, "), 0, %s", took_sql);
	write_from(p, out);
}

/* OFFSET 0 keeps the two selects apart: a hash that is used twice is computed once, and the planner does not take the
 * leaves for as many as the rows, which it would sort on disk. */
void digest_survey(const struct digest_plan *p, struct buf *out)
{
	bool is_keyless = p->digest->is_keyless;

	if (!p->mask && !is_keyless) {
		write_sum(p, out);
		return;
	}
	buf_str(out, "SELECT ");
	write_leaf(p, out);
	buf_printf(out, ", pg_catalog.count(*), pg_catalog.bit_xor(h), %s, %s FROM (SELECT ",
		   is_keyless ? "pg_catalog.sum(h)" : "0", took_sql);
	write_hash(p, false, out);
	buf_str(out, " AS h");
	if (!is_keyless) {
		buf_str(out, ", ");
		write_hash(p, true, out);
		buf_str(out, " AS k");
	}
	write_from(p, out);
	buf_str(out, " OFFSET 0) AS q GROUP BY 1");
}

void digest_drill(const struct digest_plan *p, const int64_t *leaves, size_t n, struct buf *out)
{
	buf_str(out, p->digest->is_keyless ? "SELECT t, h, pg_catalog.count(*) FROM (SELECT "
					   : "SELECT t, h, 1 FROM (SELECT ");
	write_hash(p, false, out);
	buf_str(out, " AS h, ");
	write_key(p, out);
	buf_str(out, " AS t");
	if (!p->digest->is_keyless) {
		buf_str(out, ", ");
		write_hash(p, true, out);
		buf_str(out, " AS k");
	}
	write_from(p, out);
	buf_str(out, ") AS q WHERE ");
	write_leaf(p, out);
	buf_str(out, " = ANY ('{");
	for (size_t i = 0; i < n; i++)
		buf_printf(out, "%s%" PRId64, i ? "," : "", leaves[i]);
	buf_str(out, p->digest->is_keyless ? "}'::pg_catalog.int8[]) GROUP BY 1, 2"
					   : "}'::pg_catalog.int8[])");
}

/* By the origin of the transaction that wrote the row: our lanes have one each. Where one of them could not get one
 * (shadow/origin.h leaves a mark), or none has, nobody knows. */
static const char writer_sql[] =
    ", (SELECT CASE WHEN o.roname LIKE 'foreshadow\\_%' THEN 'foreshadow'"
    "   WHEN EXISTS (SELECT FROM pg_catalog.pg_replication_origin WHERE roname = 'foreshadow_incomplete')"
    "    OR NOT EXISTS (SELECT FROM pg_catalog.pg_replication_origin WHERE roname LIKE 'foreshadow\\_%') THEN 'unknown'"
    "   ELSE 'foreign' END"
    "  FROM pg_catalog.pg_xact_commit_timestamp_origin(w) AS c"
    "  LEFT JOIN pg_catalog.pg_replication_origin o ON o.roident = c.roident WHERE c.roident IS NOT NULL)"
    ", (SELECT pg_catalog.to_char(c.timestamp AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
    "  FROM pg_catalog.pg_xact_commit_timestamp_origin(w) AS c)";

/* key, count, texts FROM (… AS t, c1, c2 … from) */
static void write_rows(const struct digest_plan *p, struct span from, struct buf *out)
{
	bool is_keyless = p->digest->is_keyless;
	bool has_writer = p->digest->has_writers && p->server == DIGEST_TARGET && !from.p;

	buf_str(out, is_keyless ? "SELECT t, pg_catalog.count(*)" : "SELECT t, 1");
	for (size_t i = 0; i < p->digest->column_count; i++)
		buf_printf(out, is_keyless ? ", pg_catalog.min(c%zu)" : ", c%zu", i);
	if (has_writer)
		buf_str(out, writer_sql);
	buf_str(out, " FROM (SELECT ");
	write_key(p, out);
	buf_str(out, " AS t");
	for (size_t i = 0; i < p->digest->column_count; i++)
		buf_printf(out, ", %.*s AS c%zu", SPAN_ARG(p->digest->columns[i].text[p->server]), i);
	if (has_writer)
		buf_str(out, ", xmin AS w");
	if (from.p) {
		struct digest_plan whole = *p;

		whole.range = (struct digest_range) { 0 };
		whole.near = span(NULL, 0);
		buf_printf(out, " FROM %.*s", SPAN_ARG(from));
		write_where(&whole, out);
	} else {
		write_from(p, out);
	}
	buf_str(out, ") AS q");
}

void digest_rows(const struct digest_plan *p, struct buf *out)
{
	write_rows(p, span(NULL, 0), out);
	buf_str(out, " WHERE pg_catalog.textsend(t) = ANY ($1::pg_catalog.bytea[])");
	buf_str(out, p->digest->is_keyless ? " GROUP BY 1" : "");
}

void digest_image(const struct digest_plan *p, struct span from, struct buf *out)
{
	write_rows(p, from, out);
	buf_str(out, p->digest->is_keyless ? " GROUP BY 1" : "");
}

void digest_step(const struct digest_plan *p, int64_t count, struct buf *out)
{
	struct span column = p->digest->range_column[p->server];

	buf_printf(out, "SELECT %.*s FROM %.*s WHERE %.*s IS NOT NULL", SPAN_ARG(column),
		   SPAN_ARG(p->digest->from[p->server]), SPAN_ARG(column));
	if (p->range.from.p) {
		buf_str(out, " AND ");
		write_bound(p, " > ", p->range.from, out);
	}
	buf_printf(out, " ORDER BY 1 OFFSET %" PRId64 " LIMIT 1", count);
}

void digest_reach(const struct digest_plan *p, int64_t reach, struct buf *out)
{
	struct span column = p->digest->range_column[p->server];

	buf_str(out, "SELECT v FROM (SELECT ");
	pg_quote_literal(out, p->range.from);
	buf_printf(out, "::pg_catalog.numeric + %" PRId64 " AS v) AS q WHERE v <= (SELECT pg_catalog.max(%.*s) FROM %.*s)",
		   reach, SPAN_ARG(column), SPAN_ARG(p->digest->from[p->server]));
}

/* ---- the source's own rows ---- */

/* What the column's output function prints. */
static void write_own(const struct column *c, struct buf *out)
{
	struct buf name;

	buf_init(&name, 4096);
	pg_quote_ident(&name, c->name);
	digest_write_text(buf_span(&name), out);
	buf_release(&name);
}

void digest_source_keys(const struct digest_plan *p, struct buf *out)
{
	const struct relation *rel = p->digest->rel;

	buf_str(out, "SELECT * FROM (SELECT ");
	write_key(p, out);
	buf_str(out, " AS \"the key\"");
	for (size_t i = 0; i < rel->column_count; i++)
		if (rel->columns[i].is_key) {
			buf_str(out, ", ");
			write_own(&rel->columns[i], out);
			buf_printf(out, " AS k%zu", i);
		}
	write_from(p, out);
	buf_str(out, ") AS q WHERE \"the key\" = ANY ($1::pg_catalog.text[])");
}

void digest_source_casts(const struct digest_plan *p, struct buf *out)
{
	const struct relation *rel = p->digest->rel;
	size_t n = 0;

	buf_str(out, "SELECT ");
	for (size_t i = 0; i < rel->column_count; i++)
		if (rel->columns[i].is_key) {
			buf_printf(out, "%s$%zu::pg_catalog.text::%.*s", n ? ", " : "", n + 1,
				   SPAN_ARG(side_column(p->digest->source, rel->columns[i].name)->base_name));
			n++;
		}
}

/* Operators of other types than these are in schemas that are not searched; the type's own one is asked for then. */
static bool has_plain_equality(const struct side_column *s)
{
	return s->is_builtin || s->typtype != 'b' || s->category == 'A';
}

static void write_own_match(const struct column *c, const struct side_column *s, size_t number, struct buf *out)
{
	bool is_plain = has_plain_equality(s);

	if (!is_plain)
		buf_str(out, "pg_catalog.record_eq(ROW((");
	pg_quote_ident(out, c->name);
	if (!is_plain)
		buf_printf(out, ")::%.*s)", SPAN_ARG(s->base_name));
	buf_printf(out, "%s\"the keys\".k%zu::%.*s", is_plain ? " = " : ", ROW(", number, SPAN_ARG(s->base_name));
	if (!is_plain && c->collation.p)
		buf_printf(out, " COLLATE %.*s", SPAN_ARG(c->collation));
	buf_str(out, is_plain ? "" : "))");
}

void digest_source_rows(const struct digest_plan *p, struct buf *out)
{
	const struct relation *rel = p->digest->rel;
	size_t n = 0;

	buf_str(out, "SELECT n, v::pg_catalog.text FROM unnest(");
	for (size_t i = 0; i < rel->key_count; i++)
		buf_printf(out, "%s$%zu::pg_catalog.text[]", i ? ", " : "", i + 1);
	buf_str(out, ") WITH ORDINALITY AS \"the keys\"(");
	for (size_t i = 0; i < rel->key_count; i++)
		buf_printf(out, "k%zu, ", i + 1);
	buf_str(out, "n), LATERAL (SELECT ARRAY[");
	for (size_t i = 0; i < rel->column_count; i++) {
		buf_str(out, i ? ", " : "");
		if (rel->columns[i].is_dropped)
			buf_str(out, "NULL");
		else
			write_own(&rel->columns[i], out);
	}
	buf_str(out, "]::pg_catalog.text[] AS v");
	write_from(p, out);
	for (size_t i = 0; i < rel->column_count; i++)
		if (rel->columns[i].is_key) {
			buf_str(out, n == 0 && !p->digest->where[p->server].p ? " WHERE " : " AND ");
			write_own_match(&rel->columns[i], side_column(p->digest->source, rel->columns[i].name), ++n, out);
		}
	buf_str(out, ") AS r");
}
