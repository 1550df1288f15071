// SPDX-License-Identifier: Apache-2.0
/*
 * gate - the boundary up to which the primary may go: a change is applied iff its transaction is in it.
 *
 * Reconciliation will move it; until there is a reconcile role nobody closes it, so it is born open.
 *
 * Thread-safe.
 */
#ifndef SHADOW_GATE_H
#define SHADOW_GATE_H

#include <stdatomic.h>

#include "core/lsn.h"

struct gate {
	_Atomic uint64_t boundary;
};

void gate_init(struct gate *g);
struct boundary gate_boundary(const struct gate *g);
static inline bool gate_has(const struct gate *g, struct commit_lsn c)
{
	return boundary_has(gate_boundary(g), c);
}

#endif
