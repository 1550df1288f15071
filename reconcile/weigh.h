// SPDX-License-Identifier: Apache-2.0
/*
 * weigh - balance.h with its servers: asks a target for its counts, reads the stream up to there, and has them compared.
 *
 * Totals are compared where all partitions of the target stand at the same barrier: always when nothing is written, now
 * and then under load. Totals that differ do so until they are compared again and are right.
 *
 * Thread: the connections'.
 */
#ifndef RECONCILE_WEIGH_H
#define RECONCILE_WEIGH_H

#include "reconcile/balance.h"
#include "reconcile/ends.h"

struct weigh_totals {
	size_t difference_count;
	struct balance_error error;
};

struct weigh {
	struct ends *ends;
	struct balance *balances[2]; /* by role; NULL: not looked at */
	struct weigh_totals totals[2]; /* when they were last compared */
};

struct weigh_result {
	size_t difference_count; /* with those of the last totals */
	struct balance_error error;
	bool has_totals;
	const char *why_no_totals; /* static */
};

/* After tail_start, before the tail reads: it tells us of its records from here on. For all targets that are connected. */
bool weigh_open(struct weigh *w, struct ends *ends, struct fault *f);
void weigh_close(struct weigh *w);

/*
 * Reports each difference; the first time there is no place before to compare with. totals_wait_ms: so long it waits for
 * all partitions to stand at one barrier. False: a server or Kafka failed.
 */
bool weigh_now(struct weigh *w, enum role role, int totals_wait_ms, balance_report *report, void *arg,
	       struct weigh_result *ret, struct fault *f);

#endif
