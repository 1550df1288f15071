// SPDX-License-Identifier: Apache-2.0
/*
 * statement - the SQL of each (table, operation, column set), and which of it a connection has
 * prepared.
 *
 * Each statement takes one array per column (unnest) and last the number of rows it must hit, and
 * RAISES on the server (foreshadow.expect, FS002) unless it hits exactly as many: a pipelined
 * COMMIT behind an UPDATE of 0 rows would pass.
 *
 * Parameters, in this order: one array for each column of keys (in column order), one for each
 * column of sets, then the wanted count as int8. Arrays of text where !is_native.
 *
 * The text is a pure function; the cache belongs to one connection and its lane.
 */
#ifndef SHADOW_STATEMENT_H
#define SHADOW_STATEMENT_H

#include "shadow/target.h"

enum statement_op {
	STATEMENT_INSERT,
	STATEMENT_UPDATE,     /* by key, key columns not set (but see sets_key) */
	STATEMENT_DELETE,     /* by key */
	STATEMENT_REKEY,      /* UPDATE that sets the key too: keys are the old row's */
	STATEMENT_UPDATE_ONE, /* keyless: exactly one of the rows that equal the old one */
	STATEMENT_DELETE_ONE,
	STATEMENT_OPS
};
const char *statement_op_name(enum statement_op op);

/* A set of columns, a bit each. words = column_set_words(n). */
static inline size_t column_set_words(size_t column_count)
{
	return (column_count + 63) / 64;
}
static inline bool column_set_has(const uint64_t *set, size_t i)
{
	return set[i / 64] >> (i % 64) & 1;
}
static inline void column_set_add(uint64_t *set, size_t i)
{
	set[i / 64] |= (uint64_t)1 << (i % 64);
}

struct statement_key {
	const struct target_table *table;
	enum statement_op op;
	const uint64_t *sets; /* columns with a new value; NULL for deletes */
};

/* Which columns become parameters, per the order above. */
bool statement_has_key(const struct statement_key *k, size_t column);
bool statement_has_set(const struct statement_key *k, size_t column);

/* The SQL; false: out is full. */
bool statement_write(const struct statement_key *k, struct buf *out);

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
