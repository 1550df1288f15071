// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "reconcile/events.h"

enum { ARENA_BYTES = 1 << 20, EVENTS = 8 };

struct fixture {
	struct arena a;
	struct snapshot snapshot;
	struct position places[2];
	struct tail_event events[EVENTS];
	size_t count;
};

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));

	arena_init(&x->a, ARENA_BYTES);
	x->snapshot = (struct snapshot) { .xmin = 100, .xmax = 100 };
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;

	arena_release(&x->a);
	free(x);
	return 0;
}

static void happens(struct fixture *x, enum tail_kind kind, uint64_t hash, uint64_t lsn, uint64_t seq, uint32_t xid, int partition)
{
	x->events[x->count++] = (struct tail_event) { .kind = kind, .key_hash = hash, .position = { { lsn }, seq }, .xid = xid,
						      .partition = partition, .in_exclusive = -1 };
}

static struct events gather(struct fixture *x, const uint64_t *hashes, size_t n)
{
	const struct events_readings readings = { &x->snapshot, x->places };
	struct events e;

	assert_true(events_gather(&e, x->events, x->count, &readings, hashes, n, &x->a));
	return e;
}

static void assert_lsns(const struct known_event *events, size_t n, const uint64_t *wanted, size_t wanted_count)
{
	assert_int_equal(n, wanted_count);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(events[i].e->position.commit.v, wanted[i]);
}

/* The tail has them in the order in which partitions were read. */
static void a_key_has_its_own_and_the_tables_in_the_order_of_the_stream(void **state)
{
	struct fixture *x = *state;
	const uint64_t asked[] = { 9, 7, UINT64_MAX };
	struct known_event *found;
	struct events e;
	size_t n;

	happens(x, TAIL_ROW, 7, 50, 0, 1, 1);
	happens(x, TAIL_ROW, 8, 10, 0, 1, 0);
	happens(x, TAIL_ROW, 7, 20, 0, 1, 0);
	happens(x, TAIL_TABLE, 7, 30, 0, 1, 0);
	happens(x, TAIL_ROW, 9, 40, 0, 1, 0);
	e = gather(x, asked, 3);
	assert_int_equal(e.count, 4); /* nobody asked for 8 */
	found = events_of(&e, &asked[1], &x->a, &n);
	assert_lsns(found, n, (uint64_t[]) { 20, 30, 50 }, 3);
	found = events_of(&e, &asked[0], &x->a, &n);
	assert_lsns(found, n, (uint64_t[]) { 30, 40 }, 2);
	found = events_of(&e, &asked[2], &x->a, &n);
	assert_lsns(found, n, (uint64_t[]) { 30 }, 1);
	found = events_of(&e, NULL, &x->a, &n);
	assert_lsns(found, n, (uint64_t[]) { 30 }, 1);
}

static void a_key_goes_before_it_comes(void **state)
{
	struct fixture *x = *state;
	const uint64_t asked[] = { 7 };
	struct known_event *found;
	struct events e;
	size_t n;

	happens(x, TAIL_ROW, 7, 20, 1, 1, 0);
	happens(x, TAIL_GONE, 7, 20, 1, 1, 0);
	e = gather(x, asked, 1);
	found = events_of(&e, asked, &x->a, &n);
	assert_int_equal(n, 2);
	assert_int_equal(found[0].e->kind, TAIL_GONE);
}

static void each_reading_shows_what_was_before_it(void **state)
{
	struct fixture *x = *state;
	struct events e;

	x->places[0] = (struct position) { { 20 }, 5 };
	x->places[1] = (struct position) { { 10 }, 0 };
	happens(x, TAIL_ROW, 1, 10, 0, 99, 0);  /* both */
	happens(x, TAIL_ROW, 2, 20, 6, 99, 0);  /* seen only */
	happens(x, TAIL_ROW, 3, 10, 0, 100, 1); /* applied only */
	e = gather(x, NULL, 0);
	assert_int_equal(e.count, 3);
	assert_true(e.list[0].is_seen && e.list[0].is_applied);
	assert_true(e.list[1].is_seen && !e.list[1].is_applied);
	assert_true(!e.list[2].is_seen && e.list[2].is_applied);
	assert_true(events_are_shown_by_both(e.list, 1));
	assert_false(events_are_shown_by_both(e.list, 3));
	assert_int_equal(events_since(e.list, 2), 10);
	assert_int_equal(events_since(e.list + 1, 1), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_key_has_its_own_and_the_tables_in_the_order_of_the_stream, setup, teardown),
		cmocka_unit_test_setup_teardown(a_key_goes_before_it_comes, setup, teardown),
		cmocka_unit_test_setup_teardown(each_reading_shows_what_was_before_it, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
