// SPDX-License-Identifier: Apache-2.0
/*
 * standing - whether the windows of a role move, for who watches from another thread (/healthz).
 *
 * Thread-safe. Functions take NULL, and do nothing then.
 */
#ifndef RECONCILE_STANDING_H
#define RECONCILE_STANDING_H

#include <stddef.h>
#include <stdint.h>

struct standing;
struct standing *standing_new(void);
void standing_free(struct standing *s);
/* Something was asked and answered, or there is nothing to do now. */
void standing_beat(struct standing *s);
/* What was verified has moved on. */
void standing_moved(struct standing *s);
/* It cannot move on; the reason stays until it has moved. */
void standing_stands(struct standing *s, const char *why);

struct standing_seen {
	int64_t beat_us;  /* clock_us() of the last beat; 0: none yet */
	int64_t since_us; /* since when it stands; 0: it does not */
	char why[512];
};
void standing_read(struct standing *s, struct standing_seen *ret);

#endif
