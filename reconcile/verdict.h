// SPDX-License-Identifier: Apache-2.0
/*
 * verdict - what is to be thought of a key whose rows differ, from what the stream says about it.
 *
 * A source row s was read under snapshot S, a target row t together with the place up to which its
 * partition was applied. The events of the key that S sees, and those that were applied, are the facts:
 *
 * 1. The same ones: s and t are two pictures of one state, and must be equal.
 * 2. Else each must be what its own last event left behind (its image). A column that the event did not
 *    send, and no event that we know, is compared between s and t: nobody set it in between.
 * 3. What cannot be known (no image, no event that S sees, an old transaction that may have committed
 *    without being visible yet) is judged later. It is never a difference, and never clean.
 *
 * Keyless: rows are counted. What was applied and is not in S (or the other way round) must account for
 * the difference of the counts.
 *
 * Pure.
 */
#ifndef RECONCILE_VERDICT_H
#define RECONCILE_VERDICT_H

#include "core/arena.h"

enum verdict { VERDICT_CLEAN, VERDICT_EXPLAINED, VERDICT_DIVERGED, VERDICT_LATER };
/* Which way the difference came: unknown, between source and stream, between stream and target. */
enum verdict_hop { HOP_UNKNOWN, HOP_STREAM, HOP_TARGET };

struct verdict_row {
	int64_t count;            /* rows of this key: 0 or 1, if all is well */
	const struct span *texts; /* of the columns, absent for NULL; with a count */
};

/* What an event left behind. */
struct verdict_image {
	bool is_known;
	struct verdict_row row;
	const bool *is_unsent; /* of the columns: its value is not known; NULL: all are */
};

struct verdict_case {
	size_t column_count;
	struct verdict_row source, target;
	bool is_same;    /* the events that S sees are those that were applied */
	bool sees_event; /* S sees an event of the key */
	bool is_settled; /* S sees every transaction that committed before we began to read the stream */
	struct verdict_image source_image, target_image; /* of the last event that S sees, that was applied */
};

enum verdict verdict_key(const struct verdict_case *c, enum verdict_hop *ret_hop);
/* Of rows that diverged: is a column on both sides what its own last event set? Then it differs only by what is under way. */
bool verdict_explains(const struct verdict_case *c, size_t column);
/* between: rows that came, less those that went, by events that were applied and that S does not see
 * (less those that it does see and that were not). */
enum verdict verdict_count(int64_t source, int64_t target, int64_t between, bool is_settled);

bool verdict_same_text(struct span a, struct span b);

/* pg_current_snapshot() */
struct snapshot {
	uint64_t xmin, xmax;
	uint64_t *running; /* in between, ascending */
	size_t running_count;
};
bool snapshot_parse(struct span text, struct arena *a, struct snapshot *ret);
/* A transaction's 32 bits as the 64 that are nearest to the snapshot. */
uint64_t snapshot_widen(const struct snapshot *s, uint32_t xid);
bool snapshot_sees(const struct snapshot *s, uint64_t xid);

#endif
