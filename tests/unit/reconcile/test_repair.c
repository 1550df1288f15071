// SPDX-License-Identifier: Apache-2.0
/* When the source's row is that of the place at which a partition stands. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "reconcile/repair.h"

static const struct repair_event both = { .is_seen = true, .is_applied = true };
static const struct repair_event neither = { 0 };
static const struct repair_event seen_only = { .is_seen = true };
static const struct repair_event applied_only = { .is_applied = true };

static void the_same_changes_fit(void **state)
{
	const struct repair_event events[] = { both, both, neither };

	assert_int_equal(repair_fits(events, 3, true, false), REPAIR_FITS);
	assert_int_equal(repair_fits(events, 3, true, true), REPAIR_FITS);
}

static void a_newer_row_does_not_fit(void **state)
{
	const struct repair_event events[] = { both, seen_only };

	assert_int_equal(repair_fits(events, 2, true, true), REPAIR_CHANGES);
}

/* The commit is in the stream, and waits for a standby: the snapshot does not see it. */
static void an_older_row_does_not_fit(void **state)
{
	const struct repair_event events[] = { both, applied_only };

	assert_int_equal(repair_fits(events, 2, true, true), REPAIR_CHANGES);
}

static void without_a_change_old_transactions_count(void **state)
{
	assert_int_equal(repair_fits(NULL, 0, true, true), REPAIR_FITS);
	assert_int_equal(repair_fits(NULL, 0, true, false), REPAIR_UNSETTLED);
	assert_int_equal(repair_fits(&neither, 1, true, false), REPAIR_UNSETTLED);
}

/* Seeing a change of another row says nothing about this one's. */
static void changes_of_the_table_do_not_stand_for_the_key(void **state)
{
	assert_int_equal(repair_fits(&both, 1, false, false), REPAIR_UNSETTLED);
	assert_int_equal(repair_fits(&both, 1, false, true), REPAIR_FITS);
}

/* An empty table may be that of a TRUNCATE that the snapshot is older than. */
static void a_truncate_must_be_seen(void **state)
{
	struct repair_event truncate = { .is_table = true };

	assert_int_equal(repair_fits(&truncate, 1, true, true), REPAIR_CHANGES);
	truncate.is_seen = truncate.is_applied = true;
	assert_int_equal(repair_fits(&truncate, 1, true, true), REPAIR_FITS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_same_changes_fit),
		cmocka_unit_test(a_newer_row_does_not_fit),
		cmocka_unit_test(an_older_row_does_not_fit),
		cmocka_unit_test(without_a_change_old_transactions_count),
		cmocka_unit_test(changes_of_the_table_do_not_stand_for_the_key),
		cmocka_unit_test(a_truncate_must_be_seen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
