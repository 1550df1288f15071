// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "reconcile/tail.h"

static void remember(struct tail *t, int n)
{
	t->events = calloc((size_t)n, sizeof(*t->events));
	for (int i = 0; i < n; i++)
		t->events[t->event_count++] = (struct tail_event) { .offset = i };
	buf_init(&t->kept, TAIL_KEPT_BYTES);
	buf_str(&t->kept, "records");
}

static void release(struct tail *t)
{
	free(t->events);
	buf_release(&t->kept);
}

/* Its events stay, and the records that they point into. */
static void what_is_forgotten_is_what_was_before(void **state)
{
	struct tail t = { 0 };

	remember(&t, 5);
	tail_forget(&t, 0);
	assert_int_equal(t.event_count, 5);
	tail_forget(&t, 2);
	assert_int_equal(t.event_count, 3);
	for (int i = 0; i < 3; i++)
		assert_int_equal(t.events[i].offset, i + 2);
	assert_int_equal(buf_span(&t.kept).n, strlen("records"));
	release(&t);
}

static void without_events_no_record_is_kept(void **state)
{
	struct tail t = { .has_overflowed = true, .has_copy = true };

	remember(&t, 5);
	tail_forget(&t, 5);
	assert_int_equal(t.event_count, 0);
	assert_int_equal(buf_span(&t.kept).n, 0);
	assert_true(t.has_overflowed && t.has_copy);
	release(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_forgotten_is_what_was_before),
		cmocka_unit_test(without_events_no_record_is_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
