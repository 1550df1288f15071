// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/buf.h"
#include "ingest/copydata.h"

enum { COLUMNS = 3 };

struct bench {
	struct arena arena;
	struct buf wire;
	struct copydata c;
	struct cell cells[COLUMNS];
	bool has_row;
	struct fault f;
};

static struct bench t;

static int setup(void **state)
{
	(void)state;
	t = (struct bench) { 0 };
	arena_init(&t.arena, 1 << 20);
	buf_init(&t.wire, 1 << 20);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	arena_release(&t.arena);
	buf_release(&t.wire);
	return 0;
}

static bool row(struct span message)
{
	return copydata_row(&t.c, message, &t.arena, t.cells, &t.has_row, &t.f);
}

static void assert_cell(int i, char format, const char *wanted)
{
	assert_int_equal(t.cells[i].format, format);
	assert_int_equal(t.cells[i].bytes.n, strlen(wanted));
	assert_memory_equal(t.cells[i].bytes.p ? t.cells[i].bytes.p : "", wanted, strlen(wanted));
}

static void header(void)
{
	buf_add(&t.wire, "PGCOPY\n\377\r\n", 11);
	buf_be32(&t.wire, 0);
	buf_be32(&t.wire, 0);
}

static void binary(int16_t count, const char *const *cells)
{
	buf_be16(&t.wire, (uint16_t)count);
	for (int i = 0; i < count; i++) {
		buf_be32(&t.wire, cells[i] ? (uint32_t)strlen(cells[i]) : UINT32_MAX);
		if (cells[i])
			buf_str(&t.wire, cells[i]);
	}
}

static const char *const abc[] = { "a", NULL, "" };

static void a_text_line_is_split_at_tabs(void **state)
{
	(void)state;
	t.c = copydata(false, COLUMNS);
	assert_true(row(span_str("one\t\\N\t\n")));
	assert_true(t.has_row);
	assert_cell(0, 't', "one");
	assert_cell(1, 'n', "");
	assert_cell(2, 't', "");
	assert_non_null(t.cells[2].bytes.p);
}

static void escapes_become_their_bytes(void **state)
{
	(void)state;
	t.c = copydata(false, COLUMNS);
	assert_true(row(span_str("\\b\\f\\n\\r\\t\\v\\\\\tx\\\\Ny\t\\\\N\n")));
	assert_cell(0, 't', "\b\f\n\r\t\v\\");
	assert_cell(1, 't', "x\\Ny");
	assert_cell(2, 't', "\\N");
}

static void an_unescaped_cell_is_not_copied(void **state)
{
	(void)state;
	const char *line = "one\ttwo\tthree\n";
	t.c = copydata(false, COLUMNS);
	assert_true(row(span_str(line)));
	assert_ptr_equal(t.cells[1].bytes.p, line + 4);
}

static void malformed_lines_are_refused(void **state)
{
	static const char *const lines[] = { "", "\n", "a\tb\n", "a\tb\tc\td\n", "a\tb\tc",
					     "a\tb\t\\\n", "a\tb\t\\x41\n", "a\\\tb\tc\n" };
	(void)state;
	t.c = copydata(false, COLUMNS);
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		if (row(span_str(lines[i])))
			fail_msg("line %zu was taken", i);
		assert_int_equal(t.f.kind, FAULT_INPUT);
	}
}

static void a_table_without_columns_has_empty_lines(void **state)
{
	(void)state;
	t.c = copydata(false, 0);
	assert_true(row(span_str("\n")));
	assert_true(t.has_row);
	assert_false(row(span_str("x\n")));
}

static void the_first_binary_row_comes_with_the_header(void **state)
{
	(void)state;
	t.c = copydata(true, COLUMNS);
	header();
	binary(COLUMNS, abc);
	assert_true(row(buf_span(&t.wire)));
	assert_true(t.has_row);
	assert_cell(0, 'b', "a");
	assert_cell(1, 'n', "");
	assert_cell(2, 'b', "");
	buf_reset(&t.wire);
	binary(COLUMNS, abc);
	assert_true(row(buf_span(&t.wire)));
	assert_true(t.has_row);
	buf_reset(&t.wire);
	binary(-1, NULL);
	assert_false(copydata_finish(&t.c, &t.f));
	assert_true(row(buf_span(&t.wire)));
	assert_false(t.has_row);
	assert_true(copydata_finish(&t.c, &t.f));
}

static void an_empty_binary_table_is_header_and_trailer(void **state)
{
	(void)state;
	t.c = copydata(true, COLUMNS);
	header();
	binary(-1, NULL);
	assert_true(row(buf_span(&t.wire)));
	assert_false(t.has_row);
	assert_true(copydata_finish(&t.c, &t.f));
}

static void a_header_may_come_alone(void **state)
{
	(void)state;
	t.c = copydata(true, COLUMNS);
	header();
	assert_true(row(buf_span(&t.wire)));
	assert_false(t.has_row);
	assert_false(copydata_finish(&t.c, &t.f));
}

static void every_cut_of_a_binary_row_is_refused(void **state)
{
	(void)state;
	header();
	size_t header_bytes = t.wire.n;
	binary(COLUMNS, abc);
	for (size_t n = 0; n < t.wire.n; n++) {
		if (n == header_bytes)
			continue;
		char *exact = malloc(n ? n : 1);
		memcpy(exact, t.wire.p, n);
		t.c = copydata(true, COLUMNS);
		assert_false(row(span(exact, n)));
		free(exact);
	}
}

static void malformed_binary_is_refused(void **state)
{
	(void)state;
	t.c = copydata(true, COLUMNS);
	header();
	t.wire.p[0] = 'p';
	binary(COLUMNS, abc);
	assert_false(row(buf_span(&t.wire)));
	assert_non_null(strstr(t.f.text, "signature"));
	t.wire.p[0] = 'P';
	t.wire.p[12] = 1;                       /* critical flag: rows with OIDs */
	assert_false(row(buf_span(&t.wire)));
	assert_non_null(strstr(t.f.text, "flags"));
	t.wire.p[12] = 0;
	buf_u8(&t.wire, 0);
	assert_false(row(buf_span(&t.wire)));
	assert_non_null(strstr(t.f.text, "behind a row"));
}

static void a_wrong_number_of_cells_is_refused(void **state)
{
	(void)state;
	for (int16_t count = -2; count < COLUMNS; count++) {
		t.c = copydata(true, COLUMNS);
		buf_reset(&t.wire);
		header();
		binary(count, abc);
		assert_int_equal(row(buf_span(&t.wire)), count == -1);
	}
}

static void nothing_comes_behind_the_trailer(void **state)
{
	(void)state;
	t.c = copydata(true, COLUMNS);
	header();
	binary(-1, NULL);
	assert_true(row(buf_span(&t.wire)));
	buf_reset(&t.wire);
	binary(COLUMNS, abc);
	assert_false(row(buf_span(&t.wire)));
	assert_non_null(strstr(t.f.text, "behind the trailer"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(a_text_line_is_split_at_tabs),
		T(escapes_become_their_bytes),
		T(an_unescaped_cell_is_not_copied),
		T(malformed_lines_are_refused),
		T(a_table_without_columns_has_empty_lines),
		T(the_first_binary_row_comes_with_the_header),
		T(an_empty_binary_table_is_header_and_trailer),
		T(a_header_may_come_alone),
		T(every_cut_of_a_binary_row_is_refused),
		T(malformed_binary_is_refused),
		T(a_wrong_number_of_cells_is_refused),
		T(nothing_comes_behind_the_trailer),
#undef T
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
