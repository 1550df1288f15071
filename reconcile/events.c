// SPDX-License-Identifier: Apache-2.0
#include "reconcile/events.h"

#include <stdlib.h>
#include <string.h>

static int compare_hashes(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static bool is_wide(const struct known_event *k)
{
	return k->e->kind == TAIL_TABLE;
}

static int compare_places(const void *a, const void *b)
{
	const struct known_event *x = a, *y = b;
	int order = position_cmp(x->e->position, y->e->position);

	if (order == 0 && x->e->in_exclusive != y->e->in_exclusive)
		return x->e->in_exclusive < y->e->in_exclusive ? -1 : 1;
	/* A row's old key goes before its new one comes. */
	return order ? order : (x->e->kind == TAIL_GONE ? -1 : y->e->kind == TAIL_GONE);
}

static int compare_keys(const void *a, const void *b)
{
	const struct known_event *x = a, *y = b;
	int order = is_wide(y) - is_wide(x);

	if (order == 0 && !is_wide(x))
		order = compare_hashes(&x->e->key_hash, &y->e->key_hash);
	return order ? order : compare_places(a, b);
}

static bool is_asked_for(const struct tail_event *e, const uint64_t *sorted, size_t n)
{
	return !sorted || e->kind == TAIL_TABLE || bsearch(&e->key_hash, sorted, n, sizeof(*sorted), compare_hashes);
}

static struct known_event know(const struct tail_event *e, const struct events_readings *r)
{
	return (struct known_event) {
		.e = e,
		.is_seen = snapshot_sees(r->snapshot, snapshot_widen(r->snapshot, e->xid)),
		.is_applied = position_cmp(e->position, r->places[e->partition]) <= 0,
	};
}

static uint64_t *sort_hashes(const uint64_t *hashes, size_t n, struct arena *a)
{
	uint64_t *sorted = arena_alloc(a, n * sizeof(*sorted) + 1);

	if (!sorted)
		return NULL;
	memcpy(sorted, hashes, n * sizeof(*sorted));
	qsort(sorted, n, sizeof(*sorted), compare_hashes);
	return sorted;
}

bool events_gather(struct events *ret, const struct tail_event *from, size_t n, const struct events_readings *readings,
		   const uint64_t *hashes, size_t hash_count, struct arena *a)
{
	uint64_t *sorted = hashes ? sort_hashes(hashes, hash_count, a) : NULL;
	size_t count = 0;

	*ret = (struct events) { 0 };
	if (hashes && !sorted)
		return false;
	for (size_t i = 0; i < n; i++)
		count += is_asked_for(&from[i], sorted, hash_count);
	ret->list = arena_alloc(a, count * sizeof(*ret->list) + 1);
	if (!ret->list)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (!is_asked_for(&from[i], sorted, hash_count))
			continue;
		ret->wide_count += from[i].kind == TAIL_TABLE;
		ret->list[ret->count++] = know(&from[i], readings);
	}
	if (hashes)
		qsort(ret->list, ret->count, sizeof(*ret->list), compare_keys);
	return true;
}

/* The first one from wide_count on whose hash is not below. */
static size_t find(const struct events *e, uint64_t hash)
{
	size_t low = e->wide_count, high = e->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (e->list[middle].e->key_hash < hash)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct known_event *events_of(const struct events *e, const uint64_t *hash, struct arena *a, size_t *ret_count)
{
	size_t first = hash ? find(e, *hash) : e->count, own = 0;
	struct known_event *found;

	while (first + own < e->count && e->list[first + own].e->key_hash == *hash)
		own++;
	*ret_count = e->wide_count + own;
	found = arena_alloc(a, *ret_count * sizeof(*found) + 1);
	if (!found)
		return NULL;
	memcpy(found, e->list, e->wide_count * sizeof(*found));
	memcpy(found + e->wide_count, e->list + first, own * sizeof(*found));
	qsort(found, *ret_count, sizeof(*found), compare_places);
	return found;
}

bool events_are_shown_by_both(const struct known_event *events, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (events[i].is_seen != events[i].is_applied)
			return false;
	return true;
}

uint64_t events_since(const struct known_event *events, size_t n)
{
	for (size_t i = n; i-- > 0;)
		if (events[i].is_applied)
			return events[i].e->position.commit.v;
	return 0;
}
