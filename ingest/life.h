// SPDX-License-Identifier: Apache-2.0
/*
 * life - one generation of ingest: everything it holds, and how it starts.
 *
 * life_open goes through the start sequence of docs/internals.md 3. From the moment it has the
 * slot, every wait goes through life_serve, which takes delivery reports and gives feedback: the
 * source hears from us also while a partition's tail is read, a record waits for room, or a control
 * record for its acknowledgement.
 *
 * Only the thread that runs ingest touches a life.
 */
#ifndef INGEST_LIFE_H
#define INGEST_LIFE_H

#include "ingest/history.h"
#include "ingest/ingest.h"
#include "ingest/memory.h"
#include "ingest/publish.h"
#include "ingest/rounds.h"
#include "ingest/source.h"
#include "ingest/stream.h"

struct registry;

struct life {
	const struct migration *m;
	const struct ingest_options *options;
	struct kafka_conf kafka;
	struct control *control;   /* outlives the life */
	struct framing *framing;   /* so does this, */
	struct registry *registry; /* and this (NULL: none) */
	struct memory memory;

	struct arena arena; /* of the life */
	struct catalog catalog;
	struct source *source;
	PGconn *plain;
	rd_kafka_t *reader;
	int event_fd;
	struct publish *publish;
	struct history *history;
	struct rounds *rounds;
	struct stream *stream;

	struct memory_identity identity;
	uint64_t generation;
	struct boundary confirmed; /* at least this was confirmed to the source */
	struct boundary fed_back;
	int64_t feedback_us, feedback_every_us;
	uint64_t source_end; /* the source's WAL end as it last said */
	bool is_streaming;   /* START_REPLICATION has succeeded */
	/* The stop flag has been seen: acknowledgements are waited for until then (clock_us). 0: no. */
	int64_t drain_until_us;
};

/* m, options, kafka, control, framing are set. On failure life_close is still to be called. */
bool life_open(struct life *l, struct fault *f);
void life_close(struct life *l);

/* Waits up to timeout_ms for anything but the socket's data; false: fault, or told to stop. */
bool life_serve(struct life *l, int timeout_ms, struct fault *f);
/* Status update to the source if one is due. */
bool life_feedback(struct life *l, int64_t now_us, bool is_forced, struct fault *f);
bool life_is_stopped(const struct life *l);

#endif
