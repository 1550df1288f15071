// SPDX-License-Identifier: Apache-2.0
/*
 * difference - a difference as people and scripts get it: a JSON object.
 *
 *     {"table", "key", "kind": "missing|extraneous|mismatch", "columns", "source", "target", "role", "since_lsn", "hop",
 *      "writer": "foreshadow|foreign|unknown", "written_at"}
 *
 * Values are text as PostgreSQL prints them; of a long one, the part where the two differ.
 */
#ifndef RECONCILE_DIFFERENCE_H
#define RECONCILE_DIFFERENCE_H

#include "core/json.h"
#include "reconcile/judge.h"

/* A new reference. */
json_t *difference_json(const struct difference *d);

/* Of its "key": the columns of a row (texts as in struct difference) that are its key; null: keyless, or no row. */
json_t *difference_key_json(const struct digest *d, const struct span *texts);
/* For <m>.incidents: {"class": "difference", "sqlstate": "", "message": in words} and the above; window_lsn: the mark of the window that
 * found it, 0: no window did. A new reference. */
json_t *difference_incident(const struct difference *d, uint64_t window_lsn);

#endif
