// SPDX-License-Identifier: Apache-2.0
#include "reconcile/touched.h"

#include <stdlib.h>

enum { KEYS_BYTES = 256 << 20, SLOTS_FIRST = 256 };

/* ---- tables ---- */

static bool is_table(const struct relation *a, const struct relation *b)
{
	return span_eq(a->root_schema, b->root_schema) && span_eq(a->root_table, b->root_table);
}

static struct touched_table *add_table(struct touched *t, const struct relation *rel)
{
	struct touched_table **tables, *table = calloc(1, sizeof(*table));
	size_t cap = t->cap ? 2 * t->cap : 16;

	if (!table)
		return NULL;
	if (t->count == t->cap) {
		tables = realloc(t->tables, cap * sizeof(*tables));
		if (!tables) {
			free(table);
			return NULL;
		}
		t->tables = tables;
		t->cap = cap;
	}
	table->list = t;
	table->rel = rel;
	arena_init(&table->arena, KEYS_BYTES);
	t->tables[t->count++] = table;
	return table;
}

struct touched_table *touched_table(struct touched *t, const struct relation *rel, bool *ret_is_new)
{
	*ret_is_new = false;
	for (size_t i = 0; i < t->count; i++)
		if (is_table(t->tables[i]->rel, rel))
			return t->tables[i];
	*ret_is_new = true;
	return add_table(t, rel);
}

static size_t bytes_of(const struct touched_table *t)
{
	return t->arena.used_bytes + t->slot_count * sizeof(*t->slots) + t->slot_count / 2 * sizeof(*t->keys);
}

void touched_clear(struct touched_table *table)
{
	table->list->bytes -= bytes_of(table);
	free(table->keys);
	free(table->slots);
	table->keys = NULL;
	table->slots = NULL;
	table->count = table->cap = table->slot_count = table->part_count = 0;
	table->is_whole = false;
	arena_release(&table->arena);
	arena_init(&table->arena, KEYS_BYTES);
}

void touched_whole(struct touched_table *table)
{
	touched_clear(table);
	table->is_whole = true;
}

bool touched_is_empty(const struct touched_table *table)
{
	return !table->is_whole && table->count == 0;
}

void touched_free(struct touched *t)
{
	for (size_t i = 0; i < t->count; i++) {
		touched_clear(t->tables[i]);
		arena_release(&t->tables[i]->arena);
		free(t->tables[i]);
	}
	free(t->tables);
	*t = (struct touched) { 0 };
}

/* ---- keys ---- */

size_t touched_parts(const struct relation *rel, struct touched_part ret[TOUCHED_PARTS_MAX])
{
	size_t n = 0;

	for (size_t i = 0; i < rel->column_count; i++) {
		size_t at = n;

		if (!rel->columns[i].is_key)
			continue;
		if (n == TOUCHED_PARTS_MAX)
			return 0;
		for (; at > 0 && span_cmp(rel->columns[ret[at - 1].column].name, rel->columns[i].name) > 0; at--)
			ret[at] = ret[at - 1];
		ret[at] = (struct touched_part) { i, n++ };
	}
	return n;
}

static uint64_t hash_of(const struct span *parts, size_t n)
{
	uint64_t hash = 0;

	for (size_t i = 0; i < n; i++)
		hash = (hash ^ span_hash(parts[i])) * 0x9e3779b97f4a7c15;
	return hash ^ hash >> 29;
}

static bool is_key(const struct touched_key *k, uint64_t hash, const struct span *parts, size_t n)
{
	bool same = k->hash == hash;

	for (size_t i = 0; same && i < n; i++)
		same = !k->parts[i].p == !parts[i].p && span_eq(k->parts[i], parts[i]);
	return same;
}

/* The slot of this key, or the free one where it belongs. */
static uint32_t *find_slot(const struct touched_table *t, uint64_t hash, const struct span *parts,
			   size_t n)
{
	size_t i = hash & (t->slot_count - 1);

	while (t->slots[i] && !(parts && is_key(&t->keys[t->slots[i] - 1], hash, parts, n)))
		i = (i + 1) & (t->slot_count - 1);
	return &t->slots[i];
}

/* At most half full. */
static bool make_room(struct touched_table *t)
{
	size_t slot_count = t->slot_count ? 2 * t->slot_count : SLOTS_FIRST;
	struct touched_key *keys;

	if (2 * (t->count + 1) <= t->slot_count)
		return true;
	keys = realloc(t->keys, slot_count / 2 * sizeof(*keys));
	if (!keys)
		return false;
	t->keys = keys;
	free(t->slots);
	t->slots = calloc(slot_count, sizeof(*t->slots));
	t->slot_count = t->slots ? slot_count : 0;
	for (size_t i = 0; t->slots && i < t->count; i++)
		*find_slot(t, t->keys[i].hash, NULL, 0) = (uint32_t)i + 1;
	return t->slots != NULL;
}

static bool add(struct touched_table *t, const struct span *parts, size_t n)
{
	uint64_t hash = hash_of(parts, n);
	struct span *copy;
	uint32_t *slot;

	if (t->count == 0)
		t->part_count = n;
	if (n != t->part_count || t->count == TOUCHED_KEYS_MAX || !make_room(t))
		return false;
	slot = find_slot(t, hash, parts, n);
	if (*slot)
		return true;
	copy = arena_alloc(&t->arena, n * sizeof(*copy) + 1);
	for (size_t i = 0; copy && i < n; i++)
		copy[i] = parts[i].p ? arena_dup(&t->arena, parts[i]) : span(NULL, 0);
	if (arena_failed(&t->arena))
		return false;
	t->keys[t->count++] = (struct touched_key) { hash, copy };
	*slot = (uint32_t)t->count;
	return true;
}

static struct touched_table *largest(const struct touched *list)
{
	struct touched_table *t = list->tables[0];

	for (size_t i = 1; i < list->count; i++)
		if (bytes_of(list->tables[i]) > bytes_of(t))
			t = list->tables[i];
	return t;
}

void touched_add(struct touched_table *table, const struct span *parts, size_t n)
{
	struct touched *list = table->list;
	size_t before = bytes_of(table);
	bool ok = table->is_whole || add(table, parts, n);

	list->bytes += bytes_of(table) - before;
	if (!ok)
		touched_whole(table);
	if (list->bytes > (list->max_bytes ? list->max_bytes : TOUCHED_BYTES_MAX))
		touched_whole(largest(list));
}

/* The finalizer of splitmix64: a key's place among 2^64 must not depend on its neighbour's. */
static uint64_t mix(uint64_t h)
{
	h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9;
	h = (h ^ h >> 27) * 0x94d049bb133111eb;
	return h ^ h >> 31;
}

size_t touched_thin(struct touched_table *t, double share, uint64_t salt)
{
	size_t kept = 0, all = t->count;

	for (size_t i = 0; i < all; i++)
		if ((double)mix(t->keys[i].hash ^ salt) < share * 0x1p64)
			t->keys[kept++] = t->keys[i];
	t->count = kept;
	if (kept == all)
		return 0;
	memset(t->slots, 0, t->slot_count * sizeof(*t->slots));
	for (size_t i = 0; i < kept; i++)
		*find_slot(t, t->keys[i].hash, NULL, 0) = (uint32_t)i + 1;
	return all - kept;
}

bool touched_move(struct touched *from, struct touched *to)
{
	for (size_t i = 0; i < from->count; i++) {
		struct touched_table *source = from->tables[i], *target;
		bool is_new;

		target = touched_table(to, source->rel, &is_new);
		if (!target)
			return false;
		target->rel = source->rel;
		for (size_t k = 0; k < source->count; k++)
			touched_add(target, source->keys[k].parts, source->part_count);
		if (source->is_whole)
			touched_whole(target);
		touched_clear(source);
	}
	return true;
}
