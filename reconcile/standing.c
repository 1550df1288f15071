// SPDX-License-Identifier: Apache-2.0
#include "reconcile/standing.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"

struct standing {
	pthread_mutex_t lock;
	struct standing_seen seen;
};

struct standing *standing_new(void)
{
	struct standing *s = calloc(1, sizeof(*s));

	if (s)
		pthread_mutex_init(&s->lock, NULL);
	return s;
}

void standing_free(struct standing *s)
{
	if (!s)
		return;
	pthread_mutex_destroy(&s->lock);
	free(s);
}

void standing_beat(struct standing *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->seen.beat_us = clock_us();
	pthread_mutex_unlock(&s->lock);
}

void standing_moved(struct standing *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->seen = (struct standing_seen) { .beat_us = clock_us() };
	pthread_mutex_unlock(&s->lock);
}

void standing_stands(struct standing *s, const char *why)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	if (!s->seen.since_us)
		s->seen.since_us = clock_us();
	snprintf(s->seen.why, sizeof(s->seen.why), "%s", why);
	pthread_mutex_unlock(&s->lock);
}

void standing_read(struct standing *s, struct standing_seen *ret)
{
	*ret = (struct standing_seen) { 0 };
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	*ret = s->seen;
	pthread_mutex_unlock(&s->lock);
}
