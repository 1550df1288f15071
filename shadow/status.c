// SPDX-License-Identifier: Apache-2.0
#include "shadow/status.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"

/* Waiting for other partitions is normal for moments: only this long beside a stopped one is not. */
enum {
	STUCK_AFTER_US = 3 * 1000 * 1000,
	/* A lane says what it does several times a second: one that does not is held up. */
	FRESH_US = 1000 * 1000,
};

struct shadow_status {
	pthread_mutex_t lock;
	int partition_count;
	int64_t problem_us;
	char problem[512];
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

/* Reading the same records again and again is no movement. */
static bool has_moved(const struct shadow_status_part *from, const struct shadow_status_part *to)
{
	return !from->is_ours || to->offset > from->offset || to->read_offset > from->read_high;
}

static bool has_nothing_left(const struct shadow_status_part *p)
{
	return p->state == PART_OPEN && p->is_dry && p->offset == p->read_offset;
}

/* Who holds up the partitions that wait for others says so for himself. */
static bool may_rest(const struct shadow_status_part *p)
{
	switch (p->state) {
	case PART_OPEN:
		return p->is_dry && !p->is_failing;
	case PART_WAITS_COPY:
	case PART_WAITS_EXCLUSIVE:
	case PART_WAITS_GATE:
	case PART_HELD:
		return !p->is_failing;
	case PART_UNTAKEN:
	case PART_SEEKING:
	case PART_WAITS_SCHEMA:
	case PART_WAITS_TARGET:
	case PART_STOPPED:
	case PART_STATES:
		break;
	}
	return false;
}

void shadow_status_set(struct shadow_status *s, enum consume_topic topic, int partition,
		       const struct shadow_status_part *part)
{
	struct shadow_status_part *to, now = *part;

	if (partition >= s->partition_count)
		return;
	pthread_mutex_lock(&s->lock);
	to = status_part(s, topic, partition);
	now.well_us = has_moved(to, &now) || may_rest(&now) ? now.at_us : to->well_us;
	now.rest_us = has_nothing_left(&now) ? now.at_us : to->rest_us;
	now.read_high = to->is_ours && to->read_high > now.read_offset ? to->read_high : now.read_offset;
	*to = now;
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

/* What is not applied yet is younger than the newest barrier (which may be old: an idle source makes none), and
 * came after all was applied. */
static double lag_seconds(const struct shadow_status_part *p, int64_t now_us, int64_t wall_us)
{
	int64_t lag_us = wall_us - p->barrier_us;

	if (!p->barrier_us || (has_nothing_left(p) && now_us - p->at_us < FRESH_US))
		return 0;
	if (p->rest_us && now_us - p->rest_us < lag_us)
		lag_us = now_us - p->rest_us;
	return lag_us > 0 ? (double)lag_us / 1e6 : 0;
}

static void sum_add_changes(struct shadow_summary *sum, const struct shadow_status_part *p)
{
	double lag = lag_seconds(p, clock_us(), clock_wall_us());

	if (sum->owned == 0 || boundary_cmp(p->barrier, sum->barrier) < 0)
		sum->barrier = p->barrier;
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

static bool needs_person(const struct shadow_status_part *p)
{
	return p->state == PART_STOPPED || p->state == PART_WAITS_TARGET;
}

bool shadow_status_worst(struct shadow_status *s, struct shadow_worst *ret, bool *ret_needs_person)
{
	const struct shadow_status_part *worst = NULL;

	*ret_needs_person = false;
	pthread_mutex_lock(&s->lock);
	for (int i = 0; i < s->partition_count * CONSUME_TOPICS && !*ret_needs_person; i++) {
		const struct shadow_status_part *p = &s->parts[i];

		if (!p->is_ours)
			continue;
		*ret_needs_person = needs_person(p);
		if (*ret_needs_person || !worst || p->well_us < worst->well_us)
			worst = p;
	}
	if (worst)
		*ret = (struct shadow_worst) {
			(enum consume_topic)((worst - s->parts) / s->partition_count),
			(int)((worst - s->parts) % s->partition_count),
			*worst,
		};
	pthread_mutex_unlock(&s->lock);
	return worst;
}

void shadow_status_problem(struct shadow_status *s, const char *why)
{
	pthread_mutex_lock(&s->lock);
	if (!why)
		s->problem_us = 0;
	else if (!s->problem_us)
		s->problem_us = clock_us();
	snprintf(s->problem, sizeof(s->problem), "%s", why ? why : "");
	pthread_mutex_unlock(&s->lock);
}

int64_t shadow_status_get_problem(struct shadow_status *s, char *why, size_t n)
{
	int64_t since_us;

	pthread_mutex_lock(&s->lock);
	since_us = s->problem_us;
	snprintf(why, n, "%s", s->problem);
	pthread_mutex_unlock(&s->lock);
	return since_us;
}

bool shadow_summary_is_stuck(const struct shadow_summary *sum, int64_t now_us)
{
	return sum->owned > 0 && sum->blocked == sum->owned &&
	       sum->stopped + sum->stopped_copies > 0 &&
	       now_us - sum->blocked_since_us > STUCK_AFTER_US;
}
