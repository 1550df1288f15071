// SPDX-License-Identifier: Apache-2.0
/*
 * tail - reconcile's own reader of <m>.changes, and an index of what happened to one table since a moment.
 *
 * It joins no group. It starts where a target's rows say, in each partition at the least of what the
 * targets have applied, and reads by the rules of core/sequence: what a lower generation wrote behind
 * a fence, and what is there twice, is dropped.
 *
 * tail_watch() chooses the table and empties the index: from then on every event of it is kept as (hash
 * of its message key, position, transaction, place in Kafka). The row is what tail_image() gives when a key must be
 * judged: the first records are kept (TAIL_KEPT_BYTES), others are fetched again. The index is bounded (TAIL_EVENTS_MAX): has_overflowed says that it did not
 * fit, and that nothing may be concluded from what is not in it.
 *
 * Independent of that, `changed` is told of every change of every table, in the order of its partition, and `counted`
 * of every record that has an ordinal.
 *
 * Single-threaded: the records are taken in tail_poll.
 */
#ifndef RECONCILE_TAIL_H
#define RECONCILE_TAIL_H

#include "core/kafka.h"
#include "core/migration.h"
#include "core/sequence.h"
#include "reconcile/known.h"

enum { TAIL_EVENTS_MAX = 1 << 20 }; /* of 56 bytes each */

enum { TAIL_KEPT_BYTES = 16 << 20 };

enum tail_kind {
	TAIL_ROW,   /* what the row of this key is from here on: the record says it */
	TAIL_GONE,  /* its key changed to another one: there is no row of this key from here on */
	TAIL_TABLE, /* concerns every row of the table: a TRUNCATE, a copy, new columns */
};

#define TAIL_UNSENT_REST (UINT32_C(1) << 31) /* columns from the 31st on */

struct tail_event {
	uint64_t key_hash; /* ROW, GONE */
	struct position position;
	uint32_t xid;
	int32_t partition; /* whose place decides whether it was applied */
	int64_t offset;
	enum tail_kind kind : 8;
	bool from_other_key;  /* ROW: the row had another key before */
	int32_t in_exclusive; /* ROW: number of the change in an exclusive record; -1: a record of its own */
	uint32_t kept;        /* 1 + where its record is in tail.kept; 0: it is to be fetched */
	uint32_t unsent;      /* ROW: columns of the new row that were not sent: a bit each, TAIL_UNSENT_REST for the rest */
};

struct tail {
	const struct migration *m;
	struct known *known;
	struct framing *framing;
	event_learn learn; /* NULL: no schema id can be unknown */
	void *arg;
	/* Told of every change, whatever is watched: its row, with the key's values; NULL: of the whole table. */
	bool (*touch)(void *arg, const struct relation *rel, const struct value *row, struct fault *f);
	void *touch_arg; /* NULL touch: nobody is told */
	rd_kafka_t *reader, *fetcher;
	int fetch_partition; /* where the fetcher goes on; -1: nowhere */
	int64_t fetch_next;
	struct sequence *parts;
	int64_t *next; /* per partition: the offset that comes next */
	struct kafka_range *ranges; /* of the partitions, when last asked */
	uint64_t taken; /* records */
	int64_t woken_us;
	bool has_refused; /* it failed, and not because nobody answers: Kafka, the registry or a record, not a table */
	const struct relation *watched; /* NULL: none */
	/* May be NULL. An exclusive event that is no copy: once for each of its tables. */
	void (*changed)(void *arg, const struct relation *rel, struct position p);
	void *changed_arg;
	/* May be NULL. Whose count the record goes to: its table, of an event with several the first. */
	bool (*counted)(void *arg, int partition, uint64_t ordinal, uint32_t oid, struct fault *f);
	void *counted_arg;
	struct tail_event *events;
	size_t event_count, event_cap;
	bool has_overflowed, has_copy;
	struct arena arena;
	struct buf key;
	struct span record; /* the one that is taken in; absent: it is part of another one */
	struct buf kept;    /* per record: the lengths of its key and itself, 4 bytes each, and both */
};

bool tail_open(struct tail *t, const struct migration *m, struct known *known,
	       struct framing *framing, struct fault *f);
void tail_close(struct tail *t);
/* Starts from the rows of these targets: conns with NULLs in between. */
bool tail_start(struct tail *t, PGconn *const *conns, size_t n, struct fault *f);
/* Where a partition is read on, and what the rules of reading know there. */
struct tail_place {
	int64_t next; /* offset */
	struct sequence sequence;
};
/* places: one per partition. */
void tail_places(const struct tail *t, struct tail_place *ret_places);
/* Starts there. *ret_is_gone: Kafka does not have the records from there on any more (or never did): not started. */
bool tail_start_at(struct tail *t, const struct tail_place *places, bool *ret_is_gone, struct fault *f);
/* What is read from here on. rel: any leaf of the table; kept by its root's name and its target. */
void tail_watch(struct tail *t, const struct relation *rel);
/* Drops the first n events. What has_overflowed and has_copy say stays. */
void tail_forget(struct tail *t, size_t n);
/* Takes what is there; waits at most timeout_ms for the first record. */
bool tail_poll(struct tail *t, int timeout_ms, struct fault *f);
/* When what should come does not: the reader may sleep over queues that were all full (core/kafka.c). */
void tail_wake(struct tail *t, int partition);
/* Have this partition's records been read up to this position? */
bool tail_has(const struct tail *t, int partition, struct position p);

/* Reads every partition up to its present end. FAULT_ENVIRONMENT if that does not come. */
bool tail_drain(struct tail *t, struct fault *f);

/*
 * Partition 0's barrier at this boundary, from the last records before an offset. *ret_found false: there is
 * none near. Its counts live in the arena.
 */
bool tail_barrier(struct tail *t, struct boundary at, int64_t before_offset, struct arena *a, struct barrier *ret,
		  bool *ret_found, struct fault *f);

/* The row that an event leaves behind, read again from Kafka. Values live in the arena, one per column
 * of *ret_rel. Both rows of a keyless event. */
struct tail_row {
	const struct relation *rel;
	char op;
	struct value *before, *after; /* NULL: none */
	struct span key;              /* the record's message key */
};
bool tail_image(struct tail *t, const struct tail_event *e, struct arena *a, struct tail_row *ret,
		struct fault *f);

#endif
