// SPDX-License-Identifier: Apache-2.0
/* Without Kafka: what the record says, and that the gate only moves forwards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shadow/gate.h"

static struct boundary at(uint64_t lsn)
{
	return (struct boundary) { lsn };
}

static void an_open_gate_has_everything(void **state)
{
	struct gate g;

	gate_open(&g);
	assert_true(gate_has(&g, (struct commit_lsn) { 0 }));
	assert_true(gate_has(&g, (struct commit_lsn) { UINT64_MAX - 1 }));
}

static void what_was_committed_before_the_boundary_is_in_it(void **state)
{
	struct gate g = { .control = NULL };

	assert_false(gate_has(&g, (struct commit_lsn) { 0 }));
	gate_raise(&g, at(100));
	assert_true(gate_has(&g, (struct commit_lsn) { 99 }));
	assert_false(gate_has(&g, (struct commit_lsn) { 100 }));
}

static void it_never_goes_back(void **state)
{
	struct gate g = { .control = NULL };

	gate_raise(&g, at(100));
	gate_raise(&g, at(50));
	assert_int_equal(gate_boundary(&g).v, 100);
	gate_raise(&g, at(101));
	assert_int_equal(gate_boundary(&g).v, 101);
}

static void a_record_is_an_lsn(void **state)
{
	struct boundary b = { 7 };

	assert_true(gate_record_parse(span_str("{\"lsn\": \"1/A0\"}"), &b));
	assert_int_equal(b.v, 0x1000000a0);
	assert_true(gate_record_parse(span_str("{\"lsn\":\"0/1\",\"more\":[]}"), &b));
	assert_int_equal(b.v, 1);
	assert_false(gate_record_parse(span_str("{\"lsn\": 5}"), &b));
	assert_false(gate_record_parse(span_str("{}"), &b));
	assert_false(gate_record_parse(span_str("{\"lsn\": \"1/A0\""), &b));
	assert_false(gate_record_parse(span(NULL, 0), &b));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_open_gate_has_everything),
		cmocka_unit_test(what_was_committed_before_the_boundary_is_in_it),
		cmocka_unit_test(it_never_goes_back),
		cmocka_unit_test(a_record_is_an_lsn),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
