// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/buf.h"
#include "ingest/pgoutput.h"

enum { LSN = 0xB374D848 };

struct bench {
	struct arena arena;
	struct buf wire;
	struct pgoutput out;
	struct fault f;
};

static int setup(void **state)
{
	static struct bench t;
	t = (struct bench) { 0 };
	arena_init(&t.arena, 1 << 20);
	buf_init(&t.wire, 1 << 20);
	*state = &t;
	return 0;
}

static int teardown(void **state)
{
	struct bench *t = *state;
	arena_release(&t->arena);
	buf_release(&t->wire);
	return 0;
}

static void text(struct buf *b, const char *s)
{
	buf_add(b, s, strlen(s) + 1);
}

static void cell(struct buf *b, char format, const char *bytes)
{
	buf_u8(b, (uint8_t)format);
	if (bytes) {
		buf_be32(b, (uint32_t)strlen(bytes));
		buf_str(b, bytes);
	}
}

/* What was written so far, in memory of its exact size: one byte too far is seen by ASan. */
static bool parse_first(struct bench *t, size_t n)
{
	char *exact = n ? malloc(n) : NULL;
	if (n)
		memcpy(exact, t->wire.p, n);
	bool ok = pgoutput_parse(span(exact, n), LSN, &t->arena, &t->out, &t->f);
	free(exact);
	return ok;
}

static bool parse(struct bench *t)
{
	return pgoutput_parse(buf_span(&t->wire), LSN, &t->arena, &t->out, &t->f);
}

static void assert_span(struct span s, const char *wanted)
{
	assert_int_equal(s.n, strlen(wanted));
	assert_memory_equal(s.p, wanted, s.n);
}

static void assert_refused(struct bench *t, const char *words)
{
	assert_false(parse(t));
	assert_int_equal(t->f.kind, FAULT_INPUT);
	if (!strstr(t->f.text, words))
		fail_msg("'%s' is not in '%s'", words, t->f.text);
}

static void write_begin(struct buf *b)
{
	buf_u8(b, 'B');
	buf_be64(b, 0x1000);
	buf_be64(b, 1000000);                   /* one second after the epoch of 2000 */
	buf_be32(b, 777);
}

static void write_relation(struct buf *b)
{
	buf_u8(b, 'R');
	buf_be32(b, 16384);
	text(b, "public");
	text(b, "orders");
	buf_u8(b, 'd');
	buf_be16(b, 2);
	buf_u8(b, 1);
	text(b, "id");
	buf_be32(b, 20);
	buf_be32(b, (uint32_t)-1);
	buf_u8(b, 0);
	text(b, "note");
	buf_be32(b, 1043);
	buf_be32(b, 36);
}

static void write_update(struct buf *b, char old_kind)
{
	buf_u8(b, 'U');
	buf_be32(b, 16384);
	if (old_kind) {
		buf_u8(b, (uint8_t)old_kind);
		buf_be16(b, 2);
		cell(b, 't', "1");
		cell(b, 'n', NULL);
	}
	buf_u8(b, 'N');
	buf_be16(b, 2);
	cell(b, 'b', "\x02\x03");
	cell(b, 'u', NULL);
}

static void begin_gives_commit_lsn_time_and_xid(void **state)
{
	struct bench *t = *state;

	write_begin(&t->wire);
	assert_true(parse(t));
	assert_int_equal(t->out.kind, PGOUTPUT_BEGIN);
	assert_int_equal(t->out.begin.commit.v, 0x1000);
	assert_int_equal(t->out.begin.ts_us, INT64_C(946684801000000));
	assert_int_equal(t->out.begin.xid, 777);
}

static void commit_gives_its_end_as_a_boundary(void **state)
{
	struct bench *t = *state;

	buf_u8(&t->wire, 'C');
	buf_u8(&t->wire, 0);
	buf_be64(&t->wire, 0x1000);
	buf_be64(&t->wire, 0x1030);
	buf_be64(&t->wire, 0);
	assert_true(parse(t));
	assert_int_equal(t->out.commit.commit.v, 0x1000);
	assert_int_equal(t->out.commit.end.v, 0x1030);
	assert_int_equal(t->out.commit.ts_us, INT64_C(946684800000000));
}

static void a_commit_that_ends_before_it_starts_is_refused(void **state)
{
	struct bench *t = *state;

	buf_u8(&t->wire, 'C');
	buf_u8(&t->wire, 0);
	buf_be64(&t->wire, 0x1000);
	buf_be64(&t->wire, 0x1000);
	buf_be64(&t->wire, 0);
	assert_refused(t, "ends before it starts");
}

static void a_time_that_would_overflow_is_refused(void **state)
{
	struct bench *t = *state;

	buf_u8(&t->wire, 'B');
	buf_be64(&t->wire, 0x1000);
	buf_be64(&t->wire, INT64_MAX);
	buf_be32(&t->wire, 1);
	assert_refused(t, "time out of range");
}

static void relation_gives_columns_in_order(void **state)
{
	struct bench *t = *state;
	const struct pgoutput_relation *rel = &t->out.relation;

	write_relation(&t->wire);
	assert_true(parse(t));
	assert_int_equal(t->out.kind, PGOUTPUT_RELATION);
	assert_int_equal(rel->oid, 16384);
	assert_span(rel->schema, "public");
	assert_span(rel->table, "orders");
	assert_int_equal(rel->identity, 'd');
	assert_int_equal(rel->column_count, 2);
	assert_true(rel->columns[0].is_identity);
	assert_span(rel->columns[0].name, "id");
	assert_int_equal(rel->columns[0].typmod, -1);
	assert_false(rel->columns[1].is_identity);
	assert_int_equal(rel->columns[1].type_oid, 1043);
	assert_int_equal(rel->columns[1].typmod, 36);
}

static void an_empty_schema_is_pg_catalog(void **state)
{
	struct bench *t = *state;

	buf_u8(&t->wire, 'Y');
	buf_be32(&t->wire, 20);
	text(&t->wire, "");
	text(&t->wire, "int8");
	assert_true(parse(t));
	assert_int_equal(t->out.kind, PGOUTPUT_TYPE);
	assert_span(t->out.type.schema, "pg_catalog");
	assert_span(t->out.type.name, "int8");
}

static void an_unknown_identity_is_refused(void **state)
{
	struct bench *t = *state;

	write_relation(&t->wire);
	t->wire.p[1 + 4 + 7 + 7] = 'x';
	assert_refused(t, "replica identity");
}

static void insert_gives_the_new_row(void **state)
{
	struct bench *t = *state;

	buf_u8(&t->wire, 'I');
	buf_be32(&t->wire, 16384);
	buf_u8(&t->wire, 'N');
	buf_be16(&t->wire, 3);
	cell(&t->wire, 't', "");
	cell(&t->wire, 't', "abc");
	cell(&t->wire, 'n', NULL);
	assert_true(parse(t));
	assert_int_equal(t->out.kind, PGOUTPUT_INSERT);
	assert_int_equal(t->out.change.old_kind, 0);
	assert_true(t->out.change.has_new);
	assert_int_equal(t->out.change.new.count, 3);
	assert_int_equal(t->out.change.new.cells[0].format, 't');
	assert_int_equal(t->out.change.new.cells[0].bytes.n, 0);
	assert_non_null(t->out.change.new.cells[0].bytes.p);
	assert_span(t->out.change.new.cells[1].bytes, "abc");
	assert_int_equal(t->out.change.new.cells[2].format, 'n');
}

static void update_may_come_without_with_key_or_with_whole_old_row(void **state)
{
	struct bench *t = *state;

	for (const char *kind = "\0KO", *end = kind + 3; kind < end; kind++) {
		buf_reset(&t->wire);
		write_update(&t->wire, *kind);
		assert_true(parse(t));
		assert_int_equal(t->out.kind, PGOUTPUT_UPDATE);
		assert_int_equal(t->out.change.old_kind, *kind);
		assert_int_equal(t->out.change.old.count, *kind ? 2 : 0);
		assert_int_equal(t->out.change.new.cells[0].format, 'b');
		assert_span(t->out.change.new.cells[0].bytes, "\x02\x03");
		assert_int_equal(t->out.change.new.cells[1].format, 'u');
	}
}

static void delete_has_an_old_row_and_no_new_one(void **state)
{
	struct bench *t = *state;

	buf_u8(&t->wire, 'D');
	buf_be32(&t->wire, 16384);
	buf_u8(&t->wire, 'K');
	buf_be16(&t->wire, 1);
	cell(&t->wire, 't', "7");
	assert_true(parse(t));
	assert_int_equal(t->out.kind, PGOUTPUT_DELETE);
	assert_int_equal(t->out.change.old_kind, 'K');
	assert_false(t->out.change.has_new);
	t->wire.p[5] = 'N';
	assert_refused(t, "no old row");
}

static void an_update_without_new_row_is_refused(void **state)
{
	struct bench *t = *state;

	write_update(&t->wire, 0);
	t->wire.p[5] = 'X';
	assert_refused(t, "no new row");
}

static void truncate_gives_tables_and_options(void **state)
{
	struct bench *t = *state;

	buf_u8(&t->wire, 'T');
	buf_be32(&t->wire, 2);
	buf_u8(&t->wire, 2);
	buf_be32(&t->wire, 16384);
	buf_be32(&t->wire, 16390);
	assert_true(parse(t));
	assert_int_equal(t->out.kind, PGOUTPUT_TRUNCATE);
	assert_false(t->out.truncate.cascade);
	assert_true(t->out.truncate.restart_identity);
	assert_int_equal(t->out.truncate.count, 2);
	assert_int_equal(t->out.truncate.oids[1], 16390);
}

static void logical_message_gives_prefix_and_content(void **state)
{
	struct bench *t = *state;

	buf_u8(&t->wire, 'M');
	buf_u8(&t->wire, 0);
	buf_be64(&t->wire, 0x2000);
	text(&t->wire, "foreshadow");
	buf_be32(&t->wire, 2);
	buf_str(&t->wire, "hi");
	assert_true(parse(t));
	assert_int_equal(t->out.kind, PGOUTPUT_MESSAGE);
	assert_false(t->out.message.is_transactional);
	assert_int_equal(t->out.message.lsn, 0x2000);
	assert_span(t->out.message.prefix, "foreshadow");
	assert_span(t->out.message.content, "hi");
}

static void origin_and_stream_abort_are_ignored(void **state)
{
	struct bench *t = *state;

	buf_u8(&t->wire, 'O');
	buf_be64(&t->wire, 1);
	text(&t->wire, "elsewhere");
	assert_true(parse(t));
	assert_int_equal(t->out.kind, PGOUTPUT_IGNORED);
	buf_reset(&t->wire);
	buf_u8(&t->wire, 'A');
	buf_be32(&t->wire, 700);
	buf_be32(&t->wire, 701);
	assert_true(parse(t));
	assert_int_equal(t->out.kind, PGOUTPUT_IGNORED);
}

static void other_messages_are_refused_with_place_and_lsn(void **state)
{
	struct bench *t = *state;

	assert_refused(t, "empty message");
	buf_u8(&t->wire, 'S');                  /* stream start: protocol 2 */
	buf_be32(&t->wire, 1);
	assert_refused(t, "'S'");
	assert_refused(t, "0/B374D848");
	assert_refused(t, "byte 0");
}

static void every_cut_is_refused(void **state)
{
	struct bench *t = *state;
	void (*const writers[])(struct buf *) = { write_begin, write_relation };

	for (size_t w = 0; w < 2; w++) {
		buf_reset(&t->wire);
		writers[w](&t->wire);
		for (size_t n = 0; n < t->wire.n; n++)
			assert_false(parse_first(t, n));
		assert_true(parse_first(t, t->wire.n));
	}
	for (const char *kind = "\0KO", *end = kind + 3; kind < end; kind++) {
		buf_reset(&t->wire);
		write_update(&t->wire, *kind);
		for (size_t n = 0; n < t->wire.n; n++)
			assert_false(parse_first(t, n));
	}
}

static void bytes_behind_a_message_are_refused(void **state)
{
	struct bench *t = *state;

	write_begin(&t->wire);
	buf_u8(&t->wire, 0);
	assert_refused(t, "do not belong");
	assert_refused(t, "byte 21 of 22");
}

static void a_count_without_bytes_allocates_nothing(void **state)
{
	struct bench *t = *state;

	buf_u8(&t->wire, 'T');
	buf_be32(&t->wire, 0x40000001);         /* times 4 wraps to 4 in 32 bits */
	buf_u8(&t->wire, 0);
	buf_be32(&t->wire, 16384);
	size_t used = t->arena.used_bytes;
	assert_refused(t, "more tables than bytes");
	assert_int_equal(t->arena.used_bytes, used);
	buf_reset(&t->wire);
	buf_u8(&t->wire, 'I');
	buf_be32(&t->wire, 16384);
	buf_u8(&t->wire, 'N');
	buf_be16(&t->wire, 0xffff);
	assert_refused(t, "more cells than bytes");
	assert_int_equal(t->arena.used_bytes, used);
}

static void negative_lengths_are_refused(void **state)
{
	struct bench *t = *state;

	buf_u8(&t->wire, 'I');
	buf_be32(&t->wire, 16384);
	buf_u8(&t->wire, 'N');
	buf_be16(&t->wire, 1);
	buf_u8(&t->wire, 't');
	buf_be32(&t->wire, (uint32_t)-1);
	assert_refused(t, "negative length");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(begin_gives_commit_lsn_time_and_xid),
		T(commit_gives_its_end_as_a_boundary),
		T(a_commit_that_ends_before_it_starts_is_refused),
		T(a_time_that_would_overflow_is_refused),
		T(relation_gives_columns_in_order),
		T(an_empty_schema_is_pg_catalog),
		T(an_unknown_identity_is_refused),
		T(insert_gives_the_new_row),
		T(update_may_come_without_with_key_or_with_whole_old_row),
		T(delete_has_an_old_row_and_no_new_one),
		T(an_update_without_new_row_is_refused),
		T(truncate_gives_tables_and_options),
		T(logical_message_gives_prefix_and_content),
		T(origin_and_stream_abort_are_ignored),
		T(other_messages_are_refused_with_place_and_lsn),
		T(every_cut_is_refused),
		T(bytes_behind_a_message_are_refused),
		T(a_count_without_bytes_allocates_nothing),
		T(negative_lengths_are_refused),
#undef T
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
