// SPDX-License-Identifier: Apache-2.0
/*
 * prepared - which statements (statement.h) a connection has prepared; the least used one makes room.
 *
 * Belongs to one connection and its lane.
 */
#ifndef SHADOW_PREPARED_H
#define SHADOW_PREPARED_H

#include "core/pg.h"
#include "shadow/statement.h"

struct statement {
	char name[16];   /* "s1", "s2", ... */
	int param_count; /* arrays and the count */
};

struct statement_cache;
struct statement_cache *statement_cache_new(size_t max_count);
void statement_cache_free(struct statement_cache *c);
/* After a reconnect or DEALLOCATE ALL: nothing is prepared any more. */
void statement_cache_reset(struct statement_cache *c);

/*
 * The statement for k, to be used on conn (in pipeline mode). *ret_sends counts the commands sent
 * for it on the way (a DEALLOCATE, a Parse), each of which has a result of its own before the
 * execution's. NULL and a fault: the connection is broken or memory is full.
 */
const struct statement *statement_get(struct statement_cache *c, PGconn *conn,
				      const struct statement_key *k, int *ret_sends,
				      struct fault *f);
#endif
