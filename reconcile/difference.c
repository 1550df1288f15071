// SPDX-License-Identifier: Apache-2.0
#include "reconcile/difference.h"

#include "reconcile/ends.h"

enum { EXCERPT_BYTES = 200, EXCERPT_BEFORE = 40, SHOWN_BYTES = 4096 };

/* ---- values ---- */

static size_t first_difference(struct span a, struct span b)
{
	size_t i = 0;

	while (i < a.n && i < b.n && a.p[i] == b.p[i])
		i++;
	return i;
}

/* Bytes that are no text are shown as such. */
static json_t *text_json(struct span text)
{
	struct buf shown;
	json_t *ret;

	if (!text.p || span_is_utf8(text))
		return json_span(text);
	buf_init(&shown, SHOWN_BYTES);
	for (size_t i = 0; i < text.n; i++)
		if (text.p[i] & 0x80)
			buf_printf(&shown, "\\x%02x", (unsigned char)text.p[i]);
		else
			buf_u8(&shown, (uint8_t)text.p[i]);
	ret = json_span(buf_span(&shown));
	buf_release(&shown);
	return ret;
}

/* A long value: the part in which it differs from the other. Cut between characters. */
static json_t *value_json(struct span text, struct span other)
{
	size_t from = 0, n = text.n;
	struct buf shown;
	json_t *ret;

	if (!text.p || n <= EXCERPT_BYTES)
		return text_json(text);
	if (other.p)
		from = first_difference(text, other);
	from = from > EXCERPT_BEFORE ? from - EXCERPT_BEFORE : 0;
	n = n - from > EXCERPT_BYTES ? EXCERPT_BYTES : n - from;
	while (from > 0 && (text.p[from] & 0xc0) == 0x80)
		from--, n++;
	while (n > 0 && from + n < text.n && (text.p[from + n] & 0xc0) == 0x80)
		n--;
	buf_init(&shown, SHOWN_BYTES);
	buf_printf(&shown, "%.*s… (%zu bytes, from byte %zu)", (int)n, text.p + from, text.n, from);
	ret = text_json(buf_span(&shown));
	buf_release(&shown);
	return ret;
}

static bool is_different(const struct difference *d, size_t i)
{
	return !d->source || !d->target || (!verdict_same_text(d->source[i], d->target[i]) &&
					     !(d->is_explained && d->is_explained[i]));
}

/* Of a mismatch: the columns that differ; else the whole row. A keyless row has no other name. */
static json_t *row_json(const struct difference *d, const struct span *texts, const struct span *other)
{
	json_t *row = texts ? json_object() : json_null();

	for (size_t i = 0; texts && i < d->digest->column_count; i++) {
		struct span name = d->digest->columns[i].name;

		if (d->digest->is_keyless || is_different(d, i))
			json_object_setn_new_nocheck(row, name.p, name.n,
						     value_json(texts[i], other ? other[i] : span(NULL, 0)));
	}
	return row;
}

static json_t *columns_json(const struct difference *d)
{
	json_t *list = json_array();

	for (size_t i = 0; d->source && d->target && i < d->digest->column_count; i++)
		if (is_different(d, i))
			json_array_append_new(list, json_span(d->digest->columns[i].name));
	return list;
}

json_t *difference_key_json(const struct digest *d, const struct span *texts)
{
	json_t *key = d->is_keyless || !texts ? json_null() : json_object();

	for (size_t i = 0; json_is_object(key) && i < d->column_count; i++)
		if (d->columns[i].is_key)
			json_object_setn_new_nocheck(key, d->columns[i].name.p, d->columns[i].name.n,
						     value_json(texts[i], span(NULL, 0)));
	return key;
}

/* ---- all of it ---- */

json_t *difference_json(const struct difference *d)
{
	const char *hop = difference_hop(d);
	json_t *line = json_object();

	json_object_set_new(line, "table", json_span(d->digest->label));
	json_object_set_new(line, "key", difference_key_json(d->digest, d->source ? d->source : d->target));
	json_object_set_new(line, "kind", json_string(difference_kind(d)));
	json_object_set_new(line, "columns", columns_json(d));
	json_object_set_new(line, "source", row_json(d, d->source, d->target));
	json_object_set_new(line, "target", row_json(d, d->target, d->source));
	json_object_set_new(line, "role", json_string(ends_role_names[d->role]));
	json_object_set_new(line, "since_lsn", d->since_lsn ? json_lsn(d->since_lsn) : json_null());
	json_object_set_new(line, "hop", hop ? json_string(hop) : json_null());
	json_object_set_new(line, "writer", d->writer.p ? json_span(d->writer) : json_string("unknown"));
	json_object_set_new(line, "written_at", json_span(d->written_at));
	/* More than one of the same: keyless rows, or a key that the target does not keep unique. */
	if (d->source_count > 1 || d->target_count > 1) {
		json_object_set_new(line, "source_rows", json_integer(d->source_count));
		json_object_set_new(line, "target_rows", json_integer(d->target_count));
	}
	return line;
}

json_t *difference_incident(const struct difference *d, uint64_t window_lsn)
{
	json_t *o = difference_json(d);
	const char *hop = difference_hop(d);

	json_object_set_new(o, "class", json_string("difference"));
	json_object_set_new(o, "message", json_sprintf("%s on the %s, came %s", difference_kind(d), ends_role_names[d->role],
						       hop ? hop : "before it was looked at"));
	if (window_lsn)
		json_object_set_new(o, "window_lsn", json_lsn(window_lsn));
	return o;
}
