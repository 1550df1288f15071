// SPDX-License-Identifier: Apache-2.0
/*
 * batch - what a lane commits at once: merged into a plan and sent as one transaction; if that fails
 * because of a row, replayed change by change, until it is known which record cannot be applied.
 *
 * A Kafka message that is applied lives until its transaction has ended: the plan and its parameters
 * point into it.
 */
#include <stdlib.h>

#include "core/clock.h"
#include "core/failpoint.h"
#include "core/log.h"
#include "shadow/lane_state.h"

enum { CAUTION_BATCHES = 100, HINT_EVERY_US = 5 * 1000 * 1000 };

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
	b->count = b->ended_count = b->bytes = b->cells = 0;
	plan_reset(&b->plan);
	arena_reset(&b->arena);
}

void batch_release(struct batch *b)
{
	if (b->records)
		batch_reset(b);
	plan_release(&b->plan);
	counts_release(&b->counts);
	arena_release(&b->arena);
	free(b->records);
	b->records = NULL;
}

bool batch_count_passed(struct lane *l, const struct part *p, const struct progress *to, struct fault *f)
{
	return count_notes_sum(&p->notes, p->have.at.ordinal, to->at.ordinal, p->partition, &l->batch.counts) ||
	       fault(f, FAULT_INTERNAL, "no memory for the counts of a batch");
}

bool batch_statement(struct lane *l, struct apply_statement *ret, struct fault *f)
{
	bool is_counted = l->batch.topic == CONSUME_CHANGES;
	struct arena *a = &l->batch.arena;
	struct progress_move *moves = arena_alloc(a, (l->part_count + 1) * sizeof(*moves));
	size_t n = 0;

	if (!moves)
		return fault(f, FAULT_INTERNAL, "no memory for the progress of a batch");
	for (size_t i = 0; i < l->part_count; i++) {
		const struct part *p = l->parts[i];

		if (!p->is_in_batch)
			continue;
		if (is_counted && !batch_count_passed(l, p, part_goal(p), f))
			return false;
		moves[n++] = (struct progress_move) { p->key, &p->have, part_goal(p) };
	}
	return progress_moves(moves, n, is_counted ? &l->batch.counts : NULL, a, ret, f);
}

void batch_committed(struct lane *l)
{
	int64_t now = clock_us();

	for (size_t i = 0; i < l->part_count; i++) {
		struct part *p = l->parts[i];

		if (!p->is_in_batch)
			continue;
		p->is_in_batch = false;
		lane_moved(l, p, part_goal(p));
		p->have = *part_goal(p);
		count_notes_forget(&p->notes, p->have.at.ordinal);
		if (p->needs_seek)
			part_rewind(p, p->seek_delay_us);
		if (now - p->commit_hint_us > HINT_EVERY_US) {
			p->commit_hint_us = now;
			consume_hint(p->consume, p->topic, p->partition, p->have.next_offset);
		}
	}
	l->has_reread = false;
	if (l->caution[l->batch.topic] != CAUTION_NONE && --l->caution_left[l->batch.topic] == 0)
		l->caution[l->batch.topic] = CAUTION_NONE;
	lane_recovered(l);
}

bool batch_decode(struct lane *l, const struct batch_record *r, const struct value **ret_before,
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

bool batch_count_applied(struct lane *l, const struct part *p, uint32_t oid, struct fault *f)
{
	struct count *count = counts_at(&l->batch.counts, p->partition, oid);

	if (!count)
		return fault(f, FAULT_INTERNAL, "no memory for the counts of a batch");
	count->applied++;
	return true;
}

bool batch_plan(struct lane *l, size_t i, struct fault *f)
{
	const struct batch_record *r = &l->batch.records[i];
	struct plan_change ch = {
		.table = r->table->target,
		.op = r->head.op,
		.key = span(r->msg->key, r->msg->key_len),
		.commit = r->head.position.commit,
		.cookie = i,
	};

	for (int times = failpoint("batch.twice") ? 2 : 1; times > 0; times--)
		if (!batch_decode(l, r, &ch.before, &ch.after, f) || !plan_add(&l->batch.plan, &ch, f) ||
		    !batch_count_applied(l, r->part, codec_relation(r->table->codec)->oid, f))
			return false;
	return true;
}

struct place {
	struct position at;
	size_t record;
};

static int place_cmp(const void *a, const void *b)
{
	return position_cmp(((const struct place *)a)->at, ((const struct place *)b)->at);
}

/*
 * The records as the source made them, over all partitions of the batch: written in that order, rows lie next to
 * each other as they do there, and keys that only grow fill an index from its right end. NULL: no memory.
 */
static const struct place *batch_places(struct batch *b)
{
	struct place *places = arena_alloc(&b->arena, (b->count + 1) * sizeof(*places));
	bool is_sorted = true;

	if (!places)
		return NULL;
	for (size_t i = 0; i < b->count; i++) {
		places[i] = (struct place) { b->records[i].head.position, i };
		is_sorted = is_sorted && (i == 0 || place_cmp(&places[i - 1], &places[i]) < 0);
	}
	if (!is_sorted)
		qsort(places, b->count, sizeof(*places), place_cmp);
	return places;
}

/*
 * Record i cannot be applied. Its partition will stop in front of it (of its transaction, where those are
 * whole); what is before it, and the other partitions, are collected again.
 */
void batch_poison(struct lane *l, size_t i, const struct fault *f)
{
	struct batch_record *r = &l->batch.records[i];
	struct part *p = r->part;

	lane_report(l, p, r->msg, &r->head, r->table ? codec_relation(r->table->codec) : NULL, f,
		    p->poison_why, sizeof(p->poison_why));
	if (p->is_whole)
		p->poison_commit = r->head.position.commit;
	else
		p->poison_offset = r->msg->offset;
	l->caution[l->batch.topic] = CAUTION_NONE;
	for (size_t k = 0; k < l->part_count; k++)
		if (l->parts[k]->is_in_batch)
			part_rewind(l->parts[k], 0);
}

/* The transaction was refused as a whole. Smaller ones will show whose fault it is. */
void batch_refused(struct lane *l, const struct fault *f)
{
	enum lane_caution last = l->batch.topic == CONSUME_SNAPSHOT ? CAUTION_ROW
								     : CAUTION_TRANSACTION;
	enum lane_caution *caution = &l->caution[l->batch.topic];
	bool is_smallest = *caution == last ||
			   (*caution >= CAUTION_PARTITION && l->batch.count <= 1);

	if (is_smallest && l->batch.count > 0) {
		batch_poison(l, 0, f);
		return;
	}
	if (!is_smallest)
		(*caution)++;
	/* One by one, all rows of the batch that was refused come by again, and those of other
	 * partitions between them. */
	l->caution_left[l->batch.topic] = *caution == CAUTION_ROW
						  ? LANE_BATCH_RECORDS * l->part_count
						  : CAUTION_BATCHES;
	log_warn("a batch of %zu records was refused (%s): going on in smaller ones", l->batch.count,
		 f->text);
	for (size_t k = 0; k < l->part_count; k++)
		if (l->parts[k]->is_in_batch)
			part_rewind(l->parts[k], LANE_BACKOFF_FIRST_MS * INT64_C(1000));
}

bool fault_is_of_a_row(const struct fault *f)
{
	return f->kind != FAULT_ENVIRONMENT && f->kind != FAULT_FENCED;
}

static bool batch_reread(struct lane *l, const struct fault *why)
{
	if (!lane_reread(l))
		return false;
	log_debug("a batch of %zu changes failed (%s): reading its tables anew", l->batch.count, why->text);
	for (size_t k = 0; k < l->part_count; k++)
		if (l->parts[k]->is_in_batch)
			part_rewind(l->parts[k], 0);
	return true;
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

/* May it be that rows only stood in each other's way? */
static bool batch_may_replace(const struct lane *l, const struct fault *f)
{
	const struct plan *p = &l->batch.plan;

	if (strcmp(f->sqlstate, "23505") != 0 && strcmp(f->sqlstate, "23P01") != 0)
		return false;
	for (size_t i = 0; i < p->change_count; i++)
		if (p->changes[i].table->can_replace)
			return true;
	return false;
}

/*
 * Values that changed places in one source transaction: in the source's order an immediate constraint of the
 * target refuses them, their net effect it takes. A batch may have been cut inside that transaction: then
 * smaller ones, at last one whole transaction, show whether the target refuses its result too.
 */
static void batch_replace(struct lane *l, const struct apply_statement *first, const struct fault *why)
{
	struct apply_failure failure;
	struct fault f = { 0 };

	log_debug("a batch of %zu changes met a further constraint (%s): deleting and inserting its rows",
		  l->batch.count, why->text);
	if (!plan_replacing(&l->batch.plan, &f))
		batch_refused(l, &f);
	else if (apply_plan(l->apply, &l->batch.plan, first, 1, &failure, &f))
		batch_committed(l);
	else if (!fault_is_of_a_row(&f))
		lane_failed(l, &f);
	else if (l->caution[l->batch.topic] < CAUTION_TRANSACTION)
		batch_refused(l, &f);
	else
		batch_replay(l, first, why);
}

void batch_commit_changes(struct lane *l)
{
	struct batch *b = &l->batch;
	const struct place *places = batch_places(b);
	struct apply_failure failure;
	struct apply_statement first;
	struct fault f = { 0 };

	if (!places) {
		fault(&f, FAULT_INTERNAL, "no memory for the order of a batch");
		batch_refused(l, &f);
		return;
	}
	plan_begin(&b->plan);
	counts_reset(&b->counts);
	for (size_t i = 0; i < b->count; i++)
		if (!batch_plan(l, places[i].record, &f)) {
			batch_poison(l, places[i].record, &f);
			return;
		}
	if (!batch_statement(l, &first, &f) || !plan_finish(&b->plan, &f)) {
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
	else if (batch_reread(l, &f))
		return;
	else if (batch_may_replace(l, &f))
		batch_replace(l, &first, &f);
	else
		batch_replay(l, &first, &f);
}
