// SPDX-License-Identifier: Apache-2.0
/*
 * model - a database whose tables are as the target shall have them: the source itself, or, where the migration file asks
 * for another shape, a scratch database (scratch.h) in which PostgreSQL applied the mapping (reshape.h).
 *
 * Belongs to whoever holds the schema lock in the target.
 */
#ifndef SHADOW_MODEL_H
#define SHADOW_MODEL_H

#include "shadow/schema_parts.h"

struct model {
	PGconn *conn;
	struct schema_oids oids; /* of its tables */
	bool is_scratch;
};

/* says_losses: what goes with dropped columns is logged. Ends early when stop_fd becomes readable. After a failure
 * model_close all the same. */
bool model_open(struct model *ret, const struct migration *m, enum role role, PGconn *target,
		const struct schema_scope *scope, bool says_losses, int stop_fd, struct fault *f);
/* Drops a scratch database; f may be NULL. */
bool model_close(struct model *x, const struct migration *m, enum role role, PGconn *target, struct fault *f);

#endif
