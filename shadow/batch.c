// SPDX-License-Identifier: Apache-2.0
/*
 * batch - what a lane commits at once: collected from its partitions, fairly, and cut by the limits
 * in lane.h.
 *
 * Collecting only looks at heads: sequence rules, copies, the gate decide whether a record is
 * applied, dropped (covered, duplicate, stale) or makes its partition wait. A Kafka message that is
 * applied lives until its transaction has ended: the plan and its parameters point into it.
 *
 * Source transactions may be cut: lanes run under session_replication_role = replica, where no
 * deferred check ever fires, so nothing on the target can tell.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/failpoint.h"
#include "core/log.h"
#include "shadow/lane_state.h"

enum { CAUTION_BATCHES = 100, HINT_EVERY_US = 5 * 1000 * 1000, WAKE_EVERY_US = 20 * 1000 };

bool batch_init(struct batch *b, struct fault *f)
{
	arena_init(&b->arena, LANE_ARENA_BYTES);
	b->records = calloc(LANE_BATCH_RECORDS, sizeof(*b->records));
	plan_init(&b->plan, &b->arena);
	return b->records || fault(f, FAULT_INTERNAL, "no memory for a batch");
}

void batch_reset(struct batch *b)
{
	for (size_t i = 0; i < b->count; i++)
		rd_kafka_message_destroy(b->records[i].msg);
	b->count = b->bytes = b->cells = 0;
	plan_reset(&b->plan);
	arena_reset(&b->arena);
}

void batch_release(struct batch *b)
{
	if (b->records)
		batch_reset(b);
	arena_release(&b->arena);
	free(b->records);
	b->records = NULL;
}

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
	if (f.kind != FAULT_ENVIRONMENT) {
		lane_stop_part(l, p, msg, &ev->head, NULL, &f);
		return STEP_CUT;
	}
	if (PQstatus(l->conn) != CONNECTION_OK) {
		lane_failed(l, &f); /* no partition is ours any more */
		return STEP_CUT;
	}
	return step_seek(p, f.text);
}

static enum step step_add(struct lane *l, struct part *p, rd_kafka_message_t *msg,
			  const struct event *ev, const struct lane_table *table)
{
	struct batch *b = &l->batch;

	b->records[b->count++] = (struct batch_record) {
		.part = p, .msg = msg, .head = ev->head, .body = ev->body, .table = table,
	};
	if (!table)
		b->records[b->count - 1].marker = ev->marker;
	b->bytes += msg->len;
	b->cells += table ? 2 * table->target->column_count : 0;
	return STEP_TAKEN;
}

static enum step step_change(struct lane *l, struct part *p, rd_kafka_message_t *msg,
			     const struct event *ev)
{
	const struct lane_table *table = NULL;
	struct fault f = { 0 };
	const struct codec *codec = lane_codec(l, ev->head.fingerprint, &f);
	const struct copies_table *copy;
	enum step step;

	if (!codec)
		return step_table(l, p, msg, ev, &table);
	copy = copies_find(&l->copies, codec_relation(codec)->oid);
	switch (copies_change(copy, ev->head.position.commit)) {
	case COPIES_COVERED:
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
	p->next.changes++;
	return step_add(l, p, msg, ev, table);
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
	if (!gap_place(l, p, &offset, &why)) {
		if (why.kind != FAULT_LOST)
			return step_seek(p, why.text);
		lane_stop_part(l, p, msg, head, NULL, &why);
		return STEP_CUT;
	}
	p->search++;
	/* What was collected so far commits; then the partition reads on from there. */
	p->next.next_offset = offset;
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
		if (ev->head.kind == EVENT_CHANGE) {
			step = step_change(l, p, msg, ev);
		} else {
			p->next.waiting = ev->head.position;
			step = step_wait(p, PART_WAITS_EXCLUSIVE, 0, NULL);
		}
		break;
	case SEQUENCE_BARRIER:
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
		if (!codec)
			return step_table(l, p, msg, ev, &table);
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
	return step_add(l, p, msg, ev, table);
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

/* event_read, asking the registry for a schema id that was never seen here. */
static bool step_read(struct lane *l, const rd_kafka_message_t *msg, struct event *ev,
		      struct fault *f)
{
	struct span record = span(msg->payload, msg->len);
	int32_t id;

	if (event_read(l->role->framing, record, &l->batch.arena, ev, f))
		return true;
	if (f->kind != FAULT_ENVIRONMENT || !l->role->learn || !framing_record_id(record, &id))
		return false;
	return l->role->learn(l->role->arg, id, f) &&
	       event_read(l->role->framing, record, &l->batch.arena, ev, f);
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
	if (!step_read(l, msg, &ev, &f)) {
		if (f.kind == FAULT_ENVIRONMENT)
			return step_wait(p, PART_WAITS_SCHEMA, LANE_SCHEMA_POLL_US, f.text);
		lane_stop_part(l, p, msg, NULL, NULL, &f);
		return STEP_CUT;
	}
	if (p->poison_offset == msg->offset) {
		part_set(p, PART_STOPPED, p->poison_why);
		return STEP_CUT;
	}
	if (l->caution == CAUTION_TRANSACTION && l->batch.count > 0 &&
	    l->batch.records[0].head.position.commit.v != ev.head.position.commit.v) {
		p->is_cut = true;
		return STEP_CUT;
	}
	return p->topic == CONSUME_CHANGES ? step_sequenced(l, p, msg, &ev)
					   : step_copied(l, p, msg, &ev);
}

static bool batch_is_full(const struct batch *b)
{
	return b->count == LANE_BATCH_RECORDS || b->bytes >= LANE_BATCH_BYTES ||
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
	case PART_STOPPED:
	case PART_STATES:
		return false;
	}
	return false;
}

/* A partition's share of a round. Returns the number of records it moved over. */
static size_t batch_collect_part(struct lane *l, struct part *p)
{
	rd_kafka_message_t *msg;
	size_t n = 0;

	while (n < LANE_FETCH_MESSAGES && !batch_is_full(&l->batch) && (msg = part_front(p))) {
		int64_t offset = msg->offset;
		bool is_record = !msg->err;
		enum step step = batch_step(l, p, msg);

		if (step == STEP_CUT) {
			p->is_cut = true;
			break;
		}
		part_shift(p);
		if (is_record && offset >= p->next.next_offset) {
			p->next.next_offset = offset + 1;
			part_set(p, PART_OPEN, NULL);
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
		return;
	}
}

/* More may come within the gathering time: is it over, or does an op wait? */
static bool batch_gather_wait(struct lane *l)
{
	int64_t left = l->batch.first_us + LANE_GATHER_US - clock_us();
	struct pollfd fds[] = { { l->kafka_fd, POLLIN, 0 }, { l->ops_fd, POLLIN, 0 } };
	struct timespec wait;
	uint64_t n;

	if (left <= 0)
		return false;
	batch_wake_fetchers(l);
	wait = (struct timespec) { 0, left * 1000 };
	if (ppoll(fds, 2, &wait, NULL) <= 0)
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

bool batch_collect(struct lane *l, enum consume_topic topic)
{
	struct part *only = NULL;
	size_t total = 0, round;
	bool has_moved = false;

	batch_reset(&l->batch);
	for (size_t i = 0; i < l->part_count; i++)
		l->parts[i]->is_cut = false;
	do {
		int64_t now = clock_us();

		round = 0;
		for (size_t i = 0; i < l->part_count && l->conn; i++) {
			struct part *p = l->parts[(l->first_part + i) % l->part_count];
			size_t n;

			if (!part_is_in_turn(p, topic, now, only))
				continue;
			n = batch_collect_part(l, p);
			if (n > 0 && l->caution != CAUTION_NONE)
				only = p;
			round += n;
		}
		if (total == 0)
			l->batch.first_us = clock_us();
		total += round;
	} while (total > 0 && l->conn && !batch_is_full(&l->batch) &&
		 (round > 0 ? clock_us() - l->batch.first_us < LANE_GATHER_US : batch_gather_wait(l)));
	l->first_part++;
	for (size_t i = 0; i < l->part_count; i++) {
		struct part *p = l->parts[i];

		p->is_in_batch = p->topic == topic && p->state != PART_UNTAKEN &&
				 p->state != PART_SEEKING && part_has_moved(p);
		has_moved |= p->is_in_batch;
		if (p->topic == topic && p->needs_seek && !p->is_in_batch)
			part_rewind(p, p->seek_delay_us);
	}
	return has_moved && l->conn;
}

/* The statement that takes each partition in `parts` from have to next. */
static bool batch_progress(struct part **parts, size_t n, struct arena *a,
			   struct apply_statement *ret, struct fault *f)
{
	struct progress_move *moves = arena_alloc(a, (n + 1) * sizeof(*moves));

	if (!moves)
		return fault(f, FAULT_INTERNAL, "no memory for the progress of %zu partitions", n);
	for (size_t i = 0; i < n; i++)
		moves[i] = (struct progress_move) { parts[i]->key, &parts[i]->have, &parts[i]->next };
	return progress_moves(moves, n, a, ret, f);
}

/* Parts of the batch; the array lives in the batch's arena. */
static struct part **batch_parts(struct lane *l, size_t *ret_n)
{
	struct part **parts = arena_alloc(&l->batch.arena, (l->part_count + 1) * sizeof(*parts));
	size_t n = 0;

	for (size_t i = 0; parts && i < l->part_count; i++)
		if (l->parts[i]->is_in_batch)
			parts[n++] = l->parts[i];
	*ret_n = n;
	return parts;
}

static void batch_committed(struct lane *l)
{
	int64_t now = clock_us();

	for (size_t i = 0; i < l->part_count; i++) {
		struct part *p = l->parts[i];

		if (!p->is_in_batch)
			continue;
		p->is_in_batch = false;
		p->have = p->next;
		if (p->needs_seek)
			part_rewind(p, p->seek_delay_us);
		if (now - p->commit_hint_us > HINT_EVERY_US) {
			p->commit_hint_us = now;
			consume_hint(p->consume, p->topic, p->partition, p->have.next_offset);
		}
	}
	if (l->caution != CAUTION_NONE && --l->caution_left <= 0)
		l->caution = CAUTION_NONE;
	lane_recovered(l);
}

/* Values of a record into the batch's arena. */
static bool record_decode(struct lane *l, const struct batch_record *r, const struct value **ret_before,
			  const struct value **ret_after, struct fault *f)
{
	size_t n = codec_relation(r->table->codec)->column_count;
	struct value *before = arena_alloc(&l->batch.arena, (n + 1) * sizeof(*before));
	struct value *after = arena_alloc(&l->batch.arena, (n + 1) * sizeof(*after));
	bool has_before, has_after;

	if (!before || !after)
		return fault(f, FAULT_INTERNAL, "no memory for the values of a batch");
	if (!codec_decode(r->table->codec, r->body, before, &has_before, after, &has_after, f))
		return false;
	*ret_before = has_before ? before : NULL;
	*ret_after = has_after ? after : NULL;
	return true;
}

static bool record_plan(struct lane *l, size_t i, struct fault *f)
{
	const struct batch_record *r = &l->batch.records[i];
	struct plan_change ch = {
		.table = r->table->target,
		.op = r->head.op,
		.key = span(r->msg->key, r->msg->key_len),
		.commit = r->head.position.commit,
		.cookie = i,
	};

	return record_decode(l, r, &ch.before, &ch.after, f) && plan_add(&l->batch.plan, &ch, f);
}

/*
 * Record i cannot be applied. Its partition will stop in front of it; what is before it, and the
 * other partitions, are collected again.
 */
static void batch_poison(struct lane *l, size_t i, const struct fault *f)
{
	struct batch_record *r = &l->batch.records[i];
	struct part *p = r->part;

	lane_report(l, p, r->msg, &r->head, r->table ? codec_relation(r->table->codec) : NULL, f,
		    p->poison_why, sizeof(p->poison_why));
	p->poison_offset = r->msg->offset;
	for (size_t k = 0; k < l->part_count; k++)
		if (l->parts[k]->is_in_batch)
			part_rewind(l->parts[k], 0);
}

/* The transaction was refused as a whole. Smaller ones will show whose fault it is. */
static void batch_refused(struct lane *l, const struct fault *f)
{
	if (l->caution == CAUTION_TRANSACTION ||
	    (l->caution == CAUTION_PARTITION && l->batch.count <= 1)) {
		if (l->batch.count > 0) {
			batch_poison(l, 0, f);
			return;
		}
	} else {
		l->caution++;
	}
	l->caution_left = CAUTION_BATCHES;
	log_warn("a batch of %zu records was refused (%s): going on in smaller ones", l->batch.count,
		 f->text);
	for (size_t k = 0; k < l->part_count; k++)
		if (l->parts[k]->is_in_batch)
			part_rewind(l->parts[k], LANE_BACKOFF_FIRST_MS * INT64_C(1000));
}

static bool fault_is_of_a_row(const struct fault *f)
{
	return f->kind != FAULT_ENVIRONMENT && f->kind != FAULT_FENCED;
}

/* The merged batch was refused because of a row: change by change, in source order. */
static void batch_replay(struct lane *l, const struct apply_statement *first, const struct fault *why)
{
	struct fault f = { 0 };
	size_t change;

	log_warn("a batch of %zu changes failed (%s): applying it change by change", l->batch.count,
		 why->text);
	if (apply_sequential(l->apply, &l->batch.plan, first, 1, &change, &f)) {
		batch_committed(l);
		return;
	}
	if (!fault_is_of_a_row(&f))
		lane_failed(l, &f);
	else if (change == SIZE_MAX)
		batch_refused(l, &f);
	else
		batch_poison(l, (size_t)l->batch.plan.changes[change].cookie, &f);
}

void batch_commit_changes(struct lane *l)
{
	struct batch *b = &l->batch;
	struct apply_failure failure;
	struct apply_statement first;
	struct fault f = { 0 };
	struct part **parts;
	size_t n;

	for (size_t i = 0; i < b->count; i++)
		if (!record_plan(l, i, &f)) {
			batch_poison(l, i, &f);
			return;
		}
	parts = batch_parts(l, &n);
	if (!parts || !batch_progress(parts, n, &b->arena, &first, &f) ||
	    !plan_finish(&b->plan, &f)) {
		batch_refused(l, &f);
		return;
	}
	failpoint("lane.before_send");
	if (apply_plan(l->apply, &b->plan, &first, 1, &failure, &f))
		batch_committed(l);
	else if (!fault_is_of_a_row(&f))
		lane_failed(l, &f);
	else if (b->count == 0)
		batch_refused(l, &f);
	else
		batch_replay(l, &first, &f);
}

/* Rows of one table in a batch of copied rows, and their counts. */
struct copied_table {
	const struct lane_table *table;
	const struct value **rows;
	size_t row_count;
};
struct copied_count {
	struct part *part;
	uint32_t oid, attempt;
	uint64_t records, wanted;
	bool has_ended;
};

struct copied {
	struct copied_table *tables;
	struct copied_count *counts;
	size_t table_count, count_count;
};

static uint32_t record_oid(const struct batch_record *r)
{
	return r->table ? codec_relation(r->table->codec)->oid : r->marker.oid;
}

/* Few tables and partitions are in a batch of copied rows, and runs of one are long: from the end. */
static struct copied_table *copied_table(struct copied *c, struct arena *a, size_t max,
					 const struct lane_table *table)
{
	struct copied_table *t;

	for (size_t i = c->table_count; i-- > 0;)
		if (c->tables[i].table == table)
			return &c->tables[i];
	t = &c->tables[c->table_count++];
	*t = (struct copied_table) { table, arena_alloc(a, max * sizeof(*t->rows)), 0 };
	return t;
}

static struct copied_count *copied_count(struct copied *c, const struct batch_record *r)
{
	for (size_t i = c->count_count; i-- > 0;)
		if (c->counts[i].part == r->part && c->counts[i].oid == record_oid(r))
			return &c->counts[i];
	c->counts[c->count_count] = (struct copied_count) { .part = r->part,
							     .oid = record_oid(r),
							     .attempt = r->head.attempt };
	return &c->counts[c->count_count++];
}

static bool copied_add(struct lane *l, struct copied *c, size_t i, struct fault *f)
{
	const struct batch_record *r = &l->batch.records[i];
	struct copied_count *count = copied_count(c, r);
	const struct value *before, *after = NULL;
	struct copied_table *t;

	if (!r->table) {
		count->has_ended = true;
		count->wanted = r->marker.record_count;
		return true;
	}
	count->records++;
	t = copied_table(c, &l->batch.arena, l->batch.count, r->table);
	if (!t->rows)
		return fault(f, FAULT_INTERNAL, "no memory for copied rows");
	if (!record_decode(l, r, &before, &after, f))
		return false;
	if (!after)
		return fault(f, FAULT_INPUT, "a copied row without values");
	t->rows[t->row_count++] = after;
	return true;
}

static bool copied_statements(struct lane *l, const struct copied *c, struct apply_statement *first,
			      struct fault *f)
{
	struct part **parts;
	size_t n;

	parts = batch_parts(l, &n);
	if (!parts || !batch_progress(parts, n, &l->batch.arena, first, f))
		return false;
	for (size_t i = 0; i < c->count_count; i++) {
		const struct copied_count *k = &c->counts[i];

		if (!copies_count(l->migration->name, k->oid, k->attempt, k->part->partition,
				  k->records, k->has_ended, k->wanted, &l->batch.arena,
				  &first[1 + i], f))
			return false;
	}
	return true;
}

void batch_commit_copies(struct lane *l)
{
	struct batch *b = &l->batch;
	struct copied c = {
		.tables = arena_alloc(&b->arena, (b->count + 1) * sizeof(*c.tables)),
		.counts = arena_alloc(&b->arena, (b->count + 1) * sizeof(*c.counts)),
	};
	struct apply_statement *first;
	struct apply_rows *rows;
	struct fault f = { 0 };

	if (!c.tables || !c.counts) {
		fault(&f, FAULT_INTERNAL, "no memory for copied rows");
		batch_refused(l, &f);
		return;
	}
	for (size_t i = 0; i < b->count; i++)
		if (!copied_add(l, &c, i, &f)) {
			batch_poison(l, i, &f);
			return;
		}
	first = arena_alloc(&b->arena, (c.count_count + 1) * sizeof(*first));
	rows = arena_alloc(&b->arena, (c.table_count + 1) * sizeof(*rows));
	if (!first || !rows || !copied_statements(l, &c, first, &f)) {
		batch_refused(l, &f);
		return;
	}
	for (size_t i = 0; i < c.table_count; i++)
		rows[i] = (struct apply_rows) { c.tables[i].table->target, c.tables[i].rows,
						c.tables[i].row_count };
	if (apply_copy(l->apply, rows, c.table_count, first, c.count_count + 1, &f))
		batch_committed(l);
	else if (!fault_is_of_a_row(&f))
		lane_failed(l, &f);
	else
		batch_refused(l, &f);
}
