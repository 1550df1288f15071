// SPDX-License-Identifier: Apache-2.0
/*
 * reconcile - are the targets what the source is? All tables of a migration, compared once, and if asked to, repaired.
 *
 * It shares no code with shadow/: what it knows of a target are the tables themselves and the rows of
 * foreshadow.progress and foreshadow.copies. Each run first plants a difference (of rows that it makes up
 * from a target's: nothing is written) and must find it.
 *
 * Thread: the caller's. Calls report from it.
 */
#ifndef RECONCILE_RECONCILE_H
#define RECONCILE_RECONCILE_H

#include "reconcile/final.h"
#include "reconcile/repair.h"
#include "reconcile/scrub.h"

/* What became of a table on a target. */
struct reconcile_table {
	struct span label;  /* on the target */
	struct span source; /* on the source */
	enum role role;
	struct scrub_result result;
	const char *unverified; /* why it was not compared, or not to its end; NULL: it was */
	const struct span *skipped;
	size_t skipped_count; /* columns that cannot be compared */
};

struct reconcile_report {
	void (*difference)(void *arg, const struct difference *d);
	void (*table)(void *arg, const struct reconcile_table *t);
	void (*check)(void *arg, const struct final_result *r); /* without is_final: only what failed */
	void (*repair)(void *arg, const struct repair *r, const struct repair_item *item); /* repairs only */
	void *arg;
};

struct reconcile_options {
	const char *table; /* schema.table on source or target; NULL: all */
	bool roles[2];
	/* The caller keeps the source quiet (quiet.h), and what stands beside the rows is checked, too (final.h). All
	 * tables, both roles. */
	bool is_final;
	bool repairs; /* what differs is set right (repair.h), table by table */
	event_learn learn;
	void *arg;
};

struct reconcile_summary {
	size_t table_count, found_count, open_count, unverified_count; /* tables: per role */
	int64_t row_count;
	uint64_t lsn;        /* everything compared contains at least the source up to there */
	size_t repaired_count; /* of found_count */
	bool has_proof;      /* the planted difference was found */
	struct final_sum final;
	bool is_unproven;    /* it was not judged. Neither: there was no row to plant one in */
};

/*
 * False: a server or Kafka failed; tables that are left are reported as unverified, and the summary says what
 * was done until then.
 */
bool reconcile_verify(const struct migration *m, struct control *control, struct framing *framing,
		      const struct reconcile_options *options, const struct reconcile_report *report,
		      struct reconcile_summary *ret, struct fault *f);

#endif
