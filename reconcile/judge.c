// SPDX-License-Identifier: Apache-2.0
#include "reconcile/judge.h"

#include <stdlib.h>

#include "core/failpoint.h"
#include "core/log.h"
#include "reconcile/events.h"
#include "reconcile/image.h"

enum {
	ROUNDS = 40,
	ROUND_BYTES = 1 << 30,
	SQL_BYTES = 256 << 20,
	BETWEEN_MAX = 5000, /* events of a keyless table whose rows are asked for one by one */
};

/* Of a key as the stream has it. */
struct stream_hash {
	uint64_t hash;
	bool is_known; /* no: no row of the source can have the key, and no event is about it, but for a TRUNCATE */
};

/* One round. Everything lives in its arena. */
struct round {
	struct judge *j;
	struct arena arena;
	const struct span *keys, **sorted;
	size_t key_count;
	struct verdict_row *rows[2]; /* by server, per key */
	struct span (*writers)[2];   /* of the target's rows, per key: who, when; NULL: nobody knows */
	struct snapshot snapshot;
	bool is_settled;
	struct position *places;
	struct image_maker images;
	struct stream_hash *hashes; /* per key; NULL: the stream's keys cannot be told, any event of the table may be a row's */
	struct events events;
	struct fault *f;
};

const char *difference_kind(const struct difference *d)
{
	if (d->source_count > d->target_count)
		return "missing";
	return d->source_count < d->target_count ? "extraneous" : "mismatch";
}

const char *difference_hop(const struct difference *d)
{
	static const char *const names[] = {
		[HOP_UNKNOWN] = NULL,
		[HOP_STREAM] = "source to stream",
		[HOP_TARGET] = "stream to target",
	};

	return names[d->hop];
}

static bool no_memory(struct fault *f)
{
	return fault(f, FAULT_INTERNAL, "no memory for the rows of suspect keys");
}

static PGconn *server_conn(const struct round *r, enum digest_server server)
{
	return server == DIGEST_SOURCE ? r->j->ends->source : r->j->ends->targets[r->j->role];
}

/* ---- rows ---- */

static int compare_keys(const void *a, const void *b)
{
	return span_cmp(**(const struct span *const *)a, **(const struct span *const *)b);
}

static bool sort_keys(struct round *r)
{
	r->sorted = arena_alloc(&r->arena, r->key_count * sizeof(*r->sorted) + 1);
	if (!r->sorted)
		return no_memory(r->f);
	for (size_t i = 0; i < r->key_count; i++)
		r->sorted[i] = &r->keys[i];
	qsort(r->sorted, r->key_count, sizeof(*r->sorted), compare_keys);
	return true;
}

/* Its place among the keys, or -1. */
static ptrdiff_t find_key(const struct round *r, struct span key)
{
	const struct span *wanted = &key, *const *found;

	found = bsearch(&wanted, r->sorted, r->key_count, sizeof(*r->sorted), compare_keys);
	return found ? *found - r->keys : -1;
}

static bool take_rows(struct round *r, enum digest_server server, const PGresult *result)
{
	bool has_writers = server == DIGEST_TARGET && r->j->digest->has_writers;
	size_t columns = r->j->digest->column_count;

	if (has_writers)
		r->writers = arena_alloc(&r->arena, r->key_count * sizeof(*r->writers) + 1);
	r->rows[server] = arena_alloc(&r->arena, r->key_count * sizeof(**r->rows) + 1);
	for (int row = 0; r->rows[server] && row < PQntuples(result); row++) {
		ptrdiff_t i = find_key(r, pg_value(result, row, 0));
		struct span *texts;

		if (i < 0)
			continue;
		r->rows[server][i].count += pg_i64(result, row, 1);
		texts = arena_alloc(&r->arena, columns * sizeof(*texts) + 1);
		for (size_t c = 0; texts && c < columns; c++) {
			struct span text = pg_value(result, row, (int)c + 2);

			texts[c] = text.p ? arena_dup(&r->arena, text) : text;
		}
		r->rows[server][i].texts = texts;
		if (has_writers && r->writers)
			for (int k = 0; k < 2; k++)
				r->writers[i][k] = arena_dup(&r->arena, pg_value(result, row, (int)columns + 2 + k));
	}
	return !arena_failed(&r->arena) || no_memory(r->f);
}

static bool read_rows(struct round *r, enum digest_server server)
{
	struct digest_plan plan = { .digest = r->j->digest,
				    .server = server,
				    .range = r->j->range,
				    .near = r->j->near[server],
				    .seed = r->j->seed };
	struct buf sql, list, key;
	PGresult *result = NULL;
	bool ok;

	buf_init(&sql, SQL_BYTES);
	buf_init(&list, SQL_BYTES);
	buf_init(&key, SQL_BYTES);
	digest_rows(&plan, &sql);
	pg_array_begin(&list);
	for (size_t i = 0; i < r->key_count; i++) {
		buf_reset(&key);
		pg_bytea(&key, r->keys[i]);
		pg_array_add(&list, buf_span(&key));
	}
	pg_array_end(&list);
	if (buf_failed(&sql) || buf_failed(&list) || buf_failed(&key))
		no_memory(r->f);
	else
		result = pg_query_params(server_conn(r, server), r->f, buf_cstr(&sql), 1,
					 (const char *const[]) { buf_cstr(&list) });
	buf_release(&sql);
	buf_release(&list);
	buf_release(&key);
	ok = result && take_rows(r, server, result);
	PQclear(result);
	return ok;
}

static bool read_source(struct round *r)
{
	PGconn *conn = r->j->ends->source;
	PGresult *result;
	bool ok;

	if (!ends_begin(conn, r->f))
		return false;
	result = pg_query(conn, r->f, "SELECT pg_catalog.pg_current_snapshot()");
	if (!result)
		return false;
	ok = snapshot_parse(pg_value(result, 0, 0), &r->arena, &r->snapshot) ||
	     fault(r->f, FAULT_INPUT, "source: not a snapshot: %s", PQgetvalue(result, 0, 0));
	PQclear(result);
	if (!ok || !read_rows(r, DIGEST_SOURCE) || !ends_commit(conn, r->f) ||
	    !ends_is_settled(r->j->ends, &r->snapshot, &r->j->since, &r->is_settled, r->f))
		return false;
	if (failpoint("judge.settled"))
		r->is_settled = true;
	return true;
}

/* A table that is copied again holds what no event says. */
static bool check_copies(struct round *r)
{
	struct span copies;
	bool is_live;

	if (!ends_copies(r->j->ends, r->j->role, r->j->digest->rel, &r->arena, &copies, &is_live, r->f))
		return false;
	if (!is_live || !span_eq(copies, r->j->copies))
		r->j->ends->tail->has_copy = true;
	return true;
}

static bool read_target(struct round *r)
{
	struct ends *e = r->j->ends;
	PGconn *conn = e->targets[r->j->role];
	struct ends_moment now;

	if (failpoint("judge.refused"))
		return ends_begin(conn, r->f) && pg_do(conn, r->f, "SELECT 1/0");
	r->places = arena_alloc(&r->arena, (size_t)e->m->partition_count * sizeof(*r->places));
	return (r->places || no_memory(r->f)) && ends_mark(e, &now, r->f) &&
	       ends_wait(e, r->j->role, now.lsn, r->f) && ends_begin(conn, r->f) &&
	       ends_places(e, r->j->role, r->places, r->f) && check_copies(r) &&
	       read_rows(r, DIGEST_TARGET) && ends_commit(conn, r->f) &&
	       ends_read_to(e, r->places, r->f);
}

/* ---- verdicts ---- */

static void report(struct round *r, size_t i, enum verdict_hop hop, const bool *is_explained, uint64_t since_lsn)
{
	struct judge *j = r->j;
	const struct verdict_row *s = &r->rows[DIGEST_SOURCE][i], *t = &r->rows[DIGEST_TARGET][i];

	j->found_count++;
	j->found(j->arg, &(struct difference) {
				 .digest = j->digest,
				 .role = j->role,
				 .key = r->keys[i],
				 .source_count = s->count,
				 .target_count = t->count,
				 .source = s->count ? s->texts : NULL,
				 .target = t->count ? t->texts : NULL,
				 .is_explained = is_explained,
				 .hop = hop,
				 .writer = r->writers && t->count ? r->writers[i][0] : span(NULL, 0),
				 .written_at = r->writers && t->count ? r->writers[i][1] : span(NULL, 0),
				 .since_lsn = since_lsn,
			 });
}

/* The last event that S sees (of is_seen), or that was applied, and what it left behind. */
static bool last_image(struct round *r, struct span key, const struct known_event *events, size_t n,
		       bool of_seen, struct verdict_image *ret)
{
	const struct tail_event **list = arena_alloc(&r->arena, n * sizeof(*list) + 1);
	size_t count = 0;

	if (!list)
		return no_memory(r->f);
	for (size_t i = 0; i < n; i++)
		if (of_seen ? events[i].is_seen : events[i].is_applied)
			list[count++] = events[i].e;
	return image_of_key(&r->images, key, list, count, ret, r->f);
}

static const bool *explained_columns(struct round *r, const struct verdict_case *c)
{
	bool *is_explained = arena_alloc(&r->arena, c->column_count * sizeof(*is_explained) + 1);

	for (size_t i = 0; is_explained && i < c->column_count; i++)
		is_explained[i] = verdict_explains(c, i);
	return is_explained;
}

static bool judge_keyed(struct round *r, size_t i, enum verdict *ret)
{
	struct verdict_case c = { .column_count = r->j->digest->column_count,
				  .source = r->rows[DIGEST_SOURCE][i],
				  .target = r->rows[DIGEST_TARGET][i],
				  .is_settled = r->is_settled };
	bool has_hash = r->hashes && r->hashes[i].is_known;
	const struct known_event *events = r->events.list;
	size_t n = r->events.count;
	enum verdict_hop hop;

	if (r->hashes) {
		events = events_of(&r->events, has_hash ? &r->hashes[i].hash : NULL, &r->arena, &n);
		if (!events)
			return no_memory(r->f);
		for (size_t k = 0; k < n; k++)
			c.sees_event = c.sees_event || events[k].is_seen;
	}
	c.is_same = events_are_shown_by_both(events, n);
	if (has_hash &&
	    (!last_image(r, r->keys[i], events, n, true, &c.source_image) ||
	     !last_image(r, r->keys[i], events, n, false, &c.target_image)))
		return false;
	*ret = verdict_key(&c, &hop);
	if (*ret != VERDICT_CLEAN && failpoint("judge.hasty"))
		*ret = VERDICT_DIVERGED;
	if (*ret == VERDICT_DIVERGED)
		report(r, i, hop, explained_columns(r, &c), events_since(events, n));
	return !arena_failed(&r->arena) || no_memory(r->f);
}

/* What the events that only one of the two sides knows made of the counts; *ret_known: can it be told? */
static bool count_between(struct round *r, const struct known_event *events, size_t n,
			  int64_t *between, bool *ret_known)
{
	size_t differing = 0;

	for (size_t i = 0; i < n; i++)
		if (events[i].is_seen != events[i].is_applied) {
			differing++;
			if (events[i].e->kind != TAIL_ROW)
				return true;
		}
	if (differing > BETWEEN_MAX)
		return true;
	for (size_t i = 0; i < n; i++) {
		struct span keys[2] = { { 0 } };
		int sign = events[i].is_applied ? 1 : -1;

		if (events[i].is_seen == events[i].is_applied)
			continue;
		if (!image_of_row(&r->images, events[i].e, keys, r->f))
			return false;
		for (int side = 0; side < 2; side++) {
			ptrdiff_t at = keys[side].p ? find_key(r, keys[side]) : -1;

			if (at >= 0)
				between[at] += side == 0 ? -sign : sign;
		}
	}
	*ret_known = true;
	return true;
}

static bool judge_keyless(struct round *r, enum verdict *verdicts)
{
	int64_t *between = arena_alloc(&r->arena, r->key_count * sizeof(*between) + 1);
	bool is_known = false;

	if (!between)
		return no_memory(r->f);
	if (!count_between(r, r->events.list, r->events.count, between, &is_known))
		return false;
	for (size_t i = 0; i < r->key_count; i++) {
		verdicts[i] = is_known ? verdict_count(r->rows[DIGEST_SOURCE][i].count,
						       r->rows[DIGEST_TARGET][i].count, between[i],
						       r->is_settled)
				       : VERDICT_LATER;
		if (verdicts[i] == VERDICT_DIVERGED)
			report(r, i, HOP_UNKNOWN, NULL, events_since(r->events.list, r->events.count));
	}
	return true;
}

static bool gather(struct round *r)
{
	const struct tail *t = r->j->ends->tail;
	const struct events_readings readings = { &r->snapshot, r->places };
	uint64_t *hashes = NULL;

	if (r->j->digest->has_stream_key) {
		r->hashes = arena_alloc(&r->arena, r->key_count * sizeof(*r->hashes) + 1);
		hashes = arena_alloc(&r->arena, r->key_count * sizeof(*hashes) + 1);
		if (!r->hashes || !hashes)
			return no_memory(r->f);
	}
	for (size_t i = 0; hashes && i < r->key_count; i++) {
		r->hashes[i].is_known = image_key_hash(&r->images, r->keys[i], &r->hashes[i].hash);
		hashes[i] = r->hashes[i].hash;
	}
	return events_gather(&r->events, t->events, t->event_count, &readings, hashes, r->key_count, &r->arena) || no_memory(r->f);
}

static bool round_judge(struct round *r, enum verdict *verdicts)
{
	if (!gather(r))
		return false;
	if (r->j->digest->is_keyless)
		return judge_keyless(r, verdicts);
	for (size_t i = 0; i < r->key_count; i++)
		if (!ends_go_on(r->j->ends, r->f) || !judge_keyed(r, i, &verdicts[i]))
			return false;
	return true;
}

/* ---- rounds ---- */

/* keys: those to be judged; those to be judged later are left in it. */
static bool round_run(struct judge *j, struct span *keys, size_t *n, struct fault *f)
{
	struct round r = { .j = j, .keys = keys, .key_count = *n, .f = f };
	enum verdict *verdicts;
	size_t left = 0;
	bool ok;

	arena_init(&r.arena, ROUND_BYTES);
	image_init(&r.images, j->ends, j->digest, j->seed, &r.arena);
	verdicts = arena_alloc(&r.arena, *n * sizeof(*verdicts) + 1);
	ok = (verdicts || no_memory(f)) && sort_keys(&r) && read_source(&r) && read_target(&r);
	/* What is not in the index cannot be told from what did not happen. */
	if (ok && !j->ends->tail->has_overflowed && !j->ends->tail->has_copy) {
		ok = round_judge(&r, verdicts);
		for (size_t i = 0; ok && i < *n; i++) {
			j->explained_count += verdicts[i] == VERDICT_EXPLAINED;
			if (verdicts[i] == VERDICT_LATER)
				keys[left++] = keys[i];
		}
		*n = left;
	}
	if (r.arena.used_bytes > j->bytes)
		j->bytes = r.arena.used_bytes;
	arena_release(&r.arena);
	return ok;
}

bool judge_keys(struct judge *j, const struct span *keys, size_t n, struct fault *f)
{
	struct span left[JUDGE_BATCH];
	const struct tail *t = j->ends->tail;

	j->bytes = 0;
	memcpy(left, keys, n * sizeof(*left));
	for (int i = 0; i < ROUNDS && n > 0 && !t->has_overflowed && !t->has_copy; i++)
		if (!round_run(j, left, &n, f))
			return false;
	if (n)
		log_debug("%.*s: %zu keys could not be judged", SPAN_ARG(j->digest->label), n);
	for (size_t i = 0; j->open && i < n; i++)
		j->open(j->arg, left[i]);
	j->open_count += n;
	return true;
}
