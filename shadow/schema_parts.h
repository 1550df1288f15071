// SPDX-License-Identifier: Apache-2.0
/*
 * schema_parts - what the stages of a schema share: which objects of the source are wanted when, and how far
 * a target's schema is (the row of foreshadow.schemas).
 *
 * States: preparing → prepared (tables are there) → finished (indexes, constraints, triggers) → complete (the
 * unique indexes that come late, too). A run that goes on takes complete back to finished.
 */
#ifndef SHADOW_SCHEMA_PARTS_H
#define SHADOW_SCHEMA_PARTS_H

#include "shadow/schema.h"

/*
 * Common table expressions of queries to the source; $1 and $2 are schema_oids.
 *   scope  the tables, with the partitioned ancestors of leaves
 *   first  indexes that are there before the copy: primary keys, replica identities, parents of these
 *   late   unique indexes that are built at the end (unique: late), with parents and children
 */
#define SCHEMA_SCOPE                                                                                                  \
	"WITH RECURSIVE scope(oid) AS ("                                                                              \
	"  SELECT unnest($1::oid[]) UNION"                                                                            \
	"  SELECT i.inhparent FROM pg_inherits i JOIN scope s ON i.inhrelid = s.oid),"                                \
	" first(oid) AS ("                                                                                            \
	"  SELECT i.indexrelid FROM pg_index i JOIN scope s ON s.oid = i.indrelid"                                    \
	"   WHERE i.indisprimary OR i.indisreplident UNION"                                                           \
	"  SELECT h.inhparent FROM pg_inherits h JOIN first f ON h.inhrelid = f.oid),"                                \
	" second(oid) AS ("                                                                                           \
	"  SELECT unnest($2::oid[]) UNION"                                                                            \
	"  SELECT i.inhparent FROM pg_inherits i JOIN second s ON i.inhrelid = s.oid"                                 \
	"   JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition),"                                             \
	" late(oid) AS ("                                                                                             \
	"  SELECT i.indexrelid FROM pg_index i JOIN second s ON s.oid = i.indrelid"                                   \
	"   WHERE i.indisunique AND NOT i.indisexclusion AND i.indexrelid NOT IN (SELECT oid FROM first) UNION"       \
	"  SELECT h.inhrelid FROM pg_inherits h JOIN late l ON h.inhparent = l.oid) "

struct schema_oids {
	char *scope, *late;           /* arrays of OIDs as text */
};
/* The tables in scope, and those of them whose further unique indexes come late: none with unique: early; a
 * keyless table's help to find its rows, and it has one partition anyway. */
void schema_oids_make(struct schema_oids *o, const struct migration *m, const struct schema_scope *scope);
void schema_oids_release(struct schema_oids *o);

enum { SCHEMA_STATE_BYTES = 16 };

/* One process at a time works on a target's schema: until the connection is closed. Makes the tables of state.
 * FAULT_ENVIRONMENT when stop_fd becomes readable while another has it. */
bool schema_state_lock(PGconn *target, int stop_fd, struct fault *f);
/* "" when there is no row yet. FAULT_STOP if the migration began with another `unique:`. */
bool schema_state_read(PGconn *target, const struct migration *m, char ret_state[SCHEMA_STATE_BYTES],
		       struct fault *f);
bool schema_state_write(PGconn *target, const struct migration *m, const char *state, struct fault *f);
/* Were triggers and rules left out until the end? They would fire for what is applied (enforced.h). */
bool schema_triggers_set(PGconn *target, const struct migration *m, bool are_late, struct fault *f);
bool schema_triggers_read(PGconn *target, const struct migration *m, bool *ret_are_late, struct fault *f);

#endif
