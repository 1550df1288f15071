// SPDX-License-Identifier: Apache-2.0
/*
 * copy_round - what the parts of a copy share; for copy*.c only.
 *
 *   copy.c       threads, states, events, markers          (coordinator thread; public functions: ingest's)
 *   copy_plan.c  is a table still what its version says? ranges   (coordinator)
 *   copy_read.c  one range: COPY rows to records               (workers)
 *   copy_send.c  records into the producer, what is outstanding  (all)
 *
 * Everything under "lock" is touched with it held; states only go forward. `moved` is broadcast
 * whenever something that somebody may wait for changed.
 *
 * 1. A table's outstanding is raised before its message is produced and lowered by its delivery report, and
 *    its tasks_left drops after its last message was produced: both 0 means all is acknowledged.
 * 2. Whoever makes outstanding 0, or goes below the low-water mark while somebody waits, takes the lock and
 *    broadcasts; the waiters look again under the lock. So no wake-up is lost.
 */
#ifndef INGEST_COPY_ROUND_H
#define INGEST_COPY_ROUND_H

#include <pthread.h>
#include <stdatomic.h>

#include "ingest/copy.h"
#include "ingest/source.h"

struct copy_work {                       /* one table */
	struct copy_table conf;
	bool is_binary;
	/* lock */
	enum copy_state state;
	size_t tasks_left;
	uint64_t *records;               /* per partition */
	uint64_t rows_estimate, bytes_total;
	int64_t started_us, ended_us;
	/* any thread */
	atomic_bool is_void;
	atomic_uint_fast64_t outstanding, rows, bytes, bytes_done;
};

struct copy_task {                       /* blocks [from, to) of a table; to == 0: to the end */
	size_t table;
	uint64_t from, to, bytes;
};

struct copy_note {                       /* an event in waiting */
	enum copy_event_kind kind;
	size_t table;
	char *reason;
};

struct copy {
	const struct migration *m;
	const struct framing *framing;
	rd_kafka_t *producer;
	rd_kafka_topic_t *topic;
	uint64_t generation;
	uint32_t round;                  /* in the opaque: tells our reports from those of others */
	struct copy_work *tables;
	size_t table_count;
	int stop_fd, event_fd;           /* stop_fd: readable once the round ends early */
	pthread_t thread;
	bool has_thread;

	/* set by the coordinator before workers start */
	struct copy_task *tasks;
	size_t task_count;
	struct boundary point;
	int64_t point_at_us;

	pthread_mutex_t lock;
	pthread_cond_t moved;
	/* lock */
	size_t next_task;
	bool has_failed;
	struct fault failure;
	struct copy_note *notes;         /* room for all that can happen */
	size_t note_first, note_end;
	/* any thread */
	atomic_bool is_stopping;
	atomic_uint_fast64_t outstanding_bytes;
	atomic_int waiters;
};

/* copy.c */
void copy_fail(struct copy *c, const struct fault *why);
bool copy_table_void(struct copy *c, size_t table, const char *reason);
struct event_head copy_head(const struct copy *c, const struct copy_work *t, char op);

/* copy_plan.c: fills c->tasks; tables that changed become void. conn is under the snapshot. */
bool copy_plan(struct copy *c, PGconn *conn, struct fault *f);
/* From here to copy_let_go the table stays what its version says; conn is under the snapshot. *ret_is_same false: it is not that
 * any more: it is void, and not held. */
bool copy_hold(struct copy *c, PGconn *conn, size_t table, bool *ret_is_same, struct fault *f);
bool copy_let_go(PGconn *conn, struct fault *f);

/* copy_read.c */
struct copy_reader;
struct copy_reader *copy_reader_new(struct copy *c, PGconn *conn);
void copy_reader_free(struct copy_reader *r);
bool copy_reader_run(struct copy_reader *r, const struct copy_task *task, struct fault *f);

/* copy_send.c: waits while too much is outstanding. key absent: null key. False and a fault also when
 * the round is being stopped. */
bool copy_send(struct copy *c, struct copy_work *t, int partition, struct span key,
	       struct span record, struct fault *f);

#endif
