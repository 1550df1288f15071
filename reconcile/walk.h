// SPDX-License-Identifier: Apache-2.0
/*
 * walk - which tables are to be scrubbed, and how far the one is that is being scrubbed.
 *
 * A table is due because a pass over all of them has begun (walk_pass), or owed: it was copied, truncated or
 * given other columns, and the gate stands until it was seen from end to end. Tables are taken in the
 * order of their names, going round; one that cannot be scrubbed now is passed over until the next round.
 *
 * Pure; single-threaded.
 */
#ifndef RECONCILE_WALK_H
#define RECONCILE_WALK_H

#include "core/buf.h"

struct walk_table {
	char *schema, *table; /* of the source; a partitioned table by its root */
	bool is_due, is_owed; /* owed: due as well */
	bool has_found;       /* something differed when it was scrubbed: to a bookmark it is owed */
};

struct walk {
	struct walk_table *tables; /* by name */
	size_t count, cap;
	char *at_schema, *at_table; /* being scrubbed; NULL: none */
	struct buf from;            /* where its next chunk begins */
	bool has_from;              /* else at its beginning */
	bool is_passing;
	uint64_t pass_lsn;     /* a boundary that all that this pass compares contains */
	bool pass_is_clean;
	uint64_t scrubbed_lsn; /* pass_lsn of the last pass that was clean; 0: none yet */
	int64_t pass_at;       /* when the last pass began, in seconds of the Unix clock */
};

void walk_init(struct walk *w);
void walk_release(struct walk *w);
/* Takes the table into the list; *ret_is_new: it was not there. False: no memory. */
bool walk_see(struct walk *w, struct span schema, struct span table, bool *ret_is_new);
/* The table is not there any more. */
void walk_forget(struct walk *w, const struct walk_table *t);
/* Owed, from its beginning, also when it is being scrubbed. False: no memory. */
bool walk_owe(struct walk *w, struct span schema, struct span table);
/* As it was left, for a bookmark: a table that is due, and where the one that was being scrubbed goes on (from absent:
 * at its beginning). False: no memory, or names are absent. */
bool walk_due(struct walk *w, struct span schema, struct span table, bool is_owed);
bool walk_go_on(struct walk *w, struct span schema, struct span table, struct span from);
size_t walk_owed(const struct walk *w);
/* All tables are due. */
void walk_pass(struct walk *w, uint64_t lsn, int64_t at);
/* Differences were found: the pass proves nothing. */
void walk_dirty(struct walk *w);
/* They were of the table that walk_next said; all such tables are right again. */
void walk_found(struct walk *w);
void walk_clear_found(struct walk *w);
/* The table to go on with, from w->from on. NULL: none is due, or no memory. Until the next call that takes a w. */
const struct walk_table *walk_next(struct walk *w);
/* What walk_next said was scrubbed up to `from`; absent: to its end. Nothing if it is owed anew since. */
void walk_went(struct walk *w, struct span from);
/* What walk_next said cannot be scrubbed now. */
void walk_later(struct walk *w);

#endif
