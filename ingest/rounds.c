// SPDX-License-Identifier: Apache-2.0
#include "ingest/rounds.h"

#include <stdlib.h>

#include "core/clock.h"
#include "core/failpoint.h"
#include "core/log.h"
#include "ingest/constraints.h"

enum {
	ARENA_BYTES = 256 << 20,
	EMIT_US = 500 * 1000,
	PAUSE_FIRST_US = 1000 * 1000,
	PAUSE_LAST_US = 30 * 1000 * 1000,
};

enum round_state { ROUND_IDLE, ROUND_ANNOUNCED, ROUND_COPYING, ROUND_PAUSED };
static const char *const state_names[] = { "idle", "announced", "copying", "paused" };

struct table {
	uint32_t oid, attempt; /* newest attempt; 0: none */
	bool is_complete;
	bool is_void; /* of a begun attempt: copied again in another round */
	bool is_in_round;
	bool is_reshaped; /* to be made void at the next step */
};

struct rounds {
	struct rounds_conf conf;
	struct arena arena;
	enum round_state state;
	struct table *tables;
	size_t table_count;
	struct stream_copy *begun;
	size_t begun_count;
	struct boundary newest; /* boundary of the newest round */
	uint64_t round;
	struct copy *copy;
	bool has_point;
	struct boundary point;
	int64_t emitted_us, paused_until_us, pause_us;
};

static void state_set(struct rounds *r, enum round_state state, const char *why)
{
	if (r->state != state)
		log_debug("copy round %llu: %s -> %s: %s", (unsigned long long)r->round,
			  state_names[r->state], state_names[state], why);
	r->state = state;
}

static struct table *table_find(const struct rounds *r, uint32_t oid)
{
	for (size_t i = 0; i < r->table_count; i++) {
		if (r->tables[i].oid == oid)
			return &r->tables[i];
	}
	return NULL;
}

static const struct version *newest_version(const struct rounds *r, uint32_t oid)
{
	const struct position last = { { UINT64_MAX }, UINT64_MAX };

	return history_at(r->conf.history, oid, last);
}

/* ---- what an earlier generation left ---- */

static bool void_incomplete(const struct rounds *r, const struct memory_copies *copies,
			    struct fault *f)
{
	for (size_t i = 0; i < copies->count; i++) {
		const struct memory_copy *c = &copies->copies[i];

		if (!c->has[MEMORY_BEGIN] || c->has[MEMORY_COMPLETE] || c->has[MEMORY_VOID])
			continue;
		if (!memory_copy_void(&r->conf.memory, r->conf.generation, c->oid, c->attempt,
				      "the ingest that copied it ended", f))
			return false;
		log_info("copy void table=%u attempt=%u reason=\"the ingest that copied it ended\"",
			 c->oid, c->attempt);
	}
	return true;
}

static void take_attempts(struct rounds *r, const struct memory_copies *copies)
{
	for (size_t i = 0; i < copies->count; i++) {
		const struct memory_copy *c = &copies->copies[i];
		struct table *t = table_find(r, c->oid);

		if (boundary_cmp(c->begin, r->newest) > 0)
			r->newest = c->begin;
		if (c->round > r->round)
			r->round = c->round;
		if (!t)
			continue;
		t->attempt = c->attempt;
		t->is_complete = memory_copy_is_whole(c);
	}
}

/* What is copied was written by the mapping of then; the rest of the stream must be too. */
static bool check_mapping(const struct rounds *r, struct fault *f)
{
	const struct migration *m = r->conf.migration;

	for (size_t i = 0; i < r->table_count; i++) {
		const struct relation *now = r->conf.catalog->relations[i];
		const struct version *v = newest_version(r, now->oid);

		if (r->tables[i].is_complete && v && !relation_keeps_mapping(now, v->rel))
			return catalog_refuse_mapping(m, now, v->rel, f);
	}
	return true;
}

static int begin_order(const void *a, const void *b)
{
	const struct memory_copy *x = a, *y = b;
	int order = boundary_cmp(x->begin, y->begin);

	return order ? order : (x->oid > y->oid) - (x->oid < y->oid);
}

/* Groups the begin records by boundary: one COPY event each. */
static bool group_begun(struct rounds *r, const struct memory_copies *copies, struct fault *f)
{
	struct memory_copy *sorted = arena_alloc(&r->arena, (copies->count + 1) * sizeof(*sorted));
	struct exclusive_table *tables = arena_alloc(&r->arena,
						     (copies->count + 1) * sizeof(*tables));
	size_t n = 0;

	r->begun = arena_alloc(&r->arena, (copies->count + 1) * sizeof(*r->begun));
	if (arena_failed(&r->arena))
		return fault(f, FAULT_INTERNAL, "out of memory");
	for (size_t i = 0; i < copies->count; i++) {
		if (copies->copies[i].has[MEMORY_BEGIN] &&
		    boundary_cmp(copies->copies[i].begin, r->conf.confirmed) >= 0)
			sorted[n++] = copies->copies[i];
	}
	qsort(sorted, n, sizeof(*sorted), begin_order);
	for (size_t i = 0; i < n; i++) {
		struct stream_copy *last = r->begun_count ? &r->begun[r->begun_count - 1] : NULL;

		if (!last || boundary_cmp(last->at, sorted[i].begin) != 0) {
			last = &r->begun[r->begun_count++];
			*last = (struct stream_copy) { .at = sorted[i].begin,
						       .tables = &tables[i] };
		}
		last->tables[last->table_count++] = (struct exclusive_table) {
			.oid = sorted[i].oid, .attempt = sorted[i].attempt
		};
	}
	return true;
}

struct rounds *rounds_new(const struct rounds_conf *conf, struct fault *f)
{
	struct rounds *r = calloc(1, sizeof(*r));
	struct memory_copies copies;

	if (!r) {
		fault(f, FAULT_INTERNAL, "out of memory");
		return NULL;
	}
	r->conf = *conf;
	r->newest = conf->origin;
	r->pause_us = PAUSE_FIRST_US;
	arena_init(&r->arena, ARENA_BYTES);
	r->table_count = conf->catalog->relation_count;
	r->tables = arena_alloc(&r->arena, (r->table_count + 1) * sizeof(*r->tables));
	if (!r->tables) {
		fault(f, FAULT_INTERNAL, "out of memory");
		goto fail;
	}
	for (size_t i = 0; i < r->table_count; i++)
		r->tables[i].oid = conf->catalog->relations[i]->oid;
	if (!memory_copies_read(&conf->memory, &r->arena, &copies, f) ||
	    !void_incomplete(r, &copies, f) || !group_begun(r, &copies, f))
		goto fail;
	take_attempts(r, &copies);
	if (check_mapping(r, f))
		return r;
fail:
	rounds_free(r);
	return NULL;
}

void rounds_free(struct rounds *r)
{
	if (!r)
		return;
	copy_free(r->copy);
	arena_release(&r->arena);
	free(r);
}

const struct stream_copy *rounds_begun(const struct rounds *r, size_t *ret_count)
{
	*ret_count = r->begun_count;
	return r->begun;
}

/* ---- a round begins ---- */

/* Does the catalog still say what the newest versions say? *ret_changed: new versions were made. */
static bool refresh_versions(struct rounds *r, struct boundary at, bool *ret_changed,
			     struct fault *f)
{
	struct catalog now;
	struct arena a;
	bool ok;

	arena_init(&a, ARENA_BYTES);
	*ret_changed = false;
	ok = catalog_read(r->conf.plain, r->conf.migration, &a, &now, f);
	for (size_t i = 0; ok && i < now.relation_count; i++) {
		struct relation *rel = now.relations[i];
		const struct table *t = table_find(r, rel->oid);
		const struct version *v = newest_version(r, rel->oid);

		if (!t || t->is_complete || !v ||
		    (relation_same_shape(rel, v->rel) && relation_same_mapping(rel, v->rel)))
			continue;
		constraints_follow(rel, v->rel);
		ok = history_add(r->conf.history, rel, position_at(at), &v, f);
		*ret_changed = true;
	}
	arena_release(&a);
	return ok;
}

static bool begin_table(struct rounds *r, struct table *t, struct boundary at, struct fault *f)
{
	if (!memory_copy_begin(&r->conf.memory, r->conf.generation, t->oid, t->attempt + 1, at,
			       r->round, f))
		return false;
	t->attempt++;
	t->is_in_round = true;
	t->is_void = t->is_reshaped = false;
	return true;
}

static bool begin(struct rounds *r, struct stream *s, struct fault *f)
{
	struct stream_copy event = { .at = stream_boundary(s) };
	bool has_changed;
	bool ok = false;
	char text[LSN_TEXT];

	if (!refresh_versions(r, event.at, &has_changed, f))
		return false;
	if (has_changed)
		return fault(f, FAULT_ENVIRONMENT,
			     "a table was altered before its copy: the stream begins anew with its "
			     "new shape");
	event.tables = calloc(r->table_count, sizeof(*event.tables));
	if (!event.tables)
		return fault(f, FAULT_INTERNAL, "out of memory");
	r->round++;
	r->newest = event.at;
	for (size_t i = 0; i < r->table_count; i++) {
		struct table *t = &r->tables[i];

		t->is_in_round = false;
		if (t->is_complete)
			continue;
		if (!begin_table(r, t, event.at, f))
			goto done;
		event.tables[event.table_count++] = (struct exclusive_table) {
			.oid = t->oid, .attempt = t->attempt
		};
	}
	failpoint("ingest.copy_recorded");
	if (!stream_copy(s, &event, f))
		goto done;
	publish_mark(r->conf.publish);
	log_info("copy round begins round=%llu tables=%zu boundary=%s",
		 (unsigned long long)r->round, event.table_count, lsn_format(event.at.v, text));
	state_set(r, ROUND_ANNOUNCED, "the copy event is on its way");
	ok = true;
done:
	free(event.tables);
	return ok;
}

static bool begin_if_possible(struct rounds *r, struct stream *s, int64_t now_us, struct fault *f)
{
	uint64_t lsn;

	if (rounds_is_done(r) || !stream_is_at_boundary(s))
		return true;
	if (boundary_cmp(stream_boundary(s), r->newest) > 0)
		return begin(r, s, f);
	if (now_us - r->emitted_us < EMIT_US)
		return true;
	r->emitted_us = now_us;
	return source_emit(r->conf.plain, "round", &lsn, f);
}

/* ---- it is announced everywhere: copy ---- */

static bool make_void(struct rounds *r, struct table *t, const char *reason, struct fault *f)
{
	const struct version *v = newest_version(r, t->oid);

	if (t->is_void || t->is_complete)
		return true;
	t->is_void = true;
	log_warn("copy void table=%.*s attempt=%u reason=\"%s\"", SPAN_ARG(v->name), t->attempt,
		 reason);
	return memory_copy_void(&r->conf.memory, r->conf.generation, t->oid, t->attempt, reason, f);
}

/* Shapes that changed since the last step, while the copy is not running yet. */
static bool void_reshaped(struct rounds *r, struct fault *f)
{
	for (size_t i = 0; i < r->table_count; i++) {
		struct table *t = &r->tables[i];

		if (!t->is_reshaped)
			continue;
		t->is_reshaped = false;
		if (t->is_in_round && !make_void(r, t, "its shape changed", f))
			return false;
	}
	return true;
}

static bool end_round(struct rounds *r, const char *why, int64_t pause_us)
{
	copy_free(r->copy);
	r->copy = NULL;
	r->has_point = false;
	if (rounds_is_done(r) || pause_us == 0) {
		state_set(r, ROUND_IDLE, why);
		return true;
	}
	r->paused_until_us = clock_us() + pause_us;
	r->pause_us = r->pause_us * 2 > PAUSE_LAST_US ? PAUSE_LAST_US : r->pause_us * 2;
	state_set(r, ROUND_PAUSED, why);
	return true;
}

static bool start_copy(struct rounds *r, struct fault *f)
{
	struct copy_table *tables = calloc(r->table_count, sizeof(*tables));
	struct copy_conf conf = { .m = r->conf.migration,
				  .framing = r->conf.framing,
				  .producer = publish_client(r->conf.publish),
				  .generation = r->conf.generation,
				  .tables = tables };

	if (!tables)
		return fault(f, FAULT_INTERNAL, "out of memory");
	for (size_t i = 0; i < r->table_count; i++) {
		const struct table *t = &r->tables[i];
		const struct version *v = newest_version(r, t->oid);

		if (t->is_in_round && !t->is_void && !t->is_complete)
			tables[conf.table_count++] = (struct copy_table) { v->rel, v->codec,
									   t->attempt };
	}
	failpoint("ingest.copy_begun");
	if (conf.table_count > 0)
		r->copy = copy_new(&conf, f);
	free(tables);
	if (conf.table_count == 0)
		return end_round(r, "every table's shape changed", r->pause_us);
	if (!r->copy)
		return false;
	state_set(r, ROUND_COPYING, "the copy event is acknowledged");
	return true;
}

/* ---- what the copy says ---- */

static bool take_point(struct rounds *r, struct boundary point, struct fault *f)
{
	char text[LSN_TEXT];

	r->has_point = true;
	r->point = point;
	for (size_t i = 0; i < r->table_count; i++) {
		const struct table *t = &r->tables[i];

		if (t->is_in_round && !t->is_void && !t->is_complete &&
		    !memory_copy_point(&r->conf.memory, r->conf.generation, t->oid, t->attempt,
				       point, f))
			return false;
	}
	log_info("copy point round=%llu point=%s", (unsigned long long)r->round,
		 lsn_format(point.v, text));
	failpoint("ingest.copy_point");
	return true;
}

static bool take_complete(struct rounds *r, const struct copy_event *e, struct fault *f)
{
	struct table *t = table_find(r, e->oid);

	if (!t || t->attempt != e->attempt)
		return true;
	failpoint("ingest.copy_complete");
	if (!memory_copy_complete(&r->conf.memory, r->conf.generation, e->oid, e->attempt,
				  e->records, f))
		return false;
	t->is_complete = true;
	log_info("copy complete table=%.*s attempt=%u rows=%llu",
		 SPAN_ARG(newest_version(r, e->oid)->name), e->attempt,
		 (unsigned long long)e->records);
	return true;
}

static bool void_all(struct rounds *r, const char *reason, struct fault *f)
{
	for (size_t i = 0; i < r->table_count; i++) {
		if (r->tables[i].is_in_round && !make_void(r, &r->tables[i], reason, f))
			return false;
	}
	return true;
}

static bool take_failed(struct rounds *r, const struct copy_event *e, struct fault *f)
{
	if (!void_all(r, e->fault.text, f))
		return false;
	if (e->fault.kind != FAULT_ENVIRONMENT) {
		if (f)
			*f = e->fault;
		return fault_in(f, "copy");
	}
	return end_round(r, "it failed", r->pause_us);
}

static bool take_event(struct rounds *r, const struct copy_event *e, struct fault *f)
{
	struct table *t;

	switch (e->kind) {
	case COPY_POINT:
		return take_point(r, e->point, f);
	case COPY_COMPLETE:
		return take_complete(r, e, f);
	case COPY_VOID:
		t = table_find(r, e->oid);
		return !t || t->attempt != e->attempt || make_void(r, t, e->fault.text, f);
	case COPY_END:
		log_info("copy round ends round=%llu", (unsigned long long)r->round);
		if (rounds_is_done(r))
			r->pause_us = PAUSE_FIRST_US;
		return end_round(r, "every table is complete or void", r->pause_us);
	case COPY_FAILED:
		return take_failed(r, e, f);
	}
	return true;
}

static bool take_events(struct rounds *r, struct fault *f)
{
	struct copy_event e;

	while (r->copy && copy_next(r->copy, &e)) {
		if (!take_event(r, &e, f))
			return false;
	}
	return true;
}

bool rounds_step(struct rounds *r, struct stream *s, int64_t now_us, struct fault *f)
{
	switch (r->state) {
	case ROUND_IDLE:
		return begin_if_possible(r, s, now_us, f);
	case ROUND_ANNOUNCED:
		if (!publish_mark_reached(r->conf.publish))
			return true;
		return void_reshaped(r, f) && start_copy(r, f);
	case ROUND_COPYING:
		return take_events(r, f);
	case ROUND_PAUSED:
		if (now_us >= r->paused_until_us)
			state_set(r, ROUND_IDLE, "the pause is over");
		return true;
	}
	return true;
}

int rounds_fd(const struct rounds *r)
{
	return r->copy ? copy_fd(r->copy) : -1;
}

void rounds_delivered(struct rounds *r, const rd_kafka_message_t *m)
{
	if (r->copy && copy_is_message(m))
		copy_delivered(r->copy, m);
}

void rounds_reshaped(struct rounds *r, uint32_t oid, struct position at)
{
	struct table *t = table_find(r, oid);

	if (!t || !t->is_in_round || t->is_complete || t->is_void)
		return;
	if (r->state == ROUND_ANNOUNCED)
		t->is_reshaped = true;
	else if (r->copy && (!r->has_point || boundary_has(r->point, at.commit)))
		copy_void(r->copy, oid, "its shape changed at or before the copy's point");
}

bool rounds_is_done(const struct rounds *r)
{
	size_t complete, tables;

	rounds_count(r, &complete, &tables);
	return complete == tables;
}

void rounds_count(const struct rounds *r, size_t *ret_complete, size_t *ret_tables)
{
	*ret_complete = 0;
	*ret_tables = r->table_count;
	for (size_t i = 0; i < r->table_count; i++)
		*ret_complete += r->tables[i].is_complete;
}

size_t rounds_progress(const struct rounds *r, struct copy_progress *progress, struct span *names,
		       size_t max)
{
	size_t n = r->copy ? copy_table_count(r->copy) : 0;

	if (n > max)
		n = max;
	for (size_t i = 0; i < n; i++) {
		copy_progress(r->copy, i, &progress[i]);
		names[i] = newest_version(r, progress[i].oid)->name;
	}
	return n;
}
