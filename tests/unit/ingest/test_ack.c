// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "ingest/ack.h"

enum { PARTITIONS = 3, BARRIERS = 4 };

static int setup(void **state)
{
	*state = ack_new(PARTITIONS, BARRIERS, (struct boundary) { 50 });
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	ack_free(*state);
	return 0;
}

static void assert_confirmed(const struct ack *a, uint64_t wanted)
{
	assert_int_equal(ack_confirmed(a).v, wanted);
}

/* A change in partition p, then barrier x in every partition. */
static void transaction(struct ack *a, int p, uint64_t x)
{
	ack_sent(a, p);
	for (int i = 0; i < PARTITIONS; i++)
		ack_sent(a, i);
	ack_barrier(a, (struct boundary) { x });
}

static void deliver(struct ack *a, int p, uint64_t from, uint64_t to)
{
	for (uint64_t n = from; n <= to; n++)
		assert_true(ack_delivered(a, p, n, NULL));
}

static void nothing_is_confirmed_beyond_the_start(void **state)
{
	assert_confirmed(*state, 50);
	ack_sent(*state, 0);
	assert_true(ack_delivered(*state, 0, 1, NULL));
	assert_confirmed(*state, 50);
}

static void confirmed_waits_for_every_partition(void **state)
{
	struct ack *a = *state;

	transaction(a, 1, 100);
	deliver(a, 0, 1, 1);
	deliver(a, 1, 1, 2);
	assert_confirmed(a, 50);
	deliver(a, 2, 1, 1);
	assert_confirmed(a, 100);
}

static void confirmed_waits_for_the_change_before_the_barrier(void **state)
{
	struct ack *a = *state;

	transaction(a, 1, 100);
	deliver(a, 0, 1, 1);
	deliver(a, 2, 1, 1);
	deliver(a, 1, 1, 1); /* the change; its partition's barrier is still out */
	assert_confirmed(a, 50);
	deliver(a, 1, 2, 2);
	assert_confirmed(a, 100);
}

static void confirmed_waits_for_the_oldest(void **state)
{
	struct ack *a = *state;

	transaction(a, 2, 100);
	transaction(a, 0, 200);
	deliver(a, 0, 1, 3);
	deliver(a, 1, 1, 2);
	assert_confirmed(a, 50);
	deliver(a, 2, 1, 2);
	assert_confirmed(a, 100);
	deliver(a, 2, 3, 3);
	assert_confirmed(a, 200);
}

static void one_report_can_confirm_several(void **state)
{
	struct ack *a = *state;

	transaction(a, 0, 100);
	transaction(a, 0, 200);
	transaction(a, 0, 300);
	deliver(a, 1, 1, 3);
	deliver(a, 2, 1, 3);
	deliver(a, 0, 1, 5);
	assert_confirmed(a, 200);
	deliver(a, 0, 6, 6);
	assert_confirmed(a, 300);
	assert_int_equal(ack_outstanding(a), 0);
	assert_int_equal(ack_total(a), 12);
}

static void a_change_after_the_barrier_does_not_hold_it_back(void **state)
{
	struct ack *a = *state;

	transaction(a, 0, 100);
	ack_sent(a, 2);
	deliver(a, 0, 1, 2);
	deliver(a, 1, 1, 1);
	deliver(a, 2, 1, 1);
	assert_confirmed(a, 100);
	assert_int_equal(ack_outstanding(a), 1);
}

static void a_report_out_of_order_ends_the_generation(void **state)
{
	struct fault f = { 0 };

	ack_sent(*state, 0);
	ack_sent(*state, 0);
	assert_false(ack_delivered(*state, 0, 2, &f));
	assert_int_equal(f.kind, FAULT_ENVIRONMENT);
	assert_non_null(strstr(f.text, "partition 0"));
	assert_true(ack_delivered(*state, 0, 1, NULL));
	assert_false(ack_delivered(*state, 0, 1, NULL)); /* twice */
	assert_true(ack_delivered(*state, 0, 2, NULL));
	assert_false(ack_delivered(*state, 0, 3, NULL)); /* never sent */
	assert_false(ack_delivered(*state, PARTITIONS, 1, NULL));
}

static void a_message_that_was_not_sent_is_not_waited_for(void **state)
{
	struct ack *a = *state;

	assert_int_equal(ack_sent(a, 1), 1);
	ack_unsent(a, 1);
	assert_int_equal(ack_sent(a, 1), 1);
	assert_int_equal(ack_outstanding(a), 1);
	ack_barrier(a, (struct boundary) { 60 });
	deliver(a, 1, 1, 1);
	assert_confirmed(a, 60);
}

static void a_full_ring_has_no_room_until_the_oldest_is_confirmed(void **state)
{
	struct ack *a = *state;

	for (uint64_t i = 1; i <= BARRIERS; i++) {
		assert_true(ack_has_room(a));
		transaction(a, 0, 100 * i);
	}
	assert_false(ack_has_room(a));
	deliver(a, 1, 1, 1);
	deliver(a, 2, 1, 1);
	deliver(a, 0, 1, 2);
	assert_true(ack_has_room(a));
	transaction(a, 0, 1000); /* wraps around */
	deliver(a, 1, 2, 5);
	deliver(a, 2, 2, 5);
	deliver(a, 0, 3, 10);
	assert_confirmed(a, 1000);
}

static void a_mark_is_reached_when_all_before_it_is_delivered(void **state)
{
	struct ack *a = *state;

	ack_sent(a, 0);
	ack_sent(a, 1);
	ack_mark(a);
	ack_sent(a, 2);
	deliver(a, 0, 1, 1);
	assert_false(ack_mark_reached(a));
	deliver(a, 1, 1, 1);
	assert_true(ack_mark_reached(a));
}

/* Against the definition: the newest barrier for which every message sent before it was delivered.
 */
static void it_agrees_with_the_definition(void **state)
{
	enum { ROUNDS = 20000, KEPT = 64 };
	struct ack *a = ack_new(PARTITIONS, KEPT, (struct boundary) { 0 });
	uint64_t sent[PARTITIONS] = { 0 }, delivered[PARTITIONS] = { 0 }, x = 0, confirmed = 0;
	uint64_t needed[KEPT][PARTITIONS], at[KEPT];
	size_t first = 0, last = 0;
	unsigned seed = 1;

	(void)state;
	for (int i = 0; i < ROUNDS; i++) {
		int p = rand_r(&seed) % PARTITIONS, what = rand_r(&seed) % 8;

		if (what < 4) {
			assert_int_equal(ack_sent(a, p), ++sent[p]);
		} else if (what < 7) {
			if (delivered[p] < sent[p])
				assert_true(ack_delivered(a, p, ++delivered[p], NULL));
		} else if (ack_has_room(a)) {
			at[last % KEPT] = x += 10;
			memcpy(needed[last % KEPT], sent, sizeof(sent));
			last++;
			ack_barrier(a, (struct boundary) { x });
		}
		for (; first < last; first++) {
			bool has_all = true;

			for (int q = 0; q < PARTITIONS; q++)
				has_all = has_all && delivered[q] >= needed[first % KEPT][q];
			if (!has_all)
				break;
			confirmed = at[first % KEPT];
		}
		assert_confirmed(a, confirmed);
	}
	assert_true(confirmed > 0);
	ack_free(a);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(nothing_is_confirmed_beyond_the_start),
		TEST(confirmed_waits_for_every_partition),
		TEST(confirmed_waits_for_the_change_before_the_barrier),
		TEST(confirmed_waits_for_the_oldest),
		TEST(one_report_can_confirm_several),
		TEST(a_change_after_the_barrier_does_not_hold_it_back),
		TEST(a_report_out_of_order_ends_the_generation),
		TEST(a_message_that_was_not_sent_is_not_waited_for),
		TEST(a_full_ring_has_no_room_until_the_oldest_is_confirmed),
		TEST(a_mark_is_reached_when_all_before_it_is_delivered),
		TEST(it_agrees_with_the_definition),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
