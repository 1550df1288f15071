// SPDX-License-Identifier: Apache-2.0
/*
 * The walsender side: making slots and the stream. What is asked on plain connections is in
 * source_admin.c.
 *
 * CopyData messages of the stream (PostgreSQL's documentation, "Streaming Replication Protocol"), big-endian:
 *
 *   XLogData   'w'  u64 WAL position · u64 server's WAL end · i64 time · payload
 *   Keepalive  'k'  u64 server's WAL end · i64 time · u8 reply at once
 *   Status     'r'  u64 written · u64 flushed · u64 applied · i64 time · u8 reply at once
 *
 * libpq is in non-blocking mode from source_start on. It allocates each message by itself; that is
 * the price of not writing the wire protocol again.
 */
#include "ingest/source.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "core/buf.h"
#include "core/clock.h"
#include "core/cursor.h"
#include "core/log.h"

enum {
	/* A low-water mark above what one TLS record can bring (16 KiB) may never be met. */
	TLS_LOWAT_BYTES = 16 * 1024 - 512,
	FAR_LOWAT_BYTES = 48 * 1024,
	NEAR_LOWAT_BYTES = 32 * 1024,
	NEAR_BUFFER_BYTES = 48 * 1024, /* the kernel doubles it, for its own bookkeeping */
	NEAR_REST_MS = 16,
	NEAR_MANY_MESSAGES = 256,
	STATEMENT_BYTES = 64 * 1024,
};

/* Microseconds from 1970-01-01 to 2000-01-01, PostgreSQL's epoch. */
#define EPOCH_2000_US INT64_C(946684800000000)

struct source {
	const struct migration *m;
	PGconn *conn;
	struct source_identity identity;
	char *database;
	char *held;                     /* libpq's copy of the message last given */
	int lowat_bytes;
	bool is_near;
	bool wants_write;
};

/* row: slot_name, consistent_point, snapshot_name, output_plugin. */
static bool read_point(const PGresult *r, struct boundary *ret, struct fault *f)
{
	if (PQntuples(r) != 1 || PQnfields(r) < 3 || !lsn_parse(pg_value(r, 0, 1), &ret->v))
		return fault(f, FAULT_INPUT,
			     "CREATE_REPLICATION_SLOT: answer of %d rows, %d columns, wanted 1 row with "
			     "a consistent point", PQntuples(r), PQnfields(r));
	return true;
}

/* kind is in the old form of the options, which 14 to 18 understand. */
static bool create_slot(PGconn *conn, const char *slot, const char *kind, int stop_fd,
			PGresult **ret, struct boundary *ret_point, struct fault *f)
{
	struct buf sql;

	buf_init(&sql, STATEMENT_BYTES);
	buf_str(&sql, "CREATE_REPLICATION_SLOT ");
	pg_quote_ident(&sql, span_str(slot));
	buf_printf(&sql, " %s", kind);
	*ret = pg_query_until(conn, buf_cstr(&sql), stop_fd,
			      "the source makes a replication slot: it waits for the transactions that "
			      "were open there to end", f);
	buf_release(&sql);
	if (!*ret || !read_point(*ret, ret_point, f))
		return fault_in(f, "source: making the replication slot %s", slot);
	return true;
}

/* The connection's refusal of a role without REPLICATION comes as a right that is missing. */
static void say_right(struct fault *f)
{
	char text[sizeof(f->text)];

	if (!f || strcmp(f->sqlstate, "42501") != 0)
		return;
	snprintf(text, sizeof(text), "%.1200s", f->text);
	char *step = strstr(text, "; next step:");
	if (step)
		*step = 0;
	fault(f, FAULT_STOP, "%s; next step: ALTER ROLE <that user> REPLICATION on the source", text);
	snprintf(f->sqlstate, sizeof(f->sqlstate), "42501");
}

static PGconn *connect_walsender(const struct migration *m, const char *what, struct fault *f)
{
	char name[128];

	snprintf(name, sizeof(name), "foreshadow %s %s", m->name, what);
	PGconn *conn = pg_connect(&m->source, PG_REPLICATION, name, f);
	if (!conn)
		say_right(f);
	return conn;
}

static bool read_identity(struct source *s, struct fault *f)
{
	struct source_identity *id = &s->identity;
	PGresult *r = pg_query(s->conn, f, "IDENTIFY_SYSTEM");

	if (!r)
		return fault_in(f, "source: IDENTIFY_SYSTEM");
	if (PQntuples(r) == 1 && PQnfields(r) >= 4) {
		id->system_id = strtoull(PQgetvalue(r, 0, 0), NULL, 10);
		id->timeline = (uint32_t)pg_i64(r, 0, 1);
		lsn_parse(pg_value(r, 0, 2), &id->wal_position);
		s->database = strdup(PQgetvalue(r, 0, 3));
	}
	PQclear(r);
	if (!id->system_id || !s->database)
		return fault(f, FAULT_INPUT, "source: IDENTIFY_SYSTEM gave no system identifier");
	id->database = s->database;
	id->version_num = PQserverVersion(s->conn);
	r = pg_query(s->conn, f, "SELECT setting FROM pg_catalog.pg_settings WHERE name = "
				 "'wal_sender_timeout'");
	if (!r)
		return fault_in(f, "source: wal_sender_timeout");
	id->wal_sender_timeout_ms = PQntuples(r) ? (int)pg_i64(r, 0, 0) : 0;
	PQclear(r);
	return true;
}

/* Both ends of the connection have one address: a server on this host, and not by a Unix socket. */
static bool is_on_this_host(int fd)
{
	struct sockaddr_storage here, there;
	socklen_t here_n = sizeof(here), there_n = sizeof(there);

	if (getsockname(fd, (struct sockaddr *)&here, &here_n) != 0 ||
	    getpeername(fd, (struct sockaddr *)&there, &there_n) != 0 || here.ss_family != there.ss_family)
		return false;
	if (here.ss_family == AF_INET)
		return ((struct sockaddr_in *)&here)->sin_addr.s_addr == ((struct sockaddr_in *)&there)->sin_addr.s_addr;
	return here.ss_family == AF_INET6 &&
	       memcmp(&((struct sockaddr_in6 *)&here)->sin6_addr, &((struct sockaddr_in6 *)&there)->sin6_addr,
		      sizeof(struct in6_addr)) == 0;
}

/*
 * A walsender sends each message by itself: three for a transaction of one row. On the loopback interface each
 * goes all the way through the kernel at once, which costs the walsender more than decoding; on a network card the
 * kernel gathers them (tcp_autocorking). A receive buffer that is full does the same: what is sent then only joins
 * what waits. So it is kept small there, where a full one is refilled at once; with a network between it would
 * bound the rate to one buffer per round trip. From the beginning: what a larger one had room for would be dropped.
 */
static void expect_near(struct source *s)
{
	int bytes = NEAR_BUFFER_BYTES;

	s->is_near = is_on_this_host(PQsocket(s->conn)) &&
		     setsockopt(PQsocket(s->conn), SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)) == 0;
}

struct source *source_new(const struct migration *m, struct fault *f)
{
	struct source *s = calloc(1, sizeof(*s));

	if (!s) {
		fault(f, FAULT_INTERNAL, "no memory for the source");
		return NULL;
	}
	s->m = m;
	s->lowat_bytes = 1;
	s->conn = connect_walsender(m, "ingest", f);
	if (s->conn)
		expect_near(s);
	if (s->conn && read_identity(s, f))
		return s;
	source_free(s);
	return NULL;
}

void source_free(struct source *s)
{
	if (!s)
		return;
	PQfreemem(s->held);
	pg_close(&s->conn);
	free(s->database);
	free(s);
}

const struct source_identity *source_identify(const struct source *s)
{
	return &s->identity;
}

int source_pid(const struct source *s)
{
	return PQbackendPID(s->conn);
}

int source_fd(const struct source *s)
{
	return PQsocket(s->conn);
}

bool source_wants_write(const struct source *s)
{
	return s->wants_write;
}

bool source_slot_create(struct source *s, int stop_fd, struct boundary *ret_point, struct fault *f)
{
	PGresult *r = NULL;
	bool ok = create_slot(s->conn, s->m->slot, "LOGICAL pgoutput NOEXPORT_SNAPSHOT", stop_fd, &r,
			      ret_point, f);
	PQclear(r);
	return ok;
}

/* Who has the slot? Nobody any more: worth another try. */
static bool slot_is_active(struct source *s, struct fault *f)
{
	struct buf sql;
	char pid[16] = "?", who[256] = "?";

	buf_init(&sql, STATEMENT_BYTES);
	buf_str(&sql, "SELECT s.active_pid, pg_catalog.concat(a.application_name, ', from ', "
		      "coalesce(pg_catalog.host(a.client_addr), 'a local socket')) "
		      "FROM pg_catalog.pg_replication_slots s LEFT JOIN "
		      "pg_catalog.pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = ");
	pg_quote_literal(&sql, span_str(s->m->slot));
	PGresult *r = pg_query(s->conn, NULL, buf_cstr(&sql));
	buf_release(&sql);
	bool is_gone = r && PQntuples(r) == 1 && PQgetisnull(r, 0, 0);
	if (r && PQntuples(r) == 1 && !is_gone) {
		snprintf(pid, sizeof(pid), "%s", PQgetvalue(r, 0, 0));
		snprintf(who, sizeof(who), "%s", PQgetvalue(r, 0, 1));
	}
	PQclear(r);
	if (is_gone)
		fault(f, FAULT_ENVIRONMENT, "source: the replication slot %s was active a moment ago",
		      s->m->slot);
	else
		fault(f, FAULT_STOP,
		      "source: the replication slot %s is active for pid %s (%s), wanted: free; next "
		      "step: stop that other ingest, or SELECT pg_terminate_backend(%s) if it is a "
		      "leftover", s->m->slot, pid, who, pid);
	if (f)
		snprintf(f->sqlstate, sizeof(f->sqlstate), "55006");
	return false;
}

static void write_start(const struct source *s, bool binary, struct buf *sql)
{
	struct buf names;

	/* The option's value is itself a list of identifiers. */
	buf_init(&names, STATEMENT_BYTES);
	pg_quote_ident(&names, span_str(s->m->publication));
	buf_str(sql, "START_REPLICATION SLOT ");
	pg_quote_ident(sql, span_str(s->m->slot));
	buf_str(sql, " LOGICAL 0/0 (proto_version '1', publication_names ");
	pg_quote_literal(sql, buf_span(&names));
	buf_str(sql, ", messages 'true'");
	if (binary)
		buf_str(sql, ", binary 'true'");
	buf_str(sql, ")");
	buf_release(&names);
}

bool source_start(struct source *s, bool binary, struct fault *f)
{
	struct fault why = { 0 };
	struct buf sql;

	buf_init(&sql, STATEMENT_BYTES);
	write_start(s, binary, &sql);
	PGresult *r = pg_query(s->conn, &why, buf_cstr(&sql));
	bool is_started = PQresultStatus(r) == PGRES_COPY_BOTH;
	PQclear(r);
	buf_release(&sql);
	if (!is_started) {
		if (strcmp(why.sqlstate, "55006") == 0)
			return slot_is_active(s, f);
		if (f)
			*f = why;
		return fault_in(f, "source: START_REPLICATION of the slot %s", s->m->slot);
	}
	if (PQsetnonblocking(s->conn, 1) != 0)
		return pg_fault(s->conn, NULL, f);
	return true;
}

/* The stream ended: with an error, or in good order because the server shuts down. */
static enum source_got ended(struct source *s, struct fault *f)
{
	PGresult *r = PQgetResult(s->conn);

	if (r && PQresultStatus(r) != PGRES_FATAL_ERROR)
		fault(f, FAULT_ENVIRONMENT, "the server ended the stream");
	else
		pg_fault(s->conn, r, f);
	PQclear(r);
	/* A WAL segment or snapshot file that the slot needs and that is gone will not come back. */
	if (f && strcmp(f->sqlstate, "58P01") == 0)
		f->kind = FAULT_LOST;
	fault_in(f, "source: stream of the slot %s", s->m->slot);
	return SOURCE_FAILED;
}

static enum source_got read_copydata(struct span m, struct source_message *ret, struct fault *f)
{
	struct cursor c = cursor(m);
	char kind = (char)cursor_u8(&c);

	*ret = (struct source_message) { 0 };
	if (kind == 'w') {
		ret->lsn = cursor_u64(&c);
		ret->wal_end = cursor_u64(&c);
		cursor_i64(&c);
		ret->payload = cursor_bytes(&c, cursor_left(&c));
	} else if (kind == 'k') {
		ret->wal_end = cursor_u64(&c);
		cursor_i64(&c);
		ret->reply_requested = cursor_u8(&c) & 1;
	} else {
		c.cut = true;
	}
	if (!c.cut)
		return kind == 'w' ? SOURCE_DATA : SOURCE_KEEPALIVE;
	fault(f, FAULT_INPUT, "source: stream message 0x%02x of %zu bytes, wanted XLogData or keepalive",
	      (unsigned char)kind, m.n);
	return SOURCE_FAILED;
}

enum source_got source_receive(struct source *s, struct source_message *ret, struct fault *f)
{
	if (s->held) {
		PQfreemem(s->held);
		s->held = NULL;
	}
	int n = PQgetCopyData(s->conn, &s->held, 1);
	if (n == 0) {
		if (!PQconsumeInput(s->conn)) {
			pg_fault(s->conn, NULL, f);
			fault_in(f, "source: stream of the slot %s", s->m->slot);
			return SOURCE_FAILED;
		}
		n = PQgetCopyData(s->conn, &s->held, 1);
	}
	if (n == 0)
		return SOURCE_NOTHING;
	if (n < 0)
		return ended(s, f);
	return read_copydata(span(s->held, (size_t)n), ret, f);
}

bool source_flush(struct source *s, struct fault *f)
{
	int left = PQflush(s->conn);

	if (left < 0) {
		pg_fault(s->conn, NULL, f);
		return fault_in(f, "source: feedback of the slot %s", s->m->slot);
	}
	s->wants_write = left > 0;
	return true;
}

bool source_feedback(struct source *s, struct boundary x, bool want_reply, struct fault *f)
{
	struct __attribute__((packed)) {
		char kind;
		uint64_t written, flushed, applied, time_us;
		uint8_t reply;
	} status = {
		.kind = 'r',
		.written = htobe64(x.v),
		.flushed = htobe64(x.v),
		.applied = htobe64(x.v),
		.time_us = htobe64((uint64_t)(clock_wall_us() - EPOCH_2000_US)),
		.reply = want_reply,
	};

	/* 0: libpq's buffer is full of older ones; the next feedback says the same or more. */
	if (PQputCopyData(s->conn, (const char *)&status, sizeof(status)) < 0) {
		pg_fault(s->conn, NULL, f);
		return fault_in(f, "source: feedback of the slot %s", s->m->slot);
	}
	return source_flush(s, f);
}

int source_rest_ms(const struct source *s, int messages)
{
	return s->is_near && messages >= NEAR_MANY_MESSAGES ? NEAR_REST_MS : 0;
}

void source_wake_late(struct source *s, bool is_late)
{
	int bytes = !is_late ? 1 : s->is_near ? NEAR_LOWAT_BYTES : FAR_LOWAT_BYTES;

	if (PQsslInUse(s->conn) && bytes > TLS_LOWAT_BYTES)
		bytes = TLS_LOWAT_BYTES;
	if (bytes == s->lowat_bytes)
		return;
	/* Refused: we wake more often, nothing else. */
	setsockopt(PQsocket(s->conn), SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof(bytes));
	s->lowat_bytes = bytes;
}

bool source_point_init(struct source_point *p, const struct migration *m, int stop_fd,
		       struct fault *f)
{
	char slot[64];
	PGresult *r = NULL;

	*p = (struct source_point) { 0 };
	p->conn = connect_walsender(m, "point", f);
	if (!p->conn)
		return false;
	snprintf(slot, sizeof(slot), "foreshadow_point_%d", PQbackendPID(p->conn));
	if (create_slot(p->conn, slot, "TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT", stop_fd, &r,
			&p->point, f))
		p->snapshot = strdup(PQgetvalue(r, 0, 2));
	if (r && !p->snapshot && f && f->kind == FAULT_NONE)
		fault(f, FAULT_INTERNAL, "no memory for a snapshot's name");
	PQclear(r);
	if (p->snapshot)
		return true;
	source_point_release(p);
	return false;
}

void source_point_release(struct source_point *p)
{
	pg_close(&p->conn);
	free(p->snapshot);
	p->snapshot = NULL;
}
