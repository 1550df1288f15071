// SPDX-License-Identifier: Apache-2.0
/* window - the keys that the stream has touched since the last one, compared; the gate and the bookmark behind it. */
#include <inttypes.h>
#include <stdlib.h>
#include <sys/random.h>

#include "core/clock.h"
#include "core/failpoint.h"
#include "core/gate_record.h"
#include "core/log.h"
#include "reconcile/bookmark.h"
#include "reconcile/difference.h"
#include "reconcile/session.h"

enum {
	TEXT_BYTES = 64 << 20,
	BOOKMARK_BYTES = 64 << 20,
	PUT_MS = 10 * 1000,
	BOOKMARK_US = 1000 * 1000, /* from one to the next, at least */
	THIN_LEAST = 1000,         /* keys of a window: fewer are not what takes the time */
};

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

bool window_touch(void *arg, const struct relation *rel, const struct value *row, struct fault *f)
{
	struct session *s = arg;
	struct span parts[TOUCHED_PARTS_MAX];
	struct touched_table *table;
	bool is_new;
	size_t n;

	if (!session_has_table(s, rel))
		return true;
	if (!row)
		return walk_owe(&s->walk, rel->root_schema, rel->root_table) || session_no_memory(f);
	table = touched_table(&s->fresh, rel, &is_new);
	if (!table)
		return session_no_memory(f);
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
		return session_no_memory(s->f);
	table->rel = rel;
	if (!is_new || (s->was_left && !s->has_tables))
		return true;
	return walk_owe(&s->walk, rel->root_schema, rel->root_table) || session_no_memory(s->f);
}

static bool take_tables(struct session *s)
{
	if (!known_look(s->known, s->f))
		return false;
	for (size_t i = 0; i < known_count(s->known); i++)
		if (session_has_table(s, known_newest(s->known, i)) && !take_table(s, known_newest(s->known, i)))
			return false;
	s->has_tables = true;
	return true;
}

/* ---- what was found ---- */

static void report(struct session *s, struct metric_cell *counted, struct span key, json_t *incident)
{
	struct fault why = { 0 };

	metric_add(counted, 1);
	if (!incident_topic_send(s->incidents, key, incident, &why))
		log_warn("incident not written: %s", why.text);
}

void window_found(void *arg, const struct difference *d)
{
	struct session *s = arg;
	const char *hop = difference_hop(d);
	char gate[LSN_TEXT], consequence[200];

	report(s, s->differences, d->key, difference_incident(d, s->mark_lsn));
	snprintf(consequence, sizeof(consequence), "the gate stands at %s and the primary waits in front of it; ",
		 lsn_format(gate_record_get(s->control).v, gate));
	log_error("%.*s key %.*s: %s on the %s, came %s; %snext step: foreshadow verify --role %s shows the columns, --repair sets it right%s",
		  SPAN_ARG(d->digest->label), SPAN_ARG(d->key), difference_kind(d), session_role(s),
		  hop ? hop : "before it was looked at", session_has_gate(s) ? consequence : "", session_role(s),
		  session_has_gate(s) ? "; when it is right on the shadow, the gate goes on" : "");
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
		  session_role(s), SPAN_ARG(buf_span(&text)), session_has_gate(s) ? consequence : "");
	report(s, s->unbalanced, d->table,
	       json_pack("{s:s, s:s, s:o, s:n, s:s, s:o}", "class", "balance", "role", session_role(s), "table",
			 json_span(d->table), "key", "sqlstate", "", "message", json_span(buf_span(&text))));
	buf_release(&text);
}

/* ---- a window ---- */

/* The copies on the target, as a number that differs when one has begun; *ret_are_going_on: its partitions may
 * stand, and the target contains nothing new. */
static bool ask_copies(struct session *s, int64_t *ret_copies, bool *ret_are_going_on)
{
	const char *values[] = { s->m->name };
	PGresult *r = pg_query_params(session_target(s), s->f,
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

/* ---- windows that fall behind ---- */

static size_t fresh_keys(const struct session *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->fresh.count; i++)
		n += s->fresh.tables[i]->count;
	return n;
}

/* Comparing that takes longer than a window lasts makes the next one larger: then the file may have allowed to leave some out,
 * until all of it would be in time. What differed once is never left out. */
static bool thin_out(struct session *s)
{
	double limit_us = (double)s->m->window_ms * 1000 * (s->is_thin ? s->m->coverage : 1);
	bool is_behind = (double)s->compare_us > limit_us && s->m->coverage < 1;
	size_t before = s->thinned;
	uint64_t salt;

	if (is_behind && getrandom(&salt, sizeof(salt), 0) != sizeof(salt))
		return fault(s->f, FAULT_INTERNAL, "no random number from the system");
	if (is_behind && fresh_keys(s) >= THIN_LEAST)
		for (size_t i = 0; i < s->fresh.count; i++)
			s->thinned += touched_thin(s->fresh.tables[i], s->m->coverage, salt);
	if (s->thinned > before && !s->is_thin)
		log_warn("comparing a window with the %s took %.1f s, longer than it lasts: of the next ones only %g of the keys are "
			 "compared, as verify.coverage allows; the scrub comes to the others", session_role(s),
			 (double)s->compare_us / 1e6, s->m->coverage);
	if (!is_behind && s->is_thin)
		log_info("all keys of a window are compared with the %s again", session_role(s));
	s->is_thin = is_behind && (s->is_thin || s->thinned > before);
	return true;
}

/* Takes in the stream up to where the target stands, which is behind lsn. */
static bool read_stream(struct session *s, uint64_t lsn)
{
	struct position *places = calloc((size_t)s->m->partition_count, sizeof(*places));
	bool ok = (places || session_no_memory(s->f)) && ends_wait(&s->ends, s->options->role, lsn, s->f) &&
		  ends_places(&s->ends, s->options->role, places, s->f) &&
		  ends_read_to(&s->ends, places, s->f);

	free(places);
	if (!ok)
		return false;
	tail_places(&s->tail, s->places);
	return thin_out(s) && (touched_move(&s->fresh, &s->due) || session_no_memory(s->f)) && take_tables(s);
}

/* Of a table that was looked at to its end, only what differs is looked at again. */
static bool take_result(struct session *s, struct touched_table *t, enum compared compared, bool *ret_is_right)
{
	*ret_is_right = compared == COMPARED && s->comparer.differ.count == 0;
	if (compared != COMPARED)
		return true;
	touched_clear(t);
	return touched_move(&s->comparer.differ, &s->due) || session_no_memory(s->f);
}

/* A whole table is asked of the source, however little of it was touched: that keeps to the scrub's share. All of them are
 * compared in one window and rest together, else there was none in which each is right. */
static void rest(struct session *s, int64_t source_us)
{
	int64_t now_us = clock_us();

	if (s->rest_until_us < now_us)
		s->rest_until_us = now_us;
	s->rest_until_us += (int64_t)((double)source_us * (1 / s->m->source_load - 1));
}

static void say_whole(const struct session *s, struct touched_table *t, int64_t source_us)
{
	if (t->is_said || s->rest_until_us - clock_us() < (int64_t)s->m->window_ms * 1000)
		return;
	t->is_said = true;
	log_info("%.*s.%.*s is compared as a whole, which takes %.1f s: tables like that rest together, %g times as long as all of them "
		 "take, as verify.source_load wants; while they are written, what is verified on the %s waits for it",
		 SPAN_ARG(t->rel->root_schema), SPAN_ARG(t->rel->root_table), (double)source_us / 1e6, 1 / s->m->source_load - 1,
		 session_role(s));
}

static bool compare_one(struct session *s, struct touched_table *t, bool *ret_is_right)
{
	int64_t began_us = clock_us(), waited_us = s->ends.waited_us, source_us = s->comparer.source_us;
	bool was_whole = t->is_whole;
	enum compared compared;

	if (!compare_keys(&s->comparer, t, &compared, s->f) || !take_result(s, t, compared, ret_is_right))
		return false;
	t->was_wrong = !*ret_is_right;
	if (!s->comparer.was_whole) {
		s->compare_us += clock_us() - began_us - (s->ends.waited_us - waited_us);
		return true;
	}
	source_us = s->comparer.source_us - source_us;
	t->is_never_by_key |= !was_whole;
	rest(s, source_us);
	say_whole(s, t, source_us);
	return true;
}

/* *ret_wrong: tables that are not right; *ret_resting: that are for a later window. */
static bool compare_due(struct session *s, size_t *ret_wrong, size_t *ret_resting)
{
	bool are_resting = clock_us() < s->rest_until_us;

	*ret_wrong = *ret_resting = 0;
	s->compare_us = 0;
	for (size_t i = 0; i < s->due.count; i++) {
		struct touched_table *t = s->due.tables[i];
		bool is_right = true;

		if (touched_is_empty(t))
			continue;
		if (are_resting && (t->is_whole || t->is_never_by_key)) {
			++*ret_resting;
			is_right = !t->was_wrong;
		} else if (!compare_one(s, t, &is_right)) {
			return false;
		}
		*ret_wrong += !is_right;
	}
	return true;
}

bool window_write_bookmark(struct session *s)
{
	char key[BOOKMARK_KEY_TEXT];
	struct buf value;
	bool ok;

	buf_init(&value, BOOKMARK_BYTES);
	ok = bookmark_format(&s->walk, s->clean_places, s->m->partition_count, &value) || session_no_memory(s->f);
	ok = ok && control_put(s->control, span_str(bookmark_key(session_role(s), key)), buf_span(&value), PUT_MS, s->f);
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

	if (session_has_gate(s)) {
		if (!gate_record_put(s->control, (struct boundary) { lsn }, PUT_MS, s->f))
			return false;
		metric_set(s->gate, (int64_t)gate_record_get(s->control).v);
		if (s->clean_us)
			metric_set(s->gate_lag, clock_us() - s->clean_us);
	}
	if (!s->is_said)
		log_info("all %zu tables compared: verified to %s%s", s->walk.count, lsn_format(lsn, text),
			 session_has_gate(s) ? ", the gate is open to there" : "");
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

static void say_window(const struct session *s, uint64_t lsn, size_t wrong, size_t resting, bool is_balanced)
{
	const struct comparer *c = &s->comparer;
	size_t all = c->key_count + c->row_count + s->thinned, open = c->open_count + s->thinned;
	char text[LSN_TEXT], why[200];

	if (all || !resting)
		metric_set(s->coverage, open < all ? (int64_t)((double)(all - open) * 1e6 / (double)all) : all ? 0 : 1000000);
	log_debug("window to %s: %zu keys, %zu rows read, %zu of %zu tables not right, %zu resting, %zu owed, %zu keys left out",
		  lsn_format(lsn, text), c->key_count, c->read_count, wrong, s->due.count, resting, walk_owed(&s->walk), s->thinned);
	if (!wrong && is_balanced)
		return;
	snprintf(why, sizeof(why), "%zu tables of the %s are not what the source is, or could not be judged%s: see the log",
		 wrong, session_role(s), is_balanced ? "" : "; it is out of balance");
	standing_stands(s->options->standing, why);
}

static bool end_window(struct session *s, uint64_t lsn, int64_t marked_us, size_t wrong, size_t resting, bool is_balanced)
{
	say_window(s, lsn, wrong, resting, is_balanced);
	if (wrong || !is_balanced || !s->due.count)
		return true;
	if (resting) {
		standing_moved(s->options->standing); /* it will */
		return true;
	}
	if (s->comparer.told_count)
		log_info("what differed on the %s is right now", session_role(s));
	compare_forget(&s->comparer);
	walk_clear_found(&s->walk);
	memcpy(s->clean_places, s->places, (size_t)s->m->partition_count * sizeof(*s->places));
	s->has_clean_places = true;
	s->thinned = 0;
	if (walk_owed(&s->walk) == 0 && !move_on(s, lsn))
		return false;
	standing_moved(s->options->standing);
	s->clean_us = marked_us;
	if (clock_us() - s->bookmark_us < BOOKMARK_US)
		return true;
	s->bookmark_us = clock_us();
	return window_write_bookmark(s);
}

/* What was copied is as the source was when the copy ended: a mark from before that would open the gate in
 * front of rows that the primary then has. So no copy may have begun since the mark. */
bool window_run(struct session *s)
{
	int64_t copies_before, copies, marked_us;
	struct ends_moment mark;
	bool are_going_on, is_balanced;
	size_t wrong, resting;

	if (!ask_copies(s, &copies_before, &are_going_on))
		return false;
	if (are_going_on)
		return true;
	if (!ends_mark(&s->ends, &mark, s->f))
		return false;
	s->mark_lsn = mark.lsn;
	marked_us = clock_us();
	failpoint("windows.marked");
	compare_begin(&s->comparer);
	if (!read_stream(s, mark.lsn) || !weigh_target(s, &is_balanced) || !compare_due(s, &wrong, &resting) ||
	    !ask_copies(s, &copies, &are_going_on))
		return false;
	return copies != copies_before || end_window(s, mark.lsn, marked_us, wrong, resting, is_balanced);
}
