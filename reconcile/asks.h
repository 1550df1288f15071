// SPDX-License-Identifier: Apache-2.0
/*
 * asks - the rows of foreshadow.repairs in a target: how reconcile and the owner of a partition talk about a row.
 *
 * The other half, and what each state means, is in docs/internals.md; nothing of shadow/ is known here. Who asks
 * holds an advisory lock on the target: one at a time, and an owner sees by it that nobody waits any more.
 *
 * Thread: the connection's.
 */
#ifndef RECONCILE_ASKS_H
#define RECONCILE_ASKS_H

#include "core/arena.h"
#include "core/lsn.h"
#include "core/pg.h"
#include "core/relation.h"

enum ask_state { ASK_ASKED, ASK_HELD, ASK_READY, ASK_WRITTEN, ASK_DONE, ASK_FAILED, ASK_RELEASED };

struct ask {
	/* to be filled in */
	struct span message_key;
	struct span key_values; /* the literal of a text[], an element per column */
	int partition;
	/* as the row says */
	int64_t id;             /* 0: not asked */
	enum ask_state state;
	struct position place;  /* HELD: what the target has of the partition */
	const char *reason;     /* FAILED, RELEASED; in the arena, or NULL */
};

enum { ASK_HOLD_MS = 15 * 1000 };

/* Takes the lock, and takes back what an asker that is gone has left. FAULT_STOP: the table is not there; ENVIRONMENT:
 * somebody else asks. */
bool asks_begin(PGconn *conn, const char *migration, struct fault *f);
bool asks_end(PGconn *conn, const char *migration, struct fault *f);
/* All at once. rel: whose columns the values are. */
bool asks_send(PGconn *conn, const char *migration, const struct relation *rel, struct ask *asks, size_t n, struct fault *f);
/* What has become of those that were asked. */
bool asks_look(PGconn *conn, struct ask *asks, size_t n, struct arena *a, struct fault *f);
/* values: the literal of a text[]; absent: there must be no row. The row may be RELEASED by now: then nothing. */
bool asks_answer(PGconn *conn, const struct ask *k, struct span values, struct fault *f);
/* Unless it is over. */
bool asks_withdraw(PGconn *conn, struct ask *asks, size_t n, struct fault *f);

#endif
