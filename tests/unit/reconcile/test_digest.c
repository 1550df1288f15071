// SPDX-License-Identifier: Apache-2.0
/* A table of the source: id int4 key, note varchar, price numeric, mood an enum; on the target: key int8,
 * note text, price numeric(12,4), mood an enum of another name, size computed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "reconcile/digest.h"
#include "reconcile/survey.h"

#define NAME(s) { s, sizeof(s) - 1 }

static struct side_column source_columns[] = {
	{ NAME("id"), 23, NAME("pg_catalog.int4"), NAME("integer"), NAME("integer"), true, 'b', 'N', false, true },
	{ NAME("note"), 1043, NAME("pg_catalog.varchar"), NAME("character varying(9)"), NAME("character varying(9)"), true, 'b', 'S' },
	{ NAME("price"), 1700, NAME("pg_catalog.numeric"), NAME("numeric"), NAME("numeric"), true, 'b', 'N' },
	{ NAME("mood"), 90001, NAME("public.mood"), NAME("public.mood"), NAME("public.mood"), false, 'e', 'E' },
};
static struct side_column target_columns[] = {
	{ NAME("mood"), 80001, NAME("other.mood"), NAME("other.mood"), NAME("other.mood"), false, 'e', 'E' },
	{ NAME("key"), 20, NAME("pg_catalog.int8"), NAME("bigint"), NAME("bigint"), true, 'b', 'N', false, true },
	{ NAME("note"), 25, NAME("pg_catalog.text"), NAME("text"), NAME("text"), true, 'b', 'S' },
	{ NAME("price"), 1700, NAME("pg_catalog.numeric"), NAME("numeric(12,4)"), NAME("numeric(12,4)"), true, 'b', 'N' },
	{ NAME("size"), 23, NAME("pg_catalog.int4"), NAME("integer"), NAME("integer"), true, 'b', 'N' },
	{ NAME("shop"), 25, NAME("pg_catalog.text"), NAME("text"), NAME("text"), true, 'b', 'S' },
};
static const uint32_t inputs[] = { 1 };

struct fixture {
	struct column columns[4];
	struct computed computed;
	struct relation rel;
	struct side source, target;
	struct arena arena;
	struct digest digest;
	struct buf sql;
	struct fault fault;
};

static int set_up(void **state)
{
	static struct fixture x;

	x = (struct fixture) {
		.columns = { { .name = NAME("id"), .target = NAME("key"), .is_key = true, .type = { .kind = VALUE_INT4 } },
			     { .name = NAME("note"), .target = NAME("note") },
			     { .name = NAME("price"), .target = NAME("price") },
			     { .name = NAME("mood"), .target = NAME("mood") } },
		.computed = { .column = NAME("size"), .as = { NAME("length(note) -- in characters"), inputs, 1 } },
		.source = { .columns = source_columns, .column_count = 4 },
		.target = { .columns = target_columns, .column_count = 6, .is_partitioned = true },
	};
	x.rel = (struct relation) { .schema = NAME("public"), .table = NAME("t"), .root_schema = NAME("public"),
				    .root_table = NAME("t"), .target_schema = NAME("sales"), .target_table = NAME("u"),
				    .columns = x.columns, .column_count = 4, .key_count = 1,
				    .computed = &x.computed, .computed_count = 1 };
	arena_init(&x.arena, 1 << 20);
	buf_init(&x.sql, 1 << 20);
	*state = &x;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *x = *state;

	arena_release(&x->arena);
	buf_release(&x->sql);
	return 0;
}

static void make(struct fixture *x)
{
	if (!digest_make(&x->rel, &x->source, &x->target, &x->arena, &x->digest, &x->fault))
		fail_msg("%s", x->fault.text);
}

static struct digest_plan plan(struct fixture *x, enum digest_server server)
{
	return (struct digest_plan) { .digest = &x->digest, .server = server, .seed = 7, .mask = 3 };
}

static void says(const char *sql, const char *part)
{
	if (!strstr(sql, part))
		fail_msg("not in it: %s\n%s", part, sql);
}

static void both_sides_are_asked_for_the_same_columns(void **state)
{
	struct fixture *x = *state;
	const struct digest_column *c;

	make(x);
	c = x->digest.columns;
	assert_int_equal(x->digest.column_count, 5);
	assert_string_equal(c[0].form[DIGEST_SOURCE].p, "((\"id\")::bigint)::bigint");
	assert_string_equal(c[0].form[DIGEST_TARGET].p, "(\"key\")::bigint");
	assert_string_equal(c[1].form[DIGEST_SOURCE].p, "(\"note\")::pg_catalog.text COLLATE pg_catalog.\"C\"");
	assert_string_equal(c[1].form[DIGEST_TARGET].p, c[1].form[DIGEST_SOURCE].p);
	assert_string_equal(c[4].name.p, "size");
	assert_string_equal(c[4].form[DIGEST_SOURCE].p, "((length(note) -- in characters\n)::integer)::integer");
}

/* The target pads to its scale, so the source must before it is looked at. */
static void what_is_loosely_equal_goes_in_a_stricter_form(void **state)
{
	struct fixture *x = *state;

	make(x);
	assert_string_equal(x->digest.columns[2].form[DIGEST_SOURCE].p, "((\"price\")::numeric(12,4))::pg_catalog.text COLLATE pg_catalog.\"C\"");
	assert_string_equal(x->digest.columns[2].form[DIGEST_TARGET].p, "(\"price\")::pg_catalog.text COLLATE pg_catalog.\"C\"");
	assert_string_equal(x->digest.columns[2].text[DIGEST_SOURCE].p, x->digest.columns[2].form[DIGEST_SOURCE].p);
	says(x->digest.columns[3].form[DIGEST_SOURCE].p, "concat(\"mood\")");
}

static void each_server_is_asked_for_its_own_table_and_rows(void **state)
{
	struct fixture *x = *state;
	struct digest_plan p;

	x->rel.filter.sql = span_str("tenant <> 0 -- ours");
	x->rel.origin_column = span_str("shop");
	x->rel.origin_value = span_str("it's");
	make(x);
	p = plan(x, DIGEST_SOURCE);
	digest_survey(&p, &x->sql);
	says(buf_cstr(&x->sql), " FROM ONLY \"public\".\"t\" WHERE (tenant <> 0 -- ours\n)");
	says(buf_cstr(&x->sql), "SELECT k & 3, pg_catalog.count(*), pg_catalog.bit_xor(h), 0");
	buf_reset(&x->sql);
	p = plan(x, DIGEST_TARGET);
	digest_survey(&p, &x->sql);
	says(buf_cstr(&x->sql), " FROM \"sales\".\"u\" WHERE \"shop\" = 'it''s'::text");
}

#define KEY_HASH "COALESCE(pg_catalog.hashint8extended(-7046029254386353124, (\"key\")::bigint), -7046029254386353124)"
#define NOTE_HASH                                                                                                                   \
	"COALESCE(pg_catalog.hashtextextended((\"note\")::pg_catalog.text COLLATE pg_catalog.\"C\", 4354685564936845361), "         \
	"4354685564936845361)"

/* The leaves are told apart by the key alone. */
static void a_row_is_in_the_leaf_of_its_key(void **state)
{
	struct fixture *x = *state;
	struct digest_plan p;

	make(x);
	p = plan(x, DIGEST_TARGET);
	digest_survey(&p, &x->sql);
	says(buf_cstr(&x->sql), " AS h, pg_catalog.hashint8extended(7, " KEY_HASH ") AS k FROM ");
	says(buf_cstr(&x->sql), " OFFSET 0) AS q GROUP BY 1");
	buf_reset(&x->sql);
	x->columns[1].is_key = true;
	x->rel.key_count = 2;
	make(x);
	digest_survey(&p, &x->sql);
	says(buf_cstr(&x->sql), " AS h, pg_catalog.hashint8extended(7, " KEY_HASH " # " NOTE_HASH ") AS k FROM ");
	buf_reset(&x->sql);
	x->columns[0].is_key = false;
	make(x);
	digest_drill(&p, (int64_t[]) { 1 }, 1, &x->sql);
	says(buf_cstr(&x->sql), " AS t, pg_catalog.hashint8extended(7, " NOTE_HASH ") AS k FROM ");
}

static void without_a_mask_all_rows_are_one_leaf(void **state)
{
	struct fixture *x = *state;
	struct digest_plan p;

	make(x);
	p = plan(x, DIGEST_TARGET);
	p.mask = 0;
	digest_survey(&p, &x->sql);
	says(buf_cstr(&x->sql), "SELECT 0, pg_catalog.count(*), pg_catalog.bit_xor(pg_catalog.hashint8extended(7, " KEY_HASH " # " NOTE_HASH " # ");
	says(buf_cstr(&x->sql), "::pg_catalog.int8 FROM \"sales\".\"u\"");
	assert_null(strstr(buf_cstr(&x->sql), "GROUP BY"));
}

/* A NULL in the column would be in no range. */
static void ranges_leave_nothing_out(void **state)
{
	struct fixture *x = *state;
	struct digest_plan p;

	make(x);
	p = plan(x, DIGEST_TARGET);
	p.range.to = span_str("5");
	digest_survey(&p, &x->sql);
	says(buf_cstr(&x->sql), " WHERE \"key\" < '5'::bigint OFFSET 0)");
	buf_reset(&x->sql);
	p.range = (struct digest_range) { .from = span_str("5"), .to = span_str("9") };
	digest_survey(&p, &x->sql);
	says(buf_cstr(&x->sql), " WHERE (\"key\" >= '5'::bigint) AND \"key\" < '9'::bigint OFFSET 0)");
	buf_reset(&x->sql);
	p.range.to = span(NULL, 0);
	digest_survey(&p, &x->sql);
	says(buf_cstr(&x->sql), " WHERE (\"key\" >= '5'::bigint OR \"key\" IS NULL) OFFSET 0)");
}

/* Beyond the last row there is no further end, and an int8 must not overflow. */
static void an_end_is_counted_off_where_the_key_is_an_integer(void **state)
{
	struct fixture *x = *state;
	struct digest_plan p;

	make(x);
	assert_true(x->digest.range_is_counted);
	p = plan(x, DIGEST_SOURCE);
	p.range.from = span_str("5");
	digest_reach(&p, 100, &x->sql);
	assert_string_equal(buf_cstr(&x->sql), "SELECT v FROM (SELECT '5'::pg_catalog.numeric + 100 AS v) AS q"
					       " WHERE v <= (SELECT pg_catalog.max(\"id\") FROM ONLY \"public\".\"t\")");
	x->columns[1].is_key = true;
	x->rel.key_count = 2;
	make(x);
	assert_non_null(x->digest.range_column[0].p);
	assert_false(x->digest.range_is_counted);
}

static void a_table_without_a_key_is_a_multiset(void **state)
{
	struct fixture *x = *state;
	struct digest_plan p;

	x->rel.keyless = true;
	x->columns[0].is_key = false;
	x->rel.key_count = 0;
	make(x);
	p = plan(x, DIGEST_SOURCE);
	digest_survey(&p, &x->sql);
	says(buf_cstr(&x->sql), "SELECT h & 3, pg_catalog.count(*), pg_catalog.bit_xor(h), pg_catalog.sum(h)");
	buf_reset(&x->sql);
	digest_drill(&p, (int64_t[]) { 1, 3 }, 2, &x->sql);
	says(buf_cstr(&x->sql), "WHERE h & 3 = ANY ('{1,3}'::pg_catalog.int8[]) GROUP BY 1, 2");
	assert_null(x->digest.range_column[0].p);
	assert_false(x->digest.has_stream_key);
}

/* Text of a key that prints otherwise on the target does not lead back to the stream's key. */
static void a_key_of_another_type_has_no_stream_key(void **state)
{
	struct fixture *x = *state;

	make(x);
	assert_true(x->digest.has_stream_key);
	x->columns[0].is_key = false;
	x->columns[2].is_key = true;
	make(x);
	assert_true(x->digest.has_stream_key); /* numeric: the key's text is canonical */
	x->columns[2].is_key = false;
	x->columns[3].is_key = true;
	make(x);
	assert_false(x->digest.has_stream_key);
}

/* By the source's own types: another text of an equal key must not be taken for no row. */
static void the_sources_own_row_is_found_by_its_own_equality(void **state)
{
	struct fixture *x = *state;
	struct digest_plan p;

	x->rel.filter.sql = span_str("id > 0 -- ours");
	x->columns[1].is_key = x->columns[2].is_dropped = true;
	x->rel.key_count = 2;
	make(x);
	p = plan(x, DIGEST_SOURCE);
	digest_source_rows(&p, &x->sql);
	says(buf_cstr(&x->sql), "FROM unnest($1::pg_catalog.text[], $2::pg_catalog.text[]) WITH ORDINALITY AS \"the keys\"(k1, k2, n)");
	says(buf_cstr(&x->sql), "concat(\"note\") END, NULL, CASE WHEN \"mood\"");
	says(buf_cstr(&x->sql), "WHERE (id > 0 -- ours\n) AND \"id\" = \"the keys\".k1::pg_catalog.int4"
				" AND \"note\" = \"the keys\".k2::pg_catalog.varchar) AS r");
	buf_reset(&x->sql);
	source_columns[1].is_builtin = false;
	digest_source_rows(&p, &x->sql);
	source_columns[1].is_builtin = true;
	says(buf_cstr(&x->sql), "AND pg_catalog.record_eq(ROW((\"note\")::pg_catalog.varchar), ROW(\"the keys\".k2::pg_catalog.varchar))");
}

static void a_missing_column_is_named(void **state)
{
	struct fixture *x = *state;

	x->columns[1].target = span_str("remark");
	assert_false(digest_make(&x->rel, &x->source, &x->target, &x->arena, &x->digest, &x->fault));
	says(x->fault.text, "target: sales.u has no column \"remark\"");
}

static void keys_are_read_back(void **state)
{
	struct fixture *x = *state;
	struct span parts[4];
	size_t n;

	assert_true(digest_key_parts(span_str("{1,\"a,\\\"b\\\\\",NULL,\"NULL\"}"), &x->arena, parts, 4, &n));
	assert_int_equal(n, 4);
	assert_true(span_eq_str(parts[0], "1") && span_eq_str(parts[1], "a,\"b\\") && !parts[2].p &&
		    span_eq_str(parts[3], "NULL"));
	assert_false(digest_key_parts(span_str("{1,2,3}"), &x->arena, parts, 2, &n));
	assert_false(digest_key_parts(span_str("{\"1"), &x->arena, parts, 4, &n));
	assert_false(digest_key_parts(span_str("x"), &x->arena, parts, 4, &n));
}

/* ---- laying answers side by side ---- */

static void differing_leaves_are_found(void **state)
{
	struct fixture *x = *state;
	struct survey_leaf a[] = { { 0, 5, 1, { "0", 1 } }, { 1, 5, 1, { "0", 1 } }, { 2, 5, 9, { "0", 1 } }, { 3, 2, 4, { "6", 1 } } };
	struct survey_leaf b[] = { { 1, 5, 1, { "0", 1 } }, { 2, 5, 8, { "0", 1 } }, { 3, 2, 4, { "7", 1 } }, { 4, 1, 0, { "0", 1 } } };
	size_t n;
	int64_t *found = survey_differ(&(struct survey) { a, 4 }, &(struct survey) { b, 4 }, &x->arena, &n);

	assert_int_equal(n, 4);
	assert_int_equal(found[0], 0);
	assert_int_equal(found[1], 2);
	assert_int_equal(found[2], 3); /* by its sum alone */
	assert_int_equal(found[3], 4);
}

static void suspects_are_missing_extraneous_changed_or_doubled(void **state)
{
	struct fixture *x = *state;
	struct survey_key a[] = { { NAME("same"), 1, 1 }, { NAME("gone"), 2, 1 }, { NAME("changed"), 3, 1 }, { NAME("twice"), 4, 1 }, { NAME("many"), 5, 3 } };
	struct survey_key b[] = { { NAME("twice"), 4, 1 }, { NAME("twice"), 4, 1 }, { NAME("changed"), 9, 1 }, { NAME("new"), 2, 1 }, { NAME("same"), 1, 1 }, { NAME("many"), 5, 2 } };
	static const char *const expected[] = { "changed", "gone", "many", "new", "twice" };
	size_t n;
	struct span *found = survey_suspects(&(struct survey_keys) { a, 5 }, &(struct survey_keys) { b, 6 }, &x->arena, &n);

	assert_int_equal(n, 5);
	for (size_t i = 0; i < n; i++)
		assert_true(span_eq_str(found[i], expected[i]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(both_sides_are_asked_for_the_same_columns, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_is_loosely_equal_goes_in_a_stricter_form, set_up, tear_down),
		cmocka_unit_test_setup_teardown(each_server_is_asked_for_its_own_table_and_rows, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_row_is_in_the_leaf_of_its_key, set_up, tear_down),
		cmocka_unit_test_setup_teardown(without_a_mask_all_rows_are_one_leaf, set_up, tear_down),
		cmocka_unit_test_setup_teardown(ranges_leave_nothing_out, set_up, tear_down),
		cmocka_unit_test_setup_teardown(an_end_is_counted_off_where_the_key_is_an_integer, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_table_without_a_key_is_a_multiset, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_key_of_another_type_has_no_stream_key, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_sources_own_row_is_found_by_its_own_equality, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_missing_column_is_named, set_up, tear_down),
		cmocka_unit_test_setup_teardown(keys_are_read_back, set_up, tear_down),
		cmocka_unit_test_setup_teardown(differing_leaves_are_found, set_up, tear_down),
		cmocka_unit_test_setup_teardown(suspects_are_missing_extraneous_changed_or_doubled, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
