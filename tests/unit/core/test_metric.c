// SPDX-License-Identifier: Apache-2.0
/* Metrics as Prometheus reads them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>

#include "core/metric.h"

static int setup(void **state)
{
	*state = metrics_new();
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	metrics_free(*state);
	return 0;
}

static void assert_text(struct metrics *m, const char *wanted)
{
	struct buf b;

	buf_init(&b, 1 << 20);
	metrics_render(m, &b);
	assert_false(buf_failed(&b));
	assert_string_equal(buf_cstr(&b), wanted);
	buf_release(&b);
}

static void nothing_is_shown_that_was_not_set(void **state)
{
	metric_cell(*state, METRIC_SOURCE_LAG, NULL, NULL, NULL);
	assert_text(*state, "");
}

static void a_gauge_is_the_last_value(void **state)
{
	struct metric_cell *c = metric_cell(*state, METRIC_SLOT_RETAINED, NULL, NULL, NULL);

	metric_set(c, 7);
	metric_set(c, 0);
	assert_text(*state, "# HELP foreshadow_slot_retained_bytes WAL that the slot holds back on the source.\n"
			    "# TYPE foreshadow_slot_retained_bytes gauge\n"
			    "foreshadow_slot_retained_bytes 0\n");
	metric_clear(c);
	assert_text(*state, "");
}

static void microseconds_are_shown_in_seconds(void **state)
{
	metric_set(metric_cell(*state, METRIC_APPLY_LAG, "shadow", NULL, NULL), 1500000);
	assert_text(*state, "# HELP foreshadow_apply_lag_seconds Age of what the slowest partition of this process has "
			    "applied; 0: all that Kafka has.\n"
			    "# TYPE foreshadow_apply_lag_seconds gauge\n"
			    "foreshadow_apply_lag_seconds{role=\"shadow\"} 1.500000\n");
}

static void cells_of_a_metric_have_one_head_and_the_order_of_their_making(void **state)
{
	struct metric_cell *shadow = metric_cell(*state, METRIC_LANES, "shadow", NULL, NULL);

	metric_set(metric_cell(*state, METRIC_LANES, "primary", NULL, NULL), 3);
	metric_set(shadow, 2);
	assert_text(*state, "# HELP foreshadow_lanes Threads with a connection to the target.\n"
			    "# TYPE foreshadow_lanes gauge\n"
			    "foreshadow_lanes{role=\"shadow\"} 2\n"
			    "foreshadow_lanes{role=\"primary\"} 3\n");
}

static void the_same_labels_are_the_same_cell(void **state)
{
	struct metric_cell *c = metric_cell(*state, METRIC_CHANGES, "published", NULL, "public.t");

	assert_ptr_equal(metric_cell(*state, METRIC_CHANGES, "published", "", "public.t"), c);
	assert_ptr_not_equal(metric_cell(*state, METRIC_CHANGES, "published", NULL, "public.u"), c);
	assert_ptr_not_equal(metric_cell(*state, METRIC_CHANGES, "published", "public.t", NULL), c);
}

static void label_values_are_escaped_and_empty_ones_left_out(void **state)
{
	metric_add(metric_cell(*state, METRIC_CHANGES, "published", NULL, "\"a\\b\"\nc"), 1);
	assert_text(*state, "# HELP foreshadow_changes_total Records that passed a stage: published, applied, covered by a "
			    "copy, copied.\n"
			    "# TYPE foreshadow_changes_total counter\n"
			    "foreshadow_changes_total{stage=\"published\",table=\"\\\"a\\\\b\\\"\\nc\"} 1\n");
}

static void a_counter_that_is_counted_elsewhere_never_goes_back(void **state)
{
	struct metric_cell *c = metric_cell(*state, METRIC_INCIDENTS, "23", "shadow", NULL);

	metric_raise(c, 9);
	metric_raise(c, 5);
	assert_text(*state, "# HELP foreshadow_incidents_total Records that could not be applied, by class of the SQLSTATE.\n"
			    "# TYPE foreshadow_incidents_total counter\n"
			    "foreshadow_incidents_total{class=\"23\",role=\"shadow\"} 9\n");
}

enum { THREADS = 4, ADDED = 10000 };

static void *add_many(void *arg)
{
	for (int i = 0; i < ADDED; i++)
		metric_add(metric_cell(arg, METRIC_CHANGES, "applied", "shadow", NULL), 1);
	return NULL;
}

static void threads_lose_no_count(void **state)
{
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, add_many, *state), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_text(*state, "# HELP foreshadow_changes_total Records that passed a stage: published, applied, covered by a "
			    "copy, copied.\n"
			    "# TYPE foreshadow_changes_total counter\n"
			    "foreshadow_changes_total{stage=\"applied\",role=\"shadow\"} 40000\n");
}

static void who_counts_need_not_ask_whether_anybody_looks(void **state)
{
	struct metric_cell *c = metric_cell(NULL, METRIC_LANES, "shadow", NULL, NULL);

	(void)state;
	assert_null(c);
	metric_set(c, 1);
	metric_add(c, 1);
	metric_raise(c, 1);
	metric_clear(c);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(nothing_is_shown_that_was_not_set),
		TEST(a_gauge_is_the_last_value),
		TEST(microseconds_are_shown_in_seconds),
		TEST(cells_of_a_metric_have_one_head_and_the_order_of_their_making),
		TEST(the_same_labels_are_the_same_cell),
		TEST(label_values_are_escaped_and_empty_ones_left_out),
		TEST(a_counter_that_is_counted_elsewhere_never_goes_back),
		TEST(threads_lose_no_count),
		TEST(who_counts_need_not_ask_whether_anybody_looks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
