// SPDX-License-Identifier: Apache-2.0
/*
 * incident - tells people, in <m>.incidents, about a record that could not be applied.
 *
 * The topic is for people: a report that Kafka does not take is logged and not tried again, since
 * nothing depends on it. Thread-safe.
 */
#ifndef SHADOW_INCIDENT_H
#define SHADOW_INCIDENT_H

#include "core/event.h"
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
/* One line for the log and the status: table, key, op, position, ordinal, offset, the reason. */
void incident_text(const struct incident_report *r, char *text, size_t n);

#endif
