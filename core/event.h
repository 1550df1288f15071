// SPDX-License-Identifier: Apache-2.0
/*
 * event - what a record of <m>.changes or <m>.snapshot says: its head, and the bodies that are not rows.
 *
 * Every record starts with its framing (codec.h), then, in every schema of ours, the same head:
 * generation, ordinal, commit_lsn... encoded first, so that a head is read without knowing the table.
 *
 *   kind        Kafka key   ordinal   what
 *   CHANGE      yes         yes       one row: op c u d (changes) or r (snapshot: no ordinal)
 *   EXCLUSIVE   null        yes       runs alone on the whole target: truncate, copy, relation, rekey
 *   BARRIER     null        last      transaction boundary
 *   MARKER      null        last      fence, base (changes and snapshot); end of a copy (snapshot)
 */
#ifndef CORE_EVENT_H
#define CORE_EVENT_H

#include "core/arena.h"
#include "core/buf.h"
#include "core/fault.h"
#include "core/lsn.h"

enum event_kind { EVENT_CHANGE, EVENT_EXCLUSIVE, EVENT_BARRIER, EVENT_MARKER };

struct event_head {
	enum event_kind kind;
	uint64_t fingerprint;      /* schema of the record, 0 for ours (kind says it) */
	char op;                   /* c u d r t m; 'b' barrier, 'f' fence, 's' base, 'e' end of copy */
	uint64_t generation;
	uint64_t ordinal;          /* CHANGE, EXCLUSIVE: its own; BARRIER, MARKER: the partition's last */
	struct position position;  /* CHANGE, EXCLUSIVE: its own; BARRIER, MARKER: the partition's last */
	struct boundary boundary;  /* BARRIER: X; EXCLUSIVE copy: X; else 0 */
	uint64_t lsn;              /* WAL position of the change itself */
	uint32_t xid;
	int64_t ts_us;             /* source commit time; BARRIER: when it was made (wall clock) */
	uint32_t attempt;          /* op r, e: the table's copy attempt */
};

struct event_count {           /* BARRIER in partition 0: cumulative, per source table */
	struct span table;         /* "schema.table" as the target's quoted name */
	uint64_t decoded, published;
};

enum exclusive_kind { EXCLUSIVE_TRUNCATE, EXCLUSIVE_COPY, EXCLUSIVE_RELATION, EXCLUSIVE_REKEY };

struct exclusive_table {
	uint32_t oid;              /* source relation */
	uint32_t version;          /* relation version valid at (RELATION: from) this position */
	uint32_t attempt;          /* COPY */
};

/* Bodies. Arrays live in the arena given to event_read; spans point into the record. */
struct exclusive {
	enum exclusive_kind kind;
	bool restart_identity, cascade;        /* TRUNCATE, for the record; we never cascade */
	bool in_place;             /* TRUNCATE, RELATION: every row of its tables is in this one partition,
				    * the only one that gets it; it runs where it stands */
	struct exclusive_table *tables;
	size_t table_count;
	struct span *changes;                  /* REKEY: complete framed CHANGE records, in source order */
	size_t change_count;
};
struct barrier {
	struct event_count *counts;
	size_t count_count;
};
struct marker {
	uint32_t oid;                          /* end of copy: source relation */
	uint64_t record_count;                 /* end of copy: op=r records of this attempt in this partition */
	uint64_t routing_version;              /* base */
};

struct event {
	struct event_head head;
	union {
		struct exclusive exclusive;
		struct barrier barrier;
		struct marker marker;
	};
	struct span body;                      /* CHANGE: what follows the head; see codec_decode */
};

/* Appends the whole framed record. framing is codec.h's. kind follows from the function; op too, but
 * for markers (f s e). False: no room in out, or the framing has no id for the schema. */
struct framing;
bool event_write_exclusive(const struct framing *fr, const struct event_head *h,
			   const struct exclusive *e, struct buf *out);
bool event_write_barrier(const struct framing *fr, const struct event_head *h,
			 const struct barrier *b, struct buf *out);
bool event_write_marker(const struct framing *fr, const struct event_head *h,
			const struct marker *m, struct buf *out);

/* Reads framing, head and (unless CHANGE) body. Never allocates more than the record's size × a
 * small constant. A record that is not ours: FAULT_INPUT. A schema id that the framing has not
 * learned: FAULT_ENVIRONMENT, learn it and read again. An op c or r with unchanged columns: FAULT_INPUT. */
bool event_read(const struct framing *fr, struct span record, struct arena *a, struct event *ret,
		struct fault *f);

/* Asks the registry what a schema id is, and framing_learn()s it. */
typedef bool (*event_learn)(void *arg, int32_t schema_id, struct fault *f);
/* event_read; an id that is not known is learned first. learn NULL: there is nobody to ask. f is not NULL. */
bool event_read_learning(const struct framing *fr, event_learn learn, void *arg, struct span record, struct arena *a,
			 struct event *ret, struct fault *f);

#endif
