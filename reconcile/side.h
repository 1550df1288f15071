// SPDX-License-Identifier: Apache-2.0
/*
 * side - a table as one of the two servers has it: what its catalog says about each column.
 *
 * Asked once a table. Everything lives in the arena given. Thread: the connection's.
 */
#ifndef RECONCILE_SIDE_H
#define RECONCILE_SIDE_H

#include "core/arena.h"
#include "core/pg.h"

struct side_column {
	struct span name;
	uint32_t base_oid;     /* domains are followed to the type at their end */
	struct span base_name; /* "schema"."name" of it */
	struct span exact;     /* of it, as a cast is written, with the typmod */
	struct span full;      /* the column's own type likewise */
	bool is_builtin;       /* the base type is of pg_catalog: every server has it */
	char typtype, category;
	bool is_generated;
	bool leads_index; /* a btree index begins with it */
};

struct side {
	bool is_partitioned;
	double row_estimate;
	bool has_commit_times; /* track_commit_timestamp is on: the server knows who wrote a row */
	struct side_column *columns;
	size_t column_count;
};

/* FAULT_STOP if there is no such table; `where` names the server. */
bool side_read(PGconn *conn, const char *where, struct span schema, struct span table,
	       struct arena *a, struct side *ret, struct fault *f);
/* NULL: none of this name. */
const struct side_column *side_column(const struct side *s, struct span name);

#endif
