// SPDX-License-Identifier: Apache-2.0
/*
 * exclusive - events that run alone on the whole target.
 *
 * A partition whose next record is an exclusive event E commits what is before it, with waiting_at = E
 * in its progress row, and stands still while its lane goes on. The owner of partition 0 counts rows:
 * when every partition of the migration waits at E or is past it, it runs E and moves its own row over
 * E in one transaction, under its epoch. The others see partition 0's row at or past E and move over
 * it. All of that is rows: rebalances and crashes at any moment leave nothing behind.
 *
 * waiting_at survives a change of owner: it stays true as long as the row does not move.
 *
 * An event that is in one partition only (in_place) has nobody to wait for. Where source transactions are
 * applied whole it runs inside its own (exclusive_in_place, called by whole.c).
 */
#include <inttypes.h>

#include "core/clock.h"
#include "core/failpoint.h"
#include "core/log.h"
#include "shadow/lane_state.h"
#include "shadow/truncate.h"

/* E on its way through one attempt to run it. */
struct exclusive_run {
	struct lane *lane;
	struct part *part;
	rd_kafka_message_t *msg;
	struct event ev;
	struct arena arena;
	const struct relation **rels; /* one per table, from control */
};

static void exclusive_moved(struct exclusive_run *r, struct progress *next)
{
	next->next_offset = r->msg->offset + 1;
	next->at.generation = r->ev.head.generation;
	next->at.ordinal = r->ev.head.ordinal;
	next->at.position = r->ev.head.position;
	next->waiting = (struct position) { { 0 }, 0 };
}

static enum exclusive_outcome exclusive_relations(struct exclusive_run *r, struct fault *f)
{
	const struct exclusive *e = &r->ev.exclusive;

	r->rels = arena_alloc(&r->arena, (e->table_count + 1) * sizeof(*r->rels));
	if (!r->rels)
		return fault(f, FAULT_INTERNAL, "no memory for an exclusive event"), EXCLUSIVE_FAILED;
	for (size_t i = 0; i < e->table_count; i++) {
		const struct codec *codec = versions_relation(r->lane->role->versions,
							      e->tables[i].oid,
							      e->tables[i].version, f);

		if (!codec)
			return f->kind == FAULT_NONE ? EXCLUSIVE_NOT_YET : EXCLUSIVE_FAILED;
		r->rels[i] = codec_relation(codec);
	}
	return EXCLUSIVE_DONE;
}

/* Do the wanted tables of the message include every leaf of table i's root? A leaf that its copy has
 * covered already must keep its rows. */
static bool exclusive_has_every_leaf(const struct exclusive_run *r, const bool *wanted, size_t i)
{
	const struct relation *rel = r->rels[i];
	size_t here = 0;

	for (size_t k = 0; k < r->ev.exclusive.table_count; k++)
		here += (!wanted || wanted[k]) &&
			span_eq(r->rels[k]->root_schema, rel->root_schema) &&
			span_eq(r->rels[k]->root_table, rel->root_table);
	return here >= versions_leaf_count(r->lane->role->versions, rel, r->ev.head.position);
}

/* Empties those tables that `wanted` says (NULL: all). */
static bool exclusive_empty(struct exclusive_run *r, const bool *wanted, struct fault *f)
{
	size_t n = r->ev.exclusive.table_count, count = 0;
	struct truncate_table *tables = arena_alloc(&r->arena, (n + 1) * sizeof(*tables));

	if (!tables)
		return fault(f, FAULT_INTERNAL, "no memory for an exclusive event");
	for (size_t i = 0; i < n; i++)
		if (!wanted || wanted[i])
			tables[count++] = (struct truncate_table) {
				r->rels[i], exclusive_has_every_leaf(r, wanted, i)
			};
	return count == 0 || truncate_run(r->lane->conn, tables, count, r->lane->is_replica, f);
}

/* Which tables a TRUNCATE empties: those that the copy has covered are left alone; one that waits makes
 * the event wait. */
static enum exclusive_outcome exclusive_wanted(struct exclusive_run *r, bool **ret, struct fault *f)
{
	size_t n = r->ev.exclusive.table_count;
	bool *wanted = arena_alloc(&r->arena, n + 1);

	*ret = wanted;
	if (!wanted)
		return fault(f, FAULT_INTERNAL, "no memory for an exclusive event"), EXCLUSIVE_FAILED;
	for (size_t i = 0; i < n; i++)
		switch (copies_change(copies_find(&r->lane->copies, r->ev.exclusive.tables[i].oid),
				      r->ev.head.position.commit)) {
		case COPIES_WAIT:
			return EXCLUSIVE_NOT_YET;
		case COPIES_COVERED:
			wanted[i] = false;
			break;
		case COPIES_APPLY:
			wanted[i] = true;
			break;
		}
	return EXCLUSIVE_DONE;
}

static enum exclusive_outcome exclusive_truncate(struct exclusive_run *r, struct fault *f)
{
	enum exclusive_outcome outcome;
	bool *wanted;

	outcome = exclusive_wanted(r, &wanted, f);
	if (outcome != EXCLUSIVE_DONE)
		return outcome;
	return exclusive_empty(r, wanted, f) ? EXCLUSIVE_DONE : EXCLUSIVE_FAILED;
}

/* The rows in foreshadow.copies first: they are what keeps a batch of an older attempt out. */
static enum exclusive_outcome exclusive_copy(struct exclusive_run *r, struct fault *f)
{
	const struct exclusive *e = &r->ev.exclusive;
	struct span *targets = arena_alloc(&r->arena, (e->table_count + 1) * sizeof(*targets));

	for (size_t i = 0; targets && i < e->table_count; i++) {
		struct buf b;

		buf_init(&b, 1024);
		pg_quote_table(&b, r->rels[i]->target_schema, r->rels[i]->target_table);
		targets[i] = arena_dup(&r->arena, buf_span(&b));
		buf_release(&b);
	}
	if (!targets || arena_failed(&r->arena))
		return fault(f, FAULT_INTERNAL, "no memory for an exclusive event"), EXCLUSIVE_FAILED;
	return copies_begin(&r->lane->copies, r->lane->conn, e->tables, targets, e->table_count, f) &&
			       exclusive_empty(r, NULL, f)
		       ? EXCLUSIVE_DONE
		       : EXCLUSIVE_FAILED;
}

/* Every column that we write is there on the target, or target_read says which DDL makes it so. */
static enum exclusive_outcome exclusive_relation(struct exclusive_run *r, struct fault *f)
{
	for (size_t i = 0; i < r->ev.exclusive.table_count; i++)
		if (!target_read(r->lane->conn, r->rels[i], &r->arena, f))
			return EXCLUSIVE_FAILED;
	return EXCLUSIVE_DONE;
}

static enum exclusive_outcome exclusive_effect(struct exclusive_run *r, struct fault *f)
{
	switch (r->ev.exclusive.kind) {
	case EXCLUSIVE_TRUNCATE:
		return exclusive_truncate(r, f);
	case EXCLUSIVE_COPY:
		return exclusive_copy(r, f);
	case EXCLUSIVE_RELATION:
		return exclusive_relation(r, f);
	case EXCLUSIVE_REKEY:
		break; /* has a plan, see exclusive_rekey */
	}
	return EXCLUSIVE_DONE;
}

/* Whose count it goes to. */
static uint32_t exclusive_oid(const struct exclusive_run *r)
{
	return r->ev.exclusive.table_count ? r->ev.exclusive.tables[0].oid : 0;
}

static bool exclusive_statement(struct exclusive_run *r, const struct progress *next,
				struct apply_statement *ret, struct fault *f)
{
	struct progress_move move = { r->part->key, &r->part->have, next };
	struct count count = { .partition = r->part->partition, .oid = exclusive_oid(r), .applied = 1 };
	const struct counts counts = { .rows = &count, .count = 1 };

	return progress_moves(&move, 1, &counts, &r->arena, ret, f);
}

/* One transaction: our row first (its epoch is the fence), then the effect. */
static enum exclusive_outcome exclusive_plain(struct exclusive_run *r, const struct progress *next,
				    struct fault *f)
{
	struct lane *l = r->lane;
	struct apply_statement first;
	enum exclusive_outcome outcome;

	if (!exclusive_statement(r, next, &first, f) || !lane_plain(l, f))
		return EXCLUSIVE_FAILED;
	failpoint("exclusive.before_first");
	if (!pg_do(l->conn, f, "BEGIN"))
		return EXCLUSIVE_FAILED;
	outcome = progress_run(l->conn, &first, f) ? exclusive_effect(r, f) : EXCLUSIVE_FAILED;
	if (outcome == EXCLUSIVE_DONE && failpoint("exclusive.before_commit"))
		outcome = fault(f, FAULT_ENVIRONMENT, "failpoint") ? EXCLUSIVE_DONE : EXCLUSIVE_FAILED;
	if (outcome == EXCLUSIVE_DONE && !pg_do(l->conn, f, "COMMIT"))
		outcome = EXCLUSIVE_FAILED;
	if (outcome != EXCLUSIVE_DONE && PQstatus(l->conn) == CONNECTION_OK)
		pg_do(l->conn, NULL, "ROLLBACK");
	return outcome;
}

/* A change of a REKEY event into the plan; NOT_YET: its copy or its schema is missing. */
static enum exclusive_outcome rekey_add(struct exclusive_run *r, struct plan *plan, struct span record,
			      struct fault *f)
{
	struct lane *l = r->lane;
	const struct lane_table *table;
	struct value *before, *after;
	bool has_before, has_after;
	struct event ev;
	struct buf key;
	size_t n;

	if (!event_read(l->role->framing, record, &r->arena, &ev, f))
		return f->kind == FAULT_ENVIRONMENT ? EXCLUSIVE_NOT_YET : EXCLUSIVE_FAILED;
	switch (lane_table(l, ev.head.fingerprint, &table, f)) {
	case LANE_FOUND:
		break;
	case LANE_NO_SCHEMA:
		return EXCLUSIVE_NOT_YET;
	case LANE_NO_TARGET:
	case LANE_LOOKUP_FAILED:
		return EXCLUSIVE_FAILED;
	}
	switch (copies_change(copies_find(&l->copies, codec_relation(table->codec)->oid),
			      r->ev.head.position.commit)) {
	case COPIES_WAIT:
		return EXCLUSIVE_NOT_YET;
	case COPIES_COVERED:
		return EXCLUSIVE_DONE;
	case COPIES_APPLY:
		break;
	}
	n = table->target->column_count;
	before = arena_alloc(&r->arena, (n + 1) * sizeof(*before));
	after = arena_alloc(&r->arena, (n + 1) * sizeof(*after));
	if (!before || !after)
		return fault(f, FAULT_INTERNAL, "no memory for an exclusive event"), EXCLUSIVE_FAILED;
	if (!codec_decode(table->codec, ev.body, before, &has_before, after, &has_after, f))
		return EXCLUSIVE_FAILED;
	buf_init(&key, 1024 * 1024);
	if (!relation_key(codec_relation(table->codec), has_after ? after : before, &key, f)) {
		buf_release(&key);
		return EXCLUSIVE_FAILED;
	}
	struct plan_change ch = {
		.table = table->target,
		.op = ev.head.op,
		.key = arena_dup(&r->arena, buf_span(&key)),
		.before = has_before ? before : NULL,
		.after = has_after ? after : NULL,
		.commit = r->ev.head.position.commit,
	};
	buf_release(&key);
	return plan_add(plan, &ch, f) ? EXCLUSIVE_DONE : EXCLUSIVE_FAILED;
}

static enum exclusive_outcome exclusive_rekey(struct exclusive_run *r, const struct progress *next,
				    struct fault *f)
{
	struct apply_statement first;
	enum exclusive_outcome outcome = EXCLUSIVE_DONE;
	struct plan plan;
	size_t change;

	plan_init(&plan, &r->arena);
	for (size_t i = 0; i < r->ev.exclusive.change_count && outcome == EXCLUSIVE_DONE; i++)
		outcome = rekey_add(r, &plan, r->ev.exclusive.changes[i], f);
	if (outcome == EXCLUSIVE_DONE && (!exclusive_statement(r, next, &first, f) ||
					!apply_sequential(r->lane->apply, &plan, &first, 1, &change, f)))
		outcome = EXCLUSIVE_FAILED;
	plan_release(&plan);
	return outcome;
}

/* E is over, here or in partition 0: the partition reads on behind it. */
static void exclusive_pass(struct lane *l, struct part *p)
{
	rd_kafka_message_destroy(part_shift(p));
	part_set(p, PART_OPEN, NULL);
	lane_recovered(l);
}

static void exclusive_failed(struct exclusive_run *r, const struct fault *f)
{
	struct lane *l = r->lane;
	struct part *p = r->part;

	if (f->kind == FAULT_ENVIRONMENT || f->kind == FAULT_FENCED) {
		p->is_in_batch = true; /* what lane_failed acts on */
		lane_failed(l, f);
	} else if (f->kind == FAULT_STOP) {
		/* The whole role waits here, until a person has run the DDL. */
		part_set_later(p, PART_WAITS_TARGET, LANE_TARGET_POLL_US, f->text);
	} else {
		lane_stop_part(l, p, r->msg, &r->ev.head, NULL, f);
	}
}

static void exclusive_do(struct exclusive_run *r)
{
	static const char *const names[] = { "truncate", "copy", "relation change", "key change" };
	struct lane *l = r->lane;
	struct progress next;
	struct fault f = { 0 };
	char at[PROGRESS_POSITION_TEXT];
	enum exclusive_outcome outcome = exclusive_relations(r, &f);

	next = r->part->have;
	exclusive_moved(r, &next);
	next.changes++;
	if (outcome == EXCLUSIVE_DONE)
		outcome = r->ev.exclusive.kind == EXCLUSIVE_REKEY ? exclusive_rekey(r, &next, &f)
								  : exclusive_plain(r, &next, &f);
	switch (outcome) {
	case EXCLUSIVE_DONE:
		break;
	case EXCLUSIVE_NOT_YET:
		r->part->retry_us = clock_us() + LANE_COPY_POLL_US;
		return;
	case EXCLUSIVE_FAILED:
		exclusive_failed(r, &f);
		return;
	}
	log_info("exclusive event at %s done: %s of %zu tables",
		 progress_position_format(r->ev.head.position, at),
		 names[r->ev.exclusive.kind], r->ev.exclusive.table_count);
	lane_moved(l, r->part, &next);
	part_moved(r->part, &next);
	exclusive_pass(l, r->part);
	l->has_old_copies = true;
	if (!lane_load_copies(l, &f))
		lane_failed(l, &f);
}

/* Has partition 0 gone over E, or (partition 0 itself) has everybody arrived? */
static bool exclusive_is_due(struct exclusive_run *r, bool *ret, struct fault *f)
{
	struct lane *l = r->lane;
	struct progress_key key = r->part->key;
	struct position position;
	int count;

	if (!lane_plain(l, f))
		return false;
	if (r->part->partition == 0) {
		if (!progress_arrived(l->conn, &key, r->ev.head.position, &count, f))
			return false;
		*ret = count == l->migration->partition_count;
		return true;
	}
	key.partition = 0;
	if (!progress_position(l->conn, &key, &position, f))
		return false;
	*ret = position_cmp(position, r->ev.head.position) >= 0;
	return true;
}

static bool exclusive_is_ours(const struct exclusive_run *r)
{
	return r->part->partition == 0 || r->ev.exclusive.in_place;
}

static void exclusive_look(struct exclusive_run *r)
{
	struct lane *l = r->lane;
	struct fault f = { 0 };
	bool is_due = r->ev.exclusive.in_place;

	r->part->retry_us = clock_us() + LANE_EXCLUSIVE_POLL_US;
	if (!is_due && !exclusive_is_due(r, &is_due, &f)) {
		exclusive_failed(r, &f);
		return;
	}
	if (!is_due)
		return;
	if (exclusive_is_ours(r)) {
		exclusive_do(r);
		return;
	}
	/* Our row follows with the next batch. */
	count_notes_reach(&r->part->notes, r->ev.head.ordinal);
	if (!count_notes_add(&r->part->notes, r->ev.head.ordinal, exclusive_oid(r), true))
		return; /* looked at again */
	r->part->next = r->part->have;
	exclusive_moved(r, &r->part->next);
	if (r->part->is_whole)
		r->part->ended = r->part->next;
	exclusive_pass(l, r->part);
	l->has_old_copies = true;
	if (!lane_load_copies(l, &f))
		lane_failed(l, &f);
}

static bool exclusive_is_waiting(const struct part *p)
{
	return p->topic == CONSUME_CHANGES && p->ahead_count > 0 &&
	       (p->state == PART_WAITS_EXCLUSIVE ||
		(p->state == PART_WAITS_TARGET && progress_is_waiting(&p->have)));
}

void exclusive_turn(struct lane *l)
{
	for (size_t i = 0; i < l->part_count && l->conn; i++) {
		struct part *p = l->parts[i];
		struct exclusive_run r = { .lane = l, .part = p };
		struct fault f = { 0 };

		if (!exclusive_is_waiting(p) || clock_us() < p->retry_us || part_has_moved(p))
			continue;
		r.msg = part_front(p);
		arena_init(&r.arena, LANE_ARENA_BYTES);
		if (event_read(l->role->framing, span(r.msg->payload, r.msg->len), &r.arena, &r.ev, &f))
			exclusive_look(&r);
		else
			lane_stop_part(l, p, r.msg, NULL, NULL, &f);
		arena_release(&r.arena);
	}
}

/* ---- inside a source transaction ---- */

static bool exclusive_begin(struct exclusive_run *r, struct lane *l, struct part *p,
			    rd_kafka_message_t *msg, struct fault *f)
{
	*r = (struct exclusive_run) { .lane = l, .part = p, .msg = msg };
	arena_init(&r->arena, LANE_ARENA_BYTES);
	return event_read(l->role->framing, span(msg->payload, msg->len), &r->arena, &r->ev, f) &&
	       lane_plain(l, f);
}

static enum exclusive_outcome exclusive_try(struct exclusive_run *r, struct fault *f)
{
	bool *unused;

	switch (r->ev.exclusive.kind) {
	case EXCLUSIVE_TRUNCATE:
		return exclusive_wanted(r, &unused, f);
	case EXCLUSIVE_RELATION:
		return exclusive_relation(r, f);
	case EXCLUSIVE_COPY:
	case EXCLUSIVE_REKEY:
		break; /* in every partition, and between or across transactions */
	}
	return fault(f, FAULT_INPUT, "an event of this kind cannot be in one partition alone"),
	       EXCLUSIVE_FAILED;
}

enum exclusive_outcome exclusive_can(struct lane *l, struct part *p, rd_kafka_message_t *msg,
				     struct fault *f)
{
	enum exclusive_outcome outcome = EXCLUSIVE_FAILED;
	struct exclusive_run r;

	if (exclusive_begin(&r, l, p, msg, f))
		outcome = exclusive_relations(&r, f);
	if (outcome == EXCLUSIVE_DONE)
		outcome = exclusive_try(&r, f);
	arena_release(&r.arena);
	return outcome;
}

bool exclusive_in_place(struct lane *l, struct part *p)
{
	enum exclusive_outcome outcome = EXCLUSIVE_FAILED;
	struct fault f = { 0 };
	struct exclusive_run r;

	if (exclusive_begin(&r, l, p, part_front(p), &f))
		outcome = exclusive_relations(&r, &f);
	if (outcome == EXCLUSIVE_DONE)
		outcome = exclusive_effect(&r, &f);
	if (outcome == EXCLUSIVE_DONE && !batch_count_applied(l, p, exclusive_oid(&r), &f))
		outcome = EXCLUSIVE_FAILED;
	switch (outcome) {
	case EXCLUSIVE_DONE:
		exclusive_moved(&r, &p->next);
		p->next.changes++;
		exclusive_pass(l, p);
		break;
	case EXCLUSIVE_NOT_YET:
		part_set_later(p, PART_WAITS_COPY, LANE_COPY_POLL_US, NULL);
		break;
	case EXCLUSIVE_FAILED:
		apply_roll_back(l->apply);
		exclusive_failed(&r, &f);
		break;
	}
	arena_release(&r.arena);
	return outcome == EXCLUSIVE_DONE;
}
