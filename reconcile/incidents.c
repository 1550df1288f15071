// SPDX-License-Identifier: Apache-2.0
#include "reconcile/incidents.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"

enum { PATIENCE_US = 30 * 1000 * 1000, POLL_MS = 100 };

char *incidents_id_format(const struct incidents_record *r, char *text)
{
	snprintf(text, INCIDENTS_ID_TEXT, "%d:%" PRId64, r->partition, r->offset);
	return text;
}

bool incidents_id_parse(const char *text, int *ret_partition, int64_t *ret_offset)
{
	char rest;

	return sscanf(text, "%9d:%18" SCNd64 "%c", ret_partition, ret_offset, &rest) == 2 && *ret_partition >= 0 &&
	       *ret_offset >= 0;
}

/* ---- reading ---- */

struct reading {
	const struct migration *m;
	rd_kafka_t *client;
	int partition;
	bool (*each)(void *arg, const struct incidents_record *r);
	void *arg;
	bool is_done;
};

static bool assign(rd_kafka_t *client, const char *topic, int partition, int64_t offset, struct fault *f)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_resp_err_t err;

	rd_kafka_topic_partition_list_add(list, topic, partition)->offset = offset;
	err = rd_kafka_assign(client, list);
	rd_kafka_topic_partition_list_destroy(list);
	return !err || kafka_fault(err, topic, f);
}

/* Brokers that do not answer are waited for: the deadline is the caller's. */
static void take(struct reading *r, const rd_kafka_message_t *msg, int64_t *next)
{
	struct incidents_record record = { msg->partition, msg->offset, span(msg->payload, msg->len) };

	if (msg->err || msg->partition != r->partition)
		return;
	r->is_done = !r->each(r->arg, &record);
	*next = msg->offset + 1;
}

static bool read_partition(struct reading *r, struct fault *f)
{
	int64_t next, high, deadline_us = clock_us() + PATIENCE_US;

	if (!kafka_bounds(r->client, r->m->incidents_topic, r->partition, &next, &high, f) ||
	    (next < high && !assign(r->client, r->m->incidents_topic, r->partition, next, f)))
		return false;
	while (next < high && !r->is_done) {
		rd_kafka_message_t *msg = rd_kafka_consumer_poll(r->client, POLL_MS);
		int64_t before = next;

		if (msg) {
			take(r, msg, &next);
			rd_kafka_message_destroy(msg);
		}
		if (next > before)
			deadline_us = clock_us() + PATIENCE_US;
		else if (clock_us() > deadline_us)
			return fault(f, FAULT_ENVIRONMENT, "topic %s: its records come up to offset %" PRId64 ", wanted: %" PRId64,
				     r->m->incidents_topic, next, high);
	}
	return true;
}

bool incidents_each(const struct migration *m, bool (*each)(void *arg, const struct incidents_record *r), void *arg,
		    struct fault *f)
{
	struct kafka_conf conf = { m->kafka, m->kafka_count, m->slot };
	struct reading r = { .m = m, .each = each, .arg = arg }; /* the topic has one partition */
	bool ok;

	r.client = kafka_reader(&conf, f);
	ok = r.client && read_partition(&r, f);
	if (r.client)
		rd_kafka_destroy(r.client);
	return ok;
}

/* ---- the change ---- */

bool incidents_change(const struct migration *m, const char *topic, int partition, int64_t offset, struct known *known,
		      struct framing *framing, event_learn learn, void *arg,
		      struct arena *a, struct tail_row *ret, struct fault *f)
{
	const struct tail_event at = { .partition = partition, .offset = offset, .in_exclusive = -1 };
	struct migration of_topic = *m; /* borrowed: the tail reads the topic that the incident names */
	struct tail tail;
	int64_t low = 0, high = 0;
	bool ok;

	of_topic.changes_topic = topic;
	ok = tail_open(&tail, &of_topic, known, framing, f);
	tail.learn = learn;
	tail.arg = arg;
	ok = ok && kafka_bounds(tail.fetcher, topic, partition, &low, &high, f);
	if (ok && (offset < low || offset >= high))
		ok = fault(f, FAULT_ENVIRONMENT, "topic %s partition %d: it has no record at offset %" PRId64 " any more", topic,
			   partition, offset);
	ok = ok && tail_image(&tail, &at, a, ret, f);
	tail_close(&tail);
	return ok;
}
