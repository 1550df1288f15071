// SPDX-License-Identifier: Apache-2.0
#include "shadow/gate.h"

void gate_open(struct gate *g)
{
	g->control = NULL;
	g->shown = NULL;
	atomic_store(&g->boundary, UINT64_MAX);
}

void gate_follow(struct gate *g, struct control *control, struct metric_cell *shown)
{
	g->control = control;
	g->shown = shown;
	atomic_store(&g->boundary, 0);
	atomic_store(&g->seen, UINT64_MAX);
}

void gate_raise(struct gate *g, struct boundary b)
{
	uint64_t now = atomic_load(&g->boundary);

	while (now < b.v && !atomic_compare_exchange_weak(&g->boundary, &now, b.v))
		;
	metric_set(g->shown, (int64_t)atomic_load(&g->boundary));
}

struct boundary gate_boundary(const struct gate *g)
{
	return (struct boundary) { atomic_load(&g->boundary) };
}

/* Only when control has changed since somebody looked. */
static void look(struct gate *g)
{
	uint64_t version = control_version(g->control);

	if (atomic_exchange(&g->seen, version) != version)
		gate_raise(g, gate_record_get(g->control));
}

bool gate_has(struct gate *g, struct commit_lsn c)
{
	if (boundary_has(gate_boundary(g), c))
		return true;
	if (!g->control)
		return false;
	look(g);
	return boundary_has(gate_boundary(g), c);
}
