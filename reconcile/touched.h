// SPDX-License-Identifier: Apache-2.0
/*
 * touched - which keys of which tables the stream has changed: a window's list, each key once.
 *
 * A key is the texts of its table's key columns, in the order of their names: leaves of one table may have
 * their columns in different orders. A table of which that cannot be said, or of which too
 * many keys were touched (TOUCHED_KEYS_MAX), is touched as a whole; so is the largest one when all of a list
 * are too much together (TOUCHED_BYTES_MAX).
 *
 * Pure; single-threaded.
 */
#ifndef RECONCILE_TOUCHED_H
#define RECONCILE_TOUCHED_H

#include "core/relation.h"

enum { TOUCHED_KEYS_MAX = 500 * 1000, TOUCHED_BYTES_MAX = 512 << 20 };

struct touched_key {
	uint64_t hash;
	const struct span *parts;
};

struct touched_table {
	struct touched *list;       /* it is in */
	const struct relation *rel; /* of any of its leaves; borrowed */
	bool is_whole;
	/* Of who compares; touched_* leave them alone: its keys are of no use; it was not right; that it is slow is said. */
	bool is_never_by_key, was_wrong, is_said;
	size_t part_count;     /* of each key */
	struct touched_key *keys;
	size_t count, cap;
	uint32_t *slots; /* 0: free, else 1 + index of a key */
	size_t slot_count;
	struct arena arena;
};

struct touched {
	struct touched_table **tables;
	size_t count, cap;
	size_t bytes;     /* of all keys */
	size_t max_bytes; /* 0: TOUCHED_BYTES_MAX */
};

/* A key column of a relation. */
struct touched_part {
	size_t column; /* index into its columns */
	size_t ordinal; /* among its key columns */
};

enum { TOUCHED_PARTS_MAX = 32 }; /* columns of an index, in PostgreSQL */

/* In the order of a key's parts; returns how many, 0 if they are too many. */
size_t touched_parts(const struct relation *rel, struct touched_part ret[TOUCHED_PARTS_MAX]);

/* The table with rel's root and target; made if there is none yet (*ret_is_new). NULL: no memory. */
struct touched_table *touched_table(struct touched *t, const struct relation *rel, bool *ret_is_new);
/* Anything that does not fit makes it whole. */
void touched_add(struct touched_table *table, const struct span *parts, size_t n);
void touched_whole(struct touched_table *table);
bool touched_is_empty(const struct touched_table *table);
void touched_clear(struct touched_table *table);
/* Leaves out keys until about this share is left, others for each salt. Returns how many. */
size_t touched_thin(struct touched_table *table, double share, uint64_t salt);
/* Takes what `from` has into `to`, and empties it. False: no memory. */
bool touched_move(struct touched *from, struct touched *to);
void touched_free(struct touched *t);

#endif
