// SPDX-License-Identifier: Apache-2.0
/*
 * truncate - empties on the target exactly the rows that came from the tables of a TRUNCATE
 * message.
 *
 * Also what empties a table before its copy. Never cascades. Per table:
 *   the target has that very leaf, or the table is no leaf, or the message has every leaf:
 * TRUNCATE; a leaf the target does not have: DELETE FROM root WHERE bound; referenced by a foreign
 * key from outside the message: DELETE, under replica role only.
 */
#ifndef SHADOW_TRUNCATE_H
#define SHADOW_TRUNCATE_H

#include "core/arena.h"
#include "core/pg.h"
#include "core/relation.h"

struct truncate_table {
	const struct relation *rel;
	bool has_every_leaf; /* the message has every leaf of rel's root */
};

/* Runs inside the caller's open transaction, plain mode. is_replica: session_replication_role is
 * replica. */
bool truncate_run(PGconn *conn, const struct truncate_table *tables, size_t count, bool is_replica,
		  struct fault *f);

/* The pure part: facts of the catalog in, statements out. */
struct truncate_fact {
	const struct truncate_table *table;
	uint32_t root_oid, leaf_oid; /* on the target; leaf_oid 0: it has no such leaf */
	bool is_partitioned;         /* the target table */
	bool is_referenced;          /* by a foreign key from outside what is truncated */
};
bool truncate_write(const struct truncate_fact *facts, size_t count, bool is_replica,
		    struct buf *out, struct fault *f);

#endif
