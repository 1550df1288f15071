// SPDX-License-Identifier: Apache-2.0
#include "shadow/incident.h"

#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/log.h"

enum { INCIDENT_FLUSH_MS = 5000 };

struct incident {
	struct kafka_conf conf;
	const char *topic;
	struct metrics *metrics;
	pthread_mutex_t lock;
	rd_kafka_t *producer; /* made by the first report */
	rd_kafka_queue_t *events;
};

struct incident *incident_new(const struct migration *m, struct metrics *metrics)
{
	struct incident *i = calloc(1, sizeof(*i));

	if (!i)
		return NULL;
	i->conf = (struct kafka_conf) { m->kafka, m->kafka_count, "foreshadow-incidents" };
	i->topic = m->incidents_topic;
	i->metrics = metrics;
	pthread_mutex_init(&i->lock, NULL);
	return i;
}

void incident_free(struct incident *i)
{
	if (!i)
		return;
	if (i->events)
		rd_kafka_queue_destroy(i->events);
	if (i->producer)
		rd_kafka_destroy(i->producer);
	pthread_mutex_destroy(&i->lock);
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

/* A key may hold bytes that are no text for JSON (never of our making). */
static json_t *incident_string(struct span s)
{
	json_t *v = s.p ? json_stringn(s.p, s.n) : NULL;

	return v ? v : json_null();
}

static char *incident_json(const struct incident_report *r)
{
	char lsn[LSN_TEXT], time[CLOCK_TEXT], reason[sizeof(r->fault->text)];
	json_t *o = json_object();
	char *text;

	snprintf(reason, sizeof(reason), "%s", r->fault->text);
	log_redact(reason);
	json_object_set_new(o, "at", json_string(clock_iso(clock_wall_us(), time)));
	json_object_set_new(o, "role", json_string(r->role));
	json_object_set_new(o, "topic", json_string(r->topic));
	json_object_set_new(o, "partition", json_integer(r->partition));
	json_object_set_new(o, "offset", json_integer(r->offset));
	json_object_set_new(o, "table", incident_string(r->table));
	json_object_set_new(o, "key", incident_string(r->key));
	if (r->head) {
		char op[2] = { r->head->op, 0 };

		json_object_set_new(o, "op", json_string(op));
		json_object_set_new(o, "commit_lsn",
				    json_string(lsn_format(r->head->position.commit.v, lsn)));
		json_object_set_new(o, "seq", json_integer((json_int_t)r->head->position.seq));
		json_object_set_new(o, "ordinal", json_integer((json_int_t)r->head->ordinal));
		json_object_set_new(o, "generation", json_integer((json_int_t)r->head->generation));
	}
	json_object_set_new(o, "sqlstate", json_string(r->fault->sqlstate));
	json_object_set_new(o, "message", incident_string(span_str(reason)));
	text = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	return text;
}

static bool incident_produce(struct incident *i, const struct incident_report *r, const char *json,
			     struct fault *f)
{
	rd_kafka_resp_err_t err;

	if (!i->producer)
		i->producer = kafka_producer(&i->conf, -1, &i->events, f);
	if (!i->producer)
		return false;
	err = rd_kafka_producev(i->producer, RD_KAFKA_V_TOPIC(i->topic),
				RD_KAFKA_V_KEY(r->key.p, r->key.n),
				RD_KAFKA_V_VALUE((void *)json, strlen(json)),
				RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
	if (err)
		return kafka_fault(err, i->topic, f);
	for (int64_t end = clock_us() + INCIDENT_FLUSH_MS * INT64_C(1000);
	     rd_kafka_outq_len(i->producer) > 0 && clock_us() < end;) {
		rd_kafka_event_t *event = rd_kafka_queue_poll(i->events, 100);

		if (event)
			rd_kafka_event_destroy(event);
	}
	return rd_kafka_outq_len(i->producer) == 0 ||
	       fault(f, FAULT_ENVIRONMENT, "not acknowledged in %d s", INCIDENT_FLUSH_MS / 1000);
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
	char *json = incident_json(r);

	incident_count(i, r);
	pthread_mutex_lock(&i->lock);
	if (!json || !incident_produce(i, r, json, &f))
		log_warn("incident not written to %s: %s", i->topic, f.text);
	pthread_mutex_unlock(&i->lock);
	free(json);
}
