// SPDX-License-Identifier: Apache-2.0
/*
 * metric - numbers for monitoring: counters and gauges with labels, shown as Prometheus text.
 *
 * What there is stands in one table, in metric.c. A cell is one combination of label values: made when
 * it is first asked for, kept until metrics_free, and set by whoever has it with one atomic store. A
 * cell that was not set yet, or was cleared, is not shown: unknown is not 0.
 *
 * Values are whole numbers: bytes, records, threads, and microseconds where the text has seconds.
 *
 * Thread-safe. Every function takes NULL for the metrics or the cell, and does nothing then: who
 * counts need not ask whether anybody looks.
 */
#ifndef CORE_METRIC_H
#define CORE_METRIC_H

#include <stdint.h>

#include "core/buf.h"

enum metric {
	METRIC_BUILD,         /* version, migration */
	METRIC_SOURCE_LAG,    /* bytes */
	METRIC_SLOT_RETAINED, /* bytes */
	METRIC_SLOT_SAFE,     /* bytes */
	METRIC_APPLY_LAG,     /* microseconds; role */
	METRIC_CHANGES,       /* stage, role, table */
	METRIC_INCIDENTS,     /* class, role */
	METRIC_LANES,         /* role */
	METRIC_GATE,          /* LSN */
	METRIC_GATE_LAG,      /* microseconds */
	METRIC_VERIFIED,      /* LSN; role */
	METRIC_COVERAGE,      /* millionths; role */
	METRIC_BALANCE,       /* records; role */
	METRICS
};

/* Over all metrics: a bound for memory, far above what a migration has. */
enum { METRIC_LABELS = 3, METRIC_CELLS_MAX = 50 * 1000 };

struct metrics;
struct metrics *metrics_new(void);
void metrics_free(struct metrics *m);

/* The cell with these values of the metric's labels, in the table's order; NULL: without that label.
 * NULL: no memory, or there are too many. Looks through all cells: to be asked for once. */
struct metric_cell;
struct metric_cell *metric_cell(struct metrics *m, enum metric metric, const char *first,
				const char *second, const char *third);

void metric_set(struct metric_cell *c, int64_t value);
/* From 0 if it was not set. */
void metric_add(struct metric_cell *c, uint64_t n);
/* A counter that is counted elsewhere: never back. */
void metric_raise(struct metric_cell *c, uint64_t value);
/* The value is not known any more. */
void metric_clear(struct metric_cell *c);

/* Appends the text format, version 0.0.4. */
void metrics_render(struct metrics *m, struct buf *out);

#endif
