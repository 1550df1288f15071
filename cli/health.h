// SPDX-License-Identifier: Apache-2.0
/*
 * health - does each role of this process move, or has it nothing to do? What /healthz answers.
 *
 * Pure: facts in, a verdict out. A role is well while it moved its position within HEALTH_PATIENCE_US, or had
 * nothing to do, or only waited for others (who say so themselves). What only a person can move is not
 * waited for.
 */
#ifndef CLI_HEALTH_H
#define CLI_HEALTH_H

#include "ingest/ingest.h"
#include "reconcile/standing.h"
#include "shadow/status.h"

/* Longer than what heals by itself: a dead member's session (10 s), a back-off (10 s), a server's restart. */
enum { HEALTH_PATIENCE_US = 30 * 1000 * 1000 };

enum health_stage {
	HEALTH_STARTING, /* topics and tables are being made; roles do not run yet */
	HEALTH_RUNNING,
	HEALTH_ENDING, /* told to stop, or the goal is reached: draining, building what comes late */
};

enum { HEALTH_ROLES = 4 };

struct health_applier {
	struct shadow_worst worst; /* if has_partition */
	bool has_partition, needs_person;
	int64_t problem_us; /* since when the role as a whole is kept from going on; 0: it is not */
	char problem[512];
};

struct health_facts {
	int64_t now_us, started_us;
	enum health_stage stage;
	bool is_wanted[HEALTH_ROLES]; /* ingest, shadow, primary, reconcile */
	struct ingest_numbers ingest;
	struct health_applier appliers[HEALTH_ROLES]; /* shadow, primary; [0] is not used */
	struct standing_seen standings[2]; /* of reconcile, by the role it looks at */
	int64_t kafka_silent_us; /* since when Kafka does not answer this process; 0: it does */
};

struct health_verdict {
	bool is_well;
	struct {
		bool is_wanted, is_well;
		const char *name;
		char reason[900]; /* "" while it is well */
	} roles[HEALTH_ROLES];
};

void health_decide(const struct health_facts *facts, struct health_verdict *ret);

/* The body of the answer. */
struct buf;
void health_json(const struct health_facts *facts, const struct health_verdict *v, struct buf *out);

#endif
