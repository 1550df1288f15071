// SPDX-License-Identifier: Apache-2.0
#include "core/framing.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

/*
 * The table of learned ids is an open-addressed hash table that is only added to: readers take no
 * lock. 1. A slot's value is written before its key is published (release), and never again.
 * 2. A full table is replaced by a larger copy behind the atomic pointer; the old one stays until
 * framing_free, since a reader may still be in it (sizes double: the old ones together are no
 * larger than the new one). 3. Writers hold the mutex.
 */
enum { FRAMING_FIRST_SLOTS = 64 };

struct framing_slot {
	_Atomic uint64_t key; /* 0: empty */
	uint64_t value;
};

struct framing_table {
	struct framing_table *older;
	size_t slot_count, used_count;
	struct framing_slot slots[];
};

struct framing_map {
	struct framing_table *_Atomic table;
};

struct framing {
	enum framing_kind kind;
	pthread_mutex_t lock;
	struct framing_map by_fingerprint; /* fingerprint → id + 1 */
	struct framing_map by_id;          /* id + 1 → fingerprint */
};

static struct framing_slot *framing_slot(struct framing_table *t, uint64_t key)
{
	/* Fibonacci hashing: ids are small and dense, fingerprints are random. */
	size_t i = (size_t)((key * 0x9e3779b97f4a7c15) >> 32);
	uint64_t seen;

	for (;; i++) {
		struct framing_slot *s = &t->slots[i & (t->slot_count - 1)];

		seen = atomic_load_explicit(&s->key, memory_order_acquire);
		if (seen == key || seen == 0)
			return s;
	}
}

/* 0 when there is none. */
static uint64_t framing_find(const struct framing_map *m, uint64_t key)
{
	struct framing_table *t = atomic_load_explicit(&m->table, memory_order_acquire);
	struct framing_slot *s;

	if (!t || key == 0)
		return 0;
	s = framing_slot(t, key);
	return atomic_load_explicit(&s->key, memory_order_acquire) == key ? s->value : 0;
}

static void framing_insert(struct framing_table *t, uint64_t key, uint64_t value)
{
	struct framing_slot *s = framing_slot(t, key);

	s->value = value;
	atomic_store_explicit(&s->key, key, memory_order_release);
	t->used_count++;
}

static bool framing_widen(struct framing_map *m)
{
	struct framing_table *old = atomic_load(&m->table), *t;
	size_t n = old ? 2 * old->slot_count : FRAMING_FIRST_SLOTS;

	t = calloc(1, sizeof(*t) + n * sizeof(t->slots[0]));
	if (!t)
		return false;
	t->slot_count = n;
	t->older = old;
	for (size_t i = 0; old && i < old->slot_count; i++)
		if (old->slots[i].key != 0)
			framing_insert(t, old->slots[i].key, old->slots[i].value);
	atomic_store_explicit(&m->table, t, memory_order_release);
	return true;
}

/* Caller holds the mutex. A key that is there keeps its value. */
static bool framing_add(struct framing_map *m, uint64_t key, uint64_t value)
{
	struct framing_table *t = atomic_load(&m->table);

	if (framing_find(m, key) != 0)
		return true;
	if ((!t || 4 * (t->used_count + 1) > 3 * t->slot_count) && !framing_widen(m))
		return false;
	framing_insert(atomic_load(&m->table), key, value);
	return true;
}

static void framing_map_release(struct framing_map *m)
{
	struct framing_table *older;

	for (struct framing_table *t = m->table; t; t = older) {
		older = t->older;
		free(t);
	}
}

struct framing *framing_new(enum framing_kind kind)
{
	struct framing *fr = calloc(1, sizeof(*fr));

	if (!fr)
		return NULL;
	fr->kind = kind;
	pthread_mutex_init(&fr->lock, NULL);
	return fr;
}

void framing_free(struct framing *fr)
{
	if (!fr)
		return;
	framing_map_release(&fr->by_fingerprint);
	framing_map_release(&fr->by_id);
	pthread_mutex_destroy(&fr->lock);
	free(fr);
}

/*
 * A registry may give one schema several ids (one a subject): all are read, the first is written.
 * An id that means another schema already is refused, as are a negative id and no fingerprint.
 */
bool framing_learn(struct framing *fr, uint64_t fingerprint, int32_t id)
{
	uint64_t key = (uint64_t)id + 1, known;
	bool ok;

	if (fingerprint == 0 || id < 0)
		return false;
	pthread_mutex_lock(&fr->lock);
	known = framing_find(&fr->by_id, key);
	ok = (known == 0 || known == fingerprint) && framing_add(&fr->by_id, key, fingerprint) &&
	     framing_add(&fr->by_fingerprint, fingerprint, key);
	pthread_mutex_unlock(&fr->lock);
	return ok;
}

char *framing_put(const struct framing *fr, uint64_t fingerprint, char *p)
{
	uint64_t little = htole64(fingerprint), id;
	uint32_t big;

	if (fr->kind == FRAMING_SINGLE_OBJECT) {
		memcpy(p, "\xc3\x01", 2);
		memcpy(p + 2, &little, 8);
		return p + 10;
	}
	id = framing_find(&fr->by_fingerprint, fingerprint);
	if (id == 0)
		return NULL;
	big = htobe32((uint32_t)(id - 1));
	*p = 0;
	memcpy(p + 1, &big, 4);
	return p + 5;
}

static bool framing_get_single(struct cursor *c, uint64_t *ret_fingerprint, struct fault *f)
{
	struct span s = cursor_bytes(c, 10);
	uint64_t little;

	if (c->cut || memcmp(s.p, "\xc3\x01", 2) != 0)
		return fault(f, FAULT_INPUT,
			     "record does not start with C3 01 and a schema fingerprint: not "
			     "written by foreshadow, or written with a schema registry");
	memcpy(&little, s.p + 2, 8);
	*ret_fingerprint = le64toh(little);
	return true;
}

bool framing_record_id(struct span record, int32_t *ret_id)
{
	struct cursor c = cursor(record);
	uint8_t magic = cursor_u8(&c);
	int32_t id = cursor_i32(&c);

	if (c.cut || magic != 0 || id < 0)
		return false;
	*ret_id = id;
	return true;
}

bool framing_get(const struct framing *fr, struct cursor *c, uint64_t *ret_fingerprint,
		 struct fault *f)
{
	struct span s;
	int32_t id;

	if (fr->kind == FRAMING_SINGLE_OBJECT)
		return framing_get_single(c, ret_fingerprint, f);
	s = cursor_bytes(c, 5);
	if (c->cut || !framing_record_id(s, &id))
		return fault(f, FAULT_INPUT,
			     "record does not start with 00 and a schema id: not written by "
			     "foreshadow, or written without a schema registry");
	*ret_fingerprint = framing_find(&fr->by_id, (uint64_t)id + 1);
	if (*ret_fingerprint == 0)
		return fault(f, FAULT_ENVIRONMENT, "schema id %d is not known (yet)", id);
	return true;
}
