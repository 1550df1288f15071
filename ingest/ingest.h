// SPDX-License-Identifier: Apache-2.0
/*
 * ingest - the role: one thread that turns the source's stream into <m>.changes, and starts the
 * copies.
 *
 * ingest_run lives in generations. Each takes the slot, fences the partitions, reads where they
 * stand, and goes on from the slot's confirmed boundary (docs/internals.md 3). What ends a
 * generation and may pass (a connection, a broker, a report out of order) is followed by the next
 * one, after a back-off; what needs a person ends ingest_run.
 *
 * Failpoints: ingest.slot_created, ingest.fence_sent, ingest.base_sent, publish.after_produce,
 * ingest.before_feedback, ingest.copy_recorded, ingest.copy_begun, ingest.copy_point,
 * ingest.copy_complete.
 */
#ifndef INGEST_INGEST_H
#define INGEST_INGEST_H

#include <stdatomic.h>

#include "core/metric.h"
#include "core/migration.h"
#include "ingest/copy.h"

struct ingest_options {
	struct boundary
	    until; /* end once this boundary is confirmed and all copies are complete; 0: never */
	bool until_caught_up;    /* as until, with the source's WAL position when the copies became
				    complete */
	const atomic_bool *stop; /* end as soon as what was published is acknowledged */
	int stop_fd;             /* becomes readable with stop; -1: none */
	const char *instance;    /* for messages and application_name */
	struct metrics *metrics; /* NULL: nobody looks */
	bool topics_exist; /* topics are neither made nor checked: a broker without admin calls */
	int patience_ms;   /* how long the first generation may fail to start before that is a fault
			    */
};

enum ingest_phase { INGEST_STARTING, INGEST_STREAMING, INGEST_WAITING, INGEST_ENDED };
const char *ingest_phase_name(enum ingest_phase phase);

enum { INGEST_COPIES_SHOWN = 64 };

struct ingest_numbers {
	enum ingest_phase phase;
	uint64_t generation;
	uint64_t decoded; /* changes, of this generation */
	uint64_t transactions;
	uint64_t published, acked; /* records of this generation */
	uint64_t bytes;
	uint64_t outstanding;
	struct boundary boundary;  /* newest read */
	struct boundary confirmed; /* what the source may forget */
	uint64_t source_end;       /* the source's WAL end as it last said */
	uint64_t lag_bytes;
	int64_t commit_us; /* commit time of the newest transaction */
	size_t tables, tables_complete;
	size_t copy_count; /* tables of the running round, at most INGEST_COPIES_SHOWN */
	struct copy_progress copies[INGEST_COPIES_SHOWN];
	char copy_names[INGEST_COPIES_SHOWN][64];
	char problem[256]; /* WAITING: why */
	int64_t well_us;   /* clock_us: when it last moved, or had nothing to do */
};

/* Shared with whoever wants to show it. */
struct ingest_status;
struct ingest_status *ingest_status_new(void);
void ingest_status_free(struct ingest_status *s);
/* A consistent snapshot. Thread: any. */
void ingest_status_read(struct ingest_status *s, struct ingest_numbers *ret);

/* Returns when told to stop, when until is reached (true), or with a fault. status may be NULL. */
bool ingest_run(const struct migration *m, const struct ingest_options *options,
		struct ingest_status *status, struct fault *f);

#endif
