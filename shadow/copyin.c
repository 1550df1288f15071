// SPDX-License-Identifier: Apache-2.0
#include "shadow/copyin.h"

#include "core/pg.h"

enum {
	COPY_BYTES = 256 << 10,  /* one PQputCopyData */
	MESSAGE_BYTES = 1 << 30, /* what PostgreSQL takes as one message */
	STATEMENT_BYTES = 1 << 20,
};
enum { OID_JSON = 114, OID_JSONB = 3802 };

void copyin_init(struct copyin *c)
{
	buf_init(&c->data, MESSAGE_BYTES);
	buf_init(&c->scratch, MESSAGE_BYTES);
}

void copyin_release(struct copyin *c)
{
	buf_release(&c->data);
	buf_release(&c->scratch);
}

/* Is a value's binary form what the target column's receive function reads? */
static bool copies_binary(const struct target_column *c)
{
	return c->is_native || (c->kind == VALUE_JSONB && c->type_oid == OID_JSONB) ||
	       (c->kind == VALUE_TEXT && c->type_oid == OID_JSON);
}

static bool rows_are_binary(const struct target_table *t)
{
	for (size_t i = 0; i < t->column_count; i++)
		if (t->columns[i].is_written && !copies_binary(&t->columns[i]))
			return false;
	return true;
}

/* As in an array, but jsonb's own form has a version in front. */
static bool copy_binary_value(const struct target_column *c, const struct value_type *type,
			      const struct value *v, struct buf *out, struct fault *f)
{
	if (c->type_oid != OID_JSONB || v->state == VALUE_IS_NULL)
		return value_add_binary(type, v, out, f);
	buf_be32(out, (uint32_t)(v->bytes.n + 1));
	buf_u8(out, 1);
	buf_add_span(out, v->bytes);
	return true;
}

/* COPY's text format: the characters that end or escape something, escaped. */
static void escape(struct buf *out, size_t from, struct buf *scratch)
{
	size_t plain = from;

	for (; plain < out->n && !memchr("\\\n\r\t", out->p[plain], 4); plain++)
		;
	if (plain == out->n)
		return;
	buf_reset(scratch);
	buf_add(scratch, out->p + plain, out->n - plain);
	out->n = plain;
	for (size_t i = 0; i < scratch->n; i++) {
		char c = scratch->p[i];
		const char *special = c == '\\'   ? "\\\\"
				      : c == '\n' ? "\\n"
				      : c == '\r' ? "\\r"
				      : c == '\t' ? "\\t"
						  : NULL;
		if (special)
			buf_add(out, special, 2);
		else
			buf_u8(out, (uint8_t)c);
	}
	if (buf_failed(scratch))
		out->failed = true;
}

static bool copy_row(struct copyin *c, const struct target_table *t, const struct value *row,
		     bool binary, size_t written, struct fault *f)
{
	struct buf *out = &c->data;
	bool first = true;

	if (binary)
		buf_be16(out, (uint16_t)written);
	for (size_t i = 0; i < t->column_count; i++) {
		const struct value_type *type = &t->rel->columns[i].type;
		if (!t->columns[i].is_written)
			continue;
		if (row[i].state == VALUE_IS_UNCHANGED)
			return fault(f, FAULT_INPUT, "%.*s: a copied row lacks column \"%.*s\"",
				     SPAN_ARG(t->label), SPAN_ARG(t->columns[i].name));
		if (binary) {
			if (!copy_binary_value(&t->columns[i], type, &row[i], out, f))
				return false;
			continue;
		}
		if (!first)
			buf_u8(out, '\t');
		first = false;
		size_t from = out->n;
		if (row[i].state == VALUE_IS_NULL)
			buf_str(out, "\\N");
		else if (!value_add_text(type, &row[i], out, f))
			return false;
		else if (!buf_failed(out))
			escape(out, from, &c->scratch);
	}
	if (!binary)
		buf_u8(out, '\n');
	return true;
}

static bool put(PGconn *conn, struct copyin *c, struct fault *f)
{
	if (buf_failed(&c->data))
		return fault(f, FAULT_INPUT,
			     "a copied row is larger than PostgreSQL's message limit");
	if (PQputCopyData(conn, c->data.p, (int)c->data.n) != 1)
		return pg_fault(conn, NULL, f);
	buf_reset(&c->data);
	return true;
}

static bool copy_rows(PGconn *conn, struct copyin *c, const struct copyin_rows *rows, bool binary,
		      size_t written, struct fault *f)
{
	buf_reset(&c->data);
	if (binary)
		buf_add(&c->data, "PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0\0", 19);
	for (size_t r = 0; r < rows->row_count; r++) {
		if (!copy_row(c, rows->table, rows->rows[r], binary, written, f))
			return false;
		if (c->data.n >= COPY_BYTES && !put(conn, c, f))
			return false;
	}
	if (binary)
		buf_be16(&c->data, UINT16_MAX);
	return c->data.n == 0 || put(conn, c, f);
}

/* COPY t (columns) FROM STDIN; returns how many columns. */
static size_t write_copy(const struct target_table *t, bool binary, struct buf *sql)
{
	size_t written = 0;

	buf_str(sql, "COPY ");
	buf_add_span(sql, t->name);
	buf_str(sql, " (");
	for (size_t i = 0; i < t->column_count; i++) {
		if (!t->columns[i].is_written)
			continue;
		if (written++)
			buf_str(sql, ", ");
		pg_quote_ident(sql, t->columns[i].name);
	}
	buf_str(sql, binary ? ") FROM STDIN (FORMAT binary)" : ") FROM STDIN");
	return written;
}

/* What the server says to the end of a COPY. */
static bool copy_end(PGconn *conn, const struct copyin_rows *rows, struct fault *f)
{
	PGresult *r = PQgetResult(conn);
	bool ok = PQresultStatus(r) == PGRES_COMMAND_OK;

	if (!ok) {
		pg_fault(conn, r, f);
		fault_in(f, "%.*s copy", SPAN_ARG(rows->table->label));
	} else if (strtoull(PQcmdTuples(r), NULL, 10) != rows->row_count) {
		ok = fault(f, FAULT_DATA, "%.*s copy: %zu rows were sent, %s were taken",
			   SPAN_ARG(rows->table->label), rows->row_count, PQcmdTuples(r));
	}
	PQclear(r);
	while ((r = PQgetResult(conn)))
		PQclear(r);
	return ok;
}

bool copyin_table(PGconn *conn, struct copyin *c, const struct copyin_rows *rows, struct fault *f)
{
	bool binary = rows_are_binary(rows->table);
	struct buf sql;

	buf_init(&sql, STATEMENT_BYTES);
	size_t written = write_copy(rows->table, binary, &sql);
	PGresult *r = PQexec(conn, buf_cstr(&sql));
	buf_release(&sql);
	bool started = PQresultStatus(r) == PGRES_COPY_IN;
	if (!started) {
		pg_fault(conn, r, f);
		PQclear(r);
		return fault_in(f, "%.*s copy", SPAN_ARG(rows->table->label));
	}
	PQclear(r);
	if (!copy_rows(conn, c, rows, binary, written, f)) {
		/* The reason is ours and already in f; the server only has to let go. */
		if (PQputCopyEnd(conn, "the sender gave up") == 1)
			copy_end(conn, rows, NULL);
		return false;
	}
	if (PQputCopyEnd(conn, NULL) != 1)
		return pg_fault(conn, NULL, f);
	return copy_end(conn, rows, f);
}
