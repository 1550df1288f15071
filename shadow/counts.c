// SPDX-License-Identifier: Apache-2.0
#include "shadow/counts.h"

#include <stdlib.h>
#include <string.h>

enum { SLOTS_FIRST = 64 };

void counts_release(struct counts *c)
{
	free(c->rows);
	free(c->slots);
	*c = (struct counts) { NULL };
}

void counts_reset(struct counts *c)
{
	if (c->count)
		memset(c->slots, 0, c->slot_count * sizeof(*c->slots));
	c->count = 0;
}

static size_t slot_of(const struct counts *c, int partition, uint32_t oid)
{
	uint64_t hash = ((uint64_t)oid << 16 ^ (uint64_t)partition) * UINT64_C(0x9e3779b97f4a7c15);
	size_t i = (size_t)(hash >> 32) & (c->slot_count - 1);

	while (c->slots[i] && (c->rows[c->slots[i] - 1].oid != oid || c->rows[c->slots[i] - 1].partition != partition))
		i = (i + 1) & (c->slot_count - 1);
	return i;
}

/* Room for one row more. */
static bool grow(struct counts *c)
{
	size_t n = c->slot_count ? 2 * c->slot_count : SLOTS_FIRST;
	struct count *rows;
	uint32_t *slots;

	if (c->count < c->cap)
		return true;
	rows = realloc(c->rows, n / 2 * sizeof(*rows));
	if (!rows)
		return false;
	c->rows = rows;
	slots = calloc(n, sizeof(*slots));
	if (!slots)
		return false;
	free(c->slots);
	c->slots = slots;
	c->slot_count = n;
	c->cap = n / 2;
	for (size_t i = 0; i < c->count; i++)
		c->slots[slot_of(c, rows[i].partition, rows[i].oid)] = (uint32_t)i + 1;
	return true;
}

struct count *counts_at(struct counts *c, int partition, uint32_t oid)
{
	size_t slot;

	if (!grow(c))
		return NULL;
	slot = slot_of(c, partition, oid);
	if (!c->slots[slot]) {
		c->rows[c->count] = (struct count) { .partition = partition, .oid = oid };
		c->slots[slot] = (uint32_t)++c->count;
	}
	return &c->rows[c->slots[slot] - 1];
}

/* ---- what is not applied ---- */

void count_notes_release(struct count_notes *notes)
{
	free(notes->runs);
	*notes = (struct count_notes) { NULL };
}

void count_notes_reach(struct count_notes *notes, uint64_t ordinal)
{
	while (notes->count) {
		struct count_run *last = &notes->runs[notes->count - 1];

		if (last->first + last->n <= ordinal)
			return;
		if (last->first < ordinal) {
			last->n = (uint32_t)(ordinal - last->first);
			return;
		}
		notes->count--;
	}
}

bool count_notes_add(struct count_notes *notes, uint64_t ordinal, uint32_t oid, bool is_passed)
{
	struct count_run *last = notes->count ? &notes->runs[notes->count - 1] : NULL;

	if (last && last->oid == oid && last->is_passed == is_passed && last->first + last->n == ordinal &&
	    last->n < UINT32_MAX) {
		last->n++;
		return true;
	}
	if (notes->count == notes->cap) {
		size_t cap = notes->cap ? 2 * notes->cap : 64;
		struct count_run *runs = realloc(notes->runs, cap * sizeof(*runs));

		if (!runs)
			return false;
		notes->runs = runs;
		notes->cap = cap;
	}
	notes->runs[notes->count++] = (struct count_run) { ordinal, 1, oid, is_passed };
	return true;
}

bool count_notes_sum(const struct count_notes *notes, uint64_t above, uint64_t to, int partition, struct counts *ret)
{
	for (size_t i = 0; i < notes->count; i++) {
		const struct count_run *r = &notes->runs[i];
		uint64_t last = r->first + r->n - 1;
		uint64_t begin = r->first > above ? r->first : above + 1, end = last < to ? last : to;
		struct count *count;

		if (begin > end)
			continue;
		count = counts_at(ret, partition, r->oid);
		if (!count)
			return false;
		*(r->is_passed ? &count->passed : &count->covered) += end - begin + 1;
	}
	return true;
}

void count_notes_forget(struct count_notes *notes, uint64_t to)
{
	size_t n = 0;

	while (n < notes->count && notes->runs[n].first + notes->runs[n].n - 1 <= to)
		n++;
	notes->count -= n;
	if (n && notes->count)
		memmove(notes->runs, notes->runs + n, notes->count * sizeof(*notes->runs));
}
