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
	BATCH_GROWTH = 4,
	BATCH_FIRST = 16,
	BATCH_BYTES = 64 << 20,
	NOT_ASKED = -1,
};

void scrub_init(struct scrub *s, struct ends *ends, int64_t seed)
{
	*s = (struct scrub) { .ends = ends, .seed = seed };
	stride_init(&s->stride);
}

/* One chunk. Everything lives in its arena. */
struct chunk {
	struct scrub *s;
	struct digest_range range;
	struct span near[2]; /* by server */
	int64_t rows, reach; /* that were asked for: stride.h */
	int64_t mask, mask_of_leaves;
	int64_t asked[2]; /* by role: the mask of what its target is asked, or NOT_ASKED */
	struct ends_moment since;
	size_t first_event;  /* of the tail: the ones before are of the chunk before */
	struct ends_moment mark; /* behind what was read on the source */
	bool is_calm; /* no leaf differs */
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

/* ---- the source ---- */

static enum role first_role(const struct scrub *s)
{
	return s->digests[0] ? (enum role)0 : (enum role)1;
}

/* The first role's digest and a mark behind it are asked for, and the answer is not waited for. */
static bool chunk_ask(struct chunk *c)
{
	struct digest_plan p = plan(c, first_role(c->s), DIGEST_SOURCE);

	return survey_send(c->s->ends->source, &p, ends_mark_sql, c->f);
}

static bool take_first(struct chunk *c)
{
	PGresult *mark;
	bool ok;

	if (!survey_take(c->s->ends->source, &c->arena, &c->source[first_role(c->s)], &mark, c->f))
		return fault_in(c->f, "source");
	ok = ends_mark_read(mark, &c->mark, c->f);
	PQclear(mark);
	return ok;
}

/* The second role's is the same, unless it has other columns. */
static bool read_second(struct chunk *c)
{
	struct digest_plan p = plan(c, (enum role)1, DIGEST_SOURCE);

	if (!p.digest || first_role(c->s) == 1)
		return true;
	c->source[1] = c->source[0];
	return digest_same_source(c->s->digests[0], p.digest) ||
	       (survey_ask(c->s->ends->source, &p, &c->arena, &c->source[1], c->f) &&
		ends_mark(c->s->ends, &c->mark, c->f));
}

/* The source's side and the mark behind it. */
static bool chunk_read(struct chunk *c)
{
	if (!take_first(c) || !read_second(c))
		return false;
	c->s->source_us += c->source[0].took_us;
	if (c->source[1].leaves != c->source[0].leaves)
		c->s->source_us += c->source[1].took_us;
	if (!c->s->first_lsn)
		c->s->first_lsn = c->mark.lsn;
	return true;
}

/* What the source says of the chunk behind is thrown away: it will be opened anew. */
static bool drop_ahead(struct scrub *s)
{
	struct chunk *next = s->ahead;
	bool ok = !next || take_first(next);

	s->ahead = NULL;
	if (next)
		arena_release(&next->arena);
	return ok;
}

/* ---- judging ---- */

/* How many suspects to judge next: their rows are held at once, and nobody knows how large they are. */
static size_t next_batch(size_t n, size_t bytes)
{
	size_t fits = bytes ? BATCH_BYTES / (bytes / n + 1) : n;

	n *= BATCH_GROWTH;
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
	bool ok = true;

	for (size_t i = 0, batch = BATCH_FIRST; ok && i < n && !result->is_cut;) {
		size_t now = n - i < batch ? n - i : batch;

		ok = judge_keys(&j, keys + i, now, c->f);
		i += now;
		batch = next_batch(now, j.bytes);
		result->is_cut = result->found_count + j.found_count >= SCRUB_FOUND_MAX && i < n;
	}
	result->found_count += j.found_count;
	result->explained_count += j.explained_count;
	result->open_count += j.open_count;
	return ok;
}

/* The rows of some leaves, by key. */
static bool drill(struct chunk *c, enum role role, const int64_t *leaves, size_t n)
{
	struct ends *e = c->s->ends;
	struct digest_plan source = plan(c, role, DIGEST_SOURCE), target = plan(c, role, DIGEST_TARGET);
	struct survey_keys keys[2];
	struct ends_moment now;
	struct arena a;
	struct span *suspects;
	int64_t began_us;
	size_t count;
	bool ok;

	arena_init(&a, CHUNK_BYTES);
	began_us = clock_us();
	ok = survey_drill(e->source, &source, leaves, n, &a, &keys[DIGEST_SOURCE], c->f);
	c->s->source_us += clock_us() - began_us;
	ok = ok && ends_mark(e, &now, c->f) && ends_wait(e, role, now.lsn, c->f);
	ok = ok && survey_drill(e->targets[role], &target, leaves, n, &a, &keys[DIGEST_TARGET], c->f);
	if (ok) {
		c->s->read_count += keys[DIGEST_SOURCE].count;
		suspects = survey_suspects(&keys[DIGEST_SOURCE], &keys[DIGEST_TARGET], &a, &count);
		ok = suspects ? judge_all(c, role, suspects, count) : no_memory(c->f);
	}
	arena_release(&a);
	return ok;
}

static bool send_target(struct chunk *c, enum role role)
{
	struct digest_plan target = plan(c, role, DIGEST_TARGET);

	c->asked[role] = c->mask;
	return survey_send(c->s->ends->targets[role], &target, NULL, c->f);
}

/* When the target contains the mark. Its answer is not waited for. */
static bool ask_target(struct chunk *c, enum role role)
{
	return ends_wait(c->s->ends, role, c->mark.lsn, c->f) && send_target(c, role);
}

static bool take_target(struct chunk *c, enum role role, struct survey *ret, int64_t **ret_leaves, size_t *ret_count)
{
	PGconn *conn = c->s->ends->targets[role];

	/* The chunk was split for the other target after this one was asked. */
	if (c->asked[role] != NOT_ASKED && c->asked[role] != c->mask && !survey_take(conn, &c->arena, ret, NULL, c->f))
		return false;
	if (c->asked[role] != c->mask && !ask_target(c, role))
		return false;
	if (!survey_take(conn, &c->arena, ret, NULL, c->f))
		return false;
	*ret_leaves = survey_differ(&c->source[role], ret, &c->arena, ret_count);
	if (failpoint("scrub.blind"))
		*ret_count = 0;
	return *ret_leaves || no_memory(c->f);
}

/* What follows takes long: what the source says of the next chunk would be old. */
static bool leave_calm(struct chunk *c)
{
	c->is_calm = false;
	return drop_ahead(c->s);
}

static bool split_into_leaves(struct chunk *c, enum role role)
{
	c->mask = c->mask_of_leaves;
	return chunk_ask(c) && chunk_read(c) && ask_target(c, role);
}

static bool compare_target(struct chunk *c, enum role role)
{
	struct scrub_result *result = &c->s->results[role];
	struct survey survey;
	int64_t *leaves;
	size_t n;

	if (!take_target(c, role, &survey, &leaves, &n) || (n && !leave_calm(c)))
		return false;
	if (n && c->mask != c->mask_of_leaves &&
	    (!split_into_leaves(c, role) || !take_target(c, role, &survey, &leaves, &n)))
		return false;
	result->row_count += c->source[role].row_count;
	result->target_count += survey.row_count;
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

/* As old as those of the chunk before, whose targets are at work: what was copied since is noticed all the same. */
static bool keep_copies(struct chunk *c, const struct chunk *before)
{
	for (int role = 0; role < 2; role++)
		c->copies[role] = arena_dup(&c->arena, before->copies[role]);
	return !arena_failed(&c->arena) || no_memory(c->f);
}

/* From here on the tail keeps what happens to the table. Behind a chunk that is still compared it has done so already. */
static bool chunk_begin(struct chunk *c, const struct chunk *before)
{
	struct tail *t = c->s->ends->tail;
	bool are_live = true;

	if (before ? !keep_copies(c, before) : !read_copies(c, &are_live))
		return false;
	if (before)
		c->first_event = t->event_count;
	else
		tail_watch(t, any_digest(c->s)->rel);
	t->has_copy = t->has_copy || !are_live;
	return ends_mark(c->s->ends, &c->since, c->f);
}

static bool is_compared(const struct scrub *s, int role)
{
	return s->digests[role] && !s->results[role].is_cut;
}

/* A second target is not waited for: it may be behind a gate that what the first one has keeps shut. */
static bool ask_if_ready(struct chunk *c, enum role role)
{
	uint64_t barrier = UINT64_MAX;

	return (c->s->ends->are_still || ends_barrier(c->s->ends, role, &barrier, c->f)) &&
	       (barrier < c->mark.lsn || send_target(c, role));
}

/* Both targets work at the same time. */
static bool chunk_ask_targets(struct chunk *c)
{
	enum role first = is_compared(c->s, 0) ? (enum role)0 : (enum role)1;

	c->asked[0] = c->asked[1] = NOT_ASKED;
	return (!is_compared(c->s, first) || ask_target(c, first)) &&
	       (first == 1 || !is_compared(c->s, 1) || ask_if_ready(c, (enum role)1));
}

static bool chunk_compare(struct chunk *c)
{
	for (int role = 0; role < 2; role++)
		if (is_compared(c->s, role) && !compare_target(c, (enum role)role))
			return false;
	return true;
}

static bool chunk_run(struct chunk *c)
{
	return chunk_read(c) && chunk_ask_targets(c) && chunk_compare(c);
}

/* ---- a table ---- */

static bool is_counted_off(const struct chunk *c)
{
	return c->range.from.p && c->reach > 0 && any_digest(c->s)->range_is_counted;
}

/* Where the chunk ends; absent: at the table's end. */
static bool find_end(struct chunk *c, struct arena *a)
{
	struct digest_plan p = { .digest = any_digest(c->s), .server = DIGEST_SOURCE, .range = c->range };
	int64_t began_us = clock_us();
	struct buf sql;
	PGresult *r;

	if (!p.digest->range_column[DIGEST_SOURCE].p)
		return true;
	buf_init(&sql, SQL_BYTES);
	if (is_counted_off(c))
		digest_reach(&p, c->reach, &sql);
	else
		digest_step(&p, c->rows, &sql);
	r = pg_query(c->s->ends->source, c->f, buf_cstr(&sql));
	buf_release(&sql);
	c->s->source_us += clock_us() - began_us;
	if (!r)
		return false;
	if (PQntuples(r))
		c->range.to = arena_dup(a, pg_value(r, 0, 0));
	PQclear(r);
	return !arena_failed(a) || no_memory(c->f);
}

/* The next chunk, from `from` on; the source begins to read it. before: the one that is still compared, or NULL. What
 * outlives it is in `a`. */
static bool chunk_open(struct chunk *c, struct scrub *s, const struct chunk *before, struct span from, struct arena *a,
		       struct fault *f)
{
	const struct digest *d = any_digest(s);
	bool has_ranges = d->range_column[DIGEST_SOURCE].p != NULL;

	if (failpoint("scrub.small"))
		s->stride.rows = STRIDE_ROWS_LEAST;
	*c = (struct chunk) { .s = s, .range = { .from = from }, .rows = s->stride.rows, .reach = stride_reach(&s->stride),
			      .is_calm = true, .f = f };
	log_debug("scrub of %.*s from %.*s, %" PRId64 " rows, reach %" PRId64, SPAN_ARG(d->label),
		  SPAN_ARG(from.p ? from : span_str("its beginning")), c->rows, c->reach);
	c->mask_of_leaves = mask_of(has_ranges ? c->rows : (int64_t)d->source->row_estimate);
	c->mask = s->stride.is_calm ? 0 : c->mask_of_leaves;
	arena_init(&c->arena, CHUNK_BYTES);
	return find_end(c, a) && chunk_begin(c, before) && chunk_ask(c);
}

/* What its reading tells of the next one. The index counts what was asked for; what is counted off has other rows. */
static void steer(struct scrub *s, const struct chunk *c)
{
	const struct survey *first = &c->source[first_role(s)];
	int64_t rows = is_counted_off(c) && first->row_count ? first->row_count : c->rows;

	stride_took(&s->stride, rows, c->source[0].took_us > c->source[1].took_us ? c->source[0].took_us
										     : c->source[1].took_us);
	stride_went(&s->stride, c->range.from, c->range.to, first->row_count);
}

static bool is_done(const struct scrub *s)
{
	for (int role = 0; role < 2; role++)
		if (is_compared(s, role))
			return false;
	return true;
}

/* Too much happened meanwhile to be remembered: nothing was found, so it can be done over in smaller pieces. */
static bool is_too_large(const struct chunk *c, const struct scrub_result *before)
{
	const struct scrub *s = c->s;

	if (!s->ends->tail->has_overflowed || !any_digest(s)->range_column[DIGEST_SOURCE].p ||
	    c->rows <= STRIDE_ROWS_LEAST)
		return false;
	for (int role = 0; role < 2; role++)
		if (s->results[role].found_count != before[role].found_count)
			return false;
	return true;
}

/* What stands in the way of a chunk's judging would stand in that of the one behind it. */
static bool is_spoiled(const struct tail *t)
{
	return t->has_overflowed || t->has_copy;
}

/* The chunk behind c goes on when c is done, or will be opened anew. */
static bool leave(struct chunk *c, bool is_over, bool *ret_goes_on)
{
	struct scrub *s = c->s;
	struct chunk *next = s->ahead;

	if (is_over || is_done(s) || is_spoiled(s->ends->tail))
		next = NULL;
	*ret_goes_on = next != NULL;
	if (!next)
		return drop_ahead(s);
	tail_forget(s->ends->tail, next->first_event);
	s->ahead = NULL;
	return true;
}

/* Not behind one whose rows were looked at: so will its own be. */
static bool look_ahead(struct chunk *c, struct chunk *next, struct arena *a)
{
	struct scrub *s = c->s;

	if (!s->goes_ahead || !s->stride.is_calm || !c->range.to.p)
		return true;
	s->ahead = next;
	return chunk_open(next, s, c, c->range.to, a, c->f);
}

bool scrub_table(struct scrub *s, struct fault *f)
{
	struct chunk chunks[2], *c = &chunks[0], *next = &chunks[1], *done;
	bool ok, is_over, is_open = false;
	struct span from = { 0 };
	struct arena a;

	arena_init(&a, CHUNK_BYTES);
	do {
		struct scrub_result before[2] = { s->results[0], s->results[1] };

		ok = (is_open || chunk_open(c, s, NULL, from, &a, f)) && chunk_read(c);
		steer(s, c);
		ok = ok && look_ahead(c, next, &a) && chunk_ask_targets(c) && chunk_compare(c);
		is_over = ok && is_too_large(c, before);
		if (is_over) {
			memcpy(s->results, before, sizeof(before));
			stride_shrink(&s->stride, c->rows);
		}
		from = is_over ? c->range.from : c->range.to;
		s->stride.is_calm = c->is_calm;
		ok = ok && leave(c, is_over, &is_open);
		arena_release(&c->arena);
		done = c;
		c = next;
		next = done;
	} while (ok && (is_over || (from.p && !is_done(s))));
	if (s->ahead)
		arena_release(&s->ahead->arena);
	s->ahead = NULL;
	arena_release(&a);
	return ok;
}

bool scrub_step(struct scrub *s, struct span *from, struct arena *a, bool *ret_is_end, struct fault *f)
{
	struct scrub_result before[2] = { s->results[0], s->results[1] };
	struct chunk c;
	bool ok;

	*ret_is_end = false;
	ok = chunk_open(&c, s, NULL, *from, a, f) && chunk_run(&c);
	if (ok && is_too_large(&c, before)) {
		memcpy(s->results, before, sizeof(before));
		stride_shrink(&s->stride, c.rows);
	} else if (ok) {
		steer(s, &c);
		s->stride.is_calm = c.is_calm;
		*from = c.range.to;
		*ret_is_end = !c.range.to.p || is_done(s);
	}
	arena_release(&c.arena);
	return ok;
}

bool scrub_first(struct scrub *s, int64_t rows, struct fault *f)
{
	struct chunk c;
	struct arena a;
	bool ok;

	arena_init(&a, CHUNK_BYTES);
	s->stride.rows = rows;
	ok = chunk_open(&c, s, NULL, span(NULL, 0), &a, f) && chunk_run(&c);
	arena_release(&c.arena);
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
	ok = chunk_begin(&c, NULL);
	for (int role = 0; ok && role < 2; role++)
		if (is_compared(s, role))
			ok = drill(&c, (enum role)role, &leaf, 1);
	arena_release(&c.arena);
	return ok;
}
