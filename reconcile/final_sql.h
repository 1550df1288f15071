// SPDX-License-Identifier: Apache-2.0
/* final_sql - the checks of final.h as statements. */
#ifndef RECONCILE_FINAL_SQL_H
#define RECONCILE_FINAL_SQL_H

#include <stdbool.h>
#include <stddef.h>

struct final_sql {
	const char *name, *title, *remedy;
	/* Columns of any kind; NULL: the source is not asked. */
	const char *source;
	/* object, seen, is_note; is_probe: object, a statement that counts what is wrong, what to call them. */
	const char *target;
	bool is_probe;
};

extern const struct final_sql final_sqls[];
extern const size_t final_sql_count;

/*
 * In front of both: parameters 1 to 6 as arg; leaf and t (tables in scope, by both names); base and own (the target's,
 * without and with their partitions) or src (the source's).
 */
extern const char final_source_head[], final_target_head[];

#endif
