// SPDX-License-Identifier: Apache-2.0
/*
 * part - a partition in the hands of a lane: its queue, its progress, the records read ahead.
 *
 *   UNTAKEN ──take──▶ SEEKING ──seek──▶ OPEN ◀──▶ WAITS_…, HELD ; OPEN ──▶ STOPPED
 *      ▲                 ▲
 *      │ fenced, or the connection is gone    │ the batch was rolled back
 *
 * `have` is what the target has; `next` is what it will have when the batch that is being collected
 * commits. After a rollback records are not kept: the partition seeks back to `have`.
 *
 * Where source transactions are applied whole (`is_whole`: order: transaction, the partition with all
 * changes; partitions with tables whose constraints the target enforces), a batch goes to `ended` instead: the place in front of `next` where a source transaction
 * ended. What was read between the two is kept in `tail`. See whole.c.
 *
 * Thread: the lane's.
 */
#ifndef SHADOW_PART_H
#define SHADOW_PART_H

#include "shadow/consume.h"
#include "shadow/counts.h"
#include "shadow/progress.h"

enum part_state {
	PART_UNTAKEN,         /* the progress row must be taken (again) */
	PART_SEEKING,         /* the row is ours; the queue must go to have.next_offset */
	PART_OPEN,
	PART_WAITS_SCHEMA,    /* the next record's schema or relation is not in control yet */
	PART_WAITS_COPY,      /* the next record is beyond the point of a table that is being copied */
	PART_WAITS_EXCLUSIVE, /* the next record is an exclusive event */
	PART_WAITS_TARGET,    /* a person must run DDL on the target first */
	PART_WAITS_GATE,
	PART_HELD,            /* stands still for a repair (repair.h) */
	PART_STOPPED,         /* a record cannot be applied; reported */
	PART_STATES
};
const char *part_state_name(enum part_state state);

struct part {
	enum consume_topic topic;
	int partition;
	struct progress_key key;
	struct consume *consume;
	rd_kafka_queue_t *queue;
	enum part_state state;
	int64_t retry_us;   /* UNTAKEN, SEEKING, WAITS_…: not before (clock_us) */
	int64_t since_us;   /* of the state */
	struct progress have, next, ended;
	struct count_notes notes; /* records of changes that it goes over without applying them */
	bool is_dry;        /* its queue was empty at the last look */
	bool is_in_batch;
	bool is_cut;        /* nothing more of it in this batch */
	/* read and not collected yet, in order */
	rd_kafka_message_t *ahead[256];
	size_t ahead_first, ahead_count;
	enum { PART_NOT_SEARCHED, PART_SEARCHED, PART_FROM_LOW } search;
	int64_t commit_hint_us;
	bool needs_seek;         /* next.next_offset is not behind what was read: seek when committed */
	int64_t seek_delay_us;
	int64_t read_us;         /* when it last read something, or was put somewhere */
	int64_t patience_us;     /* how long it may have more and give nothing */
	int64_t more_us;         /* since when the log is known to have more than was read; 0: it has not */
	int64_t jump_offset;     /* a record that stood behind a hole when it was first seen */
	int64_t poison_offset;   /* stop in front of the record with this offset; -1: none */
	/* of a partition of changes with whole transactions only */
	bool is_whole;
	bool becomes_whole;      /* with the next batch */
	bool is_event_due;       /* the next record is an event that runs in its place, and it can */
	bool is_void;            /* what is between `ended` and `next` was rolled back: to be read again */
	rd_kafka_message_t **tail; /* LANE_BATCH_RECORDS; to be applied when their transaction has ended */
	size_t tail_count;
	struct commit_lsn careful;       /* this transaction is applied change by change; 0: none */
	struct commit_lsn poison_commit; /* stop in front of this transaction; 0: none */
	char why[512], poison_why[512];
};

struct part *part_new(const struct migration *m, struct consume *c, enum consume_topic topic,
		      int partition, rd_kafka_queue_t *q);
void part_free(struct part *p);
/* Logs old → new and why (may be NULL) when it is worth a line. */
void part_set(struct part *p, enum part_state state, const char *why);
/* A state that looks again after delay_us. */
void part_set_later(struct part *p, enum part_state state, int64_t delay_us, const char *why);
/* The target is at `now`, and so is what was read. */
void part_moved(struct part *p, const struct progress *now);
/* Forgets what was read and collected since `have`; the queue must be put back to it. */
void part_rewind(struct part *p, int64_t delay_us);
/* Forgets the row too. */
void part_untake(struct part *p, int64_t delay_us);
/* The next record, or NULL. It stays in front until part_shift. */
rd_kafka_message_t *part_front(struct part *p);
rd_kafka_message_t *part_shift(struct part *p);
/* What the batch that is being collected takes the partition to. */
const struct progress *part_goal(const struct part *p);
/* Has that anything to write that `have` does not have? */
bool part_has_moved(const struct part *p);

#endif
