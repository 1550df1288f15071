// SPDX-License-Identifier: Apache-2.0
/*
 * stride - how far the next chunk of a table goes, by what the ones before took.
 *
 * Rows follow the time: 0.25 to 0.5 s a chunk, by at most a factor of four from one to the next. Where the ranges are
 * of a table's only key column and that is an integer, the last chunk tells how many values the key takes for a
 * row, too. While these are few the end of a chunk is counted off: asking the index for it costs a sixth
 * of reading the rows. A chunk that goes wrong by that has at most STRIDE_SPREAD_MOST times the rows that were wanted.
 *
 * Pure.
 */
#ifndef RECONCILE_STRIDE_H
#define RECONCILE_STRIDE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/span.h"

enum { STRIDE_ROWS_LEAST = 1000, STRIDE_SPREAD_MOST = 4 };

struct stride {
	int64_t rows;
	double spread; /* values of the key per row; 0: not known */
	bool is_calm;  /* nothing differed in the last chunk */
};

void stride_init(struct stride *s);
/* A chunk for which this many rows were asked took so long. */
void stride_took(struct stride *s, int64_t rows, int64_t took_us);
/* It went from `from` to `to`, both integers as text, and had this many rows. Absent ends tell nothing. */
void stride_went(struct stride *s, struct span from, struct span to, int64_t row_count);
/* A chunk of this many rows was too much. */
void stride_shrink(struct stride *s, int64_t rows);
/* How many values of the key the next chunk is long; 0: that is for the index to say. */
int64_t stride_reach(const struct stride *s);

#endif
