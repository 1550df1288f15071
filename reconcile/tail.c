// SPDX-License-Identifier: Apache-2.0
#include "reconcile/tail.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"

enum {
	RECORD_BYTES = 1 << 30,
	KEY_BYTES = 64 << 20,
	BURST = 10000, /* records taken in one poll */
	FETCH_PATIENCE_US = 30 * 1000 * 1000,
	FETCH_POLL_MS = 100,
	WAKE_EVERY_US = 100 * 1000,
	DRAIN_PATIENCE_US = 60 * 1000 * 1000,
	FETCH_AHEAD = 2000, /* records that are passed over rather than asked anew */
	BARRIER_NEAR = 2,
	BARRIER_FAR = 2 * 8 * 8 * 8, /* fences and bases of that many lives may be behind it */
};

/* librdkafka looks once a second for the leaders of a topic that it was not asked for. If it cannot answer now,
 * whoever reads will say so. */
static rd_kafka_t *new_reader(const struct migration *m, struct fault *f)
{
	struct kafka_conf conf = { m->kafka, m->kafka_count, m->slot };
	rd_kafka_t *reader = kafka_reader(&conf, f);

	if (reader)
		kafka_wake(reader, m->changes_topic, 0);
	return reader;
}

bool tail_open(struct tail *t, const struct migration *m, struct known *known,
	       struct framing *framing, struct fault *f)
{
	*t = (struct tail) { .m = m, .known = known, .framing = framing, .fetch_partition = -1 };
	arena_init(&t->arena, RECORD_BYTES);
	buf_init(&t->key, KEY_BYTES);
	buf_init(&t->kept, TAIL_KEPT_BYTES);
	t->parts = calloc((size_t)m->partition_count, sizeof(*t->parts));
	t->next = calloc((size_t)m->partition_count, sizeof(*t->next));
	t->ranges = calloc((size_t)m->partition_count, sizeof(*t->ranges));
	if (!t->parts || !t->next || !t->ranges)
		return fault(f, FAULT_INTERNAL, "no memory for %d partitions", m->partition_count);
	t->reader = new_reader(m, f);
	t->fetcher = t->reader ? new_reader(m, f) : NULL;
	return t->fetcher != NULL;
}

void tail_close(struct tail *t)
{
	if (t->reader)
		rd_kafka_destroy(t->reader);
	if (t->fetcher)
		rd_kafka_destroy(t->fetcher);
	free(t->parts);
	free(t->next);
	free(t->ranges);
	free(t->events);
	arena_release(&t->arena);
	buf_release(&t->key);
	buf_release(&t->kept);
	*t = (struct tail) { 0 };
}

/* ---- where to start ---- */

static const char places_sql[] =
    "SELECT partition, next_offset, generation, ordinal, commit_lsn, seq, barrier_lsn"
    " FROM foreshadow.progress WHERE migration = $1 AND topic = $2 ORDER BY partition";

static bool read_places(struct tail *t, PGconn *conn, int64_t *offsets, struct fault *f)
{
	const char *values[] = { t->m->name, t->m->changes_topic };
	PGresult *r = pg_query_params(conn, f, places_sql, 2, values);

	if (!r)
		return false;
	if (PQntuples(r) != t->m->partition_count) {
		fault(f, FAULT_ENVIRONMENT,
		      "the target has applied nothing yet in %d of %d partitions; next step: "
		      "foreshadow run",
		      t->m->partition_count - PQntuples(r), t->m->partition_count);
		PQclear(r);
		return false;
	}
	for (int p = 0; p < PQntuples(r); p++) {
		if (offsets[p] >= 0 && offsets[p] <= pg_i64(r, p, 1))
			continue;
		offsets[p] = pg_i64(r, p, 1);
		t->parts[p] = (struct sequence) { .generation = (uint64_t)pg_i64(r, p, 2),
						  .ordinal = (uint64_t)pg_i64(r, p, 3) };
		lsn_parse(pg_value(r, p, 4), &t->parts[p].position.commit.v);
		t->parts[p].position.seq = (uint64_t)pg_i64(r, p, 5);
		lsn_parse(pg_value(r, p, 6), &t->parts[p].barrier.v);
	}
	PQclear(r);
	return true;
}

static bool assign(rd_kafka_t *client, const char *topic, const int64_t *offsets, int first, int n,
		   struct fault *f)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(n);
	rd_kafka_resp_err_t err;

	for (int i = 0; i < n; i++)
		rd_kafka_topic_partition_list_add(list, topic, first + i)->offset = offsets[i];
	err = rd_kafka_assign(client, list);
	rd_kafka_topic_partition_list_destroy(list);
	return !err || kafka_fault(err, topic, f);
}

bool tail_start(struct tail *t, PGconn *const *conns, size_t n, struct fault *f)
{
	bool ok = true;

	for (int p = 0; p < t->m->partition_count; p++)
		t->next[p] = -1;
	for (size_t i = 0; ok && i < n; i++)
		ok = !conns[i] || read_places(t, conns[i], t->next, f);
	return ok && assign(t->reader, t->m->changes_topic, t->next, 0, t->m->partition_count, f);
}

void tail_places(const struct tail *t, struct tail_place *ret_places)
{
	for (int p = 0; p < t->m->partition_count; p++)
		ret_places[p] = (struct tail_place) { t->next[p], t->parts[p] };
}

bool tail_start_at(struct tail *t, const struct tail_place *places, bool *ret_is_gone, struct fault *f)
{
	*ret_is_gone = false;
	if (!kafka_ranges(t->fetcher, t->m->changes_topic, t->m->partition_count, t->ranges, f))
		return false;
	for (int p = 0; p < t->m->partition_count; p++) {
		*ret_is_gone |= places[p].next < t->ranges[p].low || places[p].next > t->ranges[p].high;
		t->next[p] = places[p].next;
		t->parts[p] = places[p].sequence;
	}
	return *ret_is_gone || assign(t->reader, t->m->changes_topic, t->next, 0, t->m->partition_count, f);
}

void tail_watch(struct tail *t, const struct relation *rel)
{
	t->watched = rel;
	t->event_count = 0;
	buf_reset(&t->kept);
	t->has_overflowed = t->has_copy = false;
}

void tail_forget(struct tail *t, size_t n)
{
	t->event_count -= n;
	if (!t->event_count)
		buf_reset(&t->kept);
	else if (n)
		memmove(t->events, t->events + n, t->event_count * sizeof(*t->events));
}

/* ---- the index ---- */

static bool is_watched(const struct tail *t, const struct relation *rel)
{
	return t->watched && rel && span_eq(rel->root_schema, t->watched->root_schema) &&
	       span_eq(rel->root_table, t->watched->root_table);
}

static void add_event(struct tail *t, struct tail_event e)
{
	size_t cap = t->event_cap ? 2 * t->event_cap : 1024;
	struct tail_event *events;

	if (t->event_count == t->event_cap) {
		events = cap <= TAIL_EVENTS_MAX ? realloc(t->events, cap * sizeof(*events)) : NULL;
		if (!events) {
			t->has_overflowed = true;
			return;
		}
		t->events = events;
		t->event_cap = cap;
	}
	t->events[t->event_count++] = e;
}

static bool decode(struct tail *t, const struct codec *codec, const struct event *ev,
		   struct arena *a, struct tail_row *ret, struct fault *f)
{
	const struct relation *rel = codec_relation(codec);
	size_t bytes = rel->column_count * sizeof(struct value) + 1;
	struct value *before = arena_alloc(a, bytes), *after = arena_alloc(a, bytes);
	bool has_before, has_after;

	(void)t;
	if (!before || !after)
		return fault(f, FAULT_INTERNAL, "no memory for a record's row");
	if (!codec_decode(codec, ev->body, before, &has_before, after, &has_after, f))
		return false;
	*ret = (struct tail_row) { .rel = rel,
				   .op = ev->head.op,
				   .before = has_before ? before : NULL,
				   .after = has_after ? after : NULL };
	return true;
}

static uint32_t unsent(const struct tail_row *row)
{
	uint32_t bits = 0;

	for (size_t i = 0; row->after && i < row->rel->column_count; i++)
		if (row->after[i].state == VALUE_IS_UNCHANGED)
			bits |= i < 31 ? UINT32_C(1) << i : TAIL_UNSENT_REST;
	return bits;
}

/* What an update leaves out. With an old row: was that of another key? Then the old key's row is gone. */
static bool add_gone(struct tail *t, const struct codec *codec, const struct event *ev,
		     struct tail_event *update, struct span key, struct fault *f)
{
	struct tail_event e = *update;
	struct tail_row row;

	if (!decode(t, codec, ev, &t->arena, &row, f))
		return false;
	update->unsent = unsent(&row);
	if (!row.before || row.rel->keyless)
		return true;
	buf_reset(&t->key);
	if (!relation_key(row.rel, row.before, &t->key, f))
		return false;
	if (span_eq(buf_span(&t->key), key))
		return true;
	update->from_other_key = true;
	e.kind = TAIL_GONE;
	e.key_hash = span_hash(buf_span(&t->key));
	add_event(t, e);
	return true;
}

/* Both rows: the key may have changed. */
static bool tell_touched(struct tail *t, const struct codec *codec, const struct event *ev, struct fault *f)
{
	struct tail_row row;

	if (!decode(t, codec, ev, &t->arena, &row, f))
		return false;
	return (!row.before || t->touch(t->touch_arg, row.rel, row.before, f)) &&
	       (!row.after || t->touch(t->touch_arg, row.rel, row.after, f));
}

/* 0: there is no room. */
static uint32_t keep_record(struct tail *t, struct span key)
{
	size_t at = buf_span(&t->kept).n;

	if (!t->record.p || at + 8 + key.n + t->record.n > TAIL_KEPT_BYTES)
		return 0;
	buf_be32(&t->kept, (uint32_t)key.n);
	buf_be32(&t->kept, (uint32_t)t->record.n);
	buf_add_span(&t->kept, key);
	buf_add_span(&t->kept, t->record);
	return buf_failed(&t->kept) ? 0 : (uint32_t)at + 1;
}

static bool add_change(struct tail *t, const struct event *ev, struct tail_event e, struct span key,
		       struct fault *f)
{
	const struct codec *codec = known_codec(t->known, ev->head.fingerprint);

	if (!codec)
		return fault(f, FAULT_ENVIRONMENT,
			     "topic %s: a record of schema %016" PRIx64 ", which %s does not have",
			     t->m->changes_topic, ev->head.fingerprint, t->m->control_topic);
	if (t->touch && !tell_touched(t, codec, ev, f))
		return false;
	if (!is_watched(t, codec_relation(codec)))
		return true;
	e.kept = keep_record(t, key);
	if (ev->head.op == 'u' && !add_gone(t, codec, ev, &e, key, f))
		return false;
	e.kind = TAIL_ROW;
	e.key_hash = span_hash(key);
	add_event(t, e);
	return true;
}

/* The message key of a change inside an exclusive record is not written: it is made of its new row. All of
 * them have the record's place: they are applied at once. */
static bool add_inner(struct tail *t, struct span record, struct tail_event e, struct fault *f)
{
	struct event ev;
	const struct codec *codec;
	struct tail_row row;
	struct buf key;
	bool ok;

	if (!event_read(t->framing, record, &t->arena, &ev, f))
		return false;
	codec = known_codec(t->known, ev.head.fingerprint);
	if (!codec || (!t->touch && !is_watched(t, codec_relation(codec))))
		return true;
	if (!decode(t, codec, &ev, &t->arena, &row, f))
		return false;
	buf_init(&key, KEY_BYTES);
	ok = relation_key(row.rel, row.after ? row.after : row.before, &key, f) &&
	     add_change(t, &ev, e, buf_span(&key), f);
	buf_release(&key);
	return ok;
}

static bool add_exclusive(struct tail *t, const struct event *ev, struct tail_event e,
			  struct fault *f)
{
	const struct exclusive *x = &ev->exclusive;

	/* It stands in every partition and runs once: the place of partition 0 says whether it did. */
	if (!x->in_place && e.partition != 0)
		return true;
	t->record = span(NULL, 0);
	for (size_t i = 0; i < x->change_count; i++) {
		e.in_exclusive = (int32_t)i;
		if (!add_inner(t, x->changes[i], e, f))
			return false;
	}
	e.in_exclusive = -1;
	e.kind = TAIL_TABLE;
	if (x->kind == EXCLUSIVE_REKEY)
		return true;
	for (size_t i = 0; i < x->table_count; i++) {
		const struct relation *rel = known_relation(t->known, x->tables[i].oid);

		if (rel && t->touch && !t->touch(t->touch_arg, rel, NULL, f))
			return false;
		if (is_watched(t, rel)) {
			add_event(t, e);
			t->has_copy = t->has_copy || x->kind == EXCLUSIVE_COPY;
		}
	}
	return true;
}

/* ---- every change ---- */

static void tell_changed(struct tail *t, const struct event *ev)
{
	const struct exclusive *x = &ev->exclusive;
	const struct codec *codec;

	if (!t->changed)
		return;
	if (ev->head.kind == EVENT_CHANGE) {
		codec = known_codec(t->known, ev->head.fingerprint);
		if (codec)
			t->changed(t->changed_arg, codec_relation(codec), ev->head.position);
		return;
	}
	for (size_t i = 0; x->kind != EXCLUSIVE_COPY && i < x->table_count; i++) {
		const struct relation *rel = known_relation(t->known, x->tables[i].oid);

		if (rel)
			t->changed(t->changed_arg, rel, ev->head.position);
	}
}

/* ---- every record ---- */

static bool tell_counted(struct tail *t, const struct event *ev, int partition, struct fault *f)
{
	const struct exclusive *x = &ev->exclusive;
	const struct codec *codec;
	uint32_t oid;

	if (!t->counted)
		return true;
	if (ev->head.kind == EVENT_EXCLUSIVE) {
		oid = x->table_count ? x->tables[0].oid : 0;
	} else {
		codec = known_codec(t->known, ev->head.fingerprint);
		if (!codec)
			return true; /* add_change says so */
		oid = codec_relation(codec)->oid;
	}
	return t->counted(t->counted_arg, partition, ev->head.ordinal, oid, f);
}

/* ---- reading ---- */

static bool take(struct tail *t, const rd_kafka_message_t *msg, struct fault *f)
{
	struct tail_event e = { .partition = msg->partition, .offset = msg->offset, .in_exclusive = -1 };
	struct event ev;

	arena_reset(&t->arena);
	t->next[msg->partition] = msg->offset + 1;
	if (!event_read_learning(t->framing, t->learn, t->arg, span(msg->payload, msg->len), &t->arena, &ev, f))
		return false;
	switch (sequence_next(&t->parts[msg->partition], &ev.head, f)) {
	case SEQUENCE_DISAGREE:
	case SEQUENCE_LOST:
		return false;
	case SEQUENCE_NEXT:
		break;
	case SEQUENCE_GAP: /* a base heals it */
	case SEQUENCE_BARRIER:
	case SEQUENCE_MARK:
	case SEQUENCE_STALE:
	case SEQUENCE_DUPLICATE:
		return true;
	}
	if (!tell_counted(t, &ev, msg->partition, f))
		return false;
	tell_changed(t, &ev);
	t->record = span(msg->payload, msg->len);
	e.position = ev.head.position;
	e.xid = ev.head.xid;
	if (ev.head.kind == EVENT_EXCLUSIVE)
		return add_exclusive(t, &ev, e, f);
	return add_change(t, &ev, e, span(msg->key ? msg->key : "", msg->key_len), f);
}

/* Brokers that do not answer are waited for: who needs a record has a deadline. */
static bool is_passing(const rd_kafka_message_t *msg, struct fault *f)
{
	struct fault why = { 0 };

	kafka_fault(msg->err, "the changes", &why);
	if (why.kind == FAULT_ENVIRONMENT)
		return true;
	return fault(f, why.kind, "%s", why.text);
}

static bool refused(struct tail *t, const struct fault *f)
{
	t->has_refused |= f && f->kind != FAULT_ENVIRONMENT;
	return false;
}

static bool poll_burst(struct tail *t, int timeout_ms, struct fault *f)
{
	for (int i = 0; i < BURST; i++) {
		rd_kafka_message_t *msg = rd_kafka_consumer_poll(t->reader, i ? 0 : timeout_ms);
		bool ok;

		if (!msg)
			return true;
		t->taken += !msg->err;
		ok = msg->err ? is_passing(msg, f)
			      : take(t, msg, f) || fault_in(f, "topic %s partition %d offset %" PRId64,
							    t->m->changes_topic, msg->partition,
							    msg->offset);
		rd_kafka_message_destroy(msg);
		if (!ok)
			return false;
	}
	return true;
}

bool tail_poll(struct tail *t, int timeout_ms, struct fault *f)
{
	return poll_burst(t, timeout_ms, f) || refused(t, f);
}

void tail_wake(struct tail *t, int partition)
{
	if (clock_us() - t->woken_us < WAKE_EVERY_US)
		return;
	t->woken_us = clock_us();
	kafka_wake(t->reader, t->m->changes_topic, partition);
}

bool tail_has(const struct tail *t, int partition, struct position p)
{
	return position_cmp(t->parts[partition].position, p) >= 0;
}

static bool drain(struct tail *t, int partition, int64_t high, int64_t deadline_us, struct fault *f)
{
	while (t->next[partition] < high) {
		if (!tail_poll(t, FETCH_POLL_MS, f))
			return false;
		if (clock_us() > deadline_us)
			return fault(f, FAULT_ENVIRONMENT,
				     "topic %s partition %d: its records come up to offset %" PRId64
				     ", wanted: %" PRId64,
				     t->m->changes_topic, partition, t->next[partition], high);
	}
	return true;
}

bool tail_drain(struct tail *t, struct fault *f)
{
	int64_t deadline_us = clock_us() + DRAIN_PATIENCE_US;

	if (!kafka_ranges(t->fetcher, t->m->changes_topic, t->m->partition_count, t->ranges, f))
		return false;
	for (int p = 0; p < t->m->partition_count; p++)
		if (!drain(t, p, t->ranges[p].high, deadline_us, f))
			return false;
	return true;
}

/* ---- reading again ---- */

static rd_kafka_message_t *fetch(struct tail *t, const struct tail_event *e, struct fault *f)
{
	int64_t deadline_us = clock_us() + FETCH_PATIENCE_US;
	rd_kafka_message_t *msg;

	if ((e->partition != t->fetch_partition || e->offset < t->fetch_next ||
	     e->offset - t->fetch_next > FETCH_AHEAD) &&
	    !assign(t->fetcher, t->m->changes_topic, &e->offset, e->partition, 1, f))
		return NULL;
	t->fetch_partition = e->partition;
	t->fetch_next = e->offset + 1;
	while (clock_us() < deadline_us) {
		msg = rd_kafka_consumer_poll(t->fetcher, FETCH_POLL_MS);
		if (!msg)
			continue;
		if (!msg->err && msg->partition == e->partition && msg->offset == e->offset)
			return msg;
		rd_kafka_message_destroy(msg);
	}
	fault(f, FAULT_ENVIRONMENT, "topic %s partition %d: offset %" PRId64 " was not sent again",
	      t->m->changes_topic, e->partition, e->offset);
	return NULL;
}

static bool read_row(struct tail *t, const struct tail_event *e, struct span record, struct span key,
		     struct arena *a, struct tail_row *ret, struct fault *f)
{
	struct event ev;
	const struct codec *codec;
	struct buf made;
	bool ok;

	if (!event_read_learning(t->framing, t->learn, t->arg, record, a, &ev, f))
		return false;
	if (e->in_exclusive >= 0) {
		struct tail_event inner = *e;

		inner.in_exclusive = -1;
		return (size_t)e->in_exclusive < ev.exclusive.change_count
			   ? read_row(t, &inner, ev.exclusive.changes[e->in_exclusive],
				      span(NULL, 0), a, ret, f)
			   : fault(f, FAULT_INPUT, "a record is not what it was when it was read");
	}
	codec = known_codec(t->known, ev.head.fingerprint);
	if (!codec)
		return fault(f, FAULT_INPUT, "a record is not what it was when it was read");
	if (!decode(t, codec, &ev, a, ret, f))
		return false;
	ret->key = arena_dup(a, key);
	if (key.p)
		return true;
	buf_init(&made, KEY_BYTES);
	ok = relation_key(ret->rel, ret->after ? ret->after : ret->before, &made, f);
	ret->key = arena_dup(a, buf_span(&made));
	buf_release(&made);
	return ok;
}

static uint32_t length_at(struct span s, size_t at)
{
	uint32_t v;

	memcpy(&v, s.p + at, sizeof(v));
	return be32toh(v);
}

static bool kept_image(struct tail *t, const struct tail_event *e, struct arena *a, struct tail_row *ret, struct fault *f)
{
	struct span kept = buf_span(&t->kept), both;
	size_t at = e->kept - 1, key_n = length_at(kept, at), n = length_at(kept, at + 4);

	both = arena_dup(a, span(kept.p + at + 8, key_n + n));
	return both.p ? read_row(t, e, span(both.p + key_n, n), span(both.p, key_n), a, ret, f)
		      : fault(f, FAULT_INTERNAL, "no memory for a record of %zu bytes", n);
}

/* The last one from that offset on. */
static bool seek_barrier(struct tail *t, struct boundary at, int64_t from, int64_t before_offset, struct arena *a,
			 struct barrier *ret, bool *ret_found, struct fault *f)
{
	struct tail_event e = { .partition = 0 };

	for (e.offset = from; e.offset < before_offset; e.offset++) {
		rd_kafka_message_t *msg = fetch(t, &e, f);
		struct span record = msg ? arena_dup(a, span(msg->payload, msg->len)) : span(NULL, 0);
		struct event ev;

		if (!msg)
			return false;
		rd_kafka_message_destroy(msg);
		if (!record.p)
			return fault(f, FAULT_INTERNAL, "no memory for a barrier");
		if (!event_read_learning(t->framing, t->learn, t->arg, record, a, &ev, f))
			return false;
		if (ev.head.kind != EVENT_BARRIER || boundary_cmp(ev.head.boundary, at) != 0)
			continue;
		*ret = ev.barrier;
		*ret_found = true;
	}
	return true;
}

bool tail_barrier(struct tail *t, struct boundary at, int64_t before_offset, struct arena *a, struct barrier *ret,
		  bool *ret_found, struct fault *f)
{
	*ret_found = false;
	for (int64_t n = BARRIER_NEAR; n <= BARRIER_FAR && !*ret_found; n *= 8) {
		int64_t from = before_offset > n ? before_offset - n : 0;

		arena_reset(a);
		if (!seek_barrier(t, at, from, before_offset, a, ret, ret_found, f))
			return false;
		if (from == 0)
			break;
	}
	return true;
}

bool tail_image(struct tail *t, const struct tail_event *e, struct arena *a, struct tail_row *ret,
		struct fault *f)
{
	rd_kafka_message_t *msg;
	struct span record;
	bool ok;

	if (e->kept)
		return kept_image(t, e, a, ret, f);
	msg = fetch(t, e, f);
	if (!msg)
		return false;
	record = arena_dup(a, span(msg->payload, msg->len));
	ok = record.p ? read_row(t, e, record, span(msg->key ? msg->key : "", msg->key_len), a, ret, f)
		      : fault(f, FAULT_INTERNAL, "no memory for a record of %zu bytes", msg->len);
	rd_kafka_message_destroy(msg);
	return ok;
}
