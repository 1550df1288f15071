// SPDX-License-Identifier: Apache-2.0
/*
 * balance - was every record of the stream gone over once on a target, for its table?
 *
 * Arithmetic beside the comparing of rows: it also sees a change that was lost, or applied twice, where a later one has
 * overwritten the row since. A target says, in one statement, where its partitions are (ordinals) and how many records it
 * has counted there, per table of the source; the stream is read by ourselves. What must come out:
 *
 *   ordinals  the records counted in a partition, over all tables, are its ordinal: all of its history
 *   stream    those counted since a first place, per partition and table, are those of the stream between the two
 *   totals    what ingest published of a table up to a barrier is what is counted over all partitions that stand there
 *   source    what ingest decoded of a table is what it published
 *
 * An event of several tables counts for its first one. A change of a key that is two records counts in each of its
 * partitions. What a filter leaves out on the target was gone over like any other.
 *
 * A difference is one until the counts are put right (foreshadow.counts.accepted): nothing is forgotten between two places.
 *
 * Pure; single-threaded.
 */
#ifndef RECONCILE_BALANCE_H
#define RECONCILE_BALANCE_H

#include "core/buf.h"
#include "core/event.h"
#include "core/lsn.h"

/* Runs of records of one table that are kept until the target is there, over all partitions; 8 bytes each. */
enum { BALANCE_RUNS_MAX = 16 << 20 };

enum balance_kind { BALANCE_ORDINALS, BALANCE_STREAM, BALANCE_TOTALS, BALANCE_SOURCE, BALANCE_KINDS };

struct balance_difference {
	enum balance_kind kind;
	int partition;      /* ORDINALS, STREAM */
	uint32_t oid;       /* STREAM, TOTALS: 0: not known */
	struct span table;  /* absent: not known */
	uint64_t from, to;  /* ordinals: STREAM above from, ORDINALS 0; up to to. TOTALS, SOURCE: to is the barrier */
	int64_t wanted, seen;
};

/* Told of each. d->table is absent where only the OID is known. */
typedef void balance_report(void *arg, const struct balance_difference *d);

struct balance_count {
	uint32_t oid;
	int64_t records; /* all of them */
	int64_t changes; /* without those that another partition counts as a change */
};
struct balance_place {
	uint64_t ordinal;
	const struct balance_count *counts;
	size_t count_count;
};

struct balance;
struct balance *balance_new(int partition_count); /* NULL: no memory */
void balance_free(struct balance *b);

/* The stream is read from behind this ordinal on. */
void balance_follow(struct balance *b, int partition, uint64_t ordinal);
/* The next record of the partition. False: no memory. */
bool balance_record(struct balance *b, int partition, uint64_t ordinal, uint32_t oid);
/* The target is here; the stream was read up to there. False: no memory. */
bool balance_place(struct balance *b, int partition, const struct balance_place *place, balance_report *report, void *arg);

/* A name that ingest counts a table by; one table may have had several, and several tables one. */
struct balance_name {
	uint32_t oid;
	struct span name;
};
/* seen: over all partitions, which stand at the barrier. False: no memory. */
bool balance_totals(const struct barrier *barrier, struct boundary at, const struct balance_name *names, size_t name_count,
		    const struct balance_count *seen, size_t seen_count, balance_report *report, void *arg);

/* "partition 3, public.t: 10 records are counted …": one line, for people. */
void balance_describe(const struct balance_difference *d, struct buf *out);

/* How wrong it is: the largest, over the kinds, of the sums of differences. A change that is lost shows in several. */
struct balance_error {
	uint64_t by_kind[BALANCE_KINDS];
};
void balance_error_add(struct balance_error *e, const struct balance_difference *d);
uint64_t balance_error_sum(const struct balance_error *e);

#endif
