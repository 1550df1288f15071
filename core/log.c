// SPDX-License-Identifier: Apache-2.0
/*
 * log - the line is made in full, then cleaned of secrets, then cut to its maximum: a cut must not
 * leave half of a password that no longer looks like one.
 */
#include "core/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/buf.h"
#include "core/clock.h"

enum {
	LOG_LINE_MAX = 16384,
	/* A secret of one or two letters would star out every line and so tell what it is. */
	LOG_SECRET_MIN = 4,
};

struct log_secret {
	struct log_secret *next;
	size_t n;
	char text[];
};

static _Atomic int log_level = LOG_LEVEL_INFO;
static atomic_bool log_json;
static _Thread_local char log_role[48];

/* Secrets are only ever added, so readers need no lock; the mutex orders the writers. */
static struct log_secret *_Atomic log_secrets;
static pthread_mutex_t log_secrets_lock = PTHREAD_MUTEX_INITIALIZER;

static const struct log_level_row {
	const char *text, *json;
} level_rows[] = {
	[LOG_LEVEL_ERROR] = { "ERROR", "error" },
	[LOG_LEVEL_WARN] = { "WARN ", "warn" },
	[LOG_LEVEL_INFO] = { "INFO ", "info" },
	[LOG_LEVEL_DEBUG] = { "DEBUG", "debug" },
};

void log_set(enum log_level level, bool json)
{
	log_level = (int)level;
	log_json = json;
}

void log_thread(const char *role)
{
	snprintf(log_role, sizeof(log_role), "%s", role ? role : "");
}

void log_secret(const char *secret)
{
	size_t n = secret ? strlen(secret) : 0;
	struct log_secret *s;

	if (n < LOG_SECRET_MIN)
		return;
	pthread_mutex_lock(&log_secrets_lock);
	for (s = log_secrets; s; s = s->next)
		if (s->n == n && memcmp(s->text, secret, n) == 0)
			goto done;
	s = malloc(sizeof(*s) + n + 1);
	if (!s)
		goto done;
	s->n = n;
	memcpy(s->text, secret, n + 1);
	s->next = log_secrets;
	log_secrets = s;
done:
	pthread_mutex_unlock(&log_secrets_lock);
}

/*
 * Bytes of the longest secret that starts at text (n left), or 0. The beginning of one at the very
 * end counts too: a fault's text is cut at its maximum before it comes here.
 */
static size_t log_secret_at(const char *text, size_t n)
{
	size_t longest = 0;

	for (struct log_secret *s = log_secrets; s; s = s->next) {
		size_t seen = s->n < n ? s->n : n;

		if (seen >= LOG_SECRET_MIN && seen > longest && memcmp(text, s->text, seen) == 0)
			longest = seen;
	}
	return longest;
}

void log_redact(char *text)
{
	size_t n = strlen(text);
	char *to = text;

	if (!log_secrets)
		return;
	for (size_t i = 0; i < n;) {
		size_t hit = log_secret_at(text + i, n - i);

		if (hit == 0) {
			*to++ = text[i++];
			continue;
		}
		to = (char *)memcpy(to, "***", 3) + 3;
		i += hit;
	}
	*to = 0;
}

static void log_add_json_string(struct buf *b, const char *s)
{
	buf_u8(b, '"');
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c == '"' || c == '\\')
			buf_printf(b, "\\%c", c);
		else if (c < 0x20 || c == 0x7f)
			buf_printf(b, "\\u%04x", c);
		else
			buf_u8(b, c);
	}
	buf_u8(b, '"');
}

static void log_add_json(struct buf *b, enum log_level level, const char *time, const char *text)
{
	buf_printf(b, "{\"time\":\"%s\",\"level\":\"%s\",\"role\":", time, level_rows[level].json);
	log_add_json_string(b, log_role);
	buf_str(b, ",\"message\":");
	log_add_json_string(b, text);
	buf_str(b, "}\n");
}

/* One event is one line: what a server's message has of newlines and control bytes is a blank. */
static void log_add_text(struct buf *b, enum log_level level, const char *time, const char *text)
{
	buf_printf(b, "%s %s %s%s", time, level_rows[level].text, log_role, *log_role ? ": " : "");
	for (const char *s = text; *s; s++)
		buf_u8(b, (unsigned char)*s < 0x20 || *s == 0x7f ? ' ' : (uint8_t)*s);
	buf_u8(b, '\n');
}

static void log_write(struct span line)
{
	while (line.n > 0) {
		ssize_t n = write(STDERR_FILENO, line.p, line.n);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		line.p += n;
		line.n -= (size_t)n;
	}
}

void log_line(enum log_level level, const char *format, ...)
{
	int saved_errno = errno;
	char time[CLOCK_TEXT], *text = NULL;
	struct buf line;
	va_list args;
	int n;

	if ((int)level > log_level)
		return;
	va_start(args, format);
	n = vasprintf(&text, format, args);
	va_end(args);
	if (n < 0)
		return;
	log_redact(text);
	if (n > LOG_LINE_MAX && strlen(text) > LOG_LINE_MAX)
		memcpy(text + LOG_LINE_MAX, "...", 4);
	clock_iso(clock_wall_us(), time);
	buf_init(&line, 8 * LOG_LINE_MAX); /* a control byte takes six in JSON */
	if (log_json)
		log_add_json(&line, level, time, text);
	else
		log_add_text(&line, level, time, text);
	log_write(buf_span(&line));
	buf_release(&line);
	free(text);
	errno = saved_errno;
}
