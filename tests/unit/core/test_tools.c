// SPDX-License-Identifier: Apache-2.0
/* The small tools: span, fault, arena, buf, cursor, lsn, clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/arena.h"
#include "core/buf.h"
#include "core/clock.h"
#include "core/cursor.h"
#include "core/fault.h"
#include "core/lsn.h"

static void spans_order_by_bytes_then_length(void **state)
{
	(void)state;
	assert_int_equal(span_cmp(span_str("a"), span_str("a")), 0);
	assert_true(span_cmp(span_str("a"), span_str("b")) < 0);
	assert_true(span_cmp(span_str("a"), span_str("ab")) < 0);
	assert_true(span_cmp(span_str("b"), span_str("ab")) > 0);
	assert_true(span_cmp(span("\xff", 1), span("\x01", 1)) > 0);
	assert_true(span_cmp(span(NULL, 0), span_str("")) == 0);
}

static void only_whole_characters_are_utf8(void **state)
{
	static const char *const good[] = { "", "a\n", "\xc3\xa9", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xef\xbf\xbf",
					    "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf" };
	static const char *const bad[] = { "caf\xc3", "\xc3\x28", "\x80", "\xc0\x80", "\xe0\x9f\xbf", "\xed\xa0\x80",
					   "\xe2\x82", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xff", "\xf0\x90\x80" };

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
		assert_true(span_is_utf8(span_str(good[i])));
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_false(span_is_utf8(span_str(bad[i])));
}

static void hashes_tell_neighbours_apart(void **state)
{
	char bytes[40] = { 0 };

	(void)state;
	assert_true(span_hash(span_str("abc")) == span_hash(span("abcd", 3)));
	for (size_t n = 0; n < sizeof(bytes); n++) /* zeros of each length differ */
		for (size_t k = 0; k < n; k++)
			assert_true(span_hash(span(bytes, n)) != span_hash(span(bytes, k)));
	for (size_t i = 0; i < 320; i++) {
		uint64_t before = span_hash(span(bytes, 40));

		bytes[i / 8] = (char)(bytes[i / 8] ^ 1 << i % 8);
		assert_true(span_hash(span(bytes, 40)) != before);
	}
}

static void hashes_spread_over_small_moduli(void **state)
{
	int count[16] = { 0 };

	(void)state;
	for (uint32_t i = 0; i < 16000; i++)
		count[span_hash(span(&i, sizeof(i))) % 16]++;
	for (int i = 0; i < 16; i++)
		assert_in_range(count[i], 850, 1150);
}

static void a_fault_says_the_last_reason_and_its_context(void **state)
{
	struct fault f = { .kind = FAULT_NONE };

	(void)state;
	assert_false(fault(&f, FAULT_DATA, "first"));
	memcpy(f.sqlstate, "23505", 6);
	assert_false(fault(&f, FAULT_STOP, "row %d", 7));
	assert_string_equal(f.sqlstate, "");
	assert_false(fault_in(&f, "table %s", "t"));
	assert_string_equal(f.text, "table t: row 7");
	assert_int_equal(f.kind, FAULT_STOP);
	assert_int_equal(fault_exit_code(f.kind), 3);
	assert_false(fault(&f, FAULT_INPUT, "again %s", f.text)); /* an argument of its own */
	assert_string_equal(f.text, "again table t: row 7");
	fault_reset(&f);
	assert_int_equal(f.kind, FAULT_NONE);
	assert_false(fault(NULL, FAULT_STOP, "nobody asks"));
	assert_false(fault_in(NULL, "nobody asks"));
}

static void a_long_fault_is_cut_not_overrun(void **state)
{
	static char text[4000];
	struct fault f;

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	fault(&f, FAULT_INPUT, "%s", text);
	assert_int_equal(strlen(f.text), sizeof(f.text) - 1);
	fault_in(&f, "in");
	assert_int_equal(strlen(f.text), sizeof(f.text) - 1);
	assert_memory_equal(f.text, "in: xxx", 7);
	fault_in(&f, "%s", text);
	assert_int_equal(strlen(f.text), sizeof(f.text) - 1);
}

static void each_kind_has_a_name_and_an_exit_code(void **state)
{
	(void)state;
	assert_int_equal(fault_exit_code(FAULT_NONE), 0);
	assert_int_equal(fault_exit_code(FAULT_USAGE), 2);
	assert_int_equal(fault_exit_code(FAULT_ENVIRONMENT), 1);
	assert_int_equal(fault_exit_code(FAULT_LOST), 3);
	for (int k = FAULT_NONE; k <= FAULT_INTERNAL; k++)
		assert_non_null(fault_kind_name((enum fault_kind)k));
}

static void an_arena_hands_out_zeroed_aligned_memory_that_stays(void **state)
{
	struct arena a;
	char *first;

	(void)state;
	arena_init(&a, 1 << 20);
	first = arena_str(&a, span_str("first"));
	for (size_t i = 0; i < 2000; i++) {
		char *p = arena_alloc(&a, i % 67);

		assert_non_null(p);
		assert_int_equal((uintptr_t)p % 16, 0);
		for (size_t k = 0; k < i % 67; k++)
			assert_int_equal(p[k], 0);
		memset(p, 0xff, i % 67);
	}
	assert_string_equal(first, "first");
	assert_string_equal(arena_printf(&a, "%d-%s", 4, "x"), "4-x");
	arena_release(&a);
}

static void an_arena_keeps_its_largest_block_over_a_reset(void **state)
{
	struct arena a;

	(void)state;
	arena_init(&a, 1 << 20);
	arena_alloc(&a, 100);
	arena_alloc(&a, 100000);
	arena_reset(&a);
	size_t held = a.used_bytes;
	assert_true(held >= 100000);
	memset(arena_alloc(&a, 50000), 1, 50000);
	assert_int_equal(a.used_bytes, held);
	arena_reset(&a);
	char *p = arena_alloc(&a, 50000);
	assert_int_equal(p[49999], 0);
	arena_release(&a);
}

static void an_arena_over_its_maximum_fails_until_reset(void **state)
{
	struct arena a;

	(void)state;
	arena_init(&a, 10000);
	assert_non_null(arena_alloc(&a, 9000));
	assert_null(arena_alloc(&a, 9000));
	assert_true(arena_failed(&a));
	assert_null(arena_alloc(&a, 1));
	arena_reset(&a);
	assert_false(arena_failed(&a));
	assert_non_null(arena_alloc(&a, 9000));
	assert_null(arena_alloc(&a, SIZE_MAX - 3));
	arena_release(&a);
}

static void a_buf_grows_to_its_maximum_and_not_beyond(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 100);
	for (int i = 0; i < 100; i++)
		buf_u8(&b, 'x');
	assert_false(buf_failed(&b));
	assert_int_equal(strlen(buf_cstr(&b)), 100);
	buf_u8(&b, 'x');
	assert_true(buf_failed(&b));
	assert_int_equal(b.n, 100);
	buf_reset(&b);
	buf_str(&b, "after");
	assert_string_equal(buf_cstr(&b), "after");
	buf_release(&b);
}

static void a_buf_that_failed_stays_failed(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 3);
	buf_str(&b, "long");
	buf_str(&b, "s");
	assert_true(buf_failed(&b));
	assert_int_equal(b.n, 0);
	assert_string_equal(buf_cstr(&b), "");
	buf_release(&b);
}

static void a_cursor_reads_what_a_buf_wrote(void **state)
{
	struct cursor c;
	struct buf b;

	(void)state;
	buf_init(&b, 1000);
	buf_u8(&b, 200);
	buf_be16(&b, 0xabcd);
	buf_be32(&b, 0xdeadbeef);
	buf_be64(&b, 0x0123456789abcdef);
	buf_add(&b, "name", 5);
	buf_printf(&b, "%s=%d", "k", 5);
	c = cursor(buf_span(&b));
	assert_int_equal(cursor_u8(&c), 200);
	assert_int_equal(cursor_u16(&c), 0xabcd);
	assert_int_equal(cursor_u32(&c), 0xdeadbeef);
	assert_true(cursor_u64(&c) == 0x0123456789abcdef);
	assert_true(span_eq_str(cursor_cstr(&c), "name"));
	assert_true(span_eq_str(cursor_bytes(&c, 3), "k=5"));
	assert_false(c.cut);
	assert_int_equal(cursor_u16(&c), 0);
	assert_true(c.cut);
	assert_int_equal(cursor_left(&c), 0);
	buf_release(&b);
}

static void lsns_are_read_and_written_as_postgresql_does(void **state)
{
	char text[LSN_TEXT];
	uint64_t lsn = 1;

	(void)state;
	assert_string_equal(lsn_format(0x16b374d848, text), "16/B374D848");
	assert_string_equal(lsn_format(UINT64_MAX, text), "FFFFFFFF/FFFFFFFF");
	assert_true(lsn_parse(span_str("16/b374D848"), &lsn));
	assert_true(lsn == 0x16b374d848);
	assert_true(lsn_parse(span_str("0/0"), &lsn));
	assert_true(lsn == 0);
	static const char *const bad[] = { "",     "/",     "1/",  "/1",  "1",          "1/2/3",
					   "1/ 2", "0x1/2", "g/1", "1/-", "123456789/1" };
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		assert_false(lsn_parse(span_str(bad[i]), &lsn));
}

static void a_transaction_that_ends_where_the_next_commits_is_before_it(void **state)
{
	struct boundary end_of_first = { 100 };

	(void)state;
	assert_true(boundary_has(end_of_first, (struct commit_lsn) { 99 }));
	assert_false(boundary_has(end_of_first, (struct commit_lsn) { 100 }));
	assert_int_equal(position_cmp(position_at(end_of_first), (struct position) { { 100 }, 1 }),
			 -1);
}

static void times_are_iso_8601_in_utc(void **state)
{
	char text[CLOCK_TEXT];

	(void)state;
	assert_string_equal(clock_iso(0, text), "1970-01-01T00:00:00.000Z");
	assert_string_equal(clock_iso(1795440000123456, text), "2026-11-23T13:20:00.123Z");
	assert_string_equal(clock_iso(-1, text), "1969-12-31T23:59:59.999Z");
	assert_string_equal(clock_iso(INT64_MAX, text), "9999-12-31T23:59:59.999Z");
	assert_true(clock_us() <= clock_us());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(spans_order_by_bytes_then_length),
		cmocka_unit_test(only_whole_characters_are_utf8),
		cmocka_unit_test(hashes_tell_neighbours_apart),
		cmocka_unit_test(hashes_spread_over_small_moduli),
		cmocka_unit_test(a_fault_says_the_last_reason_and_its_context),
		cmocka_unit_test(a_long_fault_is_cut_not_overrun),
		cmocka_unit_test(each_kind_has_a_name_and_an_exit_code),
		cmocka_unit_test(an_arena_hands_out_zeroed_aligned_memory_that_stays),
		cmocka_unit_test(an_arena_keeps_its_largest_block_over_a_reset),
		cmocka_unit_test(an_arena_over_its_maximum_fails_until_reset),
		cmocka_unit_test(a_buf_grows_to_its_maximum_and_not_beyond),
		cmocka_unit_test(a_buf_that_failed_stays_failed),
		cmocka_unit_test(a_cursor_reads_what_a_buf_wrote),
		cmocka_unit_test(lsns_are_read_and_written_as_postgresql_does),
		cmocka_unit_test(a_transaction_that_ends_where_the_next_commits_is_before_it),
		cmocka_unit_test(times_are_iso_8601_in_utc),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
