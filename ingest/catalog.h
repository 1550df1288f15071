// SPDX-License-Identifier: Apache-2.0
/*
 * catalog - what the source's catalog says about the tables in scope: relations, keys, refusals.
 *
 * In scope: ordinary tables and leaves of partitioned tables. A leaf belongs to its partition root when
 * `tables:` has the root; a leaf that is named itself (no wildcard) while its root is not in scope is a
 * table on its own.
 * Names are matched by migration_has_table.
 *
 * Reading the catalog sees it as it is now; what a relation message says about its position (columns, types,
 * identity columns) wins over it.
 *
 * Thread: the connection's.
 */
#ifndef INGEST_CATALOG_H
#define INGEST_CATALOG_H

#include "core/migration.h"
#include "core/relation.h"
#include "ingest/pgoutput.h"

struct catalog {
	struct relation **relations;   /* version 0, from (0,0), fingerprint 0; ordered by oid */
	const char **late;             /* per relation: names of the unique indexes that are built at the end, or NULL */
	size_t relation_count;
	const char **refusals;         /* a sentence each: table, what is wrong, the statement to run */
	size_t refusal_count;
	const char **notes;            /* tables left out and why */
	size_t note_count;
	const char **mistakes;         /* in the migration file: line, what is wrong, next step */
	size_t mistake_count;
};

/* Everything lives in a. False only when the catalog could not be read. */
bool catalog_read(PGconn *conn, const struct migration *m, struct arena *a, struct catalog *ret,
		  struct fault *f);
/* FAULT_USAGE with all mistakes, else FAULT_STOP with all refusals or when no table is in scope. */
bool catalog_accept(const struct catalog *c, const struct migration *m, struct fault *f);
/* May the slot send binary? Only if every column's kind has a binary form we decode. */
bool catalog_binary_ok(const struct catalog *c);

/* FAULT_STOP: what the file says of rel is not what previous, a version of the same table, was mapped by. */
bool catalog_refuse_mapping(const struct migration *m, const struct relation *rel, const struct relation *previous,
			    struct fault *f);

/*
 * The version of a relation that starts with this message. previous (may be NULL) is the version before
 * it: where the table is gone from the catalog by now, root, target and bound are taken from it.
 * A table that became unusable (no key, no full old row) is FAULT_STOP with the statement to run.
 */
bool catalog_relation(PGconn *conn, const struct pgoutput_relation *message,
		      const struct migration *m, const struct relation *previous, uint32_t version,
		      struct position from, struct arena *a, struct relation **ret,
		      struct fault *f);

#endif
