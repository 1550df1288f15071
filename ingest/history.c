// SPDX-License-Identifier: Apache-2.0
#include "ingest/history.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/pg.h"

enum { JSON_MAX_BYTES = 16 << 20 };

/* One version and what it lives in. */
struct entry {
	struct version version;
	struct relation *rel;
	struct arena arena;
	struct entry *older; /* of the same table */
};

/* Tables in a small open-addressing map from oid to the newest version. */
struct history {
	struct history_conf conf;
	struct entry **slots;
	size_t slot_count, table_count;
};

static size_t slot_of(const struct history *v, uint32_t oid)
{
	size_t i = (oid * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (v->slot_count - 1);

	while (v->slots[i] && v->slots[i]->rel->oid != oid)
		i = (i + 1) & (v->slot_count - 1);
	return i;
}

static bool grow(struct history *v)
{
	struct entry **old = v->slots;
	size_t old_count = v->slot_count;

	v->slot_count = old_count ? 2 * old_count : 64;
	v->slots = calloc(v->slot_count, sizeof(*v->slots));
	if (!v->slots) {
		v->slots = old;
		v->slot_count = old_count;
		return false;
	}
	for (size_t i = 0; i < old_count; i++) {
		if (old[i])
			v->slots[slot_of(v, old[i]->rel->oid)] = old[i];
	}
	free(old);
	return true;
}

static void entry_free(struct entry *e)
{
	if (!e)
		return;
	codec_free(e->version.codec);
	arena_release(&e->arena);
	free(e);
}

/* Newest first; records come in the order of their versions, so this is the newest. */
static bool insert(struct history *v, struct entry *e)
{
	size_t i;

	if (2 * (v->table_count + 1) > v->slot_count && !grow(v))
		return false;
	i = slot_of(v, e->rel->oid);
	v->table_count += !v->slots[i];
	e->older = v->slots[i];
	v->slots[i] = e;
	return true;
}

static struct entry *entry_new(struct span json, struct fault *f)
{
	struct entry *e = calloc(1, sizeof(*e));
	struct buf name;
	size_t bytes;

	if (!e) {
		fault(f, FAULT_INTERNAL, "out of memory");
		return NULL;
	}
	arena_init(&e->arena, (size_t)64 << 20);
	if (!relation_read(json, &e->arena, &e->rel, f))
		goto fail;
	bytes = (e->rel->column_count + 1) * sizeof(struct value);
	e->version.rel = e->rel;
	e->version.before = arena_alloc(&e->arena, bytes);
	e->version.after = arena_alloc(&e->arena, bytes);
	buf_init(&name, 4096);
	pg_quote_table(&name, e->rel->target_schema, e->rel->target_table);
	e->version.name = arena_dup(&e->arena, buf_span(&name));
	buf_release(&name);
	if (arena_failed(&e->arena)) {
		fault(f, FAULT_INTERNAL, "out of memory");
		goto fail;
	}
	e->version.codec = codec_new(e->rel, f);
	if (e->version.codec)
		return e;
fail:
	entry_free(e);
	return NULL;
}

/* ---- what control has ---- */

struct load {
	struct history *v;
	struct fault *f;
	bool failed;
};

static bool announce(struct history *v, uint64_t fingerprint, struct span json, struct fault *f)
{
	return !v->conf.announce || v->conf.announce(v->conf.arg, json, fingerprint, f);
}

static void schema_key(uint64_t fingerprint, char *text, size_t n)
{
	snprintf(text, n, "schema/%016" PRIx64, fingerprint);
}

static bool load_relation(void *arg, struct span key, struct span value)
{
	struct load *l = arg;
	struct entry *e = entry_new(value, l->f);

	if (e && !insert(l->v, e)) {
		entry_free(e);
		e = NULL;
		fault(l->f, FAULT_INTERNAL, "out of memory");
	}
	if (!e) {
		fault_in(l->f, "control record %.*s", SPAN_ARG(key));
		l->failed = true;
	}
	return e;
}

/* A registry may have been told, or not, before the last generation ended: telling it again is the
 * same. */
static bool load_schemas(struct history *v, struct fault *f)
{
	struct arena a;
	bool ok = true;

	arena_init(&a, (size_t)64 << 20);
	for (size_t i = 0; ok && i < v->slot_count; i++) {
		for (struct entry *e = v->slots[i]; ok && e; e = e->older) {
			char key[64];
			struct span json;

			arena_reset(&a);
			schema_key(e->rel->fingerprint, key, sizeof(key));
			json = control_get(v->conf.memory.control, span_str(key), &a);
			if (!json.p)
				ok = fault(f, FAULT_LOST, "the control topic has no record %s",
					   key);
			else
				ok = announce(v, e->rel->fingerprint, json, f);
		}
	}
	arena_release(&a);
	return ok;
}

struct history *history_new(const struct history_conf *conf, struct fault *f)
{
	struct history *v = calloc(1, sizeof(*v));
	struct load load = { .v = v, .f = f };

	if (!v || (v->conf = *conf, !grow(v))) {
		fault(f, FAULT_INTERNAL, "out of memory");
		goto fail;
	}
	control_each(conf->memory.control, "relation/", load_relation, &load);
	if (load.failed || (conf->announce && !load_schemas(v, f)))
		goto fail;
	return v;
fail:
	history_free(v);
	return NULL;
}

void history_free(struct history *v)
{
	if (!v)
		return;
	for (size_t i = 0; i < v->slot_count; i++) {
		for (struct entry *e = v->slots[i], *older; e; e = older) {
			older = e->older;
			entry_free(e);
		}
	}
	free(v->slots);
	free(v);
}

static const struct entry *newest(const struct history *v, uint32_t oid)
{
	return v->slots[slot_of(v, oid)];
}

const struct version *history_at(const struct history *v, uint32_t oid, struct position at)
{
	const struct entry *e = newest(v, oid);

	while (e && position_cmp(e->rel->from, at) > 0)
		e = e->older;
	return e ? &e->version : NULL;
}

const struct version *history_from(const struct history *v, uint32_t oid, struct position at)
{
	const struct version *version = history_at(v, oid, at);

	return version && position_cmp(version->rel->from, at) == 0 ? version : NULL;
}

void history_each(const struct history *v, void (*each)(void *arg, const struct version *version),
		  void *arg)
{
	for (size_t i = 0; i < v->slot_count; i++) {
		if (v->slots[i])
			each(arg, &v->slots[i]->version);
	}
}

/* ---- a new version ---- */

static bool is_taken(const struct history *v, uint64_t fingerprint)
{
	for (size_t i = 0; i < v->slot_count; i++) {
		for (const struct entry *e = v->slots[i]; e; e = e->older) {
			if (e->rel->fingerprint == fingerprint)
				return true;
		}
	}
	return false;
}

/* The schema, under the first name whose fingerprint no version of any table has. */
static bool make_schema(const struct history *v, struct relation *rel, struct buf *json,
			struct fault *f)
{
	for (unsigned suffix = 0;; suffix = suffix ? suffix + 1 : rel->version) {
		buf_reset(json);
		if (!codec_schema(v->conf.migration, rel, suffix, json, f) ||
		    !codec_fingerprint(buf_span(json), &rel->fingerprint, f))
			return fault_in(f, "%.*s.%.*s", SPAN_ARG(rel->schema),
					SPAN_ARG(rel->table));
		if (!is_taken(v, rel->fingerprint))
			return true;
	}
}

bool history_add(struct history *v, const struct relation *rel, struct position from,
		 const struct version **ret, struct fault *f)
{
	const struct entry *last = newest(v, rel->oid);
	struct relation made = *rel;
	struct entry *e = NULL;
	struct buf schema, json;
	char key[64];
	bool ok = false;

	buf_init(&schema, JSON_MAX_BYTES);
	buf_init(&json, JSON_MAX_BYTES);
	made.version = last ? last->rel->version + 1 : 1;
	made.from = from;
	if (!make_schema(v, &made, &schema, f))
		goto done;
	if (!relation_write(&made, &json) || buf_failed(&json)) {
		fault(f, FAULT_INTERNAL, "relation %u could not be written", made.oid);
		goto done;
	}
	e = entry_new(buf_span(&json), f);
	if (!e)
		goto done;
	schema_key(made.fingerprint, key, sizeof(key));
	if (!announce(v, made.fingerprint, buf_span(&schema), f) ||
	    !memory_put(&v->conf.memory, key, buf_span(&schema), f))
		goto done;
	snprintf(key, sizeof(key), "relation/%" PRIu32 "/%08" PRIu32, made.oid, made.version);
	if (!memory_put(&v->conf.memory, key, buf_span(&json), f))
		goto done;
	if (!insert(v, e)) {
		fault(f, FAULT_INTERNAL, "out of memory");
		goto done;
	}
	*ret = &e->version;
	ok = true;
done:
	if (!ok)
		entry_free(e);
	buf_release(&schema);
	buf_release(&json);
	return ok;
}
