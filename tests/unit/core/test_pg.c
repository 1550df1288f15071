// SPDX-License-Identifier: Apache-2.0
/* What of pg needs no server; and how a server that is not there is reported. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/buf.h"
#include "core/clock.h"
#include "core/pg.h"

static void names_and_literals_are_quoted(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 1000);
	pg_quote_ident(&b, span_str("a\"b"));
	pg_quote_literal(&b, span_str("it's \\ \""));
	pg_quote_table(&b, span_str("S x"), span_str("t"));
	assert_string_equal(buf_cstr(&b), "\"a\"\"b\"'it''s \\ \"'\"S x\".\"t\"");
	buf_reset(&b);
	pg_array_begin(&b);
	pg_array_add(&b, span_str("a,\"b\\"));
	pg_array_add(&b, span(NULL, 0));
	pg_array_add(&b, span_str(""));
	pg_array_end(&b);
	assert_string_equal(buf_cstr(&b), "{\"a,\\\"b\\\\\",NULL,\"\"}");
	buf_release(&b);
}

static void a_sqlstate_says_what_the_caller_may_do(void **state)
{
	static const struct {
		const char *sqlstate;
		enum fault_kind kind;
	} rows[] = {
		{ "08006", FAULT_ENVIRONMENT }, { "57P01", FAULT_ENVIRONMENT },
		{ "57P03", FAULT_ENVIRONMENT }, { "53100", FAULT_ENVIRONMENT },
		{ "40P01", FAULT_ENVIRONMENT }, { "40001", FAULT_ENVIRONMENT },
		{ "25006", FAULT_ENVIRONMENT }, { "55P03", FAULT_ENVIRONMENT },
		{ "FS001", FAULT_FENCED },      { "FS002", FAULT_DATA },
		{ "42501", FAULT_STOP },        { "42P01", FAULT_STOP },
		{ "28P01", FAULT_STOP },        { "3D000", FAULT_STOP },
		{ "57P04", FAULT_STOP },        { "23505", FAULT_DATA },
		{ "40002", FAULT_DATA },        { "22003", FAULT_DATA },
		{ "P0001", FAULT_DATA },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		if (pg_fault_kind(rows[i].sqlstate) != rows[i].kind)
			fail_msg("%s is %s", rows[i].sqlstate,
				 fault_kind_name(pg_fault_kind(rows[i].sqlstate)));
}

static void a_server_that_is_down_is_named(void **state)
{
	struct pg_server s = { .uri = "postgresql://app:canary@127.0.0.1:1/shop",
			       .name = "source" };
	struct fault f;

	(void)state;
	assert_null(pg_connect(&s, PG_PLAIN, "test", &f));
	assert_int_equal(f.kind, FAULT_ENVIRONMENT);
	assert_non_null(strstr(f.text, "source"));
	assert_non_null(strstr(f.text, "host 127.0.0.1, port 1, database shop, user app"));
	assert_non_null(strstr(f.text, "next step"));
	assert_null(strstr(f.text, "canary"));
	assert_null(strchr(f.text, '\n'));
}

static void a_string_libpq_cannot_read_is_not_shown(void **state)
{
	struct pg_server s = { .uri = "postgresql://app:canary@[h/shop", .name = "target" };
	struct fault f;

	(void)state;
	assert_null(pg_connect(&s, PG_PLAIN, "test", &f));
	assert_non_null(strstr(f.text, "target"));
	assert_null(strstr(f.text, "canary"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_and_literals_are_quoted),
		cmocka_unit_test(a_sqlstate_says_what_the_caller_may_do),
		cmocka_unit_test(a_server_that_is_down_is_named),
		cmocka_unit_test(a_string_libpq_cannot_read_is_not_shown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
