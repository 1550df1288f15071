// SPDX-License-Identifier: Apache-2.0
#include "ingest/copy.h"

#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/buf.h"
#include "core/clock.h"
#include "core/failpoint.h"
#include "core/log.h"
#include "ingest/copy_round.h"

static const char *const state_names[] = {
	[COPY_WAITING] = "waiting", [COPY_READING] = "reading", [COPY_DRAINING] = "draining",
	[COPY_MARKING] = "marking", [COPY_DONE] = "done",       [COPY_IS_VOID] = "void",
};

const char *copy_state_name(enum copy_state state)
{
	return state_names[state];
}

static void signal_fd(int fd)
{
	uint64_t one = 1;
	if (write(fd, &one, sizeof(one)) < 0)
		log_error("copy: eventfd: %m");
}

/* lock */
static void state_set(struct copy_work *t, enum copy_state state, const char *why)
{
	log_debug("copy of %.*s.%.*s: %s -> %s: %s", SPAN_ARG(t->conf.rel->schema),
		  SPAN_ARG(t->conf.rel->table), state_names[t->state], state_names[state], why);
	t->state = state;
}

/* lock. There is room: a table has one note, the round three. */
static void note(struct copy *c, enum copy_event_kind kind, size_t table, const char *reason)
{
	c->notes[c->note_end++] = (struct copy_note) {
		.kind = kind, .table = table, .reason = reason ? strdup(reason) : NULL };
	signal_fd(c->event_fd);
}

static bool is_over(const struct copy_work *t)
{
	return t->state == COPY_DONE || t->state == COPY_IS_VOID;
}

/* Everybody out. */
static void stop(struct copy *c)
{
	pthread_mutex_lock(&c->lock);
	atomic_store(&c->is_stopping, true);
	signal_fd(c->stop_fd);
	pthread_cond_broadcast(&c->moved);
	pthread_mutex_unlock(&c->lock);
}

/* The first failure counts; what follows from stopping is none. */
void copy_fail(struct copy *c, const struct fault *why)
{
	pthread_mutex_lock(&c->lock);
	bool is_first = !c->has_failed && !atomic_load(&c->is_stopping);
	if (is_first) {
		c->has_failed = true;
		c->failure = *why;
	}
	pthread_mutex_unlock(&c->lock);
	if (is_first)
		stop(c);
}

bool copy_table_void(struct copy *c, size_t table, const char *reason)
{
	struct copy_work *t = &c->tables[table];
	bool is_done;

	pthread_mutex_lock(&c->lock);
	is_done = t->state == COPY_DONE;
	if (!is_over(t)) {
		atomic_store(&t->is_void, true);
		state_set(t, COPY_IS_VOID, reason);
		note(c, COPY_VOID, table, reason);
		pthread_cond_broadcast(&c->moved);
	}
	pthread_mutex_unlock(&c->lock);
	return !is_done;
}

struct event_head copy_head(const struct copy *c, const struct copy_work *t, char op)
{
	return (struct event_head) {
		.kind = op == 'r' ? EVENT_CHANGE : EVENT_MARKER,
		.fingerprint = op == 'r' ? t->conf.rel->fingerprint : 0,
		.op = op,
		.generation = c->generation,
		.position = position_at(c->point),
		.lsn = c->point.v,
		.ts_us = c->point_at_us,
		.attempt = t->conf.attempt,
	};
}

/* ---- workers ---- */

struct worker {
	struct copy *c;
	PGconn *conn;
	int number;
	pthread_t thread;
	bool has_thread;
};

static const struct copy_task *next_task(struct copy *c)
{
	const struct copy_task *task = NULL;

	pthread_mutex_lock(&c->lock);
	while (!task && c->next_task < c->task_count && !atomic_load(&c->is_stopping)) {
		struct copy_work *t;
		task = &c->tasks[c->next_task++];
		t = &c->tables[task->table];
		if (t->state == COPY_IS_VOID)
			task = NULL;
		else if (t->state == COPY_WAITING) {
			state_set(t, COPY_READING, "first range");
			t->started_us = clock_us();
		}
	}
	pthread_mutex_unlock(&c->lock);
	return task;
}

static void task_done(struct copy *c, const struct copy_task *task)
{
	struct copy_work *t = &c->tables[task->table];

	pthread_mutex_lock(&c->lock);
	if (--t->tasks_left == 0 && t->state == COPY_READING) {
		state_set(t, COPY_DRAINING, "last range read");
		pthread_cond_broadcast(&c->moved);
	}
	pthread_mutex_unlock(&c->lock);
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	struct fault f = { 0 };
	char role[32];
	const struct copy_task *task;
	struct copy_reader *r = copy_reader_new(w->c, w->conn);
	bool ok = r != NULL || fault(&f, FAULT_INTERNAL, "no memory for a copy worker");

	snprintf(role, sizeof(role), "ingest/copy %d", w->number);
	log_thread(role);
	while (ok && (task = next_task(w->c))) {
		ok = copy_reader_run(r, task, &f);
		if (ok)
			task_done(w->c, task);
	}
	if (!ok)
		copy_fail(w->c, &f);
	copy_reader_free(r);
	return NULL;
}

/* ---- coordinator ---- */

static PGconn *open_under(const struct copy *c, const char *snapshot, struct fault *f)
{
	char name[128];
	PGconn *conn;

	snprintf(name, sizeof(name), "foreshadow %s copy", c->m->name);
	conn = pg_connect(&c->m->source, PG_PLAIN, name, f);
	if (!conn)
		return NULL;
	if (pg_do(conn, f, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY") &&
	    pg_dof(conn, f, "SET TRANSACTION SNAPSHOT '%s'", snapshot))
		return conn;
	fault_in(f, "taking over the snapshot %s", snapshot);
	pg_close(&conn);
	return NULL;
}

static void take_point(struct copy *c, const struct source_point *p)
{
	pthread_mutex_lock(&c->lock);
	c->point = p->point;
	c->point_at_us = clock_wall_us();
	note(c, COPY_POINT, 0, NULL);
	pthread_mutex_unlock(&c->lock);
	failpoint("copy.point");
}

struct crew {
	struct worker *workers;
	size_t count;
};

static bool hire(struct copy *c, const char *snapshot, struct crew *crew, struct fault *f)
{
	size_t n = (size_t)(c->m->copy_jobs > 0 ? c->m->copy_jobs : 1);

	if (n > c->task_count)
		n = c->task_count;
	crew->workers = calloc(n ? n : 1, sizeof(*crew->workers));
	if (!crew->workers)
		return fault(f, FAULT_INTERNAL, "no memory for %zu copy workers", n);
	for (; crew->count < n; crew->count++) {
		struct worker *w = &crew->workers[crew->count];
		*w = (struct worker) { .c = c, .number = (int)crew->count + 1 };
		w->conn = open_under(c, snapshot, f);
		if (!w->conn)
			return false;
	}
	return true;
}

static bool start(struct crew *crew, struct fault *f)
{
	for (size_t i = 0; i < crew->count; i++) {
		struct worker *w = &crew->workers[i];
		if (pthread_create(&w->thread, NULL, worker_main, w) != 0)
			return fault(f, FAULT_INTERNAL, "no thread for a copy worker: %m");
		w->has_thread = true;
	}
	return true;
}

static void dismiss(struct crew *crew)
{
	for (size_t i = 0; i < crew->count; i++) {
		if (crew->workers[i].has_thread)
			pthread_join(crew->workers[i].thread, NULL);
		pg_close(&crew->workers[i].conn);
	}
	free(crew->workers);
}

/* Point, snapshot, plan and connections; plan_conn keeps the tables' locks. */
static bool prepare(struct copy *c, PGconn **plan_conn, struct crew *crew, struct fault *f)
{
	struct source_point point;

	if (!source_point_init(&point, c->m, c->stop_fd, f))
		return false;
	take_point(c, &point);
	*plan_conn = open_under(c, point.snapshot, f);
	bool ok = *plan_conn && copy_plan(c, *plan_conn, f) && hire(c, point.snapshot, crew, f);
	source_point_release(&point);
	return ok;
}

/* End markers of a table whose records are all acknowledged. */
static bool mark(struct copy *c, struct copy_work *t, struct buf *record, struct fault *f)
{
	struct event_head head = copy_head(c, t, 'e');

	failpoint("copy.marker");
	for (int p = 0; p < c->m->partition_count; p++) {
		struct marker marker = { .oid = t->conf.rel->oid, .record_count = t->records[p] };
		buf_reset(record);
		if (!event_write_marker(c->framing, &head, &marker, record))
			return fault(f, FAULT_INTERNAL, "end marker: no room or no schema id");
		if (!copy_send(c, t, p, span(NULL, 0), buf_span(record), f))
			return false;
	}
	return true;
}

static void complete(struct copy *c, size_t table)
{
	struct copy_work *t = &c->tables[table];

	t->ended_us = clock_us();
	log_info("copied %.*s.%.*s: rows=%llu bytes=%llu seconds=%.1f attempt=%u format=%s",
		 SPAN_ARG(t->conf.rel->schema), SPAN_ARG(t->conf.rel->table),
		 (unsigned long long)atomic_load(&t->rows), (unsigned long long)atomic_load(&t->bytes),
		 (double)(t->ended_us - t->started_us) / 1e6, t->conf.attempt,
		 t->is_binary ? "binary" : "text");
	state_set(t, COPY_DONE, "markers acknowledged");
	note(c, COPY_COMPLETE, table, NULL);
}

/* lock on entry and on return. Takes a table as far as it can go now; true when something moved. */
static bool advance(struct copy *c, size_t table, struct buf *record, bool *ok, struct fault *f)
{
	struct copy_work *t = &c->tables[table];

	if (atomic_load(&t->outstanding) > 0)
		return false;
	if (t->state == COPY_MARKING) {
		complete(c, table);
		return true;
	}
	if (t->state != COPY_DRAINING)
		return false;
	state_set(t, COPY_MARKING, "records acknowledged");
	pthread_mutex_unlock(&c->lock);
	*ok = mark(c, t, record, f);
	pthread_mutex_lock(&c->lock);
	return true;
}

/* Until every table is over. first: all before it are. */
static bool supervise(struct copy *c, struct fault *f)
{
	struct buf record;
	size_t first = 0;
	bool ok = true;

	buf_init(&record, 64 * 1024);
	pthread_mutex_lock(&c->lock);
	while (ok && !atomic_load(&c->is_stopping)) {
		bool has_moved = false;
		while (first < c->table_count && is_over(&c->tables[first]))
			first++;
		if (first == c->table_count)
			break;
		for (size_t i = first; i < c->table_count && ok; i++)
			has_moved |= advance(c, i, &record, &ok, f);
		if (!has_moved && !atomic_load(&c->is_stopping))
			pthread_cond_wait(&c->moved, &c->lock);
	}
	pthread_mutex_unlock(&c->lock);
	buf_release(&record);
	return ok;
}

/* A round that was stopped from outside says nothing. */
static void say_end(struct copy *c)
{
	pthread_mutex_lock(&c->lock);
	if (c->has_failed)
		note(c, COPY_FAILED, 0, NULL);
	else if (!atomic_load(&c->is_stopping))
		note(c, COPY_END, 0, NULL);
	pthread_mutex_unlock(&c->lock);
}

static void *coordinator_main(void *arg)
{
	struct copy *c = arg;
	struct crew crew = { 0 };
	PGconn *plan_conn = NULL;
	struct fault f = { 0 };

	log_thread("ingest/copy");
	if (!prepare(c, &plan_conn, &crew, &f) || !start(&crew, &f) || !supervise(c, &f))
		copy_fail(c, &f);
	dismiss(&crew);
	pg_close(&plan_conn);
	say_end(c);
	return NULL;
}

/* ---- public ---- */

static bool is_binary(const struct relation *rel)
{
	for (size_t i = 0; i < rel->column_count; i++)
		if (!rel->columns[i].is_dropped &&
		    !value_kind_has_binary(rel->columns[i].type.kind))
			return false;
	return rel->column_count > 0;
}

static bool add_tables(struct copy *c, const struct copy_conf *conf)
{
	c->tables = calloc(conf->table_count ? conf->table_count : 1, sizeof(*c->tables));
	c->notes = calloc(conf->table_count + 3, sizeof(*c->notes));
	if (!c->tables || !c->notes)
		return false;
	for (; c->table_count < conf->table_count; c->table_count++) {
		struct copy_work *t = &c->tables[c->table_count];
		t->conf = conf->tables[c->table_count];
		t->is_binary = is_binary(t->conf.rel);
		t->records = calloc((size_t)conf->m->partition_count, sizeof(*t->records));
		if (!t->records)
			return false;
	}
	return true;
}

static void init_lock(struct copy *c)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&c->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->moved, &attr);
	pthread_condattr_destroy(&attr);
}

struct copy *copy_new(const struct copy_conf *conf, struct fault *f)
{
	static atomic_uint_fast32_t rounds;
	struct copy *c = calloc(1, sizeof(*c));

	if (!c) {
		fault(f, FAULT_INTERNAL, "no memory for a copy round");
		return NULL;
	}
	init_lock(c);
	c->m = conf->m;
	c->framing = conf->framing;
	c->producer = conf->producer;
	c->generation = conf->generation;
	c->round = (uint32_t)atomic_fetch_add(&rounds, 1) & 0x7fffffff;
	c->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	c->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	c->topic = rd_kafka_topic_new(c->producer, c->m->snapshot_topic, NULL);
	if (c->stop_fd < 0 || c->event_fd < 0 || !c->topic || !add_tables(c, conf)) {
		fault(f, FAULT_INTERNAL, "a copy round of %zu tables: no memory or no descriptors",
		      conf->table_count);
		goto failed;
	}
	if (pthread_create(&c->thread, NULL, coordinator_main, c) != 0) {
		fault(f, FAULT_INTERNAL, "a copy round: no thread: %m");
		goto failed;
	}
	c->has_thread = true;
	return c;
failed:
	copy_free(c);
	return NULL;
}

void copy_free(struct copy *c)
{
	if (!c)
		return;
	if (c->has_thread) {
		stop(c);
		pthread_join(c->thread, NULL);
	}
	for (size_t i = c->note_first; i < c->note_end; i++)
		free(c->notes[i].reason);
	for (size_t i = 0; i < c->table_count; i++)
		free(c->tables[i].records);
	if (c->topic)
		rd_kafka_topic_destroy(c->topic);
	if (c->stop_fd >= 0)
		close(c->stop_fd);
	if (c->event_fd >= 0)
		close(c->event_fd);
	pthread_cond_destroy(&c->moved);
	pthread_mutex_destroy(&c->lock);
	free(c->tasks);
	free(c->notes);
	free(c->tables);
	free(c);
}

int copy_fd(const struct copy *c)
{
	return c->event_fd;
}

static void fill(struct copy *c, const struct copy_note *n, struct copy_event *ret)
{
	const struct copy_work *t = &c->tables[n->table];

	*ret = (struct copy_event) { .kind = n->kind, .point = c->point };
	switch (n->kind) {
	case COPY_VOID:
		fault(&ret->fault, FAULT_ENVIRONMENT, "%s", n->reason ? n->reason : "no reason given");
		ret->oid = t->conf.rel->oid;
		ret->attempt = t->conf.attempt;
		break;
	case COPY_COMPLETE:
		ret->oid = t->conf.rel->oid;
		ret->attempt = t->conf.attempt;
		for (int p = 0; p < c->m->partition_count; p++)
			ret->records += t->records[p];
		break;
	case COPY_FAILED:
		ret->fault = c->failure;
		break;
	case COPY_POINT:
	case COPY_END:
		break;
	}
}

bool copy_next(struct copy *c, struct copy_event *ret)
{
	uint64_t count;
	bool has_note;

	pthread_mutex_lock(&c->lock);
	has_note = c->note_first < c->note_end;
	if (has_note) {
		struct copy_note *n = &c->notes[c->note_first++];
		fill(c, n, ret);
		free(n->reason);
		n->reason = NULL;
	} else if (read(c->event_fd, &count, sizeof(count)) < 0) {
		/* Nothing was signalled since: what non-blocking says. */
	}
	pthread_mutex_unlock(&c->lock);
	return has_note;
}

bool copy_void(struct copy *c, uint32_t oid, const char *reason)
{
	for (size_t i = 0; i < c->table_count; i++)
		if (c->tables[i].conf.rel->oid == oid)
			return copy_table_void(c, i, reason);
	return false;
}

size_t copy_table_count(const struct copy *c)
{
	return c->table_count;
}

void copy_progress(struct copy *c, size_t i, struct copy_progress *ret)
{
	struct copy_work *t = &c->tables[i];

	pthread_mutex_lock(&c->lock);
	*ret = (struct copy_progress) {
		.oid = t->conf.rel->oid,
		.attempt = t->conf.attempt,
		.state = t->state,
		.rows = atomic_load(&t->rows),
		.bytes = atomic_load(&t->bytes),
		.rows_estimate = t->rows_estimate,
		.bytes_total = t->bytes_total,
		.bytes_done = atomic_load(&t->bytes_done),
		.seconds = t->started_us ? (double)((t->ended_us ? t->ended_us : clock_us()) -
						    t->started_us) / 1e6 : 0,
	};
	pthread_mutex_unlock(&c->lock);
}
