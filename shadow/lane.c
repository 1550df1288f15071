// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/failpoint.h"
#include "core/log.h"
#include "shadow/lane_state.h"
#include "shadow/origin.h"
#include "shadow/role.h"

enum {
	TABLE_ARENA_BYTES = 256 * 1024 * 1024,
	/* The role thread runs many times a second: one that did not was stopped, or we are. */
	ALIVE_WITHIN_US = 3 * 1000 * 1000,
};

struct lane_op {
	struct lane_op *next;
	enum { OP_GIVE, OP_DROP, OP_STOP } kind;
	struct consume *consume;
	enum consume_topic topic;
	int partition;
	rd_kafka_queue_t *queue;
};

static void lane_signal(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_debug("eventfd: %m");
}

/* Any thread. Returns the op's number, 0: no memory. */
static uint64_t lane_send(struct lane *l, const struct lane_op *op)
{
	struct lane_op *copy = malloc(sizeof(*copy));
	uint64_t number;

	if (!copy)
		return 0;
	*copy = *op;
	copy->next = NULL;
	pthread_mutex_lock(&l->lock);
	*l->ops_end = copy;
	l->ops_end = &copy->next;
	number = ++l->ops_sent;
	pthread_mutex_unlock(&l->lock);
	lane_signal(l->ops_fd);
	return number;
}

bool lane_give(struct lane *l, struct consume *c, enum consume_topic topic, int partition,
	       rd_kafka_queue_t *q)
{
	return lane_send(l, &(struct lane_op) { .kind = OP_GIVE, .consume = c, .topic = topic,
						 .partition = partition, .queue = q }) != 0;
}

uint64_t lane_drop(struct lane *l)
{
	return lane_send(l, &(struct lane_op) { .kind = OP_DROP });
}

bool lane_has_dropped(struct lane *l, uint64_t drop, int timeout_ms)
{
	struct timespec deadline;
	bool is_done = false;
	int err = 0;

	if (drop == 0)
		return false;
	clock_gettime(CLOCK_REALTIME, &deadline);
	deadline.tv_sec += timeout_ms / 1000;
	deadline.tv_nsec += timeout_ms % 1000 * 1000000L;
	if (deadline.tv_nsec >= 1000000000L) {
		deadline.tv_sec++;
		deadline.tv_nsec -= 1000000000L;
	}
	pthread_mutex_lock(&l->lock);
	while (!(is_done = l->ops_done >= drop) && err == 0)
		err = pthread_cond_timedwait(&l->done_cond, &l->lock, &deadline);
	pthread_mutex_unlock(&l->lock);
	return is_done;
}

bool lane_is_well(struct lane *l, struct fault *f)
{
	bool has_ended;

	pthread_mutex_lock(&l->lock);
	has_ended = l->has_ended;
	if (has_ended)
		*f = l->end_fault;
	pthread_mutex_unlock(&l->lock);
	return !has_ended;
}

/* A rest that ends just between the two is counted twice; the next answer is right. */
int64_t lane_rested_us(const struct lane *l, int64_t now)
{
	int64_t rested = atomic_load(&l->rested_us), since = atomic_load(&l->resting_since_us);

	return since && now > since ? rested + now - since : rested;
}

bool lane_may_give(const struct lane *l)
{
	return atomic_load(&l->may_give);
}

/* Where the role may. */
static bool lane_set_replica(PGconn *conn, bool *ret, struct fault *f)
{
	static const char sql[] =
		"SELECT set_config('session_replication_role', 'replica', false) WHERE"
		" current_setting('session_replication_role') <> 'replica'";

	return pg_may_be_replica(conn, ret, f) && (!*ret || pg_do(conn, f, sql));
}

static bool lane_connect(struct lane *l, struct fault *f)
{
	PGconn *conn = pg_connect(migration_target(l->migration, l->role->role), PG_PLAIN,
				  role_traits(l->role->role)->application, f);

	if (!conn)
		return false;
	if (!lane_set_replica(conn, &l->is_replica, f) || !pg_do(conn, f, "SET synchronous_commit = off") ||
	    !origin_take(conn, l->migration->name, f) ||
	    !apply_start(l->apply, conn, f)) {
		pg_close(&conn);
		return false;
	}
	l->conn = conn;
	lane_forget_tables(l);
	if (lane_load_copies(l, f))
		return true;
	pg_close(&l->conn);
	return false;
}

/* false: the lane must end. */
static bool lane_ensure_connection(struct lane *l, struct fault *f)
{
	if (l->conn || l->part_count == 0 || clock_us() < l->retry_us)
		return true;
	if (lane_connect(l, f))
		return true;
	if (f->kind != FAULT_ENVIRONMENT)
		return false;
	lane_failed(l, f);
	return true;
}

/* While this process was stopped, or cannot know whether the group still counts on it, the partition
 * may have an heir: raising the epoch now would take it away from him. */
static bool lane_may_take(const struct lane *l, int64_t now)
{
	return now - atomic_load(&l->role->alive_us) < ALIVE_WITHIN_US &&
	       now >= atomic_load(&l->role->distrust_until_us);
}

static bool lane_take(struct lane *l, struct part *p, struct fault *f)
{
	if (!lane_plain(l, f) ||
	    !progress_take(l->conn, migration_target(l->migration, l->role->role), &p->key,
			   l->role->instance, &p->have, f))
		return false;
	log_debug("%s partition %d: taken, epoch %llu, from offset %lld", p->key.topic, p->partition,
		  (unsigned long long)p->have.epoch, (long long)p->have.next_offset);
	part_rewind(p, 0);
	failpoint("lane.taken");
	return true;
}

static void lane_seek(struct part *p)
{
	struct fault f = { 0 };

	/* Records read before the seek are of another place. */
	part_rewind(p, 0);
	if (consume_seek(p->consume, p->topic, p->partition, p->have.next_offset, &f)) {
		p->read_us = clock_us();
		part_set(p, PART_OPEN, NULL);
		return;
	}
	log_debug("%s", f.text);
	part_set_later(p, PART_SEEKING, LANE_EXCLUSIVE_POLL_US, NULL);
}

/* The log has had more than was read for a while, and nothing comes: the fetcher stands elsewhere. That
 * nothing was read alone says little: the source may have been idle. */
static bool lane_part_is_stalled(struct part *p, int64_t now)
{
	if (p->state != PART_OPEN || !p->is_dry || p->ahead_count > 0 ||
	    now - p->read_us <= LANE_STALLED_US ||
	    !consume_has_more(p->consume, p->topic, p->partition, p->next.next_offset)) {
		p->more_us = 0;
		return false;
	}
	if (p->more_us == 0)
		p->more_us = now;
	if (now - p->more_us <= (p->patience_us ? p->patience_us : LANE_STALLED_US))
		return false;
	/* A large record over a slow line comes later than that, and asking again starts it over. */
	p->patience_us = p->patience_us ? p->patience_us * 2 : LANE_STALLED_US * 2;
	if (p->patience_us > LANE_STALLED_LAST_US)
		p->patience_us = LANE_STALLED_LAST_US;
	return true;
}

static void lane_prepare_parts(struct lane *l)
{
	struct fault f = { 0 };

	for (size_t i = 0; i < l->part_count && l->conn; i++) {
		struct part *p = l->parts[i];
		int64_t now = clock_us();

		if (now < p->retry_us)
			continue;
		if (lane_part_is_stalled(p, now)) {
			log_warn("%s partition %d: nothing read for %d s: asking again from offset %lld",
				 p->key.topic, p->partition, (int)((now - p->read_us) / 1000000),
				 (long long)p->have.next_offset);
			part_rewind(p, 0);
		}
		if (p->state == PART_UNTAKEN && lane_may_take(l, now)) {
			if (!lane_take(l, p, &f)) {
				p->is_in_batch = false;
				part_set_later(p, PART_UNTAKEN, LANE_TARGET_POLL_US, NULL);
				lane_failed(l, &f);
				return;
			}
			l->has_old_copies = true;
		}
		if (p->state == PART_SEEKING)
			lane_seek(p);
	}
	if (l->has_old_copies && l->conn && clock_us() >= l->copies_us) {
		l->copies_us = clock_us() + LANE_COPY_POLL_US;
		if (lane_load_copies(l, &f))
			lane_recovered(l);
		else
			lane_failed(l, &f);
	}
}

/* Those that wait for a copy look at rows that somebody else may have changed. */
static void lane_look_at_copies(struct lane *l)
{
	struct fault f = { 0 };
	bool is_waiting = false;

	copies_refresh(&l->copies);
	for (size_t i = 0; i < l->part_count; i++)
		is_waiting |= l->parts[i]->state == PART_WAITS_COPY ||
			      l->parts[i]->state == PART_WAITS_EXCLUSIVE;
	if (is_waiting && l->conn && clock_us() >= l->copies_us && !lane_load_copies(l, &f))
		lane_failed(l, &f);
}

static void lane_take_part(struct lane *l, const struct lane_op *op)
{
	struct part **parts = l->parts;
	struct part *p;
	uint64_t one = 1;

	if (l->part_count == l->part_cap) {
		parts = realloc(l->parts, (l->part_cap + 16) * sizeof(*parts));
		if (!parts)
			goto no_memory;
		l->parts = parts;
		l->part_cap += 16;
	}
	p = part_new(l->migration, op->consume, op->topic, op->partition, op->queue);
	if (!p)
		goto no_memory;
	rd_kafka_queue_io_event_enable(op->queue, l->kafka_fd, &one, sizeof(one));
	l->parts[l->part_count++] = p;
	return;
no_memory:
	log_error("no memory for a partition");
	rd_kafka_queue_destroy(op->queue);
}

static void lane_drop_parts(struct lane *l)
{
	struct shadow_status_part none = { 0 };

	batch_reset(&l->batch);
	for (size_t i = 0; i < l->part_count; i++) {
		shadow_status_set(l->role->status, l->parts[i]->topic, l->parts[i]->partition, &none);
		part_free(l->parts[i]);
	}
	l->part_count = 0;
}

static void lane_serve_ops(struct lane *l)
{
	uint64_t signals;

	/* All that were signalled are served now. Who asks whether an op waits (whole.c, batch_wait) sees later ones only,
	 * also while there is so much to read that the lane never waits. */
	if (read(l->ops_fd, &signals, sizeof(signals)) < 0 && errno != EAGAIN)
		log_debug("eventfd: %m");
	for (;;) {
		struct lane_op *op;

		pthread_mutex_lock(&l->lock);
		op = l->ops;
		if (op) {
			l->ops = op->next;
			if (!l->ops)
				l->ops_end = &l->ops;
		}
		pthread_mutex_unlock(&l->lock);
		if (!op)
			return;
		switch (op->kind) {
		case OP_GIVE:
			lane_take_part(l, op);
			break;
		case OP_DROP:
			lane_drop_parts(l);
			break;
		case OP_STOP:
			l->is_stopping = true;
			break;
		}
		free(op);
		pthread_mutex_lock(&l->lock);
		l->ops_done++;
		pthread_cond_broadcast(&l->done_cond);
		pthread_mutex_unlock(&l->lock);
	}
}

static bool lane_has_ahead(const struct lane *l)
{
	for (size_t i = 0; i < l->part_count; i++)
		if (l->parts[i]->state == PART_OPEN &&
		    (l->parts[i]->ahead_count > 0 || !l->parts[i]->is_dry))
			return true;
	return false;
}

static int64_t lane_wait_us(const struct lane *l)
{
	int64_t now = clock_us(), wait = LANE_IDLE_MS * INT64_C(1000);

	for (size_t i = 0; i < l->part_count; i++) {
		const struct part *p = l->parts[i];

		if (p->retry_us > 0 && p->retry_us - now < wait)
			wait = p->retry_us - now;
	}
	if (!l->conn && l->retry_us - now < wait && l->retry_us > now)
		wait = l->retry_us - now;
	if (wait < 1000)
		wait = 1000; /* what is due but may not be taken yet must not spin */
	return wait;
}

/* Until an op, a record in a control topic or in one of our queues, or until something is due. */
static void lane_wait(struct lane *l)
{
	struct pollfd fds[] = {
		{ l->ops_fd, POLLIN, 0 }, { l->control_fd, POLLIN, 0 }, { l->kafka_fd, POLLIN, 0 }
	};
	uint64_t n;

	if (lane_has_ahead(l))
		return;
	if (lane_rest(l, fds, 3, lane_wait_us(l)) <= 0)
		return;
	for (size_t i = 0; i < 3; i++)
		if (fds[i].revents && read(fds[i].fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
			log_debug("eventfd: %m");
	if (!fds[1].revents)
		return;
	for (size_t i = 0; i < l->part_count; i++)
		if (l->parts[i]->state == PART_WAITS_SCHEMA || l->parts[i]->state == PART_WAITS_COPY)
			l->parts[i]->retry_us = 0;
}

static void lane_work(struct lane *l)
{
	if (l->conn)
		lane_look_at_copies(l);
	if (l->conn)
		exclusive_turn(l);
	if (l->conn)
		repair_turn(l);
	if (l->conn && !l->has_old_copies && batch_collect(l, CONSUME_CHANGES))
		batch_commit_changes(l);
	else if (l->conn && l->large)
		whole_run(l);
	if (l->conn && !l->has_old_copies && batch_collect(l, CONSUME_SNAPSHOT))
		batch_commit_copies(l);
	if (l->conn)
		finish_turn(l);
}

static bool lane_turn(struct lane *l, struct fault *f)
{
	if (!lane_ensure_connection(l, f))
		return false;
	if (l->has_wasted_tables && l->table_arena.used_bytes > l->table_arena.max_bytes / 4)
		lane_forget_tables(l);
	if (l->conn)
		lane_prepare_parts(l);
	/* A change judged by old rows could be dropped as covered. */
	if (!l->has_old_copies)
		lane_work(l);
	lane_publish(l);
	return true;
}

static void *lane_main(void *arg)
{
	struct lane *l = arg;
	struct fault f = { 0 };
	char name[48];

	snprintf(name, sizeof(name), "%s/lane %d", role_traits(l->role->role)->name, l->number);
	log_thread(name);
	while (!l->is_stopping) {
		lane_serve_ops(l);
		if (l->is_stopping)
			break;
		if (!lane_turn(l, &f)) {
			pthread_mutex_lock(&l->lock);
			l->has_ended = true;
			l->end_fault = f;
			pthread_mutex_unlock(&l->lock);
			break;
		}
		lane_wait(l);
	}
	while (!l->is_stopping) { /* the role thread still has ops for us */
		struct pollfd fd = { l->ops_fd, POLLIN, 0 };

		if (poll(&fd, 1, -1) > 0)
			lane_serve_ops(l);
	}
	finish_end(l);
	lane_drop_parts(l);
	pg_close(&l->conn);
	return NULL;
}

static void lane_release(struct lane *l)
{
	int fds[] = { l->ops_fd, l->control_fd, l->kafka_fd };

	control_unwatch(l->role->control, l->control_fd);
	for (size_t i = 0; i < 3; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	batch_release(&l->batch);
	arena_release(&l->table_arena);
	copies_release(&l->copies);
	apply_free(l->apply);
	free(l->parts);
	pthread_cond_destroy(&l->done_cond);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

static int lane_eventfd(void)
{
	return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

struct lane *lane_new(struct lane_role *role, int number, struct fault *f)
{
	struct lane *l = calloc(1, sizeof(*l));

	if (!l) {
		fault(f, FAULT_INTERNAL, "no memory for a lane");
		return NULL;
	}
	l->role = role;
	l->migration = role->migration;
	l->number = number;
	l->ops_end = &l->ops;
	l->backoff_ms = LANE_BACKOFF_FIRST_MS;
	l->is_finish_owed = true;
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->done_cond, NULL);
	arena_init(&l->table_arena, TABLE_ARENA_BYTES);
	copies_init(&l->copies, role->control, role->migration->name);
	l->ops_fd = lane_eventfd();
	l->control_fd = lane_eventfd();
	l->kafka_fd = lane_eventfd();
	l->apply = apply_new();
	if (!batch_init(&l->batch, f))
		goto fail;
	if (!l->apply || l->ops_fd < 0 || l->control_fd < 0 || l->kafka_fd < 0 ||
	    !control_watch(role->control, l->control_fd) ||
	    pthread_create(&l->thread, NULL, lane_main, l) != 0) {
		fault(f, FAULT_INTERNAL, "a lane cannot be made: %m");
		goto fail;
	}
	return l;
fail:
	lane_release(l);
	return NULL;
}

void lane_free(struct lane *l)
{
	if (!l)
		return;
	while (lane_send(l, &(struct lane_op) { .kind = OP_STOP }) == 0)
		sched_yield();
	pthread_join(l->thread, NULL);
	lane_release(l);
}
