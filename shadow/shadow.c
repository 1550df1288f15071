// SPDX-License-Identifier: Apache-2.0
#include "shadow/shadow.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/clock.h"
#include "core/failpoint.h"
#include "core/log.h"
#include "shadow/lane.h"
#include "shadow/progress.h"
#include "shadow/role.h"
#include "shadow/scale.h"

enum {
	LANES_AUTO = 2,                /* at most, and to begin with */
	POLL_MS = 100,
	CHECK_US = 200 * 1000,         /* until, stuck, lanes */
	DROP_TIMEOUT_MS = 20000,
	DROP_SLICE_MS = 500,
	MOVE_PATIENCE_MS = 10000,
	MOVE_SILENCE_US = 5 * 1000 * 1000,
	LOCK_PATIENCE_MS = 15000,      /* a killed predecessor's backend may take a moment to go */
	BACKOFF_MS = 1000,
	/* The role thread did not run for so long: it was stopped, and the group may have given its
	 * partitions away. A heartbeat (3 s) tells. */
	STOPPED_US = 4 * 1000 * 1000, DISTRUST_US = 4 * 1000 * 1000,
};

struct shadow {
	const struct migration *migration;
	const struct shadow_options *options;
	enum role role;
	struct lane_role lanes_share;
	struct lane *lanes[MIGRATION_LANES_MAX];
	int lane_count;
	struct scale scale; /* the first scale.lanes of them have the partitions */
	bool is_scaled, is_moving; /* may change; is changing */
	int64_t scale_us, rested_us; /* when its window began, and what the lanes had rested by then */
	struct consume *consume, *assigning;
	PGconn *conn; /* holds the instance's lock; asks how far the target is */
	int64_t check_us;
};

static bool shadow_must_stop(const struct shadow *s)
{
	return s->options->stop && atomic_load(s->options->stop);
}

static void shadow_sleep_ms(int ms)
{
	nanosleep(&(struct timespec) { ms / 1000, ms % 1000 * 1000000L }, NULL);
}

/* Were we stopped (SIGSTOP, a frozen machine)? Then nothing is taken anew before the group had its
 * say. Returns whether we were. */
static bool shadow_mark_alive(struct shadow *s)
{
	int64_t now = clock_us(), last = atomic_load(&s->lanes_share.alive_us);

	bool was_stopped = now - last > STOPPED_US;

	if (was_stopped) {
		log_warn("this process did not run for %" PRId64 " s", (now - last) / 1000000);
		atomic_store(&s->lanes_share.distrust_until_us, now + DISTRUST_US);
	}
	atomic_store(&s->lanes_share.alive_us, now);
	return was_stopped;
}

/* Role thread, from within consume_poll: what the group gives us now, it has given with trust. Or from shadow_move. */
static void shadow_assigned(void *arg, enum consume_topic topic, int partition, rd_kafka_queue_t *q)
{
	struct shadow *s = arg;

	if (!shadow_mark_alive(s) && !s->is_moving)
		atomic_store(&s->lanes_share.distrust_until_us, 0);
	if (!lane_give(s->lanes[partition % s->scale.lanes], s->assigning, topic, partition, q)) {
		log_error("no memory for %s partition %d", consume_topic_name(s->migration, topic),
			  partition);
		rd_kafka_queue_destroy(q);
	}
}

/* All lanes at once. false: one has not given back its partitions after timeout_ms; the group need not wait for it, its
 * epochs fence it. */
static bool shadow_take_back(struct shadow *s, int timeout_ms)
{
	int64_t deadline_us = clock_us() + timeout_ms * INT64_C(1000);
	uint64_t drops[MIGRATION_LANES_MAX];
	bool are_back = true;

	for (int i = 0; i < s->lane_count; i++)
		drops[i] = lane_drop(s->lanes[i]);
	for (int i = 0; i < s->lane_count; i++) {
		bool is_back;

		do {
			is_back = lane_has_dropped(s->lanes[i], drops[i], DROP_SLICE_MS);
			shadow_mark_alive(s);
		} while (!is_back && drops[i] && clock_us() < deadline_us);
		if (!is_back)
			log_warn("lane %d still waits for the target, its transaction is open; next step if it stays so: see who "
				 "blocks it there (pg_locks, pg_blocking_pids)", i);
		are_back = are_back && is_back;
	}
	return are_back;
}

static void shadow_revoked(void *arg)
{
	struct shadow *s = arg;

	shadow_mark_alive(s);
	shadow_take_back(s, DROP_TIMEOUT_MS);
}

/* One process per role, instance and migration: a session lock in the target, held as long as the
 * role runs. ret_has: false when another session has it. */
static bool shadow_try_lock(struct shadow *s, bool *ret_has, struct fault *f)
{
	char name[400];
	const char *values[] = { name };
	PGresult *r;

	snprintf(name, sizeof(name), "foreshadow %s %s %s", s->migration->name,
		 role_traits(s->role)->name, s->options->instance);
	r = pg_query_params(s->conn, f,
			    "SELECT pg_try_advisory_lock(hashtextextended($1, 0))::int", 1, values);
	if (!r)
		return false;
	*ret_has = pg_i64(r, 0, 0) != 0;
	PQclear(r);
	return true;
}

static bool shadow_lock(struct shadow *s, struct fault *f)
{
	int64_t end = clock_us() + LOCK_PATIENCE_MS * INT64_C(1000);
	bool has = false;

	for (;;) {
		if (!shadow_try_lock(s, &has, f))
			return false;
		if (has || shadow_must_stop(s))
			return true;
		if (clock_us() > end)
			return fault(f, FAULT_STOP,
				     "another process runs role %s of migration %s as instance \"%s\": "
				     "give this one an --instance of its own",
				     role_traits(s->role)->name, s->migration->name,
				     s->options->instance);
		shadow_sleep_ms(200);
	}
}

/* The role's own connection; waits for the target as long as it takes. */
static bool shadow_connect(struct shadow *s, struct fault *f)
{
	bool has_logged = false;

	while (!shadow_must_stop(s)) {
		s->conn = pg_connect(migration_target(s->migration, s->role), PG_PLAIN,
				     role_traits(s->role)->application, f);
		if (s->conn && progress_prepare(s->conn, f) && shadow_lock(s, f)) {
			shadow_status_problem(s->lanes_share.status, NULL);
			return true;
		}
		pg_close(&s->conn);
		shadow_status_problem(s->lanes_share.status, f->text);
		if (f->kind != FAULT_ENVIRONMENT)
			return false;
		if (!has_logged)
			log_warn("%s; trying again", f->text);
		has_logged = true;
		atomic_store(&s->lanes_share.alive_us, clock_us());
		shadow_sleep_ms(BACKOFF_MS);
	}
	return true;
}

static bool shadow_new_member(struct shadow *s, struct fault *f)
{
	struct consume_owner owner = { shadow_assigned, shadow_revoked, s };

	s->consume = consume_new(s->migration, s->role, s->options->instance, &owner, f);
	s->assigning = s->consume;
	return s->consume != NULL;
}

static void shadow_show_lanes(const struct shadow *s)
{
	metric_set(metric_cell(s->options->metrics, METRIC_LANES, role_traits(s->role)->name, NULL, NULL), s->scale.lanes);
}

/* What is looked at a few times a second. false: the role ends. */
static bool shadow_check(struct shadow *s, struct fault *f)
{
	struct shadow_summary sum = shadow_status_sum(s->lanes_share.status);

	for (int i = 0; i < s->lane_count; i++)
		if (!lane_is_well(s->lanes[i], f))
			return false;
	if (shadow_summary_is_stuck(&sum, clock_us()))
		return fault(f, FAULT_STOP, "nothing can move: %d of %d partitions stopped; %s",
			     sum.stopped, sum.owned, sum.why);
	if (!s->conn && !shadow_connect(s, f))
		return false;
	return true;
}

/*
 * The group says that somebody else joined under our name. It may have been ourselves: after a session
 * that timed out the handle joins anew, and what it had still under way is refused by that name. Who
 * holds the lock is sure.
 */
static bool shadow_is_still_itself(struct shadow *s, struct fault *f)
{
	struct fault ignored = { 0 };

	if (s->conn && pg_do(s->conn, &ignored, "SELECT 1"))
		return true;
	pg_close(&s->conn);
	return shadow_connect(s, f);
}

/* Until no lane holds a queue or a message of the handle, however long its target takes to answer. */
static bool shadow_let_go(struct shadow *s, struct fault *f)
{
	while (!shadow_take_back(s, DROP_TIMEOUT_MS))
		for (int i = 0; i < s->lane_count; i++)
			if (!lane_is_well(s->lanes[i], f))
				return false;
	return true;
}

/* A handle that is of no more use is replaced; lanes have given everything back by then. */
static bool shadow_renew_member(struct shadow *s, struct fault *f)
{
	bool is_fenced = f->kind == FAULT_FENCED;

	log_warn("%s; joining the group anew", f->text);
	consume_leave(s->consume);
	if (!shadow_let_go(s, f))
		return false;
	consume_free(s->consume);
	s->consume = NULL;
	if (is_fenced && !shadow_is_still_itself(s, f))
		return false;
	while (!shadow_must_stop(s)) {
		if (shadow_new_member(s, f))
			return true;
		if (f->kind != FAULT_ENVIRONMENT)
			return false;
		shadow_sleep_ms(BACKOFF_MS);
		shadow_mark_alive(s);
	}
	return true;
}

/* Do all partitions just go on, or wait where their rows say? What stands elsewhere would have to find its place again,
 * and a lane that has said nothing for long has a target that does not answer. */
static bool shadow_may_move(const struct shadow *s)
{
	int64_t now = clock_us();

	for (int t = 0; t < CONSUME_TOPICS; t++)
		for (int i = 0; i < s->migration->partition_count; i++) {
			struct shadow_status_part p =
				shadow_status_get(s->lanes_share.status, (enum consume_topic)t, i);
			bool goes_on = p.state == PART_OPEN || p.state == PART_WAITS_GATE || p.state == PART_WAITS_COPY;

			if (p.is_ours && (!goes_on || p.is_failing || now - p.at_us > MOVE_SILENCE_US))
				return false;
		}
	for (int i = 0; i < s->lane_count; i++)
		if (!lane_may_give(s->lanes[i]))
			return false;
	return true;
}

/* The lanes' load since the window began; begins the next one. */
static double shadow_load(struct shadow *s, int64_t now)
{
	int64_t rested = 0, passed = now - s->scale_us, before = s->rested_us;

	for (int i = 0; i < s->scale.lanes; i++)
		rested += lane_rested_us(s->lanes[i], now);
	s->rested_us = rested;
	s->scale_us = now;
	return s->scale.lanes - (double)(rested - before) / (double)passed;
}

/*
 * All are given back, at a drained point of each lane, and then handed out anew. If a lane is not there in time, each
 * lane gets its own again: behind the op that takes them away, so that nobody else has them meanwhile.
 */
static bool shadow_move(struct shadow *s, int lanes, struct fault *f)
{
	bool ok;

	if (shadow_take_back(s, MOVE_PATIENCE_MS))
		scale_set(&s->scale, lanes, clock_us());
	else
		scale_hold(&s->scale, clock_us());
	shadow_show_lanes(s);
	s->is_moving = true;
	ok = consume_hand_out(s->consume, f);
	s->is_moving = false;
	shadow_load(s, clock_us());
	return ok || shadow_renew_member(s, f);
}

static bool shadow_scale(struct shadow *s, struct fault *f)
{
	int64_t now = clock_us();
	double load;
	int lanes;

	if (!s->is_scaled || !s->consume || now - s->scale_us < SCALE_WINDOW_US)
		return true;
	load = shadow_load(s, now);
	log_debug("load %.2f of %d lanes", load, s->scale.lanes);
	lanes = scale_ask(&s->scale, load, now);
	if (failpoint("shadow.scale")) /* whatever the lanes are doing */
		lanes = s->scale.max + 1 - s->scale.lanes;
	else if (lanes == s->scale.lanes || !shadow_may_move(s))
		return true;
	log_info("lanes: %d -> %d (%.0f %% busy)", s->scale.lanes, lanes, load * 100 / s->scale.lanes);
	return shadow_move(s, lanes, f);
}

static bool shadow_turn(struct shadow *s, struct fault *f)
{
	shadow_mark_alive(s);
	if (s->consume && !consume_poll(s->consume, POLL_MS, f)) {
		if ((f->kind != FAULT_ENVIRONMENT && f->kind != FAULT_FENCED) ||
		    !shadow_renew_member(s, f))
			return false;
	}
	shadow_mark_alive(s);
	if (clock_us() < s->check_us)
		return true;
	s->check_us = clock_us() + CHECK_US;
	return shadow_check(s, f) && shadow_scale(s, f);
}

static struct metric_cell *shadow_stage(const struct shadow *s, const char *stage)
{
	struct metric_cell *c = metric_cell(s->options->metrics, METRIC_CHANGES, stage, role_traits(s->role)->name, NULL);

	metric_add(c, 0);
	return c;
}

/* A migration with windows has a gate, whichever process runs them. */
static void shadow_open_gate(struct shadow *s)
{
	struct lane_role *share = &s->lanes_share;

	if (!role_traits(s->role)->waits_for_gate || !s->migration->window_ms) {
		gate_open(&share->gate);
		return;
	}
	log_info("the primary waits for what the role reconcile finds right on the shadow (verify.window)");
	gate_follow(&share->gate, share->control, metric_cell(s->options->metrics, METRIC_GATE, NULL, NULL, NULL));
}

static bool shadow_start(struct shadow *s, struct fault *f)
{
	struct lane_role *share = &s->lanes_share;
	int lanes = s->options->lanes > 0 ? s->options->lanes : LANES_AUTO;

	if (lanes > s->migration->partition_count)
		lanes = s->migration->partition_count;
	share->versions = versions_new(share->control);
	share->incidents = incident_new(s->migration, s->options->metrics);
	share->applied = shadow_stage(s, "applied");
	share->covered = shadow_stage(s, "covered");
	share->copied = shadow_stage(s, "copied");
	if (!share->versions || !share->incidents)
		return fault(f, FAULT_INTERNAL, "no memory for a role");
	if (!shadow_connect(s, f))
		return false;
	for (; s->lane_count < lanes; s->lane_count++) {
		s->lanes[s->lane_count] = lane_new(share, s->lane_count, f);
		if (!s->lanes[s->lane_count])
			return false;
	}
	s->scale.lanes = s->scale.max = lanes;
	s->scale_us = clock_us();
	/* Where one partition has all changes, lanes change nothing. */
	s->is_scaled = s->options->lanes == 0 && s->migration->order != ORDER_TRANSACTION;
	shadow_show_lanes(s);
	return shadow_must_stop(s) || shadow_new_member(s, f);
}

static void shadow_end(struct shadow *s)
{
	if (s->consume)
		consume_leave(s->consume);
	for (int i = 0; i < s->lane_count; i++)
		lane_free(s->lanes[i]);
	consume_free(s->consume); /* nobody holds anything of it now */
	incident_free(s->lanes_share.incidents);
	versions_free(s->lanes_share.versions);
	pg_close(&s->conn);
}

bool shadow_run(const struct migration *m, enum role role, const struct shadow_options *o,
		struct control *control, struct framing *framing, struct shadow_status *status,
		struct fault *f)
{
	struct shadow s = {
		.migration = m,
		.options = o,
		.role = role,
		.lanes_share = {
			.migration = m, .role = role, .instance = o->instance, .control = control,
			.framing = framing, .status = status, .schema_finish = o->schema_finish,
			.learn = o->learn, .arg = o->arg,
		},
	};
	bool ok;

	log_thread(role_traits(role)->name);
	shadow_open_gate(&s);
	atomic_store(&s.lanes_share.alive_us, clock_us());
	ok = shadow_start(&s, f);
	while (ok && !shadow_must_stop(&s))
		ok = shadow_turn(&s, f);
	shadow_end(&s);
	if (ok)
		log_info("stopped");
	return ok;
}
