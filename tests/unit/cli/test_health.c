// SPDX-License-Identifier: Apache-2.0
/* When /healthz says that a role is stuck, and why. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <jansson.h>

#include "cli/health.h"
#include "core/buf.h"
#include "core/log.h"

enum { INGEST, SHADOW, PRIMARY, RECONCILE };
static const int64_t second = 1000 * 1000, now = INT64_C(1000) * 1000 * 1000;

/* All roles, a minute old, each of them well. */
static struct health_facts all_well(void)
{
	struct health_facts facts = { .now_us = now, .started_us = now - 60 * second, .stage = HEALTH_RUNNING };

	facts.ingest.phase = INGEST_STREAMING;
	facts.ingest.well_us = now - second;
	for (int i = 0; i < HEALTH_ROLES; i++) {
		facts.is_wanted[i] = true;
		facts.appliers[i].has_partition = i > 0;
		facts.appliers[i].worst = (struct shadow_worst) {
			CONSUME_CHANGES, 3, { .is_ours = true, .state = PART_OPEN, .at_us = now, .well_us = now - second }
		};
	}
	facts.standings[ROLE_SHADOW].beat_us = now - second;
	return facts;
}

static void assert_well(const struct health_facts *facts)
{
	struct health_verdict v;

	health_decide(facts, &v);
	for (int i = 0; i < HEALTH_ROLES; i++)
		assert_string_equal(v.roles[i].reason, "");
	assert_true(v.is_well);
}

/* This role alone, and the reason has these words. */
static void assert_stuck(const struct health_facts *facts, int role, const char *word, const char *second_word)
{
	struct health_verdict v;

	health_decide(facts, &v);
	assert_false(v.is_well);
	for (int i = 0; i < HEALTH_ROLES; i++)
		assert_int_equal(v.roles[i].is_well, i != role);
	if (!strstr(v.roles[role].reason, word) || !strstr(v.roles[role].reason, second_word))
		fail_msg("\"%s\" lacks \"%s\" or \"%s\"", v.roles[role].reason, word, second_word);
}

static void reconcile_that_does_not_move_is_stuck(void **state)
{
	struct health_facts facts = all_well();

	facts.standings[ROLE_SHADOW].beat_us = now - 40 * second;
	assert_stuck(&facts, RECONCILE, "the gate stands", "nothing was compared for 40 s");
	facts = all_well();
	facts.standings[ROLE_SHADOW].beat_us = 0;
	assert_stuck(&facts, RECONCILE, "the gate stands", "nothing was compared for 60 s");
}

static void a_gate_that_stands_for_long_is_said_with_the_reason(void **state)
{
	struct health_facts facts = all_well();
	struct standing_seen *s = &facts.standings[ROLE_SHADOW];

	*s = (struct standing_seen) { now - second, now - 10 * second, "2 tables are not right" };
	assert_well(&facts);
	s->since_us = now - 31 * second;
	assert_stuck(&facts, RECONCILE, "the gate stands for 31 s", "2 tables are not right");
	facts = all_well();
	facts.standings[ROLE_PRIMARY] = (struct standing_seen) { 0, now - 31 * second, "no connection" };
	assert_stuck(&facts, RECONCILE, "the primary cannot be compared for 31 s", "no connection");
}

static void roles_that_move_are_well(void **state)
{
	struct health_facts facts = all_well();

	(void)state;
	assert_well(&facts);
}

static void ingest_may_stand_still_for_a_while(void **state)
{
	struct health_facts facts = all_well();

	(void)state;
	facts.ingest.well_us = now - 30 * second;
	assert_well(&facts);
	facts.ingest.well_us = now - 31 * second;
	facts.ingest.outstanding = 12;
	assert_stuck(&facts, INGEST, "31 s", "12 records are not acknowledged");
}

static void ingest_that_waits_says_for_what(void **state)
{
	struct health_facts facts = all_well();

	(void)state;
	facts.ingest.phase = INGEST_WAITING;
	snprintf(facts.ingest.problem, sizeof(facts.ingest.problem), "source: connection refused");
	assert_well(&facts);
	facts.ingest.well_us = now - 40 * second;
	assert_stuck(&facts, INGEST, "waiting", "source: connection refused");
}

static void ingest_that_never_moved_is_as_old_as_the_process(void **state)
{
	struct health_facts facts = all_well();

	(void)state;
	facts.ingest = (struct ingest_numbers) { .phase = INGEST_STARTING };
	assert_stuck(&facts, INGEST, "starting", "60 s");
}

static void what_needs_a_person_is_not_waited_for(void **state)
{
	struct health_facts facts = all_well();
	struct health_applier *a = &facts.appliers[PRIMARY];

	(void)state;
	a->needs_person = true;
	a->worst.part.state = PART_STOPPED;
	snprintf(a->worst.part.why, sizeof(a->worst.part.why), "table public.t key 7");
	assert_stuck(&facts, PRIMARY, "changes partition 3: stopped", "table public.t key 7");
}

static void a_partition_that_stands_says_why(void **state)
{
	struct health_facts facts = all_well();
	struct shadow_status_part *p = &facts.appliers[SHADOW].worst.part;

	(void)state;
	p->state = PART_UNTAKEN;
	p->well_us = now - 45 * second;
	assert_stuck(&facts, SHADOW, "45 s", "untaken");
	snprintf(p->why, sizeof(p->why), "shadow: connection refused");
	assert_stuck(&facts, SHADOW, "45 s", "connection refused");
	p->at_us = p->well_us;
	assert_stuck(&facts, SHADOW, "45 s", "waits for an answer of the target");
}

static void a_role_without_partitions_is_well(void **state)
{
	struct health_facts facts = all_well();

	(void)state;
	facts.appliers[SHADOW].has_partition = false;
	facts.appliers[SHADOW].worst.part.well_us = 0;
	assert_well(&facts);
}

static void a_role_whose_target_does_not_let_it_in_is_stuck_after_a_while(void **state)
{
	struct health_facts facts = all_well();
	struct health_applier *a = &facts.appliers[SHADOW];

	(void)state;
	a->has_partition = false;
	a->problem_us = now - 10 * second;
	snprintf(a->problem, sizeof(a->problem), "shadow: the database system is starting up");
	assert_well(&facts);
	a->problem_us = now - 50 * second;
	assert_stuck(&facts, SHADOW, "50 s", "starting up");
}

static void silence_of_kafka_is_the_appliers_matter(void **state)
{
	struct health_facts facts = all_well();

	(void)state;
	facts.is_wanted[PRIMARY] = false;
	facts.kafka_silent_us = now - 20 * second;
	assert_well(&facts);
	facts.kafka_silent_us = now - 35 * second;
	facts.is_wanted[SHADOW] = false;
	assert_well(&facts);
	facts.is_wanted[SHADOW] = facts.is_wanted[PRIMARY] = true;
	facts.appliers[PRIMARY].problem_us = 0;
	struct health_verdict v;
	health_decide(&facts, &v);
	assert_true(v.roles[INGEST].is_well && !v.roles[SHADOW].is_well && !v.roles[PRIMARY].is_well);
	assert_non_null(strstr(v.roles[SHADOW].reason, "Kafka does not answer for 35 s"));
}

static void a_role_that_is_not_of_this_process_is_not_looked_at(void **state)
{
	struct health_facts facts = all_well();

	(void)state;
	facts.ingest.well_us = now - 100 * second;
	facts.is_wanted[INGEST] = false;
	assert_well(&facts);
}

static void a_start_may_take_a_while_and_an_end_as_long_as_it_likes(void **state)
{
	struct health_facts facts = all_well();
	struct health_verdict v;

	(void)state;
	facts.ingest.well_us = 0;
	facts.stage = HEALTH_STARTING;
	facts.started_us = now - 29 * second;
	assert_well(&facts);
	facts.started_us = now - 31 * second;
	health_decide(&facts, &v);
	assert_false(v.is_well);
	assert_non_null(strstr(v.roles[SHADOW].reason, "has not started for 31 s"));
	facts.stage = HEALTH_ENDING;
	assert_well(&facts);
}

static void the_answer_has_the_roles_of_this_process_and_no_secret(void **state)
{
	struct health_facts facts = all_well();
	struct health_verdict v;
	struct buf b;
	json_t *o, *roles;

	(void)state;
	log_secret("canary-9b1");
	facts.is_wanted[PRIMARY] = facts.is_wanted[RECONCILE] = false;
	facts.appliers[SHADOW].problem_us = now - 50 * second;
	/* Cut within a character, too. */
	snprintf(facts.appliers[SHADOW].problem, sizeof(facts.appliers[SHADOW].problem), "no \"canary-9b1\" here \xc3");
	health_decide(&facts, &v);
	buf_init(&b, 1 << 16);
	health_json(&facts, &v, &b);
	assert_null(strstr(buf_cstr(&b), "canary"));
	o = json_loads(buf_cstr(&b), 0, NULL);
	assert_string_equal(json_string_value(json_object_get(o, "status")), "stuck");
	assert_string_equal(json_string_value(json_object_get(o, "stage")), "running");
	roles = json_object_get(o, "roles");
	assert_int_equal(json_array_size(roles), 2);
	assert_string_equal(json_string_value(json_object_get(json_array_get(roles, 0), "role")), "ingest");
	assert_string_equal(json_string_value(json_object_get(json_array_get(roles, 0), "status")), "ok");
	assert_null(json_object_get(json_array_get(roles, 0), "reason"));
	assert_string_equal(json_string_value(json_object_get(json_array_get(roles, 1), "reason")),
			    "waits for 50 s: no \"***\" here ?");
	json_decref(o);
	buf_release(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(roles_that_move_are_well),
		cmocka_unit_test(reconcile_that_does_not_move_is_stuck),
		cmocka_unit_test(a_gate_that_stands_for_long_is_said_with_the_reason),
		cmocka_unit_test(ingest_may_stand_still_for_a_while),
		cmocka_unit_test(ingest_that_waits_says_for_what),
		cmocka_unit_test(ingest_that_never_moved_is_as_old_as_the_process),
		cmocka_unit_test(what_needs_a_person_is_not_waited_for),
		cmocka_unit_test(a_partition_that_stands_says_why),
		cmocka_unit_test(a_role_without_partitions_is_well),
		cmocka_unit_test(a_role_whose_target_does_not_let_it_in_is_stuck_after_a_while),
		cmocka_unit_test(silence_of_kafka_is_the_appliers_matter),
		cmocka_unit_test(a_role_that_is_not_of_this_process_is_not_looked_at),
		cmocka_unit_test(a_start_may_take_a_while_and_an_end_as_long_as_it_likes),
		cmocka_unit_test(the_answer_has_the_roles_of_this_process_and_no_secret),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
