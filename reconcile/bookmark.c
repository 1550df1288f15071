// SPDX-License-Identifier: Apache-2.0
#include "reconcile/bookmark.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *bookmark_key(const char *role_name, char *text)
{
	snprintf(text, BOOKMARK_KEY_TEXT, "windows/%s", role_name);
	return text;
}

/* ---- writing ---- */

static json_t *lsn_json(uint64_t lsn)
{
	char text[LSN_TEXT];

	return json_string(lsn_format(lsn, text));
}

static json_t *places_json(const struct tail_place *places, int n)
{
	json_t *list = json_array();

	for (int p = 0; p < n; p++) {
		const struct sequence *s = &places[p].sequence;

		json_array_append_new(list, json_pack("[I, I, I, o, I, o]", (json_int_t)places[p].next,
						      (json_int_t)s->generation, (json_int_t)s->ordinal,
						      lsn_json(s->position.commit.v), (json_int_t)s->position.seq,
						      lsn_json(s->barrier.v)));
	}
	return list;
}

/* What differed may be behind the place. */
static bool is_from_anew(const struct walk *w)
{
	for (size_t i = 0; i < w->count; i++)
		if (w->tables[i].has_found && strcmp(w->tables[i].schema, w->at_schema) == 0 &&
		    strcmp(w->tables[i].table, w->at_table) == 0)
			return true;
	return !w->has_from;
}

/* A value that is no text for JSON is left out: the table is scrubbed from its beginning then. */
static json_t *at_json(const struct walk *w)
{
	struct buf from = w->from;

	if (!w->at_table)
		return json_null();
	return json_pack("[s, s, o?]", w->at_schema, w->at_table,
			 is_from_anew(w) ? NULL : json_stringn(buf_span(&from).p, buf_span(&from).n));
}

static json_t *due_json(const struct walk *w)
{
	json_t *list = json_array();

	for (size_t i = 0; i < w->count; i++)
		if (w->tables[i].is_due || w->tables[i].has_found)
			json_array_append_new(list, json_pack("[s, s, b]", w->tables[i].schema, w->tables[i].table,
							      w->tables[i].is_owed || w->tables[i].has_found));
	return list;
}

bool bookmark_format(const struct walk *w, const struct tail_place *places, int partition_count, struct buf *out)
{
	json_t *o = json_pack("{s:o, s:o, s:o, s:{s:o, s:I, s:b, s:b, s:o}}", "places",
			      places_json(places, partition_count), "at", at_json(w), "due", due_json(w), "pass",
			      "lsn", lsn_json(w->pass_lsn), "at", (json_int_t)w->pass_at, "is_passing",
			      w->is_passing, "is_clean", w->pass_is_clean, "scrubbed_lsn", lsn_json(w->scrubbed_lsn));
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;

	if (text)
		buf_str(out, text);
	free(text);
	json_decref(o);
	return text && !buf_failed(out);
}

/* ---- reading ---- */

static bool read_u64(const json_t *v, uint64_t *ret)
{
	*ret = (uint64_t)json_integer_value(v);
	return json_is_integer(v) && json_integer_value(v) >= 0;
}

static bool read_lsn(const json_t *v, uint64_t *ret)
{
	return json_is_string(v) && lsn_parse(span_str(json_string_value(v)), ret);
}

static struct span text_of(const json_t *v)
{
	return json_is_string(v) ? span(json_string_value(v), json_string_length(v)) : span(NULL, 0);
}

static bool read_place(const json_t *v, struct tail_place *ret)
{
	struct sequence *s = &ret->sequence;
	uint64_t next;

	*ret = (struct tail_place) { 0 };
	if (json_array_size(v) != 6 || !read_u64(json_array_get(v, 0), &next) || next > INT64_MAX)
		return false;
	ret->next = (int64_t)next;
	return read_u64(json_array_get(v, 1), &s->generation) && read_u64(json_array_get(v, 2), &s->ordinal) &&
	       read_lsn(json_array_get(v, 3), &s->position.commit.v) &&
	       read_u64(json_array_get(v, 4), &s->position.seq) && read_lsn(json_array_get(v, 5), &s->barrier.v);
}

static bool read_due(const json_t *list, struct walk *w)
{
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *v = json_array_get(list, i);
		struct span schema = text_of(json_array_get(v, 0)), table = text_of(json_array_get(v, 1));

		if (!schema.p || !table.p || !json_is_boolean(json_array_get(v, 2)) ||
		    !walk_due(w, schema, table, json_is_true(json_array_get(v, 2))))
			return false;
	}
	return json_is_array(list);
}

static bool read_pass(const json_t *o, struct walk *w)
{
	const json_t *is_passing = json_object_get(o, "is_passing"), *is_clean = json_object_get(o, "is_clean");
	uint64_t at;

	if (!read_lsn(json_object_get(o, "lsn"), &w->pass_lsn) ||
	    !read_lsn(json_object_get(o, "scrubbed_lsn"), &w->scrubbed_lsn) || !read_u64(json_object_get(o, "at"), &at) ||
	    !json_is_boolean(is_passing) || !json_is_boolean(is_clean))
		return false;
	w->pass_at = (int64_t)at;
	w->is_passing = json_is_true(is_passing);
	w->pass_is_clean = json_is_true(is_clean);
	return true;
}

static bool read_all(const json_t *o, int partition_count, struct walk *w, struct tail_place *places)
{
	const json_t *list = json_object_get(o, "places"), *at = json_object_get(o, "at");

	if (json_array_size(list) != (size_t)partition_count)
		return false;
	for (int p = 0; p < partition_count; p++)
		if (!read_place(json_array_get(list, (size_t)p), &places[p]))
			return false;
	if (!read_due(json_object_get(o, "due"), w) || !read_pass(json_object_get(o, "pass"), w))
		return false;
	return !json_is_array(at) || walk_go_on(w, text_of(json_array_get(at, 0)), text_of(json_array_get(at, 1)),
						text_of(json_array_get(at, 2)));
}

bool bookmark_parse(struct span value, int partition_count, struct walk *w, struct tail_place *places)
{
	json_t *o = json_loadb(value.p ? value.p : "", value.n, JSON_REJECT_DUPLICATES, NULL);
	bool ok = o && read_all(o, partition_count, w, places);

	json_decref(o);
	if (!ok) {
		walk_release(w);
		walk_init(w);
	}
	return ok;
}
