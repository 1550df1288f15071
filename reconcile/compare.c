// SPDX-License-Identifier: Apache-2.0
#include "reconcile/compare.h"

#include <stdlib.h>

#include "core/clock.h"
#include "core/log.h"
#include "reconcile/narrow.h"

enum {
	TABLE_BYTES = 1 << 30,
	TEXT_BYTES = 64 << 20,
	KEYS_AT_ONCE = 10 * 1000,
	SAID_AGAIN_US = 600 * 1000 * 1000,
};

static bool no_memory(struct fault *f)
{
	return fault(f, FAULT_INTERNAL, "no memory for the rows of a table");
}

/* ---- differences ---- */

bool compare_is_news(struct comparer *c, uint64_t hash)
{
	for (size_t i = 0; i < c->told_count; i++)
		if (c->told[i] == hash)
			return false;
	if (c->told_count == COMPARE_TOLD_MAX)
		return false;
	c->told[c->told_count++] = hash;
	return true;
}

/* Its key, to be compared again. */
static void keep(struct comparer *c, const struct difference *d)
{
	struct touched_part parts[TOUCHED_PARTS_MAX];
	size_t n = touched_parts(d->digest->rel, parts), count = 0;
	struct span texts[TOUCHED_PARTS_MAX + 1], sorted[TOUCHED_PARTS_MAX];
	struct touched_table *t;
	struct arena a;
	bool is_new;

	t = touched_table(&c->differ, d->digest->rel, &is_new);
	if (!t)
		return; /* found, but not kept: see the result */
	arena_init(&a, TEXT_BYTES);
	if (d->digest->has_stream_key && n && digest_key_parts(d->key, &a, texts, n + 1, &count) && count == n) {
		for (size_t i = 0; i < n; i++)
			sorted[i] = texts[parts[i].ordinal];
		touched_add(t, sorted, n);
	} else {
		touched_whole(t);
	}
	arena_release(&a);
}

static void found(void *arg, const struct difference *d)
{
	struct comparer *c = arg;

	keep(c, d);
	if (compare_is_news(c, span_hash(d->digest->label) ^ span_hash(d->key)))
		c->found(c->arg, d);
}

void compare_begin(struct comparer *c)
{
	c->key_count = c->row_count = c->read_count = c->open_count = 0;
	c->source_us = 0;
}

void compare_forget(struct comparer *c)
{
	c->told_count = 0;
}

void compare_release(struct comparer *c)
{
	touched_free(&c->differ);
	c->told_count = 0;
}

/* ---- a table ---- */

/* Its digest, as both servers have it now. *ret_is_live: false: its copy is not complete. */
static bool prepare(struct comparer *c, const struct relation *rel, struct arena *a, struct digest *ret,
		    bool *ret_is_live, struct fault *f)
{
	struct side *source = arena_alloc(a, sizeof(*source)), *target = arena_alloc(a, sizeof(*target));
	struct span copies;

	if (!source || !target)
		return no_memory(f);
	if (!ends_copies(c->ends, c->role, rel, a, &copies, ret_is_live, f))
		return false;
	return !*ret_is_live ||
	       (side_read(c->ends->source, "source", rel->root_schema, rel->root_table, a, source, f) &&
		side_read(c->ends->targets[c->role], ends_role_names[c->role], rel->target_schema, rel->target_table,
			  a, target, f) &&
		digest_make(rel, source, target, a, ret, f));
}

/* ---- tables that cannot be compared ---- */

static uint64_t hash_of(const struct relation *rel)
{
	return span_hash(rel->target_schema) ^ span_hash(rel->target_table) * 3;
}

static struct comparer_refused *find_refused(struct comparer *c, const struct relation *rel)
{
	uint64_t table = hash_of(rel);

	for (size_t i = 0; i < c->refused_count; i++)
		if (c->refused[i].table == table)
			return &c->refused[i];
	return NULL;
}

/* Texts name values, and another row's value is no news. */
static uint64_t hash_of_reason(const struct fault *f)
{
	return span_hash(span_str(*f->sqlstate ? f->sqlstate : f->text));
}

/* To be said: it is for another reason than the last time, the gate is concerned now, or that is long ago. */
static bool is_worth_saying(struct comparer *c, const struct relation *rel, bool holds_gate, const struct fault *f)
{
	struct comparer_refused *r = find_refused(c, rel), now = { hash_of(rel), hash_of_reason(f), clock_us(), holds_gate };
	bool is_known = r && r->why == now.why && r->holds_gate >= holds_gate && now.said_us - r->said_us < SAID_AGAIN_US;

	if (!is_known && (r || c->refused_count < COMPARE_TOLD_MAX))
		*(r ? r : &c->refused[c->refused_count++]) = now;
	return !is_known;
}

/* It was compared to its end. */
static void forget_refused(struct comparer *c, const struct relation *rel)
{
	struct comparer_refused *r = find_refused(c, rel);

	if (r)
		*r = c->refused[--c->refused_count];
}

/* Others are compared. is_waited_for: the gate does not move before this table was compared. */
static bool is_passing(struct comparer *c, const struct relation *rel, bool is_waited_for, struct fault *f)
{
	bool holds_gate = is_waited_for && c->role == ROLE_SHADOW;

	if (!ends_pass_over(c->ends, f)) {
		fault_in(f, "%.*s.%.*s", SPAN_ARG(rel->target_schema), SPAN_ARG(rel->target_table));
		return false;
	}
	if (is_worth_saying(c, rel, holds_gate, f))
		log_error("%.*s.%.*s cannot be compared: %s%s", SPAN_ARG(rel->target_schema), SPAN_ARG(rel->target_table), f->text,
			  holds_gate ? "; the gate stands as long as that is so; next step: set that right; or exclude the table, "
				       "or verify: {window: off}"
				     : "; next step: set that right, or exclude the table");
	fault_reset(f);
	return true;
}

/* ---- keys and chunks ---- */

static void begin(struct comparer *c, struct scrub *scrub, const struct digest *d)
{
	touched_free(&c->differ);
	scrub_init(scrub, c->ends, c->seed);
	scrub->digests[c->role] = d;
	scrub->found = found;
	scrub->arg = c;
}

static enum compared end(struct comparer *c, const struct scrub *scrub)
{
	const struct scrub_result *r = &scrub->results[c->role];

	c->row_count += (size_t)r->row_count;
	c->read_count += scrub->read_count;
	c->open_count += r->open_count;
	if (r->open_count || r->is_cut || (r->found_count && !c->differ.count))
		return COMPARED_OPEN;
	return COMPARED;
}

/* By key, or *ret_done false: no index has them. */
static bool ask_for_keys(struct scrub *scrub, const struct digest *d, const struct touched_table *t, bool *ret_done,
			 struct fault *f)
{
	bool ok = true;

	*ret_done = true;
	for (size_t i = 0; ok && *ret_done && i < t->count; i += KEYS_AT_ONCE) {
		size_t n = t->count - i < KEYS_AT_ONCE ? t->count - i : KEYS_AT_ONCE;
		struct span near[2];
		struct arena a;

		arena_init(&a, TABLE_BYTES);
		ok = narrow(d, t->keys + i, n, t->part_count, &a, near) || no_memory(f);
		*ret_done = ok && near[0].p;
		ok = ok && (!near[0].p || scrub_near(scrub, near, f));
		arena_release(&a);
	}
	return ok;
}

static bool compare_table(struct comparer *c, const struct touched_table *t, const struct digest *d,
			  enum compared *ret, struct fault *f)
{
	bool is_by_key = !t->is_whole && d->has_stream_key;
	struct scrub scrub;
	bool ok;

	begin(c, &scrub, d);
	ok = !is_by_key || ask_for_keys(&scrub, d, t, &is_by_key, f);
	ok = ok && (is_by_key || scrub_table(&scrub, f));
	c->was_whole = !is_by_key;
	c->source_us += scrub.source_us;
	if (!ok)
		return false;
	c->key_count += t->count;
	*ret = end(c, &scrub);
	if (c->was_whole)
		forget_refused(c, t->rel);
	return true;
}

bool compare_keys(struct comparer *c, const struct touched_table *t, enum compared *ret, struct fault *f)
{
	bool ok, is_live = false;
	struct digest d;
	struct arena a;

	*ret = COMPARED_LATER;
	c->was_whole = false;
	arena_init(&a, TABLE_BYTES);
	ok = prepare(c, t->rel, &a, &d, &is_live, f) && (!is_live || compare_table(c, t, &d, ret, f));
	arena_release(&a);
	return ok || is_passing(c, t->rel, true, f);
}

bool compare_chunk(struct comparer *c, const struct relation *rel, bool is_owed, struct span *from, struct arena *a,
		   bool *ret_is_end, enum compared *ret, struct fault *f)
{
	bool ok, is_live = false;
	struct scrub scrub;
	struct digest d;

	*ret = COMPARED_LATER;
	*ret_is_end = false;
	touched_free(&c->differ);
	ok = prepare(c, rel, a, &d, &is_live, f);
	if (!ok || !is_live)
		return ok || is_passing(c, rel, is_owed, f);
	begin(c, &scrub, &d);
	if (c->stride.rows)
		scrub.stride = c->stride;
	ok = scrub_step(&scrub, from, a, ret_is_end, f);
	c->source_us += scrub.source_us;
	if (!ok)
		return is_passing(c, rel, is_owed, f);
	c->stride = scrub.stride;
	*ret = end(c, &scrub);
	if (*ret_is_end)
		forget_refused(c, rel);
	return true;
}

bool compare_canary(struct comparer *c, const struct relation *rel, bool may_be_large, enum canary *ret,
		    struct fault *f)
{
	bool ok, is_live = false;
	struct digest d;
	struct arena a;

	*ret = CANARY_NO_ROW;
	arena_init(&a, TABLE_BYTES);
	ok = prepare(c, rel, &a, &d, &is_live, f) &&
	     (!is_live || (!may_be_large && !d.range_column[DIGEST_SOURCE].p) ||
	      canary_run(c->ends, c->role, &d, c->seed, ret, f));
	arena_release(&a);
	return ok;
}
