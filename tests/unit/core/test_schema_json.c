// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "core/codec.h"
#include "core/schema_json.h"

static struct buf out;
static struct fault f;

static int setup(void **state)
{
	buf_init(&out, 1 << 20);
	fault_reset(&f);
	return 0;
}

static int teardown(void **state)
{
	buf_release(&out);
	return 0;
}

/* What fastavro 1.13.1 says: to_parsing_canonical_form, fingerprint CRC-64-AVRO. */
static const struct vector {
	const char *schema, *canonical;
	uint64_t fingerprint;
} vectors[] = {
	{ "\"int\"", "\"int\"", 0x7275d51a3f395c8f },
	{ "{\"type\":\"long\",\"logicalType\":\"timestamp-micros\"}", "\"long\"",
	  0xd054e14493f41db7 },
	{ "[\"null\",\"string\"]", "[\"null\",\"string\"]", 0x9845f21eb77ec49d },
	{ "{\"type\":\"fixed\",\"name\":\"F\",\"namespace\":\"a.b\",\"size\":16,\"doc\":"
	  "\"x\",\"aliases\":[\"G\"]}",
	  "{\"name\":\"a.b.F\",\"type\":\"fixed\",\"size\":16}", 0x1a642d4806ad71d1 },
	{ "{\"type\":\"enum\",\"name\":\"a.E\",\"namespace\":\"ignored\",\"symbols\":[\"X"
	  "\",\"Y\"],\"default\":\"X\"}",
	  "{\"name\":\"a.E\",\"type\":\"enum\",\"symbols\":[\"X\",\"Y\"]}", 0x03a355609930e067 },
	{ "{\"fields\":[{\"type\":{\"type\":\"array\",\"items\":{\"name\":\"Inner\",\"typ"
	  "e\":\"record\",\"fields\":[{\"name\":\"x\",\"type\":{\"type\":\"map\",\"values"
	  "\":\"bytes\"}},{\"name\":\"self\",\"type\":[\"null\",\"Inner\"],\"default\":nu"
	  "ll}]}},\"name\":\"f\",\"default\":[]}],\"name\":\"R\",\"type\":\"record\",\"na"
	  "mespace\":\"n.s\"}",
	  "{\"name\":\"n.s.R\",\"type\":\"record\",\"fields\":[{\"name\":\"f\",\"type\":{"
	  "\"type\":\"array\",\"items\":{\"name\":\"n.s.Inner\",\"type\":\"record\",\"fie"
	  "lds\":[{\"name\":\"x\",\"type\":{\"type\":\"map\",\"values\":\"bytes\"}},{\"na"
	  "me\":\"self\",\"type\":[\"null\",\"n.s.Inner\"]}]}}}]}",
	  0x4ed32625900def5a },
	{ "{\"type\":\"record\",\"name\":\"Outer\",\"namespace\":\"o\",\"fields\":[{\"nam"
	  "e\":\"a\",\"type\":{\"type\":\"record\",\"name\":\"Inner\",\"namespace\":\"i\""
	  ",\"fields\":[{\"name\":\"b\",\"type\":{\"type\":\"enum\",\"name\":\"E\",\"symb"
	  "ols\":[\"P\"]}}]}},{\"name\":\"c\",\"type\":\"i.E\"},{\"name\":\"d\",\"type\":"
	  "{\"type\":\"fixed\",\"name\":\"F\",\"size\":2}}]}",
	  "{\"name\":\"o.Outer\",\"type\":\"record\",\"fields\":[{\"name\":\"a\",\"type\""
	  ":{\"name\":\"i.Inner\",\"type\":\"record\",\"fields\":[{\"name\":\"b\",\"type"
	  "\":{\"name\":\"i.E\",\"type\":\"enum\",\"symbols\":[\"P\"]}}]}},{\"name\":\"c"
	  "\",\"type\":\"i.E\"},{\"name\":\"d\",\"type\":{\"name\":\"o.F\",\"type\":\"fix"
	  "ed\",\"size\":2}}]}",
	  0xfc2bae680c18dead },
};

static void canonical_form_and_fingerprint_are_fastavros(void **state)
{
	for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
		uint64_t fingerprint = 0;

		buf_reset(&out);
		if (!schema_canonical(span_str(vectors[i].schema), &out, &f))
			fail_msg("%s: %s", vectors[i].schema, f.text);
		assert_string_equal(buf_cstr(&out), vectors[i].canonical);
		assert_true(schema_crc64(buf_span(&out)) == vectors[i].fingerprint);
		if (!codec_fingerprint(span_str(vectors[i].schema), &fingerprint, &f))
			fail_msg("%s: %s", vectors[i].schema, f.text);
		assert_true(fingerprint == vectors[i].fingerprint);
	}
}

static void the_crc_of_nothing_is_the_specifications(void **state)
{
	assert_true(schema_crc64(span("", 0)) == 0xc15d213aa4d7a795);
}

static void the_fixed_schemas_have_their_frozen_fingerprints(void **state)
{
	for (enum event_kind kind = EVENT_EXCLUSIVE; kind <= EVENT_MARKER; kind++) {
		const struct codec_fixed *fixed = codec_fixed(kind);
		uint64_t fingerprint = 0;

		if (!codec_fingerprint(span_str(fixed->json), &fingerprint, &f))
			fail_msg("%s: %s", fixed->name, f.text);
		assert_true(fingerprint == fixed->fingerprint);
	}
	assert_null(codec_fixed(EVENT_CHANGE));
}

static void what_is_not_a_schema_is_refused(void **state)
{
	static const char *const wrong[] = {
		"",
		"{",
		"7",
		"{}",
		"{\"type\":\"record\"}",
		"{\"type\":\"record\",\"name\":\"R\"}",
		"{\"type\":\"record\",\"name\":\"R\",\"fields\":[{\"name\":\"a\"}]}",
		"{\"type\":\"record\",\"name\":\"R\",\"fields\":[{\"type\":\"int\"}]}",
		"{\"type\":\"record\",\"name\":\"\",\"fields\":[]}",
		"{\"type\":\"array\"}",
		"{\"type\":\"map\"}",
		"{\"type\":\"enum\",\"name\":\"E\"}",
		"{\"type\":\"fixed\",\"name\":\"F\",\"size\":-1}",
		"{\"type\":\"int\",\"type\":\"long\"}",
	};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		fault_reset(&f);
		if (schema_canonical(span_str(wrong[i]), &out, &f))
			fail_msg("accepted: %s", wrong[i]);
		assert_int_equal(f.kind, FAULT_INPUT);
	}
}

static void a_schema_that_avro_c_refuses_has_no_fingerprint(void **state)
{
	uint64_t fingerprint;

	assert_false(codec_fingerprint(span_str("[\"null\",\"Unknown\"]"), &fingerprint, &f));
	assert_non_null(strstr(f.text, "Avro refuses"));
}

static void a_schema_may_not_be_endless(void **state)
{
	struct buf deep;

	buf_init(&deep, 1 << 20);
	for (int i = 0; i < 1000; i++)
		buf_str(&deep, "{\"type\":\"array\",\"items\":");
	buf_str(&deep, "\"int\"");
	for (int i = 0; i < 1000; i++)
		buf_u8(&deep, '}');
	assert_false(schema_canonical(buf_span(&deep), &out, &f));
	assert_non_null(strstr(f.text, "too deep"));
	buf_release(&deep);
}

static void expect_name(const char *name, const char *wanted)
{
	buf_reset(&out);
	schema_name(span_str(name), &out);
	assert_string_equal(buf_cstr(&out), wanted);
}

static void names_outside_avros_alphabet_are_escaped(void **state)
{
	expect_name("customer_id", "customer_id");
	expect_name("_Under9", "_Under9");
	expect_name("7th", "_x37th");
	expect_name("two words", "two_x20words");
	expect_name("größe", "gr_xc3_xb6_xc3_x9fe");
	expect_name("a.b\"c", "a_x2eb_x22c");
}

/* --- envelopes --- */

static struct column columns[3];

static struct relation table(const char *a, const char *b)
{
	columns[0] = (struct column) { .name = span_str(a),
				       .typmod = -1,
				       .type_name = span_str("integer"),
				       .type.kind = VALUE_INT4 };
	columns[1] = columns[2] = columns[0];
	columns[1].name = span_str(b);
	return (struct relation) { .schema = span_str("public"),
				   .table = span_str("t 1"),
				   .columns = columns,
				   .column_count = 2 };
}

static uint64_t fingerprint_of(const struct relation *rel, unsigned suffix)
{
	uint64_t fingerprint = 0;

	buf_reset(&out);
	if (!codec_schema("shop", rel, suffix, &out, &f) ||
	    !codec_fingerprint(buf_span(&out), &fingerprint, &f))
		fail_msg("%s", f.text);
	return fingerprint;
}

static void an_envelope_is_named_after_its_table(void **state)
{
	struct relation rel = table("id", "n");

	fingerprint_of(&rel, 0);
	assert_non_null(
	    strstr(buf_cstr(&out), "\"name\":\"Envelope\",\"namespace\":\"shop.public.t_x201\""));
	assert_non_null(strstr(buf_cstr(&out), "\"pg.table\":\"t 1\""));
	fingerprint_of(&rel, 12);
	assert_non_null(strstr(buf_cstr(&out), "\"name\":\"Envelope_v12\""));
}

static void a_column_keeps_its_name_type_and_typmod_beside_it(void **state)
{
	struct relation rel = table("id", "two words");

	columns[1].typmod = 786436;
	columns[1].type_name = span_str("\"My\".\"Enum\"");
	fingerprint_of(&rel, 0);
	assert_non_null(
	    strstr(buf_cstr(&out),
		   "{\"name\":\"two_x20words\",\"type\":[\"null\",\"int\"],\"default\":null,"
		   "\"pg.name\":\"two "
		   "words\",\"pg.type\":\"\\\"My\\\".\\\"Enum\\\"\",\"pg.typmod\":786436}"));
}

static void a_logical_type_alone_does_not_change_the_fingerprint_but_a_suffix_does(void **state)
{
	struct relation rel = table("id", "at");
	uint64_t plain, zoned;

	columns[1].type.kind = VALUE_TIMESTAMP;
	plain = fingerprint_of(&rel, 0);
	columns[1].type.kind = VALUE_TIMESTAMPTZ;
	zoned = fingerprint_of(&rel, 0);
	assert_true(plain == zoned);
	assert_true(fingerprint_of(&rel, 2) != plain);
}

static void every_kind_makes_a_schema_that_avro_c_accepts(void **state)
{
	struct relation rel = table("id", "v");

	for (int kind = 0; kind < VALUE_KINDS; kind++) {
		columns[1].type = (struct value_type) { (enum value_kind)kind, 10, 2 };
		fingerprint_of(&rel, 0);
	}
}

static void a_decimal_says_its_precision_and_scale(void **state)
{
	struct relation rel = table("id", "v");

	columns[1].type = (struct value_type) { VALUE_DECIMAL, 12, 2 };
	fingerprint_of(&rel, 0);
	assert_non_null(
	    strstr(buf_cstr(&out),
		   "[\"null\",{\"type\":\"bytes\",\"logicalType\":\"decimal\",\"precision\":12,"
		   "\"scale\":2},\"string\"]"));
}

static void columns_that_collide_in_avro_are_refused(void **state)
{
	struct relation rel = table("a b", "a_x20b");

	assert_false(codec_schema("shop", &rel, 0, &out, &f));
	assert_non_null(
	    strstr(f.text, "columns \"a b\" and \"a_x20b\" have the same name in Avro"));
}

static void a_table_without_columns_is_refused(void **state)
{
	struct relation rel = table("a", "b");

	rel.column_count = 0;
	assert_false(codec_schema("shop", &rel, 0, &out, &f));
}

static void a_name_that_is_not_utf8_is_refused(void **state)
{
	struct relation rel = table("a", "b\xff");

	assert_false(codec_schema("shop", &rel, 0, &out, &f));
	assert_non_null(strstr(f.text, "not UTF-8"));
}

static void the_widest_table_has_a_schema(void **state)
{
	static struct column wide[1664];
	static char names[1664][16];
	struct relation rel = table("a", "b");

	for (int i = 0; i < 1664; i++) {
		wide[i] = columns[0];
		snprintf(names[i], sizeof(names[i]), "column_%d", i);
		wide[i].name = span_str(names[i]);
	}
	rel.columns = wide;
	rel.column_count = 1664;
	assert_true(fingerprint_of(&rel, 0) != 0);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(canonical_form_and_fingerprint_are_fastavros),
		TEST(the_crc_of_nothing_is_the_specifications),
		TEST(the_fixed_schemas_have_their_frozen_fingerprints),
		TEST(what_is_not_a_schema_is_refused),
		TEST(a_schema_that_avro_c_refuses_has_no_fingerprint),
		TEST(a_schema_may_not_be_endless),
		TEST(names_outside_avros_alphabet_are_escaped),
		TEST(an_envelope_is_named_after_its_table),
		TEST(a_column_keeps_its_name_type_and_typmod_beside_it),
		TEST(a_logical_type_alone_does_not_change_the_fingerprint_but_a_suffix_does),
		TEST(every_kind_makes_a_schema_that_avro_c_accepts),
		TEST(a_decimal_says_its_precision_and_scale),
		TEST(columns_that_collide_in_avro_are_refused),
		TEST(a_table_without_columns_is_refused),
		TEST(a_name_that_is_not_utf8_is_refused),
		TEST(the_widest_table_has_a_schema),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
