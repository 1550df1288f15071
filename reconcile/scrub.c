// SPDX-License-Identifier: Apache-2.0
#include "reconcile/scrub.h"

#include <inttypes.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/failpoint.h"
#include "core/log.h"
#include "reconcile/survey.h"

enum {
	CHUNK_BYTES = 1 << 30,
	SQL_BYTES = 64 << 20,
	LEAF_ROWS = 1000,
	LEAVES_AT_ONCE = 128,
	CHUNK_ROWS_FIRST = 20 * 1000,
	CHUNK_ROWS_LEAST = 1000,
	CHUNK_ROWS_MOST = 4 * 1000 * 1000,
	CHUNK_GOAL_US = 375 * 1000, /* between 0.25 and 0.5 s */
	CHUNK_GROWTH = 4,
	BATCH_FIRST = 16,
	BATCH_BYTES = 64 << 20,
};

void scrub_init(struct scrub *s, struct ends *ends, int64_t seed)
{
	*s = (struct scrub) { .ends = ends, .seed = seed, .chunk_rows = CHUNK_ROWS_FIRST };
}

/* One chunk. Everything lives in its arena. */
struct chunk {
	struct scrub *s;
	struct digest_range range;
	struct span near[2]; /* by server */
	int64_t mask;
	struct ends_moment since;
	struct span copies[2]; /* by role: before the tail began to watch */
	struct survey source[2]; /* by role: their digests may differ in the columns that can be compared */
	struct arena arena;
	struct fault *f;
};

static bool no_memory(struct fault *f)
{
	return fault(f, FAULT_INTERNAL, "no memory for a chunk of a table");
}

static const struct digest *any_digest(const struct scrub *s)
{
	return s->digests[0] ? s->digests[0] : s->digests[1];
}

static struct digest_plan plan(const struct chunk *c, enum role role, enum digest_server server)
{
	return (struct digest_plan) { .digest = c->s->digests[role],
				      .server = server,
				      .range = c->range,
				      .near = c->near[server],
				      .seed = c->s->seed,
				      .mask = c->mask };
}

/* ---- judging ---- */

/* How many suspects to judge next: their rows are held at once, and nobody knows how large they are. */
static size_t next_batch(size_t n, size_t bytes)
{
	size_t fits = bytes ? BATCH_BYTES / (bytes / n + 1) : n;

	n *= CHUNK_GROWTH;
	n = n > fits ? fits : n;
	n = n > JUDGE_BATCH ? JUDGE_BATCH : n;
	return n ? n : 1;
}

static bool judge_all(struct chunk *c, enum role role, struct span *keys, size_t n)
{
	struct scrub_result *result = &c->s->results[role];
	struct judge j = { .ends = c->s->ends,
			   .digest = c->s->digests[role],
			   .role = role,
			   .range = c->range,
			   .near = { c->near[0], c->near[1] },
			   .seed = c->s->seed,
			   .since = c->since,
			   .copies = c->copies[role],
			   .found = c->s->found,
			   .arg = c->s->arg };

	for (size_t i = 0, batch = BATCH_FIRST; i < n && !result->is_cut;) {
		size_t now = n - i < batch ? n - i : batch;

		if (!judge_keys(&j, keys + i, now, c->f))
			return false;
		i += now;
		batch = next_batch(now, j.bytes);
		result->is_cut = result->found_count + j.found_count >= SCRUB_FOUND_MAX && i < n;
	}
	result->found_count += j.found_count;
	result->explained_count += j.explained_count;
	result->open_count += j.open_count;
	return true;
}

/* The rows of some leaves, by key. */
static bool drill(struct chunk *c, enum role role, const int64_t *leaves, size_t n)
{
	struct ends *e = c->s->ends;
	struct digest_plan source = plan(c, role, DIGEST_SOURCE), target = plan(c, role, DIGEST_TARGET);
	struct survey_keys keys[2];
	struct ends_moment now;
	int64_t began_us = clock_us();
	struct span *suspects;
	struct arena a;
	size_t count;
	bool ok;

	arena_init(&a, CHUNK_BYTES);
	ok = survey_drill(e->source, &source, leaves, n, &a, &keys[DIGEST_SOURCE], c->f);
	c->s->source_us += clock_us() - began_us;
	ok = ok && ends_mark(e, &now, c->f) && ends_wait(e, role, now.lsn, c->f) &&
	     survey_drill(e->targets[role], &target, leaves, n, &a, &keys[DIGEST_TARGET], c->f);
	if (ok) {
		c->s->read_count += keys[DIGEST_SOURCE].count;
		suspects = survey_suspects(&keys[DIGEST_SOURCE], &keys[DIGEST_TARGET], &a, &count);
		ok = suspects ? judge_all(c, role, suspects, count) : no_memory(c->f);
	}
	arena_release(&a);
	return ok;
}

static bool compare_target(struct chunk *c, enum role role, uint64_t lsn)
{
	struct digest_plan target = plan(c, role, DIGEST_TARGET);
	struct scrub_result *result = &c->s->results[role];
	struct survey survey;
	int64_t *leaves;
	size_t n;

	if (!ends_wait(c->s->ends, role, lsn, c->f) ||
	    !survey_ask(c->s->ends->targets[role], &target, &c->arena, &survey, c->f))
		return false;
	leaves = survey_differ(&c->source[role], &survey, &c->arena, &n);
	if (!leaves)
		return no_memory(c->f);
	result->row_count += c->source[role].row_count;
	result->target_count += survey.row_count;
	if (failpoint("scrub.blind"))
		n = 0;
	for (size_t i = 0; i < n && !result->is_cut; i += LEAVES_AT_ONCE) {
		if (!drill(c, role, leaves + i, n - i < LEAVES_AT_ONCE ? n - i : LEAVES_AT_ONCE))
			return false;
		result->is_cut = result->is_cut || (result->found_count >= SCRUB_FOUND_MAX &&
						    i + LEAVES_AT_ONCE < n);
	}
	return true;
}

/* ---- a chunk ---- */

static int64_t mask_of(int64_t rows)
{
	int64_t mask = 0;

	while ((mask + 1) * LEAF_ROWS < rows)
		mask = mask * 2 + 1;
	return mask;
}

/* A source's digest per role, unless the first one's columns are the same. */
static bool survey_source(struct chunk *c)
{
	const struct digest *first = NULL;

	for (int role = 0; role < 2; role++) {
		struct digest_plan p = plan(c, (enum role)role, DIGEST_SOURCE);

		if (!p.digest)
			continue;
		if (first && digest_same_source(first, p.digest)) {
			c->source[role] = c->source[1 - role];
			continue;
		}
		first = p.digest;
		if (!survey_ask(c->s->ends->source, &p, &c->arena, &c->source[role], c->f))
			return false;
		c->s->source_us += c->source[role].took_us;
	}
	return true;
}

/* Live at the beginning; what is copied again meanwhile is noticed when its suspects are judged. */
static bool read_copies(struct chunk *c, bool *ret_are_live)
{
	*ret_are_live = true;
	for (int role = 0; role < 2; role++) {
		const struct digest *d = c->s->digests[role];
		bool is_live = true;

		if (d && !ends_copies(c->s->ends, (enum role)role, d->rel, &c->arena, &c->copies[role],
				      &is_live, c->f))
			return false;
		*ret_are_live = *ret_are_live && is_live;
	}
	return true;
}

/* From here on the tail keeps what happens to the table. */
static bool chunk_begin(struct chunk *c)
{
	struct ends *e = c->s->ends;
	bool ok, are_live;

	ok = read_copies(c, &are_live);
	tail_watch(e->tail, any_digest(c->s)->rel);
	e->tail->has_copy = ok && !are_live;
	return ok && ends_mark(e, &c->since, c->f);
}

static bool chunk_run(struct scrub *s, struct digest_range range, int64_t rows, int64_t *ret_took_us,
		      struct fault *f)
{
	struct chunk c = { .s = s, .range = range, .mask = mask_of(rows), .f = f };
	struct ends_moment mark;
	bool ok;

	arena_init(&c.arena, CHUNK_BYTES);
	ok = chunk_begin(&c) && survey_source(&c) && ends_mark(s->ends, &mark, f);
	*ret_took_us = c.source[0].took_us > c.source[1].took_us ? c.source[0].took_us
								  : c.source[1].took_us;
	if (ok && !s->first_lsn)
		s->first_lsn = mark.lsn;
	for (int role = 0; ok && role < 2; role++)
		if (s->digests[role] && !s->results[role].is_cut)
			ok = compare_target(&c, (enum role)role, mark.lsn);
	arena_release(&c.arena);
	return ok;
}

/* ---- a table ---- */

/* Where a chunk of this many rows from range->from on ends; absent: at the table's end. */
static bool find_end(struct scrub *s, struct digest_range *range, int64_t rows, struct arena *a,
		     struct fault *f)
{
	struct digest_plan p = { .digest = any_digest(s), .server = DIGEST_SOURCE, .range = *range };
	int64_t began_us = clock_us();
	struct buf sql;
	PGresult *r;

	range->to = span(NULL, 0);
	p.range.to = range->to;
	if (!p.digest->range_column[DIGEST_SOURCE].p)
		return true;
	buf_init(&sql, SQL_BYTES);
	digest_step(&p, rows, &sql);
	r = pg_query(s->ends->source, f, buf_cstr(&sql));
	buf_release(&sql);
	s->source_us += clock_us() - began_us;
	if (!r)
		return false;
	if (PQntuples(r))
		range->to = arena_dup(a, pg_value(r, 0, 0));
	PQclear(r);
	return !arena_failed(a) || no_memory(f);
}

/* Follows the time a chunk took, by at most a factor at once. */
static void steer(struct scrub *s, int64_t took_us)
{
	double factor = (double)CHUNK_GOAL_US / (double)(took_us > 1000 ? took_us : 1000);

	if (factor > CHUNK_GROWTH)
		factor = CHUNK_GROWTH;
	if (factor < 1.0 / CHUNK_GROWTH)
		factor = 1.0 / CHUNK_GROWTH;
	s->chunk_rows = (int64_t)((double)s->chunk_rows * factor);
	if (s->chunk_rows < CHUNK_ROWS_LEAST)
		s->chunk_rows = CHUNK_ROWS_LEAST;
	if (s->chunk_rows > CHUNK_ROWS_MOST)
		s->chunk_rows = CHUNK_ROWS_MOST;
}

static bool is_done(const struct scrub *s)
{
	for (int role = 0; role < 2; role++)
		if (s->digests[role] && !s->results[role].is_cut)
			return false;
	return true;
}

/* Too much happened meanwhile to be remembered: nothing was found, so it can be done over in smaller pieces. */
static bool is_too_large(const struct scrub *s, const struct scrub_result *before)
{
	if (!s->ends->tail->has_overflowed || !any_digest(s)->range_column[DIGEST_SOURCE].p ||
	    s->chunk_rows <= CHUNK_ROWS_LEAST)
		return false;
	for (int role = 0; role < 2; role++)
		if (s->results[role].found_count != before[role].found_count)
			return false;
	return true;
}

bool scrub_step(struct scrub *s, struct span *from, struct arena *a, bool *ret_is_end, struct fault *f)
{
	struct scrub_result before[2] = { s->results[0], s->results[1] };
	struct digest_range range = { .from = *from };
	bool has_ranges = any_digest(s)->range_column[DIGEST_SOURCE].p != NULL;
	int64_t took_us;

	*ret_is_end = false;
	if (failpoint("scrub.small"))
		s->chunk_rows = CHUNK_ROWS_LEAST;
	log_debug("scrub of %.*s from %.*s, %" PRId64 " rows", SPAN_ARG(any_digest(s)->label),
		  SPAN_ARG(from->p ? *from : span_str("its beginning")), s->chunk_rows);
	if (!find_end(s, &range, s->chunk_rows, a, f) ||
	    !chunk_run(s, range, has_ranges ? s->chunk_rows : (int64_t)any_digest(s)->source->row_estimate,
		       &took_us, f))
		return false;
	if (is_too_large(s, before)) {
		memcpy(s->results, before, sizeof(before));
		s->chunk_rows /= CHUNK_GROWTH;
		return true;
	}
	if (has_ranges)
		steer(s, took_us);
	*from = range.to;
	*ret_is_end = !range.to.p || is_done(s);
	return true;
}

bool scrub_table(struct scrub *s, struct fault *f)
{
	struct span from = { 0 };
	bool ok, is_end = false;
	struct arena a;

	arena_init(&a, CHUNK_BYTES);
	do
		ok = scrub_step(s, &from, &a, &is_end, f);
	while (ok && !is_end);
	arena_release(&a);
	return ok;
}

bool scrub_first(struct scrub *s, int64_t rows, struct fault *f)
{
	struct digest_range range = { 0 };
	struct arena a;
	int64_t took_us;
	bool ok;

	arena_init(&a, CHUNK_BYTES);
	ok = find_end(s, &range, rows, &a, f) && chunk_run(s, range, rows, &took_us, f);
	arena_release(&a);
	return ok;
}

/* Few enough to be asked for key by key: they are one leaf. */
bool scrub_near(struct scrub *s, const struct span near[2], struct fault *f)
{
	struct chunk c = { .s = s, .near = { near[0], near[1] }, .f = f };
	const int64_t leaf = 0;
	bool ok;

	arena_init(&c.arena, CHUNK_BYTES);
	ok = chunk_begin(&c);
	for (int role = 0; ok && role < 2; role++)
		if (s->digests[role] && !s->results[role].is_cut)
			ok = drill(&c, (enum role)role, &leaf, 1);
	arena_release(&c.arena);
	return ok;
}
