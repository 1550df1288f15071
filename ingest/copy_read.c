// SPDX-License-Identifier: Apache-2.0
/*
 * One range of a table: COPY (SELECT … WHERE ctid …) TO STDOUT, each row a record. Arrays are sized
 * once for the widest table; what a row needs beside lives in an arena that is reset per row.
 *
 * Rows of a table that became void meanwhile are read to the end and thrown away: cancelling would cost
 * the transaction, and with it the snapshot; a range is short.
 */
#include <poll.h>
#include <stdlib.h>

#include "core/buf.h"
#include "core/failpoint.h"
#include "ingest/copy_round.h"
#include "ingest/copydata.h"

enum {
	ROW_BYTES = 1 << 30,             /* PostgreSQL's own limit of a row is 1 GiB */
	RECORD_BYTES = 80 * 1024 * 1024, /* above Kafka's limit, so that it is Kafka's that is met */
	KEY_BYTES = 1024 * 1024,
	STATEMENT_BYTES = 1024 * 1024,
	COUNT_EVERY = 256,               /* rows between two looks at the shared counters */
};

struct copy_reader {
	struct copy *c;
	PGconn *conn;
	struct arena row;
	struct buf key, record, sql;
	struct cell *cells;
	struct value *values;
	uint64_t *records;               /* per partition, of the range */
	uint64_t rows, bytes;            /* not yet counted */
};

struct copy_reader *copy_reader_new(struct copy *c, PGconn *conn)
{
	struct copy_reader *r = calloc(1, sizeof(*r));
	size_t widest = 1;

	if (!r)
		return NULL;
	for (size_t i = 0; i < c->table_count; i++)
		if (c->tables[i].conf.rel->column_count > widest)
			widest = c->tables[i].conf.rel->column_count;
	r->c = c;
	r->conn = conn;
	arena_init(&r->row, ROW_BYTES);
	buf_init(&r->key, KEY_BYTES);
	buf_init(&r->record, RECORD_BYTES);
	buf_init(&r->sql, STATEMENT_BYTES);
	r->cells = calloc(widest, sizeof(*r->cells));
	r->values = calloc(widest, sizeof(*r->values));
	r->records = calloc((size_t)c->m->partition_count, sizeof(*r->records));
	if (r->cells && r->values && r->records)
		return r;
	copy_reader_free(r);
	return NULL;
}

void copy_reader_free(struct copy_reader *r)
{
	if (!r)
		return;
	arena_release(&r->row);
	buf_release(&r->key);
	buf_release(&r->record);
	buf_release(&r->sql);
	free(r->cells);
	free(r->values);
	free(r->records);
	free(r);
}

static void write_sql(struct copy_reader *r, const struct copy_work *t, const struct copy_task *task)
{
	const struct relation *rel = t->conf.rel;
	struct buf *b = &r->sql;

	buf_reset(b);
	buf_str(b, "COPY (SELECT");
	for (size_t i = 0; i < rel->column_count; i++) {
		buf_str(b, i ? ", " : " ");
		if (rel->columns[i].is_dropped)
			buf_str(b, "NULL"); /* in its place, so that places are those of the relation */
		else
			pg_quote_ident(b, rel->columns[i].name);
	}
	buf_str(b, " FROM ONLY ");
	pg_quote_table(b, rel->schema, rel->table);
	buf_printf(b, " WHERE ctid >= '(%llu,0)'", (unsigned long long)task->from);
	if (task->to)
		buf_printf(b, " AND ctid < '(%llu,0)'", (unsigned long long)task->to);
	buf_printf(b, ") TO STDOUT%s", t->is_binary ? " (FORMAT binary)" : "");
}

static bool make_record(struct copy_reader *r, const struct copy_work *t, struct fault *f)
{
	const struct relation *rel = t->conf.rel;
	struct event_head head = copy_head(r->c, t, 'r');
	struct change ch = { .after = r->values };

	for (size_t i = 0; i < rel->column_count; i++)
		if (!value_from_cell(&rel->columns[i].type, r->cells[i], &r->row, &r->values[i], f))
			return fault_in(f, "column %.*s", SPAN_ARG(rel->columns[i].name));
	buf_reset(&r->key);
	buf_reset(&r->record);
	return relation_key(rel, r->values, &r->key, f) &&
	       codec_encode(t->conf.codec, r->c->framing, &head, &ch, &r->record, f);
}

static void count(struct copy_reader *r, struct copy_work *t)
{
	atomic_fetch_add(&t->rows, r->rows);
	atomic_fetch_add(&t->bytes, r->bytes);
	r->rows = r->bytes = 0;
}

static bool take_row(struct copy_reader *r, struct copy_work *t, struct copydata *data,
		     struct span message, struct fault *f)
{
	bool has_row;

	arena_reset(&r->row);
	if (!copydata_row(data, message, &r->row, r->cells, &has_row, f))
		return false;
	if (!has_row || atomic_load_explicit(&t->is_void, memory_order_relaxed))
		return true;
	if (!make_record(r, t, f))
		return false;
	failpoint("copy.row");
	int partition = relation_copy_partition(t->conf.rel, buf_span(&r->key), r->c->m->partition_count);
	if (!copy_send(r->c, t, partition, buf_span(&r->key), buf_span(&r->record), f))
		return false;
	r->records[partition]++;
	r->bytes += message.n;
	if (++r->rows == COUNT_EVERY)
		count(r, t);
	return true;
}

/* One CopyData message into *ret (to be freed), its length; 0 at the end; -1 and a fault. */
static int next_message(struct copy_reader *r, char **ret, struct fault *f)
{
	for (;;) {
		int n = PQgetCopyData(r->conn, ret, 1);
		if (n > 0)
			return n;
		if (n == -1)
			return 0;
		if (n < -1) {
			pg_fault(r->conn, NULL, f);
			return -1;
		}
		if (atomic_load(&r->c->is_stopping)) {
			fault(f, FAULT_ENVIRONMENT, "the copy is being stopped");
			return -1;
		}
		if (!pg_wait(r->conn, false, r->c->stop_fd, -1, f))
			return -1;
		if (!PQconsumeInput(r->conn)) {
			pg_fault(r->conn, NULL, f);
			return -1;
		}
	}
}

static bool read_rows(struct copy_reader *r, struct copy_work *t, struct fault *f)
{
	struct copydata data = copydata(t->is_binary, t->conf.rel->column_count);
	char *message = NULL;
	int n;

	while ((n = next_message(r, &message, f)) > 0) {
		bool ok = take_row(r, t, &data, span(message, (size_t)n), f);
		PQfreemem(message);
		if (!ok)
			return false;
	}
	return n == 0;
}

/* The COPY's own end: its error comes here. */
static bool finish(struct copy_reader *r, struct fault *f)
{
	PGresult *result;
	bool ok = true;

	while ((result = PQgetResult(r->conn))) {
		if (PQresultStatus(result) != PGRES_COMMAND_OK && ok)
			ok = pg_fault(r->conn, result, f);
		PQclear(result);
	}
	return ok;
}

static bool run(struct copy_reader *r, struct copy_work *t, struct fault *f)
{
	PGresult *result = pg_query(r->conn, f, buf_cstr(&r->sql));

	if (!result)
		return false;
	PQclear(result);
	return read_rows(r, t, f) && finish(r, f);
}

bool copy_reader_run(struct copy_reader *r, const struct copy_task *task, struct fault *f)
{
	struct copy_work *t = &r->c->tables[task->table];
	const struct relation *rel = t->conf.rel;

	bool is_same = false;

	memset(r->records, 0, (size_t)r->c->m->partition_count * sizeof(*r->records));
	write_sql(r, t, task);
	bool ok = atomic_load(&t->is_void) ||
		  (copy_hold(r->c, r->conn, task->table, &is_same, f) &&
		   (!is_same || (run(r, t, f) && copy_let_go(r->conn, f))));
	count(r, t);
	if (!ok)
		return fault_in(f, "copy of %.*s.%.*s", SPAN_ARG(rel->schema), SPAN_ARG(rel->table));
	atomic_fetch_add(&t->bytes_done, task->bytes);
	pthread_mutex_lock(&r->c->lock);
	for (int p = 0; p < r->c->m->partition_count; p++)
		t->records[p] += r->records[p];
	pthread_mutex_unlock(&r->c->lock);
	return true;
}
