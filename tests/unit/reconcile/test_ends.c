// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "reconcile/ends.h"

enum { MINUTE_US = 60 * 1000 * 1000 };

static const struct migration with_gate = { .window_ms = 5000 }, without_gate = { .window_ms = 0 };

static void only_a_primary_behind_a_gate_is_waited_for_longer(void **state)
{
	const struct ends gated = { .m = &with_gate }, open = { .m = &without_gate };

	assert_int_equal(ends_patience_us(&gated, ROLE_PRIMARY), INT64_C(10) * MINUTE_US);
	assert_int_equal(ends_patience_us(&gated, ROLE_SHADOW), MINUTE_US);
	assert_int_equal(ends_patience_us(&open, ROLE_PRIMARY), MINUTE_US);
	assert_int_equal(ends_patience_us(&open, ROLE_SHADOW), MINUTE_US);
}

static void who_is_patient_waits_for_ever(void **state)
{
	const struct ends windows = { .m = &with_gate, .is_patient = true };

	assert_true(ends_patience_us(&windows, ROLE_PRIMARY) == INT64_MAX);
	assert_true(ends_patience_us(&windows, ROLE_SHADOW) == INT64_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_a_primary_behind_a_gate_is_waited_for_longer),
		cmocka_unit_test(who_is_patient_waits_for_ever),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
