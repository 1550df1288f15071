// SPDX-License-Identifier: Apache-2.0
#include "shadow/status.h"

#include <pthread.h>
#include <stdlib.h>

#include "core/clock.h"

/* Waiting for other partitions is normal for moments: only this long beside a stopped one is not. */
enum { STUCK_AFTER_US = 3 * 1000 * 1000 };

struct shadow_status {
	pthread_mutex_t lock;
	int partition_count;
	struct shadow_status_part parts[];
};

struct shadow_status *shadow_status_new(int partition_count)
{
	size_t n = (size_t)partition_count * CONSUME_TOPICS;
	struct shadow_status *s = calloc(1, sizeof(*s) + n * sizeof(s->parts[0]));

	if (!s)
		return NULL;
	pthread_mutex_init(&s->lock, NULL);
	s->partition_count = partition_count;
	return s;
}

void shadow_status_free(struct shadow_status *s)
{
	if (!s)
		return;
	pthread_mutex_destroy(&s->lock);
	free(s);
}

int shadow_status_partitions(const struct shadow_status *s)
{
	return s->partition_count;
}

static struct shadow_status_part *status_part(struct shadow_status *s, enum consume_topic topic,
					      int partition)
{
	return &s->parts[(int)topic * s->partition_count + partition];
}

void shadow_status_set(struct shadow_status *s, enum consume_topic topic, int partition,
		       const struct shadow_status_part *part)
{
	if (partition >= s->partition_count)
		return;
	pthread_mutex_lock(&s->lock);
	*status_part(s, topic, partition) = *part;
	pthread_mutex_unlock(&s->lock);
}

struct shadow_status_part shadow_status_get(struct shadow_status *s, enum consume_topic topic,
					    int partition)
{
	struct shadow_status_part part;

	pthread_mutex_lock(&s->lock);
	part = *status_part(s, topic, partition);
	pthread_mutex_unlock(&s->lock);
	return part;
}

static void sum_add_changes(struct shadow_summary *sum, const struct shadow_status_part *p)
{
	double lag = 0;

	if (sum->owned == 0 || boundary_cmp(p->barrier, sum->barrier) < 0)
		sum->barrier = p->barrier;
	if (p->barrier_us && !(p->is_dry && p->state == PART_OPEN))
		lag = (double)(clock_wall_us() - p->barrier_us) / 1e6;
	if (lag > sum->lag_seconds)
		sum->lag_seconds = lag;
	sum->owned++;
	sum->stopped += p->state == PART_STOPPED;
	sum->blocked += p->state == PART_STOPPED || p->state == PART_WAITS_EXCLUSIVE ||
			p->state == PART_WAITS_COPY;
	sum->changes += p->changes;
}

struct shadow_summary shadow_status_sum(struct shadow_status *s)
{
	struct shadow_summary sum = { 0 };

	pthread_mutex_lock(&s->lock);
	for (int i = 0; i < s->partition_count * CONSUME_TOPICS; i++) {
		const struct shadow_status_part *p = &s->parts[i];

		if (!p->is_ours)
			continue;
		if (i < s->partition_count) {
			sum_add_changes(&sum, p);
		} else {
			sum.copied += p->changes;
			sum.stopped_copies += p->state == PART_STOPPED;
		}
		sum.covered += p->covered;
		if (p->since_us > sum.blocked_since_us)
			sum.blocked_since_us = p->since_us;
		if (p->state == PART_STOPPED && !*sum.why)
			memcpy(sum.why, p->why, sizeof(sum.why));
	}
	pthread_mutex_unlock(&s->lock);
	return sum;
}

bool shadow_summary_is_stuck(const struct shadow_summary *sum, int64_t now_us)
{
	return sum->owned > 0 && sum->blocked == sum->owned &&
	       sum->stopped + sum->stopped_copies > 0 &&
	       now_us - sum->blocked_since_us > STUCK_AFTER_US;
}
