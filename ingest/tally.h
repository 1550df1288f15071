// SPDX-License-Identifier: Apache-2.0
/*
 * tally - the records per table that a stream has counted, as metrics.
 *
 * One generation's: the cells stand in the order of stream_counts. Thread: ingest.
 */
#ifndef INGEST_TALLY_H
#define INGEST_TALLY_H

#include "core/metric.h"
#include "ingest/stream.h"

struct tally {
	struct metric_cell **cells;
	size_t count, cap;
};

/* WAL that is decoded again after a restart is counted again from the last barrier: the metrics never
 * go back. Without memory, tables are left out. */
void tally_show(struct tally *t, struct metrics *metrics, const struct stream *s);
void tally_release(struct tally *t);

/* A quoted name as people write it, "public"."orders" as public.orders; one that needs its quotes keeps
 * them. Pure. */
void tally_label(struct span quoted, char *text, size_t n);

#endif
