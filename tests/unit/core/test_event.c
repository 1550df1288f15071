// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <avro.h>
#include <stdlib.h>

#include "core/codec.h"

struct rig {
	struct arena a;
	struct buf out;
	struct framing *fr;
	struct event ev;
	struct fault f;
};

static struct rig rig;

static int setup(void **state)
{
	arena_init(&rig.a, 1 << 20);
	buf_init(&rig.out, 1 << 20);
	rig.fr = framing_new(FRAMING_SINGLE_OBJECT);
	fault_reset(&rig.f);
	return 0;
}

static int teardown(void **state)
{
	arena_release(&rig.a);
	buf_release(&rig.out);
	framing_free(rig.fr);
	return 0;
}

static const struct event_head head = {
	.op = 'f',
	.generation = 3,
	.ordinal = 1000,
	.position = { { 0xffffffff16b374d8 }, 2 },
	.boundary = { 0x16b374d848 },
	.lsn = 0xfffffffffffffffe,
	.xid = 4000000000,
	.ts_us = -1,
	.attempt = 7,
};

static void read_it(void)
{
	if (!event_read(rig.fr, buf_span(&rig.out), &rig.a, &rig.ev, &rig.f))
		fail_msg("%s", rig.f.text);
	assert_int_equal(rig.ev.head.fingerprint, 0);
	assert_int_equal(rig.ev.head.generation, head.generation);
	assert_int_equal(rig.ev.head.ordinal, head.ordinal);
	assert_int_equal(position_cmp(rig.ev.head.position, head.position), 0);
	assert_true(rig.ev.head.boundary.v == head.boundary.v);
	assert_true(rig.ev.head.lsn == head.lsn);
	assert_int_equal(rig.ev.head.xid, head.xid);
	assert_int_equal(rig.ev.head.ts_us, head.ts_us);
	assert_int_equal(rig.ev.head.attempt, head.attempt);
}

/* Avro-C reads the record by its schema, and writes the same bytes again. */
static void avro_c_agrees(enum event_kind kind)
{
	const char *json = codec_fixed(kind)->json;
	char bytes[4096];
	avro_schema_t schema;
	avro_value_iface_t *class;
	avro_value_t value;
	avro_reader_t reader = avro_reader_memory(rig.out.p + 10, (int64_t)rig.out.n - 10);
	avro_writer_t writer = avro_writer_memory(bytes, sizeof(bytes));

	assert_int_equal(avro_schema_from_json_length(json, strlen(json), &schema), 0);
	class = avro_generic_class_from_schema(schema);
	avro_generic_value_new(class, &value);
	assert_int_equal(avro_value_read(reader, &value), 0);
	assert_int_equal(avro_value_write(writer, &value), 0);
	assert_int_equal(avro_writer_tell(writer), (int64_t)rig.out.n - 10);
	assert_memory_equal(bytes, rig.out.p + 10, rig.out.n - 10);
	avro_value_decref(&value);
	avro_value_iface_decref(class);
	avro_schema_decref(schema);
	avro_reader_free(reader);
	avro_writer_free(writer);
}

/* Cut anywhere, or with a byte more, it is refused; every read stays inside (the sanitizer sees to
 * it). */
static void damaged_it_is_refused(void)
{
	for (size_t n = 0; n < rig.out.n; n++) {
		char *copy = malloc(n ? n : 1);
		struct event ev;

		memcpy(copy, rig.out.p, n);
		assert_false(event_read(rig.fr, span(copy, n), &rig.a, &ev, &rig.f));
		assert_int_equal(rig.f.kind, FAULT_INPUT);
		free(copy);
	}
	buf_u8(&rig.out, 0);
	assert_false(event_read(rig.fr, buf_span(&rig.out), &rig.a, &rig.ev, &rig.f));
}

static void a_truncate_comes_back_as_it_was(void **state)
{
	struct exclusive_table tables[2] = { { 4000000000, 3, 0 }, { 16384, 1, 9 } };
	struct exclusive e = { .kind = EXCLUSIVE_TRUNCATE,
			       .cascade = true,
			       .in_place = true,
			       .tables = tables,
			       .table_count = 2 };

	assert_true(event_write_exclusive(rig.fr, &head, &e, &rig.out));
	read_it();
	assert_int_equal(rig.ev.head.kind, EVENT_EXCLUSIVE);
	assert_int_equal(rig.ev.head.op, 't');
	assert_int_equal(rig.ev.exclusive.kind, EXCLUSIVE_TRUNCATE);
	assert_false(rig.ev.exclusive.restart_identity);
	assert_true(rig.ev.exclusive.cascade);
	assert_true(rig.ev.exclusive.in_place);
	assert_int_equal(rig.ev.exclusive.table_count, 2);
	assert_memory_equal(rig.ev.exclusive.tables, tables, sizeof(tables));
	assert_int_equal(rig.ev.exclusive.change_count, 0);
	avro_c_agrees(EVENT_EXCLUSIVE);
	damaged_it_is_refused();
}

static void a_rekey_carries_whole_records(void **state)
{
	struct span changes[3] = { span_str("first"), span_str(""), span_str("third") };
	struct exclusive_table table = { 1, 2, 0 };
	struct exclusive e = { .kind = EXCLUSIVE_REKEY,
			       .tables = &table,
			       .table_count = 1,
			       .changes = changes,
			       .change_count = 3 };

	assert_true(event_write_exclusive(rig.fr, &head, &e, &rig.out));
	read_it();
	assert_int_equal(rig.ev.head.op, 'm');
	assert_false(rig.ev.exclusive.in_place);
	assert_int_equal(rig.ev.exclusive.change_count, 3);
	for (int i = 0; i < 3; i++)
		assert_true(span_eq(rig.ev.exclusive.changes[i], changes[i]));
	avro_c_agrees(EVENT_EXCLUSIVE);
	damaged_it_is_refused();
}

static void every_exclusive_kind_comes_back(void **state)
{
	for (enum exclusive_kind k = EXCLUSIVE_TRUNCATE; k <= EXCLUSIVE_REKEY; k++) {
		struct exclusive e = { .kind = k };

		buf_reset(&rig.out);
		assert_true(event_write_exclusive(rig.fr, &head, &e, &rig.out));
		read_it();
		assert_int_equal(rig.ev.exclusive.kind, k);
		assert_int_equal(rig.ev.head.op, k == EXCLUSIVE_TRUNCATE ? 't' : 'm');
	}
}

static void a_barrier_carries_its_counts(void **state)
{
	struct event_count counts[2] = { { span_str("public.t"), 12345678901, 7 },
					 { span_str("\"S\".\"T\""), 0, 0 } };
	struct barrier b = { counts, 2 };

	assert_true(event_write_barrier(rig.fr, &head, &b, &rig.out));
	read_it();
	assert_int_equal(rig.ev.head.kind, EVENT_BARRIER);
	assert_int_equal(rig.ev.head.op, 'b');
	assert_int_equal(rig.ev.barrier.count_count, 2);
	assert_true(span_eq(rig.ev.barrier.counts[0].table, counts[0].table));
	assert_int_equal(rig.ev.barrier.counts[0].decoded, 12345678901);
	assert_int_equal(rig.ev.barrier.counts[0].published, 7);
	assert_true(span_eq(rig.ev.barrier.counts[1].table, counts[1].table));
	avro_c_agrees(EVENT_BARRIER);
	damaged_it_is_refused();
}

static void a_barrier_without_counts_is_small(void **state)
{
	struct barrier b = { 0 };

	assert_true(event_write_barrier(rig.fr, &head, &b, &rig.out));
	read_it();
	assert_int_equal(rig.ev.barrier.count_count, 0);
	assert_in_range(rig.out.n, 20, 80);
}

static void the_markers_come_back_as_they_were(void **state)
{
	struct marker m = { .oid = 4000000000, .record_count = 12345678901, .routing_version = 3 };

	for (const char *op = "fse"; *op; op++) {
		struct event_head h = head;

		h.op = *op;
		buf_reset(&rig.out);
		assert_true(event_write_marker(rig.fr, &h, &m, &rig.out));
		read_it();
		assert_int_equal(rig.ev.head.kind, EVENT_MARKER);
		assert_int_equal(rig.ev.head.op, *op);
		assert_int_equal(rig.ev.marker.oid, m.oid);
		assert_int_equal(rig.ev.marker.record_count, m.record_count);
		assert_int_equal(rig.ev.marker.routing_version, m.routing_version);
		avro_c_agrees(EVENT_MARKER);
	}
	damaged_it_is_refused();
}

static void a_marker_with_another_op_is_not_written(void **state)
{
	struct marker m = { 0 };
	struct event_head h = head;

	h.op = 'c';
	assert_false(event_write_marker(rig.fr, &h, &m, &rig.out));
	h.op = 0;
	assert_false(event_write_marker(rig.fr, &h, &m, &rig.out));
	assert_int_equal(rig.out.n, 0);
}

static void a_record_that_does_not_fit_leaves_nothing_behind(void **state)
{
	struct span change = span(rig.fr, 0);
	struct exclusive e = { .kind = EXCLUSIVE_REKEY, .changes = &change, .change_count = 1 };
	static char large[2000];
	struct buf small;

	buf_init(&small, 1000);
	buf_str(&small, "before");
	change = span(large, sizeof(large));
	assert_false(event_write_exclusive(rig.fr, &head, &e, &small));
	assert_int_equal(small.n, 6);
	buf_release(&small);
}

static void an_id_that_the_registry_has_not_given_stops_writing(void **state)
{
	struct framing *fr = framing_new(FRAMING_CONFLUENT);
	struct barrier b = { 0 };

	assert_false(event_write_barrier(fr, &head, &b, &rig.out));
	assert_true(framing_learn(fr, codec_fixed(EVENT_BARRIER)->fingerprint, 42));
	assert_true(event_write_barrier(fr, &head, &b, &rig.out));
	assert_memory_equal(rig.out.p, "\0\0\0\0\x2a", 5);
	assert_true(event_read(fr, buf_span(&rig.out), &rig.a, &rig.ev, &rig.f));
	assert_int_equal(rig.ev.head.kind, EVENT_BARRIER);
	framing_free(fr);
}

/* The head of a change with this op, then body. */
static bool read_change(char op, const char *body, size_t n)
{
	static const char frame[] = "\xc3\x01\x07\0\0\0\0\0\0\0";

	buf_reset(&rig.out);
	buf_add(&rig.out, frame, 10);
	buf_add(&rig.out, "\x02\x02\x02", 3);
	buf_u8(&rig.out, (uint8_t)op);
	buf_add(&rig.out, "\0\0\0\0\0\0\0\0", 8);
	buf_add(&rig.out, body, n);
	return event_read(rig.fr, buf_span(&rig.out), &rig.a, &rig.ev, &rig.f);
}

static void any_other_schema_is_a_change(void **state)
{
	assert_true(read_change('u', "\x02\x02x\0..", 6));
	assert_int_equal(rig.ev.head.kind, EVENT_CHANGE);
	assert_int_equal(rig.ev.head.fingerprint, 7);
	assert_int_equal(rig.ev.body.n, 6);
}

static void an_insert_that_carries_an_unchanged_column_is_refused(void **state)
{
	assert_true(read_change('c', "\0\0\2", 3));
	assert_false(read_change('c', "\x02\x02x\0..", 6));
	assert_false(read_change('r', "\x02\x02x\0..", 6));
	assert_int_equal(rig.f.kind, FAULT_INPUT);
}

static void an_op_of_another_kind_is_refused(void **state)
{
	for (const char *op = "tmbfsex"; *op; op++)
		assert_false(read_change(*op, "\0\0\2", 3));
	assert_false(read_change(0, "\0\0\2", 3));
}

static void what_is_not_ours_is_refused(void **state)
{
	static const char *const wrong[] = { "", "{\"json\":true}", "\xc3\x01",
					     "hello, this is a text" };

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_false(event_read(rig.fr, span_str(wrong[i]), &rig.a, &rig.ev, &rig.f));
		assert_int_equal(rig.f.kind, FAULT_INPUT);
	}
}

static void a_lie_about_a_count_allocates_nothing(void **state)
{
	struct barrier b = { 0 };

	assert_true(event_write_barrier(rig.fr, &head, &b, &rig.out));
	rig.out.n--; /* the end of the counts */
	buf_add(&rig.out, "\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10);
	assert_false(event_read(rig.fr, buf_span(&rig.out), &rig.a, &rig.ev, &rig.f));
	assert_int_equal(rig.a.used_bytes, 0);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_truncate_comes_back_as_it_was),
		TEST(a_rekey_carries_whole_records),
		TEST(every_exclusive_kind_comes_back),
		TEST(a_barrier_carries_its_counts),
		TEST(a_barrier_without_counts_is_small),
		TEST(the_markers_come_back_as_they_were),
		TEST(a_marker_with_another_op_is_not_written),
		TEST(a_record_that_does_not_fit_leaves_nothing_behind),
		TEST(an_id_that_the_registry_has_not_given_stops_writing),
		TEST(any_other_schema_is_a_change),
		TEST(an_insert_that_carries_an_unchanged_column_is_refused),
		TEST(an_op_of_another_kind_is_refused),
		TEST(what_is_not_ours_is_refused),
		TEST(a_lie_about_a_count_allocates_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
