// SPDX-License-Identifier: Apache-2.0
#include "shadow/part.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/failpoint.h"
#include "core/log.h"
#include "core/relation.h"
#include "shadow/lane.h"

static const char *const state_names[PART_STATES] = {
	[PART_UNTAKEN] = "untaken",
	[PART_SEEKING] = "seeking",
	[PART_OPEN] = "open",
	[PART_WAITS_SCHEMA] = "waits for a schema",
	[PART_WAITS_COPY] = "waits for a copy",
	[PART_WAITS_EXCLUSIVE] = "waits at an exclusive event",
	[PART_WAITS_TARGET] = "waits for the target's schema",
	[PART_WAITS_GATE] = "waits at the gate",
	[PART_HELD] = "held for a repair",
	[PART_STOPPED] = "stopped",
};

const char *part_state_name(enum part_state state)
{
	return state_names[state];
}

struct part *part_new(const struct migration *m, struct consume *c, enum consume_topic topic,
		      int partition, rd_kafka_queue_t *q)
{
	struct part *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->topic = topic;
	p->partition = partition;
	p->key = (struct progress_key) { m->name, consume_topic_name(m, topic), partition };
	p->consume = c;
	p->queue = q;
	p->state = PART_UNTAKEN;
	p->since_us = clock_us();
	p->poison_offset = p->jump_offset = -1;
	p->is_whole = m->order == ORDER_TRANSACTION && topic == CONSUME_CHANGES &&
		      partition == RELATION_TRANSACTION_PARTITION && !failpoint("part.cuts_transactions");
	if (topic != CONSUME_CHANGES)
		return p;
	p->tail = calloc(LANE_BATCH_RECORDS, sizeof(*p->tail));
	if (p->tail)
		return p;
	free(p);
	return NULL;
}

static void part_forget_ahead(struct part *p)
{
	while (p->ahead_count)
		rd_kafka_message_destroy(part_shift(p));
}

static void part_forget_tail(struct part *p)
{
	while (p->tail_count)
		rd_kafka_message_destroy(p->tail[--p->tail_count]);
	p->is_void = p->is_event_due = false;
}

void part_free(struct part *p)
{
	if (!p)
		return;
	part_forget_ahead(p);
	part_forget_tail(p);
	free(p->tail);
	count_notes_release(&p->notes);
	rd_kafka_queue_io_event_enable(p->queue, -1, NULL, 0);
	rd_kafka_queue_destroy(p->queue);
	free(p);
}

/* States that come and go many times a second, and what is logged by those who cause it. */
static bool part_state_is_quiet(enum part_state state)
{
	return state != PART_STOPPED && state != PART_WAITS_TARGET;
}

void part_set(struct part *p, enum part_state state, const char *why)
{
	bool is_same = p->state == state && (!why || strcmp(p->why, why) == 0);

	if (is_same)
		return;
	if (part_state_is_quiet(state) && part_state_is_quiet(p->state))
		log_debug("%s partition %d: %s -> %s", p->key.topic, p->partition,
			  state_names[p->state], state_names[state]);
	else
		log_line(state == PART_STOPPED        ? LOG_LEVEL_ERROR
			 : state == PART_WAITS_TARGET ? LOG_LEVEL_WARN
						      : LOG_LEVEL_INFO,
			 "%s partition %d: %s -> %s%s%s", p->key.topic, p->partition,
			 state_names[p->state], state_names[state], why ? ": " : "", why ? why : "");
	if (p->state != state)
		p->since_us = clock_us();
	p->state = state;
	p->retry_us = 0;
	snprintf(p->why, sizeof(p->why), "%s", why ? why : "");
}

void part_set_later(struct part *p, enum part_state state, int64_t delay_us, const char *why)
{
	part_set(p, state, why);
	p->retry_us = clock_us() + delay_us;
}

void part_moved(struct part *p, const struct progress *now)
{
	p->have = p->next = p->ended = *now;
}

void part_rewind(struct part *p, int64_t delay_us)
{
	part_forget_ahead(p);
	part_forget_tail(p);
	p->next = p->ended = p->have;
	p->is_in_batch = p->needs_seek = false;
	p->is_dry = false;
	part_set_later(p, PART_SEEKING, delay_us, NULL);
}

void part_untake(struct part *p, int64_t delay_us)
{
	part_rewind(p, 0);
	p->search = PART_NOT_SEARCHED;
	p->poison_offset = p->jump_offset = -1;
	p->poison_commit = p->careful = (struct commit_lsn) { 0 };
	part_set_later(p, PART_UNTAKEN, delay_us, NULL);
}

rd_kafka_message_t *part_front(struct part *p)
{
	enum { MAX = sizeof(p->ahead) / sizeof(p->ahead[0]) };
	ssize_t n;

	if (p->ahead_count)
		return p->ahead[p->ahead_first];
	p->ahead_first = 0;
	n = rd_kafka_consume_batch_queue(p->queue, 0, p->ahead, MAX);
	p->is_dry = n < MAX;
	p->ahead_count = n > 0 ? (size_t)n : 0;
	if (n > 0) {
		p->read_us = clock_us();
		p->patience_us = LANE_STALLED_US;
	}
	return p->ahead_count ? p->ahead[0] : NULL;
}

rd_kafka_message_t *part_shift(struct part *p)
{
	p->ahead_count--;
	return p->ahead[p->ahead_first++];
}

const struct progress *part_goal(const struct part *p)
{
	return p->is_whole ? &p->ended : &p->next;
}

bool part_has_moved(const struct part *p)
{
	const struct progress *goal = part_goal(p);

	return goal->next_offset != p->have.next_offset ||
	       position_cmp(goal->waiting, p->have.waiting) != 0;
}
