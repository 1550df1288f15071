// SPDX-License-Identifier: Apache-2.0
/* Against a control topic that is made up: what known asks of one is in this file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "reconcile/known.h"

enum { TABLES = 2, RECORD_BYTES = 16 << 20, REASON_BYTES = 8 << 20, KEY_TEXT = 32 };

static uint64_t control_now;
static struct buf records[TABLES];
static char keys[TABLES][KEY_TEXT];

uint64_t control_version(struct control *c)
{
	return control_now;
}

uint64_t control_wait(struct control *c, uint64_t seen, int timeout_ms)
{
	return ++control_now;
}

void control_each(struct control *c, const char *prefix, bool (*each)(void *arg, struct span key, struct span value), void *arg)
{
	for (int i = 0; i < TABLES; i++)
		if (keys[i][0] && !each(arg, span_str(keys[i]), buf_span(&records[i])))
			return;
}

/* Large, so that reading it again and again would soon be too much. */
static void put_version(int i, uint32_t oid, uint32_t version)
{
	static char reason[REASON_BYTES];
	struct column column = { .name = span_str("id"), .type_oid = 20, .typmod = -1, .type_name = span_str("bigint"),
				 .type.kind = VALUE_INT8, .is_key = true, .target = span_str("id") };
	struct relation rel = { .oid = oid, .version = version, .schema = span_str("public"), .table = span_str("t"),
				.root_schema = span_str("public"), .root_table = span_str("t"), .target_schema = span_str("public"),
				.target_table = span_str("t"), .identity = 'd', .routing_reason = span(reason, sizeof(reason)),
				.fingerprint = 16 * oid + version, .columns = &column, .column_count = 1, .key_count = 1 };

	memset(reason, 'x', sizeof(reason));
	snprintf(keys[i], sizeof(keys[i]), "relation/%u/%08u", oid, version);
	buf_init(&records[i], RECORD_BYTES);
	assert_true(relation_write(&rel, &records[i]));
	control_now++;
}

static struct known *known_of_one_table(struct fault *f)
{
	struct known *k;

	put_version(0, 7, 1);
	k = known_new(NULL, f);
	if (!k)
		fail_msg("%s", f->text);
	return k;
}

static int forget_versions(void **state)
{
	for (int i = 0; i < TABLES; i++) {
		keys[i][0] = 0;
		buf_release(&records[i]);
	}
	return 0;
}

/* Control changes with each window: by the gate and the bookmark. */
static void what_is_known_is_not_read_again(void **state)
{
	struct fault f = { 0 };
	struct known *k = known_of_one_table(&f);

	for (int i = 0; i < 200; i++) {
		control_now++;
		if (!known_look(k, &f))
			fail_msg("look %d: %s", i, f.text);
	}
	assert_int_equal(known_version_count(k), 1);
	known_free(k);
}

static void a_new_version_is_the_newest(void **state)
{
	struct fault f = { 0 };
	struct known *k = known_of_one_table(&f);

	put_version(1, 7, 2);
	assert_true(known_look(k, &f));
	assert_int_equal(known_version_count(k), 2);
	assert_int_equal(known_count(k), 1);
	assert_int_equal(known_relation(k, 7)->version, 2);
	assert_int_equal(codec_relation(known_codec(k, 16 * 7 + 1))->version, 1);
	known_free(k);
}

static void a_record_that_came_later_is_found(void **state)
{
	struct fault f = { 0 };
	struct known *k = known_new(NULL, &f);

	assert_int_equal(known_count(k), 0);
	put_version(0, 7, 1);
	assert_non_null(known_codec(k, 16 * 7 + 1));
	known_free(k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(what_is_known_is_not_read_again, forget_versions),
		cmocka_unit_test_teardown(a_new_version_is_the_newest, forget_versions),
		cmocka_unit_test_teardown(a_record_that_came_later_is_found, forget_versions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
