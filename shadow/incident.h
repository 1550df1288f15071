// SPDX-License-Identifier: Apache-2.0
/*
 * incident - tells people, in <m>.incidents, about a record that could not be applied, and about a row that was repaired.
 *
 * The topic is for people: a report of a record that Kafka does not take is logged and not tried again, since
 * nothing depends on it. That a row was repaired nobody else tells: the caller tries again. Thread-safe.
 */
#ifndef SHADOW_INCIDENT_H
#define SHADOW_INCIDENT_H

#include "core/event.h"
#include "core/json.h"
#include "core/metric.h"
#include "core/migration.h"

struct incident_report {
	const char *role, *topic;
	int partition;
	int64_t offset;
	const struct event_head *head; /* may be NULL: the record could not be read */
	struct span table, key;        /* may be absent */
	const struct fault *fault;
};

struct incident;
/* metrics may be NULL. */
struct incident *incident_new(const struct migration *m, struct metrics *metrics);
void incident_free(struct incident *i);
/* Counts it, too. */
void incident_send(struct incident *i, const struct incident_report *r);

/* A row that `verify --repair` has had written. */
struct incident_repair {
	const char *role, *topic;
	int partition;
	struct position position; /* the place at which it was written */
	struct span table, key;
	struct span before, after; /* JSON objects; absent: there was, there is no row */
};
enum { INCIDENT_ROWS_BYTES = 8 << 20, INCIDENT_VALUE_BYTES = 1000 };
/* What is written: rows of more than INCIDENT_ROWS_BYTES together have their long values cut. A new
 * reference. */
json_t *incident_repair_json(const struct incident_repair *r);
/* false: Kafka has not acknowledged it. */
bool incident_repaired(struct incident *i, const struct incident_repair *r, struct fault *f);
/* One line for the log and the status: table, key, op, position, ordinal, offset, the reason. */
void incident_text(const struct incident_report *r, char *text, size_t n);

#endif
