// SPDX-License-Identifier: Apache-2.0
/*
 * late - the third stage of a schema: what comes only when nothing is applied any more.
 *
 * With schema: create and unique: late these are further unique indexes and constraints of the source's tables, and the foreign
 * keys that refer to them. While changes are applied they must not be there: keys go through several partitions,
 * and a value that moves from row to row would be refused in between. What was built is written down in
 * foreshadow.late, in the same transaction; a run that goes on takes it back first, and builds it again at its end.
 *
 * And foreign keys that only the target has are validated: under replica role nothing checked them.
 *
 * Statements come from the source's catalog and run on connections of our own, so that each index has its time and
 * each failure its SQLSTATE. Threads: the caller's, and copy.jobs of its own while indexes are built.
 */
#ifndef SHADOW_LATE_H
#define SHADOW_LATE_H

#include "shadow/schema.h"

/*
 * To be called when this process's role has ended at what `--until` asked for. Does nothing when the copies are not
 * all here, and leaves it to the others when another process of the role goes on. FAULT_STOP names what cannot be
 * built and why (duplicates); what was built stays, and calling it again builds the rest. Ends with
 * FAULT_ENVIRONMENT when stop_fd becomes readable.
 */
bool late_build(const struct migration *m, enum role role, const struct schema_scope *scope, const char *instance,
		int stop_fd, struct fault *f);
/* Under the lock of schema_parts.h, before changes are applied: drops what late_build made. */
bool late_take_back(PGconn *target, const struct migration *m, struct fault *f);

#endif
