// SPDX-License-Identifier: Apache-2.0
/*
 * repair_key - the key of a row to be repaired, as the source and the stream have it.
 *
 * A difference is known by the target's key (digest.h). Where that prints as the source's, its texts are taken;
 * else the source is asked which row of its own has come to it.
 *
 * Everything lives in the arena given. Thread: the connections'.
 */
#ifndef RECONCILE_REPAIR_KEY_H
#define RECONCILE_REPAIR_KEY_H

#include "reconcile/digest.h"
#include "reconcile/ends.h"

struct repair_key {
	const struct span *parts; /* texts of the source's key columns, in the relation's order */
	struct span values;       /* the same as the literal of a text[] with an element per column */
	struct span message_key;  /* of the key's changes in the stream */
	uint64_t hash;            /* of it, as tail.h has it */
	int partition;
	bool is_canonical;        /* false: other texts may be the same key: any change of the table may be of this row */
};

/* *ret_why: why it cannot be told, with the next step; NULL: *ret is filled in. False: the source. */
bool repair_key_find(struct ends *e, const struct digest *d, int64_t seed, struct span key, struct arena *a,
		     struct repair_key *ret, const char **ret_why, struct fault *f);

#endif
