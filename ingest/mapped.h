// SPDX-License-Identifier: Apache-2.0
/*
 * mapped - what the migration file's mapping and rules make of the source's relations, and what about
 * them cannot be.
 *
 * mapped_apply gives a relation its target names, computed columns, filter and origin. mapped_read asks
 * the source which columns each expression reads: those without which it does not parse. Then
 * mapped_check says what is wrong, a sentence each, with the file's line and the next step.
 *
 * Everything lives in the arena. Thread: the connection's.
 */
#ifndef INGEST_MAPPED_H
#define INGEST_MAPPED_H

#include "core/migration.h"
#include "core/pg.h"
#include "core/relation.h"
#include "ingest/facts.h"

/* Mistakes in the file: text, and the line it is about. */
struct mistakes {
	const char **texts;
	size_t count, cap;
};

/* Pure. Before routing is decided: a key column that is computed routes `table`. */
void mapped_apply(const struct migration *m, struct arena *a, struct relation *rel);
/* Fills in the inputs of rel's expressions. What does not parse is a mistake. False: the connection. */
bool mapped_read(PGconn *conn, const struct migration *m, struct arena *a, struct relation *rel,
		 struct mistakes *ret, struct fault *f);
/* Of one table. has_begun: a column that the file names may have been dropped since. */
void mapped_check(const struct migration *m, struct arena *a, const struct facts_table *t, bool has_begun,
		  struct mistakes *ret);
/* Between tables, and what in the file is about no table at all. */
void mapped_check_all(const struct migration *m, struct arena *a, struct relation *const *relations,
		      size_t count, struct mistakes *ret);

#endif
