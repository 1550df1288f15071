// SPDX-License-Identifier: Apache-2.0
/*
 * The vectors are what a PostgreSQL 15 server printed (extra_float_digits 3, TimeZone UTC) and sent
 * for the same value.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/value.h"

enum { ROUNDS = 20000, ROOM = 1 << 20 };

#define NUMERIC(p, s) ((p) << 16 | ((s)&0x7ff)) + 4

static struct arena arena;
static struct buf out;
static struct fault reason;

static int set_up(void **state)
{
	arena_init(&arena, ROOM);
	buf_init(&out, ROOM);
	return 0;
}

static int tear_down(void **state)
{
	arena_release(&arena);
	buf_release(&out);
	return 0;
}

static uint64_t seed;

/* xorshift64*: the same numbers in every run. */
static uint64_t next_random(void)
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return seed * UINT64_C(2685821657736338717);
}

static const struct vector {
	uint32_t oid;
	int32_t typmod;
	const char *text, *binary;
} vectors[] = {
	/* clang-format off */
	{ 1082, -1, "2000-01-01", "00000000" },
	{ 1082, -1, "1970-01-01", "ffffd533" },
	{ 1082, -1, "2024-02-29", "00002279" },
	{ 1082, -1, "1900-02-28", "ffff718e" },
	{ 1082, -1, "0001-01-01", "fff4dbf9" },
	{ 1082, -1, "0001-12-31 BC", "fff4dbf8" },
	{ 1082, -1, "0005-02-29 BC", "fff4d511" },
	{ 1082, -1, "4714-11-24 BC", "ffda97a7" },
	{ 1082, -1, "9999-12-31", "002c95d3" },
	{ 1082, -1, "10000-01-01", "002c95d4" },
	{ 1082, -1, "100000-01-01", "02222b65" },
	{ 1082, -1, "5874897-12-31", "7fda970c" },
	{ 1082, -1, "infinity", "7fffffff" },
	{ 1082, -1, "-infinity", "80000000" },
	{ 1083, -1, "00:00:00", "0000000000000000" },
	{ 1083, -1, "23:59:59.999999", "000000141dd75fff" },
	{ 1083, -1, "24:00:00", "000000141dd76000" },
	{ 1083, -1, "00:00:00.000001", "0000000000000001" },
	{ 1083, -1, "12:34:56.1", "0000000a8bdba2a0" },
	{ 1083, -1, "12:34:56.100001", "0000000a8bdba2a1" },
	{ 1114, -1, "2000-01-01 00:00:00", "0000000000000000" },
	{ 1114, -1, "1999-12-31 23:59:59.999999", "ffffffffffffffff" },
	{ 1114, -1, "1969-12-31 23:59:59.5", "fffca2fec4c07ee0" },
	{ 1114, -1, "2024-02-29 12:00:00.123", "0002b582c479f078" },
	{ 1114, -1, "0001-01-01 00:00:00", "ff1fe2ffc59c6000" },
	{ 1114, -1, "0001-12-31 23:59:59.999999 BC", "ff1fe2ffc59c5fff" },
	{ 1114, -1, "4714-11-24 00:00:00 BC", "fd0f7cc1411fa000" },
	{ 1114, -1, "9999-12-31 23:59:59.999999", "0380e70b913b7fff" },
	{ 1114, -1, "10000-01-01 00:00:00", "0380e70b913b8000" },
	{ 1114, -1, "294276-12-31 23:59:59.999999", "7fffff5bb3b29fff" },
	{ 1114, -1, "infinity", "7fffffffffffffff" },
	{ 1114, -1, "-infinity", "8000000000000000" },
	{ 1184, -1, "2000-01-01 00:00:00+00", "0000000000000000" },
	{ 1184, -1, "2024-01-01 10:00:00.123+00", "0002b0de36af8878" },
	{ 1184, -1, "1969-12-31 23:59:59.999999+00", "fffca2fec4c81fff" },
	{ 1184, -1, "0001-01-01 00:00:00+00", "ff1fe2ffc59c6000" },
	{ 1184, -1, "0001-12-31 23:59:59+00 BC", "ff1fe2ffc58d1dc0" },
	{ 1184, -1, "4714-11-24 00:00:00+00 BC", "fd0f7cc1411fa000" },
	{ 1184, -1, "9999-12-31 23:59:59.999999+00", "0380e70b913b7fff" },
	{ 1184, -1, "10000-01-01 00:00:00+00", "0380e70b913b8000" },
	{ 1184, -1, "294276-12-31 23:59:59.999999+00", "7fffff5bb3b29fff" },
	{ 1184, -1, "infinity", "7fffffffffffffff" },
	{ 1184, -1, "-infinity", "8000000000000000" },
	{ 701, -1, "0", "0000000000000000" },
	{ 701, -1, "-0", "8000000000000000" },
	{ 701, -1, "1", "3ff0000000000000" },
	{ 701, -1, "-1.5", "bff8000000000000" },
	{ 701, -1, "0.1", "3fb999999999999a" },
	{ 701, -1, "0.0001", "3f1a36e2eb1c432d" },
	{ 701, -1, "1e-05", "3ee4f8b588e368f1" },
	{ 701, -1, "100000000000000", "42d6bcc41e900000" },
	{ 701, -1, "999999999999999", "430c6bf52633fff8" },
	{ 701, -1, "1e+15", "430c6bf526340000" },
	{ 701, -1, "1.2345678901234568e+17", "437b69b4ba630f35" },
	{ 701, -1, "1e+22", "4480f0cf064dd592" },
	{ 701, -1, "9.999999999999999e+22", "44b52d02c7e14af6" },
	{ 701, -1, "8.409999999999999e+21", "447c7e83209e90b2" },
	{ 701, -1, "9.007199254740992e+15", "4340000000000000" },
	{ 701, -1, "5e-324", "0000000000000001" },
	{ 701, -1, "1e-320", "00000000000007e8" },
	{ 701, -1, "2.2250738585072014e-308", "0010000000000000" },
	{ 701, -1, "1.7976931348623157e+308", "7fefffffffffffff" },
	{ 701, -1, "9.5367431640625e-07", "3eb0000000000000" },
	{ 701, -1, "2e-44", "36dc8b8218854567" },
	{ 701, -1, "NaN", "7ff8000000000000" },
	{ 701, -1, "Infinity", "7ff0000000000000" },
	{ 701, -1, "-Infinity", "fff0000000000000" },
	{ 701, -1, "9.007199254740992e+23", "44e7d78400000000" },
	{ 701, -1, "4.5e+15", "432ff973cafa8000" },
	{ 701, -1, "1.8446744073709552e+19", "43f0000000000000" },
	{ 701, -1, "5.684341886080802e-14", "3d30000000000000" },
	{ 701, -1, "3.851859888774472e-34", "3900000000000000" },
	{ 701, -1, "1.0000000000000002", "3ff0000000000001" },
	{ 701, -1, "2.9802322387695312e-08", "3e60000000000000" },
	{ 701, -1, "562949953421312.2", "4300000000000002" },
	{ 700, -1, "0.00024414062", "39800000" },
	{ 700, -1, "1.0485762e+06", "49800002" },
	{ 700, -1, "0", "00000000" },
	{ 700, -1, "-0", "80000000" },
	{ 700, -1, "1", "3f800000" },
	{ 700, -1, "-1.5", "bfc00000" },
	{ 700, -1, "0.1", "3dcccccd" },
	{ 700, -1, "0.0001", "38d1b717" },
	{ 700, -1, "1e-05", "3727c5ac" },
	{ 700, -1, "100000", "47c35000" },
	{ 700, -1, "999999", "497423f0" },
	{ 700, -1, "1e+06", "49742400" },
	{ 700, -1, "1.234567e+06", "4996b438" },
	{ 700, -1, "1.6777216e+07", "4b800000" },
	{ 700, -1, "8.388608e+06", "4b000000" },
	{ 700, -1, "3.3554432e+07", "4c000000" },
	{ 700, -1, "6.7108864e+07", "4c800000" },
	{ 700, -1, "1e-45", "00000001" },
	{ 700, -1, "1.1754944e-38", "00800000" },
	{ 700, -1, "3.4028235e+38", "7f7fffff" },
	{ 700, -1, "NaN", "7fc00000" },
	{ 700, -1, "Infinity", "7f800000" },
	{ 700, -1, "-Infinity", "ff800000" },
	{ 700, -1, "1.3e-38", "008d8eb6" },
	{ 700, -1, "9.8e-38", "02056404" },
	{ 700, -1, "5e+09", "4f9502f9" },
	{ 700, -1, "3.3554428e+07", "4bfffffe" },
	{ 1700, -1, "0", "0000000000000000" },
	{ 1700, -1, "0.0", "0000000000000001" },
	{ 1700, -1, "0.000", "0000000000000003" },
	{ 1700, -1, "1", "00010000000000000001" },
	{ 1700, -1, "1.00", "00010000000000020001" },
	{ 1700, -1, "-1.5", "000200004000000100011388" },
	{ 1700, -1, "10000", "00010001000000000001" },
	{ 1700, -1, "100000000", "00010002000000000001" },
	{ 1700, -1, "12345678.9", "000300010000000104d2162e2328" },
	{ 1700, -1, "0.0001", "0001ffff000000040001" },
	{ 1700, -1, "0.00001", "0001fffe0000000503e8" },
	{ 1700, -1, "-0.00000000012", "0001fffd4000000b0078" },
	{ 1700, -1, "NaN", "00000000c0000000" },
	{ 1700, -1, "Infinity", "00000000d0000020" },
	{ 1700, -1, "-Infinity", "00000000f0000020" },
	{ 1700, -1, "123456789012345678901234567890123456789012345678901234567890.000100", "0010000e0000000604d2162e23340d801ed204d2162e23340d801ed204d2162e23340d801ed20001" },
	{ 1700, -1, "10000000000000000000000000000000000000000", "0001000a000000000001" },
	{ 1700, -1, "0.0000000000000000000000000000000000000001", "0001fff6000000280001" },
	{ 1700, NUMERIC(12, 2), "0.00", "0000000000000002" },
	{ 1700, NUMERIC(12, 2), "1.00", "00010000000000020001" },
	{ 1700, NUMERIC(12, 2), "-1.00", "00010000400000020001" },
	{ 1700, NUMERIC(12, 2), "0.01", "0001ffff000000020064" },
	{ 1700, NUMERIC(12, 2), "-0.01", "0001ffff400000020064" },
	{ 1700, NUMERIC(12, 2), "99.99", "0002000000000002006326ac" },
	{ 1700, NUMERIC(12, 2), "10000.00", "00010001000000020001" },
	{ 1700, NUMERIC(12, 2), "9999999999.99", "00040002000000020063270f270f26ac" },
	{ 1700, NUMERIC(12, 2), "-9999999999.99", "00040002400000020063270f270f26ac" },
	{ 1700, NUMERIC(12, 2), "1234567.80", "0003000100000002007b11d71f40" },
	{ 1700, NUMERIC(12, 2), "NaN", "00000000c0000000" },
	{ 1700, NUMERIC(38, 0), "0", "0000000000000000" },
	{ 1700, NUMERIC(38, 0), "99999999999999999999999999999999999999", "000a0009000000000063270f270f270f270f270f270f270f270f270f" },
	{ 1700, NUMERIC(38, 0), "-99999999999999999999999999999999999999", "000a0009400000000063270f270f270f270f270f270f270f270f270f" },
	{ 1700, NUMERIC(38, 0), "10000000000000000000000000000000000000", "0001000900000000000a" },
	{ 1700, NUMERIC(38, 0), "18446744073709551616", "000500040000000007341a5802e103bb0650" },
	{ 1700, NUMERIC(38, 38), "0.00000000000000000000000000000000000000", "0000000000000026" },
	{ 1700, NUMERIC(38, 38), "0.99999999999999999999999999999999999999", "000affff00000026270f270f270f270f270f270f270f270f270f26ac" },
	{ 1700, NUMERIC(38, 38), "0.00000000000000000000000000000000000001", "0001fff6000000260064" },
	{ 1700, NUMERIC(38, 38), "-0.50000000000000000000000000000000000000", "0001ffff400000261388" },
	{ 1700, NUMERIC(20, 5), "0.00000", "0000000000000005" },
	{ 1700, NUMERIC(20, 5), "0.00001", "0001fffe0000000503e8" },
	{ 1700, NUMERIC(20, 5), "1.00001", "00030000000000050001000003e8" },
	{ 1700, NUMERIC(20, 5), "-123456789012345.67891", "0006000340000005007b11d722c509291a8503e8" },
	{ 1700, NUMERIC(20, 5), "65536.00000", "0002000100000005000615a0" },
	{ 1700, NUMERIC(3, -2), "0", "0000000000000000" },
	{ 1700, NUMERIC(3, -2), "12300", "0002000100000000000108fc" },
	{ 1700, NUMERIC(3, -2), "-99900", "0002000140000000000926ac" },
	{ 1700, NUMERIC(3, 5), "0.00000", "0000000000000005" },
	{ 1700, NUMERIC(3, 5), "0.00123", "0002ffff00000005000c0bb8" },
	{ 1700, NUMERIC(3, 5), "-0.00999", "0002ffff4000000500632328" },
	{ 21, -1, "0", "0000" },
	{ 21, -1, "-1", "ffff" },
	{ 21, -1, "32767", "7fff" },
	{ 21, -1, "-32768", "8000" },
	{ 23, -1, "0", "00000000" },
	{ 23, -1, "-1", "ffffffff" },
	{ 23, -1, "2147483647", "7fffffff" },
	{ 23, -1, "-2147483648", "80000000" },
	{ 20, -1, "0", "0000000000000000" },
	{ 20, -1, "-1", "ffffffffffffffff" },
	{ 20, -1, "9223372036854775807", "7fffffffffffffff" },
	{ 20, -1, "-9223372036854775808", "8000000000000000" },
	{ 17, -1, "\\x", "" },
	{ 17, -1, "\\x00", "00" },
	{ 17, -1, "\\xdeadbeef", "deadbeef" },
	{ 2950, -1, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc999c0b4ef8bb6d6bb9bd380a11" },
	{ 2950, -1, "00000000-0000-0000-0000-000000000000", "00000000000000000000000000000000" },
	{ 25, -1, "abc", "616263" },
	{ 25, -1, "ä", "c3a4" },
	/* clang-format on */
};

enum { VECTORS = sizeof(vectors) / sizeof(vectors[0]) };

/* One vector, ready for use. */
struct sample {
	struct value_type type;
	struct span text, binary;
	struct value v;
};

static struct span unhex(const char *hex)
{
	size_t n = strlen(hex) / 2;
	char *p = arena_alloc(&arena, n + 1);
	unsigned byte;

	for (size_t i = 0; i < n; i++) {
		sscanf(hex + 2 * i, "%2x", &byte);
		p[i] = (char)byte;
	}
	return span(p, n);
}

static void assert_span(struct span got, struct span wanted)
{
	if (!span_eq(got, wanted))
		fail_msg("got \"%.*s\", wanted \"%.*s\"", SPAN_ARG(got), SPAN_ARG(wanted));
}

static void assert_out(const char *wanted)
{
	assert_span(buf_span(&out), span_str(wanted));
}

static void assert_same(const struct value *a, const struct value *b)
{
	assert_int_equal(a->state, b->state);
	assert_memory_equal(&a->i, &b->i, sizeof(a->i));
	assert_span(a->bytes, b->bytes);
}

static void read_cell(struct value_type type, char format, struct span bytes, struct value *ret)
{
	if (!value_from_cell(&type, (struct cell) { format, bytes }, &arena, ret, &reason))
		fail_msg("%.*s: %s", SPAN_ARG(bytes), reason.text);
}

static struct value of_text(struct value_type type, const char *text)
{
	struct value v;

	read_cell(type, 't', span_str(text), &v);
	return v;
}

static struct sample sample(const struct vector *vec)
{
	struct sample s = { .type = value_type_of(vec->oid, vec->typmod, false) };

	arena_reset(&arena);
	s.text = span_str(vec->text);
	s.binary = unhex(vec->binary);
	read_cell(s.type, 't', s.text, &s.v);
	return s;
}

static void add_text(struct value_type type, const struct value *v)
{
	buf_reset(&out);
	if (!value_add_text(&type, v, &out, &reason))
		fail_msg("%s", reason.text);
	assert_false(buf_failed(&out));
}

static void add_binary(struct value_type type, const struct value *v)
{
	buf_reset(&out);
	if (!value_add_binary(&type, v, &out, &reason))
		fail_msg("%s", reason.text);
	assert_false(buf_failed(&out));
}

static void add_key(struct value_type type, const struct value *v)
{
	buf_reset(&out);
	if (!value_add_key(&type, v, &out, &reason))
		fail_msg("%s", reason.text);
	assert_false(buf_failed(&out));
}

/* The element of an array: its length, then the bytes. */
static void assert_element(struct span wanted)
{
	uint32_t n = htobe32((uint32_t)wanted.n);

	assert_int_equal(out.n, 4 + wanted.n);
	assert_memory_equal(out.p, &n, 4);
	if (wanted.n > 0)
		assert_memory_equal(out.p + 4, wanted.p, wanted.n);
}

static void text_and_binary_of_a_value_read_as_the_same(void **state)
{
	for (int i = 0; i < VECTORS; i++) {
		struct sample s = sample(&vectors[i]);
		struct value v;

		read_cell(s.type, 'b', s.binary, &v);
		assert_same(&v, &s.v);
	}
}

static void values_print_as_the_server_prints_them(void **state)
{
	for (int i = 0; i < VECTORS; i++) {
		struct sample s = sample(&vectors[i]);

		add_text(s.type, &s.v);
		assert_span(buf_span(&out), s.text);
	}
}

static void parameters_have_the_bytes_that_the_server_sends(void **state)
{
	for (int i = 0; i < VECTORS; i++) {
		struct sample s = sample(&vectors[i]);

		add_binary(s.type, &s.v);
		assert_element(s.binary);
	}
}

static void the_text_state_of_any_value_gives_the_same_parameter(void **state)
{
	for (int i = 0; i < VECTORS; i++) {
		struct sample s = sample(&vectors[i]);
		struct value v = { .state = VALUE_IS_TEXT, .bytes = s.text };

		add_binary(s.type, &v);
		assert_element(s.binary);
	}
}

static void the_text_state_of_any_value_gives_the_same_key(void **state)
{
	for (int i = 0; i < VECTORS; i++) {
		struct sample s = sample(&vectors[i]);
		struct value v = { .state = VALUE_IS_TEXT, .bytes = s.text };
		struct span key;

		add_key(s.type, &v);
		key = arena_dup(&arena, buf_span(&out));
		add_key(s.type, &s.v);
		assert_span(buf_span(&out), key);
	}
}

/* Bytes in any number: no vector may be cut or lengthened without being refused. */
static void a_binary_form_of_another_length_is_refused(void **state)
{
	for (int i = 0; i < VECTORS; i++) {
		struct sample s = sample(&vectors[i]);
		bool any_length = vectors[i].oid == 25 || vectors[i].oid == 17;
		struct value v;

		for (size_t n = 0; n < s.binary.n && !any_length; n++) {
			struct cell c = { 'b', arena_dup(&arena, span(s.binary.p, n)) };

			assert_false(value_from_cell(&s.type, c, &arena, &v, &reason));
			assert_int_equal(reason.kind, FAULT_INPUT);
		}
	}
}

static void what_logical_types_cannot_hold_goes_as_text(void **state)
{
	static const struct {
		enum value_kind kind;
		const char *text;
		enum value_state state;
	} rows[] = {
		{ VALUE_DATE, "0001-01-01", VALUE_IS_NATIVE },
		{ VALUE_DATE, "0001-12-31 BC", VALUE_IS_TEXT },
		{ VALUE_DATE, "9999-12-31", VALUE_IS_NATIVE },
		{ VALUE_DATE, "10000-01-01", VALUE_IS_TEXT },
		{ VALUE_DATE, "infinity", VALUE_IS_TEXT },
		{ VALUE_TIME, "23:59:59.999999", VALUE_IS_NATIVE },
		{ VALUE_TIME, "24:00:00", VALUE_IS_TEXT },
		{ VALUE_TIMESTAMP, "9999-12-31 23:59:59.999999", VALUE_IS_NATIVE },
		{ VALUE_TIMESTAMP, "10000-01-01 00:00:00", VALUE_IS_TEXT },
		{ VALUE_TIMESTAMP, "-infinity", VALUE_IS_TEXT },
		{ VALUE_TIMESTAMPTZ, "0001-01-01 00:00:00+00", VALUE_IS_NATIVE },
		{ VALUE_TIMESTAMPTZ, "0001-12-31 23:59:59.999999+00 BC", VALUE_IS_TEXT },
		{ VALUE_NUMERIC, "1", VALUE_IS_TEXT },
		{ VALUE_OTHER, "anything", VALUE_IS_TEXT },
		{ VALUE_FLOAT8, "NaN", VALUE_IS_NATIVE },
		{ VALUE_FLOAT4, "-Infinity", VALUE_IS_NATIVE },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct value v = of_text((struct value_type) { .kind = rows[i].kind },
					 rows[i].text);

		assert_int_equal(v.state, rows[i].state);
		if (v.state == VALUE_IS_TEXT)
			assert_span(v.bytes, span_str(rows[i].text));
	}
}

static void numbers_count_from_1970(void **state)
{
	assert_int_equal(of_text(value_type_of(1082, -1, false), "1970-01-02").i, 1);
	assert_int_equal(of_text(value_type_of(1082, -1, false), "1969-12-31").i, -1);
	assert_int_equal(of_text(value_type_of(1083, -1, false), "00:00:01.5").i, 1500000);
	assert_int_equal(of_text(value_type_of(1114, -1, false), "1970-01-01 00:00:01").i, 1000000);
	assert_int_equal(of_text(value_type_of(1184, -1, false), "2024-01-01 10:00:00.123+00").i,
			 1704103200123000);
}

static void a_decimal_outside_its_declaration_keeps_its_text(void **state)
{
	static const char *const texts[] = { "1", "1.0", "1.000", "100000.00", "NaN", "-0.00" };
	const struct value_type type = value_type_of(1700, NUMERIC(7, 2), false);
	struct value v = of_text(type, "-12345.67");

	assert_int_equal(v.state, VALUE_IS_NATIVE);
	assert_span(v.bytes, span("\xed\x29\x79", 3));
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		v = of_text(type, texts[i]);
		assert_int_equal(v.state, VALUE_IS_TEXT);
		assert_span(v.bytes, span_str(texts[i]));
	}
}

static void kinds_follow_base_type_and_typmod(void **state)
{
	static const struct {
		uint32_t oid;
		int32_t typmod;
		bool is_enum;
		struct value_type type;
	} rows[] = {
		{ 16, -1, false, { VALUE_BOOL } },
		{ 17, -1, false, { VALUE_BYTEA } },
		{ 18, -1, false, { VALUE_OTHER } },
		{ 19, -1, false, { VALUE_TEXT } },
		{ 26, -1, false, { VALUE_OTHER } },
		{ 114, -1, false, { VALUE_TEXT } },
		{ 142, -1, false, { VALUE_TEXT } },
		{ 790, -1, false, { VALUE_OTHER } },
		{ 1042, 14, false, { VALUE_BPCHAR } },
		{ 1043, 14, false, { VALUE_TEXT } },
		{ 1186, -1, false, { VALUE_OTHER } },
		{ 1266, -1, false, { VALUE_OTHER } },
		{ 3802, -1, false, { VALUE_JSONB } },
		{ 99999, -1, false, { VALUE_OTHER } },
		{ 99999, -1, true, { VALUE_TEXT } },
		{ 1700, -1, false, { VALUE_NUMERIC } },
		{ 1700, NUMERIC(12, 2), false, { VALUE_DECIMAL, 12, 2 } },
		{ 1700, NUMERIC(38, 38), false, { VALUE_DECIMAL, 38, 38 } },
		{ 1700, NUMERIC(38, 0), false, { VALUE_DECIMAL, 38, 0 } },
		{ 1700, NUMERIC(39, 0), false, { VALUE_NUMERIC } },
		{ 1700, NUMERIC(1000, 1000), false, { VALUE_NUMERIC } },
		{ 1700, NUMERIC(3, -2), false, { VALUE_NUMERIC } },
		{ 1700, NUMERIC(3, -1000), false, { VALUE_NUMERIC } },
		{ 1700, NUMERIC(3, 5), false, { VALUE_NUMERIC } },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct value_type t = value_type_of(rows[i].oid, rows[i].typmod, rows[i].is_enum);

		assert_int_equal(t.kind, rows[i].type.kind);
		assert_int_equal(t.precision, rows[i].type.precision);
		assert_int_equal(t.scale, rows[i].type.scale);
	}
}

static void parameters_of_text_kinds_are_text(void **state)
{
	static const enum value_kind texts[] = { VALUE_TEXT, VALUE_BPCHAR, VALUE_JSONB,
						 VALUE_OTHER };

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		assert_int_equal(value_element_oid(texts[i]), 25);
		assert_int_equal(value_array_oid(texts[i]), 1009);
	}
	for (int kind = 0; kind < VALUE_KINDS; kind++) {
		assert_non_null(value_kind_name((enum value_kind)kind));
		assert_int_equal(value_kind_has_binary((enum value_kind)kind), kind != VALUE_OTHER);
		assert_true(value_array_oid((enum value_kind)kind) > 0);
	}
	assert_int_equal(value_element_oid(VALUE_DECIMAL), 1700);
	assert_int_equal(value_array_oid(VALUE_TIMESTAMPTZ), 1185);
}

static void jsonb_is_characters_behind_a_version(void **state)
{
	const struct value_type type = { .kind = VALUE_JSONB };
	struct value v;

	read_cell(type, 'b', span("\1{}", 3), &v);
	assert_int_equal(v.state, VALUE_IS_NATIVE);
	assert_span(v.bytes, span("{}", 2));
	add_binary(type, &v);
	assert_element(span("{}", 2));
	assert_false(
	    value_from_cell(&type, (struct cell) { 'b', span("\2{}", 3) }, &arena, &v, NULL));
	assert_false(value_from_cell(&type, (struct cell) { 'b', span("", 0) }, &arena, &v, NULL));
}

static void null_and_unchanged_are_told_apart(void **state)
{
	const struct value_type type = { .kind = VALUE_TEXT };
	struct value v;

	read_cell(type, 'n', span(NULL, 0), &v);
	assert_int_equal(v.state, VALUE_IS_NULL);
	add_binary(type, &v);
	assert_span(buf_span(&out), span("\xff\xff\xff\xff", 4));
	assert_false(value_add_text(&type, &v, &out, &reason));
	assert_false(value_add_key(&type, &v, &out, &reason));
	read_cell(type, 'u', span(NULL, 0), &v);
	assert_int_equal(v.state, VALUE_IS_UNCHANGED);
	assert_false(value_add_binary(&type, &v, &out, &reason));
	assert_false(value_add_text(&type, &v, &out, &reason));
	assert_false(value_add_key(&type, &v, &out, &reason));
	assert_false(value_from_cell(&type, (struct cell) { 'x' }, &arena, &v, &reason));
}

static void an_empty_value_is_not_null(void **state)
{
	static const enum value_kind texts[] = { VALUE_TEXT, VALUE_BPCHAR, VALUE_OTHER };

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		const struct value_type type = { .kind = texts[i] };
		struct value v = of_text(type, "");

		add_binary(type, &v);
		assert_element(span("", 0));
		add_text(type, &v);
		assert_out("");
		add_key(type, &v);
		assert_out("");
	}
}

static void equal_keys_have_equal_bytes(void **state)
{
	static const struct {
		uint32_t oid;
		int32_t typmod;
		const char *text, *key;
	} rows[] = {
		{ 1700, -1, "1.0", "1" },
		{ 1700, -1, "1.00", "1" },
		{ 1700, -1, "100", "100" },
		{ 1700, -1, "-1.50", "-1.5" },
		{ 1700, -1, "0.000", "0" },
		{ 1700, -1, "-0", "0" },
		{ 1700, -1, "-0.0", "0" },
		{ 1700, -1, "NaN", "NaN" },
		{ 1700, -1, "-Infinity", "-Infinity" },
		{ 1700, NUMERIC(12, 2), "1.00", "1" },
		{ 1700, NUMERIC(12, 2), "-1.50", "-1.5" },
		{ 1700, NUMERIC(12, 2), "100.00", "100" },
		{ 1700, NUMERIC(12, 2), "0.00", "0" },
		{ 1700, NUMERIC(12, 2), "NaN", "NaN" },
		{ 1700, NUMERIC(3, 0), "100", "100" },
		{ 701, -1, "-0", "0" },
		{ 701, -1, "0", "0" },
		{ 701, -1, "100", "100" },
		{ 701, -1, "NaN", "NaN" },
		{ 700, -1, "-0", "0" },
		{ 700, -1, "0.1", "0.1" },
		{ 1042, -1, "ab  ", "ab" },
		{ 1042, -1, "    ", "" },
		{ 1042, -1, " ab", " ab" },
		{ 25, -1, "ab  ", "ab  " },
		{ 17, -1, "\\xDEADbeef", "\\xdeadbeef" },
		{ 2950, -1, "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
		  "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11" },
		{ 16, -1, "t", "t" },
		{ 1184, -1, "2024-01-01 10:00:00.5+00", "2024-01-01 10:00:00.5+00" },
		{ 1082, -1, "infinity", "infinity" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct value_type type = value_type_of(rows[i].oid, rows[i].typmod, false);
		struct value v = of_text(type, rows[i].text);

		add_key(type, &v);
		assert_out(rows[i].key);
	}
}

static void a_key_is_appended(void **state)
{
	const struct value_type type = { .kind = VALUE_BPCHAR };
	struct value v = of_text(type, "b  ");

	buf_reset(&out);
	buf_str(&out, "a  ");
	assert_true(value_add_key(&type, &v, &out, &reason));
	assert_out("a  b");
}

static void malformed_text_is_refused_by_kind_and_sight(void **state)
{
	static const struct {
		uint32_t oid;
		const char *text;
	} rows[] = {
		{ 16, "" },
		{ 16, "true" },
		{ 16, "x" },
		{ 21, "32768" },
		{ 21, "-32769" },
		{ 23, "" },
		{ 23, "-" },
		{ 23, "+1" },
		{ 23, "1 " },
		{ 23, "2147483648" },
		{ 20, "9223372036854775808" },
		{ 20, "-9223372036854775809" },
		{ 20, "99999999999999999999999" },
		{ 700, "1e39" },
		{ 701, "1e309" },
		{ 701, "" },
		{ 701, "nan" },
		{ 701, "inf" },
		{ 701, "0x1p3" },
		{ 701, " 1" },
		{ 701, "1." },
		{ 701, ".5" },
		{ 701, "1e" },
		{ 701, "1e+" },
		{ 701, "--1" },
		{ 701, "1234567890123456789012345678901234567890" },
		{ 17, "" },
		{ 17, "abc" },
		{ 17, "\\x0" },
		{ 17, "\\x0g" },
		{ 2950, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1" },
		{ 2950, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1g" },
		{ 2950, "a0eebc9999c0b-4ef8-bb6d-6bb9bd380a11" },
		{ 1700, "" },
		{ 1700, "-" },
		{ 1700, "." },
		{ 1700, "1." },
		{ 1700, ".1" },
		{ 1700, "01" },
		{ 1700, "1e5" },
		{ 1700, "nan" },
		{ 1082, "2024-13-01" },
		{ 1184, "2024-01-01 10:00:00" },
		{ 1184, "2024-01-01 10:00:00+02" },
		{ 1114, "2024-01-01 10:00:00+00" },
	};
	struct value v;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct value_type type = value_type_of(rows[i].oid, -1, false);
		struct cell c = { 't', span_str(rows[i].text) };

		fault_reset(&reason);
		if (value_from_cell(&type, c, &arena, &v, &reason))
			fail_msg("%s as %s", rows[i].text, value_kind_name(type.kind));
		assert_int_equal(reason.kind, FAULT_INPUT);
		assert_non_null(strstr(reason.text, value_kind_name(type.kind)));
		assert_non_null(strstr(reason.text, rows[i].text));
	}
}

static void malformed_binary_is_refused(void **state)
{
	static const struct {
		uint32_t oid;
		const char *hex;
	} rows[] = {
		{ 16, "02" },
		{ 1082, "ffda979e" }, /* the day before Julian day 0 */
		{ 1082, "7fda978d" }, /* 5874898-01-01 */
		{ 1083, "ffffffffffffffff" },
		{ 1083, "000000141dd76001" }, /* a microsecond past 24:00:00 */
		{ 1114, "fd0f7b4b9cb4ffff" },
		{ 1184, "7fffffffffffffff00" },
		{ 1700, "0001000000000000" },     /* a digit is missing */
		{ 1700, "00000000000000000001" }, /* a digit too many */
		{ 1700, "00010000000000002710" }, /* digit 10000 */
		{ 1700, "00010000100000000001" }, /* no such sign */
		{ 1700, "00010000000040000001" }, /* dscale 0x4000 */
		{ 1700, "00010000c00000000001" }, /* NaN with a digit */
	};
	struct value v;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct value_type type = value_type_of(rows[i].oid, -1, false);
		struct cell c = { 'b', unhex(rows[i].hex) };

		fault_reset(&reason);
		if (value_from_cell(&type, c, &arena, &v, &reason))
			fail_msg("%s as %s", rows[i].hex, value_kind_name(type.kind));
		assert_int_equal(reason.kind, FAULT_INPUT);
		assert_non_null(strstr(reason.text, value_kind_name(type.kind)));
	}
	assert_false(value_from_cell(&(struct value_type) { .kind = VALUE_OTHER },
				     (struct cell) { 'b', span("x", 1) }, &arena, &v, &reason));
}

/* What another producer may put into a record. */
static void native_values_out_of_range_are_refused(void **state)
{
	static const struct {
		enum value_kind kind;
		int64_t i;
	} rows[] = {
		{ VALUE_INT2, 32768 },
		{ VALUE_INT4, INT64_C(2147483648) },
		{ VALUE_DATE, 2932897 },
		{ VALUE_DATE, INT64_MIN },
		{ VALUE_TIME, -1 },
		{ VALUE_TIME, INT64_C(86400000000) },
		{ VALUE_TIMESTAMP, INT64_MAX },
		{ VALUE_TIMESTAMPTZ, INT64_MIN },
	};
	const struct value_type decimal = { VALUE_DECIMAL, 38, 2 };
	struct value v = { .state = VALUE_IS_NATIVE };

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct value_type type = { .kind = rows[i].kind };

		v.i = rows[i].i;
		assert_false(value_add_binary(&type, &v, &out, &reason));
	}
	v.bytes = span("", 0);
	assert_false(value_add_binary(&decimal, &v, &out, &reason));
	assert_false(value_add_text(&decimal, &v, &out, &reason));
	v.bytes = span("12345678901234567", 17);
	assert_false(value_add_binary(&decimal, &v, &out, &reason));
}

static void seeded_numbers_come_back_from_both_forms(void **state)
{
	static const struct {
		uint32_t oid;
		int bytes;
	} rows[] = { { 21, 2 }, { 23, 4 }, { 20, 8 }, { 700, 4 }, { 701, 8 } };

	seed = 1;
	for (int round = 0; round < ROUNDS; round++) {
		int row = round % 5;
		struct value_type type = value_type_of(rows[row].oid, -1, false);
		uint64_t be = htobe64(next_random() >> (next_random() % 64));
		struct span binary = span((char *)&be + 8 - rows[row].bytes,
					  (size_t)rows[row].bytes);
		struct value v, again;

		arena_reset(&arena);
		read_cell(type, 'b', binary, &v);
		add_binary(type, &v);
		if (rows[row].oid == 700 || rows[row].oid == 701) {
			if (isnan(v.d))
				continue;
		}
		assert_element(binary);
		add_text(type, &v);
		read_cell(type, 't', buf_span(&out), &again);
		assert_same(&v, &again);
	}
}

static void seeded_times_come_back_from_both_forms(void **state)
{
	static const uint32_t oids[] = { 1114, 1184, 1083 };

	seed = 2;
	for (int round = 0; round < ROUNDS; round++) {
		struct value_type type = value_type_of(oids[round % 3], -1, false);
		uint64_t range = round % 3 == 2 ? UINT64_C(86400000001)
						: UINT64_C(9435184819200000000);
		uint64_t first = round % 3 == 2 ? 0 : UINT64_C(211813488000000000);
		int64_t us = (int64_t)(next_random() % range - first);
		uint64_t be = htobe64((uint64_t)us);
		struct value v, again;

		arena_reset(&arena);
		read_cell(type, 'b', span(&be, 8), &v);
		add_binary(type, &v);
		assert_element(span(&be, 8));
		add_text(type, &v);
		read_cell(type, 't', arena_dup(&arena, buf_span(&out)), &again);
		assert_same(&v, &again);
	}
}

static void seeded_decimals_come_back_from_both_forms(void **state)
{
	seed = 3;
	for (int round = 0; round < ROUNDS; round++) {
		int precision = (int)(next_random() % 38) + 1;
		int scale = (int)(next_random() % (uint64_t)(precision + 1));
		struct value_type type = { VALUE_DECIMAL, precision, scale };
		struct value_type plain = { .kind = VALUE_NUMERIC };
		char text[64], *p = text;
		struct value v, again;
		struct span key;

		/* No leading zero; a sign only in front of a number that is not 0 for sure. */
		if (precision > scale && next_random() % 2)
			*p++ = '-';
		if (precision == scale)
			*p++ = '0';
		else
			*p++ = (char)('1' + next_random() % 9);
		for (int i = 1; i < precision - scale; i++)
			*p++ = (char)('0' + next_random() % 10 * (next_random() % 2));
		if (scale > 0)
			*p++ = '.';
		for (int i = 0; i < scale; i++)
			*p++ = (char)('0' + next_random() % 10 * (next_random() % 2));
		*p = 0;
		arena_reset(&arena);
		v = of_text(type, text);
		assert_int_equal(v.state, VALUE_IS_NATIVE);
		add_text(type, &v);
		assert_out(text);
		add_binary(type, &v);
		read_cell(type, 'b', span(out.p + 4, out.n - 4), &again);
		assert_same(&v, &again);
		read_cell(plain, 'b', span(out.p + 4, out.n - 4), &again);
		assert_span(again.bytes, span_str(text));
		add_key(plain, &again);
		key = arena_dup(&arena, buf_span(&out));
		add_key(type, &v);
		assert_span(buf_span(&out), key);
	}
}

/* Noise in each kind, in both forms: accepted or refused; what is accepted goes on to every writer.
 */
static void seeded_noise_is_read_or_refused(void **state)
{
	static const char alphabet[] = "0123456789-+.: eBCxInfinityNaN\\\xff";

	seed = 4;
	for (int round = 0; round < ROUNDS; round++) {
		struct value_type type = { .kind = (enum value_kind)(next_random() % VALUE_KINDS) };
		char *bytes = malloc(40);
		size_t n = next_random() % 40;
		struct value v;

		type.precision = type.kind == VALUE_DECIMAL ? 10 : 0;
		type.scale = type.kind == VALUE_DECIMAL ? 2 : 0;
		for (size_t i = 0; i < n; i++)
			bytes[i] = round % 2 ? alphabet[next_random() % (sizeof(alphabet) - 1)]
					     : (char)(next_random() % 4 ? 0 : next_random());
		arena_reset(&arena);
		buf_reset(&out);
		if (value_from_cell(&type, (struct cell) { round % 2 ? 't' : 'b', span(bytes, n) },
				    &arena, &v, &reason)) {
			assert_true(value_add_text(&type, &v, &out, &reason));
			assert_true(value_add_key(&type, &v, &out, &reason));
			assert_true(value_add_binary(&type, &v, &out, &reason));
		}
		free(bytes);
	}
}

static void a_full_buf_is_left_for_the_caller_to_see(void **state)
{
	for (int i = 0; i < VECTORS; i++) {
		struct sample s = sample(&vectors[i]);
		struct buf small;

		buf_init(&small, 2);
		assert_true(value_add_binary(&s.type, &s.v, &small, &reason));
		assert_true(buf_failed(&small));
		buf_release(&small);
		buf_init(&small, 0);
		assert_true(value_add_key(&s.type, &s.v, &small, &reason));
		assert_true(buf_failed(&small));
		buf_release(&small);
	}
}

static void a_full_arena_is_a_fault(void **state)
{
	const struct value_type type = { VALUE_DECIMAL, 10, 2 };
	struct arena none;
	struct value v;

	arena_init(&none, 0);
	assert_false(
	    value_from_cell(&type, (struct cell) { 't', span("1.00", 4) }, &none, &v, &reason));
	assert_int_equal(reason.kind, FAULT_INTERNAL);
	arena_release(&none);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_and_binary_of_a_value_read_as_the_same),
		cmocka_unit_test(values_print_as_the_server_prints_them),
		cmocka_unit_test(parameters_have_the_bytes_that_the_server_sends),
		cmocka_unit_test(the_text_state_of_any_value_gives_the_same_parameter),
		cmocka_unit_test(the_text_state_of_any_value_gives_the_same_key),
		cmocka_unit_test(a_binary_form_of_another_length_is_refused),
		cmocka_unit_test(what_logical_types_cannot_hold_goes_as_text),
		cmocka_unit_test(numbers_count_from_1970),
		cmocka_unit_test(a_decimal_outside_its_declaration_keeps_its_text),
		cmocka_unit_test(kinds_follow_base_type_and_typmod),
		cmocka_unit_test(parameters_of_text_kinds_are_text),
		cmocka_unit_test(jsonb_is_characters_behind_a_version),
		cmocka_unit_test(null_and_unchanged_are_told_apart),
		cmocka_unit_test(an_empty_value_is_not_null),
		cmocka_unit_test(equal_keys_have_equal_bytes),
		cmocka_unit_test(a_key_is_appended),
		cmocka_unit_test(malformed_text_is_refused_by_kind_and_sight),
		cmocka_unit_test(malformed_binary_is_refused),
		cmocka_unit_test(native_values_out_of_range_are_refused),
		cmocka_unit_test(seeded_numbers_come_back_from_both_forms),
		cmocka_unit_test(seeded_times_come_back_from_both_forms),
		cmocka_unit_test(seeded_decimals_come_back_from_both_forms),
		cmocka_unit_test(seeded_noise_is_read_or_refused),
		cmocka_unit_test(a_full_buf_is_left_for_the_caller_to_see),
		cmocka_unit_test(a_full_arena_is_a_fault),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
