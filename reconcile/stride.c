// SPDX-License-Identifier: Apache-2.0
#include "reconcile/stride.h"

#include <stdio.h>
#include <stdlib.h>

enum {
	ROWS_FIRST = 20 * 1000,
	ROWS_MOST = 4 * 1000 * 1000,
	GOAL_US = 300 * 1000, /* between 0.25 and 0.5 s */
	LEAST_US = 1000,
	GROWTH = 4,
	INTEGER_TEXT = 24,
};

void stride_init(struct stride *s)
{
	*s = (struct stride) { .rows = ROWS_FIRST, .is_calm = true };
}

void stride_took(struct stride *s, int64_t rows, int64_t took_us)
{
	double factor = (double)GOAL_US / (double)(took_us > LEAST_US ? took_us : LEAST_US);

	if (factor > GROWTH)
		factor = GROWTH;
	if (factor < 1.0 / GROWTH)
		factor = 1.0 / GROWTH;
	s->rows = (int64_t)((double)rows * factor);
	if (s->rows < STRIDE_ROWS_LEAST)
		s->rows = STRIDE_ROWS_LEAST;
	if (s->rows > ROWS_MOST)
		s->rows = ROWS_MOST;
}

/* Not exact beyond 2^53, where a chunk is a little longer or shorter for it. */
static bool read_number(struct span text, double *ret)
{
	char digits[INTEGER_TEXT], *end;

	if (!text.n || text.n >= sizeof(digits))
		return false;
	memcpy(digits, text.p, text.n);
	digits[text.n] = 0;
	*ret = strtod(digits, &end);
	return *end == 0;
}

void stride_went(struct stride *s, struct span from, struct span to, int64_t row_count)
{
	double first, behind;

	s->spread = 0;
	if (row_count > 0 && read_number(from, &first) && read_number(to, &behind))
		s->spread = (behind - first) / (double)row_count;
}

void stride_shrink(struct stride *s, int64_t rows)
{
	s->rows = rows / GROWTH;
}

int64_t stride_reach(const struct stride *s)
{
	if (s->spread < 1 || s->spread > STRIDE_SPREAD_MOST)
		return 0;
	return (int64_t)((double)s->rows * s->spread) + 1;
}
