// SPDX-License-Identifier: Apache-2.0
/*
 * ends - the servers that are compared, and what is asked of them besides rows: how far they are.
 *
 * Thread: the connections'.
 */
#ifndef RECONCILE_ENDS_H
#define RECONCILE_ENDS_H

#include <stdatomic.h>

#include "core/migration.h"
#include "reconcile/tail.h"
#include "reconcile/verdict.h"

struct ends {
	const struct migration *m;
	PGconn *source, *targets[2]; /* by role; NULL: not looked at */
	struct tail *tail;
	bool are_still; /* nobody applies, and nothing is left to apply (quiet.h): not waited for */
	const atomic_bool *stop; /* waiting ends when it is set, with FAULT_ENVIRONMENT; NULL: never */
	bool is_patient;         /* waits for a target for as long as it takes */
	void (*answered)(void *arg, int64_t took_us); /* told how long each mark took; NULL: nobody is */
	void (*alive)(void *arg); /* told that something goes on, while that takes long; NULL: nobody is */
	void *arg;
	int64_t waited_us; /* for targets and for the stream, added up */
};

extern const char *const ends_role_names[2];

/* A moment of the source: every transaction that is in the WAL before it has a lower xid, and ran
 * statements that began before `at` (the source's clock). */
struct ends_moment {
	uint64_t lsn; /* a boundary behind everything that was committed before */
	uint64_t xid;
	char at[64];
};

/* Connects to the source and to the targets of these roles, in sessions that take one core at most. */
bool ends_connect(struct ends *e, const bool roles[2], struct fault *f);
void ends_close(struct ends *e);
/* Emits a small logical message. */
bool ends_mark(struct ends *e, struct ends_moment *ret, struct fault *f);
/* The statement that does, for who sends it to the source together with others, and what is in its row. */
extern const char ends_mark_sql[];
bool ends_mark_read(const PGresult *r, struct ends_moment *ret, struct fault *f);
/* Between the parts of something long: `alive` is told. False: it is to stop. */
bool ends_go_on(const struct ends *e, struct fault *f);
/* Waits until the target contains everything before lsn, and takes in the stream meanwhile.
 * FAULT_ENVIRONMENT when its barriers have not moved for a while. At once with are_still. */
bool ends_wait(struct ends *e, enum role role, uint64_t lsn, struct fault *f);
/* For how long it may not have moved. */
int64_t ends_patience_us(const struct ends *e, enum role role);
/* The boundary that the target contains in every partition; 0: none yet. */
bool ends_barrier(struct ends *e, enum role role, uint64_t *ret_lsn, struct fault *f);
/* Where each partition of the target is, as the transaction that is open sees it. */
bool ends_places(struct ends *e, enum role role, struct position *ret_places, struct fault *f);
/* The copies of a table's leaves on the target, as a text that differs when one was made again. */
bool ends_copies(struct ends *e, enum role role, const struct relation *rel, struct arena *a,
		 struct span *ret_copies, bool *ret_are_live, struct fault *f);
/* Reads the stream up to these places. FAULT_ENVIRONMENT when nothing has come for a while. */
bool ends_read_to(struct ends *e, const struct position *places, struct fault *f);
/* Reads the stream until it holds everything before lsn, for at most timeout_us. */
bool ends_read_past(struct ends *e, uint64_t lsn, int64_t timeout_us, bool *ret_is_read, struct fault *f);
/*
 * Does S see every transaction that committed before the moment? Those that run in S and are older must be
 * known not to have committed by then: they idle in their transaction, or run a statement that is newer.
 */
bool ends_is_settled(struct ends *e, const struct snapshot *s, const struct ends_moment *since,
		     bool *ret_is_settled, struct fault *f);
/* Does f say what a server refuses of one table (a column is missing, a value that a cast does not take)? Then the others
 * can be compared: what was open or under way is ended. f stays as it is. */
bool ends_pass_over(struct ends *e, const struct fault *f);
/* A transaction in which all statements see the same. */
bool ends_begin(PGconn *conn, struct fault *f);
bool ends_commit(PGconn *conn, struct fault *f);

#endif
