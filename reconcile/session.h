// SPDX-License-Identifier: Apache-2.0
/*
 * session - the windows of one role, as long as its connections live: what windows.c (opening, going round, closing), window.c
 * (a window and the gate) and passes.c (the scrub between windows) share. Private to them.
 *
 * Thread: the role's.
 */
#ifndef RECONCILE_SESSION_H
#define RECONCILE_SESSION_H

#include "core/incident_topic.h"
#include "reconcile/compare.h"
#include "reconcile/pace.h"
#include "reconcile/walk.h"
#include "reconcile/weigh.h"
#include "reconcile/windows.h"

struct session {
	const struct migration *m;
	const struct windows_options *options;
	struct control *control;
	struct known *known;
	struct tail tail;
	struct ends ends;
	struct weigh weigh;
	struct comparer comparer;
	struct touched fresh;      /* touched since the last window ended */
	struct touched due;        /* to be compared */
	struct tail_place *places; /* where the stream was when fresh became due */
	struct tail_place *clean_places; /* likewise, of the last clean window, or of the bookmark */
	bool has_clean_places;
	struct walk walk;
	struct pace pace;
	int open_tries;
	bool has_tables; /* which tables there are was asked once */
	bool was_left;   /* it goes on where a bookmark says */
	bool has_found;  /* the last pass has found something */
	bool has_proof;  /* a planted difference was found since the last pass began */
	bool is_said;    /* that the gate is open */
	struct buf parts[TOUCHED_PARTS_MAX];
	uint64_t mark_lsn;
	int64_t compare_us; /* what comparing the last window by key took, without waiting for the target */
	size_t thinned;     /* keys since the last clean window that were not compared, so that none is late */
	bool is_thin;       /* that this is so is said */
	int64_t rest_until_us; /* no table is compared as a whole before; outlives a lost connection */
	int64_t clean_us; /* when the last mark that was verified was made; 0: none in this session */
	int64_t bookmark_us;
	struct metric_cell *gate, *gate_lag, *verified, *coverage, *balance, *differences, *unbalanced;
	struct incident_topic *incidents;
	struct fault *f;
};

static inline const char *session_role(const struct session *s)
{
	return ends_role_names[s->options->role];
}

static inline bool session_has_gate(const struct session *s)
{
	return s->options->role == ROLE_SHADOW;
}

static inline PGconn *session_target(const struct session *s)
{
	return s->ends.targets[s->options->role];
}

static inline bool session_no_memory(struct fault *f)
{
	return fault(f, FAULT_INTERNAL, "no memory for the keys of a window");
}

/* Is this a table of the migration, as the file has it now? */
static inline bool session_has_table(const struct session *s, const struct relation *rel)
{
	return migration_has_table(s->m, rel->root_schema, rel->root_table) ||
	       migration_has_table(s->m, rel->schema, rel->table);
}

/* Of the touch of struct tail, and the found of struct comparer; arg: the session. */
bool window_touch(void *arg, const struct relation *rel, const struct value *row, struct fault *f);
void window_found(void *arg, const struct difference *d);
/* One window, from its mark to the gate. Nothing while a table is copied. */
bool window_run(struct session *s);
/* From where a restart goes on: the stream where all was right the last time, the scrub where it is now. */
bool window_write_bookmark(struct session *s);

/* Is a chunk to be scrubbed, and does the pace allow it? */
bool passes_are_due(struct session *s);
/* Scrubs it. */
bool passes_go_on(struct session *s);

#endif
