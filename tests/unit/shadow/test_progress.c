// SPDX-License-Identifier: Apache-2.0
/* What of progress needs no server: positions as text, and the parameters of a batch's statement. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shadow/progress.h"

static void a_position_survives_its_text(void **state)
{
	struct position p = { { 0x16B374D848 }, 3 }, back;
	char text[PROGRESS_POSITION_TEXT];

	(void)state;
	assert_string_equal(progress_position_format(p, text), "16/B374D848 3");
	assert_true(progress_position_parse(span_str(text), &back));
	assert_int_equal(position_cmp(p, back), 0);
}

static void text_that_is_no_position_is_refused(void **state)
{
	static const char *const bad[] = { "", "16/B374D848", "16/B374D848 ", "16/B374D848 x", "x 1",
					   "16/B374D848 99999999999999999999" };
	struct position p;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_false(progress_position_parse(span_str(bad[i]), &p));
}

static void a_batch_moves_all_its_partitions_in_one_statement(void **state)
{
	struct progress from[2] = { { .epoch = 4, .next_offset = 10 }, { .epoch = 7, .next_offset = 0 } };
	struct progress to[2] = { from[0], from[1] };
	struct progress_move moves[2] = {
		{ { "shop", "shop.changes", 0 }, &from[0], &to[0] },
		{ { "shop", "shop.changes", 5 }, &from[1], &to[1] },
	};
	struct counts counts = { 0 };
	struct apply_statement s;
	struct count *count;
	struct arena a;

	(void)state;
	to[0].next_offset = 12;
	to[0].at = (struct sequence) { .generation = 2, .ordinal = 9, .position = { { 0x100 }, 1 },
				       .barrier = { 0x90 } };
	to[1].next_offset = 1;
	to[1].waiting = (struct position) { { 0x200 }, 0 };
	arena_init(&a, 1 << 20);
	assert_non_null(count = counts_at(&counts, 5, 16384));
	count->covered = 3;
	assert_non_null(count = counts_at(&counts, 0, 4000000000));
	count->applied = 8;
	assert_true(progress_moves(moves, 2, &counts, &a, &s, NULL));
	assert_string_equal(s.what, "progress");
	assert_int_equal(s.param_count, 21);
	assert_string_equal(s.params[0], "shop");
	assert_string_equal(s.params[1], "{\"shop.changes\",\"shop.changes\"}");
	assert_string_equal(s.params[2], "{0,5}");
	assert_string_equal(s.params[3], "{4,7}");  /* the epoch that we must still have */
	assert_string_equal(s.params[4], "{10,0}"); /* the offset that the batch starts from */
	assert_string_equal(s.params[5], "{12,1}");
	assert_string_equal(s.params[7], "{9,0}");
	assert_string_equal(s.params[8], "{0/100,0/0}");
	assert_string_equal(s.params[12], "{\"\",\"0/200 0\"}");
	assert_string_equal(s.params[15], "2");
	assert_string_equal(s.params[16], "{5,0}");
	assert_string_equal(s.params[17], "{16384,4000000000}");
	assert_string_equal(s.params[18], "{0,8}");
	assert_string_equal(s.params[19], "{3,0}");
	assert_string_equal(s.params[20], "{0,0}");
	assert_true(progress_moves(moves, 2, NULL, &a, &s, NULL));
	assert_string_equal(s.params[16], "{}");
	counts_release(&counts);
	arena_release(&a);
}

static void a_full_arena_is_said(void **state)
{
	struct progress p = { 0 };
	struct progress_move move = { { "shop", "shop.changes", 0 }, &p, &p };
	struct apply_statement s;
	struct fault f = { 0 };
	struct arena a;

	(void)state;
	arena_init(&a, 16);
	assert_false(progress_moves(&move, 1, NULL, &a, &s, &f));
	assert_int_equal(f.kind, FAULT_INTERNAL);
	arena_release(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_position_survives_its_text),
		cmocka_unit_test(text_that_is_no_position_is_refused),
		cmocka_unit_test(a_batch_moves_all_its_partitions_in_one_statement),
		cmocka_unit_test(a_full_arena_is_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
