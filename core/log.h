// SPDX-License-Identifier: Apache-2.0
/*
 * log - one line an event on stderr: time, level, role, what happened, to which object, key=value.
 *
 * Never called by pure cores. Lines are written with one write(2), so threads and processes do not
 * tear each other's lines. log_secret() registers a string (a password) that is replaced by "***"
 * in every line and in every fault text that is logged: the last line of defence, not the first.
 */
#ifndef CORE_LOG_H
#define CORE_LOG_H

#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

void log_set(enum log_level level, bool json);
/* The calling thread's role ("ingest", "shadow", "primary/lane 2"), shown in its lines; copied. */
void log_thread(const char *role);
void log_secret(const char *secret);
/* What log_line does to its text, for other ways out (a report, a topic): in place. */
void log_redact(char *text);
void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
