// SPDX-License-Identifier: Apache-2.0
/*
 * kafka - the one place for librdkafka's configuration and errors.
 *
 * The user's `kafka:` keys go through; those that would break a promise were refused when the YAML
 * was read. Ours win: producers are idempotent, acks=all, lz4, message.timeout.ms=0, no Nagle;
 * consumers have auto commit off, auto.offset.reset=error, check.crcs on, small bounded queues.
 * librdkafka's own log lines go to log at their level.
 */
#ifndef CORE_KAFKA_H
#define CORE_KAFKA_H

#include <librdkafka/rdkafka.h>

#include "core/fault.h"
#include "core/span.h"

struct kafka_setting {
	const char *key, *value;
};

struct kafka_conf {
	const struct kafka_setting *settings; /* from the YAML */
	size_t count;
	const char *client_id;
};

/* Delivery reports and errors come as events on *ret_events (rd_kafka_queue_t), to be polled by
 * the owner; the queue signals event_fd (an eventfd, may be -1) when it becomes non-empty. */
rd_kafka_t *kafka_producer(const struct kafka_conf *conf, int event_fd, rd_kafka_queue_t **ret_events,
			   struct fault *f);
/* A consumer without group membership (assign by hand), or of a group with static membership. */
rd_kafka_t *kafka_reader(const struct kafka_conf *conf, struct fault *f);
rd_kafka_t *kafka_member(const struct kafka_conf *conf, const char *group, const char *instance,
			 void (*rebalance)(rd_kafka_t *, rd_kafka_resp_err_t,
					   rd_kafka_topic_partition_list_t *, void *),
			 void *opaque, struct fault *f);

/* Where to create topics and what to require of them. */
struct kafka_topic_spec {
	const char *name;
	int partition_count;
	bool compacted;
};
/* Creates those that are missing, waits until their leaders answer, and checks partition count and
 * cleanup policy of all: a difference is FAULT_STOP with topic, seen, wanted and the next step. */
bool kafka_topics_ensure(rd_kafka_t *client, const struct kafka_topic_spec *specs, size_t n,
			 bool may_create, struct fault *f);
bool kafka_topics_delete(rd_kafka_t *client, const char *const *names, size_t n, struct fault *f);
/* Members that have just ended are counted until their session is over: they are waited for. A group whose
 * members stay is FAULT_STOP. */
bool kafka_groups_delete(rd_kafka_t *client, const char *const *names, size_t n, struct fault *f);
/* Lowest and one past the highest offset. */
bool kafka_bounds(rd_kafka_t *client, const char *topic, int partition, int64_t *ret_low,
		  int64_t *ret_high, struct fault *f);
/* Of partitions 0 to n - 1 of a topic, by two requests to each of their leaders. */
struct kafka_range {
	int64_t low, high; /* as kafka_bounds */
};
bool kafka_ranges(rd_kafka_t *client, const char *topic, int n, struct kafka_range *ret, struct fault *f);

/* Makes the thread of that partition's leader look at the consumer's queues now: without it a
 * consumer that emptied queues that were all full waits up to 1 s for more. Costs a round trip. */
void kafka_wake(rd_kafka_t *client, const char *topic, int partition);

bool kafka_fault(rd_kafka_resp_err_t err, const char *what, struct fault *f);

#endif
