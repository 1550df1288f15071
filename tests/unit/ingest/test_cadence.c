// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ingest/cadence.h"

enum { MS = 1000, SECOND = 1000 * MS };

/* How often in these seconds, asked every millisecond. */
static int count(struct cadence *c, int64_t from_us, int64_t until_us)
{
	int n = 0;

	for (int64_t now_us = from_us; now_us < until_us; now_us += MS)
		if (now_us >= c->due_us) {
			cadence_done(c, now_us);
			n++;
		}
	return n;
}

static void once_an_interval(void **state)
{
	struct cadence c = { .interval_us = 200 * MS };

	(void)state;
	count(&c, 100 * SECOND, 110 * SECOND);
	assert_in_range(count(&c, 110 * SECOND, 120 * SECOND), 49, 51);
}

static void a_quiet_while_is_worth_a_few(void **state)
{
	struct cadence c = { .interval_us = 200 * MS };

	(void)state;
	count(&c, 100 * SECOND, 110 * SECOND);
	/* as many as were saved, and not more for a longer while */
	assert_in_range(count(&c, 500 * SECOND, 500 * SECOND + 100 * MS), CADENCE_SAVED, CADENCE_SAVED + 2);
	assert_int_equal(count(&c, 500 * SECOND + 100 * MS, 500 * SECOND + 190 * MS), 0);
}

static void what_was_done_too_soon_is_not_owed(void **state)
{
	struct cadence c = { .interval_us = 200 * MS };

	(void)state;
	for (int i = 0; i < 10000; i++)
		cadence_done(&c, 100 * SECOND + i);
	assert_in_range(c.due_us, 100 * SECOND, 100 * SECOND + 10000 + 200 * MS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(once_an_interval),
		cmocka_unit_test(a_quiet_while_is_worth_a_few),
		cmocka_unit_test(what_was_done_too_soon_is_not_owed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
