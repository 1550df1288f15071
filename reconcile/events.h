// SPDX-License-Identifier: Apache-2.0
/*
 * events - what the stream knows of the keys of a round: each key's events, and which of them the round's two readings show.
 *
 * The tail keeps all events of a table in one list, and a table that is written has many: the keys of a round are looked up
 * in it together.
 *
 * Pure. Everything lives in the arena given.
 */
#ifndef RECONCILE_EVENTS_H
#define RECONCILE_EVENTS_H

#include "reconcile/tail.h"
#include "reconcile/verdict.h"

struct known_event {
	const struct tail_event *e;
	bool is_seen;    /* by the source's snapshot */
	bool is_applied; /* where the target was read */
};

struct events {
	struct known_event *list;  /* those of the whole table first, then by key, each in the order of the stream */
	size_t wide_count, count;
};

/* The two readings: the source's snapshot, and where each partition of the target was. */
struct events_readings {
	const struct snapshot *snapshot;
	const struct position *places;
};

/* Of these keys, by the hashes of their stream keys, and of the whole table; NULL hashes: all of them, in no order.
 * False: no memory. */
bool events_gather(struct events *ret, const struct tail_event *from, size_t n, const struct events_readings *readings,
		   const uint64_t *hashes, size_t hash_count, struct arena *a);
/* Those of a key and of the whole table, in the order of the stream; NULL: of the whole table only. NULL: no memory. */
struct known_event *events_of(const struct events *e, const uint64_t *hash, struct arena *a, size_t *ret_count);
/* Does each reading show what the other one does? */
bool events_are_shown_by_both(const struct known_event *events, size_t n);
/* The commit of the last one that was applied; 0: none. */
uint64_t events_since(const struct known_event *events, size_t n);

#endif
