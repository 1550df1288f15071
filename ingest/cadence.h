// SPDX-License-Identifier: Apache-2.0
/*
 * cadence - when something may be done again: once an interval, and CADENCE_SAVED times sooner behind a quiet while.
 *
 * Pure: microseconds of one clock, from the caller.
 */
#ifndef INGEST_CADENCE_H
#define INGEST_CADENCE_H

#include <stdint.h>

enum { CADENCE_SAVED = 25 };

struct cadence {
	int64_t interval_us;
	int64_t due_us; /* not before; 0: at once */
};

/* It was done at now_us, due or not: what was done too soon is not owed. */
void cadence_done(struct cadence *c, int64_t now_us);

#endif
