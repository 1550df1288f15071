// SPDX-License-Identifier: Apache-2.0
/*
 * digest - the SQL that says, on either server, what a table's rows amount to.
 *
 * Both servers are asked for the same columns, those of the target that the migration fills: the
 * target for the columns themselves, the source for expressions over its own columns, brought to the
 * target's type. The same value must give the same digest on both, and different ones different:
 *
 * 1. A column is hashed by its own type only where equality is identity and the hash is of the value:
 *    booleans, integers, oid, uuid, bytea, dates, times, timestamps, and text (as COLLATE "C").
 * 2. Every other column is hashed as what its type's output function prints, under the settings that every
 *    connection pins. The output function, not a cast: a cast of bpchar to text drops the padding.
 * 3. NULL stays NULL; it is told from any value, also in the report.
 *
 * A row's digest is the xor of its columns' hashes, each with a seed of its own, hashed again with the run's: else columns that
 * change rows would cancel in the xor of the rows. It takes a sixth less time than hash_record_extended, which
 * makes a row first, and all bits of a bigint count: its own hash folds 64 to 32 before the seed comes in. (That
 * of times and timestamps does, too; two that are wrong for each other by chance are missed once in 2^32.)
 *
 * Rows are grouped in *leaves*, by the hash of their key (keyless: of the row). survey: per leaf, count, xor and (keyless) sum.
 * drill: the rows of leaves, key and digest. rows: the rows of keys, every column as text.
 * A key, as text, is an array of the texts of the key's columns; of a keyless row, its digest.
 *
 * Pure: values in, SQL out. Everything lives in the arena given to digest_make.
 */
#ifndef RECONCILE_DIGEST_H
#define RECONCILE_DIGEST_H

#include "core/relation.h"
#include "reconcile/side.h"

enum digest_server { DIGEST_SOURCE, DIGEST_TARGET };

struct digest_column {
	struct span name;    /* on the target */
	struct span form[2]; /* what is hashed, by server */
	struct span text[2]; /* as text */
	const char *hash;    /* a function of pg_catalog that hashes the form with a seed; NULL: none in all versions */
	bool is_seed;        /* the form is the function's seed instead, of which no bit is lost */
	bool is_key;
};

struct digest {
	const struct relation *rel;
	struct span label; /* schema.table on the target */
	struct digest_column *columns;
	size_t column_count, key_count;
	bool is_keyless;
	struct span from[2];  /* a FROM item */
	struct span where[2]; /* absent: all of its rows */
	/* A column by whose ranges both servers can be asked, or absent. */
	struct span range_column[2], range_type[2];
	bool range_is_counted; /* it is an integer, and all of the key: no more rows than values */
	/* Can the stream's message key of a row be told from its key? (no: a key column is computed, or its
	 * type on the target prints otherwise) */
	bool has_stream_key;
	bool has_writers; /* the target can be asked who wrote a row: of digest_rows */
	const struct side *source, *target;
	struct span *skipped; /* columns that the migration fills and that cannot be compared */
	size_t skipped_count;
};

/* Which rows: from <= column < to, as text; absent: open. The range without `to` has the NULLs too. */
struct digest_range {
	struct span from, to;
};

struct digest_plan {
	const struct digest *digest;
	enum digest_server server;
	struct digest_range range;
	struct span near; /* a condition that the rows fulfil, too (narrow.h); absent: none */
	int64_t seed;
	int64_t mask; /* a leaf is hash & mask; 0: all rows are one, which costs a quarter less */
};

/* FAULT_STOP: a column is missing on a side. */
bool digest_make(const struct relation *rel, const struct side *source, const struct side *target,
		 struct arena *a, struct digest *ret, struct fault *f);

/* Do both ask the source the same? */
bool digest_same_source(const struct digest *a, const struct digest *b);

/* ---- statements: digest_sql.c ---- */

/* leaf, count, xor, sum (0 unless keyless), microseconds since the statement began; in no order */
void digest_survey(const struct digest_plan *p, struct buf *out);
/* key, digest, count: of these leaves */
void digest_drill(const struct digest_plan *p, const int64_t *leaves, size_t n, struct buf *out);
/* key, count, text of each column: of the keys whose bytes are given as parameter $1, a bytea[]: a corrupt one is no text */
void digest_rows(const struct digest_plan *p, struct buf *out);
/* As digest_rows of one row of the source that FROM item `from` makes; no row if the filter drops it. */
void digest_image(const struct digest_plan *p, struct span from, struct buf *out);
/* key, text of each key column of the source: of the keys given as parameter $1, a text[]. Of the source only. */
void digest_source_keys(const struct digest_plan *p, struct buf *out);
/* One row, if texts $1, $2, … are values of the types of the source's key columns; else the server's error. */
void digest_source_casts(const struct digest_plan *p, struct buf *out);
/* The rows of the source with these keys, one text[] per key column of the source as $1, $2, …: the number of the key
 * (from 1), the row as a text[] with an element per column of the relation (NULL: null, or does not leave the
 * source). Equal as the source's types are, so that an index is used and no other text of a key is overlooked. */
void digest_source_rows(const struct digest_plan *p, struct buf *out);
/* One value: the range column of the row that is `count` rows further than range.from; none: fewer. */
void digest_step(const struct digest_plan *p, int64_t count, struct buf *out);
/* One value: range.from, which must be there, and `reach`; none: that is behind the last row. Only if the range is_counted. */
void digest_reach(const struct digest_plan *p, int64_t reach, struct buf *out);

/* ---- values ---- */

/* What the type's output function prints of a column or expression; NULL: NULL. */
void digest_write_text(struct span value, struct buf *out);
/* The texts in a key of digest_drill, absent for NULL; at most max. False: not such a text. */
bool digest_key_parts(struct span key, struct arena *a, struct span *parts, size_t max,
		      size_t *ret_count);

#endif
