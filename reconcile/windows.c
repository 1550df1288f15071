// SPDX-License-Identifier: Apache-2.0
#include "reconcile/windows.h"

#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "core/clock.h"
#include "core/failpoint.h"
#include "core/gate_record.h"
#include "core/incident_topic.h"
#include "core/log.h"
#include "reconcile/bookmark.h"
#include "reconcile/compare.h"
#include "reconcile/difference.h"
#include "reconcile/pace.h"
#include "reconcile/weigh.h"

enum {
	TEXT_BYTES = 64 << 20,
	BOOKMARK_BYTES = 64 << 20,
	CHUNK_TEXT_BYTES = 1 << 30,
	POLL_MS = 100,
	PUT_MS = 10 * 1000,
	BACKOFF_FIRST_MS = 500,
	BACKOFF_LAST_MS = 10 * 1000,
	BOOKMARK_US = 1000 * 1000, /* from one to the next, at least */
	LATER_US = 1000 * 1000,    /* before what could not be scrubbed is tried again */
	OPEN_TRIES = 3,            /* of a chunk; then a pass goes on without it */
};

struct session {
	const struct migration *m;
	const struct windows_options *options;
	struct control *control;
	struct known *known;
	struct tail tail;
	struct ends ends;
	struct weigh weigh;
	struct comparer comparer;
	struct touched fresh;      /* touched since the last window ended */
	struct touched due;        /* to be compared */
	struct tail_place *places; /* where the stream was when fresh became due */
	struct walk walk;
	struct pace pace;
	int open_tries;
	bool has_tables; /* which tables there are was asked once */
	bool was_left;   /* it goes on where a bookmark says */
	bool has_proof;  /* a planted difference was found since the last pass began */
	bool is_said;    /* that the gate is open */
	struct buf parts[TOUCHED_PARTS_MAX];
	uint64_t mark_lsn;
	int64_t clean_us; /* when the last mark that was verified was made; 0: none in this session */
	int64_t bookmark_us;
	struct metric_cell *gate, *gate_lag, *verified, *coverage, *balance, *differences;
	struct incident_topic *incidents;
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

static const char *role_name(const struct session *s)
{
	return ends_role_names[s->options->role];
}

static bool has_gate(const struct session *s)
{
	return s->options->role == ROLE_SHADOW;
}

static PGconn *target(const struct session *s)
{
	return s->ends.targets[s->options->role];
}

static bool is_in_scope(const struct session *s, const struct relation *rel)
{
	return migration_has_table(s->m, rel->root_schema, rel->root_table) ||
	       migration_has_table(s->m, rel->schema, rel->table);
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

	if (!is_in_scope(s, rel))
		return true;
	if (!row)
		return walk_owe(&s->walk, rel->root_schema, rel->root_table) || no_memory(f);
	table = touched_table(&s->fresh, rel, &is_new);
	if (!table)
		return no_memory(f);
	if (rel->keyless || !write_parts(s, rel, row, parts, &n))
		touched_whole(table);
	else
		touched_add(table, parts, n);
	return true;
}

/* A table that was not seen before is owed; where a bookmark was left, the stream says from there which are. */
static bool take_table(struct session *s, const struct relation *rel)
{
	struct touched_table *table;
	bool is_new;

	table = touched_table(&s->due, rel, &is_new);
	if (!table || !walk_see(&s->walk, rel->root_schema, rel->root_table, &is_new))
		return no_memory(s->f);
	table->rel = rel;
	if (!is_new || (s->was_left && !s->has_tables))
		return true;
	return walk_owe(&s->walk, rel->root_schema, rel->root_table) || no_memory(s->f);
}

static bool take_tables(struct session *s)
{
	if (!known_look(s->known, s->f))
		return false;
	for (size_t i = 0; i < known_count(s->known); i++)
		if (is_in_scope(s, known_newest(s->known, i)) && !take_table(s, known_newest(s->known, i)))
			return false;
	s->has_tables = true;
	return true;
}

static const struct relation *find_relation(const struct session *s, const struct walk_table *t)
{
	for (size_t i = 0; i < known_count(s->known); i++) {
		const struct relation *rel = known_newest(s->known, i);

		if (span_eq(rel->root_schema, span_str(t->schema)) && span_eq(rel->root_table, span_str(t->table)))
			return rel;
	}
	return NULL;
}

static void report(struct session *s, struct span key, json_t *incident)
{
	struct fault why = { 0 };

	metric_add(s->differences, 1);
	if (!incident_topic_send(s->incidents, key, incident, &why))
		log_warn("incident not written: %s", why.text);
}

static void found(void *arg, const struct difference *d)
{
	struct session *s = arg;
	const char *hop = difference_hop(d);
	char gate[LSN_TEXT], consequence[200];

	report(s, d->key, difference_incident(d, s->mark_lsn));
	snprintf(consequence, sizeof(consequence), "the gate stands at %s and the primary waits in front of it; ",
		 lsn_format(gate_record_get(s->control).v, gate));
	log_error("%.*s key %.*s: %s on the %s, came %s; %snext step: foreshadow verify --role %s shows the columns, --repair sets it right%s",
		  SPAN_ARG(d->digest->label), SPAN_ARG(d->key), difference_kind(d), role_name(s),
		  hop ? hop : "before it was looked at", has_gate(s) ? consequence : "", role_name(s),
		  has_gate(s) ? "; when it is right on the shadow, the gate goes on" : "");
}

static void found_unbalanced(void *arg, const struct balance_difference *d)
{
	struct session *s = arg;
	char gate[LSN_TEXT], consequence[200];
	struct buf text;
	struct {
		int64_t kind, partition, oid, by;
	} what = { d->kind, d->partition, d->oid, d->seen - d->wanted };

	if (!compare_is_news(&s->comparer, span_hash(span(&what, sizeof(what))) ^ span_hash(d->table)))
		return;
	snprintf(consequence, sizeof(consequence), "the gate stands at %s and the primary waits in front of it; ",
		 lsn_format(gate_record_get(s->control).v, gate));
	buf_init(&text, TEXT_BYTES);
	balance_describe(d, &text);
	log_error("the %s is out of balance: %.*s; %snext step: foreshadow verify shows whether rows differ, \"Balance\" in "
		  "docs/operations.md what then",
		  role_name(s), SPAN_ARG(buf_span(&text)), has_gate(s) ? consequence : "");
	report(s, d->table, json_pack("{s:s, s:s, s:o, s:n, s:s, s:o}", "class", "balance", "role", role_name(s), "table",
				      json_span(d->table), "key", "sqlstate", "", "message", json_span(buf_span(&text))));
	buf_release(&text);
}

/* ---- a window ---- */

/* The copies on the target, as a number that differs when one has begun; *ret_are_going_on: its partitions may
 * stand, and the target contains nothing new. */
static bool ask_copies(struct session *s, int64_t *ret_copies, bool *ret_are_going_on)
{
	const char *values[] = { s->m->name };
	PGresult *r = pg_query_params(target(s), s->f,
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

/* Takes in the stream up to where the target stands, which is behind lsn. */
static bool read_stream(struct session *s, uint64_t lsn)
{
	struct position *places = calloc((size_t)s->m->partition_count, sizeof(*places));
	bool ok = (places || no_memory(s->f)) && ends_wait(&s->ends, s->options->role, lsn, s->f) &&
		  ends_places(&s->ends, s->options->role, places, s->f) &&
		  ends_read_to(&s->ends, places, s->f);

	free(places);
	if (!ok)
		return false;
	tail_places(&s->tail, s->places);
	return (touched_move(&s->fresh, &s->due) || no_memory(s->f)) && take_tables(s);
}

/* Of a table that was looked at to its end, only what differs is looked at again. */
static bool take_result(struct session *s, struct touched_table *t, enum compared compared, bool *ret_is_right)
{
	*ret_is_right = compared == COMPARED && s->comparer.differ.count == 0;
	if (compared != COMPARED)
		return true;
	touched_clear(t);
	return touched_move(&s->comparer.differ, &s->due) || no_memory(s->f);
}

static bool compare_due(struct session *s, size_t *ret_wrong)
{
	*ret_wrong = 0;
	for (size_t i = 0; i < s->due.count; i++) {
		struct touched_table *t = s->due.tables[i];
		enum compared compared;
		bool is_right = true;

		if (touched_is_empty(t))
			continue;
		if (!compare_keys(&s->comparer, t, &compared, s->f) || !take_result(s, t, compared, &is_right))
			return false;
		*ret_wrong += !is_right;
	}
	return true;
}

static bool write_bookmark(struct session *s)
{
	char key[BOOKMARK_KEY_TEXT];
	struct buf value;
	bool ok;

	buf_init(&value, BOOKMARK_BYTES);
	ok = bookmark_format(&s->walk, s->places, s->m->partition_count, &value) || no_memory(s->f);
	ok = ok && control_put(s->control, span_str(bookmark_key(role_name(s), key)), buf_span(&value), PUT_MS, s->f);
	buf_release(&value);
	if (ok || s->f->kind == FAULT_ENVIRONMENT)
		return ok;
	log_warn("after a restart the windows would begin anew: %s", s->f->text);
	fault_reset(s->f);
	return true;
}

/* The gate first: a bookmark that is behind it only makes work. */
static bool move_on(struct session *s, uint64_t lsn)
{
	uint64_t scrubbed = s->walk.scrubbed_lsn;
	char text[LSN_TEXT];

	if (has_gate(s)) {
		if (!gate_record_put(s->control, (struct boundary) { lsn }, PUT_MS, s->f))
			return false;
		metric_set(s->gate, (int64_t)gate_record_get(s->control).v);
		if (s->clean_us)
			metric_set(s->gate_lag, clock_us() - s->clean_us);
	}
	if (!s->is_said)
		log_info("all %zu tables compared: verified to %s%s", s->walk.count, lsn_format(lsn, text),
			 has_gate(s) ? ", the gate is open to there" : "");
	s->is_said = true;
	metric_set(s->verified, (int64_t)(scrubbed < lsn ? scrubbed : lsn));
	return true;
}

static bool weigh_target(struct session *s, bool *ret_is_balanced)
{
	struct weigh_result result;

	if (!weigh_now(&s->weigh, s->options->role, 0, found_unbalanced, s, &result, s->f))
		return false;
	*ret_is_balanced = result.difference_count == 0;
	metric_set(s->balance, (int64_t)balance_error_sum(&result.error));
	return true;
}

static void say_window(const struct session *s, uint64_t lsn, size_t wrong, bool is_balanced)
{
	const struct comparer *c = &s->comparer;
	size_t all = c->key_count + c->row_count, open = c->open_count < all ? c->open_count : all;
	char text[LSN_TEXT], why[200];

	metric_set(s->coverage, all ? (int64_t)((double)(all - open) * 1e6 / (double)all) : 1000000);
	log_debug("window to %s: %zu keys, %zu rows read, %zu of %zu tables not right, %zu owed",
		  lsn_format(lsn, text), c->key_count, c->read_count, wrong, s->due.count, walk_owed(&s->walk));
	if (!wrong && is_balanced)
		return;
	snprintf(why, sizeof(why), "%zu tables of the %s are not what the source is, or could not be judged%s: see the log",
		 wrong, role_name(s), is_balanced ? "" : "; it is out of balance");
	standing_stands(s->options->standing, why);
}

static bool end_window(struct session *s, uint64_t lsn, int64_t marked_us, size_t wrong, bool is_balanced)
{
	say_window(s, lsn, wrong, is_balanced);
	if (wrong || !is_balanced || !s->due.count)
		return true;
	if (s->comparer.told_count)
		log_info("what differed on the %s is right now", role_name(s));
	compare_forget(&s->comparer);
	if (walk_owed(&s->walk) == 0 && !move_on(s, lsn))
		return false;
	standing_moved(s->options->standing);
	s->clean_us = marked_us;
	if (clock_us() - s->bookmark_us < BOOKMARK_US)
		return true;
	s->bookmark_us = clock_us();
	return write_bookmark(s);
}

static void reset_sums(struct comparer *c)
{
	c->key_count = c->row_count = c->read_count = c->open_count = 0;
	c->source_us = 0;
}

/* What was copied is as the source was when the copy ended: a mark from before that would open the gate in
 * front of rows that the primary then has. So no copy may have begun since the mark. */
static bool run_window(struct session *s)
{
	int64_t copies_before, copies, marked_us;
	struct ends_moment mark;
	bool are_going_on, is_balanced;
	size_t wrong;

	if (!ask_copies(s, &copies_before, &are_going_on))
		return false;
	if (are_going_on)
		return true;
	if (!ends_mark(&s->ends, &mark, s->f))
		return false;
	s->mark_lsn = mark.lsn;
	marked_us = clock_us();
	failpoint("windows.marked");
	reset_sums(&s->comparer);
	if (!read_stream(s, mark.lsn) || !weigh_target(s, &is_balanced) || !compare_due(s, &wrong) ||
	    !ask_copies(s, &copies, &are_going_on))
		return false;
	return copies != copies_before || end_window(s, mark.lsn, marked_us, wrong, is_balanced);
}

/* ---- the scrub ---- */

/* Tables in which a chunk is small, then any. */
static bool prove(struct session *s)
{
	enum canary seen = CANARY_NO_ROW;

	for (int pass = 0; pass < 2; pass++)
		for (size_t i = 0; i < s->walk.count && seen == CANARY_NO_ROW; i++) {
			const struct relation *rel = find_relation(s, &s->walk.tables[i]);

			if (rel && !compare_canary(&s->comparer, rel, pass == 1, &seen, s->f))
				return false;
		}
	s->has_proof = seen != CANARY_OPEN;
	return seen != CANARY_MISSED ||
	       fault(s->f, FAULT_INTERNAL, "a difference planted in rows of the %s was not found: what is compared proves nothing",
		     role_name(s));
}

static bool begin_pass(struct session *s)
{
	struct ends_moment mark;

	if (!ends_mark(&s->ends, &mark, s->f))
		return false;
	log_debug("scrub of %zu tables begins", s->walk.count);
	walk_pass(&s->walk, mark.lsn, time(NULL));
	s->has_proof = false;
	return true;
}

/* What could not be judged is tried again; a pass that owes nothing goes on without it in the end. */
static void take_chunk(struct session *s, const struct relation *rel, bool is_owed, enum compared compared,
		       struct span from)
{
	bool is_done = compared == COMPARED;

	if (!is_done)
		walk_dirty(&s->walk);
	if (!is_done && !is_owed && s->open_tries >= OPEN_TRIES) {
		log_warn("%.*s.%.*s: rows that change all the time could not be compared on the %s in this scrub",
			 SPAN_ARG(rel->root_schema), SPAN_ARG(rel->root_table), role_name(s));
		is_done = true;
	}
	s->open_tries = is_done ? 0 : s->open_tries + 1;
	if (!is_done)
		return;
	if (!from.p)
		s->comparer.chunk_rows = 0;
	walk_went(&s->walk, from);
}

static bool scrub_chunk(struct session *s, const struct relation *rel, bool is_owed)
{
	struct span from = s->walk.has_from ? buf_span(&s->walk.from) : span(NULL, 0);
	enum compared compared;
	struct arena a;
	bool ok, is_end;

	arena_init(&a, CHUNK_TEXT_BYTES);
	ok = compare_chunk(&s->comparer, rel, &from, &a, &is_end, &compared, s->f);
	if (ok && s->comparer.differ.count)
		walk_dirty(&s->walk);
	ok = ok && (touched_move(&s->comparer.differ, &s->due) || no_memory(s->f));
	pace_took(&s->pace, clock_us(), s->comparer.source_us);
	if (ok && compared != COMPARED_LATER) {
		take_chunk(s, rel, is_owed, compared, is_end ? span(NULL, 0) : from);
	} else if (ok) {
		walk_later(&s->walk);
		s->pace.next_us = clock_us() + LATER_US;
	}
	arena_release(&a);
	return ok;
}

/* A pass that found something is followed by another one when that is right. */
static bool is_pass_due(const struct session *s)
{
	if (s->walk.is_passing || !s->has_tables)
		return false;
	return time(NULL) >= s->walk.pass_at + s->m->scrub_s ||
	       (!s->walk.pass_is_clean && s->comparer.told_count == 0);
}

/* One chunk, if one is due. */
static bool scrub_on(struct session *s)
{
	const struct walk_table *t;
	const struct relation *rel;

	if (is_pass_due(s) && !begin_pass(s))
		return false;
	t = walk_next(&s->walk);
	if (!t)
		return true;
	if (!s->has_proof && !prove(s))
		return false;
	rel = find_relation(s, t);
	if (!rel) {
		walk_forget(&s->walk, t);
		return true;
	}
	reset_sums(&s->comparer);
	return scrub_chunk(s, rel, t->is_owed);
}

static bool has_scrub(struct session *s)
{
	return (is_pass_due(s) || walk_next(&s->walk)) && pace_wait(&s->pace, clock_us()) == 0;
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

	snprintf(name, sizeof(name), "foreshadow reconcile %s %s", s->m->name, role_name(s));
	while (!must_stop(s)) {
		PGresult *r = pg_query_params(target(s), s->f,
					      "SELECT pg_catalog.pg_try_advisory_lock("
					      "pg_catalog.hashtextextended($1, 0))::int",
					      1, values);
		bool is_ours = r && pg_i64(r, 0, 0) == 1;

		PQclear(r);
		if (!r || is_ours)
			return r != NULL;
		if (!has_said)
			log_info("another process runs the windows of the %s; waiting until it ends", role_name(s));
		has_said = true;
		standing_moved(s->options->standing);
		sleep_ms(s, 1000);
	}
	return fault(s->f, FAULT_ENVIRONMENT, "told to stop");
}

static void answered(void *arg, int64_t took_us)
{
	struct session *s = arg;
	bool was_slow = pace_backs_off(&s->pace);

	pace_answered(&s->pace, took_us);
	standing_beat(s->options->standing);
	if (!was_slow && pace_backs_off(&s->pace))
		log_debug("the source answers slowly: scrubbing less");
}

/* Where the last one was left, if the stream is still there from that place on. */
static bool start_tail(struct session *s)
{
	char key[BOOKMARK_KEY_TEXT];
	struct span value;
	struct arena a;
	bool ok = true, is_gone = false;

	arena_init(&a, BOOKMARK_BYTES);
	value = control_get(s->control, span_str(bookmark_key(role_name(s), key)), &a);
	s->was_left = value.p && bookmark_parse(value, s->m->partition_count, &s->walk, s->places);
	if (value.p && !s->was_left)
		log_warn("control record %s is no bookmark: all tables are compared anew", key);
	if (s->was_left)
		ok = tail_start_at(&s->tail, s->places, &is_gone, s->f);
	arena_release(&a);
	if (ok && s->was_left && !is_gone)
		return true;
	if (is_gone) {
		log_warn("Kafka does not have the stream any more from where the windows of the %s were left: all tables are "
			 "compared anew", role_name(s));
		walk_release(&s->walk);
		walk_init(&s->walk);
		s->was_left = false;
	}
	return ok && tail_start(&s->tail, s->ends.targets, 2, s->f);
}

static bool open_session(struct session *s, struct framing *framing)
{
	enum role role = s->options->role;

	s->comparer = (struct comparer) { .ends = &s->ends, .role = role, .found = found, .arg = s };
	if (getrandom(&s->comparer.seed, sizeof(s->comparer.seed), 0) != sizeof(s->comparer.seed))
		return fault(s->f, FAULT_INTERNAL, "no random number from the system");
	s->ends = (struct ends) { .m = s->m, .tail = &s->tail, .stop = s->options->stop, .is_patient = true,
				  .answered = answered, .arg = s };
	s->ends.source = pg_connect(&s->m->source, PG_PLAIN, s->m->slot, s->f);
	if (s->ends.source)
		s->ends.targets[role] = pg_connect(migration_target(s->m, role), PG_PLAIN, s->m->slot, s->f);
	if (!target(s) || !be_the_one(s))
		return false;
	s->known = known_new(s->control, s->f);
	if (!s->known || !tail_open(&s->tail, s->m, s->known, framing, s->f))
		return false;
	s->tail.learn = s->options->learn;
	s->tail.arg = s->options->arg;
	s->tail.touch = touch;
	s->tail.touch_arg = s;
	return start_tail(s) && weigh_open(&s->weigh, &s->ends, s->f);
}

static void close_session(struct session *s)
{
	weigh_close(&s->weigh);
	tail_close(&s->tail);
	compare_release(&s->comparer);
	touched_free(&s->fresh);
	touched_free(&s->due);
	walk_release(&s->walk);
	walk_init(&s->walk);
	known_free(s->known);
	s->known = NULL;
	pg_close(&s->ends.source);
	pg_close(&s->ends.targets[s->options->role]);
	s->clean_us = s->bookmark_us = 0;
	s->has_tables = s->was_left = s->has_proof = s->is_said = false;
	s->open_tries = 0;
	metric_clear(s->coverage);
	metric_clear(s->balance);
}

static bool follow(struct session *s)
{
	int64_t next_us = clock_us();

	while (!must_stop(s)) {
		int64_t now_us = clock_us(), left_ms = (next_us - now_us + 999) / 1000;
		bool is_idle = failpoint("windows.idle");

		if (has_gate(s))
			failpoint("windows.turn");
		standing_beat(s->options->standing);
		if (now_us >= next_us) {
			next_us = now_us + (int64_t)s->m->window_ms * 1000;
			if (!is_idle && !run_window(s))
				return false;
		}
		if (!is_idle && has_scrub(s) && !scrub_on(s))
			return false;
		if (!tail_poll(&s->tail, left_ms > POLL_MS ? POLL_MS : left_ms > 0 ? (int)left_ms : 0, s->f))
			return false;
	}
	return true;
}

/* Before the target has made its tables there is nothing to say. */
static void say_failure(const struct session *s, bool is_first)
{
	if (strcmp(s->f->sqlstate, "42P01") == 0) {
		standing_moved(s->options->standing);
		if (is_first)
			log_info("waiting for the %s to begin", role_name(s));
		return;
	}
	standing_stands(s->options->standing, s->f->text);
	log_warn("%s: %s", has_gate(s) ? "the gate stands" : "the primary is not compared", s->f->text);
}

static void make_metrics(struct session *s)
{
	struct metrics *m = s->options->metrics;

	if (has_gate(s)) {
		s->gate = metric_cell(m, METRIC_GATE, NULL, NULL, NULL);
		s->gate_lag = metric_cell(m, METRIC_GATE_LAG, NULL, NULL, NULL);
	}
	s->verified = metric_cell(m, METRIC_VERIFIED, role_name(s), NULL, NULL);
	s->differences = metric_cell(m, METRIC_INCIDENTS, "difference", role_name(s), NULL);
	s->balance = metric_cell(m, METRIC_BALANCE, role_name(s), NULL, NULL);
	s->coverage = metric_cell(m, METRIC_COVERAGE, role_name(s), NULL, NULL);
}

bool windows_run(const struct migration *m, struct control *control, struct framing *framing,
		 const struct windows_options *o, struct fault *f)
{
	struct session *s = calloc(1, sizeof(*s));
	int backoff_ms = BACKOFF_FIRST_MS;

	if (!s)
		return no_memory(f);
	s->places = calloc((size_t)m->partition_count, sizeof(*s->places));
	s->incidents = incident_topic_new(m);
	if (!s->places || !s->incidents) {
		incident_topic_free(s->incidents);
		free(s->places);
		free(s);
		return no_memory(f);
	}
	s->m = m;
	s->options = o;
	s->control = control;
	s->f = f;
	walk_init(&s->walk);
	pace_init(&s->pace, m->source_load);
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
	walk_release(&s->walk);
	incident_topic_free(s->incidents);
	free(s->places);
	free(s);
	fault_reset(f);
	return true;
}
