// SPDX-License-Identifier: Apache-2.0
/* passes - the scrub: chunk by chunk between two windows, over all tables, again and again. */
#include <stdlib.h>
#include <time.h>

#include "core/clock.h"
#include "core/log.h"
#include "reconcile/session.h"

enum {
	CHUNK_TEXT_BYTES = 1 << 30,
	LATER_US = 1000 * 1000,    /* before what could not be scrubbed is tried again */
	OPEN_TRIES = 3,            /* of a chunk; then a pass goes on without it */
};

static const struct relation *find_relation(const struct session *s, const struct walk_table *t)
{
	for (size_t i = 0; i < known_count(s->known); i++) {
		const struct relation *rel = known_newest(s->known, i);

		if (session_has_table(s, rel) && span_eq(rel->root_schema, span_str(t->schema)) && span_eq(rel->root_table, span_str(t->table)))
			return rel;
	}
	return NULL;
}

static bool try_canary(void *arg, size_t table, bool may_be_large, enum canary *ret, struct fault *f)
{
	struct session *s = arg;
	const struct relation *rel = find_relation(s, &s->walk.tables[table]);

	*ret = CANARY_NO_ROW;
	return !rel || compare_canary(&s->comparer, rel, may_be_large, ret, f);
}

static bool prove(struct session *s)
{
	enum canary seen;

	if (!canary_prove(&s->ends, s->walk.count, try_canary, s, &seen, s->f))
		return false;
	s->has_proof = seen == CANARY_FOUND || seen == CANARY_NO_ROW;
	return true;
}

static bool begin_pass(struct session *s)
{
	struct ends_moment mark;

	if (!ends_mark(&s->ends, &mark, s->f))
		return false;
	log_debug("scrub of %zu tables begins", s->walk.count);
	walk_pass(&s->walk, mark.lsn, time(NULL));
	s->has_proof = s->has_found = false;
	return true;
}

/* A pass that owes it nothing goes on without it in the end. */
static void leave_out(struct session *s, const struct relation *rel, const char *what)
{
	walk_dirty(&s->walk);
	log_warn("%.*s.%.*s: %s could not be compared on the %s in this scrub", SPAN_ARG(rel->root_schema),
		 SPAN_ARG(rel->root_table), what, session_role(s));
}

/* Its copy is not complete, or a server refuses it: from its beginning, later or in the next pass. */
static void take_refusal(struct session *s, const struct relation *rel, bool is_owed)
{
	int64_t later_us = clock_us() + LATER_US;

	s->open_tries = 0;
	s->comparer.stride = (struct stride) { 0 };
	if (is_owed) {
		walk_later(&s->walk);
		s->pace.next_us = s->pace.next_us > later_us ? s->pace.next_us : later_us;
	} else {
		leave_out(s, rel, "it");
		walk_went(&s->walk, span(NULL, 0));
	}
}

/* What could not be judged is tried again. */
static void take_chunk(struct session *s, const struct relation *rel, bool is_owed, enum compared compared,
		       struct span from)
{
	bool is_done = compared == COMPARED;

	if (!is_done && !is_owed && s->open_tries >= OPEN_TRIES) {
		leave_out(s, rel, "rows that change all the time");
		is_done = true;
	}
	s->open_tries = is_done ? 0 : s->open_tries + 1;
	if (!is_done)
		return;
	if (!from.p)
		s->comparer.stride = (struct stride) { 0 };
	walk_went(&s->walk, from);
}

/* The gate stands for it now. A restart knows only what a bookmark says: there the table is owed. */
static bool take_differences(struct session *s)
{
	struct touched *differ = &s->comparer.differ;

	if (!differ->count)
		return true;
	s->has_found = true;
	walk_dirty(&s->walk);
	walk_found(&s->walk);
	for (size_t i = 0; i < differ->count; i++) {
		bool is_new;
		struct touched_table *t = touched_table(&s->due, differ->tables[i]->rel, &is_new);

		if (!t)
			return session_no_memory(s->f);
		t->was_wrong = true;
	}
	return (touched_move(differ, &s->due) || session_no_memory(s->f)) &&
	       (!s->has_clean_places || window_write_bookmark(s));
}

static bool scrub_chunk(struct session *s, const struct relation *rel, bool is_owed)
{
	struct span from = s->walk.has_from ? buf_span(&s->walk.from) : span(NULL, 0);
	enum compared compared;
	struct arena a;
	bool ok, is_end;

	arena_init(&a, CHUNK_TEXT_BYTES);
	ok = compare_chunk(&s->comparer, rel, is_owed, &from, &a, &is_end, &compared, s->f) && take_differences(s);
	pace_took(&s->pace, clock_us(), s->comparer.source_us);
	if (ok && compared == COMPARED_LATER)
		take_refusal(s, rel, is_owed);
	else if (ok)
		take_chunk(s, rel, is_owed, compared, is_end ? span(NULL, 0) : from);
	arena_release(&a);
	return ok;
}

/* A pass that found something is followed by another one when that is right. */
static bool is_pass_due(const struct session *s)
{
	if (s->walk.is_passing || !s->has_tables)
		return false;
	return time(NULL) >= s->walk.pass_at + s->m->scrub_s ||
	       (s->has_found && s->comparer.told_count == 0);
}

/* One chunk, if one is due. */
bool passes_go_on(struct session *s)
{
	const struct walk_table *t;
	const struct relation *rel;

	if (is_pass_due(s) && !begin_pass(s))
		return false;
	if (!walk_next(&s->walk))
		return true;
	if (!s->has_proof && !prove(s))
		return false;
	t = walk_next(&s->walk); /* the proof has read the stream, which may owe others */
	if (!t)
		return true;
	rel = find_relation(s, t);
	if (!rel) {
		walk_forget(&s->walk, t);
		return true;
	}
	compare_begin(&s->comparer);
	return scrub_chunk(s, rel, t->is_owed);
}

bool passes_are_due(struct session *s)
{
	return (is_pass_due(s) || walk_next(&s->walk)) && pace_wait(&s->pace, clock_us()) == 0;
}
