// SPDX-License-Identifier: Apache-2.0
#include "reconcile/narrow.h"

#include <stdlib.h>

enum { SQL_BYTES = 256 << 20 };

/* Type OIDs are frozen in PostgreSQL: src/include/catalog/pg_type.dat. */
static const struct family {
	uint32_t oid;
	const char *compared_as;
} families[] = {
	{ 21, "int8" },      { 23, "int8" },         { 20, "int8" }, { 25, "text" },
	{ 1043, "text" },    { 1082, "date" },       { 1114, "timestamp" },
	{ 1184, "timestamptz" }, { 1700, "numeric" }, { 2950, "uuid" },
};

static const char *compared_as(const struct side_column *c)
{
	for (size_t i = 0; c && i < sizeof(families) / sizeof(*families); i++)
		if (families[i].oid == c->base_oid)
			return families[i].compared_as;
	return NULL;
}

static int compare(const void *a, const void *b)
{
	return span_cmp(*(const struct span *)a, *(const struct span *)b);
}

/* The values of a column, each once, as an array's text. False: one is NULL, or no text (a corrupt key). */
static bool write_values(const struct touched_key *keys, size_t n, size_t part, struct span *scratch,
			 struct buf *out)
{
	pg_array_begin(out);
	for (size_t i = 0; i < n; i++) {
		scratch[i] = keys[i].parts[part];
		if (!scratch[i].p || !span_is_utf8(scratch[i]))
			return false;
	}
	qsort(scratch, n, sizeof(*scratch), compare);
	for (size_t i = 0; i < n; i++)
		if (!i || !span_eq(scratch[i], scratch[i - 1]))
			pg_array_add(out, scratch[i]);
	pg_array_end(out);
	return true;
}

static void add_condition(struct buf *out, struct span column, struct span values, const char *type)
{
	if (buf_span(out).n)
		buf_str(out, " AND ");
	pg_quote_ident(out, column);
	buf_str(out, " = ANY (");
	pg_quote_literal(out, values);
	buf_printf(out, "::pg_catalog.%s[])", type);
}

static bool add_column(const struct digest *d, const struct column *c, const struct touched_key *keys,
		       size_t n, size_t part, struct span *scratch, struct buf out[2])
{
	const struct side_column *s = side_column(d->source, c->name);
	const struct side_column *t = c->target.p ? side_column(d->target, c->target) : NULL;
	const char *type = compared_as(s), *other = compared_as(t);
	struct buf values;
	bool ok;

	if (!type || !other || strcmp(type, other) != 0)
		return true;
	buf_init(&values, SQL_BYTES);
	if (write_values(keys, n, part, scratch, &values)) {
		add_condition(&out[DIGEST_SOURCE], s->name, buf_span(&values), type);
		add_condition(&out[DIGEST_TARGET], t->name, buf_span(&values), type);
	}
	ok = !buf_failed(&values);
	buf_release(&values);
	return ok;
}

static struct span keep(const struct buf *b, struct arena *a)
{
	return buf_span(b).n ? arena_dup(a, buf_span(b)) : span(NULL, 0);
}

bool narrow(const struct digest *d, const struct touched_key *keys, size_t n, size_t part_count,
	    struct arena *a, struct span ret[2])
{
	struct span *scratch = arena_alloc(a, n * sizeof(*scratch) + 1);
	struct touched_part parts[TOUCHED_PARTS_MAX];
	size_t count = touched_parts(d->rel, parts);
	struct buf out[2];
	bool ok = scratch != NULL;

	buf_init(&out[0], SQL_BYTES);
	buf_init(&out[1], SQL_BYTES);
	/* Keys of a version with other key columns: not by key. */
	for (size_t i = 0; ok && count == part_count && i < count; i++)
		ok = add_column(d, &d->rel->columns[parts[i].column], keys, n, i, scratch, out);
	ok = ok && !buf_failed(&out[0]) && !buf_failed(&out[1]);
	ret[0] = ok ? keep(&out[0], a) : span(NULL, 0);
	ret[1] = ok ? keep(&out[1], a) : span(NULL, 0);
	buf_release(&out[0]);
	buf_release(&out[1]);
	return ok && !arena_failed(a);
}
