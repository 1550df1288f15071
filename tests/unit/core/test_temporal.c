// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/temporal.h"

static struct span printed_date(int32_t days)
{
	static char text[TEMPORAL_TEXT];

	return span(text, temporal_print_date(days, text));
}

static struct span printed_timestamp(int64_t us, bool with_zone)
{
	static char text[TEMPORAL_TEXT];

	return span(text, temporal_print_timestamp(us, with_zone, text));
}

static void assert_span(struct span got, const char *wanted)
{
	if (!span_eq_str(got, wanted))
		fail_msg("got \"%.*s\", wanted \"%s\"", SPAN_ARG(got), wanted);
}

static void each_day_follows_the_one_before(void **state)
{
	static const int month_days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
	int32_t day = -730850; /* two years before 0001-01-01 */
	int32_t parsed;

	assert_span(printed_date(day), "0002-01-01 BC");
	for (int year = -1; year < 2401; year++) {
		bool is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);

		for (int month = 1; month <= 12; month++) {
			int last = month_days[month - 1] + (month == 2 && is_leap);

			for (int d = 1; d <= last; d++, day++) {
				struct span text = printed_date(day);

				assert_int_equal((text.p[5] - '0') * 10 + text.p[6] - '0', month);
				assert_int_equal((text.p[8] - '0') * 10 + text.p[9] - '0', d);
				assert_true(temporal_parse_date(text, &parsed));
				assert_int_equal(parsed, day);
			}
		}
	}
	assert_span(printed_date(day), "2401-01-01");
}

static void dates_reach_as_far_as_the_type(void **state)
{
	int32_t day;

	assert_span(printed_date(-2451545), "4714-11-24 BC");
	assert_span(printed_date(2145031948), "5874897-12-31");
	assert_true(temporal_date_is_valid(-2451545));
	assert_false(temporal_date_is_valid(-2451546));
	assert_true(temporal_date_is_valid(2145031948));
	assert_false(temporal_date_is_valid(2145031949));
	assert_true(temporal_parse_date(span_str("5874897-12-31"), &day));
	assert_int_equal(day, 2145031948);
	assert_false(temporal_parse_date(span_str("5874898-01-01"), &day));
	assert_false(temporal_parse_date(span_str("4714-11-23 BC"), &day));
}

static void timestamps_reach_as_far_as_the_type(void **state)
{
	int64_t us;

	assert_span(printed_timestamp(INT64_C(-211813488000000000), false),
		    "4714-11-24 00:00:00 BC");
	assert_span(printed_timestamp(INT64_C(9223371331199999999), true),
		    "294276-12-31 23:59:59.999999+00");
	assert_false(temporal_timestamp_is_valid(INT64_C(9223371331200000000)));
	assert_false(temporal_timestamp_is_valid(INT64_C(-211813488000000001)));
	assert_false(temporal_parse_timestamp(span_str("294277-01-01 00:00:00"), false, &us));
	assert_false(temporal_parse_timestamp(span_str("4714-11-23 23:59:59 BC"), false, &us));
}

static void fractions_have_no_trailing_zeros(void **state)
{
	assert_span(printed_timestamp(0, true), "2000-01-01 00:00:00+00");
	assert_span(printed_timestamp(100000, true), "2000-01-01 00:00:00.1+00");
	assert_span(printed_timestamp(1, true), "2000-01-01 00:00:00.000001+00");
	assert_span(printed_timestamp(-1, true), "1999-12-31 23:59:59.999999+00");
	assert_span(printed_timestamp(-TEMPORAL_DAY_US, false), "1999-12-31 00:00:00");
}

static void infinity_is_the_extreme_of_the_type(void **state)
{
	int32_t day;
	int64_t us;

	assert_span(printed_date(INT32_MAX), "infinity");
	assert_span(printed_date(INT32_MIN), "-infinity");
	assert_span(printed_timestamp(INT64_MAX, true), "infinity");
	assert_span(printed_timestamp(INT64_MIN, false), "-infinity");
	assert_true(temporal_parse_date(span_str("-infinity"), &day));
	assert_int_equal(day, INT32_MIN);
	assert_true(temporal_parse_timestamp(span_str("infinity"), true, &us));
	assert_true(us == INT64_MAX);
}

static void midnight_at_the_end_is_a_time_but_nothing_later(void **state)
{
	int64_t us;

	assert_true(temporal_parse_time(span_str("24:00:00"), &us));
	assert_true(us == TEMPORAL_DAY_US);
	assert_false(temporal_parse_time(span_str("24:00:00.000001"), &us));
	assert_false(temporal_parse_time(span_str("24:01:00"), &us));
	assert_false(temporal_parse_time(span_str("25:00:00"), &us));
	assert_false(temporal_parse_timestamp(span_str("2024-01-01 24:00:00"), false, &us));
}

static void what_the_server_does_not_print_is_refused(void **state)
{
	static const char *const dates[] = {
		"",
		"2024",
		"2024-1-1",
		"24-01-01",
		"2024-00-01",
		"2024-13-01",
		"2024-01-00",
		"2024-01-32",
		"2023-02-29",
		"1900-02-29",
		"0000-01-01",
		"2024-01-01 ",
		"2024-01-01 AD",
		"2024-01-01 BCE",
		"2024-01-01BC",
		"-2024-01-01",
		"2024/01/01",
		"12345678-01-01",
		"0004-02-29 BC",
		"Infinity",
		"infinity ",
		"2024-0a-01",
		"2024-01-0\xff",
	};
	static const char *const times[] = {
		"",
		"10",
		"10:00",
		"1:00:00",
		"10:60:00",
		"10:00:60",
		"10:00:00.",
		"10:00:00 ",
		"10:00:00.1234567",
		"10:00:00+00",
		"\xff\xff:00:00",
	};
	static const char *const timestamps[] = {
		"2024-01-01",
		"2024-01-01 10:00:00",
		"2024-01-01T10:00:00+00",
		"2024-01-01 10:00:00+01",
		"2024-01-01 10:00:00+00:00",
		"2024-01-01 10:00:00-00",
		"2024-01-01 BC 10:00:00+00",
		"2024-01-01 10:00:00 BC",
		"2024-01-01 10:00:00Z",
	};
	int32_t day;
	int64_t us;

	for (size_t i = 0; i < sizeof(dates) / sizeof(dates[0]); i++)
		if (temporal_parse_date(span_str(dates[i]), &day))
			fail_msg("\"%s\" was read as a date", dates[i]);
	for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++)
		if (temporal_parse_time(span_str(times[i]), &us))
			fail_msg("\"%s\" was read as a time", times[i]);
	for (size_t i = 0; i < sizeof(timestamps) / sizeof(timestamps[0]); i++)
		if (temporal_parse_timestamp(span_str(timestamps[i]), true, &us))
			fail_msg("\"%s\" was read as a timestamptz", timestamps[i]);
}

/* Also every cut of a good text, from memory that ends where the text does. */
static void a_cut_text_is_refused(void **state)
{
	const char *good = "2024-02-29 10:00:00.5+00 BC";
	char copy[32];
	int64_t us;

	for (size_t n = 0; n < strlen(good); n++) {
		char *end = copy + sizeof(copy) - n;

		memcpy(end, good, n);
		if (n != strlen("2024-02-29 10:00:00.5+00"))
			assert_false(temporal_parse_timestamp(span(end, n), true, &us));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_day_follows_the_one_before),
		cmocka_unit_test(dates_reach_as_far_as_the_type),
		cmocka_unit_test(timestamps_reach_as_far_as_the_type),
		cmocka_unit_test(fractions_have_no_trailing_zeros),
		cmocka_unit_test(infinity_is_the_extreme_of_the_type),
		cmocka_unit_test(midnight_at_the_end_is_a_time_but_nothing_later),
		cmocka_unit_test(what_the_server_does_not_print_is_refused),
		cmocka_unit_test(a_cut_text_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
