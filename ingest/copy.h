// SPDX-License-Identifier: Apache-2.0
/*
 * copy - one round: a set of tables read at one point and produced to <m>.snapshot.
 *
 * copy_new starts a thread that gets the point (temporary slot, exported snapshot), opens copy.jobs
 * connections under that snapshot, gives the slot back, and lets one worker thread per connection read
 * ctid ranges, the largest first. A table's end markers are produced when all of its records are acknowledged;
 * the table is complete when the markers are.
 *
 * Delivery reports arrive where the producer's owner polls: it hands those with copy_is_message() to
 * copy_delivered(). Reports of a round that is gone are recognised and dropped. What happened is
 * fetched with copy_next() whenever copy_fd() is readable.
 *
 * A table whose shape or storage changed between its version and the snapshot is void (COPY_VOID), the
 * round goes on. Any other failure ends the round (COPY_FAILED): every table not complete is void then.
 *
 * Thread: copy_new, copy_delivered, copy_next, copy_void and copy_free belong to one thread (ingest's);
 * copy_progress may be called by any. copy_delivered never waits.
 */
#ifndef INGEST_COPY_H
#define INGEST_COPY_H

#include "core/codec.h"
#include "core/migration.h"

struct copy_table {
	const struct relation *rel;      /* borrowed until copy_free, as is codec */
	const struct codec *codec;
	uint32_t attempt;
};

struct copy_conf {
	const struct migration *m;
	const struct framing *framing;
	rd_kafka_t *producer;
	uint64_t generation;
	const struct copy_table *tables; /* copied */
	size_t table_count;
};

struct copy;

struct copy *copy_new(const struct copy_conf *conf, struct fault *f);
/* Cancels what still runs and waits for the threads; records in librdkafka's queue go their way. */
void copy_free(struct copy *c);

enum copy_event_kind {
	COPY_POINT,      /* point is known: before any record of it is produced */
	COPY_COMPLETE,   /* oid, attempt, records: everything of the table incl. markers is acknowledged */
	COPY_VOID,       /* oid, attempt, fault: this table must be copied in another round */
	COPY_END,        /* every table is complete or void */
	COPY_FAILED,     /* fault; nothing follows */
};
struct copy_event {
	enum copy_event_kind kind;
	struct boundary point;
	uint32_t oid, attempt;
	uint64_t records;
	struct fault fault;
};
/* Readable while copy_next has something to give. */
int copy_fd(const struct copy *c);
bool copy_next(struct copy *c, struct copy_event *ret);

/* Is this delivery report of a snapshot record (of any round)? Decided by its opaque, whose top bit
 * is ours: no user-space pointer has it. */
static inline bool copy_is_message(const rd_kafka_message_t *msg)
{
	return (uintptr_t)msg->_private >> (sizeof(uintptr_t) * 8 - 1);
}
void copy_delivered(struct copy *c, const rd_kafka_message_t *msg);

/* The stream says that the table's shape changed at or before its point: stop copying it. Gives COPY_VOID
 * unless the table is complete already (then false). */
bool copy_void(struct copy *c, uint32_t oid, const char *reason);

enum copy_state { COPY_WAITING, COPY_READING, COPY_DRAINING, COPY_MARKING, COPY_DONE, COPY_IS_VOID };
const char *copy_state_name(enum copy_state state);
struct copy_progress {
	uint32_t oid, attempt;
	enum copy_state state;
	uint64_t rows, bytes;            /* read so far */
	uint64_t rows_estimate;          /* reltuples; 0 unknown */
	uint64_t bytes_total, bytes_done; /* size of the table's storage, and of the ranges read */
	double seconds;                  /* since reading began */
};
size_t copy_table_count(const struct copy *c);
void copy_progress(struct copy *c, size_t i, struct copy_progress *ret);

#endif
