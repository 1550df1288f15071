// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "core/framing.h"

static bool get(const struct framing *fr, const char *bytes, size_t n, uint64_t *ret,
		struct fault *f)
{
	struct cursor c = cursor(span(bytes, n));

	return framing_get(fr, &c, ret, f) && cursor_left(&c) == 0;
}

static void single_object_is_c3_01_and_the_fingerprint_little_endian(void **state)
{
	struct framing *fr = framing_new(FRAMING_SINGLE_OBJECT);
	char bytes[FRAMING_MAX_BYTES];
	struct fault f = { 0 };
	uint64_t fingerprint;

	assert_ptr_equal(framing_put(fr, 0x0102030405060708, bytes), bytes + 10);
	assert_memory_equal(bytes, "\xc3\x01\x08\x07\x06\x05\x04\x03\x02\x01", 10);
	assert_true(get(fr, bytes, 10, &fingerprint, &f));
	assert_true(fingerprint == 0x0102030405060708);
	for (size_t n = 0; n < 10; n++)
		assert_false(get(fr, bytes, n, &fingerprint, &f));
	bytes[1] = 2;
	assert_false(get(fr, bytes, 10, &fingerprint, &f));
	assert_int_equal(f.kind, FAULT_INPUT);
	framing_free(fr);
}

static void confluent_is_zero_and_the_id_big_endian(void **state)
{
	struct framing *fr = framing_new(FRAMING_CONFLUENT);
	char bytes[FRAMING_MAX_BYTES];
	struct fault f = { 0 };
	uint64_t fingerprint;
	int32_t id;

	assert_true(framing_learn(fr, 77, 0x01020304));
	assert_ptr_equal(framing_put(fr, 77, bytes), bytes + 5);
	assert_memory_equal(bytes, "\x00\x01\x02\x03\x04", 5);
	assert_true(get(fr, bytes, 5, &fingerprint, &f));
	assert_true(fingerprint == 77);
	assert_true(framing_record_id(span(bytes, 5), &id));
	assert_int_equal(id, 0x01020304);
	for (size_t n = 0; n < 5; n++)
		assert_false(get(fr, bytes, n, &fingerprint, &f));
	assert_int_equal(f.kind, FAULT_INPUT);
	framing_free(fr);
}

static void an_id_that_was_not_learned_may_be_later(void **state)
{
	struct framing *fr = framing_new(FRAMING_CONFLUENT);
	struct fault f = { 0 };
	uint64_t fingerprint;
	char bytes[FRAMING_MAX_BYTES];

	assert_null(framing_put(fr, 77, bytes));
	assert_false(get(fr, "\0\0\0\0\5", 5, &fingerprint, &f));
	assert_int_equal(f.kind, FAULT_ENVIRONMENT);
	assert_true(framing_learn(fr, 77, 5));
	assert_true(get(fr, "\0\0\0\0\5", 5, &fingerprint, &f));
	framing_free(fr);
}

static void an_id_means_one_schema_for_ever(void **state)
{
	struct framing *fr = framing_new(FRAMING_CONFLUENT);

	assert_true(framing_learn(fr, 77, 5));
	assert_true(framing_learn(fr, 77, 5));
	assert_false(framing_learn(fr, 78, 5));
	assert_false(framing_learn(fr, 79, -1));
	assert_false(framing_learn(fr, 0, 6));
	framing_free(fr);
}

static void of_two_ids_of_a_schema_both_are_read_and_the_first_is_written(void **state)
{
	struct framing *fr = framing_new(FRAMING_CONFLUENT);
	struct fault f = { 0 };
	uint64_t fingerprint;
	char bytes[FRAMING_MAX_BYTES];

	assert_true(framing_learn(fr, 77, 5));
	assert_true(framing_learn(fr, 77, 9));
	assert_true(get(fr, "\0\0\0\0\x9", 5, &fingerprint, &f));
	assert_true(fingerprint == 77);
	framing_put(fr, 77, bytes);
	assert_memory_equal(bytes, "\0\0\0\0\5", 5);
	framing_free(fr);
}

enum { IDS = 5000 };

struct reading {
	struct framing *fr;
	atomic_int learned;
	int wrong;
};

/* What was learned before is always found, whatever is being learned meanwhile. */
static void *read_along(void *arg)
{
	struct reading *r = arg;
	struct fault f;
	int n;

	do {
		n = atomic_load(&r->learned);
		for (int id = n > 100 ? n - 100 : 0; id < n; id++) {
			char bytes[5] = { 0, 0, 0, (char)(id >> 8), (char)id };
			uint64_t fingerprint = 0;

			if (!get(r->fr, bytes, 5, &fingerprint, &f) ||
			    fingerprint != (uint64_t)id * 0x123456789 + 1)
				r->wrong++;
		}
	} while (n < IDS);
	return NULL;
}

static void readers_need_no_lock_while_others_learn(void **state)
{
	struct reading r = { .fr = framing_new(FRAMING_CONFLUENT) };
	pthread_t threads[2];

	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, read_along, &r);
	for (int id = 0; id < IDS; id++) {
		assert_true(framing_learn(r.fr, (uint64_t)id * 0x123456789 + 1, id));
		atomic_fetch_add(&r.learned, 1);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(r.wrong, 0);
	framing_free(r.fr);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(single_object_is_c3_01_and_the_fingerprint_little_endian),
		cmocka_unit_test(confluent_is_zero_and_the_id_big_endian),
		cmocka_unit_test(an_id_that_was_not_learned_may_be_later),
		cmocka_unit_test(an_id_means_one_schema_for_ever),
		cmocka_unit_test(of_two_ids_of_a_schema_both_are_read_and_the_first_is_written),
		cmocka_unit_test(readers_need_no_lock_while_others_learn),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
