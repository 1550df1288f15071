// SPDX-License-Identifier: Apache-2.0
#include "reconcile/known.h"

#include <stdlib.h>

#include "core/clock.h"

enum { VERSIONS_BYTES = 1 << 30, PATIENCE_US = 5 * 1000 * 1000, POLL_MS = 100 };

struct known {
	struct control *control;
	struct arena arena;
	struct codec **codecs; /* in order of (oid, version) */
	size_t count, cap;
	const struct codec *last; /* that was found */
	const struct relation **newest;
	size_t newest_count;
	uint64_t seen; /* control_version at the last look */
	struct fault fault;
};

static bool has(const struct known *k, uint32_t oid, uint32_t version)
{
	for (size_t i = 0; i < k->count; i++) {
		const struct relation *rel = codec_relation(k->codecs[i]);

		if (rel->oid == oid && rel->version == version)
			return true;
	}
	return false;
}

static bool no_memory(struct known *k)
{
	return fault(&k->fault, FAULT_INTERNAL, "no memory for the versions of the tables");
}

static bool learn(void *arg, struct span key, struct span value)
{
	struct known *k = arg;
	struct relation *rel;
	struct codec **codecs;
	uint32_t oid, version;

	/* Before it is read: control changes all the time, by our own records too, and what was read stays. */
	if (!relation_of_record(key, &oid, &version) || has(k, oid, version))
		return true;
	if (!relation_read(value, &k->arena, &rel, &k->fault))
		return fault_in(&k->fault, "%.*s in the control topic", SPAN_ARG(key));
	if (k->count == k->cap) {
		k->cap = k->cap ? 2 * k->cap : 64;
		codecs = realloc(k->codecs, k->cap * sizeof(*codecs));
		if (!codecs)
			return no_memory(k);
		k->codecs = codecs;
	}
	k->codecs[k->count] = codec_new(rel, &k->fault);
	if (!k->codecs[k->count])
		return false;
	k->count++;
	return true;
}

static int compare(const void *a, const void *b)
{
	const struct relation *x = codec_relation(*(struct codec *const *)a);
	const struct relation *y = codec_relation(*(struct codec *const *)b);

	if (x->oid != y->oid)
		return x->oid < y->oid ? -1 : 1;
	return x->version < y->version ? -1 : x->version > y->version;
}

/* Reads what control has by now. */
static bool look(struct known *k)
{
	uint64_t version = control_version(k->control);
	const struct relation **newest;

	if (version == k->seen)
		return true;
	k->seen = version;
	fault_reset(&k->fault);
	control_each(k->control, "relation/", learn, k);
	if (k->fault.kind != FAULT_NONE)
		return false;
	if (k->count)
		qsort(k->codecs, k->count, sizeof(*k->codecs), compare);
	newest = realloc(k->newest, (k->count + 1) * sizeof(*newest));
	if (!newest)
		return no_memory(k);
	k->newest = newest;
	k->newest_count = 0;
	for (size_t i = 0; i < k->count; i++) {
		const struct relation *rel = codec_relation(k->codecs[i]);

		if (k->newest_count && newest[k->newest_count - 1]->oid == rel->oid)
			k->newest_count--;
		newest[k->newest_count++] = rel;
	}
	return true;
}

struct known *known_new(struct control *control, struct fault *f)
{
	struct known *k = calloc(1, sizeof(*k));

	if (!k) {
		fault(f, FAULT_INTERNAL, "no memory for the versions of the tables");
		return NULL;
	}
	k->control = control;
	k->seen = UINT64_MAX;
	arena_init(&k->arena, VERSIONS_BYTES);
	if (look(k))
		return k;
	if (f)
		*f = k->fault;
	known_free(k);
	return NULL;
}

void known_free(struct known *k)
{
	if (!k)
		return;
	for (size_t i = 0; i < k->count; i++)
		codec_free(k->codecs[i]);
	free(k->codecs);
	free(k->newest);
	arena_release(&k->arena);
	free(k);
}

/* Records of one table often follow each other. */
static const struct codec *find(struct known *k, uint64_t fingerprint)
{
	if (k->last && codec_relation(k->last)->fingerprint == fingerprint)
		return k->last;
	for (size_t i = 0; i < k->count; i++)
		if (codec_relation(k->codecs[i])->fingerprint == fingerprint)
			return k->last = k->codecs[i];
	return NULL;
}

const struct codec *known_codec(struct known *k, uint64_t fingerprint)
{
	int64_t give_up_us = clock_us() + PATIENCE_US;
	const struct codec *c = find(k, fingerprint);

	/* It was written before the record was, but to another topic: we may be ahead of it. */
	while (!c && look(k)) {
		c = find(k, fingerprint);
		if (c || clock_us() > give_up_us)
			break;
		control_wait(k->control, k->seen, POLL_MS);
	}
	return c;
}

const struct relation *known_relation(struct known *k, uint32_t oid)
{
	for (int tries = 0; tries < 2; tries++) {
		for (size_t i = 0; i < k->newest_count; i++)
			if (k->newest[i]->oid == oid)
				return k->newest[i];
		if (!look(k))
			break;
	}
	return NULL;
}

size_t known_count(const struct known *k)
{
	return k->newest_count;
}

const struct relation *known_newest(const struct known *k, size_t i)
{
	return k->newest[i];
}

size_t known_version_count(const struct known *k)
{
	return k->count;
}

const struct relation *known_version(const struct known *k, size_t i)
{
	return codec_relation(k->codecs[i]);
}

bool known_look(struct known *k, struct fault *f)
{
	if (look(k))
		return true;
	*f = k->fault;
	return false;
}
