// SPDX-License-Identifier: Apache-2.0
#include "core/codec.h"

#include <stdlib.h>

#include "core/event_wire.h"
#include "core/framing.h"

/* How a column's native branch is written. */
enum codec_form { FORM_BOOL, FORM_INT, FORM_LONG, FORM_FLOAT, FORM_DOUBLE, FORM_BYTES };

/*
 * A column, compiled. Branch 0 is null, 1 is native; text is the branch of a value in text form, 0
 * if there is none. low..high: what FORM_INT may hold; min..max_bytes: what FORM_BYTES may.
 */
struct codec_column {
	enum codec_form form;
	uint8_t text;
	bool text_only; /* native form is the text form: decoded as text */
	bool in_before; /* sent in an old row */
	bool is_dropped; /* not in the record: always null */
	int32_t low, high;
	size_t min_bytes, max_bytes;
	struct span name;
	struct span name_avro; /* as a string on the wire */
};

struct codec {
	const struct relation *rel;
	size_t fixed_bytes; /* upper bound of a record without its values' bytes */
	char *names;        /* what name_avro points into */
	struct codec_column columns[];
};

static const struct codec_kind {
	enum codec_form form;
	uint8_t text;
	bool text_only;
	int32_t low, high;
	size_t min_bytes, max_bytes;
} codec_kinds[VALUE_KINDS] = {
	[VALUE_BOOL] = { FORM_BOOL },
	[VALUE_INT2] = { FORM_INT, .low = INT16_MIN, .high = INT16_MAX },
	[VALUE_INT4] = { FORM_INT, .low = INT32_MIN, .high = INT32_MAX },
	[VALUE_INT8] = { FORM_LONG },
	[VALUE_FLOAT4] = { FORM_FLOAT },
	[VALUE_FLOAT8] = { FORM_DOUBLE },
	[VALUE_TEXT] = { FORM_BYTES, .text = 1, .max_bytes = SIZE_MAX },
	[VALUE_BPCHAR] = { FORM_BYTES, .text = 1, .max_bytes = SIZE_MAX },
	[VALUE_JSONB] = { FORM_BYTES, .text = 1, .max_bytes = SIZE_MAX },
	[VALUE_BYTEA] = { FORM_BYTES, .max_bytes = SIZE_MAX },
	[VALUE_UUID] = { FORM_BYTES, .min_bytes = 36, .max_bytes = 36 },
	[VALUE_DATE] = { FORM_INT, .text = 2, .low = INT32_MIN, .high = INT32_MAX },
	[VALUE_TIME] = { FORM_LONG, .text = 2 },
	[VALUE_TIMESTAMP] = { FORM_LONG, .text = 2 },
	[VALUE_TIMESTAMPTZ] = { FORM_LONG, .text = 2 },
	/* 38 digits need 127 bits. */
	[VALUE_DECIMAL] = { FORM_BYTES, .text = 2, .min_bytes = 1, .max_bytes = 16 },
	[VALUE_NUMERIC] = { FORM_BYTES, .text = 1, .text_only = true, .max_bytes = SIZE_MAX },
	[VALUE_OTHER] = { FORM_BYTES, .text = 1, .text_only = true, .max_bytes = SIZE_MAX },
};

static size_t names_bytes(const struct relation *rel)
{
	size_t n = 0;

	for (size_t i = 0; i < rel->column_count; i++)
		n += AVRO_LONG_BYTES + rel->columns[i].name.n;
	return n;
}

static void compile_column(const struct relation *rel, const struct column *col,
			   struct codec_column *c)
{
	const struct codec_kind *k = &codec_kinds[col->type.kind];

	*c = (struct codec_column) {
		.form = k->form,
		.text = k->text,
		.text_only = k->text_only,
		.in_before = rel->identity == 'f' || col->is_key || col->is_identity,
		.is_dropped = col->is_dropped,
		.low = k->low,
		.high = k->high,
		.min_bytes = k->min_bytes,
		.max_bytes = k->max_bytes,
		.name = col->name,
	};
}

struct codec *codec_new(const struct relation *rel, struct fault *f)
{
	struct codec *c;
	char *p, *start;

	if (rel->fingerprint == 0) {
		fault(f, FAULT_INTERNAL, "table %.*s.%.*s, version %u: schema without fingerprint",
		      SPAN_ARG(rel->schema), SPAN_ARG(rel->table), rel->version);
		return NULL;
	}
	c = calloc(1, sizeof(*c) + rel->column_count * sizeof(c->columns[0]));
	p = malloc(names_bytes(rel) + 1);
	if (!c || !p) {
		free(c);
		free(p);
		fault(f, FAULT_INTERNAL, "no memory for the codec of a table");
		return NULL;
	}
	c->rel = rel;
	c->names = p;
	for (size_t i = 0; i < rel->column_count; i++) {
		compile_column(rel, &rel->columns[i], &c->columns[i]);
		start = p;
		p = avro_put_bytes(p, rel->columns[i].name);
		c->columns[i].name_avro = span(start, (size_t)(p - start));
	}
	/* Head; three block counts; two branches; names; per value in each row a branch and a long.
	 */
	c->fixed_bytes = FRAMING_MAX_BYTES + EVENT_HEAD_MAX_BYTES + 2 * AVRO_LONG_BYTES + 2 +
			 names_bytes(rel) + 2 * rel->column_count * (1 + AVRO_LONG_BYTES);
	return c;
}

void codec_free(struct codec *c)
{
	if (!c)
		return;
	free(c->names);
	free(c);
}

const struct relation *codec_relation(const struct codec *c)
{
	return c->rel;
}

static bool codec_fault(const struct codec *c, struct fault *f, const char *what,
			struct span column)
{
	return fault(f, FAULT_INPUT, "table %.*s.%.*s, version %u%s%.*s: %s",
		     SPAN_ARG(c->rel->schema), SPAN_ARG(c->rel->table), c->rel->version,
		     column.p ? ", column " : "", SPAN_ARG(column), what);
}

/* --- encode --- */

/* What a row's values add to fixed_bytes; unchanged ones are counted. False: a value that no branch
 * can hold. */
static bool measure_row(const struct codec *c, const struct value *row, bool is_before,
			size_t *bytes, size_t *unchanged_count, struct span *ret_wrong)
{
	for (size_t i = 0; i < c->rel->column_count; i++) {
		const struct codec_column *col = &c->columns[i];
		const struct value *v = &row[i];

		if (col->is_dropped || (is_before && !col->in_before))
			continue;
		*ret_wrong = col->name;
		switch (v->state) {
		case VALUE_IS_NULL:
			break;
		case VALUE_IS_UNCHANGED:
			if (is_before)
				return false;
			++*unchanged_count;
			break;
		case VALUE_IS_NATIVE:
			if (col->form == FORM_BYTES)
				*bytes += v->bytes.n;
			else if (col->form == FORM_INT && (v->i < col->low || v->i > col->high))
				return false;
			break;
		case VALUE_IS_TEXT:
			if (col->text == 0)
				return false;
			*bytes += v->bytes.n;
			break;
		}
	}
	return true;
}

static char *put_native(char *p, const struct codec_column *col, const struct value *v)
{
	*p++ = 2;
	switch (col->form) {
	case FORM_BOOL:
		*p++ = v->i != 0;
		return p;
	case FORM_INT:
	case FORM_LONG:
		return avro_put_long(p, v->i);
	case FORM_FLOAT:
		return avro_put_float(p, (float)v->d);
	case FORM_DOUBLE:
		return avro_put_double(p, v->d);
	case FORM_BYTES:
		return avro_put_bytes(p, v->bytes);
	}
	return p;
}

static char *put_value(char *p, const struct codec_column *col, const struct value *v)
{
	switch (v->state) {
	case VALUE_IS_NULL:
	case VALUE_IS_UNCHANGED:
		*p++ = 0;
		return p;
	case VALUE_IS_NATIVE:
		return put_native(p, col, v);
	case VALUE_IS_TEXT:
		*p++ = (char)(2 * col->text);
		return avro_put_bytes(p, v->bytes);
	}
	return p;
}

static char *put_before(char *p, const struct codec *c, const struct value *row)
{
	*p++ = row ? 2 : 0;
	for (size_t i = 0; row && i < c->rel->column_count; i++) {
		if (c->columns[i].is_dropped)
			continue;
		if (c->columns[i].in_before)
			p = put_value(p, &c->columns[i], &row[i]);
		else
			*p++ = 0;
	}
	return p;
}

static char *put_after(char *p, const struct codec *c, const struct value *row)
{
	*p++ = row ? 2 : 0;
	for (size_t i = 0; row && i < c->rel->column_count; i++)
		if (!c->columns[i].is_dropped)
			p = put_value(p, &c->columns[i], &row[i]);
	return p;
}

static char *put_unchanged(char *p, const struct codec *c, const struct value *row, size_t count)
{
	if (count > 0)
		p = avro_put_long(p, (int64_t)count);
	for (size_t i = 0; count > 0 && i < c->rel->column_count; i++) {
		struct span name = c->columns[i].name_avro;

		if (row[i].state == VALUE_IS_UNCHANGED && !c->columns[i].is_dropped) {
			memcpy(p, name.p, name.n);
			p += name.n;
		}
	}
	*p++ = 0;
	return p;
}

/* Which rows an op has. */
static bool check_rows(const struct codec *c, char op, const struct change *ch, struct fault *f)
{
	switch (op) {
	case 'c':
	case 'r':
		return (!ch->before && ch->after) ||
		       codec_fault(c, f, "op c or r needs a new row and no old one", span(NULL, 0));
	case 'u':
		return ch->after || codec_fault(c, f, "op u needs a new row", span(NULL, 0));
	case 'd':
		return (ch->before && !ch->after) ||
		       codec_fault(c, f, "op d needs an old row and no new one", span(NULL, 0));
	}
	return codec_fault(c, f, "not an op of a row", span(NULL, 0));
}

bool codec_encode(const struct codec *c, const struct framing *fr, const struct event_head *h,
		  const struct change *ch, struct buf *out, struct fault *f)
{
	size_t bytes = c->fixed_bytes, unchanged_count = 0;
	struct span wrong;
	char *p;

	if (!check_rows(c, h->op, ch, f))
		return false;
	if ((ch->before && !measure_row(c, ch->before, true, &bytes, &unchanged_count, &wrong)) ||
	    (ch->after && !measure_row(c, ch->after, false, &bytes, &unchanged_count, &wrong)))
		return codec_fault(c, f, "a value that its kind cannot hold", wrong);
	if (unchanged_count > 0 && h->op != 'u')
		return codec_fault(c, f, "an unchanged column in an op c or r", span(NULL, 0));
	if (!buf_reserve(out, bytes))
		return fault(f, FAULT_INPUT,
			     "table %.*s.%.*s: a record of %zu bytes, at most %zu are possible",
			     SPAN_ARG(c->rel->schema), SPAN_ARG(c->rel->table), bytes,
			     out->max_bytes);
	p = framing_put(fr, c->rel->fingerprint, out->p + out->n);
	if (!p)
		return codec_fault(c, f, "the schema has no id in the registry", span(NULL, 0));
	p = event_head_put(p, h, h->op);
	p = put_unchanged(p, c, ch->after, unchanged_count);
	p = put_before(p, c, ch->before);
	p = put_after(p, c, ch->after);
	out->n = (size_t)(p - out->p);
	return true;
}

/* --- decode --- */

static bool read_native(struct cursor *c, const struct codec_column *col, struct value *v)
{
	v->state = VALUE_IS_NATIVE;
	switch (col->form) {
	case FORM_BOOL:
		v->i = avro_read_bool(c);
		return true;
	case FORM_INT:
		v->i = avro_read_range(c, col->low, col->high);
		return true;
	case FORM_LONG:
		v->i = avro_read_long(c);
		return true;
	case FORM_FLOAT:
		v->d = (double)avro_read_float(c);
		return true;
	case FORM_DOUBLE:
		v->d = avro_read_double(c);
		return true;
	case FORM_BYTES:
		v->bytes = avro_read_bytes(c);
		if (col->text_only)
			v->state = VALUE_IS_TEXT;
		return v->bytes.n >= col->min_bytes && v->bytes.n <= col->max_bytes;
	}
	return false;
}

/* v comes in as null, or as unchanged where the record says so: then the branch must be null. */
static bool read_value(struct cursor *c, const struct codec_column *col, struct value *v)
{
	uint8_t branch = cursor_u8(c); /* 0, 2, 4: the zigzag of 0, 1, 2 in one byte */

	if (branch == 0)
		return true;
	if (v->state == VALUE_IS_UNCHANGED)
		return false;
	if (branch == 2)
		return read_native(c, col, v);
	if (branch != 4 || col->text != 2)
		return false;
	v->state = VALUE_IS_TEXT;
	v->bytes = avro_read_bytes(c);
	return true;
}

static bool read_row(const struct codec *c, struct cursor *in, struct value *row, bool *ret_has_row,
		     struct fault *f)
{
	uint8_t branch = cursor_u8(in);

	*ret_has_row = branch == 2;
	if (branch != 0 && branch != 2)
		return codec_fault(c, f, "record with a malformed row", span(NULL, 0));
	for (size_t i = 0; *ret_has_row && i < c->rel->column_count; i++)
		if (!c->columns[i].is_dropped &&
		    (!read_value(in, &c->columns[i], &row[i]) || in->cut))
			return codec_fault(c, f, "record with a malformed value",
					   c->columns[i].name);
	return true;
}

/* Names come in column order, so the search goes on where the last one was found. */
static bool read_unchanged(const struct codec *c, struct cursor *in, struct value *after,
			   size_t *ret_count, struct fault *f)
{
	struct avro_array items = { 0 };
	size_t n = c->rel->column_count, at = 0, tries;
	struct span name;

	for (*ret_count = 0; avro_array_next(in, &items); ++*ret_count) {
		name = avro_read_bytes(in);
		for (tries = 0; tries < n && (c->columns[at].is_dropped || !span_eq(name, c->columns[at].name)); tries++)
			at = at + 1 < n ? at + 1 : 0;
		if (in->cut || tries == n)
			return codec_fault(c, f, "unchanged, but not a column of this version",
					   name);
		if (after[at].state == VALUE_IS_UNCHANGED)
			return codec_fault(c, f, "unchanged twice", name);
		after[at].state = VALUE_IS_UNCHANGED;
	}
	return !in->cut || codec_fault(c, f, "record with a malformed list of unchanged columns",
				       span(NULL, 0));
}

bool codec_decode(const struct codec *c, struct span body, struct value *before,
		  bool *ret_has_before, struct value *after, bool *ret_has_after, struct fault *f)
{
	struct cursor in = cursor(body.n > 0 ? body : span("", 0));
	size_t unchanged_count;

	for (size_t i = 0; i < c->rel->column_count; i++)
		before[i] = after[i] = (struct value) { .state = VALUE_IS_NULL };
	if (!read_unchanged(c, &in, after, &unchanged_count, f) ||
	    !read_row(c, &in, before, ret_has_before, f) ||
	    !read_row(c, &in, after, ret_has_after, f))
		return false;
	if (in.cut || cursor_left(&in) > 0)
		return codec_fault(c, f, "record that is cut off or has bytes behind its end",
				   span(NULL, 0));
	if (unchanged_count > 0 && !*ret_has_after)
		return codec_fault(c, f, "unchanged columns without a new row", span(NULL, 0));
	return *ret_has_before || *ret_has_after ||
	       codec_fault(c, f, "record without a row", span(NULL, 0));
}
