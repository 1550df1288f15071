// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "reconcile/pace.h"

enum { MS = 1000, NOW = 1000 * 1000 * 1000 };

static void the_source_works_for_its_share_of_the_time(void **state)
{
	struct pace p;

	pace_init(&p, 0.1);
	assert_int_equal(pace_wait(&p, NOW), 0);
	pace_took(&p, NOW, 100 * MS);
	assert_int_equal(pace_wait(&p, NOW), 900 * MS);
	assert_int_equal(pace_wait(&p, NOW + 900 * MS), 0);
	pace_init(&p, 1);
	pace_took(&p, NOW, 100 * MS);
	assert_int_equal(pace_wait(&p, NOW), 0);
}

static void a_slow_source_is_asked_less(void **state)
{
	struct pace p;

	pace_init(&p, 0.5);
	for (int i = 0; i < 10; i++)
		pace_answered(&p, 3 * MS);
	assert_false(pace_backs_off(&p));
	pace_answered(&p, 19 * MS);
	assert_false(pace_backs_off(&p));
	pace_answered(&p, 50 * MS);
	pace_answered(&p, 50 * MS);
	assert_true(pace_backs_off(&p));
	pace_took(&p, NOW, 100 * MS);
	assert_int_equal(pace_wait(&p, NOW), 400 * MS);
	for (int i = 0; i < 20; i++)
		pace_answered(&p, 50 * MS);
	pace_took(&p, NOW + 400 * MS, 100 * MS);
	assert_int_equal(pace_wait(&p, NOW + 400 * MS), 800 * MS);
	for (int i = 0; i < 3; i++)
		pace_answered(&p, 3 * MS);
	assert_false(pace_backs_off(&p));
}

static void what_is_slow_for_long_becomes_usual(void **state)
{
	struct pace p;

	pace_init(&p, 0.5);
	pace_answered(&p, 3 * MS);
	for (int i = 0; i < 1000; i++)
		pace_answered(&p, 50 * MS);
	assert_false(pace_backs_off(&p));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_source_works_for_its_share_of_the_time),
		cmocka_unit_test(a_slow_source_is_asked_less),
		cmocka_unit_test(what_is_slow_for_long_becomes_usual),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
