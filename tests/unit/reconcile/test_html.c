// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "reconcile/html.h"

static void expect_escaped(const char *text, size_t n, const char *wanted)
{
	struct buf out;

	buf_init(&out, 1 << 16);
	html_escape(&out, span(text, n));
	assert_string_equal(buf_cstr(&out), wanted);
	buf_release(&out);
}

static void text_is_escaped(void **state)
{
	expect_escaped("a<b>&\"'", 7, "a&lt;b&gt;&amp;&quot;&#39;");
	expect_escaped("&amp;", 5, "&amp;amp;");
	expect_escaped("é\n\t", 4, "é\n\t");
	expect_escaped("a\0b\x1b", 4, "a\xef\xbf\xbd" "b\xef\xbf\xbd");
	expect_escaped("", 0, "");
}

static const char evil[] = "<script>\"x\"&'</script>";

static struct span make_page(struct buf *out, enum final_verdict verdict, size_t differences)
{
	const struct span skipped[] = { { evil, sizeof(evil) - 1 } };
	struct final_finding finding = { span_str(evil), span_str(evil), false };
	struct final_result result = { .name = "x", .title = evil, .remedy = evil, .unjudged = evil,
				       .findings = &finding, .finding_count = 1, .fail_count = 1 };
	struct reconcile_table table = { .label = span_str(evil), .source = span_str(evil), .unverified = evil,
					 .skipped = skipped, .skipped_count = 1, .result = { .open_count = 1 } };
	struct reconcile_summary sum = { .table_count = 1 };
	struct html_head head = { evil, evil, verdict, evil, &sum, 0.5 };
	struct html h;

	html_init(&h);
	html_table(&h, &table);
	html_check(&h, &result);
	for (size_t i = 0; i < differences; i++)
		html_difference(&h, span_str(evil), "mismatch", span_str(evil));
	buf_init(out, 64 << 20);
	assert_true(html_finish(&h, &head, out));
	html_release(&h);
	return span_str(buf_cstr(out));
}

static void no_text_reaches_the_page_as_markup(void **state)
{
	for (int verdict = FINAL_READY; verdict <= FINAL_UNJUDGED; verdict++) {
		struct buf out;
		const char *page = make_page(&out, (enum final_verdict)verdict, 3).p;

		assert_null(strstr(page, "<script"));
		assert_null(strstr(page, "://"));
		assert_non_null(strstr(page, "&lt;script&gt;"));
		assert_true(strstr(page, "class=\"verdict") < strstr(page, "<table"));
		assert_non_null(strstr(page, "What was not compared, and why"));
		buf_release(&out);
	}
}

static void what_is_too_much_is_counted(void **state)
{
	struct buf out;
	const char *page = make_page(&out, FINAL_NOT_READY, HTML_ROWS_MAX + 7).p;

	assert_non_null(strstr(page, "… and 7 more."));
	buf_release(&out);
}

static void certain_faults_decide_before_what_is_unknown(void **state)
{
	struct final_sum s = { .is_quiet = true };

	assert_int_equal(final_decide(&s), FINAL_READY);
	s.unjudged_tables = 1;
	assert_int_equal(final_decide(&s), FINAL_UNJUDGED);
	s.failed_checks = 1;
	assert_int_equal(final_decide(&s), FINAL_NOT_READY);
	s = (struct final_sum) { .is_quiet = true, .difference_count = 1 };
	assert_int_equal(final_decide(&s), FINAL_NOT_READY);
	s.is_quiet = false;
	assert_int_equal(final_decide(&s), FINAL_UNJUDGED);
	for (int i = 0; i < 3; i++) {
		s = (struct final_sum) { .is_quiet = true, .unjudged_checks = i == 0, .unjudged_rows = i == 1, .is_unproven = i == 2 };
		assert_int_equal(final_decide(&s), FINAL_UNJUDGED);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_is_escaped),
		cmocka_unit_test(no_text_reaches_the_page_as_markup),
		cmocka_unit_test(what_is_too_much_is_counted),
		cmocka_unit_test(certain_faults_decide_before_what_is_unknown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
