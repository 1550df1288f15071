// SPDX-License-Identifier: Apache-2.0
/*
 * The copy has a share of the producer's queue of its own (OUTSTANDING_BYTES), well below the whole, so
 * that it cannot push the stream's changes out. When librdkafka says that its queue is full all the
 * same, there is nothing to be told of its getting empty but delivery reports: the wait is a short
 * one on the same condition.
 */
#include <errno.h>
#include <time.h>

#include "ingest/copy_round.h"

enum {
	OUTSTANDING_BYTES = 16 * 1024 * 1024,
	RESUME_BYTES = OUTSTANDING_BYTES * 3 / 4,
	RECORD_OVERHEAD_BYTES = 256,     /* what librdkafka adds to a message, roughly */
	FULL_WAIT_MS = 20,
};

#define OPAQUE_MARK (UINT64_C(1) << 63)

static void *opaque(const struct copy *c, const struct copy_work *t)
{
	return (void *)(uintptr_t)(OPAQUE_MARK | (uint64_t)c->round << 32 |
				   (uint64_t)(t - c->tables));
}

static uint64_t cost(size_t key_bytes, size_t record_bytes)
{
	return key_bytes + record_bytes + RECORD_OVERHEAD_BYTES;
}

static bool stopped(struct fault *f)
{
	return fault(f, FAULT_ENVIRONMENT, "the copy is being stopped");
}

/* Waits until there is room in our share, or (is_full: the producer's own queue was) a moment. */
static void wait_for_room(struct copy *c, bool is_full)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += FULL_WAIT_MS * 1000000L;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000L;
	}
	pthread_mutex_lock(&c->lock);
	atomic_fetch_add(&c->waiters, 1);
	if (is_full && !atomic_load(&c->is_stopping))
		pthread_cond_timedwait(&c->moved, &c->lock, &until);
	while (!is_full && !atomic_load(&c->is_stopping) &&
	       atomic_load(&c->outstanding_bytes) > RESUME_BYTES)
		pthread_cond_wait(&c->moved, &c->lock);
	atomic_fetch_sub(&c->waiters, 1);
	pthread_mutex_unlock(&c->lock);
}

static void wake(struct copy *c)
{
	pthread_mutex_lock(&c->lock);
	pthread_cond_broadcast(&c->moved);
	pthread_mutex_unlock(&c->lock);
}

/* Invariant 2. */
static void settle(struct copy *c, struct copy_work *t, uint64_t bytes)
{
	uint64_t table_left = atomic_fetch_sub(&t->outstanding, 1) - 1;
	uint64_t before = atomic_fetch_sub(&c->outstanding_bytes, bytes);
	bool has_room = before - bytes <= RESUME_BYTES;

	if (table_left == 0 || (has_room && atomic_load(&c->waiters) > 0))
		wake(c);
}

static bool refused(struct copy *c, struct copy_work *t, size_t bytes, rd_kafka_resp_err_t err,
		    struct fault *f)
{
	const struct relation *rel = t->conf.rel;

	if (err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE)
		return fault(f, FAULT_STOP,
			     "copy of %.*s.%.*s: a row makes a record of %zu bytes, and a record may have 64 MiB "
			     "(max.message.bytes of topic %s): shorten the value on the source, or leave the table out "
			     "of tables:",
			     SPAN_ARG(rel->schema), SPAN_ARG(rel->table), bytes, c->m->snapshot_topic);
	kafka_fault(err, "producing a copied row", f);
	return fault_in(f, "copy of %.*s.%.*s", SPAN_ARG(rel->schema), SPAN_ARG(rel->table));
}

bool copy_send(struct copy *c, struct copy_work *t, int partition, struct span key,
	       struct span record, struct fault *f)
{
	uint64_t bytes = cost(key.n, record.n);

	if (atomic_load(&c->outstanding_bytes) > OUTSTANDING_BYTES)
		wait_for_room(c, false);
	atomic_fetch_add(&t->outstanding, 1);
	atomic_fetch_add(&c->outstanding_bytes, bytes);
	while (!atomic_load(&c->is_stopping)) {
		if (rd_kafka_produce(c->topic, partition, RD_KAFKA_MSG_F_COPY, (void *)(uintptr_t)record.p,
				     record.n, key.p, key.n, opaque(c, t)) == 0)
			return true;
		rd_kafka_resp_err_t err = rd_kafka_last_error();
		if (err != RD_KAFKA_RESP_ERR__QUEUE_FULL) {
			settle(c, t, bytes);
			return refused(c, t, record.n, err, f);
		}
		wait_for_room(c, true);
	}
	settle(c, t, bytes);
	return stopped(f);
}

void copy_delivered(struct copy *c, const rd_kafka_message_t *msg)
{
	uint64_t tag = (uint64_t)(uintptr_t)msg->_private;
	size_t table = (uint32_t)tag;

	if ((tag & ~OPAQUE_MARK) >> 32 != c->round || table >= c->table_count)
		return;
	if (msg->err) {
		struct fault why = { 0 };
		refused(c, &c->tables[table], msg->len, msg->err, &why);
		copy_fail(c, &why);
	}
	settle(c, &c->tables[table], cost(msg->key_len, msg->len));
}
