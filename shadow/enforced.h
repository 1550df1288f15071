// SPDX-License-Identifier: Apache-2.0
/*
 * enforced - what a target does by itself while changes are applied, where its role may not set
 * session_replication_role: foreign keys are checked and act (ON DELETE, ON UPDATE), triggers and rules fire.
 *
 * Keys are lived with: their tables are routed `group` (ingest/families.h), and the plan knows what a cascade has
 * done (cascades.h). Triggers and rules would do again what the source's did already, with other results: while
 * one is enabled its table is refused. With `schema: exists` so are keys, which copied rows would meet in no order.
 *
 * Never asked on a connection that runs as replica.
 */
#ifndef SHADOW_ENFORCED_H
#define SHADOW_ENFORCED_H

#include "core/migration.h"
#include "shadow/schema.h"
#include "shadow/target.h"

/* Adds to a table just read: its family, parents, that it is ordered. FAULT_STOP: refused, with the next step. */
bool enforced_read(PGconn *conn, struct target_table *t, struct arena *a, struct fault *f);

/* What of the scope's tables the target must not have, a sentence with the next step each; for `check` and a start. */
bool enforced_refusals(PGconn *conn, const struct migration *m, const struct schema_scope *scope, struct arena *a,
		       const char ***ret, size_t *ret_count, struct fault *f);
/* The role's start: may_be_replica, or a warning of what that means and FAULT_STOP if something is refused. */
bool enforced_accept(PGconn *conn, const struct migration *m, enum role role, const struct schema_scope *scope,
		     struct fault *f);
/* The GRANT, in a. */
const char *enforced_grant(PGconn *conn, struct arena *a);

#endif
