// SPDX-License-Identifier: Apache-2.0
/*
 * windows - the reconcile role: what the stream changes is compared on the source and on a target, window by window,
 * and everything else in a slow scrub between them. The gate follows the windows of the shadow.
 *
 * A window ends with a mark in the source's WAL. When the target contains the mark, the keys touched since the
 * last window are compared by key, and tables of which the keys are not known as a whole. What differs is compared
 * again in each window. If nothing differs, and no table is owed a scrub (walk.h), everything up to the
 * mark is verified, and the gate moves there.
 *
 * A session is as long as its connections: whatever fails ends it, and the next one goes on where the last
 * bookmark was left (bookmark.h). One process has the role: an advisory lock in the target says who.
 *
 * Failpoints: windows.idle (nothing is compared), windows.turn (hangs there), windows.marked (behind a mark).
 */
#ifndef RECONCILE_WINDOWS_H
#define RECONCILE_WINDOWS_H

#include <stdatomic.h>

#include "core/control.h"
#include "core/framing.h"
#include "core/metric.h"
#include "core/migration.h"
#include "reconcile/standing.h"

struct windows_options {
	enum role role;
	struct standing *standing; /* NULL: nobody looks */
	struct metrics *metrics;   /* NULL: nobody looks */
	const atomic_bool *stop;   /* seen within 100 ms, but for a statement that runs */
	int stop_fd;               /* readable when it is set */
	event_learn learn; /* as in tail.h; NULL: single-object framing */
	void *arg;
};

/* Until stopped. False: no memory; everything else is tried again. Thread: the caller's. */
bool windows_run(const struct migration *m, struct control *control, struct framing *framing,
		 const struct windows_options *o, struct fault *f);

#endif
