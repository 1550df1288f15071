// SPDX-License-Identifier: Apache-2.0
#include "ingest/publish.h"

#include <assert.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/failpoint.h"
#include "core/log.h"
#include "ingest/ack.h"
#include "ingest/hold.h"

enum {
	MESSAGE_MAX_BYTES = 64 << 20,  /* max.message.bytes of our topics */
	MESSAGE_OVERHEAD_BYTES = 4096, /* batch and record headers, with room to spare */
	BARRIER_MAX = 1024,
	IDLE_MS = 50,
	REPORT_BATCH = 1024,
};

struct publish {
	struct publish_conf conf;
	rd_kafka_t *client;
	rd_kafka_queue_t *events;
	rd_kafka_topic_t *changes, *snapshot;
	struct publish_place *places;
	struct hold *holds;
	size_t held;         /* records since all was handed over */
	int64_t held_us;     /* when the first of them came */
	uint32_t hold_us;
	struct ack *ack;
	uint64_t generation;
	uint64_t marks;  /* snapshot fences and bases that are out */
	bool is_cut_off; /* no broker answers, and that was said */
	struct buf record;
	struct publish_totals totals;
	const rd_kafka_message_t *reports[REPORT_BATCH];
};

struct publish *publish_new(const struct publish_conf *conf, struct fault *f)
{
	struct publish *p = calloc(1, sizeof(*p));

	if (!p) {
		fault(f, FAULT_INTERNAL, "out of memory");
		return NULL;
	}
	p->conf = *conf;
	buf_init(&p->record, 2 * (size_t)MESSAGE_MAX_BYTES);
	p->places = calloc((size_t)conf->partition_count, sizeof(*p->places));
	p->holds = calloc((size_t)conf->partition_count, sizeof(*p->holds));
	p->ack = ack_new(conf->partition_count, BARRIER_MAX, (struct boundary) { 0 });
	if (!p->places || !p->holds || !p->ack) {
		fault(f, FAULT_INTERNAL, "out of memory");
		goto fail;
	}
	for (int i = 0; i < conf->partition_count; i++)
		hold_init(&p->holds[i]);
	p->client = kafka_producer(conf->kafka, conf->event_fd, &p->events, f);
	if (!p->client)
		goto fail;
	p->changes = rd_kafka_topic_new(p->client, conf->changes_topic, NULL);
	p->snapshot = rd_kafka_topic_new(p->client, conf->snapshot_topic, NULL);
	if (!p->changes || !p->snapshot) {
		kafka_fault(rd_kafka_last_error(), conf->changes_topic, f);
		goto fail;
	}
	return p;
fail:
	publish_free(p);
	return NULL;
}

void publish_free(struct publish *p)
{
	if (!p)
		return;
	if (p->client)
		rd_kafka_purge(p->client, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT |
					      RD_KAFKA_PURGE_F_NON_BLOCKING);
	if (p->changes)
		rd_kafka_topic_destroy(p->changes);
	if (p->snapshot)
		rd_kafka_topic_destroy(p->snapshot);
	if (p->events)
		rd_kafka_queue_destroy(p->events);
	if (p->client)
		rd_kafka_destroy_flags(p->client, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	ack_free(p->ack);
	free(p->places);
	for (int i = 0; p->holds && i < p->conf.partition_count; i++)
		hold_release(&p->holds[i]);
	free(p->holds);
	buf_release(&p->record);
	free(p);
}

rd_kafka_t *publish_client(struct publish *p)
{
	return p->client;
}

/* ---- delivery reports ---- */

static bool take_report(struct publish *p, const rd_kafka_message_t *m, struct fault *f)
{
	bool is_change = m->rkt == p->changes;

	if (m->err && (is_change || !m->_private))
		return fault(f, FAULT_ENVIRONMENT,
			     "%s, partition %d: a record was not delivered: %s",
			     is_change ? p->conf.changes_topic : p->conf.snapshot_topic,
			     (int)m->partition, rd_kafka_err2str(m->err));
	if (p->is_cut_off && !m->err)
		log_info("Kafka: brokers answer again, ingest goes on");
	p->is_cut_off = p->is_cut_off && m->err;
	if (is_change)
		return ack_delivered(p->ack, (int)m->partition, (uint64_t)(uintptr_t)m->_private,
				     f);
	if (m->_private)
		p->conf.copied(p->conf.arg, m);
	else
		p->marks--;
	return true;
}

/* Said once each time: librdkafka goes on trying, and says every try. */
static void say_cut_off(struct publish *p)
{
	if (!p->is_cut_off)
		log_warn("Kafka: no broker answers: ingest waits, and the slot keeps the source's WAL "
			 "meanwhile; next step: start the brokers, or look at bootstrap.servers and the "
			 "network; watch the free space of the source's disk");
	p->is_cut_off = true;
}

static bool take_error(struct publish *p, rd_kafka_event_t *event, struct fault *f)
{
	rd_kafka_resp_err_t err = rd_kafka_event_error(event);
	char text[512];

	if (err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) {
		say_cut_off(p);
		return true;
	}
	if (err != RD_KAFKA_RESP_ERR__FATAL) {
		log_warn("kafka: %s", rd_kafka_event_error_string(event));
		return true;
	}
	err = rd_kafka_fatal_error(p->client, text, sizeof(text));
	return fault(f, FAULT_ENVIRONMENT, "the producer cannot go on: %s: %s",
		     rd_kafka_err2name(err), text);
}

bool publish_serve(struct publish *p, struct fault *f)
{
	rd_kafka_event_t *event;
	bool ok = true;

	while (ok && (event = rd_kafka_queue_poll(p->events, 0))) {
		size_t n;

		switch (rd_kafka_event_type(event)) {
		case RD_KAFKA_EVENT_DR:
			while (ok && (n = rd_kafka_event_message_array(event, p->reports,
								       REPORT_BATCH)) > 0) {
				for (size_t i = 0; ok && i < n; i++)
					ok = take_report(p, p->reports[i], f);
			}
			break;
		case RD_KAFKA_EVENT_ERROR:
			ok = take_error(p, event, f);
			break;
		default:
			break;
		}
		rd_kafka_event_destroy(event);
	}
	return ok;
}

/* ---- sending ---- */

/* Puts a record into librdkafka's queue; waits in idle while that is full. */
static bool produce(struct publish *p, rd_kafka_topic_t *topic, int partition, struct span key,
		    struct span record, void *opaque, struct fault *f)
{
	while (rd_kafka_produce(topic, partition, RD_KAFKA_MSG_F_COPY, (void *)record.p, record.n,
				key.p, key.n, opaque) != 0) {
		rd_kafka_resp_err_t err = rd_kafka_last_error();

		if (err != RD_KAFKA_RESP_ERR__QUEUE_FULL) {
			kafka_fault(err, rd_kafka_topic_name(topic), f);
			if (f)
				f->kind = FAULT_ENVIRONMENT;
			return false;
		}
		if (!p->conf.idle(p->conf.arg, IDLE_MS, f))
			return false;
	}
	return topic != p->changes || !failpoint("publish.after_produce") ||
	       fault(f, FAULT_ENVIRONMENT, "failpoint publish.after_produce");
}

/* Cut off in the middle, it goes on from there the next time. */
static bool hand_over_one(struct publish *p, int partition, struct fault *f)
{
	struct hold *h = &p->holds[partition];
	struct held r;

	for (; hold_front(h, &r); hold_shift(h))
		if (!produce(p, p->changes, partition, r.key, r.record,
			     (void *)(uintptr_t)r.number, f))
			return false;
	return true;
}

static bool hand_over(struct publish *p, struct fault *f)
{
	for (int i = 0; i < p->conf.partition_count; i++)
		if (!hand_over_one(p, i, f))
			return false;
	p->held = 0;
	return true;
}

bool publish_step(struct publish *p, int64_t now_us, bool is_idle, struct fault *f)
{
	if (p->held == 0 || (!is_idle && now_us - p->held_us < p->hold_us))
		return true;
	p->hold_us = hold_next_us(p->hold_us, p->held, p->conf.partition_count);
	return hand_over(p, f);
}

bool publish_drain(struct publish *p, struct fault *f)
{
	if (!hand_over(p, f))
		return false;
	while (publish_outstanding(p) > 0) {
		if (!p->conf.idle(p->conf.arg, IDLE_MS, f))
			return false;
	}
	return true;
}

static bool hold(struct publish *p, int partition, const struct held *r, struct fault *f)
{
	if (!hold_add(&p->holds[partition], r))
		return fault(f, FAULT_INTERNAL, "out of memory");
	if (p->held++ == 0)
		p->held_us = clock_us();
	return true;
}

/*
 * What is in p->record is this partition's next message of <m>.changes. It gets its number when nothing
 * before it can fail any more: one that was not sent must leave no trace, or a barrier could pass it.
 */
static bool send_change(struct publish *p, int partition, struct span key, struct fault *f)
{
	bool is_large = key.n + p->record.n > HOLD_RECORD_BYTES;
	struct held r = { .key = key, .record = buf_span(&p->record) };

	if ((is_large || p->holds[partition].bytes.n >= HOLD_BYTES) && !hand_over_one(p, partition, f))
		return false;
	r.number = ack_sent(p->ack, partition);
	if (is_large ? !produce(p, p->changes, partition, key, r.record,
				(void *)(uintptr_t)r.number, f)
		     : !hold(p, partition, &r, f)) {
		ack_unsent(p->ack, partition);
		return false;
	}
	p->totals.records++;
	p->totals.bytes += p->record.n;
	return true;
}

static struct event_head marker_head(const struct publish *p, char op, struct publish_place last)
{
	return (struct event_head) { .kind = EVENT_MARKER,
				     .op = op,
				     .generation = p->generation,
				     .ordinal = last.ordinal,
				     .position = last.position,
				     .ts_us = clock_wall_us() };
}

static bool mark(struct publish *p, char op, struct fault *f)
{
	const struct marker none = { 0 };
	struct span no_key = { 0 };

	for (int i = 0; i < p->conf.partition_count; i++) {
		struct event_head h = marker_head(p, op, p->places[i]);

		buf_reset(&p->record);
		if (!event_write_marker(p->conf.framing, &h, &none, &p->record))
			return fault(f, FAULT_INTERNAL, "a marker could not be written");
		if (!send_change(p, i, no_key, f))
			return false;
		h.ordinal = 0;
		h.position = (struct position) { { 0 }, 0 };
		buf_reset(&p->record);
		if (!event_write_marker(p->conf.framing, &h, &none, &p->record))
			return fault(f, FAULT_INTERNAL, "a marker could not be written");
		if (!produce(p, p->snapshot, i, no_key, buf_span(&p->record), NULL, f))
			return false;
		p->marks++;
	}
	return true;
}

bool publish_fence(struct publish *p, uint64_t generation, struct fault *f)
{
	p->generation = generation;
	return mark(p, 'f', f) && publish_drain(p, f);
}

bool publish_base(struct publish *p, const struct publish_place *places, struct boundary confirmed,
		  struct fault *f)
{
	assert(publish_outstanding(p) == 0);
	ack_free(p->ack);
	p->ack = ack_new(p->conf.partition_count, BARRIER_MAX, confirmed);
	if (!p->ack)
		return fault(f, FAULT_INTERNAL, "out of memory");
	memcpy(p->places, places, (size_t)p->conf.partition_count * sizeof(*places));
	return mark(p, 's', f) && publish_drain(p, f);
}

bool publish_has(const struct publish *p, int partition, struct position at)
{
	return position_cmp(at, p->places[partition].position) <= 0;
}

bool publish_is_within(const struct publish *p, struct boundary x)
{
	for (int i = 0; i < p->conf.partition_count; i++) {
		struct position last = p->places[i].position;

		/* (X, 0) stands between transactions: it is behind all that are in X. */
		if (!boundary_has(x, last.commit) && !(last.commit.v == x.v && last.seq == 0))
			return false;
	}
	return true;
}

/* Head of the next record of a partition. */
static struct event_head next_head(const struct publish *p, int partition, enum event_kind kind,
				   const struct event_head *h)
{
	struct event_head next = *h;

	next.kind = kind;
	next.generation = p->generation;
	next.ordinal = p->places[partition].ordinal + 1;
	return next;
}

static bool finish(struct publish *p, int partition, struct span key, struct position at,
		   struct fault *f)
{
	if (!send_change(p, partition, key, f))
		return false;
	p->places[partition].ordinal++;
	p->places[partition].position = at;
	return true;
}

static bool too_large(const struct publish *p, struct span what, struct span key, struct fault *f)
{
	enum { SHOWN = 200 };

	return fault(
	    f, FAULT_STOP,
	    "a record of %.*s is %zu bytes, key %.*s: a record may have %d bytes "
	    "(max.message.bytes of "
	    "topic %s): shorten the value on the source, or leave the table out of tables:",
	    SPAN_ARG(what), p->record.n, (int)(key.n > SHOWN ? SHOWN : key.n), key.p ? key.p : "",
	    MESSAGE_MAX_BYTES - MESSAGE_OVERHEAD_BYTES, p->conf.changes_topic);
}

static bool fits(const struct publish *p, struct span key)
{
	return !buf_failed(&p->record) &&
	       p->record.n + key.n <= MESSAGE_MAX_BYTES - MESSAGE_OVERHEAD_BYTES;
}

bool publish_change(struct publish *p, const struct codec *c, int partition, struct span key,
		    const struct event_head *h, const struct change *ch, struct fault *f)
{
	struct event_head head;
	const struct relation *rel = codec_relation(c);

	if (publish_has(p, partition, h->position)) {
		p->totals.skipped++;
		return true;
	}
	head = next_head(p, partition, EVENT_CHANGE, h);
	buf_reset(&p->record);
	if (!codec_encode(c, p->conf.framing, &head, ch, &p->record, f) && !buf_failed(&p->record))
		return fault_in(f, "%.*s.%.*s", SPAN_ARG(rel->schema), SPAN_ARG(rel->table));
	if (!fits(p, key))
		return too_large(p, rel->table, key, f);
	return finish(p, partition, key, h->position, f);
}

static bool exclusive_to(struct publish *p, int partition, const struct event_head *h,
			 const struct exclusive *e, struct fault *f)
{
	struct event_head head;
	struct span no_key = { 0 };

	if (publish_has(p, partition, h->position)) {
		p->totals.skipped++;
		return true;
	}
	head = next_head(p, partition, EVENT_EXCLUSIVE, h);
	buf_reset(&p->record);
	if (!event_write_exclusive(p->conf.framing, &head, e, &p->record) &&
	    !buf_failed(&p->record))
		return fault(f, FAULT_INTERNAL, "an exclusive event could not be written");
	if (!fits(p, no_key))
		return too_large(p, span_str("an exclusive event"), no_key, f);
	return finish(p, partition, no_key, h->position, f);
}

bool publish_exclusive(struct publish *p, int partition, const struct event_head *h,
		       const struct exclusive *e, struct fault *f)
{
	if (partition >= 0)
		return exclusive_to(p, partition, h, e, f);
	for (int i = 0; i < p->conf.partition_count; i++) {
		if (!exclusive_to(p, i, h, e, f))
			return false;
	}
	return true;
}

bool publish_has_barrier_room(const struct publish *p)
{
	return ack_has_room(p->ack);
}

bool publish_barrier(struct publish *p, struct boundary x, const struct barrier *counts,
		     struct fault *f)
{
	const struct barrier none = { 0 };
	struct span no_key = { 0 };
	int64_t now = clock_wall_us();

	for (int i = 0; i < p->conf.partition_count; i++) {
		const struct event_head h = { .kind = EVENT_BARRIER,
					      .op = 'b',
					      .generation = p->generation,
					      .ordinal = p->places[i].ordinal,
					      .position = p->places[i].position,
					      .boundary = x,
					      .ts_us = now };

		buf_reset(&p->record);
		if (!event_write_barrier(p->conf.framing, &h, i == 0 ? counts : &none, &p->record))
			return fault(f, FAULT_INTERNAL, "a barrier could not be written");
		if (!send_change(p, i, no_key, f))
			return false;
	}
	ack_barrier(p->ack, x);
	return true;
}

void publish_mark(struct publish *p)
{
	ack_mark(p->ack);
}

bool publish_mark_reached(const struct publish *p)
{
	return ack_mark_reached(p->ack);
}

struct boundary publish_confirmed(const struct publish *p)
{
	return ack_confirmed(p->ack);
}

uint64_t publish_outstanding(const struct publish *p)
{
	return ack_outstanding(p->ack) + p->marks;
}

struct publish_totals publish_totals(const struct publish *p)
{
	struct publish_totals t = p->totals;

	t.acked = ack_total(p->ack);
	return t;
}
