// SPDX-License-Identifier: Apache-2.0
/*
 * finish - when the copies of all tables that are copying are whole, what was left out of the schema
 * is built and the tables become live. The owner of partition 0 does it for everybody.
 *
 * Building indexes takes as long as it takes, so it has a thread of its own; the lane goes on. It is
 * done again, and finds nothing to do, if this process dies before the tables are live, and once by
 * each owner of partition 0. A request to stop ends it in the middle: the next owner builds the rest.
 *
 * Some tables may be live already when the last become so: those whose copies were whole when others'
 * were cut off. Then a foreign key may look at a moment at which its two tables are not at the same
 * place, and fail for it: the tables become live, and it is tried again while they are.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/failpoint.h"
#include "core/log.h"
#include "shadow/lane_state.h"
#include "shadow/role.h"

static void *finish_main(void *arg)
{
	struct lane *l = arg;
	struct lane_role *role = l->role;
	uint64_t one = 1;
	bool ok;

	log_thread(role_traits(role->role)->name);
	ok = role->schema_finish(role->arg, l->finish_is_copied, &l->finish_fault);
	atomic_store(&l->finish_state, ok ? FINISH_DONE : FINISH_FAILED);
	if (write(l->control_fd, &one, sizeof(one)) < 0)
		log_debug("eventfd: %m");
	return NULL;
}

static void finish_start(struct lane *l)
{
	if (!l->role->schema_finish) {
		atomic_store(&l->finish_state, FINISH_DONE);
		return;
	}
	l->finish_is_copied = copies_has_copying(&l->copies);
	if (l->finish_is_copied)
		log_info("all copies are here: building what was left out of the schema");
	fault_reset(&l->finish_fault);
	atomic_store(&l->finish_state, FINISH_RUNNING);
	if (pthread_create(&l->finish_thread, NULL, finish_main, l) != 0) {
		atomic_store(&l->finish_state, FINISH_IDLE);
		log_error("no thread for building indexes");
	}
}

/* Was everything built? */
static bool finish_join(struct lane *l)
{
	if (l->role->schema_finish)
		pthread_join(l->finish_thread, NULL);
	return atomic_exchange(&l->finish_state, FINISH_IDLE) == FINISH_DONE;
}

void finish_end(struct lane *l)
{
	if (atomic_load(&l->finish_state) == FINISH_IDLE)
		return;
	if (atomic_load(&l->finish_state) == FINISH_RUNNING)
		log_info("waiting for the build of indexes and constraints to end");
	if (!finish_join(l))
		log_info("building indexes and constraints: %s; the next start builds the rest", l->finish_fault.text);
}

/* One transaction under partition 0's epoch. */
static bool finish_go_live(struct lane *l, struct part *zero, struct fault *f)
{
	struct progress_move move = { zero->key, &zero->have, &zero->have };
	struct apply_statement first;
	struct arena a;
	bool ok;

	arena_init(&a, 1024 * 1024);
	ok = progress_moves(&move, 1, NULL, &a, &first, f) && lane_plain(l, f) &&
	     pg_do(l->conn, f, "BEGIN") && progress_run(l->conn, &first, f) &&
	     copies_go_live(&l->copies, l->conn, f);
	if (ok && failpoint("copies.before_live"))
		ok = fault(f, FAULT_ENVIRONMENT, "failpoint");
	ok = ok && pg_do(l->conn, f, "COMMIT");
	if (!ok && l->conn && PQstatus(l->conn) == CONNECTION_OK)
		pg_do(l->conn, NULL, "ROLLBACK");
	arena_release(&a);
	return ok;
}

static void finish_failed(struct lane *l, struct part *zero, const struct fault *f)
{
	if (f->kind == FAULT_ENVIRONMENT || f->kind == FAULT_FENCED) {
		zero->is_in_batch = true;
		lane_failed(l, f);
		return;
	}
	part_set(zero, PART_STOPPED, f->text);
}

/* Is it still so? Another COPY event may have passed while indexes were built. */
static void finish_live(struct lane *l, struct part *zero)
{
	struct fault f = { 0 };
	enum copies_stage stage;

	if (!lane_load_copies(l, &f) ||
	    !copies_ready(&l->copies, l->conn, l->migration->partition_count, &stage, &f)) {
		finish_failed(l, zero, &f);
		return;
	}
	if (stage == COPIES_UNDER_WAY)
		return;
	if (!finish_go_live(l, zero, &f) || !lane_load_copies(l, &f)) {
		finish_failed(l, zero, &f);
		return;
	}
	lane_recovered(l);
	log_info("%s", stage == COPIES_WHOLE ? "all tables are live"
					     : "tables whose copies are whole are live, others are copied again");
}

/* The thread has ended: what next? */
static void finish_ended(struct lane *l, struct part *zero)
{
	l->is_finish_owed = !finish_join(l);
	if (l->is_finish_owed) {
		l->finish_us = clock_us() + 5 * LANE_TARGET_POLL_US;
		log_warn("building indexes and constraints: %s", l->finish_fault.text);
		if (l->finish_fault.kind == FAULT_ENVIRONMENT)
			return;
		if (!copies_has_live(&l->copies)) {
			part_set(zero, PART_STOPPED, l->finish_fault.text);
			return;
		}
	}
	if (copies_has_copying(&l->copies))
		finish_live(l, zero);
}

static bool finish_may_look(const struct lane *l, const struct part *zero)
{
	return zero && l->conn && zero->state != PART_UNTAKEN && zero->state != PART_STOPPED &&
	       (copies_has_copying(&l->copies) ||
		(l->is_finish_owed && copies_has_live(&l->copies))) &&
	       clock_us() >= l->finish_us;
}

void finish_turn(struct lane *l)
{
	struct part *zero = lane_part(l, CONSUME_CHANGES, 0);
	enum finish_state state = (enum finish_state)atomic_load(&l->finish_state);
	enum copies_stage stage;
	struct fault f = { 0 };

	if (state == FINISH_RUNNING || !finish_may_look(l, zero))
		return;
	if (state != FINISH_IDLE) {
		finish_ended(l, zero);
		return;
	}
	if (!copies_has_copying(&l->copies)) {
		finish_start(l);
		return;
	}
	l->finish_us = clock_us() + LANE_COPY_POLL_US;
	copies_refresh(&l->copies);
	if (!lane_plain(l, &f) ||
	    !copies_ready(&l->copies, l->conn, l->migration->partition_count, &stage, &f)) {
		finish_failed(l, zero, &f);
		return;
	}
	if (stage == COPIES_WHOLE)
		finish_start(l);
	else if (stage == COPIES_WHOLE_BUT_VOID)
		finish_live(l, zero);
}
