// SPDX-License-Identifier: Apache-2.0
/*
 * target - a table as a target database has it, laid beside the relation version that fills it.
 *
 * target_read() asks the target's catalog once for a relation version and decides for each column
 * how its values travel and how rows are found again. What is missing is FAULT_STOP with the DDL
 * that would help. A target_table is immutable; it lives in the arena given and borrows the
 * relation. After DDL on the target (an exclusive relation event) it must be made anew.
 */
#ifndef SHADOW_TARGET_H
#define SHADOW_TARGET_H

#include "core/arena.h"
#include "core/pg.h"
#include "core/relation.h"

/* A column of the target, and (in target_table.columns) how the source column's values travel that
 * are written there as they are. */
struct target_column {
	struct span name;       /* as on the target; absent: values are not written as they are */
	struct span type_name;  /* base type, "schema"."name", no typmod: for casts of parameters */
	struct span exact_type; /* format_type with typmod: for comparing by text */
	struct span equals;     /* operator of the key, OPERATOR("schema".=); absent: no equality */
	uint32_t type_oid;      /* base type */
	enum value_kind kind;   /* of the relation's column */
	bool is_read;           /* by an expression */
	bool is_written;        /* false: generated on the target, or without a name there */
	bool is_always;         /* GENERATED ALWAYS AS IDENTITY: never in SET */
	bool is_key;
	bool is_native; /* parameter: binary array of the kind; false: text[] and a cast */
	bool is_exact;  /* equal values are identical: may be compared by = when keyless */
	bool sets_key;  /* a key column whose equal values may differ (numeric): in SET too */
};

/* A column of the target that an expression over the source's columns computes. */
struct target_computed {
	struct target_column column;
	const struct expression *as;
};

/* What a table references by a foreign key that the target enforces. */
struct target_parent {
	uint32_t oid;              /* of the table, or of its partition root */
	char on_delete, on_update; /* as pg_constraint has them: a r c n d */
};

struct target_table {
	const struct relation *rel;
	uint64_t id;                   /* never the same for two target_tables of a process */
	uint32_t oid;                  /* on the target */
	struct span name;              /* "schema"."table", quoted */
	struct span label;             /* schema.table, for messages */
	struct target_column *columns; /* one per column of rel, same order */
	size_t column_count;
	size_t key_count; /* columns of the target by which a row is found: origin too */
	struct target_computed *computed;
	size_t computed_count;
	struct target_column *origin; /* of a merged table, or NULL: rel->origin_value is written there */
	bool is_keyless;
	bool is_ordered; /* never merged: source order (keyless, key not canonical, more_unique) */
	bool is_partitioned;
	bool overrides; /* some written column is GENERATED ALWAYS AS IDENTITY */
	/* A deferrable unique or exclusion constraint: source transactions stay whole, and the
	 * batch runs under SET CONSTRAINTS ALL DEFERRED. (Under replica role PostgreSQL does not
	 * check them at all: the recheck is a trigger, which does not fire there.) */
	bool has_deferred;
	bool has_key_index; /* a unique index on exactly the key; without one, rows are searched */
	bool more_unique;   /* unique or exclusion constraint beside the key, */
	struct span further; /* the name of the first one's index, "schema"."name" */
	bool has_others;    /* columns that only the target has, other than generated ones */
	/* Its rows may be deleted and inserted anew where such a constraint refuses updates in their
	 * order (values that changed places in one source transaction). */
	bool can_replace;
	/* Where the target enforces foreign keys on us (enforced.h): tables of one family share source order. Absent:
	 * the table is nobody's concern. */
	struct span family;
	struct target_parent *parents;
	size_t parent_count;
	bool is_referenced_beside_key; /* by columns that are not its key's */
};

/* Everything the catalog says; NULL and a fault: FAULT_STOP names what is missing. */
struct target_table *target_read(PGconn *conn, const struct relation *rel, struct arena *a,
				 struct fault *f);

#endif
