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
