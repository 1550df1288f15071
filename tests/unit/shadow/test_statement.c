// SPDX-License-Identifier: Apache-2.0
/* The table of these tests: id int4 key, note varchar, doc json (travels as text), seen generated.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/buf.h"
#include "shadow/statement.h"

enum { ID, NOTE, DOC, SEEN, COLUMNS };

struct fixture {
	struct target_column columns[COLUMNS];
	struct target_table table;
	uint64_t sets;
	struct column source[COLUMNS];
	struct relation rel;
	struct target_computed computed;
	struct expression as;
	struct target_column origin;
};

static int set_up(void **state)
{
	static struct fixture x;

	x = (struct fixture) {
		.columns = {
			[ID] = { .name = span_str("id"),
				 .type_name = span_str("pg_catalog.int4"),
				 .exact_type = span_str("integer"),
				 .equals = span_str("OPERATOR(pg_catalog.=)"),
				 .type_oid = 23,
				 .kind = VALUE_INT4,
				 .is_written = true,
				 .is_key = true,
				 .is_native = true,
				 .is_exact = true },
			[NOTE] = { .name = span_str("no\"te"),
				   .type_name = span_str("pg_catalog.\"varchar\""),
				   .exact_type = span_str("character varying(5)"),
				   .type_oid = 1043,
				   .kind = VALUE_TEXT,
				   .is_written = true,
				   .is_native = true,
				   .is_exact = true },
			[DOC] = { .name = span_str("doc"),
				  .type_name = span_str("pg_catalog.json"),
				  .exact_type = span_str("json"),
				  .type_oid = 114,
				  .kind = VALUE_TEXT,
				  .is_written = true },
			[SEEN] = { .name = span_str("seen"), .type_oid = 23, .kind = VALUE_INT4 },
		},
		.table = { .id = 1,
			   .name = span_str("\"public\".\"t\""),
			   .label = span_str("public.t"),
			   .column_count = COLUMNS,
			   .key_count = 1 },
		.sets = 1 << ID | 1 << NOTE | 1 << DOC | 1 << SEEN,
	};
	x.table.columns = x.columns;
	*state = &x;
	return 0;
}

static void assert_sql(struct fixture *x, enum statement_op op, const char *expected)
{
	bool sets = op != STATEMENT_DELETE && op != STATEMENT_DELETE_ONE && op != STATEMENT_DELETE_CASCADED;
	struct statement_key k = { &x->table, op, sets ? &x->sets : NULL };
	struct buf out;

	buf_init(&out, 1 << 20);
	assert_true(statement_write(&k, &out));
	assert_string_equal(buf_cstr(&out), expected);
	buf_release(&out);
}

static void
an_insert_casts_what_travels_as_another_type_and_leaves_out_generated_columns(void **state)
{
	assert_sql(*state, STATEMENT_INSERT,
		   "WITH w AS (INSERT INTO \"public\".\"t\" AS t (\"id\", \"no\"\"te\", \"doc\") "
		   "SELECT k.n1, k.n2::pg_catalog.\"varchar\", k.n3::pg_catalog.json "
		   "FROM (SELECT unnest($1) AS n1, unnest($2) AS n2, unnest($3) AS n3) AS k RETURNING 1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w), $4, 'public.t insert')");
}

static void an_identity_column_is_overridden_in_inserts_and_never_set(void **state)
{
	struct fixture *x = *state;

	x->table.overrides = x->columns[NOTE].is_always = true;
	x->sets = 1 << NOTE | 1 << DOC;
	assert_sql(
	    x, STATEMENT_INSERT,
	    "WITH w AS (INSERT INTO \"public\".\"t\" AS t (\"no\"\"te\", \"doc\") OVERRIDING "
	    "SYSTEM VALUE SELECT k.n2::pg_catalog.\"varchar\", k.n3::pg_catalog.json "
	    "FROM (SELECT unnest($1) AS n2, unnest($2) AS n3) AS k RETURNING 1) "
	    "SELECT foreshadow.expect((SELECT count(*) FROM w), $3, 'public.t insert')");
	assert_sql(x, STATEMENT_UPDATE,
		   "WITH w AS (UPDATE \"public\".\"t\" AS t SET \"doc\" = k.n3::pg_catalog.json "
		   "FROM (SELECT unnest($1) AS o1, unnest($2) AS n3) AS k WHERE t.\"id\" OPERATOR(pg_catalog.=) k.o1 "
		   "RETURNING 1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w), $3, 'public.t update')");
}

static void a_lookup_has_the_row_of_a_key_as_texts(void **state)
{
	struct fixture *x = *state;
	struct buf out;

	buf_init(&out, 1 << 20);
	assert_true(statement_write_lookup(&x->table, &out));
	assert_string_equal(buf_cstr(&out),
			    "SELECT (SELECT pg_catalog.json_object_agg(key, value) FROM pg_catalog.json_each_text("
			    "pg_catalog.row_to_json(t.*))) FROM \"public\".\"t\" AS t, (SELECT unnest($1) AS o1) AS k"
			    " WHERE t.\"id\" OPERATOR(pg_catalog.=) k.o1 FOR UPDATE OF t");
	assert_int_equal(statement_array_oid(&x->table, ID), 1007);
	assert_int_equal(statement_array_oid(&x->table, DOC), 1009);
	buf_release(&out);
}

static void an_update_finds_rows_by_key_and_does_not_set_it(void **state)
{
	assert_sql(*state, STATEMENT_UPDATE,
		   "WITH w AS (UPDATE \"public\".\"t\" AS t SET \"no\"\"te\" = "
		   "k.n2::pg_catalog.\"varchar\", \"doc\" = k.n3::pg_catalog.json "
		   "FROM (SELECT unnest($1) AS o1, unnest($2) AS n2, unnest($3) AS n3) AS k "
		   "WHERE t.\"id\" OPERATOR(pg_catalog.=) k.o1 RETURNING 1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w), $4, 'public.t update')");
}

static void a_key_whose_equals_is_loose_is_set_too(void **state)
{
	struct fixture *x = *state;

	x->columns[ID].sets_key = true;
	x->sets = 1 << ID;
	assert_sql(x, STATEMENT_UPDATE,
		   "WITH w AS (UPDATE \"public\".\"t\" AS t SET \"id\" = k.n1 "
		   "FROM (SELECT unnest($1) AS o1, unnest($2) AS n1) AS k "
		   "WHERE t.\"id\" OPERATOR(pg_catalog.=) k.o1 RETURNING 1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w), $3, 'public.t update')");
}

static void an_update_of_nothing_still_wants_its_row(void **state)
{
	struct fixture *x = *state;

	x->sets = 1 << ID;
	assert_sql(x, STATEMENT_UPDATE,
		   "WITH w AS (SELECT 1 FROM \"public\".\"t\" AS t, (SELECT unnest($1) AS o1) AS k "
		   "WHERE t.\"id\" OPERATOR(pg_catalog.=) k.o1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w), $2, 'public.t update')");
}

static void a_key_change_takes_the_old_and_the_new_key(void **state)
{
	struct fixture *x = *state;

	x->sets = 1 << ID;
	assert_sql(x, STATEMENT_REKEY,
		   "WITH w AS (UPDATE \"public\".\"t\" AS t SET \"id\" = k.n1 "
		   "FROM (SELECT unnest($1) AS o1, unnest($2) AS n1) AS k "
		   "WHERE t.\"id\" OPERATOR(pg_catalog.=) k.o1 RETURNING 1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w), $3, 'public.t key change')");
}

static void a_delete_needs_the_key_alone(void **state)
{
	assert_sql(*state, STATEMENT_DELETE,
		   "WITH w AS (DELETE FROM \"public\".\"t\" AS t USING (SELECT unnest($1) AS o1) AS k "
		   "WHERE t.\"id\" OPERATOR(pg_catalog.=) k.o1 RETURNING 1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w), $2, 'public.t delete')");
}

static void a_keyless_delete_takes_one_of_the_equal_rows(void **state)
{
	assert_sql(
	    *state, STATEMENT_DELETE_ONE,
	    "WITH w AS (DELETE FROM \"public\".\"t\" AS t USING "
	    "(SELECT m.tableoid AS o, m.ctid AS i FROM \"public\".\"t\" AS m, "
	    "(SELECT unnest($1) AS o1, unnest($2) AS o2, unnest($3) AS o3) AS k WHERE m.\"id\" IS NOT DISTINCT FROM k.o1 "
	    "AND m.\"no\"\"te\" COLLATE pg_catalog.\"C\" IS NOT DISTINCT FROM "
	    "k.o2::pg_catalog.\"varchar\" AND m.\"doc\"::pg_catalog.text IS NOT DISTINCT FROM "
	    "k.o3::json::pg_catalog.text LIMIT 1) AS m "
	    "WHERE t.tableoid = m.o AND t.ctid = m.i RETURNING 1) "
	    "SELECT foreshadow.expect((SELECT count(*) FROM w), $4, 'public.t delete')");
}

static void a_keyless_update_numbers_the_old_row_first(void **state)
{
	struct fixture *x = *state;

	x->columns[DOC].is_written = false;
	x->sets = 1 << NOTE;
	assert_sql(x, STATEMENT_UPDATE_ONE,
		   "WITH w AS (UPDATE \"public\".\"t\" AS t SET \"no\"\"te\" = "
		   "k.n2::pg_catalog.\"varchar\" FROM (SELECT m.tableoid AS o, m.ctid AS i FROM "
		   "\"public\".\"t\" AS m, (SELECT unnest($1) AS o1, unnest($2) AS o2) AS k WHERE m.\"id\" IS NOT "
		   "DISTINCT FROM k.o1 AND m.\"no\"\"te\" COLLATE pg_catalog.\"C\" IS NOT DISTINCT "
		   "FROM k.o2::pg_catalog.\"varchar\" LIMIT 1) AS m, (SELECT unnest($3) AS n2) AS k "
		   "WHERE t.tableoid = m.o AND t.ctid = m.i RETURNING 1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w), $4, 'public.t update')");
}

/* LABEL = upper(note), and where asked for: only rows with id > 0. */
static void transform(struct fixture *x, char identity, bool filter)
{
	static const char *const names[COLUMNS] = { "id", "no\"te", "doc", "seen" };
	static const uint32_t id[] = { ID }, note[] = { NOTE };

	for (size_t i = 0; i < COLUMNS; i++)
		x->source[i].name = span_str(names[i]);
	x->rel = (struct relation) { .columns = x->source, .column_count = COLUMNS, .identity = identity };
	x->table.rel = &x->rel;
	x->source[ID].type_name = span_str("integer");
	x->source[NOTE].type_name = span_str("character varying");
	x->source[NOTE].collation = span_str("pg_catalog.\"C\"");
	x->columns[NOTE].is_written = false; /* read only */
	x->columns[NOTE].is_read = true;
	x->columns[DOC].is_written = false;
	x->as = (struct expression) { span_str("upper(\"no\"\"te\") -- loud"), note, 1 };
	x->computed = (struct target_computed) {
		.column = { .name = span_str("label"),
			    .type_name = span_str("pg_catalog.text"),
			    .exact_type = span_str("text"),
			    .type_oid = 25,
			    .is_written = true,
			    .is_exact = true },
		.as = &x->as,
	};
	x->table.computed = &x->computed;
	x->table.computed_count = 1;
	if (!filter)
		return;
	x->rel.filter = (struct expression) { span_str("id > 0"), id, 1 };
	x->columns[ID].is_read = true;
}

#define LABEL(n) "(upper(\"no\"\"te\") -- loud\n)::pg_catalog.text AS r" n "1"
#define NOTE_OF(n) "k." n "2::character varying COLLATE pg_catalog.\"C\" AS \"no\"\"te\""
/* Not asked of rows that the filter keeps out. */
#define GUARDED(n) "CASE WHEN (id > 0\n) THEN (upper(\"no\"\"te\") -- loud\n)::pg_catalog.text END AS r" n "1"
#define ID_OF(n) "k." n "1::integer AS \"id\""
#define ROW ") AS \"the source's row\") AS x"

static void a_computed_column_is_an_expression_over_a_row_of_the_source(void **state)
{
	struct fixture *x = *state;

	transform(x, 'd', false);
	assert_sql(x, STATEMENT_INSERT,
		   "WITH w AS (INSERT INTO \"public\".\"t\" AS t (\"id\", \"label\") SELECT k.n1, k.rn1 FROM "
		   "(SELECT * FROM (SELECT unnest($1) AS n1, unnest($2) AS n2) AS k CROSS JOIN LATERAL (SELECT " LABEL("n")
		   " FROM (SELECT " NOTE_OF("n") ROW "n) AS k RETURNING 1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w), $3, 'public.t insert')");
	assert_sql(x, STATEMENT_UPDATE,
		   "WITH w AS (UPDATE \"public\".\"t\" AS t SET \"label\" = k.rn1 FROM "
		   "(SELECT * FROM (SELECT unnest($1) AS o1, unnest($2) AS n2) AS k CROSS JOIN LATERAL (SELECT " LABEL("n")
		   " FROM (SELECT " NOTE_OF("n") ROW "n) AS k "
		   "WHERE t.\"id\" OPERATOR(pg_catalog.=) k.o1 RETURNING 1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w), $3, 'public.t update')");
}

static void what_was_not_sent_leaves_the_computed_column_alone(void **state)
{
	struct fixture *x = *state;

	transform(x, 'd', false);
	x->sets = 1 << ID;
	assert_sql(x, STATEMENT_UPDATE,
		   "WITH w AS (SELECT 1 FROM \"public\".\"t\" AS t, (SELECT unnest($1) AS o1) AS k "
		   "WHERE t.\"id\" OPERATOR(pg_catalog.=) k.o1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w), $2, 'public.t update')");
}

static void a_filtered_insert_counts_what_it_leaves_out(void **state)
{
	struct fixture *x = *state;

	transform(x, 'd', true);
	assert_sql(x, STATEMENT_INSERT,
		   "WITH k AS MATERIALIZED (SELECT * FROM (SELECT unnest($1) AS n1, unnest($2) AS n2) AS k CROSS JOIN LATERAL (SELECT "
		   GUARDED("n") ", (id > 0\n) AS fn FROM (SELECT " ID_OF("n") ", " NOTE_OF("n") ROW "n), "
		   "w AS (INSERT INTO \"public\".\"t\" AS t (\"id\", \"label\") SELECT k.n1, k.rn1 FROM k "
		   "WHERE k.fn RETURNING 1) SELECT foreshadow.expect((SELECT count(*) FROM w) + "
		   "(SELECT count(*) FROM k WHERE k.fn IS NOT TRUE), $3, 'public.t insert')");
}

static void a_filter_over_the_key_keeps_rows_on_their_side(void **state)
{
	struct fixture *x = *state;

	transform(x, 'd', true);
	assert_sql(x, STATEMENT_DELETE,
		   "WITH k AS MATERIALIZED (SELECT * FROM (SELECT unnest($1) AS o1) AS k CROSS JOIN LATERAL (SELECT "
		   "(id > 0\n) AS fo FROM (SELECT " ID_OF("o") ROW "o), "
		   "w AS (DELETE FROM \"public\".\"t\" AS t USING k WHERE t.\"id\" OPERATOR(pg_catalog.=) k.o1 AND k.fo "
		   "RETURNING 1) SELECT foreshadow.expect((SELECT count(*) FROM w) + "
		   "(SELECT count(*) FROM k WHERE k.fo IS NOT TRUE), $2, 'public.t delete')");
}

static void an_update_across_a_filter_is_three_statements_that_count(void **state)
{
	struct fixture *x = *state;

	transform(x, 'f', true);
	assert_sql(x, STATEMENT_UPDATE,
		   "WITH k AS MATERIALIZED (SELECT * FROM (SELECT unnest($1) AS o1, unnest($2) AS n1, unnest($3) AS n2) AS k "
		   "CROSS JOIN LATERAL (SELECT (id > 0\n) AS fo FROM (SELECT " ID_OF("o") ROW "o "
		   "CROSS JOIN LATERAL (SELECT " GUARDED("n") ", (id > 0\n) AS fn FROM (SELECT " ID_OF("n") ", "
		   NOTE_OF("n") ROW "n), "
		   "w AS (UPDATE \"public\".\"t\" AS t SET \"label\" = k.rn1 FROM k "
		   "WHERE t.\"id\" OPERATOR(pg_catalog.=) k.o1 AND k.fo AND k.fn RETURNING 1), "
		   "d AS (DELETE FROM \"public\".\"t\" AS t USING k "
		   "WHERE t.\"id\" OPERATOR(pg_catalog.=) k.o1 AND k.fo AND k.fn IS NOT TRUE RETURNING 1), "
		   "i AS (INSERT INTO \"public\".\"t\" AS t (\"id\", \"label\") SELECT k.n1, k.rn1 FROM k "
		   "WHERE k.fo IS NOT TRUE AND k.fn RETURNING 1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w), (SELECT count(*) FROM k WHERE k.fo AND k.fn), "
		   "'public.t update'), foreshadow.expect((SELECT count(*) FROM d), "
		   "(SELECT count(*) FROM k WHERE k.fo AND k.fn IS NOT TRUE), 'public.t update'), "
		   "foreshadow.expect((SELECT count(*) FROM i), (SELECT count(*) FROM k WHERE k.fo IS NOT TRUE AND k.fn), "
		   "'public.t update'), foreshadow.expect((SELECT count(*) FROM k), $4, 'public.t update')");
}

static void a_merged_table_has_its_origin_in_the_key_and_in_what_is_inserted(void **state)
{
	struct fixture *x = *state;

	transform(x, 'd', false);
	x->table.computed_count = 0;
	x->columns[NOTE].is_read = false;
	x->rel.origin_value = span_str("it's");
	x->origin = (struct target_column) { .name = span_str("shop"),
					     .type_name = span_str("pg_catalog.text"),
					     .equals = span_str("OPERATOR(pg_catalog.=)"),
					     .is_written = true,
					     .is_key = true };
	x->table.origin = &x->origin;
	assert_sql(x, STATEMENT_INSERT,
		   "WITH w AS (INSERT INTO \"public\".\"t\" AS t (\"id\", \"shop\") SELECT k.n1, "
		   "'it''s'::pg_catalog.text FROM (SELECT unnest($1) AS n1) AS k RETURNING 1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w), $2, 'public.t insert')");
	assert_sql(x, STATEMENT_DELETE,
		   "WITH w AS (DELETE FROM \"public\".\"t\" AS t USING (SELECT unnest($1) AS o1) AS k "
		   "WHERE t.\"id\" OPERATOR(pg_catalog.=) k.o1 AND "
		   "t.\"shop\" OPERATOR(pg_catalog.=) 'it''s'::pg_catalog.text RETURNING 1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w), $2, 'public.t delete')");
}

static void a_cascade_may_have_deleted_some_already(void **state)
{
	assert_sql(*state, STATEMENT_DELETE_CASCADED,
		   "WITH w AS (DELETE FROM \"public\".\"t\" AS t USING (SELECT unnest($1) AS o1) AS k "
		   "WHERE t.\"id\" OPERATOR(pg_catalog.=) k.o1 RETURNING 1) "
		   "SELECT foreshadow.expect(greatest((SELECT count(*) FROM w), $2), $2, 'public.t delete')");
}

static void a_cascade_may_have_given_the_row_its_new_key_already(void **state)
{
	struct fixture *x = *state;

	x->sets = 1 << ID;
	assert_sql(x, STATEMENT_REKEY_CASCADED,
		   "WITH k AS MATERIALIZED (SELECT * FROM (SELECT unnest($1) AS o1, unnest($2) AS n1) AS k), "
		   "w AS (UPDATE \"public\".\"t\" AS t SET \"id\" = k.n1 FROM k "
		   "WHERE t.\"id\" OPERATOR(pg_catalog.=) k.n1 RETURNING 1), "
		   "v AS (UPDATE \"public\".\"t\" AS t SET \"id\" = k.n1 FROM k "
		   "WHERE t.\"id\" OPERATOR(pg_catalog.=) k.o1 AND NOT EXISTS (SELECT FROM \"public\".\"t\" AS x "
		   "WHERE x.\"id\" OPERATOR(pg_catalog.=) k.n1) RETURNING 1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w) + (SELECT count(*) FROM v), $3, "
		   "'public.t key change')");
}

#define unit(f) cmocka_unit_test_setup(f, set_up)

int main(void)
{
	const struct CMUnitTest tests[] = {
		unit(an_insert_casts_what_travels_as_another_type_and_leaves_out_generated_columns),
		unit(an_identity_column_is_overridden_in_inserts_and_never_set),
		unit(a_lookup_has_the_row_of_a_key_as_texts),
		unit(an_update_finds_rows_by_key_and_does_not_set_it),
		unit(a_key_whose_equals_is_loose_is_set_too),
		unit(an_update_of_nothing_still_wants_its_row),
		unit(a_key_change_takes_the_old_and_the_new_key),
		unit(a_delete_needs_the_key_alone),
		unit(a_keyless_delete_takes_one_of_the_equal_rows),
		unit(a_keyless_update_numbers_the_old_row_first),
		unit(a_computed_column_is_an_expression_over_a_row_of_the_source),
		unit(what_was_not_sent_leaves_the_computed_column_alone),
		unit(a_filtered_insert_counts_what_it_leaves_out),
		unit(a_filter_over_the_key_keeps_rows_on_their_side),
		unit(an_update_across_a_filter_is_three_statements_that_count),
		unit(a_merged_table_has_its_origin_in_the_key_and_in_what_is_inserted),
		unit(a_cascade_may_have_deleted_some_already),
		unit(a_cascade_may_have_given_the_row_its_new_key_already),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
