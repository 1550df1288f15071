// SPDX-License-Identifier: Apache-2.0
/*
 * generated - columns that are GENERATED ALWAYS AS (…) on one side only.
 *
 * Generated columns are not in the stream, and a relation does not know them; so this is asked of both catalogs.
 *
 * Generated on the source, plain on the target: nobody would write the target's column. Refused.
 * Plain on the source, generated on the target: the value is sent and not written, the target's expression
 * decides. Worth a word.
 * Generated on both, or absent on the target: as it should be.
 */
#ifndef SHADOW_GENERATED_H
#define SHADOW_GENERATED_H

#include "core/arena.h"
#include "shadow/schema.h"

struct generated {
	const char **refusals; /* a sentence each: column, what is wrong, what to do */
	size_t refusal_count;
	const char **notes;    /* columns that the target computes */
	size_t note_count;
};

/* Tables that the target lacks are passed over. Everything lives in a. */
bool generated_compare(PGconn *source, PGconn *target, const struct schema_scope *scope, struct arena *a,
		       struct generated *ret, struct fault *f);
/* FAULT_STOP with the first refusals, if there are any. */
bool generated_accept(const struct generated *g, struct fault *f);

#endif
