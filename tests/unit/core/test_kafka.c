// SPDX-License-Identifier: Apache-2.0
/* Against librdkafka's mock cluster, in this process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <cmocka.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

#include "core/clock.h"
#include "core/kafka.h"
#include "core/log.h"

enum { RECORD_COUNT = 4000, RECORD_BYTES = 1000 };

static struct mock {
	rd_kafka_t *host;
	rd_kafka_mock_cluster_t *cluster;
	struct kafka_setting settings[3];
	struct kafka_conf conf;
} mock;

static int mock_start(void **state)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char reason[256];

	(void)state;
	log_set(LOG_LEVEL_ERROR, false);
	mock.host = rd_kafka_new(RD_KAFKA_PRODUCER, conf, reason, sizeof(reason));
	mock.cluster = rd_kafka_mock_cluster_new(mock.host, 1);
	rd_kafka_mock_topic_create(mock.cluster, "m.changes", 2, 1);
	mock.settings[0] = (struct kafka_setting) {
		"bootstrap.servers", rd_kafka_mock_cluster_bootstraps(mock.cluster)
	};
	mock.conf = (struct kafka_conf) { mock.settings, 1, "test" };
	return 0;
}

static int mock_stop(void **state)
{
	(void)state;
	rd_kafka_mock_cluster_destroy(mock.cluster);
	rd_kafka_destroy(mock.host);
	return 0;
}

/* Fills partition 0; waits for all reports, as events behind an eventfd. */
static void produce_all(int count)
{
	int event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), delivered = 0;
	char payload[RECORD_BYTES] = { 0 };
	rd_kafka_queue_t *events;
	rd_kafka_t *producer;
	struct fault f = { .text = "" };
	uint64_t n;

	producer = kafka_producer(&mock.conf, event_fd, &events, &f);
	if (!producer)
		fail_msg("%s", f.text);
	for (int i = 0; i < count; i++)
		assert_int_equal(rd_kafka_producev(producer, RD_KAFKA_V_TOPIC("m.changes"),
						   RD_KAFKA_V_PARTITION(0),
						   RD_KAFKA_V_VALUE(payload, sizeof(payload)),
						   RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
						   RD_KAFKA_V_END),
				 0);
	while (delivered < count) {
		rd_kafka_event_t *event = rd_kafka_queue_poll(events, 10000);

		assert_non_null(event);
		assert_int_equal(rd_kafka_event_type(event), RD_KAFKA_EVENT_DR);
		delivered += (int)rd_kafka_event_message_count(event);
		rd_kafka_event_destroy(event);
	}
	assert_int_equal(read(event_fd, &n, sizeof(n)), sizeof(n));
	rd_kafka_queue_destroy(events);
	rd_kafka_destroy(producer);
	close(event_fd);
}

static void a_producers_reports_come_as_events(void **state)
{
	int64_t low, high;
	struct kafka_range ranges[10];
	struct fault f;
	rd_kafka_t *reader;

	(void)state;
	produce_all(RECORD_COUNT);
	reader = kafka_reader(&mock.conf, &f);
	assert_non_null(reader);
	assert_true(kafka_bounds(reader, "m.changes", 0, &low, &high, &f));
	assert_int_equal(low, 0);
	assert_int_equal(high, RECORD_COUNT);
	assert_true(kafka_bounds(reader, "m.changes", 1, &low, &high, &f));
	assert_int_equal(high, 0);
	assert_false(kafka_bounds(reader, "m.changes", 9, &low, &high, &f));
	assert_non_null(strstr(f.text, "m.changes partition 9"));
	assert_true(kafka_ranges(reader, "m.changes", 2, ranges, &f));
	assert_int_equal(ranges[0].low, 0);
	assert_int_equal(ranges[0].high, RECORD_COUNT);
	assert_int_equal(ranges[1].low, 0);
	assert_int_equal(ranges[1].high, 0);
	assert_false(kafka_ranges(reader, "m.changes", 10, ranges, &f));
	assert_non_null(strstr(f.text, "m.changes partition"));
	rd_kafka_destroy(reader);
}

/* Until the queue is full and the broker's thread has gone to sleep over it. */
static void wait_until_full(rd_kafka_queue_t *queue)
{
	size_t before = 0, now;

	for (int i = 0; i < 100; i++) {
		usleep(100000);
		now = rd_kafka_queue_length(queue);
		if (now > 0 && now == before)
			return;
		before = now;
	}
	fail_msg("nothing was fetched");
}

static int take(rd_kafka_queue_t *queue, int timeout_ms)
{
	rd_kafka_message_t *m;

	if (rd_kafka_consume_batch_queue(queue, timeout_ms, &m, 1) != 1)
		return 0;
	assert_int_equal(m->err, 0);
	rd_kafka_message_destroy(m);
	return 1;
}

/* Empties partition 0's own queue, as a lane does; how long until there is more? */
static int64_t time_to_more(bool is_woken)
{
	rd_kafka_topic_partition_list_t *parts = rd_kafka_topic_partition_list_new(1);
	struct fault f = { .text = "" };
	rd_kafka_t *reader = kafka_reader(&mock.conf, &f);
	rd_kafka_queue_t *queue;
	int64_t emptied_us;
	int taken = 0;

	if (!reader)
		fail_msg("%s", f.text);
	queue = rd_kafka_queue_get_partition(reader, "m.changes", 0);
	rd_kafka_queue_forward(queue, NULL);
	rd_kafka_topic_partition_list_add(parts, "m.changes", 0)->offset = 0;
	assert_int_equal(rd_kafka_assign(reader, parts), 0);
	wait_until_full(queue);
	while (take(queue, 0))
		taken++;
	assert_in_range(taken, 1, RECORD_COUNT - 1);
	emptied_us = clock_us();
	if (is_woken)
		kafka_wake(reader, "m.changes", 0);
	assert_int_equal(take(queue, 10000), 1);
	emptied_us = clock_us() - emptied_us;
	rd_kafka_queue_destroy(queue);
	rd_kafka_topic_partition_list_destroy(parts);
	rd_kafka_destroy(reader);
	return emptied_us;
}

static void a_consumer_that_wakes_its_broker_does_not_stall(void **state)
{
	int64_t woken_us = INT64_MAX;

	(void)state;
	mock.settings[1] = (struct kafka_setting) { "queued.min.messages", "500" };
	mock.conf.count = 2;
	print_message("asleep: more after %d ms\n", (int)(time_to_more(false) / 1000));
	for (int tries = 0; tries < 5 && woken_us > 300000; tries++) /* another one than us may have the processor */
		woken_us = time_to_more(true);
	assert_in_range(woken_us, 0, 300000);
	mock.conf.count = 1;
}

static void ours_win_over_the_users_settings(void **state)
{
	static const struct kafka_setting user[] = { { "auto.offset.reset", "latest" },
						     { "enable.auto.commit", "true" },
						     { "fetch.wait.max.ms", "77" } };
	struct kafka_conf conf = { user, 3, "test" };
	struct fault f;
	rd_kafka_t *member = kafka_member(&conf, "g", "i", NULL, NULL, &f);
	char value[64];
	size_t n = sizeof(value);

	(void)state;
	assert_non_null(member);
	const rd_kafka_conf_t *seen = rd_kafka_conf(member);
	rd_kafka_conf_get(seen, "auto.offset.reset", value, &n);
	assert_string_equal(value, "error");
	n = sizeof(value);
	rd_kafka_conf_get(seen, "enable.auto.commit", value, &n);
	assert_string_equal(value, "false");
	n = sizeof(value);
	rd_kafka_conf_get(seen, "fetch.wait.max.ms", value, &n);
	assert_string_equal(value, "77");
	n = sizeof(value);
	rd_kafka_conf_get(seen, "group.instance.id", value, &n);
	assert_string_equal(value, "i");
	rd_kafka_destroy(member);
}

static void a_setting_that_is_wrong_is_named(void **state)
{
	static const struct kafka_setting user[] = { { "linger.ms", "soon" } };
	struct kafka_conf conf = { user, 1, "test" };
	struct fault f;
	rd_kafka_queue_t *events;

	(void)state;
	assert_null(kafka_producer(&conf, -1, &events, &f));
	assert_int_equal(f.kind, FAULT_USAGE);
	assert_non_null(strstr(f.text, "linger.ms"));
}

static void the_brokers_replication_factor_may_be_asked_for(void **state)
{
	char reason[256];
	rd_kafka_NewTopic_t *topic = rd_kafka_NewTopic_new("t", 3, -1, reason, sizeof(reason));

	(void)state;
	assert_non_null(topic);
	rd_kafka_NewTopic_destroy(topic);
}

static void an_error_says_what_may_be_done(void **state)
{
	struct fault f;

	(void)state;
	assert_false(kafka_fault(RD_KAFKA_RESP_ERR__TRANSPORT, "x", &f));
	assert_int_equal(f.kind, FAULT_ENVIRONMENT);
	assert_non_null(strstr(f.text, "; next step: see that the brokers of kafka: bootstrap.servers run"));
	assert_false(kafka_fault(RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, "topic t", &f));
	assert_int_equal(f.kind, FAULT_STOP);
	assert_non_null(strstr(f.text, "topic t"));
	kafka_fault(RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE, "x", &f);
	assert_int_equal(f.kind, FAULT_LOST);
	kafka_fault(RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID, "x", &f);
	assert_int_equal(f.kind, FAULT_FENCED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_producers_reports_come_as_events),
		cmocka_unit_test(a_consumer_that_wakes_its_broker_does_not_stall),
		cmocka_unit_test(ours_win_over_the_users_settings),
		cmocka_unit_test(a_setting_that_is_wrong_is_named),
		cmocka_unit_test(the_brokers_replication_factor_may_be_asked_for),
		cmocka_unit_test(an_error_says_what_may_be_done),
	};

	return cmocka_run_group_tests(tests, mock_start, mock_stop);
}
