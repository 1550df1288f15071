// SPDX-License-Identifier: Apache-2.0
#include "reconcile/windows.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/random.h>

#include "core/clock.h"
#include "core/failpoint.h"
#include "core/log.h"
#include "reconcile/bookmark.h"
#include "reconcile/session.h"

enum {
	TEXT_BYTES = 64 << 20,
	BOOKMARK_BYTES = 64 << 20,
	POLL_MS = 100,
	BACKOFF_FIRST_MS = 500,
	BACKOFF_LAST_MS = 10 * 1000,
};

static bool must_stop(const struct session *s)
{
	return atomic_load(s->options->stop);
}

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

	snprintf(name, sizeof(name), "foreshadow reconcile %s %s", s->m->name, session_role(s));
	while (!must_stop(s)) {
		PGresult *r = pg_query_params(session_target(s), s->f,
					      "SELECT pg_catalog.pg_try_advisory_lock("
					      "pg_catalog.hashtextextended($1, 0))::int",
					      1, values);
		bool is_ours = r && pg_i64(r, 0, 0) == 1;

		PQclear(r);
		if (!r || is_ours)
			return r != NULL;
		if (!has_said)
			log_info("another process runs the windows of the %s; waiting until it ends", session_role(s));
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

static void alive(void *arg)
{
	standing_beat(((struct session *)arg)->options->standing);
}

/* Where the last one was left, if the stream is still there from that place on. */
static bool start_tail(struct session *s)
{
	char key[BOOKMARK_KEY_TEXT];
	struct span value;
	struct arena a;
	bool ok = true, is_gone = false;

	arena_init(&a, BOOKMARK_BYTES);
	value = control_get(s->control, span_str(bookmark_key(session_role(s), key)), &a);
	s->was_left = value.p && bookmark_parse(value, s->m->partition_count, &s->walk, s->places);
	if (value.p && !s->was_left)
		log_warn("control record %s is no bookmark: all tables are compared anew", key);
	if (s->was_left)
		ok = tail_start_at(&s->tail, s->places, &is_gone, s->f);
	arena_release(&a);
	if (ok && s->was_left && !is_gone) {
		memcpy(s->clean_places, s->places, (size_t)s->m->partition_count * sizeof(*s->places));
		s->has_clean_places = true;
		return true;
	}
	if (is_gone) {
		log_warn("Kafka does not have the stream any more from where the windows of the %s were left: all tables are "
			 "compared anew", session_role(s));
		walk_release(&s->walk);
		walk_init(&s->walk);
		s->was_left = false;
	}
	return ok && tail_start(&s->tail, s->ends.targets, 2, s->f);
}

static bool open_session(struct session *s, struct framing *framing)
{
	enum role role = s->options->role;
	const bool roles[] = { role == ROLE_SHADOW, role == ROLE_PRIMARY };

	s->comparer = (struct comparer) { .ends = &s->ends, .role = role, .found = window_found, .arg = s };
	if (getrandom(&s->comparer.seed, sizeof(s->comparer.seed), 0) != sizeof(s->comparer.seed))
		return fault(s->f, FAULT_INTERNAL, "no random number from the system");
	s->ends = (struct ends) { .m = s->m, .tail = &s->tail, .stop = s->options->stop, .is_patient = true,
				  .answered = answered, .alive = alive, .arg = s };
	if (!ends_connect(&s->ends, roles, s->f) || !be_the_one(s))
		return false;
	s->known = known_new(s->control, s->f);
	if (!s->known || !tail_open(&s->tail, s->m, s->known, framing, s->f))
		return false;
	s->tail.learn = s->options->learn;
	s->tail.arg = s->options->arg;
	s->tail.touch = window_touch;
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
	ends_close(&s->ends);
	s->clean_us = s->bookmark_us = s->compare_us = 0;
	s->thinned = 0;
	s->is_thin = s->has_clean_places = s->has_tables = s->was_left = s->has_found = s->has_proof = s->is_said = false;
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

		if (session_has_gate(s))
			failpoint("windows.turn");
		standing_beat(s->options->standing);
		if (now_us >= next_us) {
			next_us = now_us + (int64_t)s->m->window_ms * 1000;
			if (!is_idle && !window_run(s))
				return false;
		}
		if (!is_idle && passes_are_due(s) && !passes_go_on(s))
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
			log_info("waiting for the %s to begin", session_role(s));
		return;
	}
	standing_stands(s->options->standing, s->f->text);
	log_warn("%s: %s", session_has_gate(s) ? "the gate stands" : "the primary is not compared", s->f->text);
}

static void make_metrics(struct session *s)
{
	struct metrics *m = s->options->metrics;

	if (session_has_gate(s)) {
		s->gate = metric_cell(m, METRIC_GATE, NULL, NULL, NULL);
		s->gate_lag = metric_cell(m, METRIC_GATE_LAG, NULL, NULL, NULL);
	}
	s->verified = metric_cell(m, METRIC_VERIFIED, session_role(s), NULL, NULL);
	s->differences = metric_cell(m, METRIC_INCIDENTS, "difference", session_role(s), NULL);
	s->unbalanced = metric_cell(m, METRIC_INCIDENTS, "balance", session_role(s), NULL);
	s->balance = metric_cell(m, METRIC_BALANCE, session_role(s), NULL, NULL);
	s->coverage = metric_cell(m, METRIC_COVERAGE, session_role(s), NULL, NULL);
}

bool windows_run(const struct migration *m, struct control *control, struct framing *framing,
		 const struct windows_options *o, struct fault *f)
{
	struct session *s = calloc(1, sizeof(*s));
	int backoff_ms = BACKOFF_FIRST_MS;

	if (!s)
		return session_no_memory(f);
	s->places = calloc((size_t)m->partition_count, sizeof(*s->places));
	s->clean_places = calloc((size_t)m->partition_count, sizeof(*s->places));
	s->incidents = incident_topic_new(m);
	if (!s->places || !s->clean_places || !s->incidents) {
		incident_topic_free(s->incidents);
		free(s->places);
		free(s->clean_places);
		free(s);
		return session_no_memory(f);
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
	free(s->clean_places);
	free(s);
	fault_reset(f);
	return true;
}
