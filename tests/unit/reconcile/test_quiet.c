// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "reconcile/quiet.h"

static uint64_t commit;
static const char *oids;

static size_t tables_of(const char *message, size_t n)
{
	size_t count;

	quiet_message(span(message, n), &commit, &oids, &count);
	return count;
}

static void a_begin_says_where_its_transaction_commits(void **state)
{
	static const char begin[] = "B\0\0\0\1\2\3\4\5" "12345678" "xxxx";

	assert_int_equal(tables_of(begin, sizeof(begin) - 1), 0);
	assert_int_equal(commit, 0x0102030405);
	assert_int_equal(tables_of("C\0", 2), 0);
	assert_int_equal(commit, 0x0102030405);
}

static void changes_name_their_tables(void **state)
{
	assert_int_equal(tables_of("I\0\0\1\2N", 6), 1);
	assert_memory_equal(oids, "\0\0\1\2", 4);
	assert_int_equal(tables_of("U\0\0\1\2N", 6), 1);
	assert_int_equal(tables_of("D\0\0\1\2K", 6), 1);
	assert_int_equal(tables_of("T\0\0\0\2\0\0\0\1\2\0\0\1\3", 14), 2);
	assert_memory_equal(oids, "\0\0\1\2\0\0\1\3", 8);
	assert_int_equal(tables_of("R\0\0\1\2", 5), 0);
}

static void what_is_cut_short_is_not_read_beyond(void **state)
{
	assert_int_equal(tables_of("", 0), 0);
	assert_int_equal(tables_of("I\0\0\1", 4), 0);
	assert_int_equal(tables_of("T\0\0\0\2", 5), 0);
	assert_int_equal(tables_of("T\xff\xff\xff\xff\0\0\0\1\2\0", 11), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_begin_says_where_its_transaction_commits),
		cmocka_unit_test(changes_name_their_tables),
		cmocka_unit_test(what_is_cut_short_is_not_read_beyond),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
