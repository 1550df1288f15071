// SPDX-License-Identifier: Apache-2.0
/*
 * windows - the reconcile role: what the stream changes is compared on source and shadow, and the gate follows.
 *
 * A window ends with a mark in the source's WAL. When the shadow contains the mark, the keys touched since the
 * last window are compared by key; tables that were not compared yet (at the start: all), or of which the
 * keys are not known, are scrubbed. If every table is right, everything up to the mark is verified, and the
 * gate moves there. Else the keys that differ are compared again in the next window, and the gate stands until
 * they are right.
 *
 * A session is as long as its connections: whatever fails ends it, and the next one, after a while, scrubs
 * all tables first. One process has the role: an advisory lock in the shadow says who.
 *
 * Failpoint: windows.idle (no window ends).
 */
#ifndef RECONCILE_WINDOWS_H
#define RECONCILE_WINDOWS_H

#include <stdatomic.h>

#include "core/control.h"
#include "core/framing.h"
#include "core/metric.h"
#include "core/migration.h"

struct windows_options {
	struct metrics *metrics;   /* NULL: nobody looks */
	const atomic_bool *stop;   /* seen within 100 ms, but for a statement that runs */
	int stop_fd;               /* readable when it is set */
	bool (*learn)(void *arg, int32_t id, struct fault *f); /* as in tail.h; NULL: single-object framing */
	void *arg;
};

/* Until stopped. False: no memory; everything else is tried again. Thread: the caller's. */
bool windows_run(const struct migration *m, struct control *control, struct framing *framing,
		 const struct windows_options *o, struct fault *f);

#endif
