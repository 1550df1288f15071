// SPDX-License-Identifier: Apache-2.0
/*
 * repair - rows that `verify --repair` asks for, written by the owner of their key's partition.
 *
 * Reconcile and we meet in the rows of foreshadow.repairs, nowhere else:
 *
 *   asked ──owner──▶ held ──reconcile──▶ ready ──owner──▶ written ──owner──▶ done
 *                      │                   └──owner──▶ failed          (the incident is there)
 *                      └──either──▶ released
 *
 * held: the partition stands still, and the row says where (epoch, commit_lsn, seq: what the target has). ready:
 * row_values is the source's row as it was at that place (NULL: there is none). Written in one transaction with the
 * fence of every batch (the progress row has our epoch and place), so nobody else's place is ever written to.
 *
 * A hold ends when nothing of its partition is waited for any more: answered, or the asker's session is gone (it
 * holds an advisory lock), or the time it gave is over, at most LANE_HELD_MAX_US. A partition that is lost or
 * rewound is not held any more either; its rows have another epoch or no answer, and reconcile takes them back.
 *
 * Failpoints: repair.held, repair.before_commit, repair.written (the incident is not sent yet).
 *
 * Thread: the lane's.
 */
#ifndef SHADOW_REPAIR_H
#define SHADOW_REPAIR_H

#include "shadow/incident.h"
#include "shadow/target.h"

enum repair_state { REPAIR_ASKED, REPAIR_HELD, REPAIR_READY, REPAIR_WRITTEN };

/* A row of foreshadow.repairs that is not over. */
struct repair_ask {
	int64_t id;
	int partition;
	enum repair_state state;
	bool has_asker;  /* its session is there */
	int64_t hold_us; /* how long it may be held */
	uint64_t epoch;  /* HELD, READY: whose */
};

/* Its partition, in our hands. */
struct repair_place {
	uint64_t epoch;
	bool is_held;   /* it stands still, for held_us by now */
	int64_t held_us;
	bool may_hold;  /* it is not held, and stands where it could be */
};

enum repair_step {
	REPAIR_PASS, /* nothing now: not ours, or not any more */
	REPAIR_HOLD,
	REPAIR_WAIT, /* it keeps its partition held */
	REPAIR_WRITE,
	REPAIR_TELL, /* its incident is owed */
};
/* Pure. */
enum repair_step repair_next(const struct repair_ask *r, const struct repair_place *p);

/* What is to be written: texts of the relation's columns, absent for NULL. */
struct repair_row {
	const struct span *key; /* key columns of the row that may be there */
	const struct span *row; /* NULL: there must be none */
};

/* repair_write.c: the statements of one row, in the transaction that is open. Texts are JSON, in a; absent: no row. */
bool repair_apply(PGconn *conn, const struct target_table *t, const struct repair_row *row, struct arena *a,
		  struct span *ret_before, struct span *ret_after, struct fault *f);

#endif
