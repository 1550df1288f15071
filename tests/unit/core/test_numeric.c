// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "core/numeric.h"

enum { ROOM = 1 << 20 };

static void assert_span(struct span got, struct span wanted)
{
	if (!span_eq(got, wanted))
		fail_msg("got \"%.*s\", wanted \"%.*s\"", SPAN_ARG(got), SPAN_ARG(wanted));
}

static numeric_unscaled power_of_two(int n)
{
	return (numeric_unscaled)1 << n;
}

static void decimal_bytes_are_of_least_length(void **state)
{
	static const struct {
		int64_t v;
		size_t n;
		const char *bytes;
	} rows[] = {
		{ 0, 1, "\x00" },
		{ 1, 1, "\x01" },
		{ -1, 1, "\xff" },
		{ 127, 1, "\x7f" },
		{ 128, 2, "\x00\x80" },
		{ -128, 1, "\x80" },
		{ -129, 2, "\xff\x7f" },
		{ 255, 2, "\x00\xff" },
		{ 256, 2, "\x01\x00" },
		{ 32767, 2, "\x7f\xff" },
		{ 32768, 3, "\x00\x80\x00" },
		{ INT64_MAX, 8, "\x7f\xff\xff\xff\xff\xff\xff\xff" },
		{ INT64_MIN, 8, "\x80\x00\x00\x00\x00\x00\x00\x00" },
	};
	char bytes[NUMERIC_DECIMAL_BYTES];

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(numeric_decimal_to_bytes(rows[i].v, bytes), rows[i].n);
		assert_memory_equal(bytes, rows[i].bytes, rows[i].n);
	}
	assert_int_equal(numeric_decimal_to_bytes((numeric_unscaled)INT64_MAX + 1, bytes), 9);
	assert_memory_equal(bytes, "\x00\x80\x00\x00\x00\x00\x00\x00\x00", 9);
	assert_int_equal(numeric_decimal_to_bytes((numeric_unscaled)INT64_MIN - 1, bytes), 9);
	assert_memory_equal(bytes, "\xff\x7f\xff\xff\xff\xff\xff\xff\xff", 9);
}

static void decimal_bytes_come_back_at_every_power_of_two(void **state)
{
	char bytes[NUMERIC_DECIMAL_BYTES];
	numeric_unscaled got;

	for (int n = 0; n < 127; n++) {
		for (int near = -1; near <= 1; near++) {
			for (int sign = -1; sign <= 1; sign += 2) {
				numeric_unscaled v = sign * (power_of_two(n) + near);
				size_t length = numeric_decimal_to_bytes(v, bytes);

				assert_true(numeric_decimal_from_bytes(span(bytes, length), &got));
				assert_true(got == v);
				/* A byte less would be another number. */
				if (length > 1 &&
				    numeric_decimal_from_bytes(span(bytes + 1, length - 1), &got))
					assert_false(got == v);
			}
		}
	}
}

static void decimal_bytes_longer_than_needed_are_read(void **state)
{
	numeric_unscaled v;

	assert_true(numeric_decimal_from_bytes(span("\0\0\0\x2a", 4), &v));
	assert_true(v == 42);
	assert_true(numeric_decimal_from_bytes(
	    span("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", 16), &v));
	assert_true(v == -2);
	assert_false(numeric_decimal_from_bytes(span("", 0), &v));
	assert_false(numeric_decimal_from_bytes(span("01234567890123456", 17), &v));
}

static void any_128_bits_can_be_printed_and_sent(void **state)
{
	numeric_unscaled least = -power_of_two(126) * 2;
	char text[NUMERIC_DECIMAL_TEXT];
	struct buf out;

	buf_init(&out, ROOM);
	assert_span(span(text, numeric_decimal_print(least, 0, text)),
		    span_str("-170141183460469231731687303715884105728"));
	assert_span(span(text, numeric_decimal_print(least, 38, text)),
		    span_str("-1.70141183460469231731687303715884105728"));
	assert_span(span(text, numeric_decimal_print(-1, 38, text)),
		    span_str("-0.00000000000000000000000000000000000001"));
	for (int scale = 0; scale <= 38; scale++)
		numeric_decimal_add_binary(least, scale, &out);
	assert_false(buf_failed(&out));
	buf_release(&out);
}

static void a_decimal_shows_its_scale_or_is_none(void **state)
{
	static const struct {
		const char *text;
		int precision, scale;
		bool is_decimal;
	} rows[] = {
		{ "0.00", 4, 2, true },
		{ "99.99", 4, 2, true },
		{ "-99.99", 4, 2, true },
		{ "100.00", 4, 2, false },
		{ "1", 4, 2, false },
		{ "1.0", 4, 2, false },
		{ "1.000", 4, 2, false },
		{ "01.00", 4, 2, false },
		{ "-0.00", 4, 2, false },
		{ "1x00", 4, 2, false },
		{ "1.0x", 4, 2, false },
		{ "x.00", 4, 2, false },
		{ ".00", 4, 2, false },
		{ "-.00", 4, 2, false },
		{ "+1.00", 4, 2, false },
		{ "", 4, 2, false },
		{ "-", 4, 0, false },
		{ "--1", 4, 0, false },
		{ "1.", 4, 0, false },
		{ "", 1, 0, false },
		{ "9", 1, 0, true },
		{ "10", 1, 0, false },
		{ "0.9", 1, 1, true },
		{ "1.0", 1, 1, false },
		{ "NaN", 4, 2, false },
		{ "Infinity", 4, 2, false },
		{ "99999999999999999999999999999999999999", 38, 0, true },
		{ "100000000000000000000000000000000000000", 38, 0, false },
		{ "999999999999999999999999999999999999999999999999999", 38, 0, false },
	};
	numeric_unscaled v;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct span text = span_str(rows[i].text);
		bool got = numeric_decimal_from_text(text, rows[i].precision, rows[i].scale, &v);

		if (got != rows[i].is_decimal)
			fail_msg("numeric(%d,%d) %s", rows[i].precision, rows[i].scale,
				 rows[i].text);
	}
}

/* ndigits, weight, sign, dscale and digits as numbers, for cells that no server sends. */
static struct span cell_of(const int *words, size_t n)
{
	static uint16_t cell[32];

	for (size_t i = 0; i < n; i++)
		cell[i] = htobe16((uint16_t)words[i]);
	return span(cell, 2 * n);
}

#define CELL(...)                                                                                  \
	cell_of((const int[]) { __VA_ARGS__ }, sizeof((const int[]) { __VA_ARGS__ }) / sizeof(int))

static void digits_that_are_not_shown_are_cut_off(void **state)
{
	struct arena a;
	struct span text;
	numeric_unscaled v;

	arena_init(&a, ROOM);
	assert_false(numeric_decimal_from_binary(CELL(2, 0, 0, 2, 1, 2345), 12, 2, &v));
	assert_true(numeric_text_from_binary(CELL(2, 0, 0, 2, 1, 2345), &a, &text));
	assert_span(text, span_str("1.23"));
	assert_true(numeric_text_from_binary(CELL(1, -1, 0x4000, 2, 12), &a, &text));
	assert_span(text, span_str("0.00"));
	assert_true(numeric_text_from_binary(CELL(1, -5, 0x4000, 0, 1), &a, &text));
	assert_span(text, span_str("0"));
	arena_release(&a);
}

static void zeros_in_front_and_behind_are_no_matter(void **state)
{
	struct arena a;
	struct span text;
	numeric_unscaled v;

	arena_init(&a, ROOM);
	assert_true(numeric_decimal_from_binary(CELL(4, 2, 0, 2, 0, 0, 1, 5000), 12, 2, &v));
	assert_true(v == 150);
	assert_true(numeric_text_from_binary(CELL(4, 2, 0, 2, 0, 0, 1, 5000), &a, &text));
	assert_span(text, span_str("1.50"));
	assert_true(numeric_decimal_from_binary(CELL(3, 0, 0x4000, 2, 1, 5000, 0), 12, 2, &v));
	assert_true(v == -150);
	assert_true(numeric_decimal_from_binary(CELL(0, 30000, 0, 0), 12, 0, &v));
	assert_true(v == 0);
	assert_true(numeric_text_from_binary(CELL(0, 30000, 0x4000, 1), &a, &text));
	assert_span(text, span_str("0.0"));
	arena_release(&a);
}

static void a_number_too_large_for_a_decimal_is_none(void **state)
{
	numeric_unscaled v;

	assert_false(numeric_decimal_from_binary(CELL(1, 10, 0, 0, 1), 38, 0, &v));
	assert_false(numeric_decimal_from_binary(CELL(1, 9, 0, 0, 100), 38, 0, &v));
	assert_true(numeric_decimal_from_binary(CELL(1, 9, 0, 0, 99), 38, 0, &v));
	assert_false(numeric_decimal_from_binary(CELL(1, 32767, 0, 0, 1), 38, 0, &v));
	assert_false(numeric_decimal_from_binary(
	    CELL(12, 11, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1), 38, 0, &v));
	assert_false(numeric_decimal_from_binary(CELL(1, 0, 0, 0, 10), 1, 0, &v));
	assert_true(numeric_decimal_from_binary(CELL(1, 0, 0, 0, 9), 1, 0, &v));
	assert_false(numeric_decimal_from_binary(CELL(1, -1, 0, 2, 20000), 12, 2, &v));
	assert_false(numeric_decimal_from_binary(CELL(1, -2, 0, 2, 20000), 12, 2, &v));
	assert_false(numeric_decimal_from_binary(CELL(1, 0, 0xc000, 2, 1), 12, 2, &v));
}

static void the_longest_numerics_come_back(void **state)
{
	enum { WHOLE = 131072, DECIMALS = 16383 };
	char *text = malloc(WHOLE + 1 + DECIMALS);
	struct arena a;
	struct buf out;
	struct span got;

	arena_init(&a, ROOM);
	buf_init(&out, ROOM);
	memset(text, '9', WHOLE + 1 + DECIMALS);
	text[WHOLE] = '.';
	assert_true(numeric_text_add_binary(span(text, WHOLE + 1 + DECIMALS), &out));
	assert_int_equal(out.n, 8 + 2 * (WHOLE / 4 + (DECIMALS + 3) / 4));
	assert_true(numeric_text_from_binary(buf_span(&out), &a, &got));
	assert_true(span_eq(got, span(text, WHOLE + 1 + DECIMALS)));
	text[WHOLE] = '9';
	assert_false(numeric_text_add_binary(span(text, WHOLE + 1), &out));
	text[1] = '.';
	assert_false(numeric_text_add_binary(span(text, 2 + DECIMALS + 1), &out));
	free(text);
	buf_release(&out);
	arena_release(&a);
}

static void equal_numbers_are_trimmed_alike(void **state)
{
	static const char *const rows[][2] = {
		{ "1", "1" },        { "1.0", "1" },
		{ "1.00", "1" },     { "100", "100" },
		{ "100.0", "100" },  { "0.10", "0.1" },
		{ "0", "0" },        { "0.00", "0" },
		{ "-0", "0" },       { "-0.00", "0" },
		{ "-1.50", "-1.5" }, { "-10", "-10" },
		{ "NaN", "NaN" },    { "Infinity", "Infinity" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_span(numeric_text_trim(span_str(rows[i][0])), span_str(rows[i][1]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(decimal_bytes_are_of_least_length),
		cmocka_unit_test(decimal_bytes_come_back_at_every_power_of_two),
		cmocka_unit_test(decimal_bytes_longer_than_needed_are_read),
		cmocka_unit_test(any_128_bits_can_be_printed_and_sent),
		cmocka_unit_test(a_decimal_shows_its_scale_or_is_none),
		cmocka_unit_test(digits_that_are_not_shown_are_cut_off),
		cmocka_unit_test(zeros_in_front_and_behind_are_no_matter),
		cmocka_unit_test(a_number_too_large_for_a_decimal_is_none),
		cmocka_unit_test(the_longest_numerics_come_back),
		cmocka_unit_test(equal_numbers_are_trimmed_alike),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
