// SPDX-License-Identifier: Apache-2.0
/*
 * lane_state - the inside of a lane, shared by the files that make its turn: lane.c (thread, ops,
 * connection), collect.c, batch.c, copied.c (batches), whole.c (transactions that stay whole),
 * exclusive.c (what runs alone), repair.c (rows that verify asks for), finish.c (tables become live); lane_state.c has what all of them need.
 * Nobody else includes it, but for unit tests.
 *
 * Invariants between turns: 1. no transaction is open on the connection; 2. for each partition but
 * UNTAKEN ones, `have` is its row in the target and `next` equals `have`, unless it is about to wait,
 * or has a tail (whole.c).
 */
#ifndef SHADOW_LANE_STATE_H
#define SHADOW_LANE_STATE_H

#include <poll.h>
#include <pthread.h>

#include "shadow/apply.h"
#include "shadow/copies.h"
#include "shadow/lane.h"
#include "shadow/part.h"

enum { LANE_TABLE_BUCKETS = 256, LANE_ARENA_BYTES = 512 * 1024 * 1024 };

/* What a schema fingerprint comes to on this connection. */
struct lane_table {
	struct lane_table *next;
	uint64_t fingerprint;
	const struct codec *codec;
	const struct target_table *target;
};

struct batch_record {
	struct part *part;
	rd_kafka_message_t *msg;
	struct event_head head;
	struct span body;
	const struct lane_table *table; /* NULL: end marker of a copy */
	struct marker marker;
};

struct batch {
	struct arena arena;
	struct batch_record *records; /* LANE_BATCH_RECORDS */
	enum consume_topic topic;
	size_t count, bytes, cells;
	size_t ended_count; /* records of transactions whose end was seen, where those are whole */
	int64_t first_us, gather_us;
	size_t gathered[CONSUME_TOPICS]; /* records of the last batch */
	struct plan plan;
	struct counts counts; /* of changes: what is to be committed */
};

enum finish_state { FINISH_IDLE, FINISH_RUNNING, FINISH_DONE, FINISH_FAILED };

/*
 * How small batches are made while one that was refused as a whole is being looked into. What fails at
 * COMMIT is a transaction's; copied rows have no transactions, and go one by one in the end.
 */
enum lane_caution { CAUTION_NONE, CAUTION_PARTITION, CAUTION_TRANSACTION, CAUTION_ROW };

struct lane {
	struct lane_role *role;
	const struct migration *migration;
	int number;
	pthread_t thread;

	/* with other threads */
	pthread_mutex_t lock;
	pthread_cond_t done_cond;
	struct lane_op *ops, **ops_end;
	uint64_t ops_sent, ops_done;
	bool has_ended;
	struct fault end_fault;
	int ops_fd, control_fd, kafka_fd; /* eventfds */
	_Atomic int64_t rested_us, resting_since_us; /* 0: it is not resting */
	_Atomic bool may_give;

	/* the thread's own */
	PGconn *conn;
	struct apply *apply;
	bool is_stopping, is_down;
	bool is_replica;             /* neither foreign keys nor triggers fire; else see enforced.h */
	bool has_reread;             /* tables were read anew for what failed, and nothing has succeeded since */
	bool has_wasted_tables;      /* table_arena holds what tables that were refused have left */
	bool has_old_copies;         /* the rows about copies must be read before anything is applied */
	char down_sqlstate[6];       /* why, as it was last logged */
	char down_text[256];
	int backoff_ms;
	int64_t retry_us;           /* connection: not before */
	struct part **parts;
	size_t part_count, part_cap;
	size_t first_part[CONSUME_TOPICS]; /* who is asked first moves on: fairness */
	struct lane_table *tables[LANE_TABLE_BUCKETS];
	struct arena table_arena;
	struct copies copies;
	int64_t copies_us;          /* next look at the rows */
	int64_t wake_us;            /* last time a fetcher was woken */
	int64_t repair_us, tell_us; /* repair.c: next look, next incident */
	struct batch batch;
	struct part *large;  /* its transaction does not fit the batch, or has an event inside: whole_run */
	bool is_open;        /* within whole_run: the target's transaction is */
	enum lane_caution caution[CONSUME_TOPICS];
	size_t caution_left[CONSUME_TOPICS]; /* batches until it is over */

	/* finish.c */
	pthread_t finish_thread;
	_Atomic int finish_state;
	bool finish_is_copied;      /* for the thread: tables wait for it */
	struct fault finish_fault;
	int64_t finish_us;
	bool is_finish_owed;        /* tables are live, and it is not sure that all is built */
};

/* lane_state.c */
/* Until one of fds is ready or the time is over; counted as rest. As poll() returns. */
int lane_rest(struct lane *l, struct pollfd *fds, nfds_t n, int64_t wait_us);
/* What the partitions are doing, for other threads. Also within what takes long. */
void lane_publish(struct lane *l);
/* The target has taken a partition to `now`: counts what it applied. */
void lane_moved(const struct lane *l, const struct part *p, const struct progress *now);
/* The connection in plain mode, for statements of our own. */
bool lane_plain(struct lane *l, struct fault *f);
/*
 * Acts on a failure that is no record's, between collecting and the next turn: the connection is
 * gone → everything is taken anew; fenced → the partitions that are lost are, the batch's others seek
 * back; else the batch's partitions seek back after a back-off.
 */
void lane_failed(struct lane *l, const struct fault *f);
void lane_recovered(struct lane *l);
/* Writes an incident; text gets its line. rel may be NULL. */
void lane_report(struct lane *l, struct part *p, const rd_kafka_message_t *msg,
		 const struct event_head *head, const struct relation *rel, const struct fault *f,
		 char *text, size_t n);
/* Stops a partition in front of a record, with a report. */
void lane_stop_part(struct lane *l, struct part *p, const rd_kafka_message_t *msg,
		    const struct event_head *head, const struct relation *rel,
		    const struct fault *f);
/* NULL with f->kind FAULT_NONE: not in control yet. */
const struct codec *lane_codec(struct lane *l, uint64_t fingerprint, struct fault *f);
enum lane_lookup { LANE_FOUND, LANE_NO_SCHEMA, LANE_NO_TARGET, LANE_LOOKUP_FAILED };
enum lane_lookup lane_table(struct lane *l, uint64_t fingerprint, const struct lane_table **ret,
			    struct fault *f);
void lane_forget_tables(struct lane *l);
/* Something failed where the target enforces keys: one that was made since its tables were read may be why. true:
 * they will be read anew. Once, until a batch has succeeded. */
bool lane_reread(struct lane *l);
bool lane_load_copies(struct lane *l, struct fault *f);
struct part *lane_part(struct lane *l, enum consume_topic topic, int partition);

/* collect.c */
/* Collects from this topic's partitions; true if there is something to commit. */
bool batch_collect(struct lane *l, enum consume_topic topic);
/* A partition's share of a round. Returns the number of records it moved over. */
size_t batch_collect_part(struct lane *l, struct part *p);
bool batch_is_full(const struct lane *l);
/* The batch takes over msg. table NULL: end marker of a copy. */
void batch_add(struct lane *l, struct part *p, rd_kafka_message_t *msg, const struct event *ev,
	       const struct lane_table *table);
/* Until there may be more to collect (true), until_us is reached or an op waits (false). */
bool batch_wait(struct lane *l, int64_t until_us);

/* batch.c */
bool batch_init(struct batch *b, struct fault *f);
void batch_release(struct batch *b);
/* Gives the Kafka messages back, too: librdkafka does not close over one that is held. */
void batch_reset(struct batch *b);
void batch_commit_changes(struct lane *l);
/* Record i into the plan. */
bool batch_plan(struct lane *l, size_t i, struct fault *f);
/* Values of a record into the batch's arena. */
bool batch_decode(struct lane *l, const struct batch_record *r, const struct value **ret_before,
		  const struct value **ret_after, struct fault *f);
/* A record of changes into what the batch counts. */
bool batch_count_applied(struct lane *l, const struct part *p, uint32_t oid, struct fault *f);
/* What was collected of the partition and is not applied, up to there. */
bool batch_count_passed(struct lane *l, const struct part *p, const struct progress *to, struct fault *f);
/* The statement that takes each partition of the batch from have to next, and counts. Once a batch. */
bool batch_statement(struct lane *l, struct apply_statement *ret, struct fault *f);
void batch_committed(struct lane *l);
/* Record i cannot be applied. Its partition will stop in front of it; what is before it, and the
 * other partitions, are collected again. */
void batch_poison(struct lane *l, size_t i, const struct fault *f);
/* The transaction was refused as a whole. Smaller ones will show whose fault it is. */
void batch_refused(struct lane *l, const struct fault *f);
bool fault_is_of_a_row(const struct fault *f);

/* copied.c */
void batch_commit_copies(struct lane *l);

/* whole.c: see there. */
/* Of a partition with whole transactions: a change or event was accepted; before: the state without it.
 * false: it stays in front, there is nothing more for this batch. */
bool whole_next(struct lane *l, struct part *p, struct commit_lsn commit,
		const struct sequence *before);
/* Here a transaction ends; before: the state in front of the record that says so. */
void whole_end(struct lane *l, struct part *p, const struct sequence *before);
/* Here it must be cut: an event follows that all partitions wait for. false: it must be read again first. */
bool whole_cut(struct lane *l, struct part *p, const struct sequence *before);
/* A partition that becomes_whole is so from here on. */
void whole_begin(struct part *p);
/* The partition moved over a record. */
void whole_passed(struct part *p);
/* The tail into the batch, and what in the batch is no whole transaction back into the tail. */
bool whole_resume(struct lane *l, struct part *p);
void whole_keep(struct lane *l, struct part *p);
/* Applies the transaction of l->large, part of which is in the batch. */
void whole_run(struct lane *l);

/* exclusive.c */
enum exclusive_outcome {
	EXCLUSIVE_DONE,
	EXCLUSIVE_NOT_YET, /* look again later */
	EXCLUSIVE_FAILED,  /* see the fault */
};
/* An event inside a source transaction, in front of its partition: can it run now? Changes nothing. */
enum exclusive_outcome exclusive_can(struct lane *l, struct part *p, rd_kafka_message_t *msg,
				     struct fault *f);
/* Its effect, in the target's open transaction. The partition moves over it. false: it could not be, and
 * what follows from that is done; rolled back or not. */
bool exclusive_in_place(struct lane *l, struct part *p);
/* Looks after the partitions that wait at an exclusive event. */
void exclusive_turn(struct lane *l);

/* repair.c */
/* Looks for rows that are to be repaired in this lane's partitions. */
void repair_turn(struct lane *l);

/* finish.c */
/* If partition 0 is ours: tables whose copies are whole become live. */
void finish_turn(struct lane *l);
/* Waits for the thread, if one runs. */
void finish_end(struct lane *l);

#endif
