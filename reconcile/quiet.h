// SPDX-License-Identifier: Apache-2.0
/*
 * quiet - is the source quiet: does nothing write to a table in scope any more, and do the targets contain everything
 * that was written?
 *
 * Two ways, by whether something reads the slot:
 *
 * - `foreshadow run` is running: a mark is emitted and waited for on every partition of the targets, then
 *   another one. Changes committed behind the first mark are read from the stream.
 * - It has ended: what the slot would still send is looked at without taking it, and every partition of the
 *   stream is read from where the targets stand to its end. Neither may hold a change.
 *
 * In both cases no transaction may be open that holds a lock of a writer on one of the tables. quiet_hold() is
 * asked again when everything was compared: only then all of it was of one moment. More cannot be
 * seen: an application that may write and does not looks the same.
 *
 * Failpoints: quiet.peek (the slot is asked for one message first), quiet.enough (it is asked no further).
 *
 * Thread: the connections'.
 */
#ifndef RECONCILE_QUIET_H
#define RECONCILE_QUIET_H

#include "reconcile/ends.h"

enum { QUIET_TABLES_MAX = 100 }; /* named; beyond, only that there are more */

struct quiet_writer {
	const struct relation *rel; /* of any leaf */
	uint64_t change_count;      /* committed, and on a target not yet */
	int pid;                    /* of a session whose transaction is open; 0: none, or a prepared one */
	bool is_open;
};

struct quiet {
	struct ends *ends;
	bool has_runner; /* something reads the slot */
	uint64_t lsn;    /* the boundary: everything in scope was committed before */
	struct quiet_writer writers[QUIET_TABLES_MAX];
	size_t writer_count;
};

/* After tail_start, both targets connected. FAULT_ENVIRONMENT naming each table that is written, and the next
 * step; else the source is quiet. */
bool quiet_begin(struct quiet *quiet, struct ends *ends, struct fault *f);
/* Does it stand still? The same faults. */
bool quiet_hold(struct quiet *quiet, struct fault *f);

/*
 * A message of pgoutput (protocol 1, not streamed), for tables: what kind, and of which. Pure.
 * *ret_commit: of a begin, else as it was. *ret_oids: n OIDs in network order of changed tables.
 */
void quiet_message(struct span message, uint64_t *ret_commit, const char **ret_oids, size_t *ret_count);

#endif
