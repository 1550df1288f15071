// SPDX-License-Identifier: Apache-2.0
#include "core/clock.h"

#include <stdio.h>
#include <time.h>

static int64_t clock_read_us(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int64_t clock_us(void)
{
	return clock_read_us(CLOCK_MONOTONIC);
}

int64_t clock_wall_us(void)
{
	return clock_read_us(CLOCK_REALTIME);
}

char *clock_iso(int64_t wall_us, char *text)
{
	int64_t us = wall_us % 1000000;
	time_t seconds = (time_t)(wall_us / 1000000);
	struct tm tm;

	if (us < 0) {
		us += 1000000;
		seconds--;
	}
	/* Years past 9999 (a garbled timestamp) would not fit: show the end of time instead. */
	if (!gmtime_r(&seconds, &tm) || tm.tm_year > 9999 - 1900 || tm.tm_year < -1900)
		return snprintf(text, CLOCK_TEXT, "9999-12-31T23:59:59.999Z"), text;
	size_t n = strftime(text, CLOCK_TEXT, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(text + n, CLOCK_TEXT - n, ".%03dZ", (int)(us / 1000));
	return text;
}
