// SPDX-License-Identifier: Apache-2.0
/*
 * progress - the rows in a target that say how far each partition is, and who owns it.
 *
 * Beside it, foreshadow.counts has how many records of each table a partition has gone over (counts.h), moved by the same
 * statement. It adds there: what was written before, by whomever, stays counted.
 *
 * A row moves only in the transaction that has the effect of the move, by progress_moves(): one
 * statement for all partitions of a batch that RAISES (FS001, FAULT_FENCED) unless each row still
 * has our epoch and the offset the batch starts from. progress_take() raises the epoch: it waits
 * for the old owner's open transaction, or ends it, so that what it returns is what the target has.
 *
 * Thread: the connection's.
 */
#ifndef SHADOW_PROGRESS_H
#define SHADOW_PROGRESS_H

#include "core/arena.h"
#include "core/pg.h"
#include "core/sequence.h"
#include "shadow/apply.h"
#include "shadow/counts.h"

struct progress {
	uint64_t epoch;
	int64_t next_offset;
	struct sequence at;      /* generation, ordinal, position, barrier */
	int64_t barrier_us;      /* the source's clock when the barrier was made; 0: none yet */
	struct position waiting; /* exclusive event it waits at; commit 0: none */
	uint64_t changes, covered;
};

static inline bool progress_is_waiting(const struct progress *p)
{
	return p->waiting.commit.v != 0;
}

/* Which row. */
struct progress_key {
	const char *migration, *topic;
	int partition;
};

/* Creates schema foreshadow, its tables and functions where missing. Several processes may call it
 * at once. */
bool progress_prepare(PGconn *conn, struct fault *f);

/* Raises the epoch in our name and returns the row (made if missing). server is for a second
 * connection that ends the old owner's backend if it, and nobody else, keeps us waiting. */
bool progress_take(PGconn *conn, const struct pg_server *server, const struct progress_key *key,
		   const char *instance, struct progress *ret, struct fault *f);

/* A partition's move in a batch: from is what the target has. */
struct progress_move {
	struct progress_key key;
	const struct progress *from, *to;
};
/* The statement for all of them (of one migration); counts: what they go over, of changes; NULL: nothing. Texts live
 * in a. */
bool progress_moves(const struct progress_move *moves, size_t n, const struct counts *counts, struct arena *a,
		    struct apply_statement *ret, struct fault *f);

/* Runs a caller's statement by itself, plain mode. */
bool progress_run(PGconn *conn, const struct apply_statement *s, struct fault *f);

/* Of rows of key.topic (key.partition is ignored): how many wait at p or are past it? */
bool progress_arrived(PGconn *conn, const struct progress_key *key, struct position p,
		      int *ret_count, struct fault *f);
/* Position of one row. */
bool progress_position(PGconn *conn, const struct progress_key *key, struct position *ret,
		       struct fault *f);
/* Epoch of one row, to find out which partition of a fenced batch is lost. */
bool progress_epoch(PGconn *conn, const struct progress_key *key, uint64_t *ret, struct fault *f);
/* "16/B374D848 3" and back: how a position stands in waiting_at. text: PROGRESS_POSITION_TEXT. */
enum { PROGRESS_POSITION_TEXT = LSN_TEXT + 24 };
char *progress_position_format(struct position p, char *text);
bool progress_position_parse(struct span s, struct position *ret);

#endif
