// SPDX-License-Identifier: Apache-2.0
#include "reconcile/digest.h"

enum { SQL_BYTES = 16 << 20 };

/* Type OIDs are frozen in PostgreSQL: src/include/catalog/pg_type.dat. */
enum {
	OID_BOOL = 16,
	OID_BYTEA = 17,
	OID_INT8 = 20,
	OID_INT2 = 21,
	OID_INT4 = 23,
	OID_TEXT = 25,
	OID_OID = 26,
	OID_VARCHAR = 1043,
	OID_DATE = 1082,
	OID_TIME = 1083,
	OID_TIMESTAMP = 1114,
	OID_TIMESTAMPTZ = 1184,
	OID_NUMERIC = 1700,
	OID_UUID = 2950,
};

/* Equality is identity, the hash is of the value, and it is the same in all versions we talk to.
 * has_order: the order is the same everywhere, too. hash, is_seed: see digest.h. */
static const struct exact_type {
	uint32_t oid;
	bool has_order, is_seed;
	const char *hash;
} exact_types[] = {
	{ OID_BOOL, false, false, NULL },
	{ OID_BYTEA, true, false, NULL },
	{ OID_INT8, true, true, "hashint8extended" },
	{ OID_INT2, true, true, "hashint8extended" },
	{ OID_INT4, true, true, "hashint8extended" },
	{ OID_OID, true, false, "hashoidextended" },
	{ OID_DATE, true, false, NULL },
	{ OID_TIME, false, false, NULL },
	{ OID_TIMESTAMP, true, false, NULL },
	{ OID_TIMESTAMPTZ, true, false, NULL },
	{ OID_UUID, true, false, "uuid_hash_extended" },
};

static const struct exact_type *exact_type(uint32_t oid)
{
	for (size_t i = 0; i < sizeof(exact_types) / sizeof(*exact_types); i++)
		if (exact_types[i].oid == oid)
			return &exact_types[i];
	return NULL;
}

static bool is_text(uint32_t oid)
{
	return oid == OID_TEXT || oid == OID_VARCHAR;
}

static bool is_integer(uint32_t oid)
{
	return oid == OID_INT2 || oid == OID_INT4 || oid == OID_INT8;
}

static bool is_same_type(const struct side_column *a, const struct side_column *b)
{
	return span_eq(a->base_name, b->base_name);
}

/* ---- forms of a value ---- */

/* IS DISTINCT FROM NULL: of a composite, IS NULL asks its fields. */
void digest_write_text(struct span value, struct buf *out)
{
	buf_printf(out, "CASE WHEN %.*s IS DISTINCT FROM NULL THEN pg_catalog.concat(%.*s) END",
		   SPAN_ARG(value), SPAN_ARG(value));
}

/* type: of the target. */
static void write_form(struct span value, const struct side_column *type, bool as_text,
		       struct buf *out)
{
	const struct exact_type *exact = as_text ? NULL : exact_type(type->base_oid);

	if (is_text(type->base_oid) || type->base_oid == OID_NUMERIC) {
		buf_printf(out, "(%.*s)::pg_catalog.text COLLATE pg_catalog.\"C\"", SPAN_ARG(value));
	} else if (exact) {
		buf_printf(out, "(%.*s)::%.*s", SPAN_ARG(value), SPAN_ARG(type->exact));
	} else {
		buf_str(out, "(");
		digest_write_text(value, out);
		buf_str(out, ") COLLATE pg_catalog.\"C\"");
	}
}

/*
 * The value that a source's column becomes on the target. Same type: as it is, but for the typmod.
 * Another one: it travels as text, which the target's input function reads. Not here: false.
 */
static bool write_direct(struct span column, const struct side_column *s,
			 const struct side_column *t, struct buf *out)
{
	struct buf name;
	bool ok = true;

	buf_init(&name, 4096);
	pg_quote_ident(&name, column);
	if (is_same_type(s, t) || (is_text(s->base_oid) && is_text(t->base_oid))) {
		if (t->is_builtin && !is_text(t->base_oid) && !span_eq(s->exact, t->exact))
			buf_printf(out, "(%.*s)::%.*s", SPAN_ARG(buf_span(&name)), SPAN_ARG(t->exact));
		else
			buf_add_span(out, buf_span(&name));
	} else if (is_integer(s->base_oid) && is_integer(t->base_oid)) {
		buf_printf(out, "(%.*s)::%.*s", SPAN_ARG(buf_span(&name)), SPAN_ARG(t->exact));
	} else if (t->is_builtin) {
		buf_str(out, "(");
		digest_write_text(buf_span(&name), out);
		buf_str(out, ")");
		if (!is_text(t->base_oid))
			buf_printf(out, "::%.*s", SPAN_ARG(t->exact));
	} else if (t->typtype == 'e' || t->category == 'S') {
		buf_add_span(out, buf_span(&name));
	} else {
		ok = false;
	}
	buf_release(&name);
	return ok;
}

/* The line end keeps a comment in the expression from reaching further. */
static bool write_computed(struct span sql, const struct side_column *t, struct buf *out)
{
	if (!t->is_builtin && t->typtype != 'e' && t->category != 'S')
		return false;
	buf_printf(out, "(%.*s\n)", SPAN_ARG(sql));
	if (t->is_builtin && is_text(t->base_oid))
		buf_str(out, "::pg_catalog.text");
	else if (t->is_builtin)
		buf_printf(out, "::%.*s", SPAN_ARG(t->exact));
	return true;
}

/* ---- making ---- */

struct maker {
	const struct relation *rel;
	const struct side *source, *target;
	struct arena *a;
	struct digest *d;
	struct buf value, out;
	struct fault *f;
};

static struct span keep(struct maker *k, const struct buf *b)
{
	if (buf_failed(b))
		k->a->failed = true;
	return arena_dup(k->a, buf_span(b));
}

static void add_forms(struct maker *k, enum digest_server server, struct span value,
		      const struct side_column *type, struct digest_column *c)
{
	buf_reset(&k->out);
	write_form(value, type, false, &k->out);
	c->form[server] = keep(k, &k->out);
	buf_reset(&k->out);
	write_form(value, type, true, &k->out);
	c->text[server] = keep(k, &k->out);
}

static bool missing(struct maker *k, const char *where, struct span schema, struct span table,
		    struct span column)
{
	return fault(k->f, FAULT_STOP, "%s: %.*s.%.*s has no column \"%.*s\"", where, SPAN_ARG(schema),
		     SPAN_ARG(table), SPAN_ARG(column));
}

/* s: NULL: an expression. */
static bool add_column(struct maker *k, struct span name, const struct side_column *s, struct span sql,
		       bool is_key)
{
	const struct side_column *t = side_column(k->target, name);
	struct digest_column *c = &k->d->columns[k->d->column_count];
	const struct exact_type *exact;

	if (!t)
		return missing(k, "target", k->rel->target_schema, k->rel->target_table, name);
	buf_reset(&k->value);
	if (t->is_generated ||
	    !(s ? write_direct(s->name, s, t, &k->value) : write_computed(sql, t, &k->value))) {
		if (is_key)
			return fault(k->f, FAULT_STOP,
				     "%.*s: key column \"%.*s\" cannot be computed on the source: its "
				     "type %.*s is not there",
				     SPAN_ARG(k->d->label), SPAN_ARG(name), SPAN_ARG(t->full));
		k->d->skipped[k->d->skipped_count++] = name;
		return true;
	}
	exact = exact_type(t->base_oid);
	*c = (struct digest_column) { .name = name, .is_key = is_key, .hash = exact ? exact->hash : "hashtextextended",
				      .is_seed = exact && exact->is_seed };
	add_forms(k, DIGEST_SOURCE, keep(k, &k->value), t, c);
	buf_reset(&k->value);
	pg_quote_ident(&k->value, name);
	add_forms(k, DIGEST_TARGET, keep(k, &k->value), t, c);
	k->d->column_count++;
	k->d->key_count += is_key;
	return true;
}

/* Does a key column print the same on both, so that the stream's key can be made of it? */
static bool keeps_key(const struct side_column *s, const struct side_column *t)
{
	return span_eq(s->exact, t->exact) || (is_integer(s->base_oid) && is_integer(t->base_oid)) ||
	       (is_text(s->base_oid) && is_text(t->base_oid)) ||
	       (s->base_oid == OID_NUMERIC && t->base_oid == OID_NUMERIC);
}

static void choose_range(struct maker *k, const struct side_column *s, const struct side_column *t)
{
	struct digest *d = k->d;
	const struct exact_type *type = exact_type(t->base_oid);

	if (d->range_column[0].p || !type || !type->has_order || !s->leads_index || !t->leads_index ||
	    !(s->base_oid == t->base_oid || (is_integer(s->base_oid) && is_integer(t->base_oid))))
		return;
	buf_reset(&k->value);
	pg_quote_ident(&k->value, s->name);
	d->range_column[DIGEST_SOURCE] = keep(k, &k->value);
	buf_reset(&k->value);
	pg_quote_ident(&k->value, t->name);
	d->range_column[DIGEST_TARGET] = keep(k, &k->value);
	d->range_is_counted = is_integer(s->base_oid);
	d->range_type[DIGEST_SOURCE] = s->exact;
	d->range_type[DIGEST_TARGET] = t->exact;
}

static bool add_columns(struct maker *k)
{
	const struct relation *rel = k->rel;

	for (size_t i = 0; i < rel->column_count; i++) {
		const struct column *c = &rel->columns[i];
		const struct side_column *s = side_column(k->source, c->name), *t;

		if (!s && (c->target.p || c->is_key))
			return missing(k, "source", rel->root_schema, rel->root_table, c->name);
		if (!c->target.p) {
			k->d->has_stream_key = k->d->has_stream_key && !c->is_key;
			continue;
		}
		if (!add_column(k, c->target, s, span(NULL, 0), c->is_key))
			return false;
		t = side_column(k->target, c->target);
		if (c->is_key && !keeps_key(s, t))
			k->d->has_stream_key = false;
		if (c->is_key)
			choose_range(k, s, t);
	}
	for (size_t i = 0; i < rel->computed_count; i++) {
		const struct computed *c = &rel->computed[i];

		if (!add_column(k, c->column, NULL, c->as.sql, c->is_key))
			return false;
		if (c->is_key)
			k->d->has_stream_key = false;
	}
	return true;
}

static struct span name_table(struct maker *k, bool is_partitioned, struct span schema,
			      struct span table)
{
	buf_reset(&k->out);
	/* Inheritance: its children are tables of their own. */
	buf_str(&k->out, is_partitioned ? "" : "ONLY ");
	pg_quote_table(&k->out, schema, table);
	return keep(k, &k->out);
}

static void add_tables(struct maker *k)
{
	const struct relation *rel = k->rel;
	const struct side_column *origin;

	k->d->from[DIGEST_SOURCE] =
	    name_table(k, k->source->is_partitioned, rel->root_schema, rel->root_table);
	k->d->from[DIGEST_TARGET] =
	    name_table(k, k->target->is_partitioned, rel->target_schema, rel->target_table);
	if (rel->filter.sql.p) {
		buf_reset(&k->out);
		buf_printf(&k->out, "(%.*s\n)", SPAN_ARG(rel->filter.sql));
		k->d->where[DIGEST_SOURCE] = keep(k, &k->out);
	}
	origin = rel->origin_column.p ? side_column(k->target, rel->origin_column) : NULL;
	if (origin) {
		buf_reset(&k->out);
		pg_quote_ident(&k->out, origin->name);
		buf_str(&k->out, " = ");
		pg_quote_literal(&k->out, rel->origin_value);
		buf_printf(&k->out, "::%.*s", SPAN_ARG(origin->full));
		k->d->where[DIGEST_TARGET] = keep(k, &k->out);
	}
}

bool digest_make(const struct relation *rel, const struct side *source, const struct side *target,
		 struct arena *a, struct digest *ret, struct fault *f)
{
	size_t most = rel->column_count + rel->computed_count;
	struct maker k = { .rel = rel, .source = source, .target = target, .a = a, .d = ret, .f = f };
	bool ok;

	*ret = (struct digest) {
		.rel = rel,
		.source = source,
		.target = target,
		.label = span_str(arena_printf(a, "%.*s.%.*s", SPAN_ARG(rel->target_schema),
					       SPAN_ARG(rel->target_table))),
		.columns = arena_alloc(a, most * sizeof(*ret->columns) + 1),
		.skipped = arena_alloc(a, most * sizeof(*ret->skipped) + 1),
		.is_keyless = rel->keyless,
		.has_stream_key = !rel->keyless,
		.has_writers = !rel->keyless && target->has_commit_times,
	};
	if (arena_failed(a))
		return fault(f, FAULT_INTERNAL, "no memory for the columns of a table");
	buf_init(&k.value, SQL_BYTES);
	buf_init(&k.out, SQL_BYTES);
	ok = add_columns(&k);
	ret->range_is_counted = ret->range_is_counted && ret->key_count == 1 && rel->key_count == 1;
	if (ok && rel->origin_column.p && !side_column(target, rel->origin_column))
		ok = missing(&k, "target", rel->target_schema, rel->target_table, rel->origin_column);
	if (ok)
		add_tables(&k);
	buf_release(&k.value);
	buf_release(&k.out);
	return ok && (!arena_failed(a) || fault(f, FAULT_INTERNAL, "no memory for the SQL of a table"));
}

bool digest_same_source(const struct digest *a, const struct digest *b)
{
	if (a->column_count != b->column_count || !span_eq(a->from[DIGEST_SOURCE], b->from[DIGEST_SOURCE]) ||
	    !span_eq(a->where[DIGEST_SOURCE], b->where[DIGEST_SOURCE]))
		return false;
	for (size_t i = 0; i < a->column_count; i++)
		if (!span_eq(a->columns[i].form[DIGEST_SOURCE], b->columns[i].form[DIGEST_SOURCE]))
			return false;
	return true;
}

/* ---- keys ---- */

/* One element of an array literal from *p on; *ret absent: NULL. */
static bool read_part(const char **p, const char *end, struct arena *a, struct span *ret)
{
	bool is_quoted = *p < end && **p == '"';
	char *text = arena_alloc(a, (size_t)(end - *p) + 1);
	size_t n = 0;

	if (!text)
		return false;
	*p += is_quoted;
	for (; *p < end && (is_quoted ? **p != '"' : **p != ',' && **p != '}'); ++*p) {
		if (**p == '\\' && is_quoted && *p + 1 < end)
			++*p;
		text[n++] = **p;
	}
	if (*p >= end)
		return false;
	*p += is_quoted;
	*ret = span(!is_quoted && n == 4 && memcmp(text, "NULL", 4) == 0 ? NULL : text, n);
	return *p < end;
}

bool digest_key_parts(struct span key, struct arena *a, struct span *parts, size_t max,
		      size_t *ret_count)
{
	const char *p = key.p, *end = key.p + key.n;

	*ret_count = 0;
	if (key.n < 2 || *p != '{')
		return false;
	while (*ret_count < max) {
		p++;
		if (!read_part(&p, end, a, &parts[(*ret_count)++]))
			return false;
		if (*p != ',')
			return *p == '}' && p + 1 == end;
	}
	return false;
}
