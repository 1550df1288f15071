// SPDX-License-Identifier: Apache-2.0
/*
 * compare - one table on the source and on one target, as it is now: the rows of some keys, a chunk, or all.
 *
 * What differs is kept in `differ`, so that it can be compared again, and is told to `found` once, until
 * compare_forget(). Thread: the connections'.
 */
#ifndef RECONCILE_COMPARE_H
#define RECONCILE_COMPARE_H

#include "reconcile/canary.h"
#include "reconcile/scrub.h"
#include "reconcile/touched.h"

enum {
	COMPARE_TOLD_MAX = 1000, /* differences that are remembered, so that each is told once */
};

struct comparer {
	struct ends *ends;
	enum role role;
	int64_t seed;
	void (*found)(void *arg, const struct difference *d);
	void *arg;
	struct touched differ; /* found by the last call; whole: more than can be said by key */
	uint64_t told[COMPARE_TOLD_MAX]; /* hashes of table and key */
	size_t told_count;
	struct comparer_refused {
		uint64_t table, why; /* hashes */
		int64_t said_us;
		bool holds_gate; /* this was said */
	} refused[COMPARE_TOLD_MAX]; /* tables that could not be compared to their end since */
	size_t refused_count;
	/* Added up since compare_begin(). */
	size_t key_count, row_count, read_count, open_count;
	int64_t source_us;    /* scrub.h */
	bool was_whole;       /* of compare_keys: no index has the keys, or they are not known */
	struct stride stride; /* of compare_chunk: the next one's; rows 0: a new table */
};

enum compared {
	COMPARED,       /* what differs is in `differ` */
	COMPARED_OPEN,  /* something could not be judged, or too much differs to be told: not done */
	COMPARED_LATER, /* its copy is not complete, or a server refuses it (said in the log): not done */
};

void compare_begin(struct comparer *c);
/* The table's keys; all of it if it is touched as a whole, or its keys cannot be asked for. */
bool compare_keys(struct comparer *c, const struct touched_table *t, enum compared *ret, struct fault *f);
/* The chunk that begins at *from, as scrub_step. is_owed: the gate waits for this table. */
bool compare_chunk(struct comparer *c, const struct relation *rel, bool is_owed, struct span *from, struct arena *a,
		   bool *ret_is_end, enum compared *ret, struct fault *f);
/* Plants a difference (canary.h). CANARY_NO_ROW also where its copy is not complete, or where it would have to be
 * read as a whole and may_be_large is false. */
bool compare_canary(struct comparer *c, const struct relation *rel, bool may_be_large, enum canary *ret,
		    struct fault *f);
/* For what the caller finds itself, by a hash of it. False: it was told before, or it is one too many. */
bool compare_is_news(struct comparer *c, uint64_t hash);
void compare_forget(struct comparer *c);
void compare_release(struct comparer *c);

#endif
