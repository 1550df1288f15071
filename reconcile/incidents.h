// SPDX-License-Identifier: Apache-2.0
/*
 * incidents - reads <m>.incidents from its beginning, and the record that an incident is about.
 *
 * An incident is known by its own place: "partition:offset" in <m>.incidents. Thread: the caller's.
 */
#ifndef RECONCILE_INCIDENTS_H
#define RECONCILE_INCIDENTS_H

#include "reconcile/tail.h"

struct incidents_record {
	int partition;
	int64_t offset;
	struct span json; /* until each() returns */
};

enum { INCIDENTS_ID_TEXT = 40 };
char *incidents_id_format(const struct incidents_record *r, char *text);
/* False: not such a text. */
bool incidents_id_parse(const char *text, int *ret_partition, int64_t *ret_offset);

/* What is there now, in order; ends early, with success, when each returns false. */
bool incidents_each(const struct migration *m, bool (*each)(void *arg, const struct incidents_record *r), void *arg,
		    struct fault *f);

/*
 * The change at a place of <m>.changes or <m>.snapshot: its rows live in the arena, its relation in known. learn
 * (may be NULL) is asked for a schema that framing does not know. FAULT_ENVIRONMENT when the record is not there any more,
 * FAULT_INPUT when it is no change of a row.
 */
bool incidents_change(const struct migration *m, const char *topic, int partition, int64_t offset, struct known *known,
		      struct framing *framing, event_learn learn, void *arg,
		      struct arena *a, struct tail_row *ret, struct fault *f);

#endif
