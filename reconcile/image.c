// SPDX-License-Identifier: Apache-2.0
#include "reconcile/image.h"

#include <stdlib.h>

enum { SQL_BYTES = 512 << 20, KEY_BYTES = 64 << 20 };

void image_init(struct image_maker *k, struct ends *ends, const struct digest *d, int64_t seed,
		struct arena *a)
{
	*k = (struct image_maker) { ends, d, seed, a };
}

static bool no_memory(struct fault *f)
{
	return fault(f, FAULT_INTERNAL, "no memory for a row of the stream");
}

/* ---- keys ---- */

static bool stream_key(struct image_maker *k, struct span key, struct buf *out)
{
	const struct relation *rel = k->digest->rel;
	struct span *parts = arena_alloc(k->a, (rel->key_count + 1) * sizeof(*parts));
	struct value *values = arena_alloc(k->a, rel->column_count * sizeof(*values) + 1);
	size_t count, next = 0;

	if (!parts || !values ||
	    !digest_key_parts(key, k->a, parts, rel->key_count + 1, &count) ||
	    count != rel->key_count)
		return false;
	for (size_t i = 0; i < rel->column_count; i++) {
		struct cell cell = { .format = 't' };

		if (!rel->columns[i].is_key)
			continue;
		cell.bytes = parts[next++];
		if (!cell.bytes.p ||
		    !value_from_cell(&rel->columns[i].type, cell, k->a, &values[i], NULL))
			return false;
	}
	return relation_key(rel, values, out, NULL);
}

bool image_key_hash(struct image_maker *k, struct span key, uint64_t *ret)
{
	struct buf b;
	bool ok;

	if (!k->digest->has_stream_key)
		return false;
	buf_init(&b, KEY_BYTES);
	ok = stream_key(k, key, &b) && !buf_failed(&b);
	if (ok)
		*ret = span_hash(buf_span(&b));
	buf_release(&b);
	return ok;
}

/* ---- a row as a FROM item ---- */

static const struct value *find_value(const struct relation *rel, const struct value *values,
				      const struct column *wanted)
{
	for (size_t i = 0; i < rel->column_count; i++)
		if (span_eq(rel->columns[i].name, wanted->name))
			return rel->columns[i].type_oid == wanted->type_oid ? &values[i] : NULL;
	return NULL;
}

/* Values per column of the digest's relation; false: the row is of a version with other columns. */
static bool lay_out(struct image_maker *k, const struct relation *rel, const struct value *values,
		    struct value *ret)
{
	const struct relation *own = k->digest->rel;

	for (size_t i = 0; i < own->column_count; i++) {
		const struct value *v = find_value(rel, values, &own->columns[i]);

		if (!v && !own->columns[i].is_dropped)
			return false;
		ret[i] = v ? *v : (struct value) { .state = VALUE_IS_NULL };
	}
	return true;
}

static bool write_value(const struct column *c, const struct side_column *s, const struct value *v,
			struct buf *text, struct buf *out, struct fault *f)
{
	if (v->state == VALUE_IS_NULL || v->state == VALUE_IS_UNCHANGED) {
		/* Not the column's own type: a domain may be NOT NULL. */
		buf_printf(out, "NULL::%.*s", SPAN_ARG(s->exact));
		return true;
	}
	buf_reset(text);
	if (!value_add_text(&c->type, v, text, f))
		return fault_in(f, "column %.*s", SPAN_ARG(c->name));
	pg_quote_literal(out, buf_span(text));
	buf_printf(out, "::%.*s", SPAN_ARG(s->full));
	return true;
}

static bool write_row(struct image_maker *k, const struct value *values, struct buf *out,
		      struct fault *f)
{
	const struct relation *rel = k->digest->rel;
	const char *comma = "";
	struct buf text;
	bool ok = true;

	buf_init(&text, SQL_BYTES);
	buf_str(out, "(SELECT ");
	for (size_t i = 0; ok && i < rel->column_count; i++) {
		const struct side_column *s = side_column(k->digest->source, rel->columns[i].name);

		if (rel->columns[i].is_dropped || !s)
			continue;
		buf_str(out, comma);
		comma = ", ";
		ok = write_value(&rel->columns[i], s, &values[i], &text, out, f);
		buf_str(out, " AS ");
		pg_quote_ident(out, rel->columns[i].name);
	}
	buf_str(out, ") AS \"the stream's row\"");
	if (buf_failed(&text) || buf_failed(out))
		ok = no_memory(f);
	buf_release(&text);
	return ok;
}

/* key, count, texts: or no row. */
static PGresult *evaluate(struct image_maker *k, const struct value *values, struct fault *f)
{
	struct digest_plan plan = { .digest = k->digest, .server = DIGEST_SOURCE, .seed = k->seed };
	PGresult *r = NULL;
	struct buf from, sql;

	buf_init(&from, SQL_BYTES);
	buf_init(&sql, SQL_BYTES);
	if (write_row(k, values, &from, f)) {
		digest_image(&plan, buf_span(&from), &sql);
		if (buf_failed(&sql))
			no_memory(f);
		else
			r = pg_query(k->ends->source, f, buf_cstr(&sql));
	}
	buf_release(&from);
	buf_release(&sql);
	return r;
}

/* ---- images of a key ---- */

/* Whether one of its inputs was not sent. */
static bool is_unsent(const struct expression *e, const struct value *values)
{
	for (size_t i = 0; i < e->input_count; i++)
		if (values[e->inputs[i]].state == VALUE_IS_UNCHANGED)
			return true;
	return false;
}

/*
 * Fills in what the last event did not send from those before it, of the same row. Only those are read again that
 * have sent something of it: a row may have changed thousands of times since.
 */
static bool fill_in(struct image_maker *k, const struct tail_event *const *events, size_t n, struct value *values,
		    struct fault *f)
{
	const struct relation *rel = k->digest->rel;
	struct value *older = arena_alloc(k->a, rel->column_count * sizeof(*older) + 1);
	uint32_t unsent = events[n - 1]->unsent;
	struct tail_row row;

	if (!older)
		return no_memory(f);
	for (size_t at = n - 1; at > 0 && unsent && !events[at]->from_other_key && events[at - 1]->kind == TAIL_ROW; at--) {
		const struct tail_event *e = events[at - 1];

		if (!(unsent & (~e->unsent | TAIL_UNSENT_REST)))
			continue;
		if (!tail_image(k->ends->tail, e, k->a, &row, f))
			return false;
		if (!row.after || !lay_out(k, row.rel, row.after, older))
			return true;
		for (size_t i = 0; i < rel->column_count; i++)
			if (values[i].state == VALUE_IS_UNCHANGED)
				values[i] = older[i];
		unsent &= e->unsent;
	}
	return true;
}

static const bool *unsent_columns(struct image_maker *k, const struct value *values)
{
	const struct relation *rel = k->digest->rel;
	bool *unsent = arena_alloc(k->a, k->digest->column_count * sizeof(*unsent) + 1);

	for (size_t c = 0; unsent && c < k->digest->column_count; c++) {
		for (size_t i = 0; i < rel->column_count; i++)
			if (rel->columns[i].target.p &&
			    span_eq(rel->columns[i].target, k->digest->columns[c].name))
				unsent[c] = values[i].state == VALUE_IS_UNCHANGED;
		for (size_t i = 0; i < rel->computed_count; i++)
			if (span_eq(rel->computed[i].column, k->digest->columns[c].name))
				unsent[c] = is_unsent(&rel->computed[i].as, values);
	}
	return unsent;
}

static bool take_image(struct image_maker *k, struct span key, const PGresult *r,
		       struct verdict_image *ret, struct fault *f)
{
	struct span *texts = arena_alloc(k->a, k->digest->column_count * sizeof(*texts) + 1);

	ret->is_known = true;
	/* Filtered out, or a row of another key that the index calls equal. */
	if (PQntuples(r) == 0 || !span_eq(pg_value(r, 0, 0), key))
		return true;
	for (size_t c = 0; texts && c < k->digest->column_count; c++) {
		struct span text = pg_value(r, 0, (int)c + 2);

		texts[c] = text.p ? arena_dup(k->a, text) : text;
	}
	ret->row = (struct verdict_row) { 1, texts };
	return !arena_failed(k->a) || no_memory(f);
}

bool image_of_key(struct image_maker *k, struct span key, const struct tail_event *const *events,
		  size_t n, struct verdict_image *ret, struct fault *f)
{
	const struct relation *rel = k->digest->rel;
	struct value *values = arena_alloc(k->a, rel->column_count * sizeof(*values) + 1);
	struct tail_row row;
	PGresult *r;
	bool ok;

	*ret = (struct verdict_image) { 0 };
	if (n == 0 || events[n - 1]->kind == TAIL_TABLE)
		return true;
	ret->is_known = events[n - 1]->kind == TAIL_GONE;
	if (ret->is_known)
		return true;
	if (!values)
		return no_memory(f);
	if (!tail_image(k->ends->tail, events[n - 1], k->a, &row, f))
		return false;
	ret->is_known = row.after == NULL;
	if (ret->is_known || !lay_out(k, row.rel, row.after, values))
		return true;
	if (!fill_in(k, events, n, values, f))
		return false;
	if (rel->filter.sql.p && is_unsent(&rel->filter, values))
		return true;
	ret->is_unsent = unsent_columns(k, values);
	r = evaluate(k, values, f);
	if (!r)
		return false;
	ok = take_image(k, key, r, ret, f);
	PQclear(r);
	return ok;
}

/* ---- images of a keyless row ---- */

static bool row_key(struct image_maker *k, const struct tail_row *row, const struct value *values,
		    struct span *ret, struct fault *f)
{
	struct value *laid = arena_alloc(k->a, k->digest->rel->column_count * sizeof(*laid) + 1);
	PGresult *r;

	if (!laid)
		return no_memory(f);
	if (!values)
		return true;
	if (!lay_out(k, row->rel, values, laid))
		return fault(f, FAULT_STOP, "%.*s: its columns changed while it was compared",
			     SPAN_ARG(k->digest->label));
	r = evaluate(k, laid, f);
	if (!r)
		return false;
	if (PQntuples(r))
		*ret = arena_dup(k->a, pg_value(r, 0, 0));
	PQclear(r);
	return true;
}

bool image_of_row(struct image_maker *k, const struct tail_event *e, struct span ret_keys[2],
		  struct fault *f)
{
	struct tail_row row;

	return tail_image(k->ends->tail, e, k->a, &row, f) &&
	       row_key(k, &row, row.before, &ret_keys[0], f) &&
	       row_key(k, &row, row.after, &ret_keys[1], f);
}
