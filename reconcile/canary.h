// SPDX-License-Identifier: Apache-2.0
/*
 * canary - the proof that a run finds differences: one is planted, and must be found.
 *
 * Nothing is written. The digest is asked of a FROM item that makes the target's rows with one changed: a
 * value of it NULL, or else the row left out; of a keyless table, one row twice. The rest of the way is
 * that of every table: survey, drill, judge.
 */
#ifndef RECONCILE_CANARY_H
#define RECONCILE_CANARY_H

#include "reconcile/scrub.h"

enum { CANARY_TABLES = 8 }; /* that are tried, where it stays open: then it stays unproven */

enum canary {
	CANARY_FOUND,
	CANARY_OPEN, /* it could not be judged: an old transaction is not settled, or the rows change all the time */
	CANARY_NO_ROW,
	CANARY_REFUSED, /* a server refuses to be asked of the table: of canary_prove */
};

/* FAULT_INTERNAL: it was not found. */
bool canary_run(struct ends *e, enum role role, const struct digest *d, int64_t seed,
		enum canary *ret, struct fault *f);

/* One table's; may_be_large: also if it is one chunk. Another one is tried unless it is CANARY_FOUND. */
typedef bool canary_try(void *arg, size_t table, bool may_be_large, enum canary *ret, struct fault *f);
/* Of some table: those in which a chunk is small, then any; a table that is refused is passed over, comparing it says
 * so. NO_ROW: no table has one. */
bool canary_prove(struct ends *e, size_t table_count, canary_try *try, void *arg, enum canary *ret, struct fault *f);

#endif
