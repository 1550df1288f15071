// SPDX-License-Identifier: Apache-2.0
/*
 * client - which pg_dump and pg_restore are run, and running them.
 *
 * Both are of one version: a pg_restore reads no archive of a newer pg_dump. pg_dump refuses servers newer than itself;
 * what it writes is meant for servers of its own version and newer; and from 17 on pg_restore sets transaction_timeout,
 * which a server before 17 does not know. So of what is installed and not older than the source it is the
 * newest that is not newer than the target, else the oldest; and none from 17 on for a target before 17.
 *
 * Passwords go to the children by environment only.
 */
#ifndef SHADOW_CLIENT_H
#define SHADOW_CLIENT_H

#include "core/buf.h"
#include "core/pg.h"

struct client {
	char folder[64];              /* with its last slash; empty: they are found on PATH */
};

/* Which of n versions is for a server of version from, and one of version to? 0: none is. Pure. */
int client_choose(const int *versions, size_t n, int from, int to);
/* The programs that take a schema from one server to the other. FAULT_STOP: there are none, and what to install. */
bool client_find(struct client *ret, PGconn *from, PGconn *to, struct fault *f);

/* conn: the program connects as this is connected; NULL: to nothing. ret_out: its stdout; may be NULL. */
bool client_run(const struct client *c, const char *program, const char *const *arguments, PGconn *conn, int stop_fd,
		struct buf *ret_out, struct fault *f);
/* A crash of a whole machine leaves what was run at work in the database of conn, where it would be in the way. For
 * whoever holds the schema lock in the target. */
bool client_end_leftovers(PGconn *conn, struct fault *f);

#endif
