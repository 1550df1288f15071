// SPDX-License-Identifier: Apache-2.0
/*
 * expressions - may a target evaluate the transformation rules of a table? What it says of each.
 *
 * An expression must parse over the source's columns, fit the column it fills, and give the same result
 * for the same row whenever it is asked: the verifier evaluates it again, on another server. So it is
 * immutable, or stable only through settings that every connection of ours pins; it reads no table.
 *
 * The server is asked by temporary objects in a transaction that is rolled back. The target table need
 * not exist yet (then its declared type counts).
 *
 * Thread: the connection's.
 */
#ifndef SHADOW_EXPRESSIONS_H
#define SHADOW_EXPRESSIONS_H

#include "core/migration.h"
#include "core/pg.h"
#include "core/relation.h"

/* Called for each expression that may be: column absent for a filter, as the server understood it. */
typedef void expressions_say(void *arg, struct span column, struct span understood);

/* FAULT_USAGE names file, line, what is wrong and the next step. say may be NULL. */
bool expressions_check(PGconn *conn, const struct migration *m, const struct relation *rel,
		       expressions_say *say, void *arg, struct fault *f);

#endif
