// SPDX-License-Identifier: Apache-2.0
/*
 * run - the migration: each role is a thread here, or a process of its own with --role.
 *
 * Collect what is in scope, make topics and tables, start the roles, wait: for a signal (drain, exit 0), for what
 * --until asks, or for a role that cannot go on (the others drain; its fault is the exit code).
 *
 * Threads: the main thread waits; a role's thread writes its own struct only and its end to an eventfd.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/monitor.h"
#include "cli/until.h"
#include "core/clock.h"
#include "core/log.h"
#include "core/registry.h"
#include "ingest/catalog.h"
#include "ingest/ingest.h"
#include "ingest/source.h"
#include "reconcile/windows.h"
#include "shadow/late.h"
#include "shadow/schema.h"
#include "shadow/sequences.h"
#include "shadow/shadow.h"

enum { CATALOG_BYTES = 512 << 20, LOOK_MS = 200, TOPIC_WAIT_MS = 500, START_PATIENCE_MS = 15000,
       COPY_REPORT_US = 5000000 };

/* Reconcile looks at each target in a thread of its own. */
enum run_role { RUN_INGEST, RUN_SHADOW, RUN_PRIMARY, RUN_RECONCILE, RUN_RECONCILE_PRIMARY, RUN_ROLES };
static const char *const run_names[RUN_ROLES] = { "ingest", "shadow", "primary", "reconcile", "reconcile" };
static const char *const run_threads[RUN_ROLES] = { "ingest", "shadow", "primary", "reconcile", "reconcile primary" };

struct run;

/* One role in this process. Its thread owns everything but wanted and started. */
struct runner {
	struct run *run;
	enum run_role role;
	bool is_wanted, is_started, is_clean;
	pthread_t thread;
	_Atomic bool has_ended;
	struct fault fault;
};

struct run {
	const struct migration *m;
	const char *instance;
	char host[256];
	struct arena arena;          /* of the catalog */
	struct catalog catalog;
	uint32_t *oids;              /* of the source tables in scope */
	size_t table_count;
	struct kafka_conf kafka;
	atomic_bool stop;
	bool is_reached;             /* what --until asks for */
	int stop_fd, ended_fd;       /* eventfds: stop was set; a role's thread has ended */
	int signal_fd;               /* readable: a signal came */
	struct ingest_status *ingest;
	struct shadow_status *status[2]; /* by enum role */
	struct standing *standings[2];   /* likewise */
	struct monitor *monitor;         /* NULL: nothing is served */
	struct runner runners[RUN_ROLES];
};

static enum role role_of(enum run_role role)
{
	return role == RUN_SHADOW || role == RUN_RECONCILE ? ROLE_SHADOW : ROLE_PRIMARY;
}

static struct schema_scope run_scope(const struct run *run)
{
	return (struct schema_scope) { run->oids, run->catalog.relations, run->table_count };
}

/* ---- the roles' threads ---- */

/* For the hooks of shadow_run. */
struct apply_hooks {
	struct run *run;
	enum role role;
	struct framing *framing;
	struct registry *registry;
};

/* Sequences that could not be set keep no table from becoming live: the end of `run --until` sets them, too. */
static bool finish_schema(void *arg, bool is_copied, struct fault *f)
{
	struct apply_hooks *h = arg;
	const struct schema_scope scope = run_scope(h->run);
	struct fault why = { 0 };
	bool ok = schema_finish(h->run->m, h->role, &scope, h->run->stop_fd, f);

	if (is_copied && !sequences_set(h->run->m, h->role, &scope, true, &why))
		log_warn("%s; the end of run --until sets them", why.text);
	return ok;
}

static bool learn_schema(void *arg, int32_t id, struct fault *f)
{
	struct apply_hooks *h = arg;

	return registry_learn(h->registry, h->framing, id, f);
}

/* Leaders of topics just made may still be moving: asked again for a while. */
static struct control *open_control(struct run *run, struct fault *f)
{
	int64_t give_up_us = clock_us() + (int64_t)START_PATIENCE_MS * 1000;
	struct control *control;

	while (!(control = control_open(&run->kafka, run->m->control_topic, f))) {
		struct pollfd p = { run->stop_fd, POLLIN, 0 };
		if (f->kind != FAULT_ENVIRONMENT || clock_us() > give_up_us || poll(&p, 1, TOPIC_WAIT_MS) > 0)
			return NULL;
		log_warn("%s; trying again", f->text);
		fault_reset(f);
	}
	return control;
}

static bool run_apply(struct run *run, enum run_role role, struct fault *f)
{
	struct apply_hooks hooks = { run, role_of(role), NULL, NULL };
	const struct migration *m = run->m;
	struct control *control = open_control(run, f);
	bool ok = control != NULL;

	hooks.framing = framing_new(m->registry_url ? FRAMING_CONFLUENT : FRAMING_SINGLE_OBJECT);
	if (ok && m->registry_url)
		ok = (hooks.registry = registry_new(m->registry_url, f)) != NULL;
	if (ok)
		ok = shadow_run(m, hooks.role,
				&(struct shadow_options) {
					.instance = run->instance,
					.lanes = m->lanes,
					.metrics = monitor_metrics(run->monitor),
					.stop = &run->stop,
					.schema_finish = finish_schema,
					.learn = m->registry_url ? learn_schema : NULL,
					.arg = &hooks,
				},
				control, hooks.framing, run->status[hooks.role], f);
	control_close(control);
	registry_free(hooks.registry);
	framing_free(hooks.framing);
	return ok;
}

static bool run_ingest(struct run *run, struct fault *f)
{
	return ingest_run(run->m,
			  &(struct ingest_options) {
				  .stop = &run->stop,
				  .stop_fd = run->stop_fd,
				  .instance = run->instance,
				  .metrics = monitor_metrics(run->monitor),
				  .patience_ms = START_PATIENCE_MS,
			  },
			  run->ingest, f);
}

static bool run_reconcile(struct run *run, enum role role, struct fault *f)
{
	struct apply_hooks hooks = { .run = run };
	const struct migration *m = run->m;
	struct control *control = open_control(run, f);
	bool ok = control != NULL;

	hooks.framing = framing_new(m->registry_url ? FRAMING_CONFLUENT : FRAMING_SINGLE_OBJECT);
	if (ok && m->registry_url)
		ok = (hooks.registry = registry_new(m->registry_url, f)) != NULL;
	if (ok)
		ok = windows_run(m, control, hooks.framing,
				 &(struct windows_options) {
					 .role = role,
					 .standing = run->standings[role],
					 .metrics = monitor_metrics(run->monitor),
					 .stop = &run->stop,
					 .stop_fd = run->stop_fd,
					 .learn = m->registry_url ? learn_schema : NULL,
					 .arg = &hooks,
				 },
				 f);
	control_close(control);
	registry_free(hooks.registry);
	framing_free(hooks.framing);
	return ok;
}

static bool run_role(struct runner *r)
{
	switch (r->role) {
	case RUN_INGEST:
		return run_ingest(r->run, &r->fault);
	case RUN_RECONCILE:
	case RUN_RECONCILE_PRIMARY:
		return run_reconcile(r->run, role_of(r->role), &r->fault);
	case RUN_SHADOW:
	case RUN_PRIMARY:
	case RUN_ROLES:
		break;
	}
	return run_apply(r->run, r->role, &r->fault);
}

static void *runner_main(void *arg)
{
	struct runner *r = arg;
	uint64_t one = 1;

	log_thread(run_threads[r->role]);
	r->is_clean = run_role(r);
	if (r->is_clean)
		log_info("%s ended", run_threads[r->role]);
	else
		log_error("%s stopped: %s", run_threads[r->role], r->fault.text);
	atomic_store(&r->has_ended, true);
	if (write(r->run->ended_fd, &one, sizeof(one)) < 0)
		log_warn("eventfd: %s", strerror(errno));
	return NULL;
}

/* ---- before they start ---- */

static bool serve(struct run *run, struct fault *f)
{
	struct monitor_conf conf = {
		.m = run->m,
		.ingest = run->ingest,
		.status = { run->status[ROLE_SHADOW], run->status[ROLE_PRIMARY] },
		.standings = { run->standings[ROLE_SHADOW], run->standings[ROLE_PRIMARY] },
	};

	for (int i = 0; i < HEALTH_ROLES; i++)
		conf.is_wanted[i] = run->runners[i].is_wanted;
	return monitor_start(&conf, &run->monitor, f);
}

static bool choose_roles(struct run *run, const char *role, struct fault *f)
{
	bool found = false;

	for (int i = 0; i < RUN_ROLES; i++) {
		run->runners[i] = (struct runner) { .run = run, .role = (enum run_role)i };
		run->runners[i].is_wanted = !role || strcmp(role, run_names[i]) == 0;
		found |= run->runners[i].is_wanted;
	}
	if (!run->m->window_ms && role && strcmp(role, run_names[RUN_RECONCILE]) == 0)
		return fault(f, FAULT_USAGE,
			     "--role reconcile: verify.window is off; next step: verify: {window: 5s} in %s",
			     run->m->path);
	run->runners[RUN_RECONCILE].is_wanted &= run->m->window_ms > 0;
	run->runners[RUN_RECONCILE_PRIMARY].is_wanted = run->runners[RUN_RECONCILE].is_wanted;
	return found || fault(f, FAULT_USAGE, "--role %s: wanted ingest, shadow, primary or reconcile", role);
}

static bool wants_targets(const struct run *run)
{
	return run->runners[RUN_SHADOW].is_wanted || run->runners[RUN_PRIMARY].is_wanted;
}

static bool read_scope(struct run *run, struct fault *f)
{
	const struct catalog *catalog = &run->catalog;
	PGconn *conn = pg_connect(&run->m->source, PG_PLAIN, run->m->slot, f);

	bool ok = conn && source_check(conn, f) && catalog_read(conn, run->m, &run->arena, &run->catalog, f) &&
		  catalog_accept(catalog, run->m, f);
	if (ok) {
		run->table_count = catalog->relation_count;
		run->oids = arena_alloc(&run->arena, catalog->relation_count * sizeof(*run->oids));
		for (size_t i = 0; run->oids && i < catalog->relation_count; i++)
			run->oids[i] = catalog->relations[i]->oid;
		ok = run->oids || fault(f, FAULT_INTERNAL, "out of memory");
	}
	pg_close(&conn);
	return ok;
}

static bool signal_came(const struct run *run)
{
	struct pollfd p = { run->signal_fd, POLLIN, 0 };

	return poll(&p, 1, 0) > 0;
}

static bool prepare_targets(struct run *run, bool *ret_stopped, struct fault *f)
{
	const struct schema_scope scope = run_scope(run);

	for (int i = RUN_SHADOW; i <= RUN_PRIMARY; i++)
		if (run->runners[i].is_wanted &&
		    !schema_prepare(run->m, role_of((enum run_role)i), &scope, run->signal_fd, f)) {
			*ret_stopped = f->kind == FAULT_ENVIRONMENT && signal_came(run);
			return false;
		}
	return true;
}

/* The control topic is made last: while it is there, another one that is missing was lost. */
static bool ensure_topics(rd_kafka_t *client, const struct migration *m, bool may_create, struct fault *f)
{
	const struct kafka_topic_spec others[] = {
		{ m->changes_topic, m->partition_count, false },
		{ m->snapshot_topic, m->partition_count, false },
		{ m->incidents_topic, 1, false },
	};
	const struct kafka_topic_spec control = { m->control_topic, 1, true };
	const size_t n = sizeof(others) / sizeof(*others);

	if (kafka_topics_ensure(client, &control, 1, false, f))
		return kafka_topics_ensure(client, others, n, false, f);
	if (f->kind != FAULT_LOST)
		return false;
	fault_reset(f);
	if (!may_create)
		return fault(f, FAULT_ENVIRONMENT, "ingest to make the topics of a new migration");
	return kafka_topics_ensure(client, others, n, true, f) && kafka_topics_ensure(client, &control, 1, true, f);
}

/* Ingest makes the topics when the migration is new; consumers started before it wait for them. */
static bool prepare_topics(struct run *run, bool *ret_stopped, struct fault *f)
{
	bool may_create = run->runners[RUN_INGEST].is_wanted, ok = false, has_said = false;
	rd_kafka_t *client = kafka_reader(&run->kafka, f);

	while (client) {
		struct pollfd p = { run->signal_fd, POLLIN, 0 };
		ok = ensure_topics(client, run->m, may_create, f);
		if (ok || may_create || f->kind != FAULT_ENVIRONMENT)
			break;
		if (!has_said)
			log_info("waiting for %s", f->text);
		has_said = true;
		if (poll(&p, 1, TOPIC_WAIT_MS) > 0) {
			*ret_stopped = true;
			break;
		}
		fault_reset(f);
	}
	if (client)
		rd_kafka_destroy(client);
	return ok;
}

/* ---- waiting ---- */

static int block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static bool start(struct run *run, struct fault *f)
{
	monitor_stage(run->monitor, HEALTH_RUNNING);
	for (int i = 0; i < RUN_ROLES; i++) {
		struct runner *r = &run->runners[i];
		if (!r->is_wanted)
			continue;
		int err = pthread_create(&r->thread, NULL, runner_main, r);
		if (err)
			return fault(f, FAULT_INTERNAL, "cannot start a thread: %s", strerror(err));
		r->is_started = true;
	}
	return true;
}

static bool any_has_ended(const struct run *run)
{
	for (int i = 0; i < RUN_ROLES; i++)
		if (run->runners[i].is_started && atomic_load(&run->runners[i].has_ended))
			return true;
	return false;
}

/* A line every few seconds while copies run: rows, bytes, what is left. */
static void report_copies(struct run *run, int64_t *next_us)
{
	struct ingest_numbers n;
	uint64_t rows = 0, done = 0, total = 0;
	double seconds = 0;

	if (clock_us() < *next_us || !run->runners[RUN_INGEST].is_wanted)
		return;
	*next_us = clock_us() + COPY_REPORT_US;
	ingest_status_read(run->ingest, &n);
	for (size_t i = 0; i < n.copy_count; i++) {
		rows += n.copies[i].rows;
		done += n.copies[i].bytes_done;
		total += n.copies[i].bytes_total;
		seconds = n.copies[i].seconds > seconds ? n.copies[i].seconds : seconds;
	}
	if (n.copy_count == 0 || n.tables_complete == n.tables)
		return;
	log_info("copying tables=%zu/%zu rows=%llu mb=%.1f/%.1f eta_seconds=%.0f", n.tables_complete, n.tables,
		 (unsigned long long)rows, (double)done / 1e6, (double)total / 1e6,
		 done && total > done ? seconds * (double)(total - done) / (double)done : 0);
}

/* Until a signal, the goal (run->is_reached), or the end of a role. */
static bool wait_for_end(struct run *run, struct until *until, struct fault *f)
{
	int64_t report_us = clock_us() + COPY_REPORT_US;

	while (!any_has_ended(run)) {
		struct pollfd fds[2] = { { run->signal_fd, POLLIN, 0 }, { run->ended_fd, POLLIN, 0 } };
		if (poll(fds, 2, LOOK_MS) < 0 && errno != EINTR)
			return fault(f, FAULT_INTERNAL, "poll: %s", strerror(errno));
		report_copies(run, &report_us);
		if (fds[0].revents) {
			log_info("signal received, draining");
			return true;
		}
		if (until && !until_look(until, &run->is_reached, f))
			return false;
		if (run->is_reached) {
			char goal[LSN_TEXT];
			log_info("reached %s, draining", lsn_format(until->goal, goal));
			return true;
		}
	}
	return true;
}

/* The first fault of a role becomes f. */
static bool join(struct run *run, struct fault *f)
{
	bool ok = true;
	uint64_t one = 1;

	monitor_stage(run->monitor, HEALTH_ENDING);
	atomic_store(&run->stop, true);
	if (write(run->stop_fd, &one, sizeof(one)) < 0)
		log_warn("eventfd: %s", strerror(errno));
	for (int i = 0; i < RUN_ROLES; i++) {
		struct runner *r = &run->runners[i];
		if (!r->is_started)
			continue;
		pthread_join(r->thread, NULL);
		if (!r->is_clean && ok) {
			*f = r->fault;
			ok = fault_in(f, "%s", run_threads[i]);
		}
	}
	return ok;
}

/* The roles have ended: what is read now is past every value in the rows of the targets (see sequences.h). */
static bool set_sequences(struct run *run, struct fault *f)
{
	const struct schema_scope scope = run_scope(run);

	for (int i = RUN_SHADOW; i <= RUN_PRIMARY; i++)
		if (run->runners[i].is_wanted &&
		    !sequences_set(run->m, role_of((enum run_role)i), &scope, false, f))
			return fault_in(f, "the rows are complete, run again with --until");
	return true;
}

/* What is owed (finish.c) first: tables may be live without a foreign key, or this run's roles did not get to it. */
static bool build_rest(const struct run *run, enum role role, const struct schema_scope *scope, struct fault *f)
{
	return schema_finish(run->m, role, scope, run->signal_fd, f) &&
	       late_build(run->m, role, scope, run->instance, run->signal_fd, f);
}

/* At the end, with nothing applied any more; a signal leaves it to the next run. The first fault becomes f. */
static bool build_late(struct run *run, struct fault *f)
{
	const struct schema_scope scope = run_scope(run);
	bool ok = true;

	for (int i = RUN_SHADOW; i <= RUN_PRIMARY; i++) {
		struct fault why = { 0 };
		if (!run->runners[i].is_wanted || signal_came(run) ||
		    build_rest(run, role_of((enum run_role)i), &scope, &why))
			continue;
		if (signal_came(run)) {
			log_warn("stopped by a signal: what comes late is built by the next run with --until");
		} else if (ok) {
			*f = why;
			ok = false;
		}
	}
	return ok;
}

/* For the threads that this one makes, too: where we share a machine with the source, a target or Kafka, one of ours
 * that wakes up does not push a process of theirs off its processor (sched(7)). */
static void wait_our_turn(void)
{
	const struct sched_param none = { 0 };

	/* Another policy is what somebody chose for us. */
	if (sched_getscheduler(0) == SCHED_OTHER && sched_setscheduler(0, SCHED_BATCH, &none) != 0)
		log_debug("SCHED_BATCH: %s", strerror(errno));
}

bool cmd_run(struct cli *c, struct fault *f)
{
	struct run run = { .m = &c->m, .kafka = { c->m.kafka, c->m.kafka_count, c->m.slot }, .stop_fd = -1, .ended_fd = -1,
			   .signal_fd = -1 };
	struct until until = { .m = &c->m };
	bool is_stopped = false;

	wait_our_turn();
	arena_init(&run.arena, CATALOG_BYTES);
	gethostname(run.host, sizeof(run.host) - 1);
	run.instance = c->instance ? c->instance : run.host;
	if (!choose_roles(&run, c->role, f) || (c->until && !until_parse(&until, c->until, f))) {
		arena_release(&run.arena);
		return false;
	}
	run.signal_fd = block_signals();
	run.ended_fd = eventfd(0, EFD_CLOEXEC);
	run.stop_fd = eventfd(0, EFD_CLOEXEC);
	run.ingest = ingest_status_new();
	for (int i = 0; i < 2; i++) {
		run.status[i] = shadow_status_new(c->m.partition_count);
		run.standings[i] = standing_new();
	}
	bool ok = serve(&run, f) && read_scope(&run, f) && prepare_topics(&run, &is_stopped, f) &&
		  (!wants_targets(&run) || prepare_targets(&run, &is_stopped, f));
	if (ok) {
		until.table_count = run.table_count;
		until.looks_at[ROLE_SHADOW] = run.runners[RUN_SHADOW].is_wanted;
		until.looks_at[ROLE_PRIMARY] = run.runners[RUN_PRIMARY].is_wanted;
		log_info("migration %s, instance %s, %zu tables", c->m.name, run.instance, run.table_count);
		ok = start(&run, f) && wait_for_end(&run, c->until ? &until : NULL, f);
		ok = join(&run, f) && ok;
		if (ok && run.is_reached)
			ok = set_sequences(&run, f) && build_late(&run, f);
	}
	monitor_stop(run.monitor);
	close(run.signal_fd);
	close(run.ended_fd);
	close(run.stop_fd);
	ingest_status_free(run.ingest);
	for (int i = 0; i < 2; i++) {
		shadow_status_free(run.status[i]);
		standing_free(run.standings[i]);
	}
	arena_release(&run.arena);
	return ok || is_stopped;
}
