// SPDX-License-Identifier: Apache-2.0
/*
 * status - what a role of this process is doing, partition by partition, for other threads to read.
 *
 * Thread-safe: lanes write, anybody reads a copy.
 */
#ifndef SHADOW_STATUS_H
#define SHADOW_STATUS_H

#include "core/lsn.h"
#include "shadow/part.h"

struct shadow_status_part {
	bool is_ours;
	enum part_state state;
	struct boundary barrier;
	int64_t barrier_us;       /* source's clock; 0: none yet */
	bool is_dry;              /* nothing left to read when last looked, here and in Kafka */
	int64_t since_us;         /* of the state, clock_us */
	uint64_t changes, covered;
	int64_t offset, read_offset; /* the next record of the target, and of what was read */
	bool is_failing;          /* its lane fails, and tries again: why */
	int64_t at_us;            /* when this was so, clock_us */
	/* By shadow_status_set: when it last moved, had nothing to do, or could only wait for others; when
	 * all was applied; how far was ever read. */
	int64_t well_us, rest_us, read_high;
	char why[512];            /* STOPPED, WAITS_TARGET, is_failing */
};

struct shadow_summary {
	int owned, stopped, blocked; /* partitions of changes; blocked: stopped or waiting for others */
	uint64_t changes, covered, copied; /* as in the progress rows of what is ours */
	struct boundary barrier;     /* least of ours */
	double lag_seconds;          /* of the slowest of ours; 0 when all is applied */
	int stopped_copies;
	int64_t blocked_since_us;    /* the newest state change among ours */
	char why[512];               /* of one that is stopped */
};

/* A partition of this process, for messages. */
struct shadow_worst {
	enum consume_topic topic;
	int partition;
	struct shadow_status_part part;
};

struct shadow_status;
struct shadow_status *shadow_status_new(int partition_count);
void shadow_status_free(struct shadow_status *s);
int shadow_status_partitions(const struct shadow_status *s);
void shadow_status_set(struct shadow_status *s, enum consume_topic topic, int partition,
		       const struct shadow_status_part *part);
struct shadow_status_part shadow_status_get(struct shadow_status *s, enum consume_topic topic,
					    int partition);
struct shadow_summary shadow_status_sum(struct shadow_status *s);
/* Of ours: one that only a person can move (is it so, *ret_needs_person), else the one that is not well
 * for longest. false: none is ours. */
bool shadow_status_worst(struct shadow_status *s, struct shadow_worst *ret, bool *ret_needs_person);
/* What keeps the role as a whole from going on (NULL: nothing does). Thread: role. */
void shadow_status_problem(struct shadow_status *s, const char *why);
/* Since when (clock_us), 0: nothing does. why: what, n bytes. */
int64_t shadow_status_get_problem(struct shadow_status *s, char *why, size_t n);
/* Nothing of ours can move without a person: every partition of changes is stopped or waits for one
 * that is. */
bool shadow_summary_is_stuck(const struct shadow_summary *sum, int64_t now_us);

#endif
