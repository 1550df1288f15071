// SPDX-License-Identifier: Apache-2.0
/*
 * scratch - a database for a moment, on a target's server: where schema: create lets PostgreSQL apply the
 * mapping to empty tables (reshape.h), before what came of it is dumped and restored into the target.
 *
 * Named foreshadow_<migration>_scratch_s (shadow) or _p (primary). Its comment says whose it is, and only
 * such a database is ever dropped. One that a crash left behind is dropped by the next scratch_open, and by `drop`.
 * A role's scratch belongs to whoever holds the schema lock in its target.
 */
#ifndef SHADOW_SCRATCH_H
#define SHADOW_SCRATCH_H

#include "core/migration.h"

enum { SCRATCH_NAME = 64 };
void scratch_name(const struct migration *m, enum role role, char ret[SCRATCH_NAME]);

/* May the target's user make databases, and can its server be dumped? FAULT_STOP with the ways out. Changes
 * nothing. name: of the target, for the message. */
bool scratch_check(PGconn *target, const char *name, struct fault *f);

/* A connection to a new, empty database with the encoding and locale of target's; NULL and a fault.
 * scratch_close drops it. */
PGconn *scratch_open(const struct migration *m, enum role role, PGconn *target, struct fault *f);
/* Closes and drops; scratch may be NULL. f may be NULL. */
bool scratch_close(const struct migration *m, enum role role, PGconn *target, PGconn **scratch, struct fault *f);

/* Is one left on the server of server's database? */
bool scratch_is_left(const struct migration *m, enum role role, PGconn *server, bool *ret, struct fault *f);
/* Drops it if there is one and it is ours. */
bool scratch_drop(const struct migration *m, enum role role, PGconn *server, struct fault *f);

#endif
