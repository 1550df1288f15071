// SPDX-License-Identifier: Apache-2.0
/*
 * gate_record - how far the primary may go, as a record of <m>.control: gate/shadow, {"lsn": "0/16B3748"}.
 *
 * Written by the one owner of reconcile. Boundaries only grow: who puts a lower one changes nothing, and who
 * reads keeps the highest that it has seen (a writer that lost its place may still have a record on the way).
 *
 * Thread-safe.
 */
#ifndef CORE_GATE_RECORD_H
#define CORE_GATE_RECORD_H

#include "core/control.h"
#include "core/lsn.h"

/* Pure. False: not such a value. */
bool gate_record_parse(struct span value, struct boundary *ret);
/* Closed (0) when there is none. */
struct boundary gate_record_get(struct control *c);
/* As control_put. */
bool gate_record_put(struct control *c, struct boundary b, int timeout_ms, struct fault *f);

#endif
