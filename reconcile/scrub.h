// SPDX-License-Identifier: Apache-2.0
/*
 * scrub - all of a table, in chunks, against one or two targets.
 *
 * A chunk: the tail begins to watch the table; the source's digest; a mark behind it; when a target contains
 * the mark, its digest. Leaves that differ are drilled, keys that differ are judged (judge.h). Behind a chunk in which nothing
 * differed, all of the next one is one leaf first: most of a table holds still, and leaves cost a quarter of the time. Chunks are
 * ranges of a key column whose order is the same on both servers, else the whole table is one; their
 * size follows the time they take. Both targets read at the same time. With goes_ahead the source reads the next chunk
 * meanwhile, as long as no rows need be looked at.
 *
 * Failpoints: scrub.blind (no leaf differs), scrub.small (chunks of the least size).
 *
 * Thread: the connections'.
 */
#ifndef RECONCILE_SCRUB_H
#define RECONCILE_SCRUB_H

#include "reconcile/judge.h"
#include "reconcile/stride.h"

enum { SCRUB_FOUND_MAX = 1000 }; /* differences of a table and role; then it is given up */

struct scrub_result {
	int64_t row_count;    /* of the source, compared */
	int64_t target_count; /* of the target, likewise */
	size_t found_count, explained_count, open_count;
	bool is_cut;          /* too many differences: not looked at to its end */
};

struct scrub {
	struct ends *ends;
	const struct digest *digests[2]; /* by role; NULL: not compared. Same source, same columns or fewer */
	int64_t seed;
	void (*found)(void *arg, const struct difference *d);
	void *arg;
	bool goes_ahead;      /* the source reads the next chunk while the targets read this one */
	struct chunk *ahead;  /* scrub.c's: the one that the source reads, or NULL */
	struct stride stride; /* of the next chunk */
	struct scrub_result results[2];
	uint64_t first_lsn;   /* of the first mark; 0: none yet */
	size_t read_count;    /* rows of the source that were looked at one by one */
	int64_t source_us;    /* that the source has worked for it, as far as its answers' time tells */
};

void scrub_init(struct scrub *s, struct ends *ends, int64_t seed);
/* The whole table. FAULT_STOP etc. as the servers say; what was found until then was reported. */
bool scrub_table(struct scrub *s, struct fault *f);
/* The chunk from *from on (absent: from the table's beginning); *from becomes its end, in a, or stays where it
 * is: the same is to be done over in smaller pieces. */
bool scrub_step(struct scrub *s, struct span *from, struct arena *a, bool *ret_is_end, struct fault *f);
/* The first chunk of at most this many rows: for the proof that differences are found. */
bool scrub_first(struct scrub *s, int64_t rows, struct fault *f);
/* The rows that these conditions, by server, have: at most some ten thousand. */
bool scrub_near(struct scrub *s, const struct span near[2], struct fault *f);

#endif
