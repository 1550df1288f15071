// SPDX-License-Identifier: Apache-2.0
/* clock - the one place that asks for the time. */
#ifndef CORE_CLOCK_H
#define CORE_CLOCK_H

#include <stdint.h>

/* CLOCK_MONOTONIC: for deadlines and durations. */
int64_t clock_us(void);
/* Microseconds since 1970 UTC: for people, never for ordering. */
int64_t clock_wall_us(void);
/* "2026-11-23T13:20:00.123Z" into text (at least CLOCK_TEXT bytes); returns text. */
enum { CLOCK_TEXT = 32 };
char *clock_iso(int64_t wall_us, char *text);

#endif
