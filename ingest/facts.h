// SPDX-License-Identifier: Apache-2.0
/*
 * facts - what the source's catalog says of tables: four queries (tables, columns, indexes, types),
 * nothing decided.
 *
 * The queries belong into one REPEATABLE READ transaction of the caller's; functions that look into
 * the server's caches (format_type, pg_get_partition_constraintdef) may still see a newer state.
 * Everything lives in the arena; a lack of memory is seen there (arena_failed).
 *
 * Order: facts_read_tables · the caller keeps the tables it wants and says which are leaves of a root
 * in scope (is_leaf) · facts_read_details.
 */
#ifndef INGEST_FACTS_H
#define INGEST_FACTS_H

#include "core/arena.h"
#include "core/pg.h"
#include "ingest/key.h"
#include "ingest/pgoutput.h"

struct facts_column {
	int16_t attnum;
	struct span name;
	uint32_t type_oid;
	int32_t typmod;
	bool is_nullable, is_generated;
	struct span collation; /* quoted, where it is not the database's; else absent */
	bool is_toastable; /* may be stored out of line: an update that leaves it alone does not send it */
};

struct facts_type {
	uint32_t oid, base_oid;
	int32_t typmod;                 /* of the domain; -1: the column's counts */
	bool is_enum;
	struct span name;
};

struct facts_table {
	uint32_t oid, root_oid;         /* root_oid: partition root, 0 when it is no partition */
	struct span schema, name, root_schema, root_name, bound;
	char kind, persistence, identity;
	bool can_select, has_policies;
	bool is_leaf;                   /* of a root that is in scope */
	struct facts_column *columns;
	size_t column_count;
	struct key_index *indexes;
	size_t index_count;
	struct key_choice choice;
	struct relation *rel;
};

/* What the queries gave. tables are ordered by oid; those of roots come last and are not copied. */
struct facts {
	struct arena *a;
	struct facts_table *tables;
	size_t table_count;
	struct facts_table *roots;            /* oid and indexes only */
	size_t root_count;
	struct facts_type *types;
	size_t type_count;
};

void *facts_many(struct facts *x, size_t n, size_t size);
/* NULL: not among them. */
struct facts_table *facts_find(const struct facts *x, uint32_t oid);
struct facts_table *facts_find_root(const struct facts *x, uint32_t oid);
const struct facts_type *facts_find_type(const struct facts *x, uint32_t oid);
const struct facts_column *facts_find_column(const struct facts_table *t, int16_t attnum);

/* only: 0, or a table: it and the leaves of its root. */
bool facts_read_tables(PGconn *conn, struct facts *x, uint32_t only, struct fault *f);
/* Columns, indexes and types of the tables; types of the message's columns too (may be NULL). */
bool facts_read_details(PGconn *conn, struct facts *x, const struct pgoutput_relation *message,
			struct fault *f);

#endif
