// SPDX-License-Identifier: Apache-2.0
/*
 * apply - see apply.h.
 *
 * Every command sent is written down as an *answer* we are owed, in order; apply_results ticks them
 * off. In a pipeline the first error makes the server skip everything up to the sync: only the
 * answer that holds the error matters, the rest say PIPELINE_ABORTED, and the COMMIT among them did
 * not run.
 *
 * Sending and reading never block on each other: the connection is non-blocking, and whoever waits
 * for room reads what has come (a server that cannot get rid of its answers stops reading ours).
 */
#include "shadow/apply.h"

#include <assert.h>
#include <stdio.h>

#include "core/buf.h"
#include "core/clock.h"
#include "core/failpoint.h"
#include "shadow/prepared.h"

enum {
	CHUNK_ROWS = 4096,       /* rows of one execution */
	CHUNK_BYTES = 4 << 20,   /* parameters of one execution, unless it is one row */
	MESSAGE_BYTES = 1 << 30, /* what PostgreSQL takes as one message */
	FLUSH_BYTES = 256 << 10, /* handed to libpq before it must go out */
	STATEMENTS = 1000,       /* prepared at a time on one connection */
	FIRST_SQLS = 4,          /* different first statements, prepared too */
};
enum { OID_TEXT = 25 };

enum answer_kind { ANSWER_FIRST, ANSWER_EXEC, ANSWER_COMMIT, ANSWER_SYNC };

struct answer {
	enum answer_kind kind;
	size_t index;          /* FIRST, EXEC */
	size_t row, row_count; /* EXEC */
};

struct apply {
	PGconn *conn;
	struct statement_cache *cache;
	struct {
		const char *sql;
		char name[24];
	} firsts[FIRST_SQLS]; /* prepared first statements */
	unsigned long long first_names;
	const struct plan *plan; /* in flight */
	enum apply_extent extent;
	const struct apply_statement *first;
	struct answer *answers;
	size_t answer_count, answer_cap, answered;
	bool is_pipelined, in_flight;
	bool has_failed; /* an answer of this flight was an error; it is in failure and why */
	struct apply_failure failure;
	struct fault why;
	size_t unflushed_bytes;
	struct buf params; /* values of one execution */
	size_t *offsets;   /* of each parameter in params */
	const char **values;
	int *lengths, *formats;
	size_t param_cap;
	struct copyin copyin;
};

/* Executions are found by key: plans that scan the table for a batch are never wanted, nor is
 * planning each of them anew. A missing index still leaves the scan possible. */
static const char session_sql[] = "SET plan_cache_mode = force_generic_plan;"
				  "SET enable_hashjoin = off;"
				  "SET enable_mergejoin = off;"
				  "SET enable_seqscan = off;"
				  "SET enable_material = off;"
				  "SET jit = off";

static bool no_memory(struct fault *f)
{
	return fault(f, FAULT_INTERNAL, "no memory to send a batch");
}

struct apply *apply_new(void)
{
	struct apply *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->cache = statement_cache_new(STATEMENTS);
	if (!a->cache) {
		free(a);
		return NULL;
	}
	buf_init(&a->params, MESSAGE_BYTES);
	copyin_init(&a->copyin);
	return a;
}

void apply_free(struct apply *a)
{
	if (!a)
		return;
	statement_cache_free(a->cache);
	buf_release(&a->params);
	copyin_release(&a->copyin);
	free(a->answers);
	free(a->offsets);
	free(a->values);
	free(a->lengths);
	free(a->formats);
	free(a);
}

static void forget_prepared(struct apply *a)
{
	statement_cache_reset(a->cache);
	memset(a->firsts, 0, sizeof(a->firsts));
}

bool apply_start(struct apply *a, PGconn *conn, struct fault *f)
{
	a->conn = conn;
	a->is_pipelined = a->in_flight = false;
	a->answer_count = a->answered = 0;
	forget_prepared(a);
	return pg_do(conn, f, session_sql);
}

bool apply_pause(struct apply *a, struct fault *f)
{
	assert(!a->in_flight);
	if (!a->is_pipelined)
		return true;
	if (!PQexitPipelineMode(a->conn) || PQsetnonblocking(a->conn, 0) != 0)
		return pg_fault(a->conn, NULL, f);
	a->is_pipelined = false;
	return true;
}

static bool resume(struct apply *a, struct fault *f)
{
	if (a->is_pipelined)
		return true;
	if (PQsetnonblocking(a->conn, 1) != 0 || !PQenterPipelineMode(a->conn))
		return pg_fault(a->conn, NULL, f);
	a->is_pipelined = true;
	return true;
}

static bool owe(struct apply *a, struct answer answer, struct fault *f)
{
	if (a->answer_count == a->answer_cap) {
		size_t cap = a->answer_cap ? a->answer_cap * 2 : 256;
		struct answer *p = realloc(a->answers, cap * sizeof(*p));
		if (!p)
			return no_memory(f);
		a->answers = p;
		a->answer_cap = cap;
	}
	a->answers[a->answer_count++] = answer;
	return true;
}

/* Everything handed to libpq goes to the kernel; meanwhile answers are read. */
static bool flush(struct apply *a, struct fault *f)
{
	int left;

	while ((left = PQflush(a->conn)) > 0) {
		if (!pg_wait(a->conn, true, -1, -1, f))
			return false;
		if (!PQconsumeInput(a->conn))
			return pg_fault(a->conn, NULL, f);
	}
	a->unflushed_bytes = 0;
	return left == 0 || pg_fault(a->conn, NULL, f);
}

static bool send_sql(struct apply *a, const char *sql, struct answer answer, struct fault *f)
{
	if (!PQsendQueryParams(a->conn, sql, 0, NULL, NULL, NULL, NULL, 0))
		return pg_fault(a->conn, NULL, f);
	return owe(a, answer, f);
}

/* Its place in firsts, or a free one. */
static int find_first(const struct apply *a, const char *sql)
{
	int i = 0;

	while (i < FIRST_SQLS - 1 && a->firsts[i].sql && a->firsts[i].sql != sql)
		i++;
	return i;
}

static bool send_first_one(struct apply *a, size_t index, struct fault *f)
{
	const struct apply_statement *s = &a->first[index];
	const struct answer answer = { ANSWER_FIRST, .index = index };
	int place = find_first(a, s->sql);
	char *name = a->firsts[place].name;

	assert(!a->firsts[place].sql || a->firsts[place].sql == s->sql);
	if (!a->firsts[place].sql) {
		/* Never a name again that may still be there after a failure. */
		snprintf(name, sizeof(a->firsts[place].name), "first_%llu", a->first_names++);
		if (!PQsendPrepare(a->conn, name, s->sql, 0, NULL))
			return pg_fault(a->conn, NULL, f);
		if (!owe(a, answer, f))
			return false;
		a->firsts[place].sql = s->sql;
	}
	if (!PQsendQueryPrepared(a->conn, name, s->param_count, s->params, NULL, NULL, 0))
		return pg_fault(a->conn, NULL, f);
	return owe(a, answer, f);
}

static bool send_first(struct apply *a, size_t count, struct fault *f)
{
	for (size_t i = 0; i < count; i++)
		if (!send_first_one(a, i, f))
			return false;
	return true;
}

/* Room for the parameters of a statement on this table. */
static bool reserve_params(struct apply *a, const struct target_table *t, struct fault *f)
{
	size_t n = t->column_count * 2 + 1;

	if (a->param_cap >= n)
		return true;
	free(a->offsets);
	free(a->values);
	free(a->lengths);
	free(a->formats);
	a->offsets = calloc(n, sizeof(*a->offsets));
	a->values = calloc(n, sizeof(*a->values));
	a->lengths = calloc(n, sizeof(*a->lengths));
	a->formats = calloc(n, sizeof(*a->formats));
	a->param_cap = a->offsets && a->values && a->lengths && a->formats ? n : 0;
	return a->param_cap || no_memory(f);
}

static void patch_be32(struct buf *b, size_t at, uint32_t v)
{
	v = htobe32(v);
	memcpy(b->p + at, &v, sizeof(v));
}

/* The length in front is known only behind: written over. */
static bool add_text(const struct value_type *t, const struct value *v, struct buf *out,
		     struct fault *f)
{
	size_t at = out->n;

	if (v->state == VALUE_IS_NULL) {
		buf_be32(out, UINT32_MAX);
		return true;
	}
	buf_be32(out, 0);
	if (!value_add_text(t, v, out, f))
		return false;
	if (!buf_failed(out))
		patch_be32(out, at, (uint32_t)(out->n - at - 4));
	return true;
}

/* One column of n rows as a binary one-dimensional array. Ends early when there is too much for one
 * execution: the caller looks at the size. */
static bool add_array(struct buf *out, const struct target_table *t, size_t column, bool is_key,
		      const struct plan_row *rows, size_t n, struct fault *f)
{
	const struct value_type *type = &t->rel->columns[column].type;
	bool as_text = !t->columns[column].is_native;
	size_t at = out->n;
	uint32_t has_null = 0;

	buf_be32(out, 1);
	buf_be32(out, 0);
	buf_be32(out, as_text ? OID_TEXT : value_element_oid(type->kind));
	buf_be32(out, (uint32_t)n);
	buf_be32(out, 1);
	for (size_t r = 0; r < n; r++) {
		const struct value *v = &(is_key ? rows[r].key : rows[r].row)[column];
		if (!(as_text ? add_text(type, v, out, f) : value_add_binary(type, v, out, f)))
			return fault_in(f, "%.*s, column \"%.*s\"", SPAN_ARG(t->label),
					SPAN_ARG(t->rel->columns[column].name));
		has_null |= v->state == VALUE_IS_NULL;
		if (n > 1 && out->n > CHUNK_BYTES)
			return true;
	}
	if (!buf_failed(out))
		patch_be32(out, at + 4, has_null);
	return true;
}

/* All parameters but the count. */
static bool add_arrays(struct apply *a, const struct statement_key *k, const struct plan_row *rows,
		       size_t n, size_t *ret_count, struct fault *f)
{
	size_t count = 0;

	buf_reset(&a->params);
	for (int part = 0; part < 2; part++)
		for (size_t i = 0; i < k->table->column_count; i++) {
			if (part == 0 ? !statement_has_key(k, i) : !statement_has_set(k, i))
				continue;
			if (n > 1 && a->params.n > CHUNK_BYTES)
				return true;
			a->offsets[count++] = a->params.n;
			if (!add_array(&a->params, k->table, i, part == 0, rows, n, f))
				return false;
		}
	*ret_count = count;
	return true;
}

/* Assembles as many of the *ret_n rows as fit. */
static bool assemble(struct apply *a, const struct statement_key *k, const struct plan_row *rows,
		     size_t *ret_n, size_t *ret_count, struct fault *f)
{
	while (add_arrays(a, k, rows, *ret_n, ret_count, f)) {
		if (*ret_n > 1 && a->params.n > CHUNK_BYTES) {
			*ret_n /= 2;
			continue;
		}
		return !buf_failed(&a->params) ||
		       fault(f, FAULT_INPUT,
			     "%.*s: a row is larger than PostgreSQL's message limit",
			     SPAN_ARG(k->table->label));
	}
	return false;
}

/* What is in a->params, and the count, as an execution of s. */
static bool execute(struct apply *a, const struct statement *s, size_t count, size_t n,
		    struct fault *f)
{
	uint64_t wanted = htobe64((uint64_t)n);

	for (size_t i = 0; i < count; i++) {
		size_t end = i + 1 < count ? a->offsets[i + 1] : a->params.n;
		a->values[i] = a->params.p + a->offsets[i];
		a->lengths[i] = (int)(end - a->offsets[i]);
		a->formats[i] = 1;
	}
	a->values[count] = (const char *)&wanted;
	a->lengths[count] = sizeof(wanted);
	a->formats[count] = 1;
	assert((int)count + 1 == s->param_count);
	if (!PQsendQueryPrepared(a->conn, s->name, s->param_count, a->values, a->lengths,
				 a->formats, 1))
		return pg_fault(a->conn, NULL, f);
	a->unflushed_bytes += a->params.n + 64;
	return a->unflushed_bytes < FLUSH_BYTES || flush(a, f);
}

static bool send_chunk(struct apply *a, size_t index, size_t row, size_t *ret_n, struct fault *f)
{
	const struct plan_exec *e = &a->plan->execs[index];
	struct statement_key k = { e->table, e->op, e->sets };
	struct answer answer = { ANSWER_EXEC, index, row, 0 };
	const struct statement *s;
	size_t count = 0;
	int sends;

	if (!reserve_params(a, e->table, f) || !assemble(a, &k, e->rows + row, ret_n, &count, f))
		return false;
	answer.row_count = *ret_n;
	s = statement_get(a->cache, a->conn, &k, &sends, f);
	while (sends-- > 0)
		if (!owe(a, answer, f))
			return false;
	return s && execute(a, s, count, *ret_n, f) && owe(a, answer, f);
}

static bool send_exec(struct apply *a, size_t index, struct fault *f)
{
	const struct plan_exec *e = &a->plan->execs[index];

	for (size_t row = 0, n; row < e->row_count; row += n) {
		n = e->row_count - row < CHUNK_ROWS ? e->row_count - row : CHUNK_ROWS;
		if (!send_chunk(a, index, row, &n, f))
			return false;
	}
	return true;
}

/* A test stops or kills us here: what was sent so far must be real. */
static bool pass(struct apply *a, const char *point, struct fault *f)
{
#ifdef FAILPOINTS
	if (!flush(a, f))
		return false;
#else
	(void)a;
#endif
	return !failpoint(point) || fault(f, FAULT_ENVIRONMENT, "failpoint %s", point);
}

/* The points count batches that change rows, so that a test knows what is in the hands of what it stops. */
static bool send_all(struct apply *a, size_t first_count, struct fault *f)
{
	bool has_rows = a->plan->exec_count > 0;
	bool begins = a->extent == APPLY_WHOLE || a->extent == APPLY_BEGIN;
	bool ends = a->extent == APPLY_WHOLE || a->extent == APPLY_END;

	if (begins && !send_sql(a, "BEGIN", (struct answer) { ANSWER_FIRST }, f))
		return false;
	if (a->plan->has_deferred &&
	    !send_sql(a, "SET CONSTRAINTS ALL DEFERRED", (struct answer) { ANSWER_FIRST }, f))
		return false;
	if ((has_rows && !pass(a, "apply.before_first", f)) || !send_first(a, first_count, f))
		return false;
	for (size_t i = 0; i < a->plan->exec_count; i++) {
		if (i > 0 && !pass(a, "apply.between_statements", f))
			return false;
		if (!send_exec(a, i, f))
			return false;
	}
	if (!ends)
		return true;
	return (!has_rows || pass(a, "apply.before_commit", f)) &&
	       send_sql(a, "COMMIT", (struct answer) { ANSWER_COMMIT }, f);
}

static bool send_sync(struct apply *a, struct fault *f)
{
	if (!PQpipelineSync(a->conn))
		return pg_fault(a->conn, NULL, f);
	return owe(a, (struct answer) { ANSWER_SYNC }, f) && flush(a, f);
}

/* After an error, with nothing in flight: the transaction ends, and so does what may or may not
 * have been prepared in it. A broken connection is found by the next call that uses it. */
static void roll_back(struct apply *a)
{
	a->in_flight = false;
	forget_prepared(a);
	if (PQstatus(a->conn) != CONNECTION_OK || !apply_pause(a, NULL))
		return;
	if (PQtransactionStatus(a->conn) != PQTRANS_IDLE && !pg_do(a->conn, NULL, "ROLLBACK"))
		return;
	pg_do(a->conn, NULL, "DEALLOCATE ALL");
}

static struct apply_failure failure_of(const struct answer *answer)
{
	struct apply_failure where = { APPLY_AT_FIRST };

	switch (answer->kind) {
	case ANSWER_FIRST:
		where.first = answer->index;
		break;
	case ANSWER_EXEC:
		where.at = APPLY_AT_EXEC;
		where.exec = answer->index;
		where.row = answer->row;
		where.row_count = answer->row_count;
		break;
	case ANSWER_COMMIT:
	case ANSWER_SYNC:
		where.at = APPLY_AT_COMMIT;
		break;
	}
	return where;
}

/* Which statement the server's words are about. */
static void name_failure(struct apply *a, const struct answer *answer)
{
	const struct plan_exec *e;

	switch (answer->kind) {
	case ANSWER_FIRST:
		if (a->first && a->first[answer->index].what)
			fault_in(&a->why, "%s", a->first[answer->index].what);
		break;
	case ANSWER_EXEC:
		e = &a->plan->execs[answer->index];
		fault_in(&a->why, "%.*s %s of %zu rows", SPAN_ARG(e->table->label),
			 statement_op_name(e->op), answer->row_count);
		break;
	case ANSWER_COMMIT:
	case ANSWER_SYNC:
		fault_in(&a->why, "commit");
		break;
	}
}

static void fail(struct apply *a, const PGresult *r)
{
	const struct answer *answer = &a->answers[a->answered];

	if (a->has_failed)
		return;
	a->has_failed = true;
	a->failure = failure_of(answer);
	pg_fault(a->conn, r, &a->why);
	name_failure(a, answer);
}

/* A COMMIT that the server turned into a ROLLBACK is answered without an error. */
static void check_commit(struct apply *a, const PGresult *r)
{
	if (a->answers[a->answered].kind != ANSWER_COMMIT || a->has_failed ||
	    strcmp(PQcmdStatus((PGresult *)r), "COMMIT") == 0)
		return;
	a->has_failed = true;
	a->failure = (struct apply_failure) { APPLY_AT_COMMIT };
	fault(&a->why, FAULT_INTERNAL, "commit was answered with %s", PQcmdStatus((PGresult *)r));
}

/* Ticks off the answer r is. false: the stream of answers is not what we sent for. */
static bool tick(struct apply *a, const PGresult *r)
{
	ExecStatusType status = PQresultStatus(r);
	bool is_sync = status == PGRES_PIPELINE_SYNC;

	if (is_sync != (a->answers[a->answered].kind == ANSWER_SYNC) &&
	    PQstatus(a->conn) == CONNECTION_OK)
		return false;
	if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK)
		check_commit(a, r);
	else if (!is_sync)
		fail(a, r);
	a->answered++;
	return true;
}

/* The connection broke: nothing more will come. */
static enum apply_progress lost(struct apply *a)
{
	if (a->answered < a->answer_count)
		fail(a, NULL);
	a->has_failed = true;
	return APPLY_DONE;
}

/* Reads answers until all are there (DONE), or time or fd say stop (BUSY). */
static enum apply_progress read_answers(struct apply *a, int fd, int timeout_ms)
{
	int64_t deadline_us = timeout_ms < 0 ? INT64_MAX : clock_us() + timeout_ms * INT64_C(1000);
	bool after_null = false;

	while (a->answered < a->answer_count) {
		if (PQisBusy(a->conn)) {
			int64_t left_ms = (deadline_us - clock_us() + 999) / 1000;
			if (left_ms < 0)
				left_ms = 0;
			if (!pg_wait(a->conn, PQflush(a->conn) > 0, fd,
				     timeout_ms < 0 ? -1 : (int)left_ms, NULL) ||
			    !PQconsumeInput(a->conn))
				return lost(a);
			if (PQisBusy(a->conn) && (left_ms == 0 || fd >= 0))
				return APPLY_BUSY;
			continue;
		}
		PGresult *r = PQgetResult(a->conn);
		/* One NULL ends each command's results; two mean libpq waits for nothing. */
		if (!r && (after_null || PQstatus(a->conn) != CONNECTION_OK))
			return lost(a);
		after_null = !r;
		bool fits = !r || tick(a, r);
		PQclear(r);
		if (!fits)
			return lost(a);
	}
	return APPLY_DONE;
}

/* Sending failed half-way: what was sent is answered, then rolled back. */
static bool abandon(struct apply *a)
{
	if (PQstatus(a->conn) == CONNECTION_OK && send_sync(a, NULL))
		read_answers(a, -1, -1);
	roll_back(a);
	return false;
}

static bool send_round(struct apply *a, const struct plan *p, enum apply_extent extent,
		       const struct apply_statement *first, size_t first_count, struct fault *f)
{
	assert(!a->in_flight);
	if (!resume(a, f))
		return false;
	a->plan = p;
	a->extent = extent;
	a->first = first_count ? first : NULL;
	a->answer_count = a->answered = 0;
	a->has_failed = false;
	fault_reset(&a->why);
	if (!send_all(a, first_count, f))
		return abandon(a);
	if (!send_sync(a, f)) {
		roll_back(a);
		return false;
	}
	a->in_flight = true;
	return true;
}

bool apply_send(struct apply *a, const struct plan *p, const struct apply_statement *first,
		size_t first_count, struct fault *f)
{
	return send_round(a, p, APPLY_WHOLE, first, first_count, f);
}

enum apply_progress apply_results(struct apply *a, int fd, int timeout_ms,
				  struct apply_failure *ret, struct fault *f)
{
	assert(a->in_flight);
	if (read_answers(a, fd, timeout_ms) == APPLY_BUSY)
		return APPLY_BUSY;
	a->in_flight = false;
	if (!a->has_failed)
		return APPLY_DONE;
	if (ret)
		*ret = a->failure;
	if (f)
		*f = a->why;
	roll_back(a);
	return APPLY_FAILED;
}

bool apply_round(struct apply *a, const struct plan *p, enum apply_extent extent,
		 const struct apply_statement *first, size_t first_count, struct apply_failure *ret,
		 struct fault *f)
{
	if (ret)
		*ret = (struct apply_failure) { APPLY_AT_FIRST };
	return send_round(a, p, extent, first, first_count, f) &&
	       apply_results(a, -1, -1, ret, f) == APPLY_DONE;
}

bool apply_plan(struct apply *a, const struct plan *p, const struct apply_statement *first,
		size_t first_count, struct apply_failure *ret, struct fault *f)
{
	return apply_round(a, p, APPLY_WHOLE, first, first_count, ret, f);
}

void apply_roll_back(struct apply *a)
{
	assert(!a->in_flight);
	roll_back(a);
}

bool apply_sequential(struct apply *a, struct plan *p, const struct apply_statement *first,
		      size_t first_count, size_t *ret_change, struct fault *f)
{
	struct apply_failure where;

	*ret_change = SIZE_MAX;
	if (!plan_sequential(p, f))
		return false;
	if (apply_plan(a, p, first, first_count, &where, f))
		return true;
	if (where.at == APPLY_AT_EXEC)
		*ret_change = where.exec;
	return false;
}

static bool copy_all(struct apply *a, const struct copyin_rows *tables, size_t table_count,
		     const struct apply_statement *first, size_t first_count, struct fault *f)
{
	if (!pg_do(a->conn, f, "BEGIN"))
		return false;
	if (table_count > 0 && failpoint("apply.before_first"))
		return fault(f, FAULT_ENVIRONMENT, "failpoint apply.before_first");
	for (size_t i = 0; i < first_count; i++) {
		PGresult *r = pg_query_params(a->conn, f, first[i].sql, first[i].param_count,
					      first[i].params);
		if (!r)
			return fault_in(f, "%s", first[i].what ? first[i].what : "first statement");
		PQclear(r);
	}
	for (size_t i = 0; i < table_count; i++) {
		if (failpoint("apply.between_statements"))
			return fault(f, FAULT_ENVIRONMENT, "failpoint apply.between_statements");
		if (!copyin_table(a->conn, &a->copyin, &tables[i], f))
			return false;
	}
	if (table_count > 0 && failpoint("apply.before_commit"))
		return fault(f, FAULT_ENVIRONMENT, "failpoint apply.before_commit");
	return pg_do(a->conn, f, "COMMIT");
}

bool apply_copy(struct apply *a, const struct copyin_rows *tables, size_t table_count,
		const struct apply_statement *first, size_t first_count, struct fault *f)
{
	assert(!a->in_flight);
	if (!apply_pause(a, f))
		return false;
	if (copy_all(a, tables, table_count, first, first_count, f))
		return true;
	roll_back(a);
	return false;
}
