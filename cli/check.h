// SPDX-License-Identifier: Apache-2.0
/*
 * check - what the parts of the preflight share: what was seen of the source; and the parts.
 */
#ifndef CLI_CHECK_H
#define CLI_CHECK_H

#include "cli/check_report.h"
#include "core/migration.h"
#include "ingest/catalog.h"

/* The source as check has it; conn is NULL when it cannot be reached, catalog is then empty. */
struct source_seen {
	PGconn *conn;
	struct arena arena;
	struct catalog catalog;
};

/* What of the source is no table, and the values of sequences. */
void check_objects(struct report *r, struct source_seen *s, const struct migration *m);
/* With schema: exists, columns that are generated on one side only. target: connected to the target itself. */
void check_generated(struct report *r, struct source_seen *s, PGconn *target, const char *name);

/* What only the targets have: routes the catalog's relations, as ingest does for a table's first version. */
void check_constraints(struct report *r, struct source_seen *s, const struct migration *m);
/* A table as the mapping makes it, with its routing and why. late: names of what is built at the end, or NULL. */
void check_table(struct report *r, const struct relation *rel, const char *late);
/*
 * A target whose role may not set session_replication_role: what that costs, and what it must not have then. conn: to
 * the target, or to its server while the default shadow is not made.
 */
void check_enforced(struct report *r, struct source_seen *s, PGconn *conn, const struct migration *m, enum role role);
/* The rules as this target understands them. */
void check_rules(struct report *r, struct source_seen *s, PGconn *conn, const struct migration *m,
		 const char *server);
/* schema: exists: the target's columns and types. */
void check_columns(struct report *r, struct source_seen *s, PGconn *conn, const struct migration *m,
		   enum role role);

#endif
