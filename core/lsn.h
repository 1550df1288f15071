// SPDX-License-Identifier: Apache-2.0
/*
 * lsn - places in the source's WAL, as types that cannot be mixed up.
 *
 * commit_lsn  where a transaction's commit record starts (pgoutput BEGIN final_lsn, COMMIT commit_lsn).
 * boundary    a cut between transactions. A transaction is in X iff its commit record starts before X.
 *             The end of one transaction's commit record may be the commit LSN of the next, so
 *             the two are only ever compared by boundary_has().
 * position    (commit LSN, seq within the transaction): the same each time the WAL is decoded.
 *             Events that stand between transactions at boundary X have position (X, 0): after
 *             every transaction in X, before every one that is not.
 */
#ifndef CORE_LSN_H
#define CORE_LSN_H

#include <stdbool.h>
#include <stdint.h>

#include "core/span.h"

struct commit_lsn {
	uint64_t v;
};

struct boundary {
	uint64_t v;
};

struct position {
	struct commit_lsn commit;
	uint64_t seq;
};

static inline bool boundary_has(struct boundary x, struct commit_lsn c)
{
	return c.v < x.v;
}
/* -1, 0, 1 */
static inline int position_cmp(struct position a, struct position b)
{
	if (a.commit.v != b.commit.v)
		return a.commit.v < b.commit.v ? -1 : 1;
	return a.seq < b.seq ? -1 : a.seq > b.seq;
}
static inline int boundary_cmp(struct boundary a, struct boundary b)
{
	return a.v < b.v ? -1 : a.v > b.v;
}
static inline struct position position_at(struct boundary x)
{
	return (struct position) { { x.v }, 0 };
}

/* "16/B374D848", as PostgreSQL prints it; text holds at least LSN_TEXT bytes; returns text. */
enum { LSN_TEXT = 18 };
char *lsn_format(uint64_t lsn, char *text);
/* Accepts exactly hex/hex, each up to 8 digits. */
bool lsn_parse(struct span s, uint64_t *ret_lsn);

#endif
