// SPDX-License-Identifier: Apache-2.0
/*
 * shadow - a role that brings the stream into a target: shadow or primary.
 *
 * shadow_run joins the role's consumer group, applies what it is given, and returns when it was told
 * to stop, or when it cannot go on. The caller has made
 * the topics, the target's tables (schema_prepare) and opened control.
 *
 * Threads: shadow_run is the role thread and owns the group member; lanes are threads of its own.
 */
#ifndef SHADOW_SHADOW_H
#define SHADOW_SHADOW_H

#include <stdatomic.h>

#include "core/codec.h"
#include "core/control.h"
#include "core/metric.h"
#include "core/migration.h"
#include "shadow/status.h"

struct shadow_options {
	const char *instance;      /* one process per role, instance and migration */
	int lanes;                 /* 0: auto */
	struct metrics *metrics;   /* NULL: nobody looks */
	const atomic_bool *stop;   /* set by a signal or another role; seen within 100 ms */
	/* Builds what was left out before the copies; idempotent, may take long. is_copied: tables wait for it to
	 * become live; else it only looks whether all is built. NULL: nothing. */
	bool (*schema_finish)(void *arg, bool is_copied, struct fault *f);
	/* Confluent framing: ask the registry for this id and framing_learn it. NULL: single-object. */
	event_learn learn;
	void *arg;
};

/*
 * true: stopped by request; drained, nothing is open. false: *f says why:
 * FAULT_STOP/LOST/DATA exit 3.
 */
bool shadow_run(const struct migration *m, enum role role, const struct shadow_options *o,
		struct control *control, struct framing *framing, struct shadow_status *status,
		struct fault *f);

#endif
