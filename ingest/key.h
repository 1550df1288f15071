// SPDX-License-Identifier: Apache-2.0
/*
 * key - which unique index tells the rows of a table apart, and may the table be replicated at all?
 *
 * Pure. A usable key is an *immediate*, valid, non-partial unique index over plain, stored NOT NULL
 * columns; for a leaf it belongs to an index of the root, so that it is unique over the whole target table.
 * Identity INDEX asks for its index, DEFAULT and FULL for the primary key.
 */
#ifndef INGEST_KEY_H
#define INGEST_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/span.h"

struct key_index {              /* unique or exclusion */
	uint32_t oid;
	uint32_t root_oid;      /* the root's index it belongs to, or 0 */
	struct span name;
	bool is_primary, is_identity, is_unique, is_immediate, is_valid, is_partial, has_expressions;
	bool is_nullable, has_generated;     /* one of its columns is */
	bool is_deterministic;               /* all of its collations are */
	bool spans_root;                     /* not a leaf's, or belongs to an index of the root */
	const int16_t *attnums;
	size_t count;
};

struct key_facts {
	char identity;                       /* relreplident */
	const struct key_index *indexes;     /* the table's own */
	size_t index_count;
	const struct key_index *root_indexes;
	size_t root_index_count;
	/* No target has such an index of the source while changes are applied: it does not count as further. */
	bool spares_unique, spares_exclusion;
};

struct key_choice {
	const struct key_index *index;       /* NULL: keyless */
	const struct key_index *further;     /* another index that rows of different keys may meet in, or NULL */
	const char *refusal;                 /* NULL: may be replicated; else why not */
	const struct key_index *refused;     /* the index that refusal ("is deferrable") is about, or NULL */
	const char *remedy;                  /* with refusal: what to SET: "REPLICA IDENTITY FULL" */
};

/* A unique index that identifies nothing: not the primary key, not the replica identity, no exclusion
 * constraint. What `unique: late` is about. */
bool key_is_secondary(const struct key_index *x);

void key_choose(const struct key_facts *facts, struct key_choice *ret);

#endif
