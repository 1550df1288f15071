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
	bool sets = op != STATEMENT_DELETE && op != STATEMENT_DELETE_ONE;
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
		   "FROM unnest($1, $2, $3) AS k(n1, n2, n3) RETURNING 1) "
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
	    "FROM unnest($1, $2) AS k(n2, n3) RETURNING 1) "
	    "SELECT foreshadow.expect((SELECT count(*) FROM w), $3, 'public.t insert')");
	assert_sql(x, STATEMENT_UPDATE,
		   "WITH w AS (UPDATE \"public\".\"t\" AS t SET \"doc\" = k.n3::pg_catalog.json "
		   "FROM unnest($1, $2) AS k(o1, n3) WHERE t.\"id\" OPERATOR(pg_catalog.=) k.o1 "
		   "RETURNING 1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w), $3, 'public.t update')");
}

static void an_update_finds_rows_by_key_and_does_not_set_it(void **state)
{
	assert_sql(*state, STATEMENT_UPDATE,
		   "WITH w AS (UPDATE \"public\".\"t\" AS t SET \"no\"\"te\" = "
		   "k.n2::pg_catalog.\"varchar\", \"doc\" = k.n3::pg_catalog.json "
		   "FROM unnest($1, $2, $3) AS k(o1, n2, n3) "
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
		   "FROM unnest($1, $2) AS k(o1, n1) "
		   "WHERE t.\"id\" OPERATOR(pg_catalog.=) k.o1 RETURNING 1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w), $3, 'public.t update')");
}

static void an_update_of_nothing_still_wants_its_row(void **state)
{
	struct fixture *x = *state;

	x->sets = 1 << ID;
	assert_sql(x, STATEMENT_UPDATE,
		   "WITH w AS (SELECT 1 FROM \"public\".\"t\" AS t, unnest($1) AS k(o1) "
		   "WHERE t.\"id\" OPERATOR(pg_catalog.=) k.o1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w), $2, 'public.t update')");
}

static void a_key_change_takes_the_old_and_the_new_key(void **state)
{
	struct fixture *x = *state;

	x->sets = 1 << ID;
	assert_sql(x, STATEMENT_REKEY,
		   "WITH w AS (UPDATE \"public\".\"t\" AS t SET \"id\" = k.n1 "
		   "FROM unnest($1, $2) AS k(o1, n1) "
		   "WHERE t.\"id\" OPERATOR(pg_catalog.=) k.o1 RETURNING 1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w), $3, 'public.t key change')");
}

static void a_delete_needs_the_key_alone(void **state)
{
	assert_sql(*state, STATEMENT_DELETE,
		   "WITH w AS (DELETE FROM \"public\".\"t\" AS t USING unnest($1) AS k(o1) "
		   "WHERE t.\"id\" OPERATOR(pg_catalog.=) k.o1 RETURNING 1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w), $2, 'public.t delete')");
}

static void a_keyless_delete_takes_one_of_the_equal_rows(void **state)
{
	assert_sql(
	    *state, STATEMENT_DELETE_ONE,
	    "WITH w AS (DELETE FROM \"public\".\"t\" AS t USING "
	    "(SELECT m.tableoid AS o, m.ctid AS i FROM \"public\".\"t\" AS m, "
	    "unnest($1, $2, $3) AS k(o1, o2, o3) WHERE m.\"id\" IS NOT DISTINCT FROM k.o1 "
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
		   "\"public\".\"t\" AS m, unnest($1, $2) AS k(o1, o2) WHERE m.\"id\" IS NOT "
		   "DISTINCT FROM k.o1 AND m.\"no\"\"te\" COLLATE pg_catalog.\"C\" IS NOT DISTINCT "
		   "FROM k.o2::pg_catalog.\"varchar\" LIMIT 1) AS m, unnest($3) AS k(n2) "
		   "WHERE t.tableoid = m.o AND t.ctid = m.i RETURNING 1) "
		   "SELECT foreshadow.expect((SELECT count(*) FROM w), $4, 'public.t update')");
}

#define unit(f) cmocka_unit_test_setup(f, set_up)

int main(void)
{
	const struct CMUnitTest tests[] = {
		unit(an_insert_casts_what_travels_as_another_type_and_leaves_out_generated_columns),
		unit(an_identity_column_is_overridden_in_inserts_and_never_set),
		unit(an_update_finds_rows_by_key_and_does_not_set_it),
		unit(a_key_whose_equals_is_loose_is_set_too),
		unit(an_update_of_nothing_still_wants_its_row),
		unit(a_key_change_takes_the_old_and_the_new_key),
		unit(a_delete_needs_the_key_alone),
		unit(a_keyless_delete_takes_one_of_the_equal_rows),
		unit(a_keyless_update_numbers_the_old_row_first),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
