// SPDX-License-Identifier: Apache-2.0
#include "shadow/versions.h"

#include <pthread.h>
#include <stdlib.h>

/* One version. */
struct version {
	struct version *next;
	struct codec *codec;
	struct arena arena;
	struct relation *rel;
};

enum { VERSIONS_BUCKETS = 1024, VERSION_MAX_BYTES = 16 * 1024 * 1024 };

struct versions {
	struct control *control;
	pthread_mutex_t lock;
	uint64_t seen; /* control_version at the last look */
	struct version *buckets[VERSIONS_BUCKETS]; /* by OID */
	struct fault fault; /* of a version that could not be read */
};

struct versions *versions_new(struct control *control)
{
	struct versions *v = calloc(1, sizeof(*v));

	if (!v)
		return NULL;
	v->control = control;
	v->seen = UINT64_MAX;
	pthread_mutex_init(&v->lock, NULL);
	return v;
}

static void version_free(struct version *version)
{
	codec_free(version->codec);
	arena_release(&version->arena);
	free(version);
}

void versions_free(struct versions *v)
{
	if (!v)
		return;
	for (size_t i = 0; i < VERSIONS_BUCKETS; i++)
		for (struct version *e = v->buckets[i], *next; e; e = next) {
			next = e->next;
			version_free(e);
		}
	pthread_mutex_destroy(&v->lock);
	free(v);
}

static bool versions_has(const struct versions *v, uint32_t oid, uint32_t version)
{
	for (struct version *e = v->buckets[oid % VERSIONS_BUCKETS]; e; e = e->next)
		if (e->rel->oid == oid && e->rel->version == version)
			return true;
	return false;
}

static bool versions_learn(void *arg, struct span key, struct span value)
{
	struct versions *v = arg;
	struct version *e;
	uint32_t oid, number;

	if (!relation_of_record(key, &oid, &number) || versions_has(v, oid, number))
		return true;
	e = calloc(1, sizeof(*e));
	if (!e)
		return fault(&v->fault, FAULT_INTERNAL, "no memory for relation %.*s", SPAN_ARG(key));
	arena_init(&e->arena, VERSION_MAX_BYTES);
	if (!relation_read(value, &e->arena, &e->rel, &v->fault) ||
	    !(e->codec = codec_new(e->rel, &v->fault))) {
		fault_in(&v->fault, "%.*s in the control topic", SPAN_ARG(key));
		version_free(e);
		return true;
	}
	e->next = v->buckets[e->rel->oid % VERSIONS_BUCKETS];
	v->buckets[e->rel->oid % VERSIONS_BUCKETS] = e;
	return true;
}

/* With the lock held: reads what is new in control. true: something may be. */
static bool versions_look(struct versions *v)
{
	uint64_t version = control_version(v->control);

	if (version == v->seen)
		return false;
	v->seen = version;
	fault_reset(&v->fault);
	control_each(v->control, "relation/", versions_learn, v);
	return true;
}

static const struct codec *versions_by_fingerprint(struct versions *v, uint64_t fingerprint)
{
	for (size_t i = 0; i < VERSIONS_BUCKETS; i++)
		for (struct version *e = v->buckets[i]; e; e = e->next)
			if (e->rel->fingerprint == fingerprint)
				return e->codec;
	return NULL;
}

static const struct codec *versions_by_number(struct versions *v, uint32_t oid, uint32_t version)
{
	for (struct version *e = v->buckets[oid % VERSIONS_BUCKETS]; e; e = e->next)
		if (e->rel->oid == oid && e->rel->version == version)
			return e->codec;
	return NULL;
}

const struct codec *versions_codec(struct versions *v, uint64_t fingerprint, struct fault *f)
{
	const struct codec *codec;

	pthread_mutex_lock(&v->lock);
	codec = versions_by_fingerprint(v, fingerprint);
	if (!codec && versions_look(v))
		codec = versions_by_fingerprint(v, fingerprint);
	if (!codec)
		*f = v->fault;
	pthread_mutex_unlock(&v->lock);
	return codec;
}

const struct codec *versions_relation(struct versions *v, uint32_t oid, uint32_t version,
				      struct fault *f)
{
	const struct codec *codec;

	pthread_mutex_lock(&v->lock);
	codec = versions_by_number(v, oid, version);
	if (!codec && versions_look(v))
		codec = versions_by_number(v, oid, version);
	if (!codec)
		*f = v->fault;
	pthread_mutex_unlock(&v->lock);
	return codec;
}

/* Is rel the newest version of its table at this position? */
static bool versions_is_newest(const struct versions *v, const struct relation *rel,
			       struct position at)
{
	for (struct version *e = v->buckets[rel->oid % VERSIONS_BUCKETS]; e; e = e->next)
		if (e->rel->oid == rel->oid && e->rel->version > rel->version &&
		    position_cmp(e->rel->from, at) <= 0)
			return false;
	return position_cmp(rel->from, at) <= 0;
}

size_t versions_leaf_count(struct versions *v, const struct relation *rel, struct position at)
{
	size_t count = 0;

	pthread_mutex_lock(&v->lock);
	versions_look(v);
	for (size_t i = 0; i < VERSIONS_BUCKETS; i++)
		for (struct version *e = v->buckets[i]; e; e = e->next)
			count += span_eq(e->rel->root_schema, rel->root_schema) &&
				 span_eq(e->rel->root_table, rel->root_table) &&
				 versions_is_newest(v, e->rel, at);
	pthread_mutex_unlock(&v->lock);
	return count;
}
