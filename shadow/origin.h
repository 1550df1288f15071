// SPDX-License-Identifier: Apache-2.0
/*
 * origin - a lane's session as a replication origin, so that a target that keeps commit times (track_commit_timestamp) can tell what we
 * have written from what others have.
 *
 * Origins are of the whole server; a session needs one to itself. Names: foreshadow_<migration>_<number>. If a session
 * that asks cannot have one, foreshadow_incomplete is left: from then on nobody can say who wrote a row (reconcile/digest).
 * What the target does not allow is not missed: a line in the log, once.
 *
 * Thread: the connection's.
 */
#ifndef SHADOW_ORIGIN_H
#define SHADOW_ORIGIN_H

#include "core/pg.h"

/* False: the connection is lost. */
bool origin_take(PGconn *conn, const char *migration, struct fault *f);
/* Those of the migration that no session has; the mark, too, when they were the last. For `drop`. */
bool origin_drop_all(PGconn *conn, const char *migration, struct fault *f);

#endif
