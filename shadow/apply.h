// SPDX-License-Identifier: Apache-2.0
/*
 * apply - sends a finished plan to a target as one transaction, and says what became of it.
 *
 *   BEGIN · SET CONSTRAINTS ALL DEFERRED (if some table needs it) · the caller's first statements
 * (progress) · the plan's executions · COMMIT · sync
 *
 * all in one libpq pipeline. apply_send returns when everything is on its way; until apply_results
 * says otherwise the caller may plan the next batch, but must not touch the connection or the plan.
 * The connection is put into non-blocking and pipeline mode by apply_start; in between (no batch in
 * flight) apply_pause gives it back in plain blocking mode for other statements, and apply_send
 * resumes the pipeline by itself.
 *
 * After a failure the transaction is rolled back and the connection is usable, unless the fault is
 * FAULT_ENVIRONMENT and PQstatus is bad: then reconnect, apply_start again, take partitions anew.
 * A COMMIT whose answer was lost is unknown: only the progress row says.
 *
 * Failpoints, of batches that change rows: apply.before_first, apply.between_statements,
 * apply.before_commit (everything but COMMIT has reached the server then).
 *
 * Thread: lane.
 */
#ifndef SHADOW_APPLY_H
#define SHADOW_APPLY_H

#include "shadow/copyin.h"
#include "shadow/plan.h"

/* A statement of the caller's; text format. Must RAISE when it does not do what it must. */
struct apply_statement {
	const char *sql; /* static, and known by its address: prepared once a connection */
	int param_count;
	const char *const *params; /* NUL-terminated text or NULL */
	const char *what;          /* "progress": for messages */
};

/* What failed. */
struct apply_failure {
	enum { APPLY_AT_FIRST, APPLY_AT_EXEC, APPLY_AT_COMMIT } at;
	size_t first;          /* AT_FIRST: which */
	size_t exec;           /* AT_EXEC: index into plan.execs */
	size_t row, row_count; /* AT_EXEC: rows of the exec that were sent together */
};

enum apply_progress { APPLY_DONE, APPLY_BUSY, APPLY_FAILED };

struct apply;
struct apply *apply_new(void);
void apply_free(struct apply *a);

/* The session's settings for this work (plans by index, generic plans, no JIT), once a connection.
 * Forgets what the last connection had prepared. Borrows conn. */
bool apply_start(struct apply *a, PGconn *conn, struct fault *f);
/* Leaves pipeline and non-blocking mode; only when nothing is in flight. */
bool apply_pause(struct apply *a, struct fault *f);

/* false: the connection broke, or a value cannot be sent (FAULT_INPUT; then rolled back). */
bool apply_send(struct apply *a, const struct plan *p, const struct apply_statement *first,
		size_t first_count, struct fault *f);
/* Waits up to timeout_ms (-1: no limit) for the answer or until fd (an eventfd, or -1) is readable.
 * FAILED: *ret says where, f why; the transaction is rolled back. */
enum apply_progress apply_results(struct apply *a, int fd, int timeout_ms,
				  struct apply_failure *ret, struct fault *f);
/* apply_send and apply_results to the end. */
bool apply_plan(struct apply *a, const struct plan *p, const struct apply_statement *first,
		size_t first_count, struct apply_failure *ret, struct fault *f);

/*
 * apply_plan in rounds: the transaction stays open from APPLY_BEGIN to APPLY_END, and between two rounds
 * apply_pause lets the caller run statements of his own in it. A round that fails has rolled back all of
 * it. apply_roll_back ends one that will have no APPLY_END; without a transaction it does no harm.
 */
enum apply_extent { APPLY_WHOLE, APPLY_BEGIN, APPLY_MIDDLE, APPLY_END };
bool apply_round(struct apply *a, const struct plan *p, enum apply_extent extent,
		 const struct apply_statement *first, size_t first_count, struct apply_failure *ret,
		 struct fault *f);
void apply_roll_back(struct apply *a);

/*
 * The plan's changes one by one in source order (calls plan_sequential), to find out which of them
 * the server refuses. All succeed: committed, true. Else rolled back as a whole, *ret_change is the
 * index of the first change that failed (SIZE_MAX: first statements or COMMIT) and f why.
 */
bool apply_sequential(struct apply *a, struct plan *p, const struct apply_statement *first,
		      size_t first_count, size_t *ret_change, struct fault *f);

/* One transaction: BEGIN, first statements and their results, COPY of each, COMMIT. Not pipelined.
 */
bool apply_copy(struct apply *a, const struct copyin_rows *tables, size_t table_count,
		const struct apply_statement *first, size_t first_count, struct fault *f);

#endif
