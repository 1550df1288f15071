// SPDX-License-Identifier: Apache-2.0
#include "ingest/tally.h"

#include <stdlib.h>

static bool is_plain(struct span name)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
	size_t quotes = 0, dots = 0;

	for (size_t i = 0; i < name.n; i++) {
		quotes += name.p[i] == '"';
		dots += name.p[i] == '.';
		if (name.p[i] != '"' && name.p[i] != '.' && !memchr(letters, name.p[i], sizeof(letters) - 1))
			return false;
	}
	return quotes == 4 && dots == 1;
}

void tally_label(struct span quoted, char *text, size_t n)
{
	bool drops_quotes = is_plain(quoted);
	size_t used = 0;

	for (size_t i = 0; i < quoted.n && used + 1 < n; i++)
		if (!drops_quotes || quoted.p[i] != '"')
			text[used++] = quoted.p[i];
	text[used] = 0;
}

static bool tally_add(struct tally *t, struct metrics *metrics, struct span table)
{
	char label[300]; /* two names of 63 bytes, each of them a quote */

	if (t->count == t->cap) {
		size_t cap = t->cap ? 2 * t->cap : 64;
		struct metric_cell **cells = realloc(t->cells, cap * sizeof(struct metric_cell *));

		if (!cells)
			return false;
		t->cells = cells;
		t->cap = cap;
	}
	tally_label(table, label, sizeof(label));
	t->cells[t->count++] = metric_cell(metrics, METRIC_CHANGES, "published", NULL, label);
	return true;
}

void tally_show(struct tally *t, struct metrics *metrics, const struct stream *s)
{
	size_t n;
	const struct event_count *counts = stream_counts(s, &n);

	for (size_t i = 0; metrics && i < n; i++)
		if (i < t->count || tally_add(t, metrics, counts[i].table))
			metric_raise(t->cells[i], counts[i].published);
}

void tally_release(struct tally *t)
{
	free(t->cells);
	*t = (struct tally) { NULL };
}
