// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <avro.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/codec.h"
#include "random_relation.h"

enum { RANDOM_CASES = 400, BODY_MAX = 1 << 20, MANY = 64 };

struct rig {
	struct arena a;
	struct buf out, schema;
	struct framing *fr;
	struct fault f;
};

static struct rig rig;

static int setup(void **state)
{
	arena_init(&rig.a, 64 << 20);
	buf_init(&rig.out, BODY_MAX);
	buf_init(&rig.schema, BODY_MAX);
	rig.fr = framing_new(FRAMING_SINGLE_OBJECT);
	fault_reset(&rig.f);
	return 0;
}

static int teardown(void **state)
{
	arena_release(&rig.a);
	buf_release(&rig.out);
	buf_release(&rig.schema);
	framing_free(rig.fr);
	return 0;
}

static void ok(bool done)
{
	if (!done)
		fail_msg("%s", rig.f.text);
}

static void refused(bool done, const char *words)
{
	assert_false(done);
	if (!strstr(rig.f.text, words))
		fail_msg("\"%s\" not in \"%s\"", words, rig.f.text);
}

/* --- Avro-C as the oracle --- */

static void oracle_value(avro_value_t *field, const struct value_type *t, const struct value *v)
{
	avro_value_t branch;

	if (v->state == VALUE_IS_NULL || v->state == VALUE_IS_UNCHANGED) {
		avro_value_set_branch(field, 0, &branch);
		assert_int_equal(avro_value_set_null(&branch), 0);
		return;
	}
	avro_value_set_branch(field, v->state == VALUE_IS_TEXT && kind_has_text(t->kind) ? 2 : 1,
			      &branch);
	switch (avro_value_get_type(&branch)) {
	case AVRO_BOOLEAN:
		avro_value_set_boolean(&branch, (int)v->i);
		return;
	case AVRO_INT32:
		avro_value_set_int(&branch, (int32_t)v->i);
		return;
	case AVRO_INT64:
		avro_value_set_long(&branch, v->i);
		return;
	case AVRO_FLOAT:
		avro_value_set_float(&branch, (float)v->d);
		return;
	case AVRO_DOUBLE:
		avro_value_set_double(&branch, v->d);
		return;
	case AVRO_BYTES:
		avro_value_set_bytes(&branch, (void *)v->bytes.p, v->bytes.n);
		return;
	case AVRO_STRING:
		/* The length that it wants counts a NUL, which its texts have here. */
		avro_value_set_string_len(&branch, v->bytes.p, v->bytes.n + 1);
		return;
	default:
		fail_msg("a branch of a type that no kind has");
	}
}

static void oracle_row(avro_value_t *envelope, const char *name, const struct relation *rel,
		       const struct value *row, bool is_before)
{
	static const struct value null = { .state = VALUE_IS_NULL };
	avro_value_t field, record, column;

	avro_value_get_by_name(envelope, name, &field, NULL);
	avro_value_set_branch(&field, row ? 1 : 0, &record);
	if (!row)
		avro_value_set_null(&record);
	for (size_t i = 0, at = 0; row && i < rel->column_count; i++) {
		const struct column *col = &rel->columns[i];
		if (col->is_dropped)
			continue;
		bool is_sent = !is_before || rel->identity == 'f' || col->is_key ||
			       col->is_identity;

		avro_value_get_by_index(&record, at++, &column, NULL);
		oracle_value(&column, &col->type, is_sent ? &row[i] : &null);
	}
}

static void oracle_long(avro_value_t *record, const char *name, int64_t v)
{
	avro_value_t field;

	assert_int_equal(avro_value_get_by_name(record, name, &field, NULL), 0);
	if (avro_value_get_type(&field) == AVRO_INT32)
		avro_value_set_int(&field, (int32_t)v);
	else
		avro_value_set_long(&field, v);
}

static void oracle_head(avro_value_t *envelope, const struct event_head *h)
{
	char op[2] = { h->op, 0 };
	avro_value_t field, snapshot;

	oracle_long(envelope, "generation", (int64_t)h->generation);
	oracle_long(envelope, "ordinal", (int64_t)h->ordinal);
	avro_value_get_by_name(envelope, "op", &field, NULL);
	avro_value_set_string(&field, op);
	avro_value_get_by_name(envelope, "source", &field, NULL);
	oracle_long(&field, "commit_lsn", (int64_t)h->position.commit.v);
	oracle_long(&field, "seq", (int64_t)h->position.seq);
	oracle_long(&field, "lsn", (int64_t)h->lsn);
	oracle_long(&field, "txId", h->xid);
	oracle_long(&field, "ts_us", h->ts_us);
	avro_value_get_by_name(&field, "snapshot", &snapshot, NULL);
	avro_value_set_boolean(&snapshot, h->op == 'r');
	oracle_long(envelope, "boundary", (int64_t)h->boundary.v);
	oracle_long(envelope, "attempt", h->attempt);
}

static void oracle_unchanged(avro_value_t *envelope, const struct relation *rel,
			     const struct value *after)
{
	avro_value_t field, item;

	avro_value_get_by_name(envelope, "unchanged", &field, NULL);
	for (size_t i = 0; after && i < rel->column_count; i++)
		if (after[i].state == VALUE_IS_UNCHANGED) {
			avro_value_append(&field, &item, NULL);
			avro_value_set_string_len(&item, arena_str(&rig.a, rel->columns[i].name),
						  rel->columns[i].name.n + 1);
		}
}

static avro_value_iface_t *oracle_class(const struct relation *rel)
{
	avro_schema_t schema;
	avro_value_iface_t *class;

	buf_reset(&rig.schema);
	ok(codec_schema("m", rel, 0, &rig.schema, &rig.f));
	if (avro_schema_from_json_length(rig.schema.p, rig.schema.n, &schema) != 0)
		fail_msg("%s: %.*s", avro_strerror(), (int)rig.schema.n, rig.schema.p);
	class = avro_generic_class_from_schema(schema);
	avro_schema_decref(schema);
	return class;
}

static void oracle_make(avro_value_t *envelope, const struct relation *rel,
			const struct event_head *h, const struct change *ch)
{
	oracle_head(envelope, h);
	oracle_unchanged(envelope, rel, ch->after);
	oracle_row(envelope, "before", rel, ch->before, true);
	oracle_row(envelope, "after", rel, ch->after, false);
}

/* --- one random case --- */

static struct event_head random_head(char op)
{
	return (struct event_head) {
		.op = op,
		.generation = random_u64() >> 1 >> random_below(63),
		.ordinal = random_u64() >> 1 >> random_below(63),
		.position = { { random_u64() }, random_below(1 << 20) },
		.lsn = random_u64(),
		.xid = (uint32_t)random_u64(),
		.ts_us = random_i64(),
		.attempt = (uint32_t)random_below(1 << 20),
	};
}

static void same_value(const struct value *seen, const struct value *wanted)
{
	assert_int_equal(seen->state, wanted->state);
	if (wanted->state == VALUE_IS_NULL || wanted->state == VALUE_IS_UNCHANGED)
		return;
	assert_true(span_eq(seen->bytes, wanted->bytes));
	assert_int_equal(seen->i, wanted->i);
}

static void same_rows(const struct relation *rel, const struct change *ch, struct span body)
{
	struct value before[MANY], after[MANY];
	static const struct value null = { .state = VALUE_IS_NULL };
	struct codec *c = codec_new(rel, &rig.f);
	bool has_before, has_after;

	ok(codec_decode(c, body, before, &has_before, after, &has_after, &rig.f));
	assert_int_equal(has_before, ch->before != NULL);
	assert_int_equal(has_after, ch->after != NULL);
	for (size_t i = 0; i < rel->column_count; i++) {
		const struct column *col = &rel->columns[i];
		bool is_sent = rel->identity == 'f' || col->is_key || col->is_identity;

		same_value(&before[i], ch->before && is_sent ? &ch->before[i] : &null);
		same_value(&after[i], ch->after ? &ch->after[i] : &null);
	}
	codec_free(c);
}

static void same_head(const struct event_head *seen, const struct event_head *wanted)
{
	assert_int_equal(seen->kind, EVENT_CHANGE);
	assert_int_equal(seen->op, wanted->op);
	assert_int_equal(seen->generation, wanted->generation);
	assert_int_equal(seen->ordinal, wanted->ordinal);
	assert_int_equal(position_cmp(seen->position, wanted->position), 0);
	assert_int_equal(seen->lsn, wanted->lsn);
	assert_int_equal(seen->xid, wanted->xid);
	assert_int_equal(seen->ts_us, wanted->ts_us);
	assert_int_equal(seen->boundary.v, wanted->boundary.v);
	assert_int_equal(seen->attempt, wanted->attempt);
}

static struct change random_change(const struct relation *rel, char op)
{
	bool has_before = op == 'd' || (op == 'u' && random_below(2));

	return (struct change) {
		.before = has_before ? random_row(&rig.a, rel, false) : NULL,
		.after = op == 'd' ? NULL : random_row(&rig.a, rel, op == 'u'),
	};
}

static void encode(const struct relation *rel, const struct event_head *h, const struct change *ch)
{
	struct codec *c = codec_new(rel, &rig.f);

	assert_non_null(c);
	buf_reset(&rig.out);
	ok(codec_encode(c, rig.fr, h, ch, &rig.out, &rig.f));
	codec_free(c);
}

static void oracle_agrees(const struct relation *rel, const struct event_head *h,
			  const struct change *ch)
{
	avro_value_iface_t *class = oracle_class(rel);
	avro_value_t theirs, read;
	static char bytes[BODY_MAX];
	avro_writer_t writer = avro_writer_memory(bytes, sizeof(bytes));
	avro_reader_t reader = avro_reader_memory(rig.out.p + 10, (int64_t)rig.out.n - 10);

	avro_generic_value_new(class, &theirs);
	avro_generic_value_new(class, &read);
	oracle_make(&theirs, rel, h, ch);
	assert_int_equal(avro_value_write(writer, &theirs), 0);
	assert_int_equal(avro_writer_tell(writer), (int64_t)rig.out.n - 10);
	assert_memory_equal(bytes, rig.out.p + 10, rig.out.n - 10);
	assert_int_equal(avro_value_read(reader, &read), 0);
	assert_true(avro_value_equal(&theirs, &read));
	avro_value_decref(&theirs);
	avro_value_decref(&read);
	avro_writer_free(writer);
	avro_reader_free(reader);
	avro_value_iface_decref(class);
}

static void our_bytes_are_avro_cs_bytes_both_ways(void **state)
{
	for (int i = 0; i < RANDOM_CASES; i++) {
		struct relation *rel = random_relation(&rig.a);
		struct event_head h = random_head("cudr"[random_below(4)]);
		struct change ch = random_change(rel, h.op);
		struct event ev;

		encode(rel, &h, &ch);
		oracle_agrees(rel, &h, &ch);
		ok(event_read(rig.fr, buf_span(&rig.out), &rig.a, &ev, &rig.f));
		assert_int_equal(ev.head.fingerprint, rel->fingerprint);
		same_head(&ev.head, &h);
		same_rows(rel, &ch, ev.body);
		arena_reset(&rig.a);
	}
}

/* --- a table with a column of each kind, read by fastavro --- */

static struct relation *table_of_all_kinds(void)
{
	static struct column columns[VALUE_KINDS];
	static struct relation rel;

	rel = (struct relation) {
		.oid = 16384,
		.version = 1,
		.schema = span_str("public"),
		.table = span_str("all kinds"),
		.identity = 'd',
		.fingerprint = 1,
		.columns = columns,
		.column_count = VALUE_KINDS,
		.key_count = 1,
	};
	for (int k = 0; k < VALUE_KINDS; k++)
		columns[k] = (struct column) {
			.name = span_str(arena_printf(&rig.a, "c%d", k)),
			.typmod = -1,
			.type_name = span_str("t"),
			.type = { (enum value_kind)k, k == VALUE_DECIMAL ? 12 : 0,
				  k == VALUE_DECIMAL ? 2 : 0 },
			.is_key = k == VALUE_INT8,
		};
	columns[VALUE_BYTEA].name = span_str("größe");
	ok(codec_schema("shop", &rel, 0, &rig.schema, &rig.f));
	ok(codec_fingerprint(buf_span(&rig.schema), &rel.fingerprint, &rig.f));
	return &rel;
}

static struct value number(int64_t i)
{
	return (struct value) { .state = VALUE_IS_NATIVE, .i = i };
}

static struct value bytes(const char *s)
{
	return (struct value) { .state = VALUE_IS_NATIVE, .bytes = span_str(s) };
}

static struct value text(const char *s)
{
	return (struct value) { .state = VALUE_IS_TEXT, .bytes = span_str(s) };
}

static void row_of_all_kinds(struct value *row)
{
	row[VALUE_BOOL] = number(1);
	row[VALUE_INT2] = number(-7);
	row[VALUE_INT4] = number(70000);
	row[VALUE_INT8] = number(INT64_MIN);
	row[VALUE_FLOAT4] = (struct value) { .state = VALUE_IS_NATIVE, .d = 1.5 };
	row[VALUE_FLOAT8] = (struct value) { .state = VALUE_IS_NATIVE, .d = -0.0 };
	row[VALUE_TEXT] = bytes("grün");
	row[VALUE_BPCHAR] = bytes("x ");
	row[VALUE_JSONB] = bytes("{}");
	row[VALUE_BYTEA] = bytes("\xff\x01");
	row[VALUE_UUID] = bytes("0f8fad5b-d9cb-469f-a165-70867728950e");
	row[VALUE_DATE] = number(20000);
	row[VALUE_TIME] = text("24:00:00");
	row[VALUE_TIMESTAMP] = number(1700000000000001);
	row[VALUE_TIMESTAMPTZ] = text("infinity");
	row[VALUE_DECIMAL] = (struct value) { .state = VALUE_IS_NATIVE,
					      .bytes = span("\xfb\x2e", 2) };
	row[VALUE_NUMERIC] = text("1e1000");
	row[VALUE_OTHER] = (struct value) { .state = VALUE_IS_UNCHANGED };
}

static const struct event_head example_head = {
	.op = 'u',
	.generation = 3,
	.ordinal = 1000,
	.position = { { 0x16b374d848 }, 2 },
	.lsn = 0x16b374d800,
	.xid = 4000000000,
	.ts_us = 1700000000000000,
};

static const char *hex_of(struct span s)
{
	char *text = arena_alloc(&rig.a, 2 * s.n + 1);

	for (size_t i = 0; i < s.n; i++)
		snprintf(text + 2 * i, 3, "%02x", (uint8_t)s.p[i]);
	return text;
}

/*
 * Frozen when fastavro 1.13.1 gave the same fingerprint for the schema and read from these bytes,
 * with that schema: True -7 70000 -2^63 1.5 -0.0 grün "x " {} ff01, the UUID, 2024-10-04, 24:00:00,
 * 2023-11-14 22:13:20.000001, infinity, -12.34, 1e1000, None; unchanged [c17]; before only the key.
 */
static void fastavro_reads_this_record_as_we_wrote_it(void **state)
{
	struct value row[VALUE_KINDS];
	struct relation *rel = table_of_all_kinds();

	row_of_all_kinds(row);
	assert_int_equal(rel->fingerprint, 0x4e3053972c25ab53);
	encode(rel, &example_head, &(struct change) { .before = row, .after = row });
	assert_string_equal(
	    hex_of(buf_span(&rig.out)),
	    "c30153ab252c9753304e06d00f027590e1a6b7d6050480e0a6b7d60580a0d9e61d8080f28183"
	    "8985060000000206633137000200000002ffffffffffffffffff010000000000000000000000"
	    "000000020201020d02e0c50802ffffffffffffffffff01020000c03f02000000000000008002"
	    "0a6772c3bc6e0204782002047b7d0204ff01024830663866616435622d643963622d34363966"
	    "2d613136352d37303836373732383935306502c0b802041032343a30303a3030028280f28183"
	    "8985060410696e66696e6974790204fb2e020c31653130303000");
}

/* --- what is refused --- */

static struct relation *two_columns(char identity)
{
	static struct column columns[2];
	static struct relation rel;

	columns[0] = (struct column) {
		.name = span_str("id"), .type.kind = VALUE_INT4, .is_key = true, .is_identity = true
	};
	columns[1] = (struct column) { .name = span_str("at"), .type.kind = VALUE_DATE };
	rel = (struct relation) { .oid = 1,
				  .version = 1,
				  .schema = span_str("public"),
				  .table = span_str("t"),
				  .identity = identity,
				  .fingerprint = 7,
				  .columns = columns,
				  .column_count = 2,
				  .key_count = 1 };
	return &rel;
}

static bool try_encode(char op, const struct value *before, const struct value *after)
{
	struct event_head h = { .op = op };
	struct codec *c = codec_new(two_columns('d'), &rig.f);
	bool done = codec_encode(c, rig.fr, &h, &(struct change) { before, after }, &rig.out,
				 &rig.f);

	codec_free(c);
	return done;
}

static void an_insert_with_an_unchanged_column_is_refused(void **state)
{
	struct value row[2] = { number(1), { .state = VALUE_IS_UNCHANGED } };

	refused(try_encode('c', NULL, row), "unchanged");
	refused(try_encode('r', NULL, row), "unchanged");
	ok(try_encode('u', NULL, row));
	assert_int_equal(rig.out.p[10 + 12], 2);
}

static void an_old_row_with_an_unchanged_key_is_refused(void **state)
{
	struct value row[2] = { { .state = VALUE_IS_UNCHANGED }, number(1) };

	refused(try_encode('d', row, NULL), "column id");
}

static void an_op_has_the_rows_it_needs(void **state)
{
	struct value row[2] = { number(1), number(2) };

	refused(try_encode('c', row, row), "op c");
	refused(try_encode('c', NULL, NULL), "op c");
	refused(try_encode('r', row, NULL), "op c or r");
	refused(try_encode('u', row, NULL), "op u");
	refused(try_encode('d', NULL, row), "op d");
	refused(try_encode('d', row, row), "op d");
	refused(try_encode('t', NULL, row), "not an op");
	assert_int_equal(rig.out.n, 0);
}

static void a_value_that_its_kind_cannot_hold_is_refused(void **state)
{
	struct value row[2] = { number(INT64_C(1) << 31), number(1) };

	refused(try_encode('c', NULL, row), "column id");
	row[0] = text("7");
	refused(try_encode('c', NULL, row), "column id");
	row[0] = number(7);
	row[1] = text("infinity");
	ok(try_encode('c', NULL, row));
}

static void a_record_beyond_the_maximum_is_refused(void **state)
{
	struct value row[2] = { number(1), text("") };

	row[1].bytes.n = BODY_MAX;
	refused(try_encode('c', NULL, row), "table public.t: a record of");
}

static void an_old_row_has_its_identity_columns_only(void **state)
{
	struct value row[2] = { number(5), number(6) }, before[2], after[2];
	struct codec *c = codec_new(two_columns('d'), &rig.f);
	bool has_before, has_after;
	struct event ev;

	ok(try_encode('d', row, NULL));
	ok(event_read(rig.fr, buf_span(&rig.out), &rig.a, &ev, &rig.f));
	ok(codec_decode(c, ev.body, before, &has_before, after, &has_after, &rig.f));
	assert_int_equal(before[0].i, 5);
	assert_int_equal(before[1].state, VALUE_IS_NULL);
	codec_free(c);
}

static void a_codec_needs_a_fingerprint(void **state)
{
	struct relation *rel = two_columns('d');

	rel->fingerprint = 0;
	assert_null(codec_new(rel, &rig.f));
}

/* --- what is not decoded: bodies as bytes --- */

static bool decode(const char *body, size_t n)
{
	/* A copy of its own, so that the sanitizer sees a read past the end. */
	char *copy = malloc(n + 1);
	struct value before[2], after[2];
	struct codec *c = codec_new(two_columns('f'), &rig.f);
	bool has_before, has_after, done;

	memcpy(copy, body, n);
	copy = realloc(copy, n ? n : 1);
	done = codec_decode(c, span(copy, n), before, &has_before, after, &has_after, &rig.f);
	codec_free(c);
	free(copy);
	return done;
}

#define DECODE(body) decode(body, sizeof(body) - 1)

static void a_body_cut_anywhere_is_refused(void **state)
{
	/* unchanged [at], before {1, 2}, after {3, null} */
	static const char body[] = "\x02\x04"
				   "at\x00\x02\x02\x02\x02\x04\x02\x02\x06\x00";

	ok(decode(body, sizeof(body) - 1));
	for (size_t n = 0; n < sizeof(body) - 1; n++)
		assert_false(decode(body, n));
	assert_int_equal(rig.f.kind, FAULT_INPUT);
}

static void bytes_behind_the_end_are_refused(void **state)
{
	ok(DECODE("\x00\x00\x02\x02\x02\x00"));
	refused(DECODE("\x00\x00\x02\x02\x02\x00\x00"), "behind its end");
}

static void an_unknown_branch_is_refused(void **state)
{
	refused(DECODE("\x00\x00\x04\x02\x02\x00"), "malformed row");
	refused(DECODE("\x00\x00\x02\x06\x02\x00"), "column id");
	refused(DECODE("\x00\x00\x02\x04\x02\x00"), "column id"); /* an int has no text branch */
	refused(DECODE("\x00\x00\x02\x01\x02\x00"), "column id"); /* -1 */
	refused(DECODE("\x00\x00\x02\x82\x00\x02\x00"), "column id"); /* 1 in two bytes */
}

static void a_length_beyond_the_record_is_refused(void **state)
{
	refused(DECODE("\x00\x00\x02\x00\x04\x7fx"), "column at");
	refused(DECODE("\x00\x00\x02\x00\x04\x01x"), "column at"); /* -1 */
	refused(DECODE("\x00\x00\x02\x00\x04\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01x"),
		"column at");
}

static void an_int_beyond_32_bits_is_refused(void **state)
{
	ok(DECODE("\x00\x00\x02\x02\xfe\xff\xff\xff\x0f\x00"));
	refused(DECODE("\x00\x00\x02\x02\x80\x80\x80\x80\x10\x00"), "column id");
	refused(DECODE("\x00\x00\x02\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00"),
		"column id");
}

static void unchanged_must_be_columns_once_and_null(void **state)
{
	ok(DECODE("\x02\x04"
		  "at\x00\x00\x02\x02\x02\x00"));
	refused(DECODE("\x02\x04"
		       "xx\x00\x00\x02\x02\x02\x00"),
		"xx");
	refused(DECODE("\x04\x04"
		       "at\x04"
		       "at\x00\x00\x02\x02\x02\x00"),
		"twice");
	refused(DECODE("\x02\x04"
		       "id\x00\x00\x02\x02\x02\x00"),
		"column id");
	refused(DECODE("\x02\x04"
		       "at\x00\x02\x02\x02\x00\x00"),
		"without a new row");
	refused(DECODE("\x02\x00\x00\x00\x02\x02\x02\x00"), "not a column");
}

static void blocks_may_be_negative_but_not_lie(void **state)
{
	ok(DECODE("\x01\x06\x04"
		  "at\x00\x00\x02\x02\x02\x00")); /* -1 item, 3 bytes */
	ok(DECODE("\x02\x04"
		  "at\x02\x04"
		  "id\x00\x00\x02\x00\x00")); /* two blocks */
	refused(DECODE("\x01\x04\x04"
		       "at\x00\x00\x02\x02\x02\x00"),
		"unchanged"); /* 2 bytes said */
	refused(DECODE("\x01\x40\x04"
		       "at\x00\x00\x02\x02\x02\x00"),
		"unchanged"); /* 32 bytes said */
	refused(DECODE("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x06\x04"
		       "at\x00"),
		"unchanged"); /* INT64_MIN items */
	refused(DECODE("\xfe\xff\xff\xff\x0f\x04"
		       "at\x00"),
		"unchanged");
}

static void a_record_without_a_row_is_refused(void **state)
{
	refused(DECODE("\x00\x00\x00"), "without a row");
	refused(DECODE(""), "malformed list");
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(our_bytes_are_avro_cs_bytes_both_ways),
		TEST(fastavro_reads_this_record_as_we_wrote_it),
		TEST(an_insert_with_an_unchanged_column_is_refused),
		TEST(an_old_row_with_an_unchanged_key_is_refused),
		TEST(an_op_has_the_rows_it_needs),
		TEST(a_value_that_its_kind_cannot_hold_is_refused),
		TEST(a_record_beyond_the_maximum_is_refused),
		TEST(an_old_row_has_its_identity_columns_only),
		TEST(a_codec_needs_a_fingerprint),
		TEST(a_body_cut_anywhere_is_refused),
		TEST(bytes_behind_the_end_are_refused),
		TEST(an_unknown_branch_is_refused),
		TEST(a_length_beyond_the_record_is_refused),
		TEST(an_int_beyond_32_bits_is_refused),
		TEST(unchanged_must_be_columns_once_and_null),
		TEST(blocks_may_be_negative_but_not_lie),
		TEST(a_record_without_a_row_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
