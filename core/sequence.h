// SPDX-License-Identifier: Apache-2.0
/*
 * sequence - the rules by which a partition of <m>.changes is read, by consumers and by ingest's restart.
 *
 * Pure: state + head of the next record → verdict; the state is what a progress row keeps.
 *
 * 1. A fence of generation g makes every later record of a lower generation stale.
 * 2. ordinal = last + 1 needs position > last: NEXT.
 * 3. ordinal <= last is a DUPLICATE only if position <= last too; otherwise they DISAGREE (stop).
 * 4. ordinal > last + 1: a GAP. Nothing counts until a base whose ordinal is at most our last
 *    (and then the records after it); a base above our last: LOST (stop).
 * 5. A barrier counts only if it carries our last ordinal and there is no gap. One whose boundary is
 *    lower than ours (WAL decoded again) is a DUPLICATE: the barrier never moves back.
 * 6. A record or barrier of a generation whose fence was not seen opens a GAP: something before it
 *    was lost. Its base stands for the fence: it was written after the fence was acknowledged.
 * 7. A barrier or base that carries our last ordinal at another position DISAGREEs. Before ordinal 1
 *    there is no record, and so no position to compare.
 *
 * A state begins as all zero. The end of a copy, and records of <m>.snapshot, have no ordinal: they
 * are not asked about here (a MARKER other than fence and base is a MARK).
 */
#ifndef CORE_SEQUENCE_H
#define CORE_SEQUENCE_H

#include "core/event.h"

struct sequence {
	uint64_t generation;
	uint64_t ordinal;
	struct position position;
	struct boundary barrier;
	bool has_gap;
};

enum sequence_verdict {
	SEQUENCE_NEXT,       /* change or exclusive: apply it; state advanced */
	SEQUENCE_BARRIER,    /* barrier advanced (or equal) */
	SEQUENCE_MARK,       /* fence or base taken in; nothing to apply */
	SEQUENCE_STALE,      /* of a lower generation: drop */
	SEQUENCE_DUPLICATE,  /* drop */
	SEQUENCE_GAP,        /* drop; the first one (has_gap was false) fills the fault, to be reported */
	SEQUENCE_DISAGREE,   /* stop: fault says both */
	SEQUENCE_LOST,       /* stop: fault says what is missing */
};

enum sequence_verdict sequence_next(struct sequence *s, const struct event_head *h, struct fault *f);

#endif
