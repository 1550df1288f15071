// SPDX-License-Identifier: Apache-2.0
/*
 * kafka - settings in three layers: defaults of ours that the user may change, the user's, ours
 * that keep a promise. librdkafka takes the last value of a key.
 *
 * Memory and stalls of a consumer. librdkafka 2.0 asks for more of a partition when its local queue
 * is below queued.min.messages and queued.max.messages.kbytes; the limits are looked at before a
 * fetch, so a queue holds up to its limit and one fetch more. A message costs 400 bytes beside its
 * payload (measured) and payloads arrive unpacked, so the number of messages bounds memory before
 * the kilobytes do; and a broker hands out whole batches, so the producer's batch is the unit: a
 * fetch of 256 KiB lz4 is about 5000 messages of 100 bytes, with 2000 waiting 3.5 MB a partition,
 * 84 MB for two roles of 12 partitions when all are full. Four times that with fetches of 1 MiB.
 *
 * When all queues that come from one broker are full, nothing is asked of it, its thread sleeps up
 * to 1 s (rd_kafka_max_block_ms, no setting) and nobody wakes it when a queue runs empty
 * (fetch.queue.backoff.ms came with 2.2). Queues that hold a second's worth would avoid it, but
 * not in bounded memory. kafka_wake() does: any request to that broker wakes its thread, which
 * then looks at all queues again. Whoever empties queues calls it when it finds them empty with
 * more in the log. While a fetch is under way the thread wakes after fetch.wait.max.ms at the
 * latest (for the queues not in that fetch), hence the short one.
 */
#include "core/kafka.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/log.h"

enum {
	KAFKA_ADMIN_TIMEOUT_MS = 30000,
	KAFKA_MEMBERS_TIMEOUT_MS = 15000, /* more than our session.timeout.ms */
	KAFKA_METADATA_TIMEOUT_MS = 10000,
	KAFKA_WAKE_TIMEOUT_MS = 200,
	KAFKA_TOPICS_MAX = 64,
};

#define KAFKA_RECORD_BYTES_TEXT "67108864"

static const struct kafka_setting common_defaults[] = {
	{ "reconnect.backoff.max.ms", "2000" }, /* 10 s of waiting for a broker that is back */
	{ "topic.metadata.refresh.interval.ms", "60000" },
	{ "socket.keepalive.enable", "true" },
	{ "log.connection.close", "false" }, /* idle ones are closed by the broker all the time */
};

static const struct kafka_setting common_ours[] = {
	{ "allow.auto.create.topics", "false" },
	{ "socket.nagle.disable", "true" },
};

static const struct kafka_setting producer_defaults[] = {
	{ "linger.ms", "5" },
	{ "batch.size", "262144" },
	{ "compression.codec", "lz4" },
	{ "queue.buffering.max.messages", "50000" }, /* full, it is a good part of the process */
	{ "queue.buffering.max.kbytes", "98304" }, /* the largest record beside a copy's share */
};

static const struct kafka_setting producer_ours[] = {
	{ "enable.idempotence", "true" },
	{ "acks", "all" },
	{ "message.timeout.ms", "0" },
	{ "message.max.bytes", KAFKA_RECORD_BYTES_TEXT },
	{ "delivery.report.only.error", "false" },
};

static const struct kafka_setting consumer_defaults[] = {
	{ "queued.max.messages.kbytes", "1024" },
	{ "queued.min.messages", "2000" },
	{ "fetch.message.max.bytes", "262144" },
	{ "fetch.max.bytes", "4194304" }, /* soft: a larger record comes alone */
	{ "fetch.wait.max.ms", "50" },
};

static const struct kafka_setting consumer_ours[] = {
	{ "enable.auto.commit", "false" },
	{ "enable.auto.offset.store", "false" },
	{ "auto.offset.reset", "error" },
	{ "enable.partition.eof", "false" },
	{ "check.crcs", "true" },
	{ "isolation.level", "read_uncommitted" },    /* no transactions: nothing to wait for */
	{ "receive.message.max.bytes", "100000000" }, /* a record of 64 MiB and a fetch around it */
};

static const struct kafka_setting member_defaults[] = {
	{ "session.timeout.ms", "10000" },
	{ "heartbeat.interval.ms", "2000" },
};

#define KAFKA_SET_ALL(conf, table, f)                                                              \
	kafka_set_all(conf, table, sizeof(table) / sizeof(*(table)), f)

static bool kafka_set(rd_kafka_conf_t *conf, const char *key, const char *value, struct fault *f)
{
	char reason[512];

	if (rd_kafka_conf_set(conf, key, value, reason, sizeof(reason)) == RD_KAFKA_CONF_OK)
		return true;
	return fault(f, FAULT_USAGE, "kafka setting %s: %s", key, reason);
}

static bool kafka_set_all(rd_kafka_conf_t *conf, const struct kafka_setting *settings, size_t n,
			  struct fault *f)
{
	for (size_t i = 0; i < n; i++)
		if (!kafka_set(conf, settings[i].key, settings[i].value, f))
			return false;
	return true;
}

/* What librdkafka calls an error (3) is a broker that is down, which it goes on trying. */
static void kafka_log(const rd_kafka_t *client, int level, const char *facility, const char *text)
{
	/* "is a producer property and will be ignored by this consumer": the YAML has one list. */
	if (strcmp(facility, "CONFWARN") == 0)
		return;
	log_line(level <= 2   ? LOG_LEVEL_ERROR
		 : level <= 4 ? LOG_LEVEL_WARN
			      : LOG_LEVEL_DEBUG,
		 "kafka %s: %s: %s", rd_kafka_name(client), facility, text);
}

/* Each layer is a table; NULL and a fault, with nothing left behind, if librdkafka refuses one. */
static rd_kafka_conf_t *kafka_conf_new(const struct kafka_conf *user, rd_kafka_type_t type,
				       struct fault *f)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	bool ok;

	rd_kafka_conf_set_log_cb(conf, kafka_log);
	ok = KAFKA_SET_ALL(conf, common_defaults, f);
	ok = ok && (type == RD_KAFKA_PRODUCER ? KAFKA_SET_ALL(conf, producer_defaults, f)
					      : KAFKA_SET_ALL(conf, consumer_defaults, f) &&
						    KAFKA_SET_ALL(conf, member_defaults, f));
	ok = ok && kafka_set_all(conf, user->settings, user->count, f);
	ok = ok && KAFKA_SET_ALL(conf, common_ours, f);
	ok = ok && (type == RD_KAFKA_PRODUCER ? KAFKA_SET_ALL(conf, producer_ours, f)
					      : KAFKA_SET_ALL(conf, consumer_ours, f));
	ok = ok && (!user->client_id || kafka_set(conf, "client.id", user->client_id, f));
	if (ok)
		return conf;
	rd_kafka_conf_destroy(conf);
	return NULL;
}

/* Takes conf, in every case. */
static rd_kafka_t *kafka_new(rd_kafka_type_t type, rd_kafka_conf_t *conf, struct fault *f)
{
	char reason[512];
	rd_kafka_t *client = rd_kafka_new(type, conf, reason, sizeof(reason));

	if (client)
		return client;
	rd_kafka_conf_destroy(conf);
	fault(f, FAULT_USAGE, "kafka: %s", reason);
	return NULL;
}

rd_kafka_t *kafka_producer(const struct kafka_conf *user, int event_fd,
			   rd_kafka_queue_t **ret_events, struct fault *f)
{
	static const uint64_t one = 1; /* an eventfd wants eight bytes */
	rd_kafka_conf_t *conf = kafka_conf_new(user, RD_KAFKA_PRODUCER, f);
	rd_kafka_t *client;

	if (!conf)
		return NULL;
	rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR);
	client = kafka_new(RD_KAFKA_PRODUCER, conf, f);
	if (!client)
		return NULL;
	*ret_events = rd_kafka_queue_get_main(client);
	if (event_fd >= 0)
		rd_kafka_queue_io_event_enable(*ret_events, event_fd, &one, sizeof(one));
	return client;
}

/*
 * librdkafka wants a group.id before it lets partitions be assigned by hand. Nothing joins and
 * nothing is committed under this name, so the group never comes to be.
 */
rd_kafka_t *kafka_reader(const struct kafka_conf *user, struct fault *f)
{
	rd_kafka_conf_t *conf = kafka_conf_new(user, RD_KAFKA_CONSUMER, f);
	rd_kafka_t *client;

	if (!conf)
		return NULL;
	if (!kafka_set(conf, "group.id", user->client_id ? user->client_id : "foreshadow-reader",
		       f)) {
		rd_kafka_conf_destroy(conf);
		return NULL;
	}
	client = kafka_new(RD_KAFKA_CONSUMER, conf, f);
	if (client)
		rd_kafka_poll_set_consumer(client);
	return client;
}

rd_kafka_t *kafka_member(const struct kafka_conf *user, const char *group, const char *instance,
			 void (*rebalance)(rd_kafka_t *, rd_kafka_resp_err_t,
					   rd_kafka_topic_partition_list_t *, void *),
			 void *opaque, struct fault *f)
{
	const struct kafka_setting ours[] = {
		{ "group.id", group },
		{ "group.instance.id", instance },
		{ "partition.assignment.strategy", "range" },
	};
	rd_kafka_conf_t *conf = kafka_conf_new(user, RD_KAFKA_CONSUMER, f);
	rd_kafka_t *client;

	if (!conf)
		return NULL;
	if (!KAFKA_SET_ALL(conf, ours, f)) {
		rd_kafka_conf_destroy(conf);
		return NULL;
	}
	rd_kafka_conf_set_rebalance_cb(conf, rebalance);
	rd_kafka_conf_set_opaque(conf, opaque);
	client = kafka_new(RD_KAFKA_CONSUMER, conf, f);
	if (client)
		rd_kafka_poll_set_consumer(client);
	return client;
}

#define REACH "see that the brokers of kafka: bootstrap.servers run and can be reached from here"
#define LOG_IN "correct kafka: security.protocol, sasl.mechanism, sasl.username or sasl.password"
#define GRANT "give this user of Kafka the right (ACL) that it lacks there"

/* Errors that trying again does not help, or that mean more than that, or of which is known what to do. Others: environment. */
static const struct kafka_error_row {
	rd_kafka_resp_err_t err;
	enum fault_kind kind;
	const char *next; /* step; NULL: none is known */
} error_rows[] = {
	{ RD_KAFKA_RESP_ERR__TRANSPORT, FAULT_ENVIRONMENT, REACH },
	{ RD_KAFKA_RESP_ERR__TIMED_OUT, FAULT_ENVIRONMENT, REACH },
	{ RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, FAULT_ENVIRONMENT, REACH },
	{ RD_KAFKA_RESP_ERR__RESOLVE, FAULT_ENVIRONMENT, REACH },
	{ RD_KAFKA_RESP_ERR__AUTHENTICATION, FAULT_STOP, LOG_IN },
	{ RD_KAFKA_RESP_ERR__SSL, FAULT_STOP, "correct kafka: security.protocol or the ssl. keys" },
	{ RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED, FAULT_STOP, LOG_IN },
	{ RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM, FAULT_STOP, LOG_IN },
	{ RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, FAULT_STOP, GRANT },
	{ RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED, FAULT_STOP, GRANT },
	{ RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, FAULT_STOP, GRANT },
	{ RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, FAULT_STOP, NULL },
	{ RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC, FAULT_STOP, NULL },
	{ RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION, FAULT_STOP, NULL },
	{ RD_KAFKA_RESP_ERR_INVALID_PARTITIONS, FAULT_STOP, NULL },
	{ RD_KAFKA_RESP_ERR_INVALID_REPLICATION_FACTOR, FAULT_STOP, NULL },
	{ RD_KAFKA_RESP_ERR_INVALID_CONFIG, FAULT_STOP, NULL },
	{ RD_KAFKA_RESP_ERR_POLICY_VIOLATION, FAULT_STOP, NULL },
	{ RD_KAFKA_RESP_ERR_NON_EMPTY_GROUP, FAULT_STOP, NULL },
	{ RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, FAULT_STOP, NULL },
	{ RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE, FAULT_LOST, NULL },
	{ RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET, FAULT_LOST, NULL },
	{ RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID, FAULT_FENCED, NULL },
	{ RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID, FAULT_FENCED, NULL },
	{ RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION, FAULT_FENCED, NULL },
	{ RD_KAFKA_RESP_ERR__FENCED, FAULT_FENCED, NULL },
	{ RD_KAFKA_RESP_ERR__INVALID_ARG, FAULT_INTERNAL, NULL },
	{ RD_KAFKA_RESP_ERR__STATE, FAULT_INTERNAL, NULL },
};

static bool kafka_fault_text(rd_kafka_resp_err_t err, const char *what, const char *text,
			     struct fault *f)
{
	struct kafka_error_row row = { err, FAULT_ENVIRONMENT, NULL };

	for (size_t i = 0; i < sizeof(error_rows) / sizeof(*error_rows); i++)
		if (error_rows[i].err == err)
			row = error_rows[i];
	return fault(f, row.kind, "kafka: %s: %s (%s)%s%s", what, text ? text : rd_kafka_err2str(err), rd_kafka_err2name(err),
		     row.next ? "; next step: " : "", row.next ? row.next : "");
}

bool kafka_fault(rd_kafka_resp_err_t err, const char *what, struct fault *f)
{
	return kafka_fault_text(err, what, NULL, f);
}

/*
 * One admin request and its answer. The callers fill `send`; the event is NULL and a fault when
 * the request as a whole failed.
 */
static rd_kafka_event_t *kafka_admin_wait(rd_kafka_queue_t *queue, const char *what,
					  struct fault *f)
{
	rd_kafka_event_t *event = rd_kafka_queue_poll(queue, KAFKA_ADMIN_TIMEOUT_MS + 5000);

	if (!event) {
		kafka_fault(RD_KAFKA_RESP_ERR__TIMED_OUT, what, f);
		return NULL;
	}
	if (rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR_NO_ERROR)
		return event;
	kafka_fault_text(rd_kafka_event_error(event), what, rd_kafka_event_error_string(event), f);
	rd_kafka_event_destroy(event);
	return NULL;
}

static rd_kafka_AdminOptions_t *kafka_admin_options(rd_kafka_t *client, rd_kafka_admin_op_t op)
{
	rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(client, op);
	char reason[256];

	rd_kafka_AdminOptions_set_request_timeout(options, KAFKA_ADMIN_TIMEOUT_MS, reason,
						  sizeof(reason));
	if (op == RD_KAFKA_ADMIN_OP_CREATETOPICS || op == RD_KAFKA_ADMIN_OP_DELETETOPICS)
		rd_kafka_AdminOptions_set_operation_timeout(options, KAFKA_ADMIN_TIMEOUT_MS, reason,
							    sizeof(reason));
	return options;
}

/* Names, answers of a request about several of them: all must be fine or err_ok. */
static bool kafka_results(const rd_kafka_topic_result_t *const *results, size_t n,
			  rd_kafka_resp_err_t err_ok, const char *verb, struct fault *f)
{
	for (size_t i = 0; i < n; i++) {
		rd_kafka_resp_err_t err = rd_kafka_topic_result_error(results[i]);
		char what[320];

		if (err == RD_KAFKA_RESP_ERR_NO_ERROR || err == err_ok)
			continue;
		snprintf(what, sizeof(what), "%s topic %s", verb,
			 rd_kafka_topic_result_name(results[i]));
		return kafka_fault_text(err, what, rd_kafka_topic_result_error_string(results[i]),
					f);
	}
	return true;
}

/* What a topic of ours must have; also what it is made with. */
static const struct kafka_requirement {
	const char *key, *plain, *compacted;
	bool is_minimum;
} requirements[] = {
	{ "cleanup.policy", "delete", "compact", false },
	{ "retention.ms", "-1", NULL, false },
	{ "retention.bytes", "-1", NULL, false },
	{ "max.message.bytes", KAFKA_RECORD_BYTES_TEXT, KAFKA_RECORD_BYTES_TEXT, true },
};
enum { KAFKA_REQUIREMENTS = sizeof(requirements) / sizeof(*requirements) };

static const char *kafka_required(const struct kafka_requirement *r,
				  const struct kafka_topic_spec *spec)
{
	return spec->compacted ? r->compacted : r->plain;
}

/* Replication factor -1: the broker's default (needs Kafka 2.4). */
static rd_kafka_NewTopic_t *kafka_new_topic(const struct kafka_topic_spec *spec, struct fault *f)
{
	char reason[256];
	rd_kafka_NewTopic_t *topic = rd_kafka_NewTopic_new(spec->name, spec->partition_count, -1,
							   reason, sizeof(reason));

	if (!topic) {
		fault(f, FAULT_INTERNAL, "kafka: topic %s: %s", spec->name, reason);
		return NULL;
	}
	for (size_t i = 0; i < KAFKA_REQUIREMENTS; i++)
		if (kafka_required(&requirements[i], spec))
			rd_kafka_NewTopic_set_config(topic, requirements[i].key,
						     kafka_required(&requirements[i], spec));
	return topic;
}

static bool kafka_create(rd_kafka_t *client, const struct kafka_topic_spec *const *specs, size_t n,
			 struct fault *f)
{
	rd_kafka_NewTopic_t *topics[KAFKA_TOPICS_MAX] = { NULL };
	rd_kafka_queue_t *queue = rd_kafka_queue_new(client);
	rd_kafka_AdminOptions_t *options = kafka_admin_options(client,
							       RD_KAFKA_ADMIN_OP_CREATETOPICS);
	const rd_kafka_topic_result_t **results;
	rd_kafka_event_t *event = NULL;
	bool ok = false;
	size_t count;

	for (size_t i = 0; i < n; i++)
		if (!(topics[i] = kafka_new_topic(specs[i], f)))
			goto done;
	rd_kafka_CreateTopics(client, topics, n, options, queue);
	event = kafka_admin_wait(queue, "create topics", f);
	if (!event)
		goto done;
	results = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event),
						      &count);
	/* Another process of ours may have been faster. */
	ok = kafka_results(results, count, RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS, "create", f);
	for (size_t i = 0; ok && i < count; i++)
		if (!rd_kafka_topic_result_error(results[i]))
			log_info("topic created topic=%s", rd_kafka_topic_result_name(results[i]));
done:
	if (event)
		rd_kafka_event_destroy(event);
	rd_kafka_NewTopic_destroy_array(topics, n);
	rd_kafka_AdminOptions_destroy(options);
	rd_kafka_queue_destroy(queue);
	return ok;
}

static const rd_kafka_metadata_topic_t *kafka_find(const struct rd_kafka_metadata *all,
						   const char *name)
{
	for (int i = 0; i < all->topic_cnt; i++)
		if (strcmp(all->topics[i].topic, name) == 0 &&
		    all->topics[i].err != RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
			return &all->topics[i];
	return NULL;
}

/* All topics: to ask for one by name may create it, with the broker's idea of a topic. */
static const struct rd_kafka_metadata *kafka_metadata(rd_kafka_t *client, struct fault *f)
{
	const struct rd_kafka_metadata *all;
	rd_kafka_resp_err_t err = rd_kafka_metadata(client, 1, NULL, &all,
						    KAFKA_METADATA_TIMEOUT_MS);

	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		return all;
	kafka_fault(err, "asking the brokers for their topics", f);
	return NULL;
}

static bool kafka_has_leaders(const rd_kafka_metadata_topic_t *topic)
{
	if (topic->err || topic->partition_cnt == 0)
		return false;
	for (int i = 0; i < topic->partition_cnt; i++)
		if (topic->partitions[i].leader < 0)
			return false;
	return true;
}

static bool kafka_check_partitions(const rd_kafka_metadata_topic_t *topic,
				   const struct kafka_topic_spec *spec, struct fault *f)
{
	if (topic->partition_cnt == spec->partition_count)
		return true;
	return fault(
	    f, FAULT_STOP,
	    "topic %s has %d partitions, this migration needs %d: its keys would move between "
	    "partitions; next step: set kafka.partitions back to what it was, or `foreshadow "
	    "drop` and start over",
	    spec->name, topic->partition_cnt, spec->partition_count);
}

/* Creates what is missing. *ret_ready: all are there with a leader for each partition. */
static bool kafka_topics_look(rd_kafka_t *client, const struct kafka_topic_spec *specs, size_t n,
			      bool may_create, bool *ret_ready, struct fault *f)
{
	const struct kafka_topic_spec *missing[KAFKA_TOPICS_MAX];
	const struct rd_kafka_metadata *all = kafka_metadata(client, f);
	size_t missing_count = 0;
	bool ok = true;

	if (!all)
		return false;
	*ret_ready = true;
	for (size_t i = 0; ok && i < n; i++) {
		const rd_kafka_metadata_topic_t *topic = kafka_find(all, specs[i].name);

		if (!topic)
			missing[missing_count++] = &specs[i];
		else if (kafka_has_leaders(topic))
			ok = kafka_check_partitions(topic, &specs[i], f);
		else
			*ret_ready = false;
	}
	rd_kafka_metadata_destroy(all);
	if (!ok || missing_count == 0)
		return ok;
	*ret_ready = false;
	if (!may_create)
		return fault(f, FAULT_LOST,
			     "topic %s is missing: what it held is lost; next step: restore it, or "
			     "`foreshadow drop` and start over",
			     missing[0]->name);
	return kafka_create(client, missing, missing_count, f);
}

static bool kafka_check_entry(const struct kafka_topic_spec *spec, const rd_kafka_ConfigEntry_t *e,
			      struct fault *f)
{
	const char *key = rd_kafka_ConfigEntry_name(e), *seen = rd_kafka_ConfigEntry_value(e);

	for (size_t i = 0; i < KAFKA_REQUIREMENTS; i++) {
		const struct kafka_requirement *r = &requirements[i];
		const char *wanted = kafka_required(r, spec);

		if (!wanted || !seen || strcmp(r->key, key) != 0 || strcmp(seen, wanted) == 0)
			continue;
		if (r->is_minimum && atoll(seen) >= atoll(wanted))
			continue;
		return fault(
		    f, FAULT_STOP,
		    "topic %s has %s=%s, wanted %s; next step: kafka-configs --alter --topic "
		    "%s --add-config %s=%s",
		    spec->name, key, seen, wanted, spec->name, key, wanted);
	}
	return true;
}

static bool kafka_check_resource(const struct kafka_topic_spec *specs, size_t n,
				 const rd_kafka_ConfigResource_t *resource, struct fault *f)
{
	const char *name = rd_kafka_ConfigResource_name(resource);
	const rd_kafka_ConfigEntry_t **entries;
	const struct kafka_topic_spec *spec = NULL;
	size_t count;

	if (rd_kafka_ConfigResource_error(resource)) {
		char what[320];

		snprintf(what, sizeof(what), "reading the settings of topic %s", name);
		return kafka_fault_text(rd_kafka_ConfigResource_error(resource), what,
					rd_kafka_ConfigResource_error_string(resource), f);
	}
	for (size_t i = 0; i < n; i++)
		if (strcmp(specs[i].name, name) == 0)
			spec = &specs[i];
	if (!spec)
		return true;
	entries = rd_kafka_ConfigResource_configs(resource, &count);
	for (size_t i = 0; i < count; i++)
		if (!kafka_check_entry(spec, entries[i], f))
			return false;
	return true;
}

static bool kafka_check_settings(rd_kafka_t *client, const struct kafka_topic_spec *specs, size_t n,
				 struct fault *f)
{
	rd_kafka_ConfigResource_t *asked[KAFKA_TOPICS_MAX];
	rd_kafka_queue_t *queue = rd_kafka_queue_new(client);
	rd_kafka_AdminOptions_t *options = kafka_admin_options(client,
							       RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
	const rd_kafka_ConfigResource_t **answers;
	rd_kafka_event_t *event;
	size_t count = 0;
	bool ok;

	for (size_t i = 0; i < n; i++)
		asked[i] = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, specs[i].name);
	rd_kafka_DescribeConfigs(client, asked, n, options, queue);
	event = kafka_admin_wait(queue, "reading the settings of topics", f);
	ok = event != NULL;
	answers = ok ? rd_kafka_DescribeConfigs_result_resources(
			   rd_kafka_event_DescribeConfigs_result(event), &count)
		     : NULL;
	for (size_t i = 0; ok && i < count; i++)
		ok = kafka_check_resource(specs, n, answers[i], f);
	if (event)
		rd_kafka_event_destroy(event);
	rd_kafka_ConfigResource_destroy_array(asked, n);
	rd_kafka_AdminOptions_destroy(options);
	rd_kafka_queue_destroy(queue);
	return ok;
}

/* A broker that the metadata call leader may not know it yet. What else is wrong will be said by whoever needs it. */
static bool kafka_leaders_answer(rd_kafka_t *client, const struct kafka_topic_spec *specs, size_t n)
{
	bool do_answer = true;

	for (size_t i = 0; do_answer && i < n; i++) {
		struct kafka_range *ranges = calloc((size_t)specs[i].partition_count, sizeof(*ranges));
		struct fault not_yet = { 0 };

		do_answer = !ranges || kafka_ranges(client, specs[i].name, specs[i].partition_count, ranges, &not_yet) ||
			    not_yet.kind != FAULT_ENVIRONMENT;
		free(ranges);
	}
	return do_answer;
}

static bool kafka_topics_wait(rd_kafka_t *client, const struct kafka_topic_spec *specs, size_t n,
			      bool may_create, rd_kafka_queue_t *nothing, struct fault *f)
{
	int64_t deadline_us = clock_us() + KAFKA_ADMIN_TIMEOUT_MS * 1000LL;
	bool is_ready = false;

	for (bool is_new = false;; is_new = true) {
		if (!kafka_topics_look(client, specs, n, may_create, &is_ready, f))
			return false;
		if (is_ready && (!is_new || kafka_leaders_answer(client, specs, n)))
			return true;
		if (clock_us() > deadline_us)
			return fault(f, FAULT_ENVIRONMENT,
				     "kafka: topic %s or one after it has no leader yet; next "
				     "step: check the brokers",
				     specs[0].name);
		/* No event says that a leader was elected: asking again is the protocol. */
		rd_kafka_queue_poll(nothing, 50);
	}
}

bool kafka_topics_ensure(rd_kafka_t *client, const struct kafka_topic_spec *specs, size_t n,
			 bool may_create, struct fault *f)
{
	rd_kafka_queue_t *nothing;
	bool ok;

	if (n == 0 || n > KAFKA_TOPICS_MAX)
		return fault(f, FAULT_INTERNAL, "kafka_topics_ensure: %zu topics", n);
	nothing = rd_kafka_queue_new(client);
	ok = kafka_topics_wait(client, specs, n, may_create, nothing, f) &&
	     kafka_check_settings(client, specs, n, f);
	rd_kafka_queue_destroy(nothing);
	return ok;
}

bool kafka_topics_delete(rd_kafka_t *client, const char *const *names, size_t n, struct fault *f)
{
	rd_kafka_DeleteTopic_t *topics[KAFKA_TOPICS_MAX];
	rd_kafka_AdminOptions_t *options;
	const rd_kafka_topic_result_t **results;
	rd_kafka_event_t *event;
	rd_kafka_queue_t *queue;
	size_t count;
	bool ok = false;

	if (n == 0)
		return true;
	if (n > KAFKA_TOPICS_MAX)
		return fault(f, FAULT_INTERNAL, "kafka_topics_delete: %zu topics", n);
	queue = rd_kafka_queue_new(client);
	options = kafka_admin_options(client, RD_KAFKA_ADMIN_OP_DELETETOPICS);
	for (size_t i = 0; i < n; i++)
		topics[i] = rd_kafka_DeleteTopic_new(names[i]);
	rd_kafka_DeleteTopics(client, topics, n, options, queue);
	event = kafka_admin_wait(queue, "delete topics", f);
	if (event) {
		results = rd_kafka_DeleteTopics_result_topics(
		    rd_kafka_event_DeleteTopics_result(event), &count);
		ok = kafka_results(results, count, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
				   "delete", f);
		rd_kafka_event_destroy(event);
	}
	rd_kafka_DeleteTopic_destroy_array(topics, n);
	rd_kafka_AdminOptions_destroy(options);
	rd_kafka_queue_destroy(queue);
	return ok;
}

static bool kafka_group_result(const rd_kafka_group_result_t *result, bool *ret_has_members, struct fault *f)
{
	const rd_kafka_error_t *error = rd_kafka_group_result_error(result);
	rd_kafka_resp_err_t err = error ? rd_kafka_error_code(error) : RD_KAFKA_RESP_ERR_NO_ERROR;
	char what[320];

	if (!err || err == RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND)
		return true;
	*ret_has_members |= err == RD_KAFKA_RESP_ERR_NON_EMPTY_GROUP;
	snprintf(what, sizeof(what), "delete group %s%s", rd_kafka_group_result_name(result),
		 err == RD_KAFKA_RESP_ERR_NON_EMPTY_GROUP
		     ? ": it has members; next step: stop `foreshadow run` everywhere first"
		     : "");
	return kafka_fault_text(err, what, rd_kafka_error_string(error), f);
}

static bool kafka_groups_try_delete(rd_kafka_t *client, const char *const *names, size_t n,
				    bool *ret_has_members, struct fault *f)
{
	rd_kafka_DeleteGroup_t *groups[KAFKA_TOPICS_MAX];
	rd_kafka_AdminOptions_t *options;
	const rd_kafka_group_result_t **results;
	rd_kafka_event_t *event;
	rd_kafka_queue_t *queue;
	size_t count = 0;
	bool ok;

	queue = rd_kafka_queue_new(client);
	options = kafka_admin_options(client, RD_KAFKA_ADMIN_OP_DELETEGROUPS);
	for (size_t i = 0; i < n; i++)
		groups[i] = rd_kafka_DeleteGroup_new(names[i]);
	rd_kafka_DeleteGroups(client, groups, n, options, queue);
	event = kafka_admin_wait(queue, "delete groups", f);
	ok = event != NULL;
	*ret_has_members = false;
	results = ok ? rd_kafka_DeleteGroups_result_groups(
			   rd_kafka_event_DeleteGroups_result(event), &count)
		     : NULL;
	for (size_t i = 0; ok && i < count; i++)
		ok = kafka_group_result(results[i], ret_has_members, f);
	if (event)
		rd_kafka_event_destroy(event);
	rd_kafka_DeleteGroup_destroy_array(groups, n);
	rd_kafka_AdminOptions_destroy(options);
	rd_kafka_queue_destroy(queue);
	return ok;
}

/* A broker that has never had a group makes its coordinators now: "not coordinator" until then. */
bool kafka_groups_delete(rd_kafka_t *client, const char *const *names, size_t n, struct fault *f)
{
	int64_t start_us = clock_us(), patience_ms;
	rd_kafka_queue_t *nothing;
	struct fault tried = { .kind = FAULT_NONE };
	bool ok = n == 0, has_members = false, has_said = false;

	if (n > KAFKA_TOPICS_MAX)
		return fault(f, FAULT_INTERNAL, "kafka_groups_delete: %zu groups", n);
	nothing = rd_kafka_queue_new(client);
	while (!ok) {
		ok = kafka_groups_try_delete(client, names, n, &has_members, &tried);
		patience_ms = has_members ? KAFKA_MEMBERS_TIMEOUT_MS : KAFKA_ADMIN_TIMEOUT_MS;
		if (ok || (tried.kind != FAULT_ENVIRONMENT && !has_members) ||
		    clock_us() - start_us > patience_ms * 1000)
			break;
		if (has_members && !has_said)
			log_info("waiting for Kafka to forget the members of the groups, up to %d s", KAFKA_MEMBERS_TIMEOUT_MS / 1000);
		has_said |= has_members;
		rd_kafka_queue_poll(nothing, 100);
	}
	rd_kafka_queue_destroy(nothing);
	return ok || fault(f, tried.kind, "%s", tried.text);
}

bool kafka_bounds(rd_kafka_t *client, const char *topic, int partition, int64_t *ret_low,
		  int64_t *ret_high, struct fault *f)
{
	rd_kafka_resp_err_t err = rd_kafka_query_watermark_offsets(
	    client, topic, partition, ret_low, ret_high, KAFKA_METADATA_TIMEOUT_MS);
	char what[320];

	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		return true;
	snprintf(what, sizeof(what), "offsets of topic %s partition %d", topic, partition);
	return kafka_fault(err, what, f);
}

/* At a time stamp, or one of the two that ListOffsets of Kafka's protocol has for the ends. */
static bool kafka_offsets_at(rd_kafka_t *client, const char *topic, int n, int64_t at,
			     rd_kafka_topic_partition_list_t *list, struct fault *f)
{
	rd_kafka_resp_err_t err;
	char what[320];

	for (int p = 0; p < n; p++)
		rd_kafka_topic_partition_list_add(list, topic, p)->offset = at;
	err = rd_kafka_offsets_for_times(client, list, KAFKA_METADATA_TIMEOUT_MS);
	snprintf(what, sizeof(what), "offsets of topic %s", topic);
	if (err)
		return kafka_fault(err, what, f);
	for (int p = 0; p < n; p++) {
		snprintf(what, sizeof(what), "offsets of topic %s partition %d", topic, p);
		if (list->elems[p].err)
			return kafka_fault(list->elems[p].err, what, f);
	}
	return true;
}

bool kafka_ranges(rd_kafka_t *client, const char *topic, int n, struct kafka_range *ret, struct fault *f)
{
	enum { LATEST = -1, EARLIEST = -2 };
	rd_kafka_topic_partition_list_t *low = rd_kafka_topic_partition_list_new(n);
	rd_kafka_topic_partition_list_t *high = rd_kafka_topic_partition_list_new(n);
	bool ok = kafka_offsets_at(client, topic, n, EARLIEST, low, f) &&
		  kafka_offsets_at(client, topic, n, LATEST, high, f);

	for (int p = 0; ok && p < n; p++)
		ret[p] = (struct kafka_range) { low->elems[p].offset, high->elems[p].offset };
	rd_kafka_topic_partition_list_destroy(low);
	rd_kafka_topic_partition_list_destroy(high);
	return ok;
}

void kafka_wake(rd_kafka_t *client, const char *topic, int partition)
{
	int64_t low, high;

	rd_kafka_query_watermark_offsets(client, topic, partition, &low, &high,
					 KAFKA_WAKE_TIMEOUT_MS);
}
