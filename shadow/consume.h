// SPDX-License-Identifier: Apache-2.0
/*
 * consume - a role's member of its Kafka consumer group, and the queues of its partitions.
 *
 * The role thread polls the member (consume_poll), so that it stays in the group whatever the lanes
 * do. Records never come through the member's own queue: before partitions are assigned, each one's
 * queue is cut loose from it and handed to `assigned`, for a lane to read. Where a partition starts
 * is decided by its lane, with consume_seek after it has taken the progress row; what
 * came before that is thrown away.
 *
 * Offsets committed to the group are a hint for people's monitoring; nothing reads them back.
 *
 * Threads: consume_new, _poll, _hand_out, _leave, _free: role. consume_seek, _search, _hint: any.
 */
#ifndef SHADOW_CONSUME_H
#define SHADOW_CONSUME_H

#include "core/kafka.h"
#include "core/migration.h"
#include "core/sequence.h"

enum consume_topic { CONSUME_CHANGES, CONSUME_SNAPSHOT, CONSUME_TOPICS };
const char *consume_topic_name(const struct migration *m, enum consume_topic topic);

struct consume;
struct consume_owner {
	/* Takes over the queue (rd_kafka_queue_destroy). */
	void (*assigned)(void *arg, enum consume_topic topic, int partition, rd_kafka_queue_t *q);
	/* Returns when nobody reads any queue of ours any more, or is taking too long to find out. */
	void (*revoked)(void *arg);
	void *arg;
};

struct consume *consume_new(const struct migration *m, enum role role, const char *instance,
			    const struct consume_owner *owner, struct fault *f);
/* Leaves the group; calls revoked if something is assigned. */
void consume_leave(struct consume *c);
/* Once nobody holds a queue or a message of it any more. */
void consume_free(struct consume *c);

/* Calls assigned again for all that the group gave us. The owner reads none of the queues any more. FAULT_ENVIRONMENT:
 * nothing is handed out, make a new member. */
bool consume_hand_out(struct consume *c, struct fault *f);

/* Serves rebalances and errors for up to timeout_ms. false: this handle is of no more use;
 * FAULT_ENVIRONMENT: make a new one, else the role must end. */
bool consume_poll(struct consume *c, int timeout_ms, struct fault *f);

/* The next record read from the partition's queue will be the one at offset. FAULT_ENVIRONMENT: the
 * partition is not started yet or gone, try again. */
bool consume_seek(struct consume *c, enum consume_topic topic, int partition, int64_t offset,
		  struct fault *f);
bool consume_bounds(struct consume *c, enum consume_topic topic, int partition, int64_t *ret_low,
		    int64_t *ret_high, struct fault *f);
/* Is there more in the log than offset, as far as the last answer to a fetch said? */
bool consume_has_more(struct consume *c, enum consume_topic topic, int partition, int64_t offset);
void consume_wake(struct consume *c, enum consume_topic topic, int partition);
/*
 * An offset of <m>.changes from where a read finds the record behind `ordinal`: a bit before it if it
 * is in the log. FAULT_LOST when the log begins behind it. Blocks: it reads some records by itself.
 */
struct framing;
bool consume_search(struct consume *c, const struct framing *framing, int partition,
		    uint64_t ordinal, int64_t *ret_offset, struct fault *f);
void consume_hint(struct consume *c, enum consume_topic topic, int partition, int64_t offset);

#endif
