// SPDX-License-Identifier: Apache-2.0
/* Against librdkafka's mock cluster, which lives in this process and makes topics when asked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/control.h"
#include "tests/unit/tsan_rdkafka.h"

enum { SOON_MS = 10000 };

struct rig {
	rd_kafka_t *client;
	rd_kafka_mock_cluster_t *cluster;
	struct kafka_setting bootstrap;
	struct kafka_conf conf;
	struct arena a;
	char topic[32];
	struct fault f;
};

static struct rig rig;

static int start_cluster(void **state)
{
	char reason[256];
	rd_kafka_conf_t *conf = rd_kafka_conf_new();

	rig.client = rd_kafka_new(RD_KAFKA_PRODUCER, conf, reason, sizeof(reason));
	rig.cluster = rd_kafka_mock_cluster_new(rig.client, 1);
	rig.bootstrap = (struct kafka_setting) { "bootstrap.servers",
						 rd_kafka_mock_cluster_bootstraps(rig.cluster) };
	rig.conf = (struct kafka_conf) { &rig.bootstrap, 1, "test" };
	return 0;
}

static int stop_cluster(void **state)
{
	rd_kafka_mock_cluster_destroy(rig.cluster);
	rd_kafka_destroy(rig.client);
	return 0;
}

/* Each test has a topic of its own. */
static int new_topic(void **state)
{
	static int n;

	snprintf(rig.topic, sizeof(rig.topic), "t%d.control", n++);
	rd_kafka_mock_topic_create(rig.cluster, rig.topic, 1, 1);
	arena_init(&rig.a, 1 << 20);
	fault_reset(&rig.f);
	return 0;
}

static int end_topic(void **state)
{
	arena_release(&rig.a);
	return 0;
}

static struct control *open_control(void)
{
	struct control *c = control_open(&rig.conf, rig.topic, &rig.f);

	if (!c)
		fail_msg("%s", rig.f.text);
	return c;
}

static void put(struct control *c, const char *key, const char *value)
{
	if (!control_put(c, span_str(key), span_str(value), SOON_MS, &rig.f))
		fail_msg("%s", rig.f.text);
}

static void expect(struct control *c, const char *key, const char *value)
{
	struct span seen = control_get(c, span_str(key), &rig.a);

	if (!value)
		assert_null(seen.p);
	else
		assert_string_equal(seen.p ? seen.p : "(none)", value);
}

/* Waits until a key has this value: another control wrote it. */
static void await(struct control *c, const char *key, const char *value)
{
	int64_t deadline_us = clock_us() + SOON_MS * 1000;
	uint64_t version = control_version(c);

	while (!span_eq_str(control_get(c, span_str(key), &rig.a), value) &&
	       clock_us() < deadline_us)
		version = control_wait(c, version, 100);
	expect(c, key, value);
}

static void what_is_put_is_there_at_once(void **state)
{
	struct control *c = open_control();

	expect(c, "identity", NULL);
	put(c, "identity", "{\"slot\":1}");
	expect(c, "identity", "{\"slot\":1}");
	put(c, "identity", "{\"slot\":2}");
	expect(c, "identity", "{\"slot\":2}");
	control_close(c);
}

static void opening_reads_what_was_written_before(void **state)
{
	struct control *c = open_control();
	char key[32];

	for (int i = 0; i < 300; i++) {
		snprintf(key, sizeof(key), "relation/%d", i % 150);
		put(c, key, i < 150 ? "old" : "new");
	}
	control_close(c);
	c = open_control();
	for (int i = 0; i < 150; i++) {
		snprintf(key, sizeof(key), "relation/%d", i);
		expect(c, key, "new");
	}
	control_close(c);
}

static void a_tombstone_removes_its_key(void **state)
{
	struct control *c = open_control();

	put(c, "a", "1");
	put(c, "b", "1");
	put(c, "a", NULL);
	expect(c, "a", NULL);
	control_close(c);
	c = open_control();
	expect(c, "a", NULL);
	expect(c, "b", "1");
	control_close(c);
}

static void an_empty_value_is_a_value(void **state)
{
	struct control *c = open_control();

	put(c, "a", "");
	expect(c, "a", "");
	control_close(c);
	c = open_control();
	expect(c, "a", "");
	control_close(c);
}

static void others_follow_what_one_puts(void **state)
{
	struct control *writer = open_control(), *reader = open_control();

	put(writer, "copy/1", "begin");
	await(reader, "copy/1", "begin");
	put(reader, "copy/1", "complete");
	await(writer, "copy/1", "complete");
	control_close(writer);
	control_close(reader);
}

static void a_record_read_late_does_not_hide_a_newer_one(void **state)
{
	struct control *c = open_control();
	uint64_t version;

	for (int i = 0; i < 20; i++)
		put(c, "k", "old");
	put(c, "k", "new");
	version = control_version(c);
	/* The reader meets the old ones now; nothing may change. */
	assert_int_equal(control_wait(c, version, 300), version);
	expect(c, "k", "new");
	control_close(c);
}

struct seen {
	char keys[256];
	struct control *c;
	int left;
};

static bool see(void *arg, struct span key, struct span value)
{
	struct seen *s = arg;

	strncat(s->keys, key.p, key.n);
	strncat(s->keys, " ", 2);
	if (s->c)
		assert_true(span_eq(control_get(s->c, key, &rig.a), value));
	return --s->left > 0;
}

static void each_goes_over_a_prefix_in_byte_order(void **state)
{
	struct control *c = open_control();
	struct seen s = { .c = c, .left = 100 };

	put(c, "copy/2", "x");
	put(c, "copy/10", "x");
	put(c, "cop", "x");
	put(c, "copz", "x");
	put(c, "copy/1", "x");
	put(c, "copy/3", "x");
	put(c, "copy/3", NULL);
	control_each(c, "copy/", see, &s);
	assert_string_equal(s.keys, "copy/1 copy/10 copy/2 ");
	s = (struct seen) { .left = 2 };
	control_each(c, "", see, &s);
	assert_string_equal(s.keys, "cop copy/1 ");
	control_close(c);
}

static void a_watching_eventfd_is_signalled(void **state)
{
	struct control *writer = open_control(), *c = open_control();
	int fd = eventfd(0, EFD_NONBLOCK);
	uint64_t count;

	assert_true(control_watch(c, fd));
	put(writer, "a", "1");
	await(c, "a", "1");
	assert_int_equal(read(fd, &count, 8), 8);
	control_unwatch(c, fd);
	put(writer, "a", "2");
	await(c, "a", "2");
	assert_int_equal(read(fd, &count, 8), -1);
	close(fd);
	control_close(writer);
	control_close(c);
}

static void waiting_ends_in_time(void **state)
{
	struct control *c = open_control();
	int64_t start_us = clock_us();
	uint64_t version = control_version(c);

	assert_int_equal(control_wait(c, version, 50), version);
	assert_in_range(clock_us() - start_us, 45000, 5000000);
	put(c, "a", "1");
	assert_int_not_equal(control_wait(c, version, SOON_MS), version);
	control_close(c);
}

static void a_put_is_tried_again_when_a_broker_refuses_for_now(void **state)
{
	struct control *c = open_control();

	put(c, "a", "0");
	rd_kafka_mock_push_request_errors(rig.cluster, 0 /* Produce */, 2,
					  RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
					  RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT);
	put(c, "a", "1");
	expect(c, "a", "1");
	control_close(c);
}

static void a_put_that_is_not_acknowledged_in_time_fails(void **state)
{
	struct control *c = open_control();

	put(c, "a", "1");
	rd_kafka_mock_broker_set_rtt(rig.cluster, 1, 1000);
	assert_false(control_put(c, span_str("a"), span_str("2"), 100, &rig.f));
	rd_kafka_mock_broker_set_rtt(rig.cluster, 1, 0);
	assert_int_equal(rig.f.kind, FAULT_ENVIRONMENT);
	assert_non_null(strstr(rig.f.text, "control record a: "));
	/* Its late report is not taken for the next put's. */
	put(c, "b", "3");
	expect(c, "b", "3");
	control_close(c);
}

static void a_record_that_is_too_large_is_refused(void **state)
{
	struct control *c = open_control();
	size_t n = 65 << 20;
	char *large = malloc(n);

	memset(large, 'x', n);
	assert_false(control_put(c, span_str("a"), span(large, n), SOON_MS, &rig.f));
	assert_int_equal(rig.f.kind, FAULT_STOP);
	put(c, "a", "1");
	free(large);
	control_close(c);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, new_topic, end_topic)
	const struct CMUnitTest tests[] = {
		TEST(what_is_put_is_there_at_once),
		TEST(opening_reads_what_was_written_before),
		TEST(a_tombstone_removes_its_key),
		TEST(an_empty_value_is_a_value),
		TEST(others_follow_what_one_puts),
		TEST(a_record_read_late_does_not_hide_a_newer_one),
		TEST(each_goes_over_a_prefix_in_byte_order),
		TEST(a_watching_eventfd_is_signalled),
		TEST(waiting_ends_in_time),
		TEST(a_put_is_tried_again_when_a_broker_refuses_for_now),
		TEST(a_put_that_is_not_acknowledged_in_time_fails),
		TEST(a_record_that_is_too_large_is_refused),
	};

	return cmocka_run_group_tests(tests, start_cluster, stop_cluster);
}
