// SPDX-License-Identifier: Apache-2.0
#include "ingest/resume.h"

#include <stdlib.h>

#include "core/clock.h"
#include "core/log.h"

void resume_init(struct resume *r, struct boundary confirmed, uint64_t generation,
		 const struct boundary *origin, bool from_log_start)
{
	*r = (struct resume) { .confirmed = confirmed,
			       .generation = generation,
			       .from_log_start = from_log_start };
	if (!from_log_start || !origin)
		return;
	r->has_start = true;
	r->sequence.position = position_at(*origin);
	r->sequence.barrier = r->counted = *origin;
}

static bool can_start(const struct resume *r, const struct event_head *h)
{
	return h->kind == EVENT_BARRIER && h->generation >= r->highest_generation &&
	       boundary_cmp(h->boundary, r->confirmed) <= 0;
}

static void start(struct resume *r, const struct event_head *h)
{
	r->has_start = true;
	r->start_generation = h->generation;
	r->sequence = (struct sequence) { .generation = h->generation,
					  .ordinal = h->ordinal,
					  .position = h->position,
					  .barrier = h->boundary };
	r->counted = h->boundary;
}

static bool is_fence(const struct event_head *h)
{
	return h->kind == EVENT_MARKER && h->op == 'f';
}

static void note_fence(struct resume *r, uint64_t generation)
{
	if (generation <= r->start_generation || generation <= r->newest_fence)
		return;
	r->newest_fence = generation;
	r->fences++;
}

enum resume_step resume_feed(struct resume *r, const struct event_head *h, struct fault *f)
{
	enum resume_step step = RESUME_GO_ON;

	if (is_fence(h) && h->generation == r->generation) {
		r->at_end = true;
		return RESUME_END;
	}
	if (!r->has_start && can_start(r, h)) {
		start(r, h);
		step = RESUME_COUNTS;
	} else if (r->has_start) {
		bool had_gap = r->sequence.has_gap;

		if (is_fence(h))
			note_fence(r, h->generation);
		switch (sequence_next(&r->sequence, h, f)) {
		case SEQUENCE_BARRIER:
			if (boundary_cmp(h->boundary, r->confirmed) <= 0 &&
			    boundary_cmp(h->boundary, r->counted) >= 0) {
				r->counted = h->boundary;
				step = RESUME_COUNTS;
			}
			break;
		case SEQUENCE_GAP:
			if (!had_gap)
				r->gaps++;
			break;
		case SEQUENCE_DISAGREE:
		case SEQUENCE_LOST:
			return RESUME_FAULT;
		case SEQUENCE_NEXT:
		case SEQUENCE_MARK:
		case SEQUENCE_STALE:
		case SEQUENCE_DUPLICATE:
			break;
		}
	}
	if (h->generation > r->highest_generation)
		r->highest_generation = h->generation;
	return step;
}

bool resume_is_sure(const struct resume *r)
{
	if (r->from_log_start)
		return true;
	return r->has_start && r->fences == r->generation - r->start_generation - 1;
}

bool resume_check(const struct resume *r, int partition, struct fault *f)
{
	char has[LSN_TEXT], wants[LSN_TEXT];

	if (!r->has_start)
		return fault(f, FAULT_LOST,
			     "partition %d of the changes topic: Kafka lost all up to %s, which "
			     "the slot has "
			     "confirmed: drop the migration and copy again",
			     partition, lsn_format(r->confirmed.v, wants));
	if (boundary_cmp(r->sequence.barrier, r->confirmed) >= 0)
		return true;
	return fault(f, FAULT_LOST,
		     "partition %d of the changes topic: Kafka lost %s..%s: its newest intact "
		     "barrier is the "
		     "former (ordinal %llu), the slot has confirmed the latter: restore the topic, "
		     "or drop the "
		     "migration and copy again",
		     partition, lsn_format(r->sequence.barrier.v, has),
		     lsn_format(r->confirmed.v, wants), (unsigned long long)r->sequence.ordinal);
}

/* One partition's window, while it is read. */
struct window {
	struct kafka_range range;
	int64_t from;
	bool is_done;
};

enum { FIRST_WINDOW = 256, CONSUME_MS = 100, RANGES_US = 10 * 1000 * 1000 };

static bool assign(const struct resume_request *q, const char *topic, const struct window *windows,
		   struct fault *f)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(
	    q->partition_count);
	rd_kafka_resp_err_t err;

	for (int p = 0; p < q->partition_count; p++) {
		if (!windows[p].is_done)
			rd_kafka_topic_partition_list_add(list, topic, p)->offset = windows[p].from;
	}
	err = rd_kafka_assign(q->reader, list->cnt ? list : NULL);
	rd_kafka_topic_partition_list_destroy(list);
	return err ? kafka_fault(err, topic, f) : true;
}

/* Calls take with every record of the windows that are not done, until all are. */
typedef bool (*take_record)(void *arg, int partition, struct span record, bool *ret_is_done,
			    struct fault *f);

static bool read_windows(const struct resume_request *q, const char *topic, struct window *windows,
			 take_record take, void *arg, struct fault *f)
{
	int open = 0;
	int64_t idle_us = clock_us();
	bool ok = false;

	for (int p = 0; p < q->partition_count; p++)
		open += !windows[p].is_done;
	if (!assign(q, topic, windows, f))
		return false;
	while (open > 0) {
		rd_kafka_message_t *m = rd_kafka_consumer_poll(q->reader, CONSUME_MS);

		if (!m || clock_us() - idle_us > CONSUME_MS * 1000) {
			idle_us = clock_us();
			if (!q->idle(q->arg, 0, f)) {
				if (m)
					rd_kafka_message_destroy(m);
				goto done;
			}
		}
		if (!m)
			continue;
		if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF ||
		    m->err == RD_KAFKA_RESP_ERR__TRANSPORT ||
		    m->err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) {
			rd_kafka_message_destroy(m);
			continue;
		}
		if (m->err) {
			kafka_fault(m->err, topic, f);
			rd_kafka_message_destroy(m);
			goto done;
		}
		if (m->partition < q->partition_count && !windows[m->partition].is_done) {
			struct window *w = &windows[m->partition];
			bool is_done = false;

			if (!take(arg, m->partition, span(m->payload, m->len), &is_done, f)) {
				fault_in(f, "%s, partition %d, offset %lld", topic,
					 (int)m->partition, (long long)m->offset);
				rd_kafka_message_destroy(m);
				goto done;
			}
			if (is_done || m->offset + 1 >= w->range.high) {
				w->is_done = true;
				open--;
			}
		}
		rd_kafka_message_destroy(m);
	}
	ok = true;
done:
	rd_kafka_assign(q->reader, NULL);
	return ok;
}

/* What resume_read's records go into. */
struct scan {
	const struct resume_request *q;
	struct resume *partitions;
	struct arena record, counted; /* counted: of newest */
	struct barrier newest;        /* accepted in partition 0 */
};

/* The counts outlive the record: table names are copied. */
static bool copy_counts(struct barrier *to, const struct barrier *b, struct arena *a, struct fault *f)
{
	to->count_count = b->count_count;
	to->counts = arena_alloc(a, (b->count_count + 1) * sizeof(*b->counts));
	for (size_t i = 0; i < b->count_count && to->counts; i++) {
		to->counts[i] = b->counts[i];
		to->counts[i].table = arena_dup(a, b->counts[i].table);
	}
	if (arena_failed(a))
		return fault(f, FAULT_INTERNAL, "no memory for the counts of a barrier");
	return true;
}

static bool scan_take(void *arg, int partition, struct span record, bool *ret_is_done,
		      struct fault *f)
{
	struct scan *s = arg;
	struct event e;

	arena_reset(&s->record);
	if (!event_read_learning(s->q->framing, s->q->learn, s->q->arg, record, &s->record, &e, f))
		return false;
	switch (resume_feed(&s->partitions[partition], &e.head, f)) {
	case RESUME_COUNTS:
		if (partition != 0)
			return true;
		arena_reset(&s->counted);
		return copy_counts(&s->newest, &e.barrier, &s->counted, f);
	case RESUME_END:
		*ret_is_done = true;
		return true;
	case RESUME_FAULT:
		return false;
	case RESUME_GO_ON:
		return true;
	}
	return true;
}

bool resume_ranges(const struct resume_request *q, const char *topic, struct kafka_range *ret,
		   struct fault *f)
{
	int64_t deadline_us = clock_us() + RANGES_US;

	for (;;) {
		struct fault why = { 0 };

		if (kafka_ranges(q->reader, topic, q->partition_count, ret, &why))
			return true;
		if (why.kind != FAULT_ENVIRONMENT || clock_us() > deadline_us) {
			*f = why;
			return false;
		}
		if (!q->idle(q->arg, CONSUME_MS, f))
			return false;
	}
}

/* As many as there are partitions, from calloc; NULL: f says why. */
static struct window *windows_new(const struct resume_request *q, const char *topic, struct fault *f)
{
	struct kafka_range *ranges = calloc((size_t)q->partition_count, sizeof(*ranges));
	struct window *windows = calloc((size_t)q->partition_count, sizeof(*windows));
	bool ok = ranges && windows ? resume_ranges(q, topic, ranges, f)
				    : fault(f, FAULT_INTERNAL, "out of memory");

	for (int p = 0; ok && p < q->partition_count; p++)
		windows[p].range = ranges[p];
	free(ranges);
	if (ok)
		return windows;
	free(windows);
	return NULL;
}

static bool read_until_sure(struct scan *s, struct window *windows, struct fault *f)
{
	const struct resume_request *q = s->q;
	int unsure = q->partition_count;

	for (int64_t size = FIRST_WINDOW; unsure > 0; size *= 4) {
		for (int p = 0; p < q->partition_count; p++) {
			struct window *w = &windows[p];

			if (resume_is_sure(&s->partitions[p]) && s->partitions[p].at_end)
				continue;
			w->is_done = false;
			w->from = w->range.high - size > w->range.low ? w->range.high - size : w->range.low;
			resume_init(&s->partitions[p], q->confirmed, q->generation,
				    w->range.low == 0 ? &q->origin : NULL, w->from == w->range.low);
		}
		if (!read_windows(q, q->topic, windows, scan_take, s, f))
			return false;
		unsure = 0;
		for (int p = 0; p < q->partition_count; p++) {
			if (!s->partitions[p].at_end)
				return fault(f, FAULT_LOST,
					     "%s, partition %d: our own fence of generation %llu "
					     "is not there",
					     q->topic, p, (unsigned long long)q->generation);
			unsure += !resume_is_sure(&s->partitions[p]);
		}
	}
	return true;
}

bool resume_read(const struct resume_request *q, struct resume *partitions, struct arena *a,
		 struct barrier *ret_counts, struct fault *f)
{
	struct window *windows = windows_new(q, q->topic, f);
	struct scan s = { .q = q, .partitions = partitions };
	bool ok = false;

	*ret_counts = (struct barrier) { 0 };
	arena_init(&s.record, (size_t)256 << 20);
	arena_init(&s.counted, (size_t)64 << 20);
	if (!windows)
		goto done;
	for (int p = 0; p < q->partition_count; p++)
		resume_init(&partitions[p], q->confirmed, q->generation, NULL, false);
	if (!read_until_sure(&s, windows, f))
		goto done;
	for (int p = 0; p < q->partition_count; p++) {
		if (partitions[p].gaps)
			log_warn("the tail of a partition has gaps topic=%s partition=%d gaps=%llu "
				 "last_intact_ordinal=%llu",
				 q->topic, p, (unsigned long long)partitions[p].gaps,
				 (unsigned long long)partitions[p].sequence.ordinal);
		if (!resume_check(&partitions[p], p, f))
			goto done;
	}
	ok = copy_counts(ret_counts, &s.newest, a, f);
done:
	arena_release(&s.counted);
	arena_release(&s.record);
	free(windows);
	return ok;
}

struct highest {
	const struct resume_request *q;
	struct arena record;
	uint64_t generation;
};

static bool highest_take(void *arg, int partition, struct span record, bool *ret_is_done,
			 struct fault *f)
{
	struct highest *s = arg;
	struct event e;

	(void)partition;
	(void)ret_is_done;
	arena_reset(&s->record);
	if (!event_read_learning(s->q->framing, s->q->learn, s->q->arg, record, &s->record, &e, f))
		return false;
	if (e.head.generation > s->generation)
		s->generation = e.head.generation;
	return true;
}

bool resume_highest(const struct resume_request *q, const char *topic, uint64_t *ret,
		    struct fault *f)
{
	enum { TAIL = 32 };
	struct window *windows = windows_new(q, topic, f);
	struct highest s = { .q = q };
	bool ok = false;

	arena_init(&s.record, (size_t)256 << 20);
	if (!windows)
		goto done;
	for (int p = 0; p < q->partition_count; p++) {
		struct window *w = &windows[p];

		w->from = w->range.high - TAIL > w->range.low ? w->range.high - TAIL : w->range.low;
		w->is_done = w->from >= w->range.high;
	}
	if (!read_windows(q, topic, windows, highest_take, &s, f))
		goto done;
	*ret = s.generation;
	ok = true;
done:
	arena_release(&s.record);
	free(windows);
	return ok;
}
