// SPDX-License-Identifier: Apache-2.0
/*
 * repair - differences of one table and target are set right: the source's row, at the place where the owner of the
 * key's partition stands.
 *
 * Reconcile writes to no table. It asks the owner (asks.h), who stops the partition and says where; then it
 * reads the source in a snapshot S and the stream up to a mark behind S. If S sees exactly those changes of the key
 * that the target has at that place, the source's row is the row of that place, and the owner writes it. Else the hold is given
 * back, and it is tried again. In the end the keys are judged again (judge.h).
 *
 * Thread: the connections'. Failpoints: repair.asked (in a hold), repair.hasty (whatever S sees is right).
 */
#ifndef RECONCILE_REPAIR_H
#define RECONCILE_REPAIR_H

#include "reconcile/judge.h"

/* A difference that was found, and what became of it. */
struct repair_item {
	struct span key;           /* digest.h */
	const struct span *texts;  /* of the digest's columns: those of the key, the others are absent */
	const char *kind;          /* difference_kind */
	size_t bytes;              /* of its row */
	bool is_repaired;
	const char *reason;        /* of what was not; in the arena given, or static */
};

struct repair {
	struct ends *ends;
	enum role role;
	const struct digest *digest;
	int64_t seed;
	struct arena *a; /* for reasons */
	/* Told of each item once it is over. */
	void (*said)(void *arg, const struct repair *r, const struct repair_item *item);
	void *arg;
};

/* The whole list. False: a server or Kafka failed; items that were not said are not repaired. */
bool repair_items(struct repair *r, struct repair_item *items, size_t n, struct fault *f);

/* ---- the decision, pure ---- */

/* A change of the key, or of the whole table, that the stream knows of. */
struct repair_event {
	bool is_table;   /* TRUNCATE, new columns */
	bool is_seen;    /* by S */
	bool is_applied; /* it is at or before the place that is held */
};

enum repair_fit { REPAIR_FITS, REPAIR_CHANGES, REPAIR_UNSETTLED };
/*
 * Is the source's row in S that of the place? by_key: the events are of this key alone, so that S sees all before one
 * that it sees. is_settled: S sees what committed before the stream was watched.
 */
enum repair_fit repair_fits(const struct repair_event *events, size_t n, bool by_key, bool is_settled);

#endif
