// SPDX-License-Identifier: Apache-2.0
#include "reconcile/verdict.h"

#include <stdlib.h>

bool verdict_same_text(struct span a, struct span b)
{
	return !a.p == !b.p && span_eq(a, b);
}

static bool same_rows(const struct verdict_case *c)
{
	if (c->source.count != c->target.count)
		return false;
	for (size_t i = 0; c->source.count && i < c->column_count; i++)
		if (!verdict_same_text(c->source.texts[i], c->target.texts[i]))
			return false;
	return true;
}

/*
 * Is a row what its event left behind? A column that is not known is compared with the other side's,
 * if it has one (NULL: it is passed over).
 */
static bool is_image(const struct verdict_case *c, const struct verdict_row *row,
		     const struct verdict_image *image, const struct verdict_row *other)
{
	if (row->count != image->row.count)
		return false;
	for (size_t i = 0; row->count && i < c->column_count; i++) {
		bool is_unsent = image->is_unsent && image->is_unsent[i];

		if (!is_unsent && !verdict_same_text(row->texts[i], image->row.texts[i]))
			return false;
		if (is_unsent && other && other->count &&
		    !verdict_same_text(row->texts[i], other->texts[i]))
			return false;
	}
	return true;
}

enum verdict verdict_key(const struct verdict_case *c, enum verdict_hop *ret_hop)
{
	bool has_source = c->sees_event && c->source_image.is_known;
	bool has_target = c->target_image.is_known;
	bool source_ok = has_source && is_image(c, &c->source, &c->source_image, NULL);
	/* What no event up to the target's place has set is as S saw it: but only a row that S has, and
	 * of which it has seen an event, is surely the same row. */
	bool target_ok = has_target && is_image(c, &c->target, &c->target_image,
						c->sees_event ? &c->source : NULL);

	*ret_hop = HOP_UNKNOWN;
	if (same_rows(c))
		return VERDICT_CLEAN;
	if (has_source && !source_ok)
		*ret_hop = HOP_STREAM;
	else if (has_target && !target_ok)
		*ret_hop = HOP_TARGET;
	if (c->is_same)
		return c->sees_event || c->is_settled ? VERDICT_DIVERGED : VERDICT_LATER;
	if (*ret_hop != HOP_UNKNOWN)
		return VERDICT_DIVERGED;
	return source_ok && target_ok ? VERDICT_EXPLAINED : VERDICT_LATER;
}

static bool is_as_set(const struct verdict_row *row, const struct verdict_image *image, size_t column)
{
	return row->count && image->is_known && image->row.count && !(image->is_unsent && image->is_unsent[column]) &&
	       verdict_same_text(row->texts[column], image->row.texts[column]);
}

bool verdict_explains(const struct verdict_case *c, size_t column)
{
	return !c->is_same && c->sees_event && is_as_set(&c->source, &c->source_image, column) &&
	       is_as_set(&c->target, &c->target_image, column);
}

enum verdict verdict_count(int64_t source, int64_t target, int64_t between, bool is_settled)
{
	if (source + between == target)
		return between ? VERDICT_EXPLAINED : VERDICT_CLEAN;
	return is_settled ? VERDICT_DIVERGED : VERDICT_LATER;
}

/* ---- snapshots ---- */

static bool read_number(const char **p, const char *end, char after, uint64_t *ret)
{
	const char *start = *p;

	for (*ret = 0; *p < end && **p >= '0' && **p <= '9'; ++*p)
		*ret = *ret * 10 + (uint64_t)(**p - '0');
	if (*p == start)
		return false;
	if (*p < end && **p == after) {
		++*p;
		return true;
	}
	return *p == end && after == ',';
}

bool snapshot_parse(struct span text, struct arena *a, struct snapshot *ret)
{
	const char *p = text.p, *end = p + text.n;

	*ret = (struct snapshot) { .running = arena_alloc(a, (text.n + 1) * sizeof(*ret->running)) };
	if (!ret->running || !p || !read_number(&p, end, ':', &ret->xmin) ||
	    !read_number(&p, end, ':', &ret->xmax))
		return false;
	while (p < end)
		if (!read_number(&p, end, ',', &ret->running[ret->running_count++]))
			return false;
	return true;
}

uint64_t snapshot_widen(const struct snapshot *s, uint32_t xid)
{
	return s->xmax + (uint64_t)(int64_t)(int32_t)(xid - (uint32_t)s->xmax);
}

bool snapshot_sees(const struct snapshot *s, uint64_t xid)
{
	if (xid < s->xmin)
		return true;
	if (xid >= s->xmax)
		return false;
	for (size_t i = 0; i < s->running_count; i++)
		if (s->running[i] == xid)
			return false;
	return true;
}
