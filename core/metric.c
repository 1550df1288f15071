// SPDX-License-Identifier: Apache-2.0
#include "core/metric.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { MICRO = 1000 * 1000 };

static const struct metric_row {
	const char *name, *type;
	int64_t divisor; /* from a cell's value to the base unit */
	const char *labels[METRIC_LABELS];
	const char *help;
} metric_rows[METRICS] = {
	[METRIC_BUILD] = { "foreshadow_build_info", "gauge", 1, { "version", "migration" },
			   "Always 1: which program runs which migration." },
	[METRIC_SOURCE_LAG] = { "foreshadow_source_lag_bytes", "gauge", 1, { NULL },
				"WAL of the source that is not in Kafka yet." },
	[METRIC_SLOT_RETAINED] = { "foreshadow_slot_retained_bytes", "gauge", 1, { NULL },
				   "WAL that the slot holds back on the source." },
	[METRIC_SLOT_SAFE] = { "foreshadow_slot_safe_bytes", "gauge", 1, { NULL },
			       "WAL that can still be written before the source gives the slot up." },
	[METRIC_APPLY_LAG] = { "foreshadow_apply_lag_seconds", "gauge", MICRO, { "role" },
			       "Age of what the slowest partition of this process has applied; 0: all "
			       "that Kafka has." },
	[METRIC_CHANGES] = { "foreshadow_changes_total", "counter", 1, { "stage", "role", "table" },
			     "Records that passed a stage: published, applied, covered by a copy, "
			     "copied." },
	[METRIC_INCIDENTS] = { "foreshadow_incidents_total", "counter", 1, { "class", "role" },
			       "Records that could not be applied, by class of the SQLSTATE." },
	[METRIC_LANES] = { "foreshadow_lanes", "gauge", 1, { "role" },
			   "Threads with a connection to the target." },
	[METRIC_GATE] = { "foreshadow_gate_lsn", "gauge", 1, { NULL },
			  "The primary may apply what was committed before this LSN, as a number of bytes." },
	[METRIC_GATE_LAG] = { "foreshadow_gate_lag_seconds", "gauge", MICRO, { NULL },
			      "How old the oldest commit was that the gate last let through, at most." },
	[METRIC_VERIFIED] = { "foreshadow_verified_lsn", "gauge", 1, { "role" },
			      "The least of: up to where windows are clean, and where the last clean scrub began." },
	[METRIC_COVERAGE] = { "foreshadow_coverage_ratio", "gauge", MICRO, { "role" },
			      "Keys and rows of the last window that could be judged, of all." },
	[METRIC_BALANCE] = { "foreshadow_balance_error", "gauge", 1, { "role" },
			     "Records that the target has counted more or less often than the stream has them." },
};

struct metric_cell {
	struct metric_cell *next;
	_Atomic int64_t value;
	atomic_bool is_known;
	char *labels[METRIC_LABELS]; /* NULL: without */
};

struct metrics {
	pthread_mutex_t lock; /* of the lists; cells in them do not move */
	struct metric_cell *first[METRICS], **end[METRICS];
	size_t cell_count;
};

struct metrics *metrics_new(void)
{
	struct metrics *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	pthread_mutex_init(&m->lock, NULL);
	for (int i = 0; i < METRICS; i++)
		m->end[i] = &m->first[i];
	return m;
}

static void cell_free(struct metric_cell *c)
{
	for (int i = 0; c && i < METRIC_LABELS; i++)
		free(c->labels[i]);
	free(c);
}

void metrics_free(struct metrics *m)
{
	if (!m)
		return;
	for (int i = 0; i < METRICS; i++)
		for (struct metric_cell *c = m->first[i], *next; c; c = next) {
			next = c->next;
			cell_free(c);
		}
	pthread_mutex_destroy(&m->lock);
	free(m);
}

static struct metric_cell *cell_new(const char *const *labels)
{
	struct metric_cell *c = calloc(1, sizeof(*c));

	for (int i = 0; c && i < METRIC_LABELS; i++) {
		if (!labels[i] || !*labels[i])
			continue;
		c->labels[i] = strdup(labels[i]);
		if (!c->labels[i]) {
			cell_free(c);
			return NULL;
		}
	}
	return c;
}

static bool cell_has(const struct metric_cell *c, const char *const *labels)
{
	for (int i = 0; i < METRIC_LABELS; i++)
		if (strcmp(c->labels[i] ? c->labels[i] : "", labels[i] ? labels[i] : "") != 0)
			return false;
	return true;
}

struct metric_cell *metric_cell(struct metrics *m, enum metric metric, const char *first,
				const char *second, const char *third)
{
	const char *labels[METRIC_LABELS] = { first, second, third };
	struct metric_cell *c;

	if (!m)
		return NULL;
	pthread_mutex_lock(&m->lock);
	for (c = m->first[metric]; c && !cell_has(c, labels); c = c->next)
		;
	if (!c && m->cell_count < METRIC_CELLS_MAX && (c = cell_new(labels))) {
		*m->end[metric] = c;
		m->end[metric] = &c->next;
		m->cell_count++;
	}
	pthread_mutex_unlock(&m->lock);
	return c;
}

void metric_set(struct metric_cell *c, int64_t value)
{
	if (!c)
		return;
	atomic_store(&c->value, value);
	atomic_store(&c->is_known, true);
}

void metric_add(struct metric_cell *c, uint64_t n)
{
	if (!c)
		return;
	atomic_fetch_add(&c->value, (int64_t)n);
	atomic_store(&c->is_known, true);
}

void metric_raise(struct metric_cell *c, uint64_t value)
{
	int64_t seen;

	if (!c)
		return;
	seen = atomic_load(&c->value);
	while (seen < (int64_t)value && !atomic_compare_exchange_weak(&c->value, &seen, (int64_t)value))
		;
	atomic_store(&c->is_known, true);
}

void metric_clear(struct metric_cell *c)
{
	if (c)
		atomic_store(&c->is_known, false);
}

/* ---- as text ---- */

static void render_label(struct buf *out, const char *name, const char *value)
{
	buf_printf(out, "%s=\"", name);
	for (; *value; value++) {
		if (*value == '\n')
			buf_str(out, "\\n");
		else if (*value == '\\' || *value == '"')
			buf_printf(out, "\\%c", *value);
		else
			buf_u8(out, (uint8_t)*value);
	}
	buf_u8(out, '"');
}

static void render_value(struct buf *out, int64_t value, int64_t divisor)
{
	if (divisor == 1)
		buf_printf(out, " %" PRId64 "\n", value);
	else
		buf_printf(out, " %.6f\n", (double)value / (double)divisor);
}

static void render_cell(struct buf *out, const struct metric_row *row, const struct metric_cell *c,
			int64_t value)
{
	char before = '{';

	buf_str(out, row->name);
	for (int i = 0; i < METRIC_LABELS; i++) {
		if (!c->labels[i])
			continue;
		buf_u8(out, (uint8_t)before);
		render_label(out, row->labels[i], c->labels[i]);
		before = ',';
	}
	if (before == ',')
		buf_u8(out, '}');
	render_value(out, value, row->divisor);
}

void metrics_render(struct metrics *m, struct buf *out)
{
	if (!m)
		return;
	pthread_mutex_lock(&m->lock);
	for (int i = 0; i < METRICS; i++) {
		const struct metric_row *row = &metric_rows[i];
		bool has_head = false;

		for (struct metric_cell *c = m->first[i]; c; c = c->next) {
			if (!atomic_load(&c->is_known))
				continue;
			if (!has_head)
				buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", row->name, row->help,
					   row->name, row->type);
			has_head = true;
			render_cell(out, row, c, atomic_load(&c->value));
		}
	}
	pthread_mutex_unlock(&m->lock);
}
