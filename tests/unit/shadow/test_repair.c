// SPDX-License-Identifier: Apache-2.0
/* What the owner of a partition does about a row of foreshadow.repairs, and what people are told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shadow/lane.h"
#include "shadow/repair.h"

enum { HOLD_US = 1000 };

static const struct repair_place open_place = { .epoch = 7, .may_hold = true };
static const struct repair_place held_place = { .epoch = 7, .is_held = true, .held_us = 10 };

static struct repair_ask ask(enum repair_state state)
{
	return (struct repair_ask) { .state = state, .has_asker = true, .hold_us = HOLD_US, .epoch = 7 };
}

static void asked_holds_where_it_may(void **state)
{
	struct repair_place busy = { .epoch = 7 };
	struct repair_ask a = ask(REPAIR_ASKED);

	assert_int_equal(repair_next(&a, &open_place), REPAIR_HOLD);
	assert_int_equal(repair_next(&a, &held_place), REPAIR_HOLD);
	assert_int_equal(repair_next(&a, &busy), REPAIR_PASS);
}

static void a_hold_is_over_when_nobody_waits(void **state)
{
	for (int i = REPAIR_ASKED; i <= REPAIR_READY; i++) {
		struct repair_ask a = ask((enum repair_state)i);

		a.has_asker = false;
		assert_int_equal(repair_next(&a, &held_place), REPAIR_PASS);
	}
}

static void a_hold_is_over_when_its_time_is(void **state)
{
	struct repair_place late = held_place;
	struct repair_ask a = ask(REPAIR_HELD);

	assert_int_equal(repair_next(&a, &held_place), REPAIR_WAIT);
	late.held_us = HOLD_US;
	assert_int_equal(repair_next(&a, &late), REPAIR_PASS);
	a = ask(REPAIR_ASKED); /* and nobody prolongs it */
	assert_int_equal(repair_next(&a, &late), REPAIR_PASS);
	a = ask(REPAIR_HELD);
	a.hold_us = INT64_MAX;
	late.held_us = LANE_HELD_MAX_US;
	assert_int_equal(repair_next(&a, &late), REPAIR_PASS);
}

static void only_the_hold_it_was_answered_for_writes_it(void **state)
{
	struct repair_ask a = ask(REPAIR_READY);

	assert_int_equal(repair_next(&a, &held_place), REPAIR_WRITE);
	assert_int_equal(repair_next(&a, &open_place), REPAIR_PASS);
	a.epoch = 6;
	assert_int_equal(repair_next(&a, &held_place), REPAIR_PASS);
}

static void what_was_written_is_told_by_anybody(void **state)
{
	struct repair_ask a = ask(REPAIR_WRITTEN);

	a.has_asker = false;
	a.epoch = 1;
	assert_int_equal(repair_next(&a, &open_place), REPAIR_TELL);
}

/* Freed by the caller. */
static char *repair_text(const struct incident_repair *r)
{
	json_t *o = incident_repair_json(r);
	char *text = json_dumps(o, JSON_COMPACT);

	json_decref(o);
	return text;
}

static void an_incident_has_both_rows(void **state)
{
	struct incident_repair r = { .role = "shadow", .topic = "m.changes", .partition = 3, .table = span_str("a.b"),
				     .key = span_str("[\"a\",\"b\",\"1\"]"), .before = span_str("{\"n\":\"1.50\",\"v\":null}") };
	char *text = repair_text(&r);

	assert_non_null(strstr(text, "\"class\":\"repair\""));
	assert_non_null(strstr(text, "\"before\":{\"n\":\"1.50\",\"v\":null},\"after\":null"));
	free(text);
}

/* Kafka takes no record without bound. */
static void long_values_are_cut_between_characters(void **state)
{
	size_t n = INCIDENT_ROWS_BYTES, i;
	char *row = malloc(n + 64), *text;
	struct incident_repair r = { .role = "shadow", .topic = "m.changes" };

	strcpy(row, "{\"short\":\"s\",\"v\":\"");
	strcat(row, "odd");
	for (i = strlen(row); i <= n; i += 2)
		memcpy(row + i, "\xc3\xbc", 2);
	strcpy(row + i, "\"}");
	r.after = span_str(row);
	text = repair_text(&r);
	assert_non_null(text);
	assert_true(strlen(text) < 2000);
	assert_non_null(strstr(text, "\"short\":\"s\""));
	assert_non_null(strstr(text, " bytes)"));
	free(text);
	free(row);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(asked_holds_where_it_may),
		cmocka_unit_test(a_hold_is_over_when_nobody_waits),
		cmocka_unit_test(a_hold_is_over_when_its_time_is),
		cmocka_unit_test(only_the_hold_it_was_answered_for_writes_it),
		cmocka_unit_test(what_was_written_is_told_by_anybody),
		cmocka_unit_test(an_incident_has_both_rows),
		cmocka_unit_test(long_values_are_cut_between_characters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
