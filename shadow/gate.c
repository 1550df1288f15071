// SPDX-License-Identifier: Apache-2.0
#include "shadow/gate.h"

void gate_init(struct gate *g)
{
	atomic_store(&g->boundary, UINT64_MAX);
}

struct boundary gate_boundary(const struct gate *g)
{
	return (struct boundary) { atomic_load(&g->boundary) };
}
