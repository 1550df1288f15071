// SPDX-License-Identifier: Apache-2.0
/*
 * gate - the boundary up to which a role may go: a change is applied iff its transaction is in it.
 *
 * Open from the start, or closed at first and moved by the record in <m>.control (core/gate_record.h). It
 * never goes back, whatever the record says. Who finds it closed looks at control again.
 *
 * Thread-safe.
 */
#ifndef SHADOW_GATE_H
#define SHADOW_GATE_H

#include <stdatomic.h>

#include "core/gate_record.h"
#include "core/metric.h"

struct gate {
	struct control *control;   /* NULL: open */
	struct metric_cell *shown; /* or NULL */
	_Atomic uint64_t boundary, seen;
};

void gate_open(struct gate *g);
/* control, shown: borrowed. */
void gate_follow(struct gate *g, struct control *control, struct metric_cell *shown);
/* Only forwards. */
void gate_raise(struct gate *g, struct boundary b);
struct boundary gate_boundary(const struct gate *g);
bool gate_has(struct gate *g, struct commit_lsn c);

#endif
