// SPDX-License-Identifier: Apache-2.0
/*
 * narrow - a condition by which a server finds the rows of keys in an index.
 *
 * Per key column, "column = ANY (values)": of a key of several columns it has more rows than were asked for
 * (every combination), never fewer. Only columns whose equality has at least what identity of their text has,
 * with values of a type that compares with both servers' columns by their index.
 *
 * Pure.
 */
#ifndef RECONCILE_NARROW_H
#define RECONCILE_NARROW_H

#include "reconcile/digest.h"
#include "reconcile/touched.h"

/* The conditions for both servers, in a; absent where no column narrows. False: no memory. */
bool narrow(const struct digest *d, const struct touched_key *keys, size_t n, size_t part_count,
	    struct arena *a, struct span ret[2]);

#endif
