// SPDX-License-Identifier: Apache-2.0
/*
 * whole - source transactions are applied whole and in order (order: transaction), so that a reader of the
 * target never sees half of one; or so that the target, which enforces constraints of its own, never does (where
 * the role may not set session_replication_role).
 *
 * In the first case all changes are in one partition, p->is_whole. In the second a partition becomes so when it
 * meets a change of such a table; a batch with records of one has no other's. Nothing in a record says that it is its transaction's
 * last, so an end is known by what follows:
 *
 * 1. A transaction has ended where an accepted change or event of another one follows, or an accepted
 *    barrier. A fence or base says nothing: a new life of ingest goes on in the middle.
 * 2. A batch commits up to the newest end (p->ended). What is behind it and to be applied is kept in
 *    p->tail and is the beginning of the next batch. That is also how a transaction waits: whatever one
 *    of its records waits for or is stopped by, nothing of it has been applied.
 *    An event that all partitions wait for ends it, too, though more of it may follow: what is before the event
 *    must be on the target when it runs.
 * 3. A transaction that fills a batch, or has an event inside (TRUNCATE, a change of columns), is applied in
 *    rounds: the target's transaction stays open until the end is there (whole_run). The first round locks
 *    our progress row under our epoch, the last one moves it.
 * 4. A round that fails takes all of the transaction with it. It is read again, change by change; what
 *    cannot be applied then stops the partition in front of the transaction.
 * 5. If a transaction that is open cannot go on, it is rolled back and p->is_void: the record that it
 *    waited at stays in front, and when that one goes, all is read again from `have`. So nobody is locked
 *    out while we wait, and what is waited for is asked without applying anything.
 *
 * While a transaction is open its lane does nothing else. No transaction is open after whole_run.
 */
#include <poll.h>

#include "core/clock.h"
#include "core/log.h"
#include "shadow/lane_state.h"

enum { WAIT_SLICE_US = 20 * 1000 };

/* ---- where a transaction ends ---- */

/* Was something of a transaction read whose end was not seen? */
static bool is_inside(const struct part *p, const struct sequence *at)
{
	return at->ordinal != p->ended.at.ordinal;
}

static void read_again(struct part *p)
{
	p->needs_seek = true;
	p->seek_delay_us = 0;
}

void whole_end(struct lane *l, struct part *p, const struct sequence *before)
{
	if (!is_inside(p, before))
		return;
	if (p->is_void) {
		read_again(p);
		return;
	}
	p->ended = p->next;
	p->ended.at = *before;
	l->batch.ended_count = l->batch.count;
}

bool whole_next(struct lane *l, struct part *p, struct commit_lsn commit,
		const struct sequence *before)
{
	bool is_single = l->is_open || (l->caution[p->topic] >= CAUTION_TRANSACTION && l->batch.count > 0);

	if (is_inside(p, before) && commit.v == before->position.commit.v)
		return true;
	whole_end(l, p, before);
	if (p->is_void || is_single)
		return false;
	if (p->poison_commit.v == 0 || p->poison_commit.v != commit.v)
		return true;
	part_set(p, PART_STOPPED, p->poison_why);
	return false;
}

bool whole_cut(struct lane *l, struct part *p, const struct sequence *before)
{
	whole_end(l, p, before);
	return !p->needs_seek;
}

void whole_begin(struct part *p)
{
	if (!p->becomes_whole)
		return;
	log_debug("%s partition %d: source transactions are applied whole", p->key.topic, p->partition);
	p->becomes_whole = false;
	p->is_whole = true;
	p->ended = p->next;
}

void whole_passed(struct part *p)
{
	if (!is_inside(p, &p->next.at))
		p->ended = p->next;
}

/* ---- the tail ---- */

/* The table may have been forgotten since; that it was right to apply the record stays so. */
static bool resume_one(struct lane *l, struct part *p, rd_kafka_message_t *msg, struct fault *f)
{
	const struct lane_table *table;
	struct event ev;

	if (!event_read(l->role->framing, span(msg->payload, msg->len), &l->batch.arena, &ev, f) ||
	    lane_table(l, ev.head.fingerprint, &table, f) != LANE_FOUND)
		return false;
	batch_add(l, p, msg, &ev, table);
	return true;
}

bool whole_resume(struct lane *l, struct part *p)
{
	struct fault f = { 0 };
	size_t n = 0;

	while (n < p->tail_count && resume_one(l, p, p->tail[n], &f))
		n++;
	p->tail_count -= n;
	memmove(p->tail, p->tail + n, p->tail_count * sizeof(*p->tail));
	if (p->tail_count == 0)
		return true;
	/* Collecting it again finds out what is the matter. */
	p->is_cut = p->needs_seek = true;
	p->seek_delay_us = LANE_TARGET_POLL_US;
	if (PQstatus(l->conn) != CONNECTION_OK)
		lane_failed(l, &f);
	return false;
}

void whole_keep(struct lane *l, struct part *p)
{
	struct batch *b = &l->batch;
	bool is_kept = l->conn && !p->needs_seek && p->state != PART_UNTAKEN && p->state != PART_SEEKING;

	for (size_t i = b->ended_count; i < b->count; i++)
		if (is_kept)
			p->tail[p->tail_count++] = b->records[i].msg;
		else
			rd_kafka_message_destroy(b->records[i].msg);
	b->count = b->ended_count;
}

/* ---- rounds ---- */

/* Reported, and the partition stops in front of the transaction. i: the record, if it is known which. */
static bool whole_poison(struct lane *l, struct part *p, size_t i, struct fault *f)
{
	rd_kafka_message_t msg = { .offset = p->next.next_offset - 1 };
	char lsn[LSN_TEXT];

	apply_roll_back(l->apply);
	if (i < l->batch.count) {
		batch_poison(l, i, f);
		return false;
	}
	fault_in(f, "the source transaction at LSN %s, as a whole",
		 lsn_format(p->next.at.position.commit.v, lsn));
	lane_report(l, p, &msg, NULL, NULL, f, p->poison_why, sizeof(p->poison_why));
	p->poison_commit = p->next.at.position.commit;
	part_rewind(p, 0);
	return false;
}

static bool whole_carefully(struct lane *l, struct part *p, const struct fault *why)
{
	char lsn[LSN_TEXT];

	log_warn("the source transaction at LSN %s failed (%s): applying it change by change",
		 lsn_format(p->next.at.position.commit.v, lsn), why->text);
	lane_reread(l);
	apply_roll_back(l->apply);
	p->careful = p->next.at.position.commit;
	part_rewind(p, 0);
	return false;
}

static bool whole_statement(struct lane *l, const struct part *p, enum apply_extent extent,
			    struct apply_statement *ret, struct fault *f)
{
	struct progress_move move = { p->key, &p->have, extent == APPLY_END ? &p->ended : &p->have };

	if (extent == APPLY_MIDDLE)
		return true;
	if (extent == APPLY_BEGIN)
		return progress_moves(&move, 1, NULL, &l->batch.arena, ret, f);
	return batch_count_passed(l, p, &p->ended, f) &&
	       progress_moves(&move, 1, &l->batch.counts, &l->batch.arena, ret, f);
}

/* What the batch holds, into the target's transaction. false: nothing of it is left, and what follows from
 * that is done. */
static bool whole_round(struct lane *l, struct part *p, enum apply_extent extent)
{
	struct plan *plan = &l->batch.plan;
	bool is_careful = p->careful.v != 0 && p->careful.v == p->next.at.position.commit.v;
	struct apply_failure failure;
	struct apply_statement first;
	struct fault f = { 0 };

	for (size_t i = 0; i < l->batch.count; i++)
		if (!batch_plan(l, i, &f))
			return whole_poison(l, p, i, &f);
	if (!whole_statement(l, p, extent, &first, &f) ||
	    !(is_careful ? plan_sequential(plan, &f) : plan_finish(plan, &f)))
		return whole_poison(l, p, SIZE_MAX, &f);
	if (apply_round(l->apply, plan, extent, &first, extent != APPLY_MIDDLE, &failure, &f)) {
		plan_carry(plan);
		return true;
	}
	if (!fault_is_of_a_row(&f)) {
		apply_roll_back(l->apply);
		lane_failed(l, &f);
		return false;
	}
	if (!is_careful)
		return whole_carefully(l, p, &f);
	return whole_poison(l, p,
			    failure.at == APPLY_AT_EXEC ? (size_t)plan->changes[failure.exec].cookie
							: SIZE_MAX,
			    &f);
}

/* Has the end of the transaction that is open been seen? */
static bool has_ended(const struct part *p)
{
	return p->ended.at.ordinal != p->have.at.ordinal;
}

static bool an_op_waits(const struct lane *l)
{
	struct pollfd fd = { l->ops_fd, POLLIN, 0 };

	return poll(&fd, 1, 0) > 0;
}

/* false: nothing came, or an op waits. In slices, since a fetcher that sleeps is woken at their beginning. */
static bool wait_for_record(struct lane *l, int64_t until_us)
{
	while (clock_us() < until_us) {
		if (batch_wait(l, clock_us() + WAIT_SLICE_US))
			return true;
		if (an_op_waits(l))
			return false;
	}
	return false;
}

/* The next round: a batch full, up to an event, or up to the end. false: it cannot go on now. */
static bool whole_more(struct lane *l, struct part *p)
{
	int64_t until_us = clock_us() + LANE_STALLED_US;

	batch_reset(&l->batch);
	if (an_op_waits(l) || (p->is_event_due && !exclusive_in_place(l, p)))
		return false;
	p->is_cut = p->is_event_due = false;
	for (;;) {
		size_t n = batch_collect_part(l, p);

		/* The end counts, whatever is the matter with what follows. */
		if (!l->conn || has_ended(p))
			return l->conn;
		if (p->needs_seek)
			return false;
		if (p->is_event_due || batch_is_full(l))
			return true;
		if (p->is_cut)
			return false;
		if (n > 0)
			until_us = clock_us() + LANE_STALLED_US;
		else if (!wait_for_record(l, until_us))
			return false;
	}
}

static void whole_give_up(struct lane *l, struct part *p)
{
	batch_reset(&l->batch);
	if (!l->conn || p->state == PART_UNTAKEN || p->state == PART_SEEKING)
		return;
	apply_roll_back(l->apply);
	p->is_in_batch = false;
	p->is_void = is_inside(p, &p->next.at);
	if (!p->needs_seek)
		return;
	/* To another place in the log, across a gap. */
	p->is_in_batch = part_has_moved(p) && !has_ended(p);
	if (p->is_in_batch)
		batch_commit_changes(l);
	else
		part_rewind(p, p->seek_delay_us);
}

void whole_run(struct lane *l)
{
	enum apply_extent extent = APPLY_BEGIN;
	struct part *p = l->large;
	int rounds = 1;

	l->large = NULL;
	plan_begin(&l->batch.plan);
	counts_reset(&l->batch.counts);
	l->is_open = p->is_in_batch = true;
	lane_publish(l);
	for (; whole_round(l, p, extent); rounds++) {
		if (extent == APPLY_END) {
			log_debug("a source transaction was applied in %d rounds", rounds);
			p->careful = (struct commit_lsn) { 0 };
			batch_committed(l);
			break;
		}
		if (!whole_more(l, p)) {
			whole_give_up(l, p);
			break;
		}
		extent = has_ended(p) ? APPLY_END : APPLY_MIDDLE;
		lane_publish(l);
	}
	l->is_open = false;
	/* What woke us may have been theirs. */
	for (size_t i = 0; i < l->part_count; i++)
		l->parts[i]->is_dry = false;
}
