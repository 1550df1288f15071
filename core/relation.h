// SPDX-License-Identifier: Apache-2.0
/*
 * relation - one version of a source table as the stream sees it, and how it travels.
 *
 * Made by ingest (pgoutput Relation message + the source's catalog), written to <m>.control as
 * relation/<oid>/<version> before its first record, and rebuilt by every consumer from there. Immutable
 * once made. columns are the columns of the relation message, in its order (no generated columns).
 * Everything lives in one arena given by the maker.
 */
#ifndef CORE_RELATION_H
#define CORE_RELATION_H

#include "core/lsn.h"
#include "core/value.h"

enum routing { ROUTE_KEY, ROUTE_TABLE };

struct column {
	struct span name;
	uint32_t type_oid;
	int32_t typmod;
	struct span type_name;   /* format_type(type_oid, NULL): quoted, schema-qualified; for casts */
	struct value_type type;
	bool is_key;             /* part of the key (below), not pgoutput's identity flag */
	bool is_identity;        /* pgoutput's flag: sent in the old row */
	bool collates;           /* a key column that cannot be canonicalised here is why routing = TABLE */
};

struct relation {
	uint32_t oid;
	uint32_t version;        /* 1, 2, ... per oid */
	struct position from;    /* first position this version is valid at */
	struct span schema, table;           /* on the source: the leaf */
	struct span root_schema, root_table; /* partition root, = schema.table when not partitioned */
	struct span target_schema, target_table;
	struct span bound;       /* leaf: partition bound as a SQL expression over the root's columns; else absent */
	char identity;           /* relreplident: 'd' 'i' 'f' */
	bool keyless;            /* no immediate NOT NULL unique key: full old rows, one partition, source order */
	bool merge;              /* may the plan compute net effects? (false: keyless, key not canonical) */
	enum routing routing;
	struct span routing_reason;
	uint64_t fingerprint;    /* of the envelope's schema; see codec.h */
	struct column *columns;
	size_t column_count, key_count;
};

/* JSON object, stable key order. relation_read copies everything into a. */
bool relation_write(const struct relation *rel, struct buf *out);
bool relation_read(struct span json, struct arena *a, struct relation **ret, struct fault *f);

/* Same ordered (name, type, typmod, key) list and same identity/keyless? What decides about an exclusive event. */
bool relation_same_shape(const struct relation *a, const struct relation *b);

/*
 * The message key: JSON ["schema","table"] of the target and, unless keyless, the canonical key
 * text of each key column in column order. values: one per column (others are not read).
 */
bool relation_key(const struct relation *rel, const struct value *values, struct buf *out,
		  struct fault *f);
/* Partition of a message key: hash of the whole key (ROUTE_KEY) or of its table part (ROUTE_TABLE,
 * keyless). Stable for ever: FNV-1a 64, then xor-folded, modulo. */
int relation_partition(const struct relation *rel, struct span key, int partition_count);

#endif
