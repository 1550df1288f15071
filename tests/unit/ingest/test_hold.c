// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ingest/hold.h"

static int set_up(void **state)
{
	static struct hold h;

	hold_init(&h);
	*state = &h;
	return 0;
}

static int tear_down(void **state)
{
	hold_release(*state);
	return 0;
}

static void assert_front(struct hold *h, uint64_t number, const char *key, const char *record)
{
	struct held r;

	assert_true(hold_front(h, &r));
	assert_int_equal(r.number, number);
	assert_true(key ? span_eq(r.key, span_str(key)) : !r.key.p);
	assert_true(span_eq(r.record, span_str(record)));
	hold_shift(h);
}

static void assert_empty(const struct hold *h)
{
	struct held r;

	assert_false(hold_front(h, &r));
	assert_int_equal(h->bytes.n, 0);
}

static void records_come_out_as_they_went_in(void **state)
{
	struct hold *h = *state;

	assert_empty(h);
	assert_true(hold_add(h, &(struct held) { span_str("k"), span_str("first"), 1 }));
	assert_true(hold_add(h, &(struct held) { { 0 }, span_str("no key"), 2 }));
	assert_true(hold_add(h, &(struct held) { span_str(""), span_str(""), UINT64_MAX }));
	assert_front(h, 1, "k", "first");
	assert_front(h, 2, NULL, "no key");
	assert_front(h, UINT64_MAX, "", "");
	assert_empty(h);
}

/* Handing over was cut off, and goes on later. */
static void what_was_taken_does_not_come_again(void **state)
{
	struct hold *h = *state;

	assert_true(hold_add(h, &(struct held) { { 0 }, span_str("a"), 1 }));
	assert_true(hold_add(h, &(struct held) { { 0 }, span_str("b"), 2 }));
	assert_front(h, 1, NULL, "a");
	assert_true(hold_add(h, &(struct held) { { 0 }, span_str("c"), 3 }));
	assert_front(h, 2, NULL, "b");
	assert_front(h, 3, NULL, "c");
	assert_empty(h);
}

/* What the caller does: hands over at HOLD_BYTES, and never holds a record above HOLD_RECORD_BYTES. */
static void the_largest_record_fits_below_the_mark(void **state)
{
	static char large[HOLD_RECORD_BYTES];
	struct hold *h = *state;
	struct held r = { .record = span(large, 1000) };
	size_t added = 1;

	while (h->bytes.n + 1100 < HOLD_BYTES) {
		assert_true(hold_add(h, &r));
		added++;
	}
	r.record.n = sizeof(large);
	assert_true(hold_add(h, &r));
	for (; hold_front(h, &r); hold_shift(h))
		added--;
	assert_int_equal(added, 0);
	assert_int_equal(r.record.n, sizeof(large));
}

static void what_does_not_fit_leaves_no_trace(void **state)
{
	static char much[4 * HOLD_BYTES];
	struct hold *h = *state;

	assert_true(hold_add(h, &(struct held) { { 0 }, span_str("a"), 1 }));
	assert_false(hold_add(h, &(struct held) { { 0 }, span(much, sizeof(much)), 2 }));
	assert_true(hold_add(h, &(struct held) { { 0 }, span_str("b"), 3 }));
	assert_front(h, 1, NULL, "a");
	assert_front(h, 3, NULL, "b");
	assert_empty(h);
}

static void few_records_are_not_held(void **state)
{
	(void)state;
	assert_int_equal(hold_next_us(0, 0, 12), 0);
	assert_int_equal(hold_next_us(0, 12 * HOLD_BUSY_RECORDS - 1, 12), 0);
}

static void many_are_held_longer_up_to_a_limit(void **state)
{
	uint32_t us = 0, last = 0;

	(void)state;
	for (int i = 0; i < 10; i++) {
		us = hold_next_us(us, 12 * HOLD_BUSY_RECORDS, 12);
		assert_true(us > last || us == HOLD_LAST_US);
		last = us;
	}
	assert_int_equal(us, HOLD_LAST_US);
}

static void when_they_become_few_it_ends(void **state)
{
	uint32_t us = HOLD_LAST_US;
	int steps = 0;

	(void)state;
	for (; us > 0; steps++)
		us = hold_next_us(us, 1, 12);
	assert_in_range(steps, 2, 8);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(records_come_out_as_they_went_in),
		TEST(what_was_taken_does_not_come_again),
		TEST(the_largest_record_fits_below_the_mark),
		TEST(what_does_not_fit_leaves_no_trace),
		TEST(few_records_are_not_held),
		TEST(many_are_held_longer_up_to_a_limit),
		TEST(when_they_become_few_it_ends),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
