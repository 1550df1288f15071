// SPDX-License-Identifier: Apache-2.0
/*
 * event_read and codec_decode: first byte: bits 0-1 the relation, bit 2 Confluent framing, bit 3
 * the rest is the body of a change alone; then one record. What is read costs memory in proportion,
 * lies inside the record, and a row that was read is written and read again the same.
 */
#include <stdlib.h>

#include "core/codec.h"

enum { COLUMNS = VALUE_KINDS + 2, RELATIONS = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static struct relation relations[RELATIONS];
static struct codec *codecs[RELATIONS];
static struct framing *framings[2];

static void prepare(void)
{
	static struct column columns[COLUMNS];
	static const char *const names[COLUMNS] = { "b",  "i2", "i4",  "i8", "f4",    "f8", "t",
						    "c",  "j",  "by",  "u",  "d",     "ti", "ts",
						    "tz", "n",  "num", "o",  "größe", "x" };
	struct fault f;

	for (int i = 0; i < COLUMNS; i++)
		columns[i] = (struct column) {
			.name = span_str(names[i]),
			.type = { (enum value_kind)(i % VALUE_KINDS), 12, 2 },
			.is_key = i == 3,
			.is_identity = i == 3,
		};
	for (int r = 0; r < RELATIONS; r++) {
		relations[r] = (struct relation) {
			.oid = 1,
			.version = 1,
			.schema = span_str("s"),
			.table = span_str("t"),
			.identity = r == 1 ? 'f' : 'd',
			.fingerprint = 7,
			.columns = r == 2 ? &columns[2] : columns,
			.column_count = r == 2   ? 2
					: r == 3 ? 10
						 : COLUMNS,
			.key_count = 1,
		};
		codecs[r] = codec_new(&relations[r], &f);
	}
	framings[0] = framing_new(FRAMING_SINGLE_OBJECT);
	framings[1] = framing_new(FRAMING_CONFLUENT);
	framing_learn(framings[1], 7, 1);
	for (enum event_kind k = EVENT_EXCLUSIVE; k <= EVENT_MARKER; k++)
		framing_learn(framings[1], codec_fixed(k)->fingerprint, 1 + (int32_t)k);
}

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void lies_in(struct span part, struct span whole)
{
	must(part.n == 0 || (part.p >= whole.p && part.p + part.n <= whole.p + whole.n));
}

static void same_row(const struct relation *rel, const struct value *a, const struct value *b,
		     bool is_before)
{
	for (size_t i = 0; i < rel->column_count; i++) {
		if (is_before && rel->identity != 'f' && !rel->columns[i].is_key)
			continue; /* not written */
		must(a[i].state == b[i].state && span_eq(a[i].bytes, b[i].bytes));
		/* By bits: a NaN is not equal to itself. */
		must(memcmp(&a[i].i, &b[i].i, 8) == 0);
	}
}

struct rows {
	struct value before[COLUMNS], after[COLUMNS];
	bool has_before, has_after;
};

static bool decode(int r, struct span body, struct rows *rows, struct fault *f)
{
	return codec_decode(codecs[r], body, rows->before, &rows->has_before, rows->after,
			    &rows->has_after, f);
}

static void write_again(int r, const struct rows *rows, struct arena *a)
{
	struct change ch = { rows->has_before ? rows->before : NULL,
			     rows->has_after ? rows->after : NULL };
	struct event_head h = { .op = rows->has_after ? 'u' : 'd' };
	struct rows again;
	struct event ev;
	struct fault f;
	struct buf out;

	buf_init(&out, 1 << 26);
	must(codec_encode(codecs[r], framings[0], &h, &ch, &out, &f));
	must(event_read(framings[0], buf_span(&out), a, &ev, &f));
	must(decode(r, ev.body, &again, &f));
	must(again.has_before == rows->has_before && again.has_after == rows->has_after);
	if (rows->has_before)
		same_row(&relations[r], rows->before, again.before, true);
	if (rows->has_after)
		same_row(&relations[r], rows->after, again.after, false);
	buf_release(&out);
}

static void read_body(int r, struct span body, struct arena *a)
{
	struct fault f = { 0 };
	struct rows rows;

	if (!decode(r, body, &rows, &f)) {
		must(f.kind == FAULT_INPUT);
		return;
	}
	for (size_t i = 0; i < relations[r].column_count; i++) {
		lies_in(rows.before[i].bytes, body);
		lies_in(rows.after[i].bytes, body);
	}
	write_again(r, &rows, a);
}

static void read_record(int r, const struct framing *fr, struct span record, struct arena *a)
{
	struct fault f = { 0 };
	struct event ev;

	if (!event_read(fr, record, a, &ev, &f)) {
		must(f.kind == FAULT_INPUT || f.kind == FAULT_ENVIRONMENT);
		return;
	}
	if (ev.head.kind == EVENT_CHANGE) {
		lies_in(ev.body, record);
		read_body(r, ev.body, a);
	}
	for (size_t i = 0; ev.head.kind == EVENT_EXCLUSIVE && i < ev.exclusive.change_count; i++)
		lies_in(ev.exclusive.changes[i], record);
	for (size_t i = 0; ev.head.kind == EVENT_BARRIER && i < ev.barrier.count_count; i++)
		lies_in(ev.barrier.counts[i].table, record);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct arena a;
	struct span rest;

	if (n == 0)
		return 0;
	if (!codecs[0])
		prepare();
	rest = span(data + 1, n - 1);
	arena_init(&a, 65536 + 64 * n);
	if (data[0] & 8)
		read_body(data[0] & 3, rest, &a);
	else
		read_record(data[0] & 3, framings[data[0] >> 2 & 1], rest, &a);
	must(!arena_failed(&a));
	arena_release(&a);
	return 0;
}
