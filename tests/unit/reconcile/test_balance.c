// SPDX-License-Identifier: Apache-2.0
/* The arithmetic: what a target counted, the stream's records, and ingest's totals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "reconcile/balance.h"

static struct balance *b;
static struct balance_difference seen[16];
static size_t seen_count;

static int setup(void **state)
{
	(void)state;
	b = balance_new(3);
	seen_count = 0;
	return b ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	balance_free(b);
	return 0;
}

static void report(void *arg, const struct balance_difference *d)
{
	(void)arg;
	assert_true(seen_count < sizeof(seen) / sizeof(*seen));
	seen[seen_count++] = *d;
}

/* So many records of a table, after `ordinal`; returns the last one's. */
static uint64_t records(int partition, uint64_t ordinal, uint32_t oid, int n)
{
	while (n-- > 0)
		assert_true(balance_record(b, partition, ++ordinal, oid));
	return ordinal;
}

/* The target says: this ordinal, and so many of tables 1, 2 and 3. */
static size_t place(int partition, uint64_t ordinal, int64_t one, int64_t two, int64_t three)
{
	const struct balance_count counts[] = { { 1, one, one }, { 2, two, two }, { 3, three, three } };
	const struct balance_place here = { ordinal, counts, three ? 3 : two ? 2 : 1 };

	seen_count = 0;
	assert_true(balance_place(b, partition, &here, report, NULL));
	return seen_count;
}

static void assert_difference(size_t i, enum balance_kind kind, uint32_t oid, int64_t wanted, int64_t counted)
{
	assert_true(i < seen_count);
	assert_int_equal(seen[i].kind, kind);
	assert_int_equal(seen[i].oid, oid);
	assert_int_equal(seen[i].wanted, wanted);
	assert_int_equal(seen[i].seen, counted);
}

static void what_is_right_is_not_reported(void **state)
{
	uint64_t at = 100;

	(void)state;
	balance_follow(b, 1, at);
	at = records(1, at, 1, 10);
	assert_int_equal(place(1, 105, 100, 5, 0), 0); /* the first place is what it is */
	at = records(1, at, 2, 4);
	at = records(1, at, 3, 1);
	assert_int_equal(place(1, 112, 105, 7, 0), 0);
	assert_int_equal(place(1, 115, 105, 9, 1), 0);
	assert_int_equal(place(1, 115, 105, 9, 1), 0);
}

static void a_lost_record_stays_a_difference(void **state)
{
	uint64_t at;

	(void)state;
	balance_follow(b, 0, 0);
	assert_int_equal(place(0, 0, 0, 0, 0), 0);
	at = records(0, 0, 1, 10);
	assert_int_equal(place(0, 10, 9, 0, 0), 2);
	assert_difference(0, BALANCE_ORDINALS, 0, 10, 9);
	assert_difference(1, BALANCE_STREAM, 1, 10, 9);
	assert_int_equal(seen[1].from, 0);
	assert_int_equal(seen[1].to, 10);
	records(0, at, 2, 5);
	assert_int_equal(place(0, 15, 9, 5, 0), 2);
	assert_difference(1, BALANCE_STREAM, 1, 10, 9);
	/* until a person has accepted it */
	assert_int_equal(place(0, 15, 10, 5, 0), 0);
}

static void what_was_applied_twice_or_to_another_table(void **state)
{
	(void)state;
	balance_follow(b, 2, 0);
	assert_int_equal(place(2, 0, 0, 0, 0), 0);
	records(2, 0, 1, 10);
	assert_int_equal(place(2, 10, 11, 0, 0), 2);
	assert_difference(0, BALANCE_ORDINALS, 0, 10, 11);
	assert_difference(1, BALANCE_STREAM, 1, 10, 11);
	assert_int_equal(place(2, 10, 8, 2, 0), 2); /* the sum is right */
	for (size_t i = 0; i < 2; i++)
		assert_difference(i, BALANCE_STREAM, seen[i].oid, seen[i].oid == 1 ? 10 : 0, seen[i].oid == 1 ? 8 : 2);
}

static void before_the_first_place_only_ordinals_are_compared(void **state)
{
	(void)state;
	assert_int_equal(place(0, 7, 7, 0, 0), 0); /* not followed at all */
	assert_int_equal(place(0, 7, 8, 0, 0), 1);
	balance_follow(b, 0, 50);
	assert_int_equal(place(0, 40, 20, 20, 0), 0); /* behind where the stream is followed from */
	records(0, 50, 1, 10);
	assert_int_equal(place(0, 55, 25, 30, 0), 0);
	assert_int_equal(place(0, 60, 30, 30, 0), 0);
	assert_int_equal(place(0, 60, 29, 31, 0), 2);
}

static void a_target_far_behind_begins_anew(void **state)
{
	const uint64_t n = BALANCE_RUNS_MAX / 3 + 10;

	(void)state;
	balance_follow(b, 0, 0);
	assert_int_equal(place(0, 0, 0, 0, 0), 0);
	for (uint64_t i = 1; i <= n; i++)
		assert_true(balance_record(b, 0, i, 1 + i % 2));
	assert_int_equal(place(0, 5, 1, 4, 0), 0); /* not known any more */
	assert_int_equal(place(0, n - 4, (int64_t)n - 4, 0, 0), 0);
	assert_int_equal(place(0, n, (int64_t)n - 2, 2, 0), 0);
	assert_int_equal(place(0, n, (int64_t)n - 3, 3, 0), 2);
}

/* ---- totals ---- */

static const struct boundary here = { 0x2000 };

static size_t totals(const struct event_count *counts, size_t count_count, const struct balance_name *names, size_t name_count,
		     const struct balance_count *counted, size_t counted_count)
{
	const struct barrier barrier = { (struct event_count *)(uintptr_t)counts, count_count };

	seen_count = 0;
	assert_true(balance_totals(&barrier, here, names, name_count, counted, counted_count, report, NULL));
	return seen_count;
}

#define NAME(text) { text, sizeof(text) - 1 }
#define COUNT(a) (a), sizeof(a) / sizeof(*(a))

static void totals_are_over_all_partitions(void **state)
{
	const struct event_count counts[] = { { NAME("\"a\""), 10, 10 }, { NAME("\"b\""), 7, 7 } };
	const struct balance_name names[] = { { 1, NAME("\"a\"") }, { 2, NAME("\"b\"") }, { 3, NAME("\"c\"") } };
	struct balance_count counted[] = { { 1, 4, 4 }, { 2, 9, 7 }, { 1, 8, 6 } };

	(void)state;
	assert_int_equal(totals(COUNT(counts), COUNT(names), COUNT(counted)), 0);
	counted[2].changes = 5;
	assert_int_equal(totals(COUNT(counts), COUNT(names), COUNT(counted)), 1);
	assert_difference(0, BALANCE_TOTALS, 1, 10, 9);
	assert_int_equal(seen[0].to, here.v);
	assert_true(span_eq(seen[0].table, span_str("\"a\"")));
}

/* Two tables that were merged, one of them renamed on the way: their sum is what can be compared. */
static void names_and_tables_need_not_match_one_to_one(void **state)
{
	const struct event_count counts[] = { { NAME("\"new\""), 3, 3 }, { NAME("\"old\""), 10, 10 }, { NAME("\"x\""), 1, 1 } };
	const struct balance_name names[] = { { 5, NAME("\"old\"") }, { 9, NAME("\"x\"") }, { 5, NAME("\"new\"") }, { 6, NAME("\"old\"") } };
	struct balance_count counted[] = { { 5, 6, 6 }, { 6, 7, 7 }, { 9, 1, 1 } };

	(void)state;
	assert_int_equal(totals(COUNT(counts), COUNT(names), COUNT(counted)), 0);
	counted[0].changes = 8;
	assert_int_equal(totals(COUNT(counts), COUNT(names), COUNT(counted)), 1);
	assert_difference(0, BALANCE_TOTALS, seen[0].oid, 13, 15);
	assert_true(seen[0].oid == 5 || seen[0].oid == 6);
}

static void what_only_one_side_knows_is_a_difference(void **state)
{
	const struct event_count counts[] = { { NAME("\"a\""), 2, 2 } };
	const struct balance_name names[] = { { 1, NAME("\"a\"") } };
	const struct balance_count counted[] = { { 1, 2, 2 }, { 77, 3, 3 } };

	(void)state;
	assert_int_equal(totals(COUNT(counts), COUNT(names), COUNT(counted)), 1);
	assert_difference(0, BALANCE_TOTALS, 77, 0, 3);
	assert_int_equal(totals(COUNT(counts), COUNT(names), NULL, 0), 1);
	assert_difference(0, BALANCE_TOTALS, 1, 2, 0);
	assert_int_equal(totals(NULL, 0, NULL, 0, NULL, 0), 0);
}

static void what_was_decoded_was_published(void **state)
{
	const struct event_count counts[] = { { NAME("\"a\""), 3, 2 } };
	const struct balance_name names[] = { { 1, NAME("\"a\"") } };
	const struct balance_count counted[] = { { 1, 2, 2 } };

	(void)state;
	assert_int_equal(totals(COUNT(counts), COUNT(names), COUNT(counted)), 1);
	assert_difference(0, BALANCE_SOURCE, 0, 3, 2);
}

/* ---- for people ---- */

static void assert_text(const struct balance_difference *d, const char *wanted)
{
	struct buf text;

	buf_init(&text, 1000);
	balance_describe(d, &text);
	assert_string_equal(buf_cstr(&text), wanted);
	buf_release(&text);
}

static void a_difference_as_a_line(void **state)
{
	(void)state;
	assert_text(&(struct balance_difference) { .kind = BALANCE_ORDINALS, .partition = 3, .to = 10, .wanted = 10, .seen = 9 },
		    "partition 3: 9 records are counted up to ordinal 10");
	assert_text(&(struct balance_difference) { .kind = BALANCE_STREAM, .partition = 3, .oid = 7, .table = NAME("\"a\""),
						   .from = 4, .to = 10, .wanted = 6, .seen = 5 },
		    "\"a\", partition 3, ordinals 5..10: 5 records are counted, the stream has 6");
	assert_text(&(struct balance_difference) { .kind = BALANCE_TOTALS, .oid = 7, .to = 0x2000, .wanted = 6, .seen = 5 },
		    "the table with OID 7 on the source: 5 changes are counted at barrier 0/2000, ingest published 6");
	assert_text(&(struct balance_difference) { .kind = BALANCE_SOURCE, .table = NAME("\"a\""), .to = 0x2000, .wanted = 6, .seen = 5 },
		    "\"a\": ingest published 5 changes up to barrier 0/2000 and decoded 6");
}

static void one_lost_change_is_one_error(void **state)
{
	struct balance_error e = { { 0 } };

	(void)state;
	assert_int_equal(balance_error_sum(&e), 0);
	balance_error_add(&e, &(struct balance_difference) { .kind = BALANCE_ORDINALS, .wanted = 10, .seen = 9 });
	balance_error_add(&e, &(struct balance_difference) { .kind = BALANCE_STREAM, .wanted = 10, .seen = 9 });
	assert_int_equal(balance_error_sum(&e), 1);
	/* one of a table too many, one of another too few */
	balance_error_add(&e, &(struct balance_difference) { .kind = BALANCE_STREAM, .wanted = 10, .seen = 11 });
	assert_int_equal(balance_error_sum(&e), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_is_right_is_not_reported, setup, teardown),
		cmocka_unit_test_setup_teardown(a_lost_record_stays_a_difference, setup, teardown),
		cmocka_unit_test_setup_teardown(what_was_applied_twice_or_to_another_table, setup, teardown),
		cmocka_unit_test_setup_teardown(before_the_first_place_only_ordinals_are_compared, setup, teardown),
		cmocka_unit_test_setup_teardown(a_target_far_behind_begins_anew, setup, teardown),
		cmocka_unit_test(totals_are_over_all_partitions),
		cmocka_unit_test(names_and_tables_need_not_match_one_to_one),
		cmocka_unit_test(what_only_one_side_knows_is_a_difference),
		cmocka_unit_test(what_was_decoded_was_published),
		cmocka_unit_test(a_difference_as_a_line),
		cmocka_unit_test(one_lost_change_is_one_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
