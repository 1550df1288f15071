// SPDX-License-Identifier: Apache-2.0
#include "ingest/stream.h"

#include <assert.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/failpoint.h"
#include "core/log.h"
#include "ingest/route.h"
#include "ingest/source.h"

enum {
	REKEY_MAX_BYTES = 8 << 20,
	REKEY_BUFFER_BYTES = 80 << 20,
	MESSAGE_ARENA_BYTES = 1 << 30,
	BARRIER_WAL_BYTES = 8 << 20,
	BARRIER_ASKED_US = 10 * 1000,
	BARRIER_ASKED_TABLE_US = 100, /* and this for each table that it counts */
};

/* A table as this session's relation messages introduced it. */
struct table {
	uint32_t oid;
	const struct version *version; /* NULL: not ours */
	size_t count;                  /* index into stream.counts */
	int whole_partition;           /* the one partition of all its rows, or -1 */
};

/* Key changes that wait to become one exclusive event. */
struct rekey {
	struct buf records;
	size_t *ends; /* of each record in records */
	size_t count, cap;
	struct event_head head;
	size_t table_count;
	struct exclusive_table *tables;
	size_t table_cap;
	size_t counted; /* the first change's table */
};

struct stream {
	struct stream_conf conf;
	struct route route;
	struct arena message;

	bool is_open; /* a transaction */
	struct commit_lsn commit;
	uint64_t seq;
	uint32_t xid;
	int64_t ts_us;
	struct boundary boundary; /* newest known */

	struct boundary barrier; /* newest of this life, or confirmed */
	int64_t barrier_at_us;   /* when that was made; 0: it was not here */
	uint64_t asked_lsn;      /* of the newest message that asks for one */

	struct table **tables; /* open addressing by oid; slot_count is a power of two */
	size_t slot_count, table_count;
	struct table *newest; /* the last one looked up */

	struct event_count *counts;
	size_t count_count, count_cap;
	size_t copies_placed;
	struct boundary copied; /* where the newest copy began */
	struct rekey rekey;
	struct stream_totals totals;
};

/* ---- tables ---- */

static size_t slot_of(const struct stream *s, uint32_t oid)
{
	size_t i = (oid * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (s->slot_count - 1);

	while (s->tables[i] && s->tables[i]->oid != oid)
		i = (i + 1) & (s->slot_count - 1);
	return i;
}

static bool tables_grow(struct stream *s)
{
	struct table **old = s->tables;
	size_t n = s->slot_count;

	s->tables = calloc(n ? 2 * n : 64, sizeof(*s->tables));
	if (!s->tables) {
		s->tables = old;
		return false;
	}
	s->slot_count = n ? 2 * n : 64;
	for (size_t i = 0; i < n; i++) {
		if (old[i])
			s->tables[slot_of(s, old[i]->oid)] = old[i];
	}
	free(old);
	return true;
}

static struct table *table_find(struct stream *s, uint32_t oid)
{
	if (!s->newest || s->newest->oid != oid)
		s->newest = s->tables[slot_of(s, oid)];
	return s->newest;
}

static struct table *table_make(struct stream *s, uint32_t oid, struct fault *f)
{
	struct table *t = table_find(s, oid);

	if (t)
		return t;
	t = calloc(1, sizeof(*t));
	if (!t || (2 * (s->table_count + 1) > s->slot_count && !tables_grow(s))) {
		free(t);
		fault(f, FAULT_INTERNAL, "out of memory");
		return NULL;
	}
	t->oid = oid;
	s->tables[slot_of(s, oid)] = t;
	s->table_count++;
	return t;
}

static bool count_index(struct stream *s, struct span name, size_t *ret, struct fault *f)
{
	for (size_t i = 0; i < s->count_count; i++) {
		if (span_eq(s->counts[i].table, name)) {
			*ret = i;
			return true;
		}
	}
	if (s->count_count == s->count_cap) {
		size_t cap = s->count_cap ? 2 * s->count_cap : 32;
		struct event_count *counts = realloc(s->counts, cap * sizeof(*counts));

		if (!counts)
			return fault(f, FAULT_INTERNAL, "out of memory");
		s->counts = counts;
		s->count_cap = cap;
	}
	s->counts[s->count_count] = (struct event_count) { .table = name };
	*ret = s->count_count++;
	return true;
}

/* Before they are published, and after. */
static void count_decoded(struct stream *s, size_t index, uint64_t records)
{
	s->counts[index].decoded += records;
}

static void count_published(struct stream *s, size_t index, uint64_t records)
{
	s->counts[index].published += records;
}

static bool table_set(struct stream *s, struct table *t, const struct version *v, struct fault *f)
{
	t->version = v;
	t->whole_partition = -1;
	if (!v)
		return true;
	t->whole_partition = route_table_partition(&s->route, v->rel, f);
	return count_index(s, v->name, &t->count, f);
}

/* ---- heads and events ---- */

static struct event_head head(const struct stream *s, uint64_t lsn, char op)
{
	return (struct event_head) { .op = op,
				     .position = { s->commit, s->seq },
				     .lsn = lsn,
				     .xid = s->xid,
				     .ts_us = s->ts_us };
}

/* partition -1: all of them. index: whose count it goes to. */
static bool publish_event(struct stream *s, size_t index, int partition, const struct event_head *h,
			  const struct exclusive *e, struct fault *f)
{
	count_decoded(s, index, 1);
	if (!publish_exclusive(s->conf.publish, partition, h, e, f))
		return false;
	count_published(s, index, 1);
	return true;
}

static bool rekey_flush(struct stream *s, struct fault *f)
{
	struct rekey *r = &s->rekey;
	struct exclusive e = { .kind = EXCLUSIVE_REKEY,
			       .tables = r->tables,
			       .table_count = r->table_count,
			       .change_count = r->count };
	bool ok;

	if (r->count == 0)
		return true;
	e.changes = calloc(r->count, sizeof(*e.changes));
	if (!e.changes)
		return fault(f, FAULT_INTERNAL, "out of memory");
	for (size_t i = 0, start = 0; i < r->count; start = r->ends[i++])
		e.changes[i] = span(r->records.p + start, r->ends[i] - start);
	ok = publish_event(s, r->counted, -1, &r->head, &e, f);
	free(e.changes);
	r->count = r->table_count = 0;
	buf_reset(&r->records);
	return ok;
}

static bool rekey_add_table(struct rekey *r, const struct relation *rel)
{
	for (size_t i = 0; i < r->table_count; i++) {
		if (r->tables[i].oid == rel->oid)
			return true;
	}
	if (r->table_count == r->table_cap) {
		size_t cap = r->table_cap ? 2 * r->table_cap : 8;
		struct exclusive_table *tables = realloc(r->tables, cap * sizeof(*tables));

		if (!tables)
			return false;
		r->tables = tables;
		r->table_cap = cap;
	}
	r->tables[r->table_count++] = (struct exclusive_table) { .oid = rel->oid,
								 .version = rel->version };
	return true;
}

static bool rekey_room(struct rekey *r)
{
	size_t cap = r->cap ? 2 * r->cap : 64;
	size_t *ends;

	if (r->count < r->cap)
		return true;
	ends = realloc(r->ends, cap * sizeof(*ends));
	if (!ends)
		return false;
	r->ends = ends;
	r->cap = cap;
	return true;
}

/* Generation and ordinal stay 0 in the record: it must come out the same, to the byte, in every
 * life. */
static bool rekey_add(struct stream *s, const struct table *t, const struct event_head *h,
		      const struct change *ch, struct fault *f)
{
	struct rekey *r = &s->rekey;
	struct event_head inner = *h;

	if (r->records.n >= REKEY_MAX_BYTES && !rekey_flush(s, f))
		return false;
	if (r->count == 0) {
		r->head = *h;
		r->head.op = 'm';
		r->counted = t->count;
	}
	inner.kind = EVENT_CHANGE;
	inner.op = 'u';
	if (!rekey_room(r) || !rekey_add_table(r, t->version->rel))
		return fault(f, FAULT_INTERNAL, "out of memory");
	if (!codec_encode(t->version->codec, s->conf.framing, &inner, ch, &r->records, f))
		return false;
	r->ends[r->count++] = r->records.n;
	return true;
}

/* The round's tables in the versions valid there. */
static bool place_copy(struct stream *s, const struct stream_copy *copy, struct fault *f)
{
	struct event_head h = { .op = 'm',
				.position = position_at(copy->at),
				.boundary = copy->at };
	struct exclusive e = { .kind = EXCLUSIVE_COPY,
			       .tables = copy->tables,
			       .table_count = copy->table_count };
	size_t index = 0;

	assert(copy->table_count > 0);
	for (size_t i = 0; i < copy->table_count; i++) {
		const struct version *v = history_at(s->conf.history, copy->tables[i].oid,
						     h.position);

		if (!v)
			return fault(f, FAULT_INTERNAL,
				     "a copy of table %u has no relation version",
				     copy->tables[i].oid);
		copy->tables[i].version = v->rel->version;
		if (i == 0 && !count_index(s, v->name, &index, f))
			return false;
	}
	s->copied = copy->at;
	return publish_event(s, index, -1, &h, &e, f);
}

/* Begun copies that stand at or before x. */
static bool place_copies(struct stream *s, uint64_t x, struct fault *f)
{
	while (s->copies_placed < s->conf.copy_count &&
	       s->conf.copies[s->copies_placed].at.v <= x) {
		if (!place_copy(s, &s->conf.copies[s->copies_placed], f))
			return false;
		s->copies_placed++;
	}
	return true;
}

/* ---- messages ---- */

static bool take_begin(struct stream *s, const struct pgoutput *m, struct fault *f)
{
	char text[LSN_TEXT];

	if (s->is_open)
		return fault(f, FAULT_INPUT, "a transaction begins at %s inside another",
			     lsn_format(m->begin.commit.v, text));
	if (!place_copies(s, m->begin.commit.v, f))
		return false;
	s->is_open = true;
	s->commit = m->begin.commit;
	s->seq = 0;
	s->xid = m->begin.xid;
	s->ts_us = m->begin.ts_us;
	return true;
}

static bool take_commit(struct stream *s, const struct pgoutput *m, struct fault *f)
{
	char wanted[LSN_TEXT], seen[LSN_TEXT];

	if (!s->is_open || m->commit.commit.v != s->commit.v)
		return fault(f, FAULT_INPUT, "commit of %s while %s is open",
			     lsn_format(m->commit.commit.v, seen),
			     s->is_open ? lsn_format(s->commit.v, wanted) : "nothing");
	if (!rekey_flush(s, f))
		return false;
	s->is_open = false;
	s->boundary = m->commit.end;
	s->totals.transactions++;
	s->totals.commit_us = s->ts_us;
	return place_copies(s, s->boundary.v, f) && stream_barrier(s, clock_us(), false, f);
}

bool stream_is_version(const struct relation *rel, const struct pgoutput_relation *m)
{
	if (rel->identity != m->identity || rel->column_count != m->column_count)
		return false;
	for (size_t i = 0; i < m->column_count; i++) {
		const struct column *a = &rel->columns[i];
		const struct pgoutput_column *b = &m->columns[i];

		if (!span_eq(a->name, b->name) || a->type_oid != b->type_oid ||
		    a->typmod != b->typmod || a->is_identity != b->is_identity)
			return false;
	}
	return true;
}

/* The version that begins at this position: of an earlier life, or made now. */
static const struct version *next_version(struct stream *s, const struct pgoutput_relation *m,
					  const struct version *previous, struct position at,
					  struct fault *f)
{
	const struct version *next = history_from(s->conf.history, m->oid, at);
	struct relation *rel;

	if (!next) {
		if (!s->conf.relation(s->conf.arg, m, previous->rel, at, &s->message, &rel, f) ||
		    !history_add(s->conf.history, rel, at, &next, f))
			return NULL;
		log_info("relation changed table=%.*s.%.*s version=%u columns=%zu",
			 SPAN_ARG(m->schema), SPAN_ARG(m->table), next->rel->version,
			 next->rel->column_count);
	}
	if (stream_is_version(next->rel, m))
		return next;
	fault(f, FAULT_INTERNAL,
	      "%.*s.%.*s: version %u is not what the stream says at its position",
	      SPAN_ARG(m->schema), SPAN_ARG(m->table), next->rel->version);
	return NULL;
}

static bool take_relation(struct stream *s, const struct pgoutput_relation *m, uint64_t lsn,
			  struct fault *f)
{
	struct position before = { s->commit, s->seq };
	const struct version *v;
	struct table *t;
	struct exclusive_table changed = { .oid = m->oid };
	struct exclusive e = { .kind = EXCLUSIVE_RELATION, .tables = &changed, .table_count = 1 };
	struct event_head h;

	if (!s->is_open)
		return fault(f, FAULT_INPUT, "relation %.*s.%.*s outside a transaction",
			     SPAN_ARG(m->schema), SPAN_ARG(m->table));
	t = table_make(s, m->oid, f);
	if (!t)
		return false;
	v = history_at(s->conf.history, m->oid, before);
	if (!v || stream_is_version(v->rel, m))
		return table_set(s, t, v, f);
	if (!rekey_flush(s, f))
		return false;
	s->seq++;
	h = head(s, lsn, 'm');
	v = next_version(s, m, v, h.position, f);
	if (!v || !table_set(s, t, v, f))
		return false;
	changed.version = v->rel->version;
	s->conf.reshaped(s->conf.arg, m->oid, h.position);
	/* Other partitions have nothing of it. */
	e.in_place = v->rel->routing == ROUTE_TRANSACTION || v->rel->routing == ROUTE_GROUP;
	return publish_event(s, t->count, e.in_place ? t->whole_partition : -1, &h, &e, f);
}

static bool check_open(const struct stream *s, struct fault *f)
{
	return s->is_open || fault(f, FAULT_INPUT, "a change outside a transaction");
}

static struct table *known_table(struct stream *s, uint32_t oid, struct fault *f)
{
	struct table *t = table_find(s, oid);

	if (!t)
		fault(f, FAULT_INPUT, "a change of relation %u, which was not introduced", oid);
	return t;
}

static bool check_cells(const struct table *t, const struct pgoutput_tuple *tuple, struct fault *f)
{
	const struct relation *rel = t->version->rel;

	return tuple->count == rel->column_count ||
	       fault(f, FAULT_INPUT, "%.*s.%.*s: a row of %zu columns, the relation has %zu",
		     SPAN_ARG(rel->schema), SPAN_ARG(rel->table), tuple->count, rel->column_count);
}

static bool take_change(struct stream *s, char op, const struct pgoutput_change *ch, uint64_t lsn,
			struct fault *f)
{
	const struct route_source source = { .op = op,
					     .old_kind = ch->old_kind,
					     .old_cells = ch->old.cells,
					     .new_cells = ch->new.cells };
	struct table *t;
	struct routed routed;
	struct event_head h;

	if (!check_open(s, f) || !(t = known_table(s, ch->oid, f)))
		return false;
	s->seq++;
	s->totals.changes++;
	if (!t->version)
		return true;
	if ((ch->old_kind && !check_cells(t, &ch->old, f)) ||
	    (op != 'd' && !check_cells(t, &ch->new, f)) ||
	    !route_change(&s->route, t->version, &source, &routed, f))
		return false;
	h = head(s, lsn, op);
	if (routed.kind == ROUTED_REKEY)
		return rekey_add(s, t, &h, &routed.records[0].change, f);
	if (!rekey_flush(s, f))
		return false;
	count_decoded(s, t->count, routed.kind == ROUTED_TWO ? 2 : 1);
	for (int i = 0; i <= (routed.kind == ROUTED_TWO); i++) {
		const struct routed_record *r = &routed.records[i];

		h.op = r->op;
		if (!failpoint("stream.lose") &&
		    !publish_change(s->conf.publish, t->version->codec, r->partition, r->key, &h,
				    &r->change, f))
			return false;
		count_published(s, t->count, 1);
	}
	return true;
}

/* All rows of all tables in one partition: then it runs there, in its place. */
static int truncate_partition(const struct table *t, int partition, bool is_first)
{
	return is_first || t->whole_partition == partition ? t->whole_partition : -1;
}

static bool take_truncate(struct stream *s, const struct pgoutput *m, uint64_t lsn, struct fault *f)
{
	struct exclusive e = { .kind = EXCLUSIVE_TRUNCATE,
			       .restart_identity = m->truncate.restart_identity,
			       .cascade = m->truncate.cascade };
	struct event_head h;
	int partition = -1;
	size_t counted = 0;

	if (!check_open(s, f))
		return false;
	s->seq++;
	s->totals.changes++;
	e.tables = arena_alloc(&s->message, (m->truncate.count + 1) * sizeof(*e.tables));
	if (!e.tables)
		return fault(f, FAULT_INTERNAL, "no memory for a TRUNCATE of %zu tables",
			     m->truncate.count);
	for (size_t i = 0; i < m->truncate.count; i++) {
		const struct table *t = known_table(s, m->truncate.oids[i], f);

		if (!t)
			return false;
		if (!t->version)
			continue;
		partition = truncate_partition(t, partition, e.table_count == 0);
		if (e.table_count == 0)
			counted = t->count;
		e.tables[e.table_count++] = (struct exclusive_table) {
			.oid = t->oid, .version = t->version->rel->version
		};
	}
	if (e.table_count == 0)
		return true;
	if (!rekey_flush(s, f))
		return false;
	e.in_place = partition >= 0;
	h = head(s, lsn, 't');
	return publish_event(s, counted, partition, &h, &e, f);
}

/* A message between transactions says that WAL was read so far; one inside is not ours. */
static bool take_message(struct stream *s, const struct pgoutput *m, struct fault *f)
{
	if (s->is_open || m->message.is_transactional || m->message.lsn <= s->boundary.v)
		return true;
	s->boundary = (struct boundary) { m->message.lsn };
	if (span_eq(m->message.prefix, span_str(SOURCE_PREFIX)))
		s->asked_lsn = m->message.lsn;
	return place_copies(s, s->boundary.v, f);
}

bool stream_data(struct stream *s, const struct source_message *message, struct fault *f)
{
	struct pgoutput m;

	arena_reset(&s->message);
	if (!pgoutput_parse(message->payload, message->lsn, &s->message, &m, f))
		return false;
	switch (m.kind) {
	case PGOUTPUT_BEGIN:
		return take_begin(s, &m, f);
	case PGOUTPUT_COMMIT:
		return take_commit(s, &m, f);
	case PGOUTPUT_RELATION:
		return take_relation(s, &m.relation, message->lsn, f);
	case PGOUTPUT_INSERT:
		return take_change(s, 'c', &m.change, message->lsn, f);
	case PGOUTPUT_UPDATE:
		return take_change(s, 'u', &m.change, message->lsn, f);
	case PGOUTPUT_DELETE:
		return take_change(s, 'd', &m.change, message->lsn, f);
	case PGOUTPUT_TRUNCATE:
		return take_truncate(s, &m, message->lsn, f);
	case PGOUTPUT_MESSAGE:
		return take_message(s, &m, f);
	case PGOUTPUT_TYPE:
	case PGOUTPUT_IGNORED:
		return true;
	}
	return true;
}

bool stream_keepalive(struct stream *s, uint64_t wal_end, struct fault *f)
{
	if (s->is_open || wal_end <= s->boundary.v)
		return true;
	s->boundary = (struct boundary) { wal_end };
	return place_copies(s, wal_end, f);
}

/* A message's position is its end (decode.c), which who wrote it waits for. A barrier has the counts of all tables, and
 * the topic keeps it: with thousands of them nobody gets one sooner. */
static int64_t barrier_due_us(const struct stream *s)
{
	int64_t asked_us = BARRIER_ASKED_US + (int64_t)s->count_count * BARRIER_ASKED_TABLE_US;
	bool is_asked = s->boundary.v >= s->asked_lsn && s->barrier.v < s->asked_lsn;

	return s->barrier_at_us + (is_asked && asked_us < s->conf.barrier_us ? asked_us : s->conf.barrier_us);
}

bool stream_barrier(struct stream *s, int64_t now_us, bool is_forced, struct fault *f)
{
	const struct barrier counts = { s->counts, s->count_count };
	uint64_t bytes = s->boundary.v - s->barrier.v;

	if (s->is_open || boundary_cmp(s->boundary, s->barrier) <= 0 ||
	    boundary_cmp(s->boundary, s->conf.accepted) < 0)
		return true;
	/* A copy that begins at a boundary is behind its barrier, also when that is decoded again: its counts are
	 * without the copy's event. */
	if (boundary_cmp(s->boundary, s->copied) <= 0)
		return true;
	if (!is_forced && now_us < barrier_due_us(s) && bytes < BARRIER_WAL_BYTES)
		return true;
	/* A begun copy that is not in every partition yet stands in front of this barrier. */
	if (s->copies_placed < s->conf.copy_count &&
	    boundary_cmp(s->conf.copies[s->copies_placed].at, s->boundary) <= 0)
		return true;
	if (!publish_has_barrier_room(s->conf.publish) ||
	    !publish_is_within(s->conf.publish, s->boundary))
		return true;
	s->barrier = s->boundary;
	s->barrier_at_us = now_us;
	return publish_barrier(s->conf.publish, s->boundary, &counts, f);
}

int64_t stream_barrier_due_us(const struct stream *s)
{
	return s->is_open || boundary_cmp(s->boundary, s->barrier) <= 0 ? INT64_MAX : barrier_due_us(s);
}

struct boundary stream_boundary(const struct stream *s)
{
	return s->boundary;
}

bool stream_is_at_boundary(const struct stream *s)
{
	return !s->is_open && s->copies_placed == s->conf.copy_count &&
	       boundary_cmp(s->boundary, s->conf.accepted) >= 0 &&
	       publish_is_within(s->conf.publish, s->boundary);
}

bool stream_copy(struct stream *s, const struct stream_copy *copy, struct fault *f)
{
	assert(stream_is_at_boundary(s) && boundary_cmp(copy->at, s->boundary) == 0);
	return place_copy(s, copy, f);
}

struct stream_totals stream_totals(const struct stream *s)
{
	return s->totals;
}

const struct event_count *stream_counts(const struct stream *s, size_t *ret_count)
{
	*ret_count = s->count_count;
	return s->counts;
}

struct stream *stream_new(const struct stream_conf *conf, struct fault *f)
{
	struct stream *s = calloc(1, sizeof(*s));

	if (!s) {
		fault(f, FAULT_INTERNAL, "out of memory");
		return NULL;
	}
	s->conf = *conf;
	route_init(&s->route, conf->partition_count);
	arena_init(&s->message, MESSAGE_ARENA_BYTES);
	buf_init(&s->rekey.records, REKEY_BUFFER_BYTES);
	s->boundary = s->barrier = conf->confirmed;
	for (size_t i = 0; i < conf->counts->count_count; i++) {
		size_t index;

		if (!count_index(s, conf->counts->counts[i].table, &index, f))
			goto fail;
		s->counts[index] = conf->counts->counts[i];
	}
	if (tables_grow(s))
		return s;
	fault(f, FAULT_INTERNAL, "out of memory");
fail:
	stream_free(s);
	return NULL;
}

void stream_free(struct stream *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->slot_count; i++)
		free(s->tables[i]);
	free(s->tables);
	free(s->counts);
	free(s->rekey.ends);
	free(s->rekey.tables);
	buf_release(&s->rekey.records);
	route_release(&s->route);
	arena_release(&s->message);
	free(s);
}
