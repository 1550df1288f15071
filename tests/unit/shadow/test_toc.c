// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "shadow/toc.h"

static const char listing[] =
	";\n; Archive created at 2026-01-01\n;\n"
	"5; 2615 2200 SCHEMA - sales app\n"
	"610; 1247 16400 TYPE public mood app\n"
	"215; 1259 16385 TABLE public orders app\n"
	"216; 1259 16390 TABLE public audit app\n"
	"300; 0 0 TABLE ATTACH public leaf one app\n"
	"301; 0 0 TABLE ATTACH public leaf app\n"
	"3200; 2604 16399 DEFAULT public orders id app\n"
	"3300; 2606 16410 CONSTRAINT public orders orders_pkey app\n"
	"3301; 1259 16411 INDEX public orders_note_idx app\n"
	"3302; 2606 16412 FK CONSTRAINT public orders orders_customer_fkey app\n"
	"3305; 2606 16430 CONSTRAINT public orders orders_code_key app\n"
	"3306; 1259 16431 INDEX public orders_mail app\n"
	"3307; 0 0 INDEX ATTACH public leaf_mail app\n"
	"3308; 2606 16432 FK CONSTRAINT public lines lines_code_fkey app\n"
	"3303; 3466 16413 EVENT TRIGGER - nosy app\n"
	"3304; 6104 16414 PUBLICATION - pub app\n";

static struct toc_object objects[] = {
	{ 2615, 2200, TOC_EARLY, false, { NULL, 0 } },
	{ 2606, 16412, TOC_LATE, false, { NULL, 0 } },
	{ 1259, 16385, TOC_EARLY, false, { "public orders app", 17 } },
	{ 2604, 16399, TOC_EARLY, false, { NULL, 0 } },
	{ 2606, 16410, TOC_EARLY, false, { NULL, 0 } },
	{ 1259, 16411, TOC_LATE, false, { "public orders_note_idx app", 26 } },
	{ 2606, 16430, TOC_UNIQUE, false, { NULL, 0 } },
	{ 1259, 16431, TOC_UNIQUE, false, { "public orders_mail app", 22 } },
	{ 1259, 16433, TOC_UNIQUE, false, { "public leaf_mail app", 20 } },
	{ 2606, 16432, TOC_UNIQUE, false, { NULL, 0 } },
	{ 1259, 16420, TOC_EARLY, false, { "public leaf app", 15 } },
};
enum { OBJECTS = sizeof(objects) / sizeof(objects[0]) };

static void assert_filtered(enum toc_stage stage, const char *expected)
{
	struct buf out;

	buf_init(&out, 1 << 20);
	toc_sort(objects, OBJECTS);
	toc_filter(span_str(listing), objects, OBJECTS, stage, &out);
	assert_string_equal(buf_cstr(&out), expected);
	buf_release(&out);
}

static void early_stage_has_types_tables_defaults_and_identity(void **state)
{
	(void)state;
	assert_filtered(TOC_EARLY, "5; 2615 2200 SCHEMA - sales app\n"
				   "610; 1247 16400 TYPE public mood app\n"
				   "215; 1259 16385 TABLE public orders app\n"
				   "301; 0 0 TABLE ATTACH public leaf app\n"
				   "3200; 2604 16399 DEFAULT public orders id app\n"
				   "3300; 2606 16410 CONSTRAINT public orders orders_pkey app\n");
}

static void late_stage_leaves_out_what_is_there(void **state)
{
	(void)state;
	assert_filtered(TOC_LATE, "3301; 1259 16411 INDEX public orders_note_idx app\n"
				  "3302; 2606 16412 FK CONSTRAINT public orders orders_customer_fkey app\n");
	for (size_t i = 0; i < OBJECTS; i++)
		objects[i].is_there = objects[i].oid == 16411;
	assert_filtered(TOC_LATE, "3302; 2606 16412 FK CONSTRAINT public orders orders_customer_fkey app\n");
}

static void unique_stage_has_late_indexes_and_what_hangs_on_them(void **state)
{
	(void)state;
	assert_filtered(TOC_UNIQUE, "3305; 2606 16430 CONSTRAINT public orders orders_code_key app\n"
				    "3306; 1259 16431 INDEX public orders_mail app\n"
				    "3307; 0 0 INDEX ATTACH public leaf_mail app\n"
				    "3308; 2606 16432 FK CONSTRAINT public lines lines_code_fkey app\n");
}

static void an_index_that_is_there_is_attached_all_the_same(void **state)
{
	(void)state;
	for (size_t i = 0; i < OBJECTS; i++)
		objects[i].is_there = objects[i].stage == TOC_UNIQUE;
	assert_filtered(TOC_UNIQUE, "3307; 0 0 INDEX ATTACH public leaf_mail app\n");
}

static void cut_lines_are_passed_over(void **state)
{
	struct buf out;

	(void)state;
	buf_init(&out, 1 << 16);
	for (size_t n = 0; n < sizeof(listing) - 1; n++, buf_reset(&out))
		toc_filter(span(listing, n), objects, OBJECTS, TOC_EARLY, &out);
	assert_false(buf_failed(&out));
	buf_release(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(early_stage_has_types_tables_defaults_and_identity),
		cmocka_unit_test(late_stage_leaves_out_what_is_there),
		cmocka_unit_test(unique_stage_has_late_indexes_and_what_hangs_on_them),
		cmocka_unit_test(an_index_that_is_there_is_attached_all_the_same),
		cmocka_unit_test(cut_lines_are_passed_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
