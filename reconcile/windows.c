// SPDX-License-Identifier: Apache-2.0
#include "reconcile/windows.h"

#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/random.h>

#include "core/clock.h"
#include "core/failpoint.h"
#include "core/gate_record.h"
#include "core/log.h"
#include "reconcile/narrow.h"
#include "reconcile/scrub.h"

enum {
	TABLE_BYTES = 1 << 30,
	TEXT_BYTES = 64 << 20,
	KEYS_AT_ONCE = 10 * 1000,
	POLL_MS = 100,
	PUT_MS = 10 * 1000,
	BACKOFF_FIRST_MS = 500,
	BACKOFF_LAST_MS = 10 * 1000,
	SAID_MAX = 1000, /* differences that are remembered, so that each is said once */
};

struct session {
	const struct migration *m;
	const struct windows_options *options;
	struct control *control;
	struct known *known;
	struct tail tail;
	struct ends ends;
	int64_t seed;
	struct touched fresh;    /* touched since the last window ended */
	struct touched due;      /* to be compared */
	struct touched differ;   /* found to differ in this window */
	struct buf parts[TOUCHED_PARTS_MAX];
	uint64_t said[SAID_MAX]; /* hashes of table and key */
	size_t said_count;
	int64_t clean_us;        /* when the last mark that was verified was made */
	size_t key_count, read_count;
	struct metric_cell *gate, *gate_lag, *verified, *coverage;
	struct fault *f;
};

static bool must_stop(const struct session *s)
{
	return atomic_load(s->options->stop);
}

static bool no_memory(struct fault *f)
{
	return fault(f, FAULT_INTERNAL, "no memory for the keys of a window");
}

/* ---- what was touched ---- */

/* False: not known. */
static bool write_parts(struct session *s, const struct relation *rel, const struct value *row,
			struct span *texts, size_t *ret_count)
{
	struct touched_part parts[TOUCHED_PARTS_MAX];
	size_t n = touched_parts(rel, parts);

	for (size_t i = 0; i < n; i++) {
		const struct value *v = &row[parts[i].column];
		struct buf *b = &s->parts[i];

		buf_reset(b);
		if (v->state == VALUE_IS_NULL || v->state == VALUE_IS_UNCHANGED ||
		    !value_add_text(&rel->columns[parts[i].column].type, v, b, NULL))
			return false;
		texts[i] = span(buf_cstr(b), buf_span(b).n);
		if (buf_failed(b))
			return false;
	}
	*ret_count = n;
	return n > 0;
}

static bool touch(void *arg, const struct relation *rel, const struct value *row, struct fault *f)
{
	struct session *s = arg;
	struct span parts[TOUCHED_PARTS_MAX];
	struct touched_table *table;
	bool is_new;
	size_t n;

	if (!migration_has_table(s->m, rel->root_schema, rel->root_table) &&
	    !migration_has_table(s->m, rel->schema, rel->table))
		return true;
	table = touched_table(&s->fresh, rel, &is_new);
	if (!table)
		return no_memory(f);
	if (!row || rel->keyless || !write_parts(s, rel, row, parts, &n))
		touched_whole(table);
	else
		touched_add(table, parts, n);
	return true;
}

/* Tables that were not seen before are compared as a whole. */
static bool take_tables(struct session *s)
{
	if (!known_look(s->known, s->f))
		return false;
	for (size_t i = 0; i < known_count(s->known); i++) {
		const struct relation *rel = known_newest(s->known, i);
		struct touched_table *table;
		bool is_new;

		if (!migration_has_table(s->m, rel->root_schema, rel->root_table) &&
		    !migration_has_table(s->m, rel->schema, rel->table))
			continue;
		table = touched_table(&s->due, rel, &is_new);
		if (!table)
			return no_memory(s->f);
		table->rel = rel;
		if (is_new)
			touched_whole(table);
	}
	return true;
}

/* ---- differences ---- */

/* False: it was said before, or it is one too many. */
static bool is_news(struct session *s, const struct difference *d)
{
	uint64_t hash = span_hash(d->digest->label) ^ span_hash(d->key);

	for (size_t i = 0; i < s->said_count; i++)
		if (s->said[i] == hash)
			return false;
	if (s->said_count == SAID_MAX)
		return false;
	s->said[s->said_count++] = hash;
	return true;
}

/* Its key, to be compared again. */
static void keep(struct session *s, const struct difference *d)
{
	struct touched_part parts[TOUCHED_PARTS_MAX];
	size_t n = touched_parts(d->digest->rel, parts), count = 0;
	struct span texts[TOUCHED_PARTS_MAX + 1], sorted[TOUCHED_PARTS_MAX];
	struct touched_table *t;
	struct arena a;
	bool is_new;

	t = touched_table(&s->differ, d->digest->rel, &is_new);
	if (!t)
		return; /* the table keeps all its keys: see take_result */
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
	struct session *s = arg;
	const char *hop = difference_hop(d);
	char gate[LSN_TEXT];

	keep(s, d);
	if (!is_news(s, d))
		return;
	log_error("%.*s key %.*s: %s on the shadow, came %s; the gate stands at %s and the primary waits in front of "
		  "it; next step: foreshadow verify --role shadow shows the columns; when the row is right on the "
		  "shadow, the gate goes on",
		  SPAN_ARG(d->digest->label), SPAN_ARG(d->key), difference_kind(d),
		  hop ? hop : "before it was looked at", lsn_format(gate_record_get(s->control).v, gate));
}

/* ---- a table ---- */

/* Its digest, as both servers have it now. *ret_is_live: false: its copy is not complete. */
static bool prepare(struct session *s, const struct relation *rel, struct arena *a, struct digest *ret,
		    bool *ret_is_live)
{
	struct side *source = arena_alloc(a, sizeof(*source)), *target = arena_alloc(a, sizeof(*target));
	struct span copies;

	if (!source || !target)
		return no_memory(s->f);
	if (!ends_copies(&s->ends, ROLE_SHADOW, rel, a, &copies, ret_is_live, s->f))
		return false;
	return !*ret_is_live ||
	       (side_read(s->ends.source, "source", rel->root_schema, rel->root_table, a, source, s->f) &&
		side_read(s->ends.targets[ROLE_SHADOW], "shadow", rel->target_schema, rel->target_table, a, target,
			  s->f) &&
		digest_make(rel, source, target, a, ret, s->f));
}

/* By key, or *ret_done false: no index has them. */
static bool compare_keys(struct session *s, struct scrub *scrub, const struct touched_table *t,
			 bool *ret_done)
{
	bool ok = true;

	*ret_done = true;
	for (size_t i = 0; ok && *ret_done && i < t->count; i += KEYS_AT_ONCE) {
		size_t n = t->count - i < KEYS_AT_ONCE ? t->count - i : KEYS_AT_ONCE;
		struct span near[2];
		struct arena a;

		arena_init(&a, TABLE_BYTES);
		ok = narrow(scrub->digests[ROLE_SHADOW], t->keys + i, n, t->part_count, &a, near) ||
		     no_memory(s->f);
		*ret_done = ok && near[0].p;
		ok = ok && (!near[0].p || scrub_near(scrub, near, s->f));
		arena_release(&a);
	}
	return ok;
}

/* Of a table that was looked at to its end, only what differs is looked at again. */
static bool take_result(struct session *s, struct touched_table *t, const struct scrub_result *result,
			bool *ret_is_right)
{
	*ret_is_right = !result->found_count && !result->open_count && !result->is_cut;
	if (result->open_count || result->is_cut || (result->found_count && !s->differ.count))
		return true;
	touched_clear(t);
	return touched_move(&s->differ, &s->due) || no_memory(s->f);
}

static bool compare_table(struct session *s, struct touched_table *t, const struct digest *d,
			  bool *ret_is_right)
{
	struct scrub scrub;
	bool is_by_key = !t->is_whole && d->has_stream_key;

	scrub_init(&scrub, &s->ends, s->seed);
	scrub.digests[ROLE_SHADOW] = d;
	scrub.found = found;
	scrub.arg = s;
	if (is_by_key && !compare_keys(s, &scrub, t, &is_by_key))
		return false;
	if (!is_by_key && !scrub_table(&scrub, s->f))
		return false;
	s->key_count += t->count;
	s->read_count += scrub.read_count;
	return take_result(s, t, &scrub.results[ROLE_SHADOW], ret_is_right);
}

/* What cannot be asked about a table (a column is missing) is said, and the others are compared. */
static bool look_at(struct session *s, struct touched_table *t, bool *ret_is_right)
{
	struct digest d;
	struct arena a;
	bool ok, is_live = false;

	*ret_is_right = false;
	touched_free(&s->differ);
	arena_init(&a, TABLE_BYTES);
	ok = prepare(s, t->rel, &a, &d, &is_live) && (!is_live || compare_table(s, t, &d, ret_is_right));
	arena_release(&a);
	if (ok || s->f->kind != FAULT_STOP)
		return ok || fault_in(s->f, "%.*s.%.*s", SPAN_ARG(t->rel->target_schema), SPAN_ARG(t->rel->target_table));
	log_error("%.*s.%.*s cannot be compared, so the gate stands: %s", SPAN_ARG(t->rel->target_schema),
		  SPAN_ARG(t->rel->target_table), s->f->text);
	fault_reset(s->f);
	return true;
}

/* ---- a window ---- */

static bool end_window(struct session *s, uint64_t lsn, int64_t marked_us, size_t wrong)
{
	char text[LSN_TEXT];

	metric_set(s->coverage, s->due.count ? (int64_t)((s->due.count - wrong) * 1000000 / s->due.count) : 0);
	log_debug("window to %s: %zu keys, %zu rows read, %zu of %zu tables not right", lsn_format(lsn, text),
		  s->key_count, s->read_count, wrong, s->due.count);
	if (wrong || !s->due.count)
		return true;
	if (s->said_count)
		log_info("what differed is right now; the gate goes on to %s", text);
	s->said_count = 0;
	if (!gate_record_put(s->control, (struct boundary) { lsn }, PUT_MS, s->f))
		return false;
	metric_set(s->verified, (int64_t)lsn);
	metric_set(s->gate, (int64_t)gate_record_get(s->control).v);
	if (s->clean_us)
		metric_set(s->gate_lag, clock_us() - s->clean_us);
	else
		log_info("all %zu tables compared: verified to %s, the gate is open to there", s->due.count, text);
	s->clean_us = marked_us;
	return true;
}

/* The copies on the shadow, as a number that differs when one has begun; *ret_are_going_on: its partitions may
 * stand, and the shadow contains nothing new. */
static bool ask_copies(struct session *s, int64_t *ret_copies, bool *ret_are_going_on)
{
	const char *values[] = { s->m->name };
	PGresult *r = pg_query_params(s->ends.targets[ROLE_SHADOW], s->f,
				      "SELECT coalesce(pg_catalog.hashtextextended(pg_catalog.string_agg("
				      "  oid || ':' || attempt, ' ' ORDER BY oid), 0), 0),"
				      " (count(*) FILTER (WHERE state = 'copying') > 0)::int"
				      " FROM foreshadow.copies WHERE migration = $1",
				      1, values);

	*ret_copies = r ? pg_i64(r, 0, 0) : 0;
	*ret_are_going_on = r && pg_i64(r, 0, 1) == 1;
	PQclear(r);
	return r != NULL;
}

static bool compare_touched(struct session *s, size_t *ret_wrong)
{
	s->key_count = s->read_count = 0;
	*ret_wrong = 0;
	for (size_t i = 0; i < s->due.count; i++) {
		struct touched_table *t = s->due.tables[i];
		bool is_right = true;

		if (!touched_is_empty(t) && !look_at(s, t, &is_right))
			return false;
		*ret_wrong += !is_right;
	}
	return true;
}

/* Takes in the stream up to where the shadow stands, which is behind lsn. */
static bool read_stream(struct session *s, uint64_t lsn)
{
	struct position *places = calloc((size_t)s->m->partition_count, sizeof(*places));
	bool ok = (places || no_memory(s->f)) && ends_wait(&s->ends, ROLE_SHADOW, lsn, s->f) &&
		  ends_places(&s->ends, ROLE_SHADOW, places, s->f) &&
		  ends_read_to(&s->ends, places, s->f);

	free(places);
	return ok && (touched_move(&s->fresh, &s->due) || no_memory(s->f)) && take_tables(s);
}

/* What was copied is as the source was when the copy ended: a mark from before that would open the gate in
 * front of rows that the primary then has. So no copy may have begun since the mark. */
static bool run_window(struct session *s)
{
	int64_t copies_before, copies, marked_us;
	struct ends_moment mark;
	bool are_going_on;
	size_t wrong;

	if (!ask_copies(s, &copies_before, &are_going_on))
		return false;
	if (are_going_on)
		return true;
	if (!ends_mark(&s->ends, &mark, s->f))
		return false;
	marked_us = clock_us();
	failpoint("windows.marked");
	if (!read_stream(s, mark.lsn) || !compare_touched(s, &wrong) || !ask_copies(s, &copies, &are_going_on))
		return false;
	return copies != copies_before || end_window(s, mark.lsn, marked_us, wrong);
}

/* ---- a session ---- */

static bool sleep_ms(const struct session *s, int ms)
{
	struct pollfd p = { s->options->stop_fd, POLLIN, 0 };

	return poll(&p, 1, ms) == 0 && !must_stop(s);
}

/* The session's lock goes with its connection. */
static bool be_the_one(struct session *s)
{
	char name[128];
	const char *values[] = { name };
	bool has_said = false;

	snprintf(name, sizeof(name), "foreshadow reconcile %s", s->m->name);
	while (!must_stop(s)) {
		PGresult *r = pg_query_params(s->ends.targets[ROLE_SHADOW], s->f,
					      "SELECT pg_catalog.pg_try_advisory_lock("
					      "pg_catalog.hashtextextended($1, 0))::int",
					      1, values);
		bool is_ours = r && pg_i64(r, 0, 0) == 1;

		PQclear(r);
		if (!r || is_ours)
			return r != NULL;
		if (!has_said)
			log_info("another process runs the windows; waiting until it ends");
		has_said = true;
		sleep_ms(s, 1000);
	}
	return fault(s->f, FAULT_ENVIRONMENT, "told to stop");
}

static bool open_session(struct session *s, struct framing *framing)
{
	s->seed = 0;
	if (getrandom(&s->seed, sizeof(s->seed), 0) != sizeof(s->seed))
		return fault(s->f, FAULT_INTERNAL, "no random number from the system");
	s->ends = (struct ends) { .m = s->m, .tail = &s->tail, .stop = s->options->stop };
	s->ends.source = pg_connect(&s->m->source, PG_PLAIN, s->m->slot, s->f);
	if (s->ends.source)
		s->ends.targets[ROLE_SHADOW] = pg_connect(&s->m->shadow, PG_PLAIN, s->m->slot, s->f);
	if (!s->ends.targets[ROLE_SHADOW] || !be_the_one(s))
		return false;
	s->known = known_new(s->control, s->f);
	if (!s->known || !tail_open(&s->tail, s->m, s->known, framing, s->f))
		return false;
	s->tail.learn = s->options->learn;
	s->tail.arg = s->options->arg;
	s->tail.touch = touch;
	s->tail.touch_arg = s;
	return tail_start(&s->tail, s->ends.targets, 2, s->f);
}

static void close_session(struct session *s)
{
	tail_close(&s->tail);
	touched_free(&s->fresh);
	touched_free(&s->due);
	touched_free(&s->differ);
	known_free(s->known);
	s->known = NULL;
	pg_close(&s->ends.source);
	pg_close(&s->ends.targets[ROLE_SHADOW]);
	s->clean_us = 0;
	s->said_count = 0;
	metric_clear(s->coverage);
}

static bool follow(struct session *s)
{
	while (!must_stop(s)) {
		int64_t next_us = clock_us() + (int64_t)s->m->window_ms * 1000;

		if (!failpoint("windows.idle") && !run_window(s))
			return false;
		while (!must_stop(s) && clock_us() < next_us)
			if (!tail_poll(&s->tail, POLL_MS, s->f))
				return false;
	}
	return true;
}

/* Before the shadow has made its tables there is nothing to say. */
static void say_failure(const struct session *s, bool is_first)
{
	if (strcmp(s->f->sqlstate, "42P01") != 0)
		log_warn("the gate stands: %s; all tables are compared again when this is over", s->f->text);
	else if (is_first)
		log_info("waiting for the shadow to begin");
}

static void make_metrics(struct session *s)
{
	struct metrics *m = s->options->metrics;

	s->gate = metric_cell(m, METRIC_GATE, NULL, NULL, NULL);
	s->gate_lag = metric_cell(m, METRIC_GATE_LAG, NULL, NULL, NULL);
	s->verified = metric_cell(m, METRIC_VERIFIED, NULL, NULL, NULL);
	s->coverage = metric_cell(m, METRIC_COVERAGE, NULL, NULL, NULL);
}

bool windows_run(const struct migration *m, struct control *control, struct framing *framing,
		 const struct windows_options *o, struct fault *f)
{
	struct session *s = calloc(1, sizeof(*s));
	int backoff_ms = BACKOFF_FIRST_MS;

	if (!s)
		return no_memory(f);
	*s = (struct session) { .m = m, .options = o, .control = control, .f = f };
	for (int i = 0; i < TOUCHED_PARTS_MAX; i++)
		buf_init(&s->parts[i], TEXT_BYTES);
	make_metrics(s);
	while (!must_stop(s)) {
		fault_reset(f);
		if (open_session(s, framing) && follow(s))
			break;
		if (must_stop(s))
			break;
		backoff_ms = s->clean_us ? BACKOFF_FIRST_MS : backoff_ms;
		say_failure(s, backoff_ms == BACKOFF_FIRST_MS);
		close_session(s);
		sleep_ms(s, backoff_ms);
		backoff_ms = 2 * backoff_ms > BACKOFF_LAST_MS ? BACKOFF_LAST_MS : 2 * backoff_ms;
	}
	close_session(s);
	for (int i = 0; i < TOUCHED_PARTS_MAX; i++)
		buf_release(&s->parts[i]);
	free(s);
	fault_reset(f);
	return true;
}
