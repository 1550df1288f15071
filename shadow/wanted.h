// SPDX-License-Identifier: Apache-2.0
/*
 * wanted - which objects of a database belong to the tables in scope, in which stage they come, and carrying those of a
 * stage into another database.
 */
#ifndef SHADOW_WANTED_H
#define SHADOW_WANTED_H

#include "shadow/dump.h"
#include "shadow/schema_parts.h"

/* Restores into `to` what of `from` belongs to a stage and is not there yet; dump is of from. triggers_late: triggers and
 * rules belong to the last stage, since the target's role could not keep them from firing. */
bool wanted_carry(PGconn *from, const struct schema_oids *oids, bool triggers_late, struct dump *dump, PGconn *to,
		  enum toc_stage stage, int jobs, size_t *ret_entries, struct fault *f);

#endif
