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

/*
 * Which changes share a partition: those of a key, of a table, of a family of tables that foreign keys connect
 * (where a target enforces them while changes are applied), or all (order: transaction).
 */
enum routing { ROUTE_KEY, ROUTE_TABLE, ROUTE_GROUP, ROUTE_TRANSACTION, ROUTINGS };
const char *routing_name(enum routing routing);

struct column {
	struct span name;
	uint32_t type_oid;
	int32_t typmod;
	struct span type_name;   /* format_type(type_oid, NULL): quoted, schema-qualified; for casts */
	struct value_type type;
	bool is_key;             /* part of the key (below), not pgoutput's identity flag */
	bool is_identity;        /* pgoutput's flag: sent in the old row */
	bool is_dropped;         /* by the mapping: its values do not leave the source (always null) */
	struct span target;      /* its name on the target; absent: not written as it is */
	struct span collation;   /* where it is not the database's: quoted, for expressions; or absent */
	bool collates;           /* a key column that cannot be canonicalised here is why routing = TABLE */
};

/* SQL over the source's columns that the target evaluates, and which of them it reads. */
struct expression {
	struct span sql;
	const uint32_t *inputs; /* indexes into columns, ascending */
	size_t input_count;
};

/* A column of the target that is computed. */
struct computed {
	struct span column; /* on the target */
	struct expression as;
	bool is_key;        /* in the place of a key column; reads key columns only */
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
	struct span family;      /* ROUTE_GROUP: the same text for all of a family; else absent */
	uint64_t fingerprint;    /* of the envelope's schema; see codec.h */
	struct column *columns;
	size_t column_count, key_count;
	struct computed *computed;
	size_t computed_count;
	struct expression filter;            /* rows for which it is not true are not on the target; sql absent: all are */
	/* Of merged tables: the target's column that says where a row came from, and this table's text for it. */
	struct span origin_column, origin_value; /* absent: not merged */
};

/* JSON object, stable key order. relation_read copies everything into a. */
bool relation_write(const struct relation *rel, struct buf *out);
bool relation_read(struct span json, struct arena *a, struct relation **ret, struct fault *f);

/* Of a key of <m>.control, relation/<oid>/<version>: of which version is its record? False: it is not such a key. */
bool relation_of_record(struct span key, uint32_t *ret_oid, uint32_t *ret_version);

/* Same ordered (name, type, typmod, key) list and same identity/keyless? What decides about an exclusive event. */
bool relation_same_shape(const struct relation *a, const struct relation *b);

/* Is what becomes of its rows on the target the same: names, computed columns, filter, origin? */
bool relation_same_mapping(const struct relation *a, const struct relation *b);
/* Does a later version of a table go on as the one before: what both have is mapped alike? Where no mapping is
 * involved, its name may have changed. */
bool relation_keeps_mapping(const struct relation *next, const struct relation *previous);
/* Does the migration fill this column of the target? */
bool relation_fills(const struct relation *rel, struct span target_column);
/* Are rows written as they are (renamed at most)? */
static inline bool relation_is_plain(const struct relation *rel)
{
	return rel->computed_count == 0 && !rel->filter.sql.p && !rel->origin_column.p;
}

/*
 * The message key: JSON ["schema","table"] of the target, the origin of a merged table and, unless
 * keyless, the canonical key text of each key column in column order. values: one per column (others are not read).
 */
bool relation_key(const struct relation *rel, const struct value *values, struct buf *out,
		  struct fault *f);
/*
 * Partition of a change with this message key: hash of the whole key (ROUTE_KEY) or of its table part
 * (ROUTE_TABLE, keyless), of the family (ROUTE_GROUP), RELATION_TRANSACTION_PARTITION for
 * ROUTE_TRANSACTION. Stable for ever: FNV-1a 64, then xor-folded, modulo.
 */
enum { RELATION_TRANSACTION_PARTITION = 0 };
int relation_partition(const struct relation *rel, struct span key, int partition_count);
/* Of a copied row: the same, but that copied rows have no order with ROUTE_GROUP and ROUTE_TRANSACTION either:
 * they spread by key. */
int relation_copy_partition(const struct relation *rel, struct span key, int partition_count);

#endif
