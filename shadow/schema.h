// SPDX-License-Identifier: Apache-2.0
/*
 * schema - makes the tables of a target: `schema: create` from the source, `schema: exists` by looking.
 *
 * create: one `pg_dump -Fc -s` of the source database, its table of contents filtered by the OIDs of what
 * is in scope, restored by `pg_restore -d` (never psql: nothing of a dump is run by a shell or a
 * client that has meta-commands). Two stages of three: schema_prepare before the first copy restores tables, types, sequences
 * and identity indexes in one transaction; schema_finish after the copy restores the other indexes, constraints and
 * triggers, in parallel, leaving out what is there already (a crash in the middle is repaired by calling it again).
 * Unique indexes that come late are the third stage (late.h).
 * State is a row of foreshadow.schemas in the target.
 *
 * When the file asks for tables of another shape (reshape.h), both stages first make the mapped tables in a scratch
 * database (scratch.h), which then takes the source's place.
 */
#ifndef SHADOW_SCHEMA_H
#define SHADOW_SCHEMA_H

#include "core/migration.h"

/* The source relations in scope (leaves and plain tables): given by the caller, who has the catalog. */
struct relation;
struct schema_scope {
	const uint32_t *oids;
	struct relation *const *relations;
	size_t count;
};

/* target_read of a table in scope, whose fault names the server and the file's line about the table. */
struct target_table;
struct target_table *schema_target(PGconn *target, const struct migration *m, enum role role,
				   const struct relation *rel, struct arena *a, struct fault *f);

/* The scope's OIDs as an array parameter, {1,2}; the caller frees it. */
char *schema_scope_oids(const struct schema_scope *scope);

/*
 * Creates the shadow database if it is missing (role shadow), then the tables (create) or checks that they are
 * there (exists). Refuses, before the first copy, a target table that exists (create) or holds rows (exists).
 * Several processes may call it at once: an advisory lock lets one work. Both stages end with FAULT_ENVIRONMENT when
 * stop_fd becomes readable, and are done again by the next call.
 */
bool schema_prepare(const struct migration *m, enum role role, const struct schema_scope *scope, int stop_fd,
		    struct fault *f);
/* Second stage; a no-op when done already or with `schema: exists`. */
bool schema_finish(const struct migration *m, enum role role, const struct schema_scope *scope, int stop_fd,
		   struct fault *f);

/* Was the database of this role made by foreshadow for this migration? (What `drop` may remove.) */
bool schema_database_is_ours(const struct migration *m, enum role role, bool *ret, struct fault *f);
bool schema_drop_database(const struct migration *m, enum role role, struct fault *f);

#endif
