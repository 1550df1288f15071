// SPDX-License-Identifier: Apache-2.0
/*
 * collect - fills a batch from a lane's partitions, fairly, until one of the limits in lane.h cuts it.
 *
 * Collecting only looks at heads: sequence rules, copies, the gate decide whether a record is
 * applied, dropped (covered, duplicate, stale) or makes its partition wait. Nothing may rewind a
 * partition in the middle: records of it may be in the batch already, and they go with `next`.
 *
 * Source transactions may be cut: lanes run under session_replication_role = replica, where no
 * deferred check ever fires, so nothing on the target can tell. Where something can, a reader (order:
 * transaction) or constraints that are enforced, whole.c looks after their ends.
 */
#include <inttypes.h>
#include <poll.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/failpoint.h"
#include "core/log.h"
#include "shadow/lane_state.h"

enum { WAKE_EVERY_US = 20 * 1000 };

/* What became of the record in front. */
enum step {
	STEP_DROPPED, /* nothing to apply; it may be forgotten */
	STEP_TAKEN,   /* in the batch */
	STEP_CUT,     /* stays in front; nothing more of this partition now */
};

static enum step step_wait(struct part *p, enum part_state state, int64_t delay_us, const char *why)
{
	part_set_later(p, state, delay_us, why);
	return STEP_CUT;
}

/*
 * The queue must be put back. Not now: records of this partition may be in the batch already, and
 * they go with `next`; when that has committed (batch_committed).
 */
static enum step step_seek(struct part *p, const char *why)
{
	log_warn("%s partition %d: %s", p->key.topic, p->partition, why);
	p->needs_seek = true;
	p->seek_delay_us = LANE_TARGET_POLL_US;
	return STEP_CUT;
}

/* The target could not be asked, or said what no record can go on with. */
static enum step step_failed(struct lane *l, struct part *p, const rd_kafka_message_t *msg,
			     const struct event *ev, const struct fault *f)
{
	if (f->kind != FAULT_ENVIRONMENT) {
		lane_stop_part(l, p, msg, &ev->head, NULL, f);
		return STEP_CUT;
	}
	if (PQstatus(l->conn) != CONNECTION_OK) {
		lane_failed(l, f); /* no partition is ours any more */
		return STEP_CUT;
	}
	return step_seek(p, f->text);
}

/* The head's table, or what to do without it. */
static enum step step_table(struct lane *l, struct part *p, const rd_kafka_message_t *msg,
			    const struct event *ev, const struct lane_table **ret)
{
	struct fault f = { 0 };

	switch (lane_table(l, ev->head.fingerprint, ret, &f)) {
	case LANE_FOUND:
		return STEP_TAKEN;
	case LANE_NO_SCHEMA:
		return step_wait(p, PART_WAITS_SCHEMA, LANE_SCHEMA_POLL_US, NULL);
	case LANE_NO_TARGET:
		return step_wait(p, PART_WAITS_TARGET, LANE_TARGET_POLL_US, f.text);
	case LANE_LOOKUP_FAILED:
		break;
	}
	return step_failed(l, p, msg, ev, &f);
}

void batch_add(struct lane *l, struct part *p, rd_kafka_message_t *msg, const struct event *ev,
	       const struct lane_table *table)
{
	struct batch *b = &l->batch;

	b->records[b->count++] = (struct batch_record) {
		.part = p, .msg = msg, .head = ev->head, .body = ev->body, .table = table,
	};
	if (!table)
		b->records[b->count - 1].marker = ev->marker;
	b->bytes += msg->len;
	b->cells += table ? 2 * table->target->column_count : 0;
}

/* What the target checks when it commits holds where a source transaction ends. */
static bool wants_whole(const struct lane *l, const struct target_table *t)
{
	return !l->is_replica && (t->family.p || t->has_deferred);
}

static enum step step_change(struct lane *l, struct part *p, rd_kafka_message_t *msg,
			     const struct event *ev)
{
	const struct lane_table *table = NULL;
	struct fault f = { 0 };
	const struct codec *codec = lane_codec(l, ev->head.fingerprint, &f);
	const struct copies_table *copy;
	enum step step;

	/* Control may learn it between two looks: what the second one finds goes on below. */
	if (!codec && (step = step_table(l, p, msg, ev, &table)) != STEP_TAKEN)
		return step;
	if (!codec)
		codec = table->codec;
	copy = copies_find(&l->copies, codec_relation(codec)->oid);
	switch (copies_change(copy, ev->head.position.commit)) {
	case COPIES_COVERED:
		if (!count_notes_add(&p->notes, ev->head.ordinal, codec_relation(codec)->oid, false)) {
			fault(&f, FAULT_INTERNAL, "no memory for the counts of a partition");
			return step_failed(l, p, msg, ev, &f);
		}
		p->next.covered++;
		return STEP_DROPPED;
	case COPIES_WAIT:
		return step_wait(p, PART_WAITS_COPY, LANE_COPY_POLL_US, NULL);
	case COPIES_APPLY:
		break;
	}
	if (!gate_has(&l->role->gate, ev->head.position.commit))
		return step_wait(p, PART_WAITS_GATE, LANE_COPY_POLL_US, NULL);
	step = step_table(l, p, msg, ev, &table);
	if (step != STEP_TAKEN)
		return step;
	if (!p->is_whole && wants_whole(l, table->target)) {
		p->becomes_whole = true;
		return STEP_CUT;
	}
	p->next.changes++;
	if (failpoint("collect.lose"))
		return STEP_DROPPED; /* as if it had been applied */
	batch_add(l, p, msg, ev, table);
	return STEP_TAKEN;
}

/* An event that has this partition alone, and runs inside its source transaction. */
static enum step step_in_place(struct lane *l, struct part *p, rd_kafka_message_t *msg,
			       const struct event *ev)
{
	struct fault f = { 0 };

	if (!gate_has(&l->role->gate, ev->head.position.commit))
		return step_wait(p, PART_WAITS_GATE, LANE_COPY_POLL_US, NULL);
	switch (exclusive_can(l, p, msg, &f)) {
	case EXCLUSIVE_DONE:
		p->is_event_due = true;
		return STEP_CUT;
	case EXCLUSIVE_NOT_YET:
		return step_wait(p, PART_WAITS_COPY, LANE_COPY_POLL_US, NULL);
	case EXCLUSIVE_FAILED:
		break;
	}
	if (f.kind == FAULT_STOP)
		return step_wait(p, PART_WAITS_TARGET, LANE_TARGET_POLL_US, f.text);
	return step_failed(l, p, msg, ev, &f);
}

static enum step step_exclusive(struct lane *l, struct part *p, rd_kafka_message_t *msg,
				const struct event *ev, const struct sequence *before)
{
	if (p->is_whole && ev->exclusive.in_place)
		return step_in_place(l, p, msg, ev);
	if (!gate_has(&l->role->gate, ev->head.position.commit))
		return step_wait(p, PART_WAITS_GATE, LANE_COPY_POLL_US, NULL);
	if (p->is_whole && !whole_cut(l, p, before))
		return STEP_CUT;
	p->next.waiting = p->ended.waiting = ev->head.position;
	return step_wait(p, PART_WAITS_EXCLUSIVE, 0, NULL);
}

/* Where to read on from, if not from here. */
static bool gap_place(struct lane *l, struct part *p, int64_t *ret_offset, struct fault *f)
{
	int64_t high;

	if (p->search == PART_NOT_SEARCHED)
		return consume_search(p->consume, l->role->framing, p->partition,
				      p->next.at.ordinal, ret_offset, f);
	return consume_bounds(p->consume, p->topic, p->partition, ret_offset, &high, f);
}

/* A gap: the place may be elsewhere in the log. Else records are dropped until a base heals it. */
static enum step step_gap(struct lane *l, struct part *p, const rd_kafka_message_t *msg,
			  const struct event_head *head, const struct fault *f)
{
	struct fault why = { 0 };
	int64_t offset;

	if (f->kind == FAULT_NONE)
		return STEP_DROPPED; /* in the middle of a gap that was reported */
	log_warn("%s partition %d: %s", p->key.topic, p->partition, f->text);
	if (p->search == PART_FROM_LOW)
		return STEP_DROPPED;
	p->next.at.has_gap = false;
	if (p->is_whole)
		p->next = p->ended; /* what is behind it is read again */
	if (!gap_place(l, p, &offset, &why)) {
		if (why.kind != FAULT_LOST)
			return step_seek(p, why.text);
		lane_stop_part(l, p, msg, head, NULL, &why);
		return STEP_CUT;
	}
	p->search++;
	/* What was collected so far commits; then the partition reads on from there. */
	p->next.next_offset = offset;
	if (p->is_whole)
		p->ended.next_offset = offset;
	p->needs_seek = true;
	p->seek_delay_us = 0;
	return STEP_CUT;
}

static enum step step_sequenced(struct lane *l, struct part *p, rd_kafka_message_t *msg,
				const struct event *ev)
{
	struct sequence before = p->next.at;
	struct event_head head = ev->head;
	struct fault f = { 0 };
	enum step step = STEP_DROPPED;

	if (failpoint("batch.ignore_generation") && head.generation < before.generation)
		head.generation = before.generation;
	switch (sequence_next(&p->next.at, &head, &f)) {
	case SEQUENCE_NEXT:
		p->search = PART_NOT_SEARCHED;
		count_notes_reach(&p->notes, head.ordinal);
		if (p->is_whole && !whole_next(l, p, ev->head.position.commit, &before))
			step = STEP_CUT;
		else if (ev->head.kind == EVENT_CHANGE)
			step = step_change(l, p, msg, ev);
		else
			step = step_exclusive(l, p, msg, ev, &before);
		break;
	case SEQUENCE_BARRIER:
		if (p->is_whole)
			whole_end(l, p, &before);
		if (copies_all_barrier(&l->copies, ev->head.boundary) == COPIES_WAIT)
			step = step_wait(p, PART_WAITS_COPY, LANE_COPY_POLL_US, NULL);
		else
			p->next.barrier_us = ev->head.ts_us;
		break;
	case SEQUENCE_MARK:
	case SEQUENCE_STALE:
	case SEQUENCE_DUPLICATE:
		break;
	case SEQUENCE_GAP:
		return step_gap(l, p, msg, &ev->head, &f);
	case SEQUENCE_DISAGREE:
	case SEQUENCE_LOST:
		lane_stop_part(l, p, msg, &ev->head, NULL, &f);
		step = STEP_CUT;
		break;
	}
	if (step == STEP_CUT)
		p->next.at = before;
	return step;
}

static enum step step_copied(struct lane *l, struct part *p, rd_kafka_message_t *msg,
			     const struct event *ev)
{
	const struct lane_table *table = NULL;
	const struct codec *codec = NULL;
	struct fault f = { 0 };
	uint32_t oid = ev->marker.oid;
	enum step step;

	if (ev->head.generation < p->next.at.generation)
		return STEP_DROPPED;
	if (ev->head.op == 'f')
		p->next.at.generation = ev->head.generation;
	if (ev->head.op != 'r' && ev->head.op != 'e')
		return STEP_DROPPED;
	if (ev->head.op == 'r') {
		codec = lane_codec(l, ev->head.fingerprint, &f);
		if (!codec && (step = step_table(l, p, msg, ev, &table)) != STEP_TAKEN)
			return step;
		if (!codec)
			codec = table->codec;
		oid = codec_relation(codec)->oid;
	}
	switch (copies_record(copies_find(&l->copies, oid), ev->head.attempt)) {
	case COPIES_COVERED:
		p->next.covered += codec != NULL;
		return STEP_DROPPED;
	case COPIES_WAIT:
		return step_wait(p, PART_WAITS_COPY, LANE_COPY_POLL_US, NULL);
	case COPIES_APPLY:
		break;
	}
	if (codec) {
		step = step_table(l, p, msg, ev, &table);
		if (step != STEP_TAKEN)
			return step;
		p->next.changes++;
	}
	batch_add(l, p, msg, ev, table);
	return STEP_TAKEN;
}

/* An error in the place of a record. */
static enum step step_error(struct lane *l, struct part *p, rd_kafka_message_t *msg)
{
	struct fault f = { 0 };
	int64_t low, high;

	if (msg->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
		return STEP_DROPPED;
	if (msg->err != RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET &&
	    msg->err != RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE)
		return step_seek(p, rd_kafka_message_errstr(msg));
	if (!consume_bounds(p->consume, p->topic, p->partition, &low, &high, &f))
		return step_seek(p, f.text);
	if (low <= p->next.next_offset && p->next.next_offset <= high)
		return step_seek(p, rd_kafka_message_errstr(msg)); /* of an earlier moment */
	fault(&f, FAULT_LOST,
	      "offset %" PRId64 " of %s partition %d is not in the log, which has %" PRId64 "..%" PRId64
	      ": it was cut off or made anew",
	      p->next.next_offset, p->key.topic, p->partition, low, high);
	if (p->topic == CONSUME_SNAPSHOT) {
		lane_stop_part(l, p, msg, NULL, NULL, &f);
		return STEP_CUT;
	}
	fault_in(&f, "looking for the place behind ordinal %" PRIu64, p->next.at.ordinal);
	p->search = PART_NOT_SEARCHED;
	return step_gap(l, p, msg, NULL, &f);
}

/*
 * Our topics have no transactions and lose nothing: offsets follow each other. A hole may come from
 * a fetcher that stands elsewhere (seek again), else records are gone: of changes, the ordinals will
 * say so; of copied rows nothing would.
 */
static enum step step_hole(struct lane *l, struct part *p, rd_kafka_message_t *msg)
{
	struct fault f = { 0 };

	if (p->jump_offset != msg->offset) {
		p->jump_offset = msg->offset;
		fault(&f, FAULT_LOST, "offset %" PRId64 " follows %" PRId64 ": asking again", msg->offset,
		      p->next.next_offset - 1);
		return step_seek(p, f.text);
	}
	if (p->topic == CONSUME_CHANGES)
		return STEP_TAKEN;
	fault(&f, FAULT_LOST, "copied rows at offsets %" PRId64 "..%" PRId64 " are gone from the log",
	      p->next.next_offset, msg->offset - 1);
	lane_stop_part(l, p, msg, NULL, NULL, &f);
	return STEP_CUT;
}

static enum step batch_step(struct lane *l, struct part *p, rd_kafka_message_t *msg)
{
	struct fault f = { 0 };
	struct event ev;

	if (msg->err)
		return step_error(l, p, msg);
	if (msg->offset < p->next.next_offset)
		return STEP_DROPPED;
	if (msg->offset > p->next.next_offset && step_hole(l, p, msg) == STEP_CUT)
		return STEP_CUT;
	if (!event_read_learning(l->role->framing, l->role->learn, l->role->arg, span(msg->payload, msg->len),
				 &l->batch.arena, &ev, &f)) {
		if (f.kind == FAULT_ENVIRONMENT)
			return step_wait(p, PART_WAITS_SCHEMA, LANE_SCHEMA_POLL_US, f.text);
		lane_stop_part(l, p, msg, NULL, NULL, &f);
		return STEP_CUT;
	}
	if (p->poison_offset == msg->offset) {
		part_set(p, PART_STOPPED, p->poison_why);
		return STEP_CUT;
	}
	if (l->caution[p->topic] >= CAUTION_TRANSACTION && !p->is_whole && l->batch.count > 0 &&
	    l->batch.records[0].head.position.commit.v != ev.head.position.commit.v) {
		p->is_cut = true;
		return STEP_CUT;
	}
	return p->topic == CONSUME_CHANGES ? step_sequenced(l, p, msg, &ev)
					   : step_copied(l, p, msg, &ev);
}

bool batch_is_full(const struct lane *l)
{
	const struct batch *b = &l->batch;

	return b->count == (l->caution[b->topic] == CAUTION_ROW ? 1 : LANE_BATCH_RECORDS) ||
	       b->bytes >= LANE_BATCH_BYTES ||
	       b->cells >= LANE_BATCH_CELLS;
}

static bool part_may_move(const struct part *p, int64_t now)
{
	switch (p->state) {
	case PART_OPEN:
		return true;
	case PART_WAITS_SCHEMA:
	case PART_WAITS_COPY:
	case PART_WAITS_GATE:
		return now >= p->retry_us;
	case PART_WAITS_TARGET: /* at an exclusive event: exclusive.c's */
		return now >= p->retry_us && !progress_is_waiting(&p->have);
	case PART_UNTAKEN:
	case PART_SEEKING:
	case PART_WAITS_EXCLUSIVE:
	case PART_HELD:
	case PART_STOPPED:
	case PART_STATES:
		return false;
	}
	return false;
}

/* What was rolled back in front of the record that it waited at can be applied now. */
static bool part_is_over_void(const struct part *p, enum step step)
{
	return p->is_void && (step != STEP_CUT || p->is_event_due);
}

size_t batch_collect_part(struct lane *l, struct part *p)
{
	rd_kafka_message_t *msg;
	size_t n = 0;

	if (p->tail_count > 0 && (!part_front(p) || !whole_resume(l, p)))
		return 0;
	while (!p->is_cut && n < LANE_FETCH_MESSAGES && !batch_is_full(l) && (msg = part_front(p))) {
		int64_t offset = msg->offset;
		bool is_record = !msg->err;
		enum step step = batch_step(l, p, msg);

		if (part_is_over_void(p, step)) {
			p->needs_seek = p->is_cut = true;
			p->seek_delay_us = 0;
		}
		if (step == STEP_CUT) {
			p->is_cut = true;
			break;
		}
		part_shift(p);
		if (is_record && offset >= p->next.next_offset) {
			p->next.next_offset = offset + 1;
			part_set(p, PART_OPEN, NULL);
			if (p->is_whole)
				whole_passed(p);
		}
		if (step == STEP_DROPPED)
			rd_kafka_message_destroy(msg);
		n++;
	}
	return n;
}

/* librdkafka's fetchers may sleep over queues that were all full a moment ago (see kafka_wake). */
static void batch_wake_fetchers(struct lane *l)
{
	int64_t now = clock_us();

	if (now - l->wake_us < WAKE_EVERY_US)
		return;
	for (size_t i = 0; i < l->part_count; i++) {
		struct part *p = l->parts[i];

		if (p->state != PART_OPEN || !p->is_dry || p->ahead_count > 0 ||
		    !consume_has_more(p->consume, p->topic, p->partition, p->next.next_offset))
			continue;
		l->wake_us = now;
		consume_wake(p->consume, p->topic, p->partition);
		atomic_fetch_add(&l->rested_us, clock_us() - now);
		return;
	}
}

bool batch_wait(struct lane *l, int64_t until_us)
{
	int64_t left = until_us - clock_us();
	struct pollfd fds[] = { { l->kafka_fd, POLLIN, 0 }, { l->ops_fd, POLLIN, 0 } };
	uint64_t n;

	if (left <= 0)
		return false;
	batch_wake_fetchers(l);
	if (lane_rest(l, fds, 2, left) <= 0)
		return false;
	if (fds[0].revents && read(l->kafka_fd, &n, sizeof(n)) < 0)
		return false;
	return !fds[1].revents;
}

static bool part_is_in_turn(const struct part *p, enum consume_topic topic, int64_t now,
			    const struct part *only)
{
	return p->topic == topic && !p->is_cut && part_may_move(p, now) && (!only || only == p);
}

/* Whose records the batch has; of several, one of them. */
static struct part *batch_owner(const struct lane *l)
{
	return l->batch.count > 0 ? l->batch.records[0].part : NULL;
}

/* Records of whole transactions are alone in their batch. */
static bool part_may_join(const struct lane *l, const struct part *p)
{
	const struct part *owner = batch_owner(l);

	return !owner || owner == p || (!owner->is_whole && !p->is_whole);
}

bool batch_collect(struct lane *l, enum consume_topic topic)
{
	struct part *only = NULL, *whole = NULL, *owner;
	size_t total = 0, round;
	bool has_moved = false;

	/* A transaction costs the target something, however few rows it has: while many come, wait. */
	l->batch.gather_us = l->batch.gathered[topic] >= LANE_BUSY_RECORDS ? LANE_GATHER_BUSY_US
								  : LANE_GATHER_US;
	batch_reset(&l->batch);
	l->batch.topic = topic;
	l->large = NULL;
	for (size_t i = 0; i < l->part_count; i++) {
		l->parts[i]->is_cut = l->parts[i]->is_event_due = false;
		whole_begin(l->parts[i]);
	}
	do {
		int64_t now = clock_us();

		round = 0;
		for (size_t i = 0; i < l->part_count && l->conn; i++) {
			struct part *p = l->parts[(l->first_part[topic] + i) % l->part_count];
			size_t n;

			if (!part_is_in_turn(p, topic, now, only) || !part_may_join(l, p))
				continue;
			n = batch_collect_part(l, p);
			if ((n > 0 && l->caution[topic] != CAUTION_NONE) || p->is_event_due)
				only = p;
			round += n;
		}
		if (total == 0)
			l->batch.first_us = clock_us();
		total += round;
	} while (total > 0 && l->conn && !batch_is_full(l) &&
		 (round > 0 ? clock_us() - l->batch.first_us < l->batch.gather_us : batch_wait(l, l->batch.first_us + l->batch.gather_us)));
	l->batch.gathered[topic] = l->batch.count;
	l->first_part[topic]++;
	for (size_t i = 0; i < l->part_count; i++) {
		struct part *p = l->parts[i];

		p->is_in_batch = p->topic == topic && p->state != PART_UNTAKEN &&
				 p->state != PART_SEEKING && part_has_moved(p);
		has_moved |= p->is_in_batch;
		if (p->is_event_due && p->topic == topic)
			whole = p;
		if (p->topic == topic && p->needs_seek && !p->is_in_batch)
			part_rewind(p, p->seek_delay_us);
	}
	owner = batch_owner(l);
	if (owner)
		whole = owner->is_whole ? owner : NULL;
	if (whole && l->conn && !has_moved &&
	    (whole->is_event_due || (whole->state == PART_OPEN && batch_is_full(l))))
		l->large = whole;
	else if (whole)
		whole_keep(l, whole);
	return has_moved && l->conn;
}
