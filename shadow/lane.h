// SPDX-License-Identifier: Apache-2.0
/*
 * lane - one thread and one connection to a target; reads, plans and applies its partitions.
 *
 * The role thread hands partitions over (lane_give) and takes all of them back (lane_drop); both are
 * ops on the lane's queue. A lane that was dropped from has no open transaction on a partition and
 * does not touch its queue any more. What a partition is at the moment is part.h's states.
 *
 * A turn: ops · connection · partitions to take or to seek · those that wait · repairs · a batch of changes ·
 * a batch of copied rows · what partition 0's owner does for all. Nothing in a turn waits for
 * another partition: one that cannot go on keeps its records and is looked at again later.
 */
#ifndef SHADOW_LANE_H
#define SHADOW_LANE_H

#include "core/metric.h"
#include "shadow/consume.h"
#include "shadow/gate.h"
#include "shadow/incident.h"
#include "shadow/status.h"
#include "shadow/versions.h"

/* Limits of the hot path, all of them. A batch is cut by whichever comes first. */
enum {
	LANE_BATCH_RECORDS = 4096,
	LANE_BATCH_BYTES = 8 * 1024 * 1024,
	LANE_BATCH_CELLS = 200 * 1000,  /* values in memory, 32 bytes each */
	LANE_GATHER_US = 5000,          /* from a batch's first record */
	LANE_GATHER_BUSY_US = 20 * 1000, /* when the last batch had this many: */
	LANE_BUSY_RECORDS = 256,
	LANE_FETCH_MESSAGES = 256,      /* taken from a partition's queue at once */
	LANE_EXCLUSIVE_POLL_US = 20 * 1000,
	LANE_COPY_POLL_US = 100 * 1000,
	LANE_REPAIR_POLL_US = 250 * 1000, /* a statement that finds nothing, about 0.2 ms of it */
	LANE_HELD_POLL_US = 20 * 1000,
	LANE_HELD_MAX_US = 20 * 1000 * 1000,
	LANE_SCHEMA_POLL_US = 1000 * 1000,
	LANE_TARGET_POLL_US = 1000 * 1000,
	LANE_STALLED_US = 3 * 1000 * 1000,
	LANE_STALLED_LAST_US = 300 * 1000 * 1000,
	LANE_IDLE_MS = 100,
	LANE_BACKOFF_FIRST_MS = 100,
	LANE_BACKOFF_LAST_MS = 5000,
	LANE_FENCED_BACKOFF_MS = 2000,
};

/* What the lanes of a role share. Borrowed; immutable but for what is thread-safe by itself. */
struct lane_role {
	const struct migration *migration;
	enum role role;
	const char *instance;
	struct control *control;
	struct framing *framing;
	struct versions *versions;
	struct gate gate;
	struct shadow_status *status;
	struct incident *incidents;
	struct metric_cell *applied, *covered, *copied; /* of METRIC_CHANGES; may be NULL */
	bool (*schema_finish)(void *arg, bool is_copied, struct fault *f);
	event_learn learn;
	void *arg;
	/* Set by the role thread while the group may think that we are gone: nothing is taken anew
	 * before (clock_us). And when it last ran. */
	_Atomic int64_t distrust_until_us, alive_us;
};

struct lane;
struct lane *lane_new(struct lane_role *role, int number, struct fault *f);
/* Drains, ends the thread and frees. */
void lane_free(struct lane *l);
/* Takes over q. */
bool lane_give(struct lane *l, struct consume *c, enum consume_topic topic, int partition,
	       rd_kafka_queue_t *q);
/* It gives back all partitions, when it can. Returns what to ask lane_has_dropped for; 0: no memory. */
uint64_t lane_drop(struct lane *l);
/* Waits up to timeout_ms. */
bool lane_has_dropped(struct lane *l, uint64_t drop, int timeout_ms);
/* How long it had nothing to do in all, as of now (clock_us). Any thread. */
int64_t lane_rested_us(const struct lane *l, int64_t now);
/* false: it is in the middle of what would begin anew without its partitions: a source transaction in rounds, a search for
 * what cannot be applied, a hold for a repair. As of its last turn. Any thread. */
bool lane_may_give(const struct lane *l);
/* false: the lane has ended by itself, and why. */
bool lane_is_well(struct lane *l, struct fault *f);

#endif
