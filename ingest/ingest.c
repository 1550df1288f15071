// SPDX-License-Identifier: Apache-2.0
#include "ingest/ingest.h"

#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/log.h"
#include "core/registry.h"
#include "ingest/life.h"
#include "ingest/tally.h"

enum {
	RECEIVE_MAX = 4096, /* messages between two looks at everything else */
	/* While behind, we wake late (source_wake_late) or after this, whichever comes first. */
	BEHIND_MS = 3,
	IDLE_MS = 100,
	IDLE_FIRST_MS = 5,
	STATUS_US = 100 * 1000,
	DRAIN_US = 10 * 1000 * 1000,
	BACKOFF_FIRST_MS = 100,
	BACKOFF_LAST_MS = 10 * 1000,
	CONTROL_PUT_MS = 10 * 1000,
	SETTLED_US = 30 * 1000 * 1000, /* a generation this old starts the back-off anew */
};

/* ---- status ---- */

struct ingest_status {
	pthread_mutex_t lock;
	struct ingest_numbers numbers;
};

static const char *const phase_names[] = {
	[INGEST_STARTING] = "starting",
	[INGEST_STREAMING] = "streaming",
	[INGEST_WAITING] = "waiting",
	[INGEST_ENDED] = "ended",
};

const char *ingest_phase_name(enum ingest_phase phase)
{
	return phase_names[phase];
}

struct ingest_status *ingest_status_new(void)
{
	struct ingest_status *s = calloc(1, sizeof(*s));

	if (s)
		pthread_mutex_init(&s->lock, NULL);
	return s;
}

void ingest_status_free(struct ingest_status *s)
{
	if (!s)
		return;
	pthread_mutex_destroy(&s->lock);
	free(s);
}

void ingest_status_read(struct ingest_status *s, struct ingest_numbers *ret)
{
	pthread_mutex_lock(&s->lock);
	*ret = s->numbers;
	pthread_mutex_unlock(&s->lock);
}

static void show_phase(struct ingest_status *s, enum ingest_phase phase, const char *problem)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->numbers.phase = phase;
	if (!s->numbers.well_us)
		s->numbers.well_us = clock_us();
	snprintf(s->numbers.problem, sizeof(s->numbers.problem), "%.255s", problem);
	log_redact(s->numbers.problem);
	pthread_mutex_unlock(&s->lock);
}

static void show_copies(const struct life *l, struct ingest_numbers *n)
{
	struct span names[INGEST_COPIES_SHOWN];

	rounds_count(l->rounds, &n->tables_complete, &n->tables);
	n->copy_count = rounds_progress(l->rounds, n->copies, names, INGEST_COPIES_SHOWN);
	for (size_t i = 0; i < n->copy_count; i++)
		snprintf(n->copy_names[i], sizeof(n->copy_names[i]), "%.*s", SPAN_ARG(names[i]));
}

static uint64_t copied_bytes(const struct ingest_numbers *n)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < n->copy_count; i++)
		bytes += n->copies[i].bytes;
	return bytes;
}

/* What of the numbers shows that a generation moves. A new one starts them anew, and is no movement. */
struct mark {
	uint64_t generation, acked, copied;
	size_t tables_complete;
	struct boundary confirmed;
};

static struct mark mark_of(const struct ingest_numbers *n)
{
	return (struct mark) { n->generation, n->acked, copied_bytes(n), n->tables_complete, n->confirmed };
}

static bool is_well(const struct ingest_numbers *n, const struct mark *before)
{
	const struct mark now = mark_of(n);

	if ((n->lag_bytes == 0 && n->outstanding == 0) ||
	    boundary_cmp(now.confirmed, before->confirmed) > 0)
		return true;
	return now.generation == before->generation &&
	       (now.acked > before->acked || now.copied > before->copied ||
		now.tables_complete > before->tables_complete);
}

static void show(const struct life *l, struct ingest_status *s)
{
	struct stream_totals decoded = stream_totals(l->stream);
	struct publish_totals published = publish_totals(l->publish);
	struct ingest_numbers *n = &s->numbers;
	struct mark before;

	pthread_mutex_lock(&s->lock);
	before = mark_of(n);
	n->generation = l->generation;
	n->decoded = decoded.changes;
	n->transactions = decoded.transactions;
	n->commit_us = decoded.commit_us;
	n->published = published.records;
	n->bytes = published.bytes;
	n->acked = published.acked;
	n->outstanding = publish_outstanding(l->publish);
	n->boundary = stream_boundary(l->stream);
	n->confirmed = publish_confirmed(l->publish);
	n->source_end = l->source_end;
	n->lag_bytes = l->source_end > n->confirmed.v ? l->source_end - n->confirmed.v : 0;
	show_copies(l, n);
	if (is_well(n, &before))
		n->well_us = clock_us();
	pthread_mutex_unlock(&s->lock);
}

/* ---- one generation ---- */

enum outcome { OUTCOME_STOPPED, OUTCOME_REACHED, OUTCOME_FAULT };

/* Takes what the socket holds, up to RECEIVE_MAX messages; how many, or -1. */
static int receive(struct life *l, struct fault *f)
{
	struct source_message m;

	for (int n = 0; n < RECEIVE_MAX; n++) {
		switch (source_receive(l->source, &m, f)) {
		case SOURCE_NOTHING:
			return n;
		case SOURCE_FAILED:
			return -1;
		case SOURCE_DATA:
			if (m.wal_end > l->source_end)
				l->source_end = m.wal_end;
			if (!stream_data(l->stream, &m, f))
				return -1;
			break;
		case SOURCE_KEEPALIVE:
			if (m.wal_end > l->source_end)
				l->source_end = m.wal_end;
			if (!stream_keepalive(l->stream, m.wal_end, f))
				return -1;
			if (m.reply_requested && !life_feedback(l, clock_us(), true, f))
				return -1;
			break;
		}
	}
	return RECEIVE_MAX;
}

/* A barrier that is due but cannot be made yet must not make us spin. */
static int idle_ms(const struct life *l)
{
	int64_t due_ms = (stream_barrier_due_us(l->stream) - clock_us()) / 1000 + 1;

	return due_ms < IDLE_FIRST_MS ? IDLE_FIRST_MS : due_ms < IDLE_MS ? (int)due_ms : IDLE_MS;
}

/* Until the socket has something (while behind: enough of it), or there is other work. count: messages that the last
 * look brought. */
static bool wait_for_work(struct life *l, int count, struct fault *f)
{
	bool is_behind = count > 0;
	int rest_ms = source_rest_ms(l->source, count);
	struct pollfd fds[4] = {
		{ .fd = source_fd(l->source), .events = POLLIN },
		{ .fd = l->options->stop_fd, .events = POLLIN },
		{ .fd = is_behind ? -1 : l->event_fd, .events = POLLIN },
		{ .fd = rounds_fd(l->rounds), .events = POLLIN },
	};

	if (source_wants_write(l->source))
		fds[0].events |= POLLOUT;
	source_wake_late(l->source, is_behind);
	if (rest_ms)
		poll(fds + 1, 3, rest_ms);
	poll(fds, 4, is_behind ? BEHIND_MS : idle_ms(l));
	if (fds[2].revents) {
		/* life_serve empties it; its own poll does not wait. */
		return life_serve(l, 0, f);
	}
	return !(fds[0].revents & POLLOUT) || source_flush(l->source, f);
}

/* until: the boundary to end at, found out now if it is "caught up" and the copies are complete. */
static bool find_until(struct life *l, struct boundary *until, struct fault *f)
{
	char text[LSN_TEXT];

	if (!l->options->until_caught_up || until->v || !rounds_is_done(l->rounds))
		return true;
	if (!source_wal_position(l->plain, &until->v, f))
		return false;
	log_info("caught up: every copy is complete, ending at the source's position until=%s",
		 lsn_format(until->v, text));
	return true;
}

static bool is_reached(const struct life *l, struct boundary until)
{
	return until.v && rounds_is_done(l->rounds) &&
	       boundary_cmp(publish_confirmed(l->publish), until) >= 0;
}

static enum outcome stream_on(struct life *l, struct ingest_status *status, struct tally *tally, struct fault *f)
{
	struct boundary until = l->options->until;
	int64_t shown_us = 0;

	while (!life_is_stopped(l)) {
		int n = receive(l, f);
		int64_t now = clock_us();

		if (n < 0 || !publish_serve(l->publish, f) ||
		    !stream_barrier(l->stream, now, false, f) || !life_feedback(l, now, false, f) ||
		    !rounds_step(l->rounds, l->stream, now, f) || !find_until(l, &until, f) ||
		    !publish_step(l->publish, now, n == 0, f))
			return OUTCOME_FAULT;
		if (status && now - shown_us > STATUS_US) {
			show(l, status);
			tally_show(tally, l->options->metrics, l->stream);
			shown_us = now;
		}
		if (is_reached(l, until))
			return OUTCOME_REACHED;
		if (n == RECEIVE_MAX)
			continue;
		if (!wait_for_work(l, n, f))
			return OUTCOME_FAULT;
	}
	return OUTCOME_STOPPED;
}

/* What was published is acknowledged and the source knows, if that does not take too long. */
static bool drain(struct life *l, struct fault *f)
{
	l->drain_until_us = clock_us() + DRAIN_US;
	if (!stream_barrier(l->stream, clock_us(), true, f) || !publish_drain(l->publish, f) ||
	    !life_feedback(l, clock_us(), true, f))
		return false;
	while (source_wants_write(l->source) && clock_us() < l->drain_until_us) {
		struct pollfd fd = { .fd = source_fd(l->source), .events = POLLOUT };

		if (poll(&fd, 1, 50) > 0 && !source_flush(l->source, f))
			return false;
	}
	return true;
}

/* What outlives a generation. */
struct ingest {
	const struct migration *m;
	const struct ingest_options *options;
	struct ingest_status *status;
	struct kafka_conf kafka;
	struct control *control;
	struct framing *framing;
	struct registry *registry; /* NULL: none is configured */
	bool has_streamed;         /* some generation did */
	int64_t streaming_us;      /* since when the newest one does; 0: it never did */
};

static enum outcome live(struct ingest *r, struct fault *f)
{
	struct life l = { .m = r->m,
			  .options = r->options,
			  .kafka = r->kafka,
			  .control = r->control,
			  .framing = r->framing,
			  .registry = r->registry,
			  .event_fd = -1 };
	enum outcome outcome = OUTCOME_FAULT;
	struct tally tally = { NULL };
	char text[LSN_TEXT];

	r->streaming_us = 0;
	show_phase(r->status, INGEST_STARTING, "");
	if (life_open(&l, f)) {
		r->has_streamed = true;
		r->streaming_us = clock_us();
		show_phase(r->status, INGEST_STREAMING, "");
		outcome = stream_on(&l, r->status, &tally, f);
		if (outcome == OUTCOME_FAULT && life_is_stopped(&l))
			outcome = OUTCOME_STOPPED; /* in the middle of something: the next start
						      does it again */
		if (outcome != OUTCOME_FAULT && !drain(&l, f))
			log_warn("%s", f->text);
		if (r->status)
			show(&l, r->status);
		tally_show(&tally, r->options->metrics, l.stream);
		log_info("generation ends generation=%llu confirmed=%s decoded=%llu published=%llu",
			 (unsigned long long)l.generation,
			 lsn_format(publish_confirmed(l.publish).v, text),
			 (unsigned long long)stream_totals(l.stream).changes,
			 (unsigned long long)publish_totals(l.publish).records);
	} else if (life_is_stopped(&l)) {
		outcome = OUTCOME_STOPPED;
	}
	tally_release(&tally);
	life_close(&l);
	return outcome;
}

/* ---- generation after generation ---- */

/* Schemas are in <m>.control whatever the framing; a registry knows them too. */
static bool open_framing(struct ingest *r, struct fault *f)
{
	const char *topics[] = { r->m->changes_topic, r->m->snapshot_topic };

	if (!r->framing)
		r->framing = framing_new(r->m->registry_url ? FRAMING_CONFLUENT
							    : FRAMING_SINGLE_OBJECT);
	if (!r->framing)
		return fault(f, FAULT_INTERNAL, "out of memory");
	if (!r->m->registry_url)
		return true;
	if (!r->registry)
		r->registry = registry_new(r->m->registry_url, f);
	return r->registry && registry_announce_fixed(r->registry, r->framing, topics, 2, f);
}

/* The schemas that belong to no table: an outsider finds them beside the others. */
static bool keep_fixed_schemas(struct ingest *r, struct fault *f)
{
	static const enum event_kind kinds[] = { EVENT_EXCLUSIVE, EVENT_BARRIER, EVENT_MARKER };
	struct arena a;
	bool ok = true;

	arena_init(&a, 1 << 20);
	for (size_t i = 0; ok && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		const struct codec_fixed *fixed = codec_fixed(kinds[i]);
		char key[32];
		snprintf(key, sizeof(key), "schema/%016" PRIx64, fixed->fingerprint);
		if (!control_get(r->control, span_str(key), &a).p)
			ok = control_put(r->control, span_str(key), span_str(fixed->json),
					 CONTROL_PUT_MS, f);
	}
	arena_release(&a);
	return ok;
}

static bool open_role(struct ingest *r, struct fault *f)
{
	const struct kafka_topic_spec spec = { r->m->control_topic, 1, true };
	rd_kafka_t *client;
	bool ok;

	if (!open_framing(r, f))
		return false;
	client = kafka_reader(&r->kafka, f);
	if (!client)
		return false;
	ok = r->options->topics_exist || kafka_topics_ensure(client, &spec, 1, true, f);
	rd_kafka_destroy(client);
	if (ok)
		r->control = control_open(&r->kafka, r->m->control_topic, f);
	if (r->control && !keep_fixed_schemas(r, f)) {
		control_close(r->control);
		r->control = NULL;
	}
	return r->control;
}

static bool is_stopped(const struct ingest *r)
{
	return r->options->stop && atomic_load(r->options->stop);
}

/* Sleeps for the back-off, or until told to stop. */
static void back_off(const struct ingest *r, int ms)
{
	struct pollfd fd = { .fd = r->options->stop_fd, .events = POLLIN };

	poll(&fd, 1, ms);
}

/* Does this fault end the role? began_us: when ingest_run began. */
static bool is_final(const struct ingest *r, const struct fault *f, int64_t began_us)
{
	if (f->kind != FAULT_ENVIRONMENT)
		return true;
	return !r->has_streamed && clock_us() - began_us >= (int64_t)r->options->patience_ms * 1000;
}

bool ingest_run(const struct migration *m, const struct ingest_options *options,
		struct ingest_status *status, struct fault *f)
{
	struct ingest r = { .m = m,
			    .options = options,
			    .status = status,
			    .kafka = { m->kafka, m->kafka_count, "foreshadow-ingest" } };
	int64_t began_us = clock_us();
	int backoff_ms = BACKOFF_FIRST_MS;
	enum outcome outcome = OUTCOME_FAULT;

	while (!is_stopped(&r)) {
		struct fault why = { 0 };

		outcome = r.control || open_role(&r, &why) ? live(&r, &why) : OUTCOME_FAULT;
		if (outcome != OUTCOME_FAULT || is_stopped(&r))
			break;
		if (is_final(&r, &why, began_us)) {
			show_phase(status, INGEST_ENDED, why.text);
			*f = why;
			break;
		}
		if (r.streaming_us && clock_us() - r.streaming_us > SETTLED_US)
			backoff_ms = BACKOFF_FIRST_MS;
		log_warn("the generation ended, the next one follows in_ms=%d reason=\"%s\"",
			 backoff_ms, why.text);
		show_phase(status, INGEST_WAITING, why.text);
		back_off(&r, backoff_ms);
		backoff_ms = backoff_ms * 2 > BACKOFF_LAST_MS ? BACKOFF_LAST_MS : backoff_ms * 2;
	}
	if (outcome == OUTCOME_FAULT && is_stopped(&r))
		outcome = OUTCOME_STOPPED;
	if (outcome != OUTCOME_FAULT)
		show_phase(status, INGEST_ENDED, "");
	if (r.control)
		control_close(r.control);
	registry_free(r.registry);
	framing_free(r.framing);
	return outcome != OUTCOME_FAULT;
}
