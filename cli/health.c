// SPDX-License-Identifier: Apache-2.0
#include "cli/health.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

#include "core/buf.h"
#include "core/log.h"
#include "shadow/consume.h"

static const char *const role_names[HEALTH_ROLES] = { "ingest", "shadow", "primary", "reconcile" };
static const char *const stage_names[] = {
	[HEALTH_STARTING] = "starting", [HEALTH_RUNNING] = "running", [HEALTH_ENDING] = "ending"
};
static const char *const topic_names[CONSUME_TOPICS] = {
	[CONSUME_CHANGES] = "changes", [CONSUME_SNAPSHOT] = "snapshot"
};

static bool is_overdue(const struct health_facts *facts, int64_t since_us)
{
	return facts->now_us - since_us > HEALTH_PATIENCE_US;
}

static int64_t seconds_since(const struct health_facts *facts, int64_t since_us)
{
	return (facts->now_us - since_us) / 1000000;
}

/* Each returns true, or false and why not. */

static bool ingest_is_well(const struct health_facts *facts, char *reason, size_t n)
{
	const struct ingest_numbers *i = &facts->ingest;
	int64_t since_us = i->well_us ? i->well_us : facts->started_us;
	int64_t seconds = seconds_since(facts, since_us);

	if (!is_overdue(facts, since_us))
		return true;
	if (i->phase == INGEST_STREAMING)
		snprintf(reason, n,
			 "nothing moved for %" PRId64 " s: %" PRIu64 " records are not acknowledged by Kafka, %" PRIu64
			 " bytes of WAL are not confirmed",
			 seconds, i->outstanding, i->lag_bytes);
	else
		snprintf(reason, n, "%s, nothing moved for %" PRId64 " s%s%s", ingest_phase_name(i->phase), seconds,
			 *i->problem ? ": " : "", i->problem);
	return false;
}

static bool partition_is_well(const struct health_facts *facts, const struct health_applier *a, char *reason, size_t n)
{
	const struct shadow_status_part *p = &a->worst.part;

	if (!a->has_partition || (!a->needs_person && !is_overdue(facts, p->well_us)))
		return true;
	if (a->needs_person)
		snprintf(reason, n, "%s partition %d: %s: %s", topic_names[a->worst.topic], a->worst.partition,
			 part_state_name(p->state), p->why);
	else
		snprintf(reason, n, "%s partition %d: nothing moved for %" PRId64 " s: %s", topic_names[a->worst.topic],
			 a->worst.partition, seconds_since(facts, p->well_us),
			 is_overdue(facts, p->at_us) ? "its lane waits for an answer of the target"
			 : *p->why                   ? p->why
						     : part_state_name(p->state));
	return false;
}

static bool applier_is_well(const struct health_facts *facts, const struct health_applier *a, char *reason, size_t n)
{
	if (!partition_is_well(facts, a, reason, n))
		return false;
	if (a->problem_us && is_overdue(facts, a->problem_us)) {
		snprintf(reason, n, "waits for %" PRId64 " s: %s", seconds_since(facts, a->problem_us), a->problem);
		return false;
	}
	/* Whether there is anything to do only Kafka knows. */
	if (facts->kafka_silent_us && is_overdue(facts, facts->kafka_silent_us)) {
		snprintf(reason, n, "Kafka does not answer for %" PRId64 " s",
			 seconds_since(facts, facts->kafka_silent_us));
		return false;
	}
	return true;
}

/* The primary is only compared where the gate lets it go: waiting is nothing to report. */
static bool reconcile_is_well(const struct health_facts *facts, char *reason, size_t n)
{
	const struct standing_seen *shadow = &facts->standings[ROLE_SHADOW];
	int64_t since_us = shadow->beat_us ? shadow->beat_us : facts->started_us;

	for (int role = 0; role < 2; role++)
		if (facts->standings[role].since_us && is_overdue(facts, facts->standings[role].since_us)) {
			snprintf(reason, n, "%s for %" PRId64 " s: %s",
				 role == ROLE_SHADOW ? "the gate stands" : "the primary cannot be compared",
				 seconds_since(facts, facts->standings[role].since_us), facts->standings[role].why);
			return false;
		}
	if (!is_overdue(facts, since_us))
		return true;
	snprintf(reason, n, "the gate stands: nothing was compared for %" PRId64 " s", seconds_since(facts, since_us));
	return false;
}

static bool role_is_well(const struct health_facts *facts, int role, char *reason, size_t n)
{
	switch (facts->stage) {
	case HEALTH_STARTING:
		if (!is_overdue(facts, facts->started_us))
			return true;
		snprintf(reason, n, "has not started for %" PRId64 " s: topics and tables are not ready yet, see the log",
			 seconds_since(facts, facts->started_us));
		return false;
	case HEALTH_RUNNING:
		return role == 0                  ? ingest_is_well(facts, reason, n)
		       : role == HEALTH_ROLES - 1 ? reconcile_is_well(facts, reason, n)
						  : applier_is_well(facts, &facts->appliers[role], reason, n);
	case HEALTH_ENDING:
		return true;
	}
	return true;
}

void health_decide(const struct health_facts *facts, struct health_verdict *ret)
{
	*ret = (struct health_verdict) { .is_well = true };
	for (int i = 0; i < HEALTH_ROLES; i++) {
		ret->roles[i].name = role_names[i];
		ret->roles[i].is_wanted = facts->is_wanted[i];
		if (!facts->is_wanted[i])
			continue;
		ret->roles[i].is_well =
			role_is_well(facts, i, ret->roles[i].reason, sizeof(ret->roles[i].reason));
		ret->is_well &= ret->roles[i].is_well;
	}
}

/* A server's words may hold a secret, or be cut within a character. */
static json_t *reason_json(const char *text)
{
	char copy[900];
	json_t *v;

	snprintf(copy, sizeof(copy), "%s", text);
	log_redact(copy);
	v = json_string(copy);
	for (char *p = copy; !v && *p; p++)
		if ((unsigned char)*p >= 0x80)
			*p = '?';
	return v ? v : json_string(copy);
}

void health_json(const struct health_facts *facts, const struct health_verdict *v, struct buf *out)
{
	json_t *roles = json_array(), *o;
	char *text;

	for (int i = 0; i < HEALTH_ROLES; i++) {
		if (!v->roles[i].is_wanted)
			continue;
		o = json_pack("{s:s, s:s}", "role", v->roles[i].name, "status", v->roles[i].is_well ? "ok" : "stuck");
		if (!v->roles[i].is_well)
			json_object_set_new(o, "reason", reason_json(v->roles[i].reason));
		json_array_append_new(roles, o);
	}
	o = json_pack("{s:s, s:s, s:o}", "status", v->is_well ? "ok" : "stuck", "stage", stage_names[facts->stage],
		      "roles", roles);
	text = json_dumps(o, JSON_COMPACT);
	buf_str(out, text ? text : "{}");
	buf_u8(out, '\n');
	free(text);
	json_decref(o);
}
