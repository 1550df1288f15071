// SPDX-License-Identifier: Apache-2.0
/*
 * bookmark - what the windows of a role have seen, as a record of <m>.control: windows/shadow, windows/primary.
 *
 *     {"places": [[next offset, generation, ordinal, "commit lsn", seq, "barrier lsn"], ...],
 *      "at": ["schema", "table", "from" or null] or null, "due": [["schema", "table", is owed], ...],
 *      "pass": {"lsn": "0/0", "at": 0, "is_passing": true, "is_clean": true, "scrubbed_lsn": "0/0"}}
 *
 * Written when a window was right: the stream up to these places was compared, nothing differs that was found
 * until then, and the scrub is as far as it says. Who goes on reads the stream from there.
 *
 * Pure.
 */
#ifndef RECONCILE_BOOKMARK_H
#define RECONCILE_BOOKMARK_H

#include "reconcile/tail.h"
#include "reconcile/walk.h"

enum { BOOKMARK_KEY_TEXT = 32 };
/* role_name: shadow, primary. Returns text. */
char *bookmark_key(const char *role_name, char *text);
/* False: no memory. */
bool bookmark_format(const struct walk *w, const struct tail_place *places, int partition_count, struct buf *out);
/* Into an empty walk, and places[partition_count]. False: it is no such record of so many partitions; the walk is
 * as it was then, the places are not. */
bool bookmark_parse(struct span value, int partition_count, struct walk *w, struct tail_place *places);

#endif
