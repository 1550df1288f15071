// SPDX-License-Identifier: Apache-2.0
/*
 * rounds - copies the tables that have no complete copy, round after round until all have.
 *
 * A round's states:
 *   IDLE       nothing to copy, or waiting for a boundary beyond every earlier round's
 *   ANNOUNCED  begin records are in control, the COPY event is produced; waiting for its
 * acknowledgements COPYING    the point is being asked for and rows are read (copy.h) PAUSED     a
 * round failed; its tables are void; the next one after a back-off
 *
 * What was begun and not completed when a generation ended is void (rounds_new), but its COPY event
 * still has its place in the stream: rounds_begun gives those to stream.
 *
 * A table whose catalog entry differs from its newest version with no change to say so (ALTER TABLE
 * and then nothing) gets a version at the round's boundary, and the generation ends, so that the
 * server introduces its relations anew against that version.
 *
 * Thread: ingest.
 */
#ifndef INGEST_ROUNDS_H
#define INGEST_ROUNDS_H

#include "ingest/catalog.h"
#include "ingest/copy.h"
#include "ingest/history.h"
#include "ingest/memory.h"
#include "ingest/stream.h"

struct rounds;

struct rounds_conf {
	const struct migration *migration;
	struct memory memory;
	struct history *history;
	const struct framing *framing;
	struct publish *publish;
	PGconn *plain; /* to the source */
	uint64_t generation;
	struct boundary origin;    /* the slot's creation: counts as the boundary of round 0 */
	struct boundary confirmed; /* rounds that began before it are not decoded again */
	const struct catalog *catalog;
};

/* Voids what an earlier generation left incomplete. */
struct rounds *rounds_new(const struct rounds_conf *conf, struct fault *f);
/* Ends a copy that runs. */
void rounds_free(struct rounds *r);

/* Rounds that began at or beyond confirmed, in order; good until rounds_free. */
const struct stream_copy *rounds_begun(const struct rounds *r, size_t *ret_count);

/* Does what can be done now. */
bool rounds_step(struct rounds *r, struct stream *s, int64_t now_us, struct fault *f);
/* Readable when rounds_step has something to do, or -1. */
int rounds_fd(const struct rounds *r);
/* A delivery report of a copy record. */
void rounds_delivered(struct rounds *r, const rd_kafka_message_t *m);
/* The stream says that a table's shape changed at this position. */
void rounds_reshaped(struct rounds *r, uint32_t oid, struct position at);

/* Has every table a complete copy? */
bool rounds_is_done(const struct rounds *r);
/* Tables complete, tables in all. */
void rounds_count(const struct rounds *r, size_t *ret_complete, size_t *ret_tables);
/* Progress of the tables of the running round: up to max, returns how many. names[i] lives until
 * rounds_free. */
size_t rounds_progress(const struct rounds *r, struct copy_progress *progress, struct span *names,
		       size_t max);

#endif
