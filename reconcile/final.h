// SPDX-License-Identifier: Apache-2.0
/*
 * final - what must be right on a target besides its rows before an application may move to it: a table of checks.
 *
 * Each check is a statement whose rows are what is wrong. Some ask the source first; its answer goes along as JSON.
 * Some rows are statements themselves, that count rows. Nothing is written anywhere.
 *
 * A finding fails the check, or is only said (is_note): where the source is the same, or the target's tables are
 * somebody else's (schema: exists).
 *
 * Thread: the connections'.
 */
#ifndef RECONCILE_FINAL_H
#define RECONCILE_FINAL_H

#include "reconcile/ends.h"

struct final_finding {
	struct span object, seen;
	bool is_note;
};

struct final_result {
	const char *name;  /* snake_case */
	const char *title; /* what is true if it passed, in words for everybody */
	const char *remedy;
	enum role role;
	const char *unjudged; /* why it could not be asked; NULL: it was */
	struct final_finding *findings;
	size_t finding_count, fail_count;
};

/*
 * All checks of both targets, each result to report as it comes. relations: the tables in scope, leaves.
 * What keeps one check from being asked is said of it. False: a connection or memory is lost.
 */
bool final_check(struct ends *e, const struct relation *const *relations, size_t n, uint64_t lsn,
		 void (*report)(void *arg, const struct final_result *r), void *arg, struct fault *f);

enum final_verdict { FINAL_READY, FINAL_NOT_READY, FINAL_UNJUDGED };

/* What is known in the end. */
struct final_sum {
	bool is_quiet; /* from beginning to end */
	size_t difference_count, failed_checks;
	size_t unjudged_checks, unjudged_tables, unjudged_rows;
	bool is_unproven; /* the planted difference was not found */
};
/* Pure. What is certainly wrong decides first, then what is not known. */
enum final_verdict final_decide(const struct final_sum *s);

#endif
