// SPDX-License-Identifier: Apache-2.0
#include "core/incident_topic.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/kafka.h"
#include "core/log.h"

enum { FLUSH_MS = 5000 };

struct incident_topic {
	struct kafka_conf conf;
	const char *topic;
	pthread_mutex_t lock;
	rd_kafka_t *producer; /* made by the first record */
	rd_kafka_queue_t *events;
};

struct incident_topic *incident_topic_new(const struct migration *m)
{
	struct incident_topic *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->conf = (struct kafka_conf) { m->kafka, m->kafka_count, "foreshadow-incidents" };
	t->topic = m->incidents_topic;
	pthread_mutex_init(&t->lock, NULL);
	return t;
}

void incident_topic_free(struct incident_topic *t)
{
	if (!t)
		return;
	if (t->events)
		rd_kafka_queue_destroy(t->events);
	if (t->producer)
		rd_kafka_destroy(t->producer);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

/* The first error among the delivery reports of an event. */
static rd_kafka_resp_err_t delivered(rd_kafka_event_t *event)
{
	rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_NO_ERROR;
	const rd_kafka_message_t *msg;

	while (rd_kafka_event_type(event) == RD_KAFKA_EVENT_DR && (msg = rd_kafka_event_message_next(event)))
		err = err ? err : msg->err;
	rd_kafka_event_destroy(event);
	return err;
}

static bool produce(struct incident_topic *t, struct span key, const char *json, struct fault *f)
{
	rd_kafka_resp_err_t err;

	if (!t->producer)
		t->producer = kafka_producer(&t->conf, -1, &t->events, f);
	if (!t->producer)
		return false;
	err = rd_kafka_producev(t->producer, RD_KAFKA_V_TOPIC(t->topic), RD_KAFKA_V_KEY(key.p, key.n),
				RD_KAFKA_V_VALUE((void *)json, strlen(json)), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
				RD_KAFKA_V_END);
	if (err)
		return kafka_fault(err, t->topic, f);
	for (int64_t end = clock_us() + FLUSH_MS * INT64_C(1000);
	     rd_kafka_outq_len(t->producer) > 0 && clock_us() < end;) {
		rd_kafka_event_t *event = rd_kafka_queue_poll(t->events, 100);

		if (event && (err = delivered(event)))
			return kafka_fault(err, t->topic, f);
	}
	return rd_kafka_outq_len(t->producer) == 0 ||
	       fault(f, FAULT_ENVIRONMENT, "not acknowledged in %d s", FLUSH_MS / 1000);
}

/* A server's words may be cut within a character. */
static void redact(json_t *object)
{
	const char *message = json_string_value(json_object_get(object, "message"));
	char text[sizeof(((struct fault *)NULL)->text)];

	if (!message)
		return;
	snprintf(text, sizeof(text), "%s", message);
	log_redact(text);
	json_object_set_new(object, "message", json_span(span_str(text)));
}

bool incident_topic_send(struct incident_topic *t, struct span key, json_t *object, struct fault *f)
{
	json_t *all = json_object();
	char time[CLOCK_TEXT], *json;
	bool ok;

	redact(object);
	json_object_set_new(all, "at", json_string(clock_iso(clock_wall_us(), time)));
	json_object_update(all, object);
	json = json_dumps(all, JSON_COMPACT);
	json_decref(all);
	json_decref(object);
	pthread_mutex_lock(&t->lock);
	ok = json ? produce(t, key, json, f) : fault(f, FAULT_INTERNAL, "no memory for a record");
	pthread_mutex_unlock(&t->lock);
	free(json);
	return ok;
}
