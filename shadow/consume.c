// SPDX-License-Identifier: Apache-2.0
#include "shadow/consume.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/event.h"
#include "core/log.h"
#include "shadow/role.h"

enum {
	SEEK_TIMEOUT_MS = 2000,
	PROBE_TIMEOUT_MS = 10000,
	/* Records that ingest produced a second time may stand a little behind their first copy. */
	SEARCH_MARGIN = 1000,
	ERROR_QUIET = 50, /* a repeated error is logged each so many times */
};

struct consume {
	const struct migration *migration;
	struct kafka_conf conf;
	char client_id[160];
	rd_kafka_t *rk;
	const char *group;
	struct consume_owner owner;
	bool has_assignment;
	rd_kafka_resp_err_t last_error;
	unsigned long error_count;
	struct fault rebalance_fault;
};

const char *consume_topic_name(const struct migration *m, enum consume_topic topic)
{
	return topic == CONSUME_CHANGES ? m->changes_topic : m->snapshot_topic;
}

static bool consume_topic_of(const struct consume *c, const char *name, enum consume_topic *ret)
{
	for (int t = 0; t < CONSUME_TOPICS; t++)
		if (strcmp(name, consume_topic_name(c->migration, (enum consume_topic)t)) == 0) {
			*ret = (enum consume_topic)t;
			return true;
		}
	return false;
}

static void consume_hand(const struct consume *c, const rd_kafka_topic_partition_t *p, rd_kafka_queue_t *q)
{
	enum consume_topic topic;

	if (q && consume_topic_of(c, p->topic, &topic))
		c->owner.assigned(c->owner.arg, topic, p->partition, q);
	else if (q)
		rd_kafka_queue_destroy(q);
}

/*
 * The queues must be cut loose before the assignment: fetching starts with it, and what arrives in
 * between would land in the member's queue, where nobody looks for records.
 *
 * Fetching starts at 0, an absolute offset, although a seek will follow: for a logical one (end)
 * librdkafka asks the broker, and an answer that arrives behind the seek undoes it.
 */
static void consume_assign(struct consume *c, rd_kafka_topic_partition_list_t *list)
{
	rd_kafka_queue_t **queues = calloc((size_t)list->cnt + 1, sizeof(*queues));
	rd_kafka_resp_err_t err;

	for (int i = 0; queues && i < list->cnt; i++) {
		rd_kafka_topic_partition_t *p = &list->elems[i];

		if (p->partition >= c->migration->partition_count)
			fault(&c->rebalance_fault, FAULT_STOP,
			      "topic %s has partition %d, but the migration has %d partitions: partitions "
			      "were added, which moves keys; only a new migration (drop, run) can go on",
			      p->topic, (int)p->partition, c->migration->partition_count);
		queues[i] = rd_kafka_queue_get_partition(c->rk, p->topic, p->partition);
		if (queues[i])
			rd_kafka_queue_forward(queues[i], NULL);
		p->offset = 0;
	}
	err = rd_kafka_assign(c->rk, list);
	if (err)
		kafka_fault(err, "assigning partitions", &c->rebalance_fault);
	c->has_assignment = true;
	for (int i = 0; queues && i < list->cnt; i++)
		consume_hand(c, &list->elems[i], queues[i]);
	free(queues);
	log_info("group gave us %d partitions", list->cnt);
}

bool consume_hand_out(struct consume *c, struct fault *f)
{
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_resp_err_t err = rd_kafka_assignment(c->rk, &list);

	if (err)
		return kafka_fault(err, "what is assigned to us", f);
	for (int i = 0; i < list->cnt; i++)
		consume_hand(c, &list->elems[i],
			     rd_kafka_queue_get_partition(c->rk, list->elems[i].topic, list->elems[i].partition));
	rd_kafka_topic_partition_list_destroy(list);
	return true;
}

static void consume_rebalance(rd_kafka_t *rk, rd_kafka_resp_err_t err,
			      rd_kafka_topic_partition_list_t *list, void *opaque)
{
	struct consume *c = opaque;

	c->rk = rk; /* may be called while kafka_member has not returned yet */
	if (err == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) {
		consume_assign(c, list);
		return;
	}
	if (c->has_assignment) {
		c->owner.revoked(c->owner.arg);
		log_info("group took back %d partitions", list->cnt);
	}
	c->has_assignment = false;
	rd_kafka_assign(rk, NULL);
}

struct consume *consume_new(const struct migration *m, enum role role, const char *instance,
			    const struct consume_owner *owner, struct fault *f)
{
	struct consume *c = calloc(1, sizeof(*c));
	rd_kafka_topic_partition_list_t *topics;
	rd_kafka_resp_err_t err;
	char member[160];

	if (!c) {
		fault(f, FAULT_INTERNAL, "no memory for a consumer");
		return NULL;
	}
	c->migration = m;
	c->owner = *owner;
	c->group = m->group[role];
	snprintf(member, sizeof(member), "%s-%s", role_traits(role)->name, instance);
	snprintf(c->client_id, sizeof(c->client_id), "foreshadow-%s-%s", m->name,
		 role_traits(role)->name);
	c->conf = (struct kafka_conf) { m->kafka, m->kafka_count, c->client_id };
	c->rk = kafka_member(&c->conf, m->group[role], member, consume_rebalance, c, f);
	if (!c->rk) {
		free(c);
		return NULL;
	}
	topics = rd_kafka_topic_partition_list_new(CONSUME_TOPICS);
	for (int t = 0; t < CONSUME_TOPICS; t++)
		rd_kafka_topic_partition_list_add(topics,
						  consume_topic_name(m, (enum consume_topic)t),
						  RD_KAFKA_PARTITION_UA);
	err = rd_kafka_subscribe(c->rk, topics);
	rd_kafka_topic_partition_list_destroy(topics);
	if (err) {
		kafka_fault(err, "subscribing", f);
		consume_free(c);
		return NULL;
	}
	return c;
}

void consume_leave(struct consume *c)
{
	/* Calls consume_rebalance (revoke) from within, if something is assigned. */
	rd_kafka_consumer_close(c->rk);
	if (c->has_assignment)
		c->owner.revoked(c->owner.arg);
	c->has_assignment = false;
}

void consume_free(struct consume *c)
{
	if (!c)
		return;
	rd_kafka_destroy(c->rk);
	free(c);
}

static bool consume_fatal(struct consume *c, struct fault *f)
{
	char text[512];
	rd_kafka_resp_err_t err = rd_kafka_fatal_error(c->rk, text, sizeof(text));

	if (err == RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID)
		return fault(f, FAULT_FENCED,
			     "group %s knows a newer member of our instance name", c->group);
	return fault(f, FAULT_ENVIRONMENT, "consumer: %s", text);
}

static void consume_log_error(struct consume *c, const rd_kafka_message_t *msg)
{
	if (msg->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
		return;
	if (msg->err == c->last_error && ++c->error_count % ERROR_QUIET != 0)
		return;
	if (msg->err != c->last_error)
		c->error_count = 0;
	c->last_error = msg->err;
	log_warn("consumer: %s: %s", rd_kafka_err2name(msg->err), rd_kafka_message_errstr(msg));
}

bool consume_poll(struct consume *c, int timeout_ms, struct fault *f)
{
	rd_kafka_message_t *msg = rd_kafka_consumer_poll(c->rk, timeout_ms);
	bool ok = true;

	if (c->rebalance_fault.kind != FAULT_NONE) {
		*f = c->rebalance_fault;
		ok = false;
	}
	if (!msg)
		return ok;
	if (ok && msg->err == RD_KAFKA_RESP_ERR__FATAL)
		ok = consume_fatal(c, f);
	else if (msg->err)
		consume_log_error(c, msg);
	rd_kafka_message_destroy(msg);
	return ok;
}

bool consume_seek(struct consume *c, enum consume_topic topic, int partition, int64_t offset,
		  struct fault *f)
{
	const char *name = consume_topic_name(c->migration, topic);
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_topic_partition_t *p = rd_kafka_topic_partition_list_add(list, name, partition);
	rd_kafka_resp_err_t err;
	rd_kafka_error_t *error;

	p->offset = offset;
	error = rd_kafka_seek_partitions(c->rk, list, SEEK_TIMEOUT_MS);
	err = error ? rd_kafka_error_code(error) : p->err;
	if (error)
		rd_kafka_error_destroy(error);
	rd_kafka_topic_partition_list_destroy(list);
	if (err)
		return fault(f, FAULT_ENVIRONMENT, "seek in %s partition %d to offset %" PRId64 ": %s",
			     name, partition, offset, rd_kafka_err2str(err));
	return true;
}

bool consume_bounds(struct consume *c, enum consume_topic topic, int partition, int64_t *ret_low,
		    int64_t *ret_high, struct fault *f)
{
	return kafka_bounds(c->rk, consume_topic_name(c->migration, topic), partition, ret_low,
			    ret_high, f);
}

bool consume_has_more(struct consume *c, enum consume_topic topic, int partition, int64_t offset)
{
	int64_t low, high;

	return rd_kafka_get_watermark_offsets(c->rk, consume_topic_name(c->migration, topic),
					      partition, &low, &high) == RD_KAFKA_RESP_ERR_NO_ERROR &&
	       high > offset;
}

void consume_wake(struct consume *c, enum consume_topic topic, int partition)
{
	kafka_wake(c->rk, consume_topic_name(c->migration, topic), partition);
}

/* The partition's last ordinal as of the record at offset (or the first record behind it). */
static bool consume_probe(rd_kafka_t *reader, const char *topic, int partition, int64_t offset,
			  const struct framing *framing, uint64_t *ret_ordinal, struct fault *f)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_message_t *msg = NULL;
	struct event ev;
	struct arena a;
	bool ok;

	rd_kafka_topic_partition_list_add(list, topic, partition)->offset = offset;
	rd_kafka_assign(reader, list);
	rd_kafka_topic_partition_list_destroy(list);
	for (int waited = 0; waited < PROBE_TIMEOUT_MS && !msg; waited += 500) {
		msg = rd_kafka_consumer_poll(reader, 500);
		if (msg && msg->err) {
			rd_kafka_message_destroy(msg);
			msg = NULL;
		}
	}
	if (!msg)
		return fault(f, FAULT_ENVIRONMENT,
			     "%s partition %d: no record from offset %" PRId64 " in %d s", topic,
			     partition, offset, PROBE_TIMEOUT_MS / 1000);
	arena_init(&a, 64 * 1024 * 1024);
	ok = event_read(framing, span(msg->payload, msg->len), &a, &ev, f);
	if (ok)
		*ret_ordinal = ev.head.ordinal;
	arena_release(&a);
	rd_kafka_message_destroy(msg);
	return ok;
}

/* Every record of <m>.changes carries its own ordinal or the partition's last, so they only grow
 * with the offset, but for what is there twice: SEARCH_MARGIN. */
static bool consume_bisect(rd_kafka_t *reader, const char *topic, int partition, int64_t low,
			   int64_t high, const struct framing *framing, uint64_t ordinal,
			   int64_t *ret_offset, struct fault *f)
{
	int64_t first = low, end = high;
	uint64_t seen;

	if (!consume_probe(reader, topic, partition, low, framing, &seen, f))
		return false;
	if (low > 0 && seen > ordinal + 1)
		return fault(f, FAULT_LOST,
			     "%s partition %d begins with ordinal %" PRIu64 " at offset %" PRId64
			     ", but the target has only up to %" PRIu64 ": the records between are lost",
			     topic, partition, seen, low, ordinal);
	while (first < end) {
		int64_t middle = first + (end - first) / 2;

		if (!consume_probe(reader, topic, partition, middle, framing, &seen, f))
			return false;
		if (seen > ordinal)
			end = middle;
		else
			first = middle + 1;
	}
	*ret_offset = first - SEARCH_MARGIN < low ? low : first - SEARCH_MARGIN;
	return true;
}

bool consume_search(struct consume *c, const struct framing *framing, int partition,
		    uint64_t ordinal, int64_t *ret_offset, struct fault *f)
{
	const char *topic = c->migration->changes_topic;
	rd_kafka_t *reader;
	int64_t low, high;
	bool ok;

	if (!consume_bounds(c, CONSUME_CHANGES, partition, &low, &high, f))
		return false;
	*ret_offset = low;
	if (low == high)
		return true;
	reader = kafka_reader(&c->conf, f);
	if (!reader)
		return false;
	ok = consume_bisect(reader, topic, partition, low, high, framing, ordinal, ret_offset, f);
	rd_kafka_consumer_close(reader);
	rd_kafka_destroy(reader);
	return ok;
}

void consume_hint(struct consume *c, enum consume_topic topic, int partition, int64_t offset)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);

	rd_kafka_topic_partition_list_add(list, consume_topic_name(c->migration, topic), partition)
		->offset = offset;
	rd_kafka_commit(c->rk, list, 1);
	rd_kafka_topic_partition_list_destroy(list);
}
