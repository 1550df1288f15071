// SPDX-License-Identifier: Apache-2.0
/*
 * monitor - what `run` serves under http: /metrics and /healthz.
 *
 * Pages are made from what the roles keep in memory, so they are answered whatever the servers do. What only a
 * server can say (how much WAL the slot holds back; does Kafka answer) a thread of its own asks every few seconds:
 * a question that hangs makes its numbers unknown, and delays no page.
 *
 * Every function takes NULL: nothing is served.
 */
#ifndef CLI_MONITOR_H
#define CLI_MONITOR_H

#include "cli/health.h"
#include "core/metric.h"
#include "core/migration.h"

struct monitor_conf {
	const struct migration *m;
	bool is_wanted[HEALTH_ROLES];   /* ingest, shadow, primary */
	struct ingest_status *ingest;   /* these outlive the monitor */
	struct shadow_status *status[2]; /* by enum role */
	struct standing *standings[2];   /* likewise; of reconcile */
};

/* *ret: NULL when the file has no http:. false: it cannot be served. */
struct monitor;
bool monitor_start(const struct monitor_conf *conf, struct monitor **ret, struct fault *f);
void monitor_stop(struct monitor *mo);

/* For the roles; ends with monitor_stop. */
struct metrics *monitor_metrics(struct monitor *mo);
/* Thread: any. */
void monitor_stage(struct monitor *mo, enum health_stage stage);

#endif
