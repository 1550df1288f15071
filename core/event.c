// SPDX-License-Identifier: Apache-2.0
#include "core/event_wire.h"

#include "core/codec.h"
#include "core/framing.h"

static const char *const exclusive_names[] = {
	[EXCLUSIVE_TRUNCATE] = "truncate",
	[EXCLUSIVE_COPY] = "copy",
	[EXCLUSIVE_RELATION] = "relation",
	[EXCLUSIVE_REKEY] = "rekey",
};
enum { EXCLUSIVE_KINDS = sizeof(exclusive_names) / sizeof(exclusive_names[0]) };

/* The ops a kind may have. */
static const char *const kind_ops[] = {
	[EVENT_CHANGE] = "cudr",
	[EVENT_EXCLUSIVE] = "tm",
	[EVENT_BARRIER] = "b",
	[EVENT_MARKER] = "fse",
};

static bool kind_has_op(enum event_kind kind, char op)
{
	return op != 0 && strchr(kind_ops[kind], op);
}

static bool event_start(const struct framing *fr, const struct event_head *h, enum event_kind kind,
			char op, struct buf *out)
{
	char *p;

	if (!kind_has_op(kind, op) || !buf_reserve(out, FRAMING_MAX_BYTES + EVENT_HEAD_MAX_BYTES))
		return false;
	p = framing_put(fr, codec_fixed(kind)->fingerprint, out->p + out->n);
	if (!p)
		return false;
	p = event_head_put(p, h, op);
	out->n = (size_t)(p - out->p);
	return true;
}

/* A record that could not be written to its end leaves nothing behind. */
static bool event_end(struct buf *out, size_t start)
{
	if (!buf_failed(out))
		return true;
	out->n = start;
	return false;
}

bool event_write_exclusive(const struct framing *fr, const struct event_head *h,
			   const struct exclusive *e, struct buf *out)
{
	size_t start = out->n;

	if (!event_start(fr, h, EVENT_EXCLUSIVE, e->kind == EXCLUSIVE_TRUNCATE ? 't' : 'm', out))
		return false;
	avro_add_bytes(out, span_str(exclusive_names[e->kind]));
	avro_add_bool(out, e->restart_identity);
	avro_add_bool(out, e->cascade);
	avro_add_bool(out, e->in_place);
	if (e->table_count > 0)
		avro_add_long(out, (int64_t)e->table_count);
	for (size_t i = 0; i < e->table_count; i++) {
		avro_add_long(out, e->tables[i].oid);
		avro_add_long(out, e->tables[i].version);
		avro_add_long(out, e->tables[i].attempt);
	}
	avro_add_long(out, 0);
	if (e->change_count > 0)
		avro_add_long(out, (int64_t)e->change_count);
	for (size_t i = 0; i < e->change_count; i++)
		avro_add_bytes(out, e->changes[i]);
	avro_add_long(out, 0);
	return event_end(out, start);
}

bool event_write_barrier(const struct framing *fr, const struct event_head *h,
			 const struct barrier *b, struct buf *out)
{
	size_t start = out->n;

	if (!event_start(fr, h, EVENT_BARRIER, 'b', out))
		return false;
	if (b->count_count > 0)
		avro_add_long(out, (int64_t)b->count_count);
	for (size_t i = 0; i < b->count_count; i++) {
		avro_add_bytes(out, b->counts[i].table);
		avro_add_long(out, (int64_t)b->counts[i].decoded);
		avro_add_long(out, (int64_t)b->counts[i].published);
	}
	avro_add_long(out, 0);
	return event_end(out, start);
}

bool event_write_marker(const struct framing *fr, const struct event_head *h,
			const struct marker *m, struct buf *out)
{
	size_t start = out->n;

	if (!event_start(fr, h, EVENT_MARKER, h->op, out))
		return false;
	avro_add_long(out, m->oid);
	avro_add_long(out, (int64_t)m->record_count);
	avro_add_long(out, (int64_t)m->routing_version);
	return event_end(out, start);
}

static void read_head(struct cursor *c, struct event_head *h)
{
	struct span op;

	h->generation = (uint64_t)avro_read_range(c, 0, INT64_MAX);
	h->ordinal = (uint64_t)avro_read_range(c, 0, INT64_MAX);
	op = avro_read_bytes(c);
	h->op = op.n == 1 ? op.p[0] : 0;
	h->position.commit.v = (uint64_t)avro_read_long(c);
	h->position.seq = (uint64_t)avro_read_range(c, 0, INT64_MAX);
	h->lsn = (uint64_t)avro_read_long(c);
	h->xid = (uint32_t)avro_read_range(c, 0, UINT32_MAX);
	h->ts_us = avro_read_long(c);
	avro_read_bool(c);
	h->boundary.v = (uint64_t)avro_read_long(c);
	h->attempt = (uint32_t)avro_read_range(c, 0, INT32_MAX);
}

/*
 * Arrays are read twice: the first time the items are counted (and checked), so that the second can
 * fill memory of the right size. An item takes at least one byte of the record, which bounds what
 * a hostile record can make us allocate.
 */
static bool read_tables(struct cursor *c, struct arena *a, struct exclusive *e)
{
	struct avro_array items = { 0 };
	struct cursor again = *c;
	size_t n = 0;

	for (; avro_array_next(c, &items); n++)
		for (int i = 0; i < 3; i++)
			avro_read_long(c);
	if (c->cut || n == 0)
		return !c->cut;
	e->tables = arena_alloc(a, n * sizeof(*e->tables));
	if (!e->tables)
		return false;
	items = (struct avro_array) { 0 };
	for (; avro_array_next(&again, &items); e->table_count++) {
		struct exclusive_table *t = &e->tables[e->table_count];

		t->oid = (uint32_t)avro_read_range(&again, 0, UINT32_MAX);
		t->version = (uint32_t)avro_read_range(&again, 0, INT32_MAX);
		t->attempt = (uint32_t)avro_read_range(&again, 0, INT32_MAX);
	}
	*c = again;
	return !c->cut;
}

static bool read_changes(struct cursor *c, struct arena *a, struct exclusive *e)
{
	struct avro_array items = { 0 };
	struct cursor again = *c;
	size_t n = 0;

	for (; avro_array_next(c, &items); n++)
		avro_read_bytes(c);
	if (c->cut || n == 0)
		return !c->cut;
	e->changes = arena_alloc(a, n * sizeof(*e->changes));
	if (!e->changes)
		return false;
	items = (struct avro_array) { 0 };
	for (; avro_array_next(&again, &items); e->change_count++)
		e->changes[e->change_count] = avro_read_bytes(&again);
	return true;
}

static bool read_counts(struct cursor *c, struct arena *a, struct barrier *b)
{
	struct avro_array items = { 0 };
	struct cursor again = *c;
	size_t n = 0;

	for (; avro_array_next(c, &items); n++) {
		avro_read_bytes(c);
		avro_read_range(c, 0, INT64_MAX);
		avro_read_range(c, 0, INT64_MAX);
	}
	if (c->cut || n == 0)
		return !c->cut;
	b->counts = arena_alloc(a, n * sizeof(*b->counts));
	if (!b->counts)
		return false;
	items = (struct avro_array) { 0 };
	for (; avro_array_next(&again, &items); b->count_count++) {
		struct event_count *count = &b->counts[b->count_count];

		count->table = avro_read_bytes(&again);
		count->decoded = (uint64_t)avro_read_long(&again);
		count->published = (uint64_t)avro_read_long(&again);
	}
	return true;
}

static bool read_exclusive(struct cursor *c, struct arena *a, struct exclusive *e)
{
	struct span name = avro_read_bytes(c);
	size_t kind = 0;

	while (kind < EXCLUSIVE_KINDS && !span_eq_str(name, exclusive_names[kind]))
		kind++;
	if (kind == EXCLUSIVE_KINDS)
		return false;
	e->kind = (enum exclusive_kind)kind;
	e->restart_identity = avro_read_bool(c);
	e->cascade = avro_read_bool(c);
	e->in_place = avro_read_bool(c);
	return read_tables(c, a, e) && read_changes(c, a, e);
}

static void read_marker(struct cursor *c, struct marker *m)
{
	m->oid = (uint32_t)avro_read_range(c, 0, UINT32_MAX);
	m->record_count = (uint64_t)avro_read_range(c, 0, INT64_MAX);
	m->routing_version = (uint64_t)avro_read_range(c, 0, INT64_MAX);
}

/* The body of a CHANGE starts with `unchanged`: an INSERT that carries one is never applied. */
static bool change_is_whole(const struct event *ev)
{
	struct cursor c = cursor(ev->body);
	struct avro_array items = { 0 };

	return (ev->head.op != 'c' && ev->head.op != 'r') || !avro_array_next(&c, &items);
}

static bool read_body(struct cursor *c, struct arena *a, struct event *ev)
{
	switch (ev->head.kind) {
	case EVENT_CHANGE:
		ev->body = cursor_bytes(c, cursor_left(c));
		return change_is_whole(ev);
	case EVENT_EXCLUSIVE:
		return read_exclusive(c, a, &ev->exclusive);
	case EVENT_BARRIER:
		return read_counts(c, a, &ev->barrier);
	case EVENT_MARKER:
		read_marker(c, &ev->marker);
		return true;
	}
	return false;
}

static enum event_kind kind_of(uint64_t fingerprint)
{
	for (enum event_kind k = EVENT_EXCLUSIVE; k <= EVENT_MARKER; k++)
		if (codec_fixed(k)->fingerprint == fingerprint)
			return k;
	return EVENT_CHANGE;
}

bool event_read(const struct framing *fr, struct span record, struct arena *a, struct event *ret,
		struct fault *f)
{
	struct cursor c = cursor(record.n > 0 ? record : span("", 0));
	struct event_head *h = &ret->head;
	uint64_t fingerprint;

	*ret = (struct event) { 0 };
	if (!framing_get(fr, &c, &fingerprint, f))
		return false;
	h->kind = kind_of(fingerprint);
	h->fingerprint = h->kind == EVENT_CHANGE ? fingerprint : 0;
	read_head(&c, h);
	if (c.cut || !kind_has_op(h->kind, h->op))
		return fault(f, FAULT_INPUT,
			     "record of %zu bytes with a malformed head, at byte %zu", record.n,
			     cursor_offset(&c));
	if (!read_body(&c, a, ret) || c.cut || cursor_left(&c) > 0) {
		if (arena_failed(a))
			return fault(f, FAULT_INTERNAL, "no memory for a record of %zu bytes",
				     record.n);
		return fault(f, FAULT_INPUT,
			     "record of %zu bytes with a malformed body (op %c, ordinal %llu), at "
			     "byte %zu",
			     record.n, h->op, (unsigned long long)h->ordinal, cursor_offset(&c));
	}
	return true;
}

bool event_read_learning(const struct framing *fr, event_learn learn, void *arg, struct span record, struct arena *a,
			 struct event *ret, struct fault *f)
{
	int32_t id;

	if (event_read(fr, record, a, ret, f))
		return true;
	if (f->kind != FAULT_ENVIRONMENT || !learn || !framing_record_id(record, &id))
		return false;
	fault_reset(f);
	return learn(arg, id, f) && event_read(fr, record, a, ret, f);
}
