// SPDX-License-Identifier: Apache-2.0
/*
 * constraints - unique and exclusion indexes that only the targets have: a table with one beside its key is
 * routed `table`, so that its rows come in the source's order.
 *
 * Both targets are asked once, by the names of the tables, for a table's first version; what is added there
 * later is met by the lanes, which warn (shadow/lane_state.c). Indexes that foreshadow built itself at an
 * earlier end do not count. A shadow that is not made yet has none.
 *
 * Foreign keys are not enforced while changes are applied (session_replication_role = replica) and route nothing,
 * unless the role of a target may not set that: then see families.h.
 */
#ifndef INGEST_CONSTRAINTS_H
#define INGEST_CONSTRAINTS_H

#include "core/migration.h"
#include "core/relation.h"

struct constraint {              /* a unique or exclusion index of a table, or of one of its partitions */
	enum role role;          /* which target has it */
	struct span schema, table, name;
	bool is_exclusion;
	bool is_plain;           /* unique over plain columns, by an equality of identical values */
	struct span *columns;    /* names of its key columns */
	size_t column_count;
};

struct constraints_key {         /* a foreign key of a target table, or of a source's table or leaf */
	enum role role;
	struct span schema, table, name;
	struct span to_schema, to_table;
	bool is_enforced;        /* on sessions that do not run as replica */
	bool rewrites;           /* it may change rows, by ON UPDATE or ON DELETE; to delete some is no change */
};

struct constraints {
	struct constraint *indexes;
	size_t index_count;
	struct constraints_key *keys;
	size_t key_count;
	/* Where a target's role may not keep foreign keys from firing; by enum role. */
	bool lacks_replica[2];
	struct constraints_key *source_keys; /* that the targets will have; only read if one lacks that right */
	size_t source_key_count;
};

/* Of the relations' target tables; source: a plain connection to it. Everything lives in a. */
bool constraints_read(const struct migration *m, PGconn *source, struct relation *const *relations, size_t count,
		      struct arena *a, struct constraints *ret, struct fault *f);
/* The first index that rows of different keys may meet in, or NULL. Pure. */
const struct constraint *constraints_further(const struct constraints *c, const struct relation *rel);
/* Routes rel by it; the reason lives in a. */
void constraints_route(const struct constraints *c, struct relation *rel, struct arena *a);
/*
 * How a version follows the one before it, or a new leaf its siblings. What further constraints decided once stays:
 * whether one is gone from all three databases is not asked, and leaves of one table must be routed alike.
 */
void constraints_follow(struct relation *rel, const struct relation *previous);

#endif
