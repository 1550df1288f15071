// SPDX-License-Identifier: Apache-2.0
/*
 * plan - what a batch of changes comes to, as few statements as possible.
 *
 * Changes enter in source order (plan_add); plan_finish makes the ordered list of executions:
 * per table deletes, updates grouped by the columns they set, inserts. Net effect per key:
 *
 * - insert·update → insert
 * - update·update → update, merged column by column: unchanged takes the earlier value
 * - update·delete → delete
 * - insert·delete → nothing
 * - delete·insert → delete, then insert
 *
 * What cannot follow in the source (insert·insert, delete·update, ...) is not merged away: it ends
 * a segment, so that the server sees both and raises.
 *
 * A key change (op u, before's key is not after's) becomes delete(old) + insert(new) when every
 * column's value is known, else a REKEY statement of its own between two segments.
 *
 * Ordered tables (target.h) keep source order, one statement a change; inserts that follow each
 * other share one, and so do deletes by key.
 *
 * Tables of a family (target.h: the target enforces their foreign keys) are ordered together, in source order
 * across tables; a key change is an UPDATE of the key. What a cascade may have done already (cascades.h) is
 * known from the changes before, over rounds (plan_carry) too.
 *
 * plan_replacing is for what a further constraint refused: the net effect of ordered tables too, with their
 * updated rows deleted and inserted anew (target.h: can_replace), so that values may change places.
 *
 * plan_sequential makes one execution a change, in source order: exec i belongs to change i.
 *
 * Pure: no I/O, no clock. Values and keys are borrowed until plan_reset; the plan's own memory is
 * in the arena given to plan_init. plan_finish, plan_replacing and plan_sequential may
 * follow each other on the same changes.
 */
#ifndef SHADOW_PLAN_H
#define SHADOW_PLAN_H

#include "shadow/cascades.h"
#include "shadow/statement.h"

struct plan_change {
	const struct target_table *table;
	char op;                    /* c u d */
	struct span key;            /* message key; op u: the new row's */
	const struct value *before; /* one per column, or NULL */
	const struct value *after;  /* one per column, or NULL */
	struct commit_lsn commit;
	uint64_t cookie; /* the caller's: which record of the batch */
};

struct plan_row {
	const struct value *key; /* where the key (keyless: the old row) is read from */
	const struct value *row; /* new values; NULL for deletes */
	size_t change;           /* the last change that made it: index into plan.changes */
};

struct plan_exec { /* one statement execution */
	const struct target_table *table;
	enum statement_op op;
	const uint64_t *sets; /* see statement_key */
	const struct plan_row *rows;
	size_t row_count;
};

struct plan {
	struct arena *arena;
	struct plan_change *changes;
	size_t change_count, change_cap;
	struct plan_exec *execs;
	size_t exec_count, exec_cap;
	bool has_deferred; /* some table's */
	/* What the source transaction that goes on had done before the plan, and has done after it. */
	struct cascades before, after;
};

void plan_init(struct plan *p, struct arena *a);
/* Forgets everything but what plan_carry keeps; the arena is reset by its owner. */
void plan_reset(struct plan *p);
void plan_release(struct plan *p);
/* The next plan goes on in this one's last source transaction; or it begins with a new one. */
void plan_carry(struct plan *p);
void plan_begin(struct plan *p);

/* op c and r need after without unchanged columns, op d and a keyless u need before: else
 * FAULT_INPUT. */
bool plan_add(struct plan *p, const struct plan_change *ch, struct fault *f);
bool plan_finish(struct plan *p, struct fault *f);
bool plan_replacing(struct plan *p, struct fault *f);
bool plan_sequential(struct plan *p, struct fault *f);
/* One execution that inserts rows of a copy; there are no changes then. rows are borrowed. */
bool plan_add_copied(struct plan *p, const struct target_table *table, const struct value *const *rows,
		     size_t row_count, struct fault *f);

#endif
