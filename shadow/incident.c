// SPDX-License-Identifier: Apache-2.0
#include "shadow/incident.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/incident_topic.h"
#include "core/log.h"

struct incident {
	struct incident_topic *topic;
	struct metrics *metrics;
};

struct incident *incident_new(const struct migration *m, struct metrics *metrics)
{
	struct incident *i = calloc(1, sizeof(*i));

	if (!i)
		return NULL;
	i->topic = incident_topic_new(m);
	i->metrics = metrics;
	if (i->topic)
		return i;
	free(i);
	return NULL;
}

void incident_free(struct incident *i)
{
	if (i)
		incident_topic_free(i->topic);
	free(i);
}

void incident_text(const struct incident_report *r, char *text, size_t n)
{
	char lsn[LSN_TEXT];
	int used;

	if (!r->head) {
		snprintf(text, n, "%s partition %d offset %" PRId64 ": %s", r->topic, r->partition,
			 r->offset, r->fault->text);
		return;
	}
	used = snprintf(text, n, "table %.*s key %.*s op %c", SPAN_ARG(r->table), SPAN_ARG(r->key),
			r->head->op);
	if (used > 0 && (size_t)used < n)
		snprintf(text + used, n - (size_t)used,
			 " at LSN %s ordinal %" PRIu64 " (%s partition %d offset %" PRId64 "): %s",
			 lsn_format(r->head->position.commit.v, lsn), r->head->ordinal, r->topic,
			 r->partition, r->offset, r->fault->text);
}

static json_t *incident_json(const struct incident_report *r)
{
	json_t *o = json_object();

	json_object_set_new(o, "role", json_string(r->role));
	json_object_set_new(o, "topic", json_string(r->topic));
	json_object_set_new(o, "partition", json_integer(r->partition));
	json_object_set_new(o, "offset", json_integer(r->offset));
	json_object_set_new(o, "table", json_span(r->table));
	json_object_set_new(o, "key", json_span(r->key));
	if (r->head) {
		char op[2] = { r->head->op, 0 };

		json_object_set_new(o, "op", json_string(op));
		json_object_set_new(o, "commit_lsn", json_lsn(r->head->position.commit.v));
		json_object_set_new(o, "seq", json_integer((json_int_t)r->head->position.seq));
		json_object_set_new(o, "ordinal", json_integer((json_int_t)r->head->ordinal));
		json_object_set_new(o, "generation", json_integer((json_int_t)r->head->generation));
	}
	json_object_set_new(o, "sqlstate", json_string(r->fault->sqlstate));
	json_object_set_new(o, "message", json_span(span_str(r->fault->text)));
	return o;
}

/* The class of the SQLSTATE (23: a constraint), or what kind of fault it is without one. */
static void incident_count(const struct incident *i, const struct incident_report *r)
{
	char class[3] = { r->fault->sqlstate[0], r->fault->sqlstate[0] ? r->fault->sqlstate[1] : 0, 0 };

	metric_add(metric_cell(i->metrics, METRIC_INCIDENTS, *class ? class : fault_kind_name(r->fault->kind), r->role, NULL),
		   1);
}

void incident_send(struct incident *i, const struct incident_report *r)
{
	struct fault f = { 0 };

	incident_count(i, r);
	if (!incident_topic_send(i->topic, r->key, incident_json(r), &f))
		log_warn("incident not written: %s", f.text);
}

/* ---- repairs ---- */

/* A long text by its beginning, cut between characters. */
static void incident_cut(json_t *row)
{
	const char *name;
	json_t *value;

	json_object_foreach(row, name, value) {
		size_t n = json_string_length(value), cut = INCIDENT_VALUE_BYTES;
		const char *text = json_string_value(value);

		if (!text || n <= cut)
			continue;
		while (cut > 0 && ((unsigned char)text[cut] & 0xc0) == 0x80)
			cut--;
		json_object_set_new(row, name, json_sprintf("%.*s… (%zu bytes)", (int)cut, text, n));
	}
}

static json_t *incident_row(struct span row, bool is_cut)
{
	json_t *v = row.p ? json_loadb(row.p, row.n, JSON_ALLOW_NUL, NULL) : NULL;

	if (is_cut && v)
		incident_cut(v);
	return v ? v : row.p ? json_span(row) : json_null();
}

json_t *incident_repair_json(const struct incident_repair *r)
{
	bool is_cut = r->before.n + r->after.n > INCIDENT_ROWS_BYTES;
	json_t *o = json_object();

	json_object_set_new(o, "class", json_string("repair"));
	json_object_set_new(o, "role", json_string(r->role));
	json_object_set_new(o, "topic", json_string(r->topic));
	json_object_set_new(o, "partition", json_integer(r->partition));
	json_object_set_new(o, "table", json_span(r->table));
	json_object_set_new(o, "key", json_span(r->key));
	json_object_set_new(o, "commit_lsn", json_lsn(r->position.commit.v));
	json_object_set_new(o, "seq", json_integer((json_int_t)r->position.seq));
	json_object_set_new(o, "before", incident_row(r->before, is_cut));
	json_object_set_new(o, "after", incident_row(r->after, is_cut));
	json_object_set_new(o, "message", json_string(!r->before.p ? "repaired: the row was missing"
						      : !r->after.p ? "repaired: the row was not on the source"
								    : "repaired: the row was not the source's"));
	return o;
}

bool incident_repaired(struct incident *i, const struct incident_repair *r, struct fault *f)
{
	return incident_topic_send(i->topic, r->key, incident_repair_json(r), f);
}
