// SPDX-License-Identifier: Apache-2.0
/*
 * reshape - what schema_mapping and transformation_rules make of empty tables: the catalog's facts and the
 * migration file in, DDL out.
 *
 * Applied to a database that has the source's tables in scope under the source's names, and nothing in them.
 * PostgreSQL carries the changes through indexes, constraints, foreign keys, defaults and triggers. Three plans, in
 * this order, since each makes room for the next:
 *
 * 1. types: columns that get another type. Before foreign keys and triggers exist: a type cannot be changed under them.
 * 2. losses: columns that are not on the target, with all that stands on them.
 * 3. names: merged tables, computed columns, new names. Every table that moves first leaves its place and takes
 *    its name in a schema of its own, then all arrive: so names can be swapped.
 *
 * Partitions follow their root's columns; their names follow their own entry of the mapping, or their schema's.
 *
 * reshape.c is pure. reshape_run.c reads the facts and runs the plans.
 */
#ifndef SHADOW_RESHAPE_H
#define SHADOW_RESHAPE_H

#include "core/migration.h"

struct reshape_column {
	struct span name;
	bool is_identity, is_generated;
	bool is_inherited;    /* changes with its parent's */
	struct span sequence; /* quoted name of the serial's sequence; absent: none */
};

/* A unique or exclusion index. Its definition is head, columns, rest; head ends with the opening parenthesis. */
struct reshape_index {
	struct span name, head, rest;
	bool is_key;          /* the table's key: primary key, or the replica identity index */
	bool is_constraint, is_replica_identity;
};

/* A foreign key that refers to the table. */
struct reshape_reference {
	struct span name;     /* "constraint x of a.b" */
	uint32_t from_oid;    /* the root of the table that has it */
};

struct reshape_table {
	uint32_t oid, root_oid;           /* root_oid: the partition root, or itself */
	char kind;                        /* pg_class.relkind: r, p, or S: a sequence that no column owns */
	struct span schema, name;
	struct reshape_column *columns;
	size_t column_count;
	struct span *companions;          /* its indexes and the sequences it owns: they move along */
	size_t companion_count;
	struct reshape_index *indexes;
	size_t index_count;
	struct reshape_reference *references;
	size_t reference_count;
};

struct reshape_facts {
	struct reshape_table *tables;     /* ordered by schema and name: made names depend on it */
	size_t table_count;
};

struct reshape_step {
	const char *sql;
	const char *type;      /* written in the file, in this line: checked first; or NULL */
	int line;
	const char *otherwise; /* where the column's default has no place in its new type: instead of sql; or NULL */
};

struct reshape_plan {
	struct reshape_step *steps;
	size_t count, cap;
};

/* Does the file ask for tables of another shape than the source's? */
bool reshape_is_wanted(const struct mappings *m);

/* Plans; everything lives in a. False: FAULT_STOP for what cannot be carried over, or no memory. */
bool reshape_plan_types(const struct migration *m, const struct reshape_facts *x, struct arena *a,
			struct reshape_plan *ret, struct fault *f);
bool reshape_plan_losses(const struct migration *m, const struct reshape_facts *x, struct arena *a,
			 struct reshape_plan *ret, struct fault *f);
bool reshape_plan_names(const struct migration *m, const struct reshape_facts *x, struct arena *a,
			struct reshape_plan *ret, struct fault *f);

/*
 * The thin shell. reshape_types: plan 1. reshape_names: plans 2 and 3, and schemas that became empty go. role: for
 * messages; with says_losses a line is logged for each default that has no place in its new type, and for each index,
 * constraint, trigger, ... that goes with its columns.
 * FAULT_USAGE for a type that the target does not know.
 */
bool reshape_types(PGconn *scratch, const struct migration *m, bool says_losses, struct fault *f);
bool reshape_names(PGconn *scratch, const struct migration *m, enum role role, bool says_losses, struct fault *f);

#endif
