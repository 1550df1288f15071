// SPDX-License-Identifier: Apache-2.0
/*
 * scale - how many lanes a role needs, judged by how busy those it has are.
 *
 * Load is what the lanes were busy in a window, in lanes: 1.3 of two is each of them two thirds of the time. One lane
 * that does what two did makes larger transactions and fewer of them, and leaves the processors to others. One that
 * never waits for records holds the stream up.
 *
 * One step at a time, and only if some windows in a row ask for the same. A window without work says nothing. After a
 * step up there is none down for a minute: two lanes wait for each other's processors, and so look busier than
 * one would be; where the limit is can be found by trying only. After a step that could not be made there is none at all
 * for as long.
 *
 * Pure.
 */
#ifndef SHADOW_SCALE_H
#define SHADOW_SCALE_H

#include <stdint.h>

enum { SCALE_WINDOW_US = 500 * 1000, SCALE_UP_WINDOWS = 2, SCALE_DOWN_WINDOWS = 3, SCALE_HOLD_US = 60 * 1000 * 1000 };

struct scale {
	int lanes, max;
	int asked, windows; /* for how many lanes, by so many windows in a row */
	int64_t up_us, down_us; /* not more, not fewer lanes before (clock) */
};

/* How many lanes there should be now, after a window with this load. Whoever makes it so calls scale_set. */
int scale_ask(struct scale *s, double load, int64_t now_us);
void scale_set(struct scale *s, int lanes, int64_t now_us);
/* It could not be made so. */
void scale_hold(struct scale *s, int64_t now_us);

#endif
