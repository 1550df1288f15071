// SPDX-License-Identifier: Apache-2.0
/*
 * mapping - schema_mapping and transformation_rules of the migration file: which table and column of
 * the source is which on the targets, and what is computed on the way.
 *
 * A mapping names one table (from: public.orders), or all of a schema (from: public.*). A table's own
 * mapping wins over its schema's. Names are written as in SQL: folded to lower case unless in double
 * quotes. Here they are as the catalog has them.
 *
 * Pure. Immutable once the file is read; everything lives in the migration's arena.
 */
#ifndef CORE_MAPPING_H
#define CORE_MAPPING_H

#include "core/arena.h"
#include "core/fault.h"

struct mapping_column {
	int line;
	struct span from;
	/* is_dropped: it does not leave the source. Else to is its name on the target; absent: it
	 * travels, for rules to read, and is not written. */
	bool is_dropped;
	struct span to;
	const char *type; /* on the target, or NULL: as on the source */
};

struct mapping {
	int line;
	struct span from_schema, from_table; /* from_table absent: every table of the schema */
	struct span to_schema, to_table;     /* absent as from_table is */
	struct mapping_column *columns;
	size_t column_count, column_cap;
	/* What tells the rows of merged tables apart: a column of the target, and the text of this
	 * source's value. Absent: not merged. */
	struct span origin_column, origin_value;
};

/* A transformation rule: a column of a target table is an expression over the source's columns, or
 * (is_filter) only rows for which it is true exist there. */
struct transform {
	int line;
	struct span schema, table; /* on the target */
	bool is_filter;
	struct span column;
	const char *type; /* of the column, where schema: create makes it; or NULL */
	const char *as;   /* SQL */
};

struct mappings {
	struct mapping *tables;
	size_t table_count, table_cap;
	struct transform *transforms;
	size_t transform_count, transform_cap;
};

/* What becomes of a source table (of a leaf: its root). mapping: NULL, it keeps its name and columns. */
struct mapped {
	const struct mapping *mapping;
	struct span schema, table; /* on the target */
};
struct mapped mappings_table(const struct mappings *m, struct span schema, struct span table);
/* The mapping's entry for a column; NULL: it keeps its name. mapping may be NULL. */
const struct mapping_column *mapping_column(const struct mapping *m, struct span column);
/* The line about a source table, or 0: none is. */
int mappings_line(const struct mappings *m, struct span schema, struct span table);

/* "schema.table", parts in double quotes where needed, as catalog names. table may be NULL: one part
 * only. *ret_any (may be NULL: refused) if the table is an unquoted *. False: not such a name. */
bool mapping_name(const char *text, struct arena *a, struct span *ret_schema, struct span *ret_table,
		  bool *ret_any);

/* ---- setters of the migration file's keys (conf.h); out is the struct migration ---- */
struct conf_value;
bool mapping_begin(void *out, const struct conf_value *v, struct fault *f);
bool mapping_set_from(void *out, const struct conf_value *v, struct fault *f);
bool mapping_set_to(void *out, const struct conf_value *v, struct fault *f);
bool mapping_set_column(void *out, const struct conf_value *v, struct fault *f);
bool mapping_set_column_to(void *out, const struct conf_value *v, struct fault *f);
bool mapping_set_column_type(void *out, const struct conf_value *v, struct fault *f);
bool mapping_set_origin_column(void *out, const struct conf_value *v, struct fault *f);
bool mapping_set_origin_value(void *out, const struct conf_value *v, struct fault *f);
bool transform_begin(void *out, const struct conf_value *v, struct fault *f);
bool transform_set_table(void *out, const struct conf_value *v, struct fault *f);
bool transform_set_column(void *out, const struct conf_value *v, struct fault *f);
bool transform_set_type(void *out, const struct conf_value *v, struct fault *f);
bool transform_set_as(void *out, const struct conf_value *v, struct fault *f);
bool transform_set_where(void *out, const struct conf_value *v, struct fault *f);
/* What no single key can say: parts that belong together, names given twice. */
bool mappings_check(const struct mappings *m, const char *path, struct fault *f);

#endif
