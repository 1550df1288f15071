// SPDX-License-Identifier: Apache-2.0
/*
 * image - what an event of the stream left behind, brought to the digest's columns.
 *
 * The record is read again from Kafka, and the source's server evaluates the digest's expressions over its
 * values: the same ones as over its own rows. A value that was not sent is taken from the key's event before.
 *
 * Everything lives in the arena given. Thread: the connections'.
 */
#ifndef RECONCILE_IMAGE_H
#define RECONCILE_IMAGE_H

#include "reconcile/digest.h"
#include "reconcile/ends.h"

struct image_maker {
	struct ends *ends;
	const struct digest *digest;
	int64_t seed;
	struct arena *a;
};

void image_init(struct image_maker *k, struct ends *ends, const struct digest *d, int64_t seed,
		struct arena *a);

/* The hash (tail.h) of the message key of the row with this key (digest.h). False: no row of the source can
 * have it. */
bool image_key_hash(struct image_maker *k, struct span key, uint64_t *ret);

/* After the events, all of this key, oldest first. Not known without any. */
bool image_of_key(struct image_maker *k, struct span key, const struct tail_event *const *events,
		  size_t n, struct verdict_image *ret, struct fault *f);

/* The keys (digest.h) of the old and the new row of a keyless event; absent: none, or filtered out. */
bool image_of_row(struct image_maker *k, const struct tail_event *e, struct span ret_keys[2],
		  struct fault *f);

#endif
