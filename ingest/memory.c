// SPDX-License-Identifier: Apache-2.0
#include "ingest/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

enum { PUT_MS = 1000, KEY_BYTES = 64 };

bool memory_put(const struct memory *m, const char *key, struct span value, struct fault *f)
{
	for (;;) {
		struct fault why = { 0 };

		/* A round of thousands of records is a long wait: the source hears from us in it. */
		if (!m->idle(m->arg, 0, f))
			return false;
		if (control_put(m->control, span_str(key), value, PUT_MS, &why))
			return true;
		if (why.kind != FAULT_ENVIRONMENT) {
			if (f)
				*f = why;
			return fault_in(f, "control record %s", key);
		}
	}
}

/* Takes the object. */
static bool put_json(const struct memory *m, const char *key, json_t *json, struct fault *f)
{
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	bool ok = text ? memory_put(m, key, span_str(text), f)
		       : fault(f, FAULT_INTERNAL, "control record %s could not be written", key);

	free(text);
	json_decref(json);
	return ok;
}

static bool lsn_of(const json_t *json, uint64_t *ret)
{
	const char *text = json_string_value(json);

	return text && lsn_parse(span_str(text), ret);
}

static bool broken(const char *key, struct fault *f)
{
	return fault(f, FAULT_INPUT, "control record %s is not what foreshadow writes", key);
}

static bool identity_from(const json_t *json, struct arena *a, struct memory_identity *ret)
{
	const json_t *lsn = json_object_get(json, "slot_lsn");
	const char *system_id = json_string_value(json_object_get(json, "system_id"));
	const char *slot = json_string_value(json_object_get(json, "slot"));
	/* An earlier version wrote none: it knew only this one. */
	const char *unique = json_string_value(json_object_get(json, "unique"));

	*ret = (struct memory_identity) {
		.system_id = system_id ? strtoull(system_id, NULL, 10) : 0,
		.timeline = (uint32_t)json_integer_value(json_object_get(json, "timeline")),
		.slot = slot ? arena_str(a, span_str(slot)) : NULL,
		.has_slot_lsn = lsn && !json_is_null(lsn),
		.partition_count = (int)json_integer_value(json_object_get(json, "partitions")),
		.unique = arena_str(a, span_str(unique ? unique : "early")),
		.generation = (uint64_t)json_integer_value(json_object_get(json, "generation")),
	};
	if (ret->has_slot_lsn && !lsn_of(lsn, &ret->slot_lsn.v))
		return false;
	return ret->system_id && ret->slot && ret->unique && ret->partition_count > 0;
}

bool memory_identity_read(const struct memory *m, struct arena *a, bool *ret_exists,
			  struct memory_identity *ret, struct fault *f)
{
	struct span value = control_get(m->control, span_str("identity"), a);
	json_t *json;
	bool ok;

	*ret_exists = value.p;
	if (!value.p)
		return true;
	json = json_loadb(value.p, value.n, 0, NULL);
	ok = json && identity_from(json, a, ret);
	json_decref(json);
	return ok || broken("identity", f);
}

bool memory_identity_write(const struct memory *m, const struct memory_identity *id,
			   struct fault *f)
{
	char system_id[24], lsn[LSN_TEXT];
	json_t *slot_lsn = id->has_slot_lsn ? json_string(lsn_format(id->slot_lsn.v, lsn))
					    : json_null();

	snprintf(system_id, sizeof(system_id), "%" PRIu64, id->system_id);
	return put_json(m, "identity",
			json_pack("{s:s, s:i, s:s, s:o, s:i, s:s, s:I}", "system_id", system_id,
				  "timeline", (int)id->timeline, "slot", id->slot, "slot_lsn",
				  slot_lsn, "partitions", id->partition_count, "unique", id->unique,
				  "generation", (json_int_t)id->generation),
			f);
}

/* ---- copies ---- */

static const char *const step_names[] = {
	[MEMORY_BEGIN] = "begin",
	[MEMORY_POINT] = "point",
	[MEMORY_COMPLETE] = "complete",
	[MEMORY_VOID] = "void",
};

struct load {
	struct memory_copies *copies;
	size_t cap;
	struct fault *f;
	bool failed;
};

/* Keys come in byte order and attempts have eight digits, but oids do not: sorted at the end. */
static struct memory_copy *load_copy(struct load *l, uint32_t oid, uint32_t attempt)
{
	struct memory_copies *c = l->copies;
	struct memory_copy *last = c->count ? &c->copies[c->count - 1] : NULL;

	if (last && last->oid == oid && last->attempt == attempt)
		return last;
	if (c->count == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 64;
		struct memory_copy *copies = realloc(c->copies, cap * sizeof(*copies));

		if (!copies)
			return NULL;
		c->copies = copies;
		l->cap = cap;
	}
	c->copies[c->count] = (struct memory_copy) { .oid = oid, .attempt = attempt };
	return &c->copies[c->count++];
}

static bool load_step(struct memory_copy *copy, enum memory_copy_step step, struct span value)
{
	json_t *json = json_loadb(value.p, value.n, 0, NULL);
	bool ok = json;

	copy->has[step] = true;
	if (ok && step == MEMORY_BEGIN) {
		ok = lsn_of(json_object_get(json, "boundary"), &copy->begin.v);
		copy->round = (uint64_t)json_integer_value(json_object_get(json, "round"));
	}
	json_decref(json);
	return ok;
}

static bool load_each(void *arg, struct span key, struct span value)
{
	struct load *l = arg;
	char text[KEY_BYTES], name[16];
	uint32_t oid, attempt;
	struct memory_copy *copy;

	snprintf(text, sizeof(text), "%.*s", SPAN_ARG(key));
	l->failed = true;
	if (sscanf(text, "copy/%" SCNu32 "/%" SCNu32 "/%15s", &oid, &attempt, name) != 3)
		return broken(text, l->f);
	copy = load_copy(l, oid, attempt);
	if (!copy)
		return fault(l->f, FAULT_INTERNAL, "out of memory");
	for (size_t i = 0; i < sizeof(step_names) / sizeof(*step_names); i++) {
		if (strcmp(name, step_names[i]) == 0 && !load_step(copy, i, value))
			return broken(text, l->f);
	}
	l->failed = false;
	return true;
}

static int copy_order(const void *a, const void *b)
{
	const struct memory_copy *x = a, *y = b;

	if (x->oid != y->oid)
		return x->oid < y->oid ? -1 : 1;
	return x->attempt < y->attempt ? -1 : x->attempt > y->attempt;
}

bool memory_copies_read(const struct memory *m, struct arena *a, struct memory_copies *ret,
			struct fault *f)
{
	struct load load = { .copies = ret, .f = f };
	struct memory_copy *made;

	*ret = (struct memory_copies) { 0 };
	control_each(m->control, "copy/", load_each, &load);
	made = ret->copies;
	ret->copies = arena_alloc(a, (ret->count + 1) * sizeof(*made));
	if (!load.failed && !ret->copies)
		load.failed = !fault(f, FAULT_INTERNAL, "out of memory");
	if (!load.failed && ret->count) {
		memcpy(ret->copies, made, ret->count * sizeof(*made));
		qsort(ret->copies, ret->count, sizeof(*made), copy_order);
	}
	free(made);
	return !load.failed;
}

static const char *copy_key(uint32_t oid, uint32_t attempt, enum memory_copy_step step, char *text)
{
	snprintf(text, KEY_BYTES, "copy/%" PRIu32 "/%08" PRIu32 "/%s", oid, attempt,
		 step_names[step]);
	return text;
}

bool memory_copy_begin(const struct memory *m, uint64_t generation, uint32_t oid, uint32_t attempt,
		       struct boundary at, uint64_t round, struct fault *f)
{
	char key[KEY_BYTES], lsn[LSN_TEXT];

	return put_json(m, copy_key(oid, attempt, MEMORY_BEGIN, key),
			json_pack("{s:s, s:I, s:I}", "boundary", lsn_format(at.v, lsn), "round",
				  (json_int_t)round, "generation", (json_int_t)generation),
			f);
}

bool memory_copy_point(const struct memory *m, uint64_t generation, uint32_t oid, uint32_t attempt,
		       struct boundary point, struct fault *f)
{
	char key[KEY_BYTES], lsn[LSN_TEXT];

	return put_json(m, copy_key(oid, attempt, MEMORY_POINT, key),
			json_pack("{s:s, s:I}", "boundary", lsn_format(point.v, lsn), "generation",
				  (json_int_t)generation),
			f);
}

bool memory_copy_complete(const struct memory *m, uint64_t generation, uint32_t oid,
			  uint32_t attempt, uint64_t records, struct fault *f)
{
	char key[KEY_BYTES];

	return put_json(m, copy_key(oid, attempt, MEMORY_COMPLETE, key),
			json_pack("{s:I, s:I}", "records", (json_int_t)records, "generation",
				  (json_int_t)generation),
			f);
}

bool memory_copy_void(const struct memory *m, uint64_t generation, uint32_t oid, uint32_t attempt,
		      const char *reason, struct fault *f)
{
	char key[KEY_BYTES];
	json_t *text = json_string(reason); /* NULL: a message cut inside a character */

	return put_json(m, copy_key(oid, attempt, MEMORY_VOID, key),
			json_pack("{s:o, s:I}", "reason", text ? text : json_string("not readable"),
				  "generation", (json_int_t)generation),
			f);
}
