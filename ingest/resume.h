// SPDX-License-Identifier: Apache-2.0
/*
 * resume - where does each partition of <m>.changes stand, now that we have fenced it?
 *
 * Pure part, one struct per partition: it is fed the heads of a window of the partition, from some
 * offset up to our own fence, and reads them by the consumers' rules (sequence.h):
 *
 * 1. Reading starts at the first barrier of the window that is at or before the slot's confirmed
 *    boundary and of no lower generation than what the window has shown before it; at the log's
 * very beginning it starts with the slot itself (origin).
 * 2. A fence that lies before the window may have made that barrier stale without our knowing. So
 *    unless the window begins where the log begins, every generation between the barrier's and ours
 *    must have shown its fence in the window behind the barrier; otherwise a larger window is read.
 * 3. The newest barrier the rules accept must be at or beyond the slot's confirmed boundary: the
 *    source has forgotten everything before it, so Kafka must still have it.
 *
 * resume_read is the thin shell: windows that double from the end until 1 and 2 are content.
 */
#ifndef INGEST_RESUME_H
#define INGEST_RESUME_H

#include <librdkafka/rdkafka.h>

#include "core/arena.h"
#include "core/event.h"
#include "core/kafka.h"
#include "core/sequence.h"

struct resume {
	struct boundary confirmed;
	uint64_t generation; /* ours */
	bool has_start, from_log_start, at_end;
	uint64_t start_generation, highest_generation;
	uint64_t fences, newest_fence; /* behind the start, of rising generations below ours */
	uint64_t gaps;
	struct sequence sequence; /* the answer: last ordinal, position, newest accepted barrier */
	struct boundary counted;  /* newest accepted barrier at or before confirmed */
};

enum resume_step {
	RESUME_GO_ON,
	RESUME_COUNTS, /* as GO_ON; this barrier is the newest so far at or before confirmed */
	RESUME_END,    /* our own fence: feed nothing more */
	RESUME_FAULT,  /* the records disagree: f says how */
};

/* A window that begins at the log's beginning has an origin: the boundary the slot was made at. */
void resume_init(struct resume *r, struct boundary confirmed, uint64_t generation,
		 const struct boundary *origin, bool from_log_start);
enum resume_step resume_feed(struct resume *r, const struct event_head *h, struct fault *f);
/* After the window: may its answer be used (rules 1 and 2), or must a larger one be read? */
bool resume_is_sure(const struct resume *r);
/* Rule 3; a fault names the partition and what is missing. */
bool resume_check(const struct resume *r, int partition, struct fault *f);

/* Waits up to timeout_ms; called at least every 100 ms; false (with a fault) ends the reading. */
typedef bool (*resume_idle)(void *arg, int timeout_ms, struct fault *f);

struct resume_request {
	rd_kafka_t *reader; /* kafka_reader */
	const struct framing *framing;
	const char *topic;
	int partition_count;
	struct boundary confirmed; /* the slot's */
	struct boundary origin;    /* the slot's creation */
	uint64_t generation;       /* ours, fenced and acknowledged */
	resume_idle idle;
	event_learn learn; /* a process that has just started knows no ids but those of the fixed schemas */
	void *arg;         /* of both */
};

/*
 * Fills partitions[partition_count]; ret_counts gets the counts of partition 0's barrier at
 * confirmed, in a.
 */
bool resume_read(const struct resume_request *q, struct resume *partitions, struct arena *a,
		 struct barrier *ret_counts, struct fault *f);

/* kafka_ranges of all partitions, tried again while a leader is being found. */
bool resume_ranges(const struct resume_request *q, const char *topic, struct kafka_range *ret,
		   struct fault *f);
/* Highest generation in the last records of every partition of a topic; 0 when there is none. */
bool resume_highest(const struct resume_request *q, const char *topic, uint64_t *ret,
		    struct fault *f);

#endif
