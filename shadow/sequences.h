// SPDX-License-Identifier: Apache-2.0
/*
 * sequences - the values of the source's sequences, brought to a target.
 *
 * The stream has the rows that a sequence numbered, never the sequence: a target's own would begin anew
 * and give out values that its rows have. So values are read on the source and set on the target:
 *
 * 1. When the copies are whole, with a margin. The application goes on taking values from the source; whoever
 *    moves it in a hurry finds sequences that are some way ahead.
 * 2. At the end of `run --until`, without one. Whatever row this process has applied was committed on the source
 *    before its roles ended, a value is taken before its row is committed, and last_value is of no
 *    transaction and counts values that sessions hold in their caches. So what is read after the roles have
 *    ended is at or past every value in the target's rows. It is no promise about an application that goes on
 *    writing to the source: neither its values nor its rows are on the target then.
 *
 * A target's sequence is never set back: what it has given out may be in its rows. One that cycles has no
 * further and no back; it is set as it is on the source.
 *
 * Which sequences: those that `schema: create` makes (SEQUENCES_IN_SCOPE). On the target a sequence that belongs to a
 * column is found by that column, so a serial column may be an identity column there; else by its name.
 */
#ifndef SHADOW_SEQUENCES_H
#define SHADOW_SEQUENCES_H

#include "core/migration.h"
#include "shadow/schema.h"

enum { SEQUENCES_MARGIN = 1000 }; /* values; a sequence with a larger cache: as many as that */

/*
 * SQL: is the row q of pg_class a sequence that goes along? `scope` holds the OIDs of the tables in scope and
 * their partitioned ancestors. Not one that belongs to a table out of scope, nor a temporary one.
 */
#define SEQUENCES_IN_SCOPE                                                                            \
	"q.relkind = 'S' AND q.relpersistence <> 't' AND NOT EXISTS (SELECT FROM pg_depend d"         \
	" WHERE d.classid = 1259 AND d.objid = q.oid AND d.refclassid = 1259"                         \
	" AND d.deptype IN ('a', 'i') AND d.refobjid NOT IN (SELECT oid FROM scope))"

/* A sequence as a server has it. The value given out next is value, or one increment on if is_called. */
struct sequences_state {
	int64_t value, increment, min, max, cache;
	bool is_called, is_cycle;
};

enum sequences_verdict {
	SEQUENCES_SET,   /* to *ret_value, called or not as on the source */
	SEQUENCES_KEEP,  /* the target is as far, or further */
	SEQUENCES_UNFIT, /* the target's bounds or direction do not hold the source's value */
};

/*
 * Pure. margin: how many values ahead; it takes no more than half of what is left before the
 * bound, and nothing of a sequence that cycles.
 */
enum sequences_verdict sequences_decide(const struct sequences_state *source,
					const struct sequences_state *target, int64_t margin,
					int64_t *ret_value);

/* A sequence of the source. */
struct sequences_item {
	struct span schema, name;
	struct span owner_schema, owner_table, owner_column; /* on the target; absent: of no column */
	const char *label;                                   /* quoted, for messages */
	bool is_readable;                                    /* false: the user may not SELECT from it */
	struct sequences_state state;                        /* value and is_called: not read yet */
};

/* The sequences in scope, without their values; everything lives in a. */
bool sequences_list(PGconn *source, const struct mappings *mappings, const struct schema_scope *scope, struct arena *a,
		    struct sequences_item **ret_items, size_t *ret_count, struct fault *f);

/*
 * Reads on the source and sets on the role's target; a line in the log says how many. What the target lacks, or
 * what may not be read or set, is a warning by name, no fault. Several processes may call it at once.
 * Waits at most 30 s for a lock. Safe to call again.
 */
bool sequences_set(const struct migration *m, enum role role, const struct schema_scope *scope,
		   bool with_margin, struct fault *f);

#endif
