// SPDX-License-Identifier: Apache-2.0
#include "cli/monitor.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "cli/http.h"
#include "core/clock.h"
#include "core/log.h"
#include "shadow/role.h"

enum {
	ASK_MS = 3000,
	KAFKA_TIMEOUT_MS = 2000,
	FORGET_US = 15 * 1000 * 1000, /* numbers of a server that has not answered since */
};

struct monitor {
	struct monitor_conf conf;
	struct metrics *metrics;
	struct metric_cell *source_lag, *retained, *safe, *apply_lag[2];
	struct http *http;
	int64_t started_us;
	_Atomic int stage;

	/* the asking thread */
	pthread_t thread;
	bool has_thread;
	int stop_fd;
	PGconn *conn;
	rd_kafka_t *kafka;
	_Atomic int64_t source_us;       /* when the source last answered */
	_Atomic int64_t kafka_silent_us; /* since when Kafka does not; 0: it does */
};

static bool is_applier_wanted(const struct monitor *mo, enum role role)
{
	return mo->conf.is_wanted[1 + role];
}

/* ---- asking servers: the thread ---- */

static void forget_source(struct monitor *mo)
{
	metric_clear(mo->source_lag);
	metric_clear(mo->retained);
	metric_clear(mo->safe);
}

static void set_field(struct metric_cell *c, const PGresult *r, int column)
{
	if (PQgetisnull(r, 0, column))
		metric_clear(c);
	else
		metric_set(c, pg_i64(r, 0, column));
}

/* A statement timeout, for a server that hangs; a network that does is seen by libpq's keepalives. */
static PGresult *ask_slot(struct monitor *mo, struct fault *f)
{
	const struct migration *m = mo->conf.m;
	char sql[600];

	if (!mo->conn) {
		mo->conn = pg_connect(&m->source, PG_PLAIN, m->slot, f);
		if (!mo->conn || !pg_do(mo->conn, f, "SET statement_timeout = '2s'"))
			return NULL;
	}
	snprintf(sql, sizeof(sql),
		 "SELECT greatest(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn), 0)::bigint,"
		 " pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint, safe_wal_size"
		 " FROM pg_replication_slots WHERE slot_name = '%s'",
		 m->slot);
	return pg_query_until(mo->conn, sql, mo->stop_fd, "asking the source about the slot", f);
}

static void look_at_source(struct monitor *mo)
{
	struct fault f = { 0 };
	PGresult *r = ask_slot(mo, &f);

	if (!r) {
		log_debug("metrics: %s", f.text);
		pg_close(&mo->conn);
		forget_source(mo);
		return;
	}
	if (PQntuples(r) == 1) {
		atomic_store(&mo->source_us, clock_us());
		set_field(mo->source_lag, r, 0);
		set_field(mo->retained, r, 1);
		set_field(mo->safe, r, 2);
	} else {
		forget_source(mo); /* no slot yet */
	}
	PQclear(r);
}

static bool kafka_answers(struct monitor *mo)
{
	const struct kafka_conf conf = { mo->conf.m->kafka, mo->conf.m->kafka_count, "foreshadow-monitor" };
	const struct rd_kafka_metadata *metadata;
	struct fault f = { 0 };

	if (!mo->kafka)
		mo->kafka = kafka_reader(&conf, &f);
	if (!mo->kafka || rd_kafka_metadata(mo->kafka, 0, NULL, &metadata, KAFKA_TIMEOUT_MS) != RD_KAFKA_RESP_ERR_NO_ERROR)
		return false;
	rd_kafka_metadata_destroy(metadata);
	return true;
}

static void look_at_kafka(struct monitor *mo)
{
	int64_t asked_us = clock_us();

	if (kafka_answers(mo))
		atomic_store(&mo->kafka_silent_us, 0);
	else if (!atomic_load(&mo->kafka_silent_us))
		atomic_store(&mo->kafka_silent_us, asked_us);
}

static void *ask_main(void *arg)
{
	struct monitor *mo = arg;
	struct pollfd stop = { mo->stop_fd, POLLIN, 0 };

	log_thread("monitor");
	do {
		if (mo->conf.is_wanted[0])
			look_at_source(mo);
		if (is_applier_wanted(mo, ROLE_SHADOW) || is_applier_wanted(mo, ROLE_PRIMARY))
			look_at_kafka(mo);
	} while (poll(&stop, 1, ASK_MS) == 0);
	pg_close(&mo->conn);
	if (mo->kafka)
		rd_kafka_destroy(mo->kafka);
	return NULL;
}

/* ---- pages: the server's thread ---- */

static int render_metrics(void *arg, struct buf *body)
{
	struct monitor *mo = arg;

	if (clock_us() - atomic_load(&mo->source_us) > FORGET_US)
		forget_source(mo);
	for (int role = 0; role < 2; role++) {
		struct shadow_summary sum = shadow_status_sum(mo->conf.status[role]);

		if (sum.owned > 0)
			metric_set(mo->apply_lag[role], (int64_t)(sum.lag_seconds * 1e6));
		else
			metric_clear(mo->apply_lag[role]);
	}
	metrics_render(mo->metrics, body);
	return 200;
}

static void collect_applier(struct shadow_status *s, struct health_applier *ret)
{
	ret->has_partition = shadow_status_worst(s, &ret->worst, &ret->needs_person);
	ret->problem_us = shadow_status_get_problem(s, ret->problem, sizeof(ret->problem));
}

static int render_health(void *arg, struct buf *body)
{
	struct monitor *mo = arg;
	struct health_facts facts = {
		.started_us = mo->started_us,
		.stage = (enum health_stage)atomic_load(&mo->stage),
		.kafka_silent_us = atomic_load(&mo->kafka_silent_us),
	};
	struct health_verdict verdict;

	memcpy(facts.is_wanted, mo->conf.is_wanted, sizeof(facts.is_wanted));
	ingest_status_read(mo->conf.ingest, &facts.ingest);
	for (int role = 0; role < 2; role++)
		collect_applier(mo->conf.status[role], &facts.appliers[1 + role]);
	for (int role = 0; role < 2; role++)
		standing_read(mo->conf.standings[role], &facts.standings[role]);
	facts.now_us = clock_us(); /* behind everything that it is compared with */
	health_decide(&facts, &verdict);
	health_json(&facts, &verdict, body);
	return verdict.is_well ? 200 : 503;
}

static const struct http_page pages[] = {
	{ "/metrics", "text/plain; version=0.0.4; charset=utf-8", render_metrics },
	{ "/healthz", "application/json", render_health },
};

/* ---- beginning and end ---- */

static bool make_metrics(struct monitor *mo, struct fault *f)
{
	mo->metrics = metrics_new();
	if (!mo->metrics)
		return fault(f, FAULT_INTERNAL, "out of memory");
	metric_set(metric_cell(mo->metrics, METRIC_BUILD, FORESHADOW_VERSION, mo->conf.m->name, NULL), 1);
	mo->source_lag = metric_cell(mo->metrics, METRIC_SOURCE_LAG, NULL, NULL, NULL);
	mo->retained = metric_cell(mo->metrics, METRIC_SLOT_RETAINED, NULL, NULL, NULL);
	mo->safe = metric_cell(mo->metrics, METRIC_SLOT_SAFE, NULL, NULL, NULL);
	for (int role = 0; role < 2; role++)
		mo->apply_lag[role] =
			metric_cell(mo->metrics, METRIC_APPLY_LAG, role_traits((enum role)role)->name, NULL, NULL);
	return true;
}

static bool start_asking(struct monitor *mo, struct fault *f)
{
	int err;

	mo->stop_fd = eventfd(0, EFD_CLOEXEC);
	err = mo->stop_fd < 0 ? EMFILE : pthread_create(&mo->thread, NULL, ask_main, mo);
	mo->has_thread = err == 0;
	return mo->has_thread || fault(f, FAULT_INTERNAL, "cannot start a thread: %s", strerror(err));
}

bool monitor_start(const struct monitor_conf *conf, struct monitor **ret, struct fault *f)
{
	struct monitor *mo;

	*ret = NULL;
	if (!conf->m->http.listen)
		return true;
	mo = calloc(1, sizeof(*mo));
	if (!mo)
		return fault(f, FAULT_INTERNAL, "out of memory");
	mo->conf = *conf;
	mo->stop_fd = -1;
	mo->started_us = clock_us();
	if (make_metrics(mo, f))
		mo->http = http_start(&conf->m->http, pages, sizeof(pages) / sizeof(pages[0]), mo, f);
	if (!mo->http || !start_asking(mo, f)) {
		monitor_stop(mo);
		return false;
	}
	log_info("/metrics and /healthz on http://%s", conf->m->http.listen);
	*ret = mo;
	return true;
}

void monitor_stop(struct monitor *mo)
{
	uint64_t one = 1;

	if (!mo)
		return;
	http_stop(mo->http);
	if (mo->has_thread) {
		if (write(mo->stop_fd, &one, sizeof(one)) < 0)
			log_warn("eventfd: %m");
		pthread_join(mo->thread, NULL);
	}
	if (mo->stop_fd >= 0)
		close(mo->stop_fd);
	metrics_free(mo->metrics);
	free(mo);
}

struct metrics *monitor_metrics(struct monitor *mo)
{
	return mo ? mo->metrics : NULL;
}

void monitor_stage(struct monitor *mo, enum health_stage stage)
{
	if (mo)
		atomic_store(&mo->stage, (int)stage);
}
