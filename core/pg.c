// SPDX-License-Identifier: Apache-2.0
/*
 * pg - connecting is done by PQconnectPoll, not PQconnectdb, for one reason: only so can the error
 * verbosity be raised before the server refuses us, and only the verbose text has the SQLSTATE that
 * tells a wrong password from a server that is starting up in any language.
 *
 * Settings are pinned by one SELECT of set_config() after connecting: `options` would collide with
 * the user's own, and a walsender before PostgreSQL 15 takes one statement at a time.
 */
#include "core/pg.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/buf.h"
#include "core/clock.h"
#include "core/log.h"

enum {
	PG_CONNECT_TIMEOUT_S = 10,
	PG_KEYWORDS_MAX = 16,
	PG_SLOW_MS = 5000, /* a wait longer than this is worth a line */
};

static const struct pg_pin {
	const char *name, *value;
	int since_version;
} pins[] = {
	{ "DateStyle", "ISO, YMD", 0 },
	{ "TimeZone", "UTC", 0 },
	{ "IntervalStyle", "postgres", 0 },
	{ "extra_float_digits", "3", 0 },
	{ "bytea_output", "hex", 0 },
	{ "lc_monetary", "C", 0 },
	{ "lc_numeric", "C", 0 }, /* these three: for expressions of the user */
	{ "lc_time", "C", 0 },
	{ "default_text_search_config", "pg_catalog.simple", 0 },
	{ "xmloption", "content", 0 }, /* a fragment must go in and out, too */
	{ "standard_conforming_strings", "on", 0 },
	{ "array_nulls", "on", 0 },
	{ "search_path", "", 0 },
	{ "row_security", "off", 0 }, /* an error instead of rows that are silently not seen */
	{ "client_min_messages", "warning", 0 },
	{ "default_transaction_isolation", "read committed", 0 },
	{ "statement_timeout", "0", 0 },
	{ "lock_timeout", "0", 0 },
	{ "idle_in_transaction_session_timeout", "0", 0 },
	{ "idle_session_timeout", "0", 140000 },
	{ "transaction_timeout", "0", 170000 },
	{ "jit", "off", 0 }, /* our statements are many and small */
};

/* Longest code first where one is the beginning of another. */
static const struct pg_state_row {
	const char *prefix;
	enum fault_kind kind;
	const char *step; /* what to do about it, or NULL */
} state_rows[] = {
	{ "FS001", FAULT_FENCED, NULL },
	{ "08", FAULT_ENVIRONMENT, NULL },
	{ "25006", FAULT_ENVIRONMENT,
	  "promote the server if it is a standby, or reset its default_transaction_read_only" },
	{ "25P03", FAULT_ENVIRONMENT, NULL }, /* idle in transaction timeout */
	{ "25P04", FAULT_ENVIRONMENT, NULL }, /* transaction timeout */
	{ "26000", FAULT_ENVIRONMENT, NULL }, /* prepared statement gone: a new connection helps */
	{ "28P01", FAULT_STOP,
	  "give the right password by ${VAR} in the URI, PGPASSFILE or a service file" },
	{ "28", FAULT_STOP, "check user, database and pg_hba.conf of that server" },
	{ "3D000", FAULT_STOP, "create the database or correct its name" },
	{ "3F000", FAULT_STOP, NULL },
	{ "40002", FAULT_DATA, NULL }, /* a constraint, not a rollback to be retried */
	{ "40", FAULT_ENVIRONMENT, NULL },
	{ "42501", FAULT_STOP, "grant the right named in the message to that user" },
	{ "42P01", FAULT_STOP, NULL },
	{ "42703", FAULT_STOP, NULL },
	{ "42704", FAULT_STOP, NULL },
	{ "42883", FAULT_STOP, NULL },
	{ "53100", FAULT_ENVIRONMENT, "make room on that server's disk" },
	{ "53300", FAULT_ENVIRONMENT, "raise that server's max_connections, or end sessions on it" },
	{ "53", FAULT_ENVIRONMENT, NULL },
	{ "55000", FAULT_STOP, NULL },        /* a setting (wal_level) or identity is missing */
	{ "55006", FAULT_ENVIRONMENT, NULL }, /* object in use: an active slot */
	{ "55P03", FAULT_ENVIRONMENT, NULL },
	{ "57P04", FAULT_STOP, NULL }, /* the database was dropped */
	{ "57", FAULT_ENVIRONMENT, NULL },
	{ "58", FAULT_ENVIRONMENT, NULL },
	{ "XX001", FAULT_STOP, NULL }, /* data corrupted */
	{ "XX002", FAULT_STOP, NULL }, /* index corrupted */
};

static const struct pg_state_row *pg_state(const char *sqlstate)
{
	for (size_t i = 0; i < sizeof(state_rows) / sizeof(*state_rows); i++)
		if (strncmp(sqlstate, state_rows[i].prefix, strlen(state_rows[i].prefix)) == 0)
			return &state_rows[i];
	return NULL;
}

enum fault_kind pg_fault_kind(const char *sqlstate)
{
	const struct pg_state_row *row = pg_state(sqlstate);

	return row ? row->kind : FAULT_DATA;
}

/* libpq's messages end in a newline and may have several lines: one line, joined by "; ". */
static void pg_one_line(struct buf *b, const char *text)
{
	size_t start = b->n;

	for (const char *line = text; *line;) {
		size_t n = strcspn(line, "\n");

		/* What PQERRORS_VERBOSE adds: a place in the server's source. */
		if (n > 0 && strncmp(line, "LOCATION:", 9) != 0) {
			if (b->n > start)
				buf_str(b, "; ");
			buf_add(b, line, n);
		}
		line += n + (line[n] != 0);
	}
}

static void pg_set_sqlstate(struct fault *f, const char *sqlstate)
{
	if (f && sqlstate)
		snprintf(f->sqlstate, sizeof(f->sqlstate), "%s", sqlstate);
}

static void pg_add_field(struct buf *b, const PGresult *r, int field, const char *label)
{
	const char *text = PQresultErrorField(r, field);

	if (!text || !*text)
		return;
	buf_printf(b, "; %s: ", label);
	pg_one_line(b, text);
}

static bool pg_fault_result(const PGresult *r, const char *sqlstate, struct fault *f)
{
	const struct pg_state_row *row = pg_state(sqlstate);
	struct buf b;

	buf_init(&b, 1 << 20);
	pg_one_line(&b, PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY) ?: "no message");
	buf_printf(&b, " (SQLSTATE %s)", sqlstate);
	pg_add_field(&b, r, PG_DIAG_MESSAGE_DETAIL, "detail");
	pg_add_field(&b, r, PG_DIAG_MESSAGE_HINT, "hint");
	pg_add_field(&b, r, PG_DIAG_CONTEXT, "context");
	if (row && row->step)
		buf_printf(&b, "; next step: %s", row->step);
	fault(f, pg_fault_kind(sqlstate), "%s", buf_cstr(&b));
	pg_set_sqlstate(f, sqlstate);
	buf_release(&b);
	return false;
}

bool pg_fault(PGconn *conn, const PGresult *result, struct fault *f)
{
	const char *sqlstate = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;
	struct buf b;

	if (sqlstate)
		return pg_fault_result(result, sqlstate, f);
	buf_init(&b, 1 << 20);
	pg_one_line(&b, result && *PQresultErrorMessage(result) ? PQresultErrorMessage(result)
								: PQerrorMessage(conn));
	if (PQstatus(conn) == CONNECTION_BAD)
		fault(f, FAULT_ENVIRONMENT, "connection to %s port %s, database %s, lost: %s",
		      PQhost(conn) ?: "?", PQport(conn) ?: "?", PQdb(conn) ?: "?",
		      b.n ? buf_cstr(&b) : "no reason given");
	else if (result && PQresultStatus(result) == PGRES_PIPELINE_ABORTED)
		fault(f, FAULT_DATA, "not run: an earlier statement of the pipeline failed");
	else if (result && b.n == 0)
		fault(f, FAULT_INTERNAL, "unexpected answer of the server: %s",
		      PQresStatus(PQresultStatus(result)));
	else
		fault(f, FAULT_ENVIRONMENT, "%s", b.n ? buf_cstr(&b) : "libpq gave no reason");
	buf_release(&b);
	return false;
}

static void pg_notice(void *arg, const PGresult *r)
{
	(void)arg;
	log_debug("postgres: %s", PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY) ?: "notice");
}

/* "…FATAL:  28P01: password…" → 28P01, or "". The level word is translated, the code is not. */
static void pg_find_sqlstate(const char *message, char ret_sqlstate[6])
{
	static const char code[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";

	ret_sqlstate[0] = 0;
	for (const char *p = strstr(message, ":  "); p; p = strstr(p + 1, ":  "))
		if (strspn(p + 3, code) == 5 && strncmp(p + 8, ": ", 2) == 0) {
			memcpy(ret_sqlstate, p + 3, 5);
			ret_sqlstate[5] = 0; /* of the last host tried, so no break */
		}
}

static bool pg_fault_connect(PGconn *conn, const struct pg_server *s, const char *reason,
			     struct fault *f)
{
	const char *message = reason ? reason : PQerrorMessage(conn), *step = NULL;
	enum fault_kind kind = FAULT_ENVIRONMENT;
	char sqlstate[6];
	struct buf b;

	pg_find_sqlstate(message, sqlstate);
	if (*sqlstate) {
		const struct pg_state_row *row = pg_state(sqlstate);

		kind = row ? row->kind : FAULT_STOP;
		step = row ? row->step : NULL;
	} else if (PQconnectionNeedsPassword(conn)) {
		kind = FAULT_STOP;
		step = pg_state("28P01")->step;
	}
	if (!step && kind == FAULT_ENVIRONMENT)
		step = "check that the server runs and can be reached from here";
	buf_init(&b, 1 << 16);
	pg_one_line(&b, message);
	fault(f, kind, "cannot connect to the %s (host %s, port %s, database %s, user %s): %s%s%s",
	      s->name, PQhost(conn) ?: "?", PQport(conn) ?: "?", PQdb(conn) ?: "?",
	      PQuser(conn) ?: "?", buf_cstr(&b), step ? "; next step: " : "", step ? step : "");
	pg_set_sqlstate(f, sqlstate);
	buf_release(&b);
	return false;
}

/*
 * PQconnectPoll leaves connect_timeout to its caller. Here it is one deadline for all hosts of the
 * URI together; tcp_user_timeout sees to it that one of them that drops packets does not use it up.
 */
static int pg_connect_timeout_ms(PGconn *conn)
{
	PQconninfoOption *options = PQconninfo(conn);
	int seconds = PG_CONNECT_TIMEOUT_S, hosts = 1;

	for (PQconninfoOption *o = options; o && o->keyword; o++) {
		if (!o->val)
			continue;
		if (strcmp(o->keyword, "connect_timeout") == 0 && atoi(o->val) > 0)
			seconds = atoi(o->val);
		if (strcmp(o->keyword, "host") == 0)
			for (const char *p = o->val; *p; p++)
				hosts += *p == ',';
	}
	PQconninfoFree(options);
	if (seconds > 600)
		seconds = 600;
	return seconds * 1000 * (hosts < 16 ? hosts : 16);
}

static bool pg_connect_wait(PGconn *conn, const struct pg_server *s, struct fault *f)
{
	int64_t deadline_us = clock_us() + (int64_t)pg_connect_timeout_ms(conn) * 1000;
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	while (status != PGRES_POLLING_OK) {
		int64_t left_ms = (deadline_us - clock_us()) / 1000;

		if (PQstatus(conn) == CONNECTION_BAD || status == PGRES_POLLING_FAILED)
			return pg_fault_connect(conn, s, NULL, f);
		if (left_ms <= 0)
			return pg_fault_connect(conn, s, "no answer in time", f);
		struct pollfd p = { .fd = PQsocket(conn),
				    .events = status == PGRES_POLLING_READING ? POLLIN : POLLOUT };
		if (poll(&p, 1, (int)left_ms) == 0)
			continue;
		status = PQconnectPoll(conn);
	}
	return true;
}

static bool pg_pin(PGconn *conn, struct fault *f)
{
	struct buf sql;
	bool ok;

	buf_init(&sql, 1 << 16);
	/* lc_messages is a superuser's: asked for only where it is allowed. */
	buf_str(&sql, "SELECT CASE WHEN pg_catalog.current_setting('is_superuser') = 'on' THEN "
		      "pg_catalog.set_config('lc_messages', 'C', false) END");
	for (size_t i = 0; i < sizeof(pins) / sizeof(*pins); i++)
		if (PQserverVersion(conn) >= pins[i].since_version)
			buf_printf(&sql, ", pg_catalog.set_config('%s', '%s', false)", pins[i].name,
				   pins[i].value);
	ok = pg_do(conn, f, buf_cstr(&sql));
	buf_release(&sql);
	return ok || fault_in(f, "pinning the session's settings");
}

struct pg_keywords {
	const char *names[PG_KEYWORDS_MAX + 1], *values[PG_KEYWORDS_MAX + 1];
	size_t n;
};

static void pg_keyword(struct pg_keywords *k, const char *name, const char *value)
{
	if (!value)
		return;
	k->names[k->n] = name;
	k->values[k->n++] = value;
}

/* Before the URI: defaults that it may change. After it: what is ours. libpq takes the last. */
static PGconn *pg_connect_start(const struct pg_server *s, enum pg_mode mode,
				const char *application_name)
{
	struct pg_keywords k = { .n = 0 };

	pg_keyword(&k, "keepalives_idle", "30");
	pg_keyword(&k, "keepalives_interval", "10");
	pg_keyword(&k, "keepalives_count", "3");
	pg_keyword(&k, "tcp_user_timeout", "30000");
	pg_keyword(&k, "dbname", s->uri);
	pg_keyword(&k, "dbname", s->dbname);
	pg_keyword(&k, "client_encoding", "UTF8");
	pg_keyword(&k, "application_name", application_name);
	pg_keyword(&k, "replication", mode == PG_REPLICATION ? "database" : NULL);
	return PQconnectStartParams(k.names, k.values, 1);
}

PGconn *pg_connect(const struct pg_server *s, enum pg_mode mode, const char *application_name,
		   struct fault *f)
{
	PQconninfoOption *parsed = PQconninfoParse(s->uri, NULL);
	PGconn *conn;

	/* libpq's own words would show the place, and that may be in a password. */
	if (!parsed) {
		fault(f, FAULT_USAGE, "%s: libpq cannot read its connection string", s->name);
		return NULL;
	}
	PQconninfoFree(parsed);
	conn = pg_connect_start(s, mode, application_name);
	if (!conn) {
		fault(f, FAULT_INTERNAL, "%s: out of memory while connecting", s->name);
		return NULL;
	}
	PQsetErrorVerbosity(conn, PQERRORS_VERBOSE);
	PQsetNoticeReceiver(conn, pg_notice, NULL);
	if (!pg_connect_wait(conn, s, f))
		goto failed;
	PQsetErrorVerbosity(conn, PQERRORS_DEFAULT);
	if (!pg_pin(conn, f)) {
		fault_in(f, "%s", s->name);
		goto failed;
	}
	return conn;
failed:
	PQfinish(conn);
	return NULL;
}

void pg_close(PGconn **conn)
{
	PQfinish(*conn);
	*conn = NULL;
}

static PGresult *pg_checked(PGconn *conn, PGresult *r, struct fault *f)
{
	switch (PQresultStatus(r)) {
	case PGRES_EMPTY_QUERY:
	case PGRES_COMMAND_OK:
	case PGRES_TUPLES_OK:
	case PGRES_COPY_OUT:
	case PGRES_COPY_IN:
	case PGRES_COPY_BOTH:
	case PGRES_SINGLE_TUPLE:
	case PGRES_PIPELINE_SYNC:
		return r;
	case PGRES_BAD_RESPONSE:
	case PGRES_NONFATAL_ERROR:
	case PGRES_FATAL_ERROR:
	case PGRES_PIPELINE_ABORTED:
		break;
	}
	pg_fault(conn, r, f);
	PQclear(r);
	return NULL;
}

PGresult *pg_query(PGconn *conn, struct fault *f, const char *sql)
{
	return pg_checked(conn, PQexec(conn, sql), f);
}

PGresult *pg_query_params(PGconn *conn, struct fault *f, const char *sql, int n,
			  const char *const *values)
{
	return pg_checked(conn, PQexecParams(conn, sql, n, NULL, values, NULL, NULL, 0), f);
}

static bool pg_is_readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return fd >= 0 && poll(&p, 1, 0) > 0;
}

static void pg_cancel(PGconn *conn)
{
	char error[256];
	PGcancel *c = PQgetCancel(conn);

	if (!c)
		return;
	PQcancel(c, error, sizeof(error));
	PQfreeCancel(c);
}

struct pg_patience {
	int stop_fd;
	const char *slow;
	int64_t started_us;
	bool has_said;
};

/* Until the connection's next result can be taken without waiting. */
static bool pg_await(PGconn *conn, struct pg_patience *p, struct fault *f)
{
	while (PQisBusy(conn)) {
		if (!pg_wait(conn, false, p->stop_fd, p->has_said ? -1 : PG_SLOW_MS, f))
			return false;
		if (pg_is_readable(p->stop_fd)) {
			pg_cancel(conn);
			return fault(f, FAULT_ENVIRONMENT, "stopped while waiting: %s", p->slow);
		}
		if (!PQconsumeInput(conn))
			return pg_fault(conn, NULL, f);
		if (!p->has_said && PQisBusy(conn) &&
		    clock_us() - p->started_us >= PG_SLOW_MS * INT64_C(1000)) {
			log_info("%s", p->slow);
			p->has_said = true;
		}
	}
	return true;
}

PGresult *pg_query_until(PGconn *conn, const char *sql, int stop_fd, const char *slow,
			 struct fault *f)
{
	struct pg_patience patience = { stop_fd, slow, clock_us(), false };
	PGresult *r = NULL, *more;

	if (!PQsendQuery(conn, sql))
		return pg_checked(conn, NULL, f);
	for (;;) {
		if (!pg_await(conn, &patience, f)) {
			PQclear(r);
			return NULL;
		}
		more = PQgetResult(conn);
		if (!more)
			return pg_checked(conn, r, f);
		PQclear(r); /* several statements: an error is the last result */
		r = more;
	}
}

bool pg_send(PGconn *conn, struct fault *f, const char *sql)
{
	return PQsendQuery(conn, sql) || pg_fault(conn, NULL, f);
}

bool pg_take(PGconn *conn, PGresult **ret, int n, struct fault *f)
{
	PGresult *r;
	bool ok = true;
	int taken = 0;

	while ((r = PQgetResult(conn))) {
		r = ok ? pg_checked(conn, r, f) : (PQclear(r), NULL);
		ok = r != NULL;
		if (ok && taken < n)
			ret[taken++] = r;
		else
			PQclear(r);
	}
	if (ok && taken < n)
		ok = pg_fault(conn, NULL, f);
	while (!ok && taken > 0)
		PQclear(ret[--taken]);
	return ok;
}

bool pg_do(PGconn *conn, struct fault *f, const char *sql)
{
	PGresult *r = pg_query(conn, f, sql);
	bool ok = r != NULL;

	PQclear(r);
	return ok;
}

bool pg_may_be_replica(PGconn *conn, bool *ret, struct fault *f)
{
	PGresult *r = pg_query(conn, f,
			       "SELECT current_setting('session_replication_role') = 'replica' OR"
			       " has_parameter_privilege('session_replication_role', 'SET')");

	*ret = r && PQgetvalue(r, 0, 0)[0] == 't';
	PQclear(r);
	return r != NULL;
}

bool pg_dof(PGconn *conn, struct fault *f, const char *format, ...)
{
	char *sql = NULL;
	va_list args;
	bool ok;
	int n;

	va_start(args, format);
	n = vasprintf(&sql, format, args);
	va_end(args);
	if (n < 0)
		return fault(f, FAULT_INTERNAL, "out of memory for a statement");
	ok = pg_do(conn, f, sql);
	free(sql);
	return ok;
}

static void pg_quote(struct buf *b, struct span s, char quote)
{
	buf_u8(b, (uint8_t)quote);
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] == quote)
			buf_u8(b, (uint8_t)quote);
		buf_u8(b, (uint8_t)s.p[i]);
	}
	buf_u8(b, (uint8_t)quote);
}

void pg_quote_ident(struct buf *b, struct span name)
{
	pg_quote(b, name, '"');
}

void pg_quote_literal(struct buf *b, struct span text)
{
	pg_quote(b, text, '\'');
}

void pg_quote_table(struct buf *b, struct span schema, struct span table)
{
	pg_quote_ident(b, schema);
	buf_u8(b, '.');
	pg_quote_ident(b, table);
}

void pg_array_begin(struct buf *b)
{
	buf_u8(b, '{');
}

void pg_array_add(struct buf *b, struct span element)
{
	const struct span before = buf_span(b);

	if (before.n && before.p[before.n - 1] != '{')
		buf_u8(b, ',');
	if (!element.p) {
		buf_str(b, "NULL");
		return;
	}
	buf_u8(b, '"');
	for (size_t i = 0; i < element.n; i++) {
		if (element.p[i] == '"' || element.p[i] == '\\')
			buf_u8(b, '\\');
		buf_u8(b, (uint8_t)element.p[i]);
	}
	buf_u8(b, '"');
}

void pg_array_end(struct buf *b)
{
	buf_u8(b, '}');
}

void pg_bytea(struct buf *b, struct span bytes)
{
	static const char digits[] = "0123456789abcdef";

	buf_str(b, "\\x");
	for (size_t i = 0; i < bytes.n; i++) {
		buf_u8(b, (uint8_t)digits[(uint8_t)bytes.p[i] >> 4]);
		buf_u8(b, (uint8_t)digits[(uint8_t)bytes.p[i] & 15]);
	}
}

struct span pg_value(const PGresult *r, int row, int column)
{
	if (PQgetisnull(r, row, column))
		return span(NULL, 0);
	return span(PQgetvalue(r, row, column), (size_t)PQgetlength(r, row, column));
}

int64_t pg_i64(const PGresult *r, int row, int column)
{
	return PQgetisnull(r, row, column) ? 0 : strtoll(PQgetvalue(r, row, column), NULL, 10);
}

bool pg_wait(PGconn *conn, bool for_write, int fd, int timeout_ms, struct fault *f)
{
	struct pollfd p[2] = {
		{ .fd = PQsocket(conn), .events = (short)(POLLIN | (for_write ? POLLOUT : 0)) },
		{ .fd = fd, .events = POLLIN }, /* poll passes over a negative one */
	};

	if (p[0].fd < 0)
		return pg_fault(conn, NULL, f);
	if (poll(p, 2, timeout_ms) < 0 && errno != EINTR)
		return fault(f, FAULT_INTERNAL, "poll: %s", strerror(errno));
	if (p[0].revents & POLLNVAL)
		return pg_fault(conn, NULL, f);
	/* An error or hang-up is for PQconsumeInput to find: it has the words for it. */
	return true;
}
