// SPDX-License-Identifier: Apache-2.0
/*
 * publish - records of one generation on their way into <m>.changes, and what became of them.
 *
 * Each partition has its next ordinal and the position of its last record. A record whose position
 * is not beyond that has been published by an earlier generation and is left out: WAL is decoded
 * again after every restart, and the ordinals must come out the same.
 *
 * Records come together in a hold of their partition and go to librdkafka's queue in bursts
 * (publish_step). When that queue is full nobody may read the socket any more, but delivery reports,
 * feedback and the stop flag must be served: idle() does that.
 * Delivery reports come in batches; those of <m>.changes go to ack, those of <m>.snapshot to
 * copied(). A report of failure, or one out of order, ends the generation (FAULT_ENVIRONMENT): a
 * new one reads what Kafka really has.
 *
 * Thread: ingest. Copy workers may use publish_client() to produce to <m>.snapshot (librdkafka is
 * thread-safe); they must give every message an opaque that is not NULL.
 */
#ifndef INGEST_PUBLISH_H
#define INGEST_PUBLISH_H

#include <librdkafka/rdkafka.h>

#include "core/codec.h"
#include "core/event.h"
#include "core/kafka.h"

struct publish;

/* Waits up to timeout_ms, serving everything but the replication socket's data. */
typedef bool (*publish_idle)(void *arg, int timeout_ms, struct fault *f);
/* A delivery report of <m>.snapshot. */
typedef void (*publish_copied)(void *arg, const rd_kafka_message_t *m);

struct publish_conf {
	const struct kafka_conf *kafka;
	const struct framing *framing;
	const char *changes_topic, *snapshot_topic;
	int partition_count;
	int event_fd; /* signalled when reports are waiting; may be -1 */
	publish_idle idle;
	publish_copied copied;
	void *arg; /* of both */
};

struct publish *publish_new(const struct publish_conf *conf, struct fault *f);
/* Throws away what is still queued. */
void publish_free(struct publish *p);
rd_kafka_t *publish_client(struct publish *p);

/* Where a partition stands: ordinal and position of its last record. */
struct publish_place {
	uint64_t ordinal;
	struct position position;
};

/* Fences of generation to every partition of both topics; returns when all are acknowledged. */
bool publish_fence(struct publish *p, uint64_t generation, struct fault *f);
/* places[partition_count]: bases of the generation to every partition of both topics; returns when
 * all are acknowledged. confirmed: what the slot has confirmed. */
bool publish_base(struct publish *p, const struct publish_place *places, struct boundary confirmed,
		  struct fault *f);

/* Is this partition's last record at or beyond the position? */
bool publish_has(const struct publish *p, int partition, struct position at);
/* Are all partitions' last records in the boundary? */
bool publish_is_within(const struct publish *p, struct boundary x);

/*
 * One row change; h: everything but kind, fingerprint, generation and ordinal. what names the
 * table, for the message when the record is too large.
 */
bool publish_change(struct publish *p, const struct codec *c, int partition, struct span key,
		    const struct event_head *h, const struct change *ch, struct fault *f);
/* partition < 0: to every partition, each with its own ordinal. */
bool publish_exclusive(struct publish *p, int partition, const struct event_head *h,
		       const struct exclusive *e, struct fault *f);
/* May a barrier be sent now? (Not too many are outstanding.) */
bool publish_has_barrier_room(const struct publish *p);
bool publish_barrier(struct publish *p, struct boundary x, const struct barrier *counts,
		     struct fault *f);

/* Hands over what has been held long enough, or everything: is_idle says that no more comes for now.
 * To be called after every look at the source. */
bool publish_step(struct publish *p, int64_t now_us, bool is_idle, struct fault *f);
/* Takes the waiting reports; returns at once when there is none. */
bool publish_serve(struct publish *p, struct fault *f);
/* Hands everything over and waits (in idle) until it is acknowledged. */
bool publish_drain(struct publish *p, struct fault *f);

/* Remembers what is sent now; has all of that been acknowledged? */
void publish_mark(struct publish *p);
bool publish_mark_reached(const struct publish *p);
/* What the source may forget. */
struct boundary publish_confirmed(const struct publish *p);
uint64_t publish_outstanding(const struct publish *p);

struct publish_totals {
	uint64_t records, bytes, acked, skipped;
};
struct publish_totals publish_totals(const struct publish *p);

#endif
