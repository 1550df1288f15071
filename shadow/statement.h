// SPDX-License-Identifier: Apache-2.0
/*
 * statement - the SQL of each (table, operation, column set).
 *
 * Each statement takes one array per column (unnest) and last the number of rows it must hit, and
 * RAISES on the server (foreshadow.expect, FS002) unless it hits exactly as many: a pipelined
 * COMMIT behind an UPDATE of 0 rows would pass.
 *
 * Computed columns and the filter are expressions over a row of the source's columns, made of the
 * parameters inside the statement. A filtered table has an update of a row that may cross the filter
 * (is_crossing in statement.c) as three statements in one: update what stays, delete what leaves,
 * insert what comes; each counts what it must.
 *
 * Parameters, in this order: one array for each source column of which the old value is needed (in
 * column order), one for each of which the new one is, then the count of rows as int8. Arrays of text
 * where !is_native.
 *
 * Pure.
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
	/* The same where the target may have done it already, by a foreign key's action: */
	STATEMENT_DELETE_CASCADED, /* fewer rows are right, too */
	STATEMENT_DELETE_ONE_CASCADED,
	STATEMENT_REKEY_CASCADED,  /* the row is updated under its new key if it is there, else rekeyed */
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

/* Which source columns become parameters, per the order above. */
bool statement_has_key(const struct statement_key *k, size_t column);
bool statement_has_set(const struct statement_key *k, size_t column);

/* The type of a column's parameter: an array of the kind, or of text. */
uint32_t statement_array_oid(const struct target_table *t, size_t column);

/* The rows of the target with one key, as a JSON object of texts each, locked. Parameters as those of a STATEMENT_DELETE,
 * without the count. False: out is full. */
bool statement_write_lookup(const struct target_table *t, struct buf *out);

/* The SQL; false: out is full. */
bool statement_write(const struct statement_key *k, struct buf *out);

#endif
