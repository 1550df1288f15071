// SPDX-License-Identifier: Apache-2.0
/*
 * pg - the one place that knows libpq.
 *
 * Connections are made with pinned session settings (UTF8, ISO dates, UTC, postgres intervals,
 * extra_float_digits 3, hex bytea, lc_monetary C, lc_messages C where permitted, empty search_path,
 * row_security off, no statement/lock/idle timeouts unless asked), TCP keepalives and
 * application_name. Server errors become faults: kind by SQLSTATE class (pg_fault_kind), the
 * server's message, detail and hint in the text, never the connection string.
 *
 * Thread: a connection belongs to one thread.
 */
#ifndef CORE_PG_H
#define CORE_PG_H

#include <libpq-fe.h>

#include "core/fault.h"
#include "core/span.h"

/* Where to connect: a libpq URI or keyword string as the user wrote it, after ${VAR} expansion. */
struct pg_server {
	const char *uri;
	const char *name;        /* "source", "shadow", "target": for messages */
	const char *dbname;      /* overrides the URI's database when not NULL */
};

enum pg_mode { PG_PLAIN, PG_REPLICATION };

/* A connected handle (PQfinish by the caller through pg_close), or NULL and a fault:
 * FAULT_ENVIRONMENT when trying again may help, FAULT_STOP when not (password, database missing). */
PGconn *pg_connect(const struct pg_server *s, enum pg_mode mode, const char *application_name,
		   struct fault *f);
void pg_close(PGconn **conn);

/* Runs one statement and waits. NULL and a fault unless the result is of a success status.
 * The caller clears it. */
PGresult *pg_query(PGconn *conn, struct fault *f, const char *sql);
PGresult *pg_query_params(PGconn *conn, struct fault *f, const char *sql, int n,
			  const char *const *values);
/* As pg_query, for what may take as long as somebody's transaction: ends with FAULT_ENVIRONMENT, the
 * statement cancelled, when stop_fd (-1: none) becomes readable. A wait of some seconds is logged:
 * `slow` says for what. Several statements in one text give the last one's result. */
PGresult *pg_query_until(PGconn *conn, const char *sql, int stop_fd, const char *slow,
			 struct fault *f);
/* pg_query in two halves, with other work in between; `sql` may be several statements. Nothing else may be asked of the
 * connection then: it would throw the answer away. pg_take waits for all n results, for the caller to clear; false:
 * one failed, and there is none to clear. */
bool pg_send(PGconn *conn, struct fault *f, const char *sql);
bool pg_take(PGconn *conn, PGresult **ret, int n, struct fault *f);
/* As pg_query, result thrown away. */
bool pg_do(PGconn *conn, struct fault *f, const char *sql);
bool pg_dof(PGconn *conn, struct fault *f, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Does this session run as replica (session_replication_role), or may it set that? Then neither triggers nor
 * foreign keys fire on what it applies. */
bool pg_may_be_replica(PGconn *conn, bool *ret, struct fault *f);

/* Says in f why result (may be NULL: then the connection) failed; returns false. */
bool pg_fault(PGconn *conn, const PGresult *result, struct fault *f);
/* The kind a SQLSTATE stands for: connection, resources, shutdown, deadlock, read-only... →
 * FAULT_ENVIRONMENT; "FS001" → FAULT_FENCED; privileges and missing objects → FAULT_STOP;
 * anything else → FAULT_DATA. A table. */
enum fault_kind pg_fault_kind(const char *sqlstate);

/* Appends "quoted identifier" / 'literal' (E'' never: standard_conforming_strings is pinned on). */
struct buf;
void pg_quote_ident(struct buf *b, struct span name);
void pg_quote_literal(struct buf *b, struct span text);
/* "schema"."table" */
void pg_quote_table(struct buf *b, struct span schema, struct span table);

/* The literal of a text[]: begin, add…, end. An absent element is NULL. */
void pg_array_begin(struct buf *b);
void pg_array_add(struct buf *b, struct span element);
void pg_array_end(struct buf *b);

/* As the type bytea prints them: \x and hex. */
void pg_bytea(struct buf *b, struct span bytes);

/* Text of a field, empty span with p == NULL when NULL. */
struct span pg_value(const PGresult *r, int row, int column);
int64_t pg_i64(const PGresult *r, int row, int column);

/* Waits until the socket is readable (or writable too) or timeout_ms is over or fd (an eventfd, or
 * -1) becomes readable. Returns false on a broken socket. */
bool pg_wait(PGconn *conn, bool for_write, int fd, int timeout_ms, struct fault *f);

#endif
