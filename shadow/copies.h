// SPDX-License-Identifier: Apache-2.0
/*
 * copies - which changes a table's copy has already, which wait for it, and when a table is live.
 *
 * What is known of a table: its row in the target (attempt, copying or live) and what <m>.control
 * says about that attempt (point, complete, void). From the attempt's COPY event on:
 *
 * 1. A change whose transaction is in the point is covered: the copy has it. That stays so when the
 *    table is live: a slow partition may still be behind the point.
 * 2. A change beyond the point waits until the table is live.
 * 3. Point not known: every change waits; void and not live: every change is covered, the next
 *    attempt has it. Barriers pass a void attempt.
 * 4. A table without a row has its first COPY event still in front: its changes are covered.
 * 5. Copied records of the row's attempt are applied while it is copying and not void; of a lower
 *    one dropped; of a higher one they wait for its COPY event.
 * 6. Live: not void, complete, each snapshot partition has the attempt's end marker and the records
 *    add up; and no other copy is under way (void ones do not count).
 *
 * The decisions are pure. The rows are read and written in the caller's transaction or outside one,
 * as each function says; a reader may be behind by one COPY event or by one step to live, and so
 * rereads after an exclusive event and while it waits.
 *
 * Thread: a struct copies belongs to one lane.
 */
#ifndef SHADOW_COPIES_H
#define SHADOW_COPIES_H

#include "core/control.h"
#include "core/event.h"
#include "core/pg.h"
#include "shadow/apply.h"

enum copies_verdict { COPIES_APPLY, COPIES_COVERED, COPIES_WAIT };

struct copies_table {
	uint32_t oid, attempt;
	bool is_live;             /* else copying */
	/* of that attempt, from control */
	bool has_point, is_complete, is_void;
	bool is_whole;            /* all of it is in the target: copies_ready */
	struct boundary point;
	uint64_t complete_records;
};

enum copies_verdict copies_change(const struct copies_table *t, struct commit_lsn commit);
/* May a barrier at x be passed, as far as this table is concerned? APPLY or WAIT. */
enum copies_verdict copies_barrier(const struct copies_table *t, struct boundary x);
/* COVERED: dropped. t may be NULL. */
enum copies_verdict copies_record(const struct copies_table *t, uint32_t attempt);
/* Have we all of it? ended_count: end markers of this attempt seen in the target's rows. A sum that
 * differs: false and FAULT_LOST. */
bool copies_is_whole(const struct copies_table *t, int ended_count, uint64_t records,
		     int partition_count, struct fault *f);

struct copies {
	struct control *control;
	const char *migration;
	struct copies_table *tables; /* by oid */
	size_t count;
	uint64_t live_count; /* grows when the set of live tables changes */
	uint64_t control_seen;
};

void copies_init(struct copies *c, struct control *control, const char *migration);
void copies_release(struct copies *c);
/* Reads the rows; *ret_changed (may be NULL) if any of them differs from before. */
bool copies_load(struct copies *c, PGconn *conn, bool *ret_changed, struct fault *f);
/* Takes in what control has learnt since. Cheap when nothing is new. */
void copies_refresh(struct copies *c);
const struct copies_table *copies_find(const struct copies *c, uint32_t oid);
enum copies_verdict copies_all_barrier(const struct copies *c, struct boundary x);
bool copies_has_copying(const struct copies *c);
bool copies_has_live(const struct copies *c);

/* Inside the transaction of a COPY event, before the tables are emptied: the rows. target: the
 * quoted names, one per table. */
bool copies_begin(struct copies *c, PGconn *conn, const struct exclusive_table *tables,
		  const struct span *targets, size_t count, struct fault *f);

/*
 * The statement that counts `records` more copied rows of (oid, attempt) in a partition, with the bytes of
 * their values, and says that it ended. It holds the table's row in share mode, so that no COPY event of a later attempt can
 * empty the table in the middle, and RAISES (FS001) if one already did. wanted: the total that the
 * end marker says, checked (FS002) when ended. Texts live in a.
 */
bool copies_count(const char *migration, uint32_t oid, uint32_t attempt, int partition,
		  uint64_t records, uint64_t bytes, bool ended, uint64_t wanted, struct arena *a,
		  struct apply_statement *ret, struct fault *f);

/*
 * Which tables may become live? Not one while another one's copy is under way: they were copied at one
 * point, and become live together. But a void copy is not waited for: the event that begins the next
 * one may stand behind changes that wait for the tables that are whole.
 */
enum copies_stage { COPIES_UNDER_WAY, COPIES_WHOLE_BUT_VOID, COPIES_WHOLE };
bool copies_ready(struct copies *c, PGconn *conn, int partition_count, enum copies_stage *ret,
		  struct fault *f);
/* Inside a transaction: every table that copies_ready found whole becomes live. */
bool copies_go_live(struct copies *c, PGconn *conn, struct fault *f);

#endif
