// SPDX-License-Identifier: Apache-2.0
/*
 * stream - the source's messages, in order, become records: transactions, versions, exclusive
 * events, barriers.
 *
 * What it does is a function of the WAL, of the versions in history and of the copies that were
 * begun, so that decoding again after a restart gives the same records at the same positions:
 *
 * 1. seq counts every insert, update, delete and truncate, published or not, and every relation
 * event.
 * 2. A relation event exists iff the relation message differs from the version valid just before
 * it. (A message that differs in nothing changes nothing: the server repeats them in every
 * session.)
 * 3. Key changes that must be exclusive and follow each other in one transaction form one event,
 * cut at REKEY_MAX_BYTES from its start, at the position of its first change. Its change records
 * have generation and ordinal 0.
 *    What concerns tables that are all in one partition stands there alone, in its place.
 * 4. The COPY event of a round that began at X stands at (X, 0): before the first transaction that
 *    is not in X.
 * 5. A barrier stands at a boundary with no transaction open, and not while some partition's
 *    last record, published by an earlier generation, is beyond it.
 *
 * Counts are in records: a truncate, a relation change, a copy's begin or a rekey event is one, and
 * a key change that is a delete and an insert is two. They go to the event's (first) table. They are a function of
 * the WAL up to the barrier that carries them: no barrier follows a copy's begin at the same boundary.
 *
 * Thread: ingest.
 */
#ifndef INGEST_STREAM_H
#define INGEST_STREAM_H

#include "ingest/history.h"
#include "ingest/pgoutput.h"
#include "ingest/publish.h"
#include "ingest/source.h"

struct stream;

/* A round of copies that began at a boundary; tables ordered by oid, versions filled in by stream.
 */
struct stream_copy {
	struct boundary at;
	struct exclusive_table *tables;
	size_t table_count;
};

struct stream_conf {
	const struct framing *framing;
	struct publish *publish;
	struct history *history;
	int partition_count;
	int64_t barrier_us; /* from one barrier to the next, at least; sooner behind a message of ours */
	/* The version that starts with this message; previous is the one before it. Lives in a. */
	bool (*relation)(void *arg, const struct pgoutput_relation *message,
			 const struct relation *previous, struct position from, struct arena *a,
			 struct relation **ret, struct fault *f);
	/* The shape of a table changed at this position. */
	void (*reshaped)(void *arg, uint32_t oid, struct position at);
	void *arg;
	struct boundary confirmed;    /* where decoding starts */
	struct boundary accepted;     /* newest barrier that any partition has */
	const struct barrier *counts; /* at confirmed */
	const struct stream_copy
	    *copies; /* begun at or beyond confirmed, in order; borrowed for ever */
	size_t copy_count;
};

struct stream *stream_new(const struct stream_conf *conf, struct fault *f);
void stream_free(struct stream *s);

bool stream_data(struct stream *s, const struct source_message *m, struct fault *f);
bool stream_keepalive(struct stream *s, uint64_t wal_end, struct fault *f);
/* A barrier at the newest boundary if one is due; now_us is clock_us(). is_forced: whatever the
 * time. */
bool stream_barrier(struct stream *s, int64_t now_us, bool is_forced, struct fault *f);

/* When one is due (clock_us); INT64_MAX: not before something happens on the source. */
int64_t stream_barrier_due_us(const struct stream *s);

/* Newest boundary known. */
struct boundary stream_boundary(const struct stream *s);
/* At that boundary now: no transaction open, nothing published beyond it, no begun copy left to
 * place. */
bool stream_is_at_boundary(const struct stream *s);
/* Only while stream_is_at_boundary; copy->at is the boundary. */
bool stream_copy(struct stream *s, const struct stream_copy *copy, struct fault *f);

struct stream_totals {
	uint64_t changes, transactions;
	int64_t commit_us; /* commit time of the newest transaction on the source */
};
struct stream_totals stream_totals(const struct stream *s);
/* Records per table since the migration began, as the next barrier has them: *ret_count, in an order
 * that only grows. Valid until the next call that may add one. */
const struct event_count *stream_counts(const struct stream *s, size_t *ret_count);

/* Does the message describe this version? Pure; for tests. */
bool stream_is_version(const struct relation *rel, const struct pgoutput_relation *message);

#endif
