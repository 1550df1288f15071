// SPDX-License-Identifier: Apache-2.0
/*
 * route - one row change of the source → which records in which partitions.
 *
 * Cells become values (the old row fills in what the new one left unchanged), values become keys,
 * keys become partitions:
 *
 *   insert, delete, update with the same key   one record
 *   key change, both keys in one partition     one op=u keyed by the new key; before has the old
 * one key change, two partitions                 op=d in the old key's, op=c in the new key's, both
 * with the change's position the same with a column that is unchanged   REKEY: the op=c could not
 * be complete, so the change travels as op=u in an exclusive event
 *
 * Keyless tables are routed whole, and always carry the full old row.
 *
 * Pure. What comes out borrows the cells, the version's scratch arrays and this struct; it is good
 * until the next route_change.
 */
#ifndef INGEST_ROUTE_H
#define INGEST_ROUTE_H

#include "core/arena.h"
#include "core/buf.h"
#include "core/fault.h"
#include "ingest/history.h"

struct route {
	int partition_count;
	struct arena values;
	struct buf old_key, new_key;
};

void route_init(struct route *r, int partition_count);
void route_release(struct route *r);

/* What pgoutput said; cells: one per column of the version. */
struct route_source {
	char op;       /* c u d */
	char old_kind; /* 'K' key, 'O' full row, 0: not sent */
	const struct cell *old_cells, *new_cells;
};

enum routed_kind { ROUTED_ONE, ROUTED_TWO, ROUTED_REKEY };

struct routed_record {
	char op;
	int partition;
	struct span key;
	struct change change;
};

struct routed {
	enum routed_kind kind;
	struct routed_record records[2]; /* TWO: delete, then insert; REKEY: the first */
};

/* FAULT_INPUT names table and column: the source sent what it must not. */
bool route_change(struct route *r, const struct version *v, const struct route_source *source,
		  struct routed *ret, struct fault *f);

/* The one partition all changes of this table go to, or -1 (routed by key). */
int route_table_partition(struct route *r, const struct relation *rel, struct fault *f);

#endif
