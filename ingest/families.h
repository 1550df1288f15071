// SPDX-License-Identifier: Apache-2.0
/*
 * families - tables that foreign keys connect, where a target's role may not set session_replication_role: there
 * the keys are enforced while changes are applied. Such tables are routed `group`: a family shares one partition,
 * so that its changes come in the source's order.
 *
 * Counted are the source's keys that `schema: create` brings, and those that the targets enforce already. A family
 * is called by its first target table, or as a table of it that has been routed before is. That is decided once, for
 * a table's first version, as constraints are; versions and leaves follow (constraints_follow).
 *
 * Pure.
 */
#ifndef INGEST_FAMILIES_H
#define INGEST_FAMILIES_H

#include "ingest/constraints.h"

/* relations: all in scope; one that is `group` already keeps its family. Texts live in a. */
void families_route(const struct constraints *c, struct relation *const *relations, size_t count, struct arena *a);
/*
 * A key that changes rows of a table without a key of its own: such a row is found by all of its values, and it
 * could not be told whether the target has changed it already. NULL, or a sentence with the next step, in a.
 */
const char *families_refuse(const struct constraints *c, const struct relation *rel, struct arena *a);

#endif
