// SPDX-License-Identifier: Apache-2.0
/*
 * pace - when the source may be asked again: a share of its time, less while it is slow.
 *
 * Work that took t on the source is followed by a pause, so that t is `share` of both together. While the
 * source answers a small question much later than it used to (SLOW times its usual latency), each answer
 * doubles the pauses, up to BACKOFF_MAX times; each that is in time halves them again.
 *
 * Pure: times come from the caller. Microseconds.
 */
#ifndef RECONCILE_PACE_H
#define RECONCILE_PACE_H

#include <stdbool.h>
#include <stdint.h>

struct pace {
	double share;   /* of one core: 0 < share <= 1 */
	double usual;   /* latency: the least of late, which it forgets slowly; 0: none seen */
	double backoff; /* 1: none */
	int64_t next_us;
};

void pace_init(struct pace *p, double share);
/* Work ended at now_us that kept the source busy for took_us. */
void pace_took(struct pace *p, int64_t now_us, int64_t took_us);
/* A small question was answered after latency_us. */
void pace_answered(struct pace *p, int64_t latency_us);
/* Microseconds from now_us until the next work may begin; 0: now. */
int64_t pace_wait(const struct pace *p, int64_t now_us);
bool pace_backs_off(const struct pace *p);

#endif
