// SPDX-License-Identifier: Apache-2.0
/*
 * What the parts of a lane's turn share: tables of the target, the rows about copies, reports, and what
 * becomes of the partitions when something failed.
 */
#include "shadow/lane_state.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/log.h"
#include "shadow/enforced.h"
#include "shadow/role.h"

struct part *lane_part(struct lane *l, enum consume_topic topic, int partition)
{
	for (size_t i = 0; i < l->part_count; i++)
		if (l->parts[i]->topic == topic && l->parts[i]->partition == partition)
			return l->parts[i];
	return NULL;
}

int lane_rest(struct lane *l, struct pollfd *fds, nfds_t n, int64_t wait_us)
{
	const struct timespec wait = { wait_us / 1000000, wait_us % 1000000 * 1000 };
	int64_t begin_us = clock_us();
	int ready;

	atomic_store(&l->resting_since_us, begin_us);
	ready = ppoll(fds, n, &wait, NULL);
	atomic_fetch_add(&l->rested_us, clock_us() - begin_us);
	atomic_store(&l->resting_since_us, 0);
	return ready;
}

void lane_forget_tables(struct lane *l)
{
	for (size_t i = 0; i < LANE_TABLE_BUCKETS; i++)
		l->tables[i] = NULL;
	arena_reset(&l->table_arena);
}

bool lane_reread(struct lane *l)
{
	if (l->is_replica || l->has_reread)
		return false;
	l->has_reread = true;
	lane_forget_tables(l);
	return true;
}

bool lane_plain(struct lane *l, struct fault *f)
{
	if (!l->conn)
		return fault(f, FAULT_ENVIRONMENT, "the connection is gone");
	return apply_pause(l->apply, f);
}

static bool part_is_in_the_middle(const struct part *p)
{
	return p->state == PART_HELD || p->poison_offset >= 0 || p->poison_commit.v || p->careful.v || p->next.at.has_gap;
}

void lane_publish(struct lane *l)
{
	bool may_give = !l->is_open;

	for (int t = 0; t < CONSUME_TOPICS; t++)
		may_give = may_give && l->caution[t] == CAUTION_NONE;
	for (size_t i = 0; i < l->part_count; i++)
		may_give = may_give && !part_is_in_the_middle(l->parts[i]);
	atomic_store(&l->may_give, may_give);
	for (size_t i = 0; i < l->part_count; i++) {
		const struct part *p = l->parts[i];
		struct shadow_status_part s = {
			.is_ours = true,
			.state = p->state,
			.barrier = p->have.at.barrier,
			.barrier_us = p->have.barrier_us,
			.is_dry = p->is_dry && p->ahead_count == 0 &&
				  !consume_has_more(p->consume, p->topic, p->partition, p->next.next_offset),
			.since_us = p->since_us,
			.changes = p->have.changes,
			.covered = p->have.covered,
			.offset = p->have.next_offset,
			.read_offset = p->next.next_offset,
			.is_failing = l->is_down,
			.at_us = clock_us(),
		};

		snprintf(s.why, sizeof(s.why), "%s", *p->why || !l->is_down ? p->why : l->down_text);
		shadow_status_set(l->role->status, p->topic, p->partition, &s);
	}
}

void lane_moved(const struct lane *l, const struct part *p, const struct progress *now)
{
	metric_add(p->topic == CONSUME_CHANGES ? l->role->applied : l->role->copied,
		   now->changes - p->have.changes);
	metric_add(l->role->covered, now->covered - p->have.covered);
}

static struct lane_table *lane_table_known(struct lane *l, uint64_t fingerprint)
{
	struct lane_table *t = l->tables[fingerprint % LANE_TABLE_BUCKETS];

	while (t && t->fingerprint != fingerprint)
		t = t->next;
	return t;
}

const struct codec *lane_codec(struct lane *l, uint64_t fingerprint, struct fault *f)
{
	const struct lane_table *t = lane_table_known(l, fingerprint);

	return t ? t->codec : versions_codec(l->role->versions, fingerprint, f);
}

/* Ingest did not know of it when it chose the routing, and the routing stays. */
static void lane_warn_further(const struct lane *l, const struct relation *rel, const struct target_table *t)
{
	if (!t->more_unique || rel->routing != ROUTE_KEY)
		return;
	log_warn("%.*s on the %s has a further unique or exclusion index %.*s, made after the migration began: its "
		 "changes go by key, so a value that moves from row to row may be refused in between, which stops a "
		 "partition; next step: drop that index until the end (DROP INDEX %.*s), or start over (foreshadow "
		 "drop) and it routes the table",
		 SPAN_ARG(t->label), role_traits(l->role->role)->name, SPAN_ARG(t->further), SPAN_ARG(t->further));
}

/* What was routed otherwise cannot be applied as this file's order promises. */
static bool lane_check_order(const struct lane *l, const struct relation *rel, struct fault *f)
{
	bool is_whole = rel->routing == ROUTE_TRANSACTION;

	if (is_whole == (l->migration->order == ORDER_TRANSACTION))
		return true;
	return fault(f, FAULT_STOP,
		     "table %.*s.%.*s is routed by %s, but order is %s: set order back to what the migration "
		     "began with",
		     SPAN_ARG(rel->schema), SPAN_ARG(rel->table), routing_name(rel->routing),
		     is_whole ? "key" : "transaction");
}

enum lane_lookup lane_table(struct lane *l, uint64_t fingerprint, const struct lane_table **ret,
			    struct fault *f)
{
	struct lane_table *t = lane_table_known(l, fingerprint);
	struct target_table *target;
	const struct codec *codec;

	if (t) {
		*ret = t;
		return LANE_FOUND;
	}
	codec = versions_codec(l->role->versions, fingerprint, f);
	if (!codec)
		return f->kind == FAULT_NONE ? LANE_NO_SCHEMA : LANE_LOOKUP_FAILED;
	if (!lane_check_order(l, codec_relation(codec), f) || !lane_plain(l, f))
		return LANE_LOOKUP_FAILED;
	target = target_read(l->conn, codec_relation(codec), &l->table_arena, f);
	if (target && !l->is_replica && !enforced_read(l->conn, target, &l->table_arena, f))
		target = NULL;
	l->has_wasted_tables |= !target;
	if (!target)
		return f->kind == FAULT_STOP ? LANE_NO_TARGET : LANE_LOOKUP_FAILED;
	t = arena_alloc(&l->table_arena, sizeof(*t));
	if (!t) {
		fault(f, FAULT_INTERNAL, "no memory for the tables of a target");
		return LANE_LOOKUP_FAILED;
	}
	*t = (struct lane_table) { l->tables[fingerprint % LANE_TABLE_BUCKETS], fingerprint, codec,
				   target };
	l->tables[fingerprint % LANE_TABLE_BUCKETS] = t;
	lane_warn_further(l, codec_relation(codec), target);
	*ret = t;
	return LANE_FOUND;
}

/* A table that is live now has its indexes and constraints: what was read of it is old. */
bool lane_load_copies(struct lane *l, struct fault *f)
{
	bool is_changed;

	if (!lane_plain(l, f) || !copies_load(&l->copies, l->conn, &is_changed, f))
		return false;
	l->copies_us = clock_us() + LANE_COPY_POLL_US;
	l->has_old_copies = false;
	if (is_changed)
		lane_forget_tables(l);
	return true;
}

void lane_report(struct lane *l, struct part *p, const rd_kafka_message_t *msg,
		 const struct event_head *head, const struct relation *rel, const struct fault *f,
		 char *text, size_t n)
{
	char table[300] = "?";
	struct incident_report report = {
		.role = role_traits(l->role->role)->name,
		.topic = p->key.topic,
		.partition = p->partition,
		.offset = msg->offset,
		.head = head,
		.key = span(msg->key, msg->key_len),
		.fault = f,
	};

	if (rel)
		snprintf(table, sizeof(table), "%.*s.%.*s", SPAN_ARG(rel->target_schema),
			 SPAN_ARG(rel->target_table));
	report.table = span_str(table);
	incident_text(&report, text, n);
	incident_send(l->role->incidents, &report);
}

void lane_stop_part(struct lane *l, struct part *p, const rd_kafka_message_t *msg,
		    const struct event_head *head, const struct relation *rel, const struct fault *f)
{
	char text[sizeof(p->why)];

	lane_report(l, p, msg, head, rel, f, text, sizeof(text));
	part_set(p, PART_STOPPED, text);
}

static int64_t lane_backoff_us(struct lane *l)
{
	int ms = l->backoff_ms;

	l->backoff_ms = ms * 2 < LANE_BACKOFF_LAST_MS ? ms * 2 : LANE_BACKOFF_LAST_MS;
	/* Jitter: lanes that fell together should not come back together. */
	return (ms / 2 + rand() % (ms / 2 + 1)) * INT64_C(1000);
}

void lane_recovered(struct lane *l)
{
	l->backoff_ms = LANE_BACKOFF_FIRST_MS;
	if (l->is_down)
		log_info("going on");
	l->is_down = false;
}

static void lane_disconnect(struct lane *l, int64_t delay_us)
{
	pg_close(&l->conn);
	l->retry_us = clock_us() + delay_us;
	for (size_t i = 0; i < l->part_count; i++)
		part_untake(l->parts[i], delay_us);
	lane_forget_tables(l);
}

/* Which partitions of the batch are not ours any more? They are dropped for a while; if the group
 * still says that they are ours then, they are taken again. */
static bool lane_find_fenced(struct lane *l, struct fault *f)
{
	int fenced = 0, in_batch = 0;

	if (!lane_plain(l, f))
		return false;
	for (size_t i = 0; i < l->part_count; i++) {
		struct part *p = l->parts[i];
		uint64_t epoch;

		if (!p->is_in_batch)
			continue;
		in_batch++;
		if (!progress_epoch(l->conn, &p->key, &epoch, f))
			return false;
		if (epoch == p->have.epoch)
			continue;
		fenced++;
		log_warn("%s partition %d: fenced: another owner has epoch %llu, ours is %llu",
			 p->key.topic, p->partition, (unsigned long long)epoch,
			 (unsigned long long)p->have.epoch);
		part_untake(p, (LANE_FENCED_BACKOFF_MS + rand() % 500) * INT64_C(1000));
	}
	/* Epochs agree: the row of a copy has moved on, or ours was lost with the server's memory. */
	for (size_t i = 0; fenced == 0 && in_batch > 0 && i < l->part_count; i++)
		if (l->parts[i]->is_in_batch)
			part_untake(l->parts[i], lane_backoff_us(l));
	return fenced > 0 || lane_load_copies(l, f);
}

/* A connection that cannot be had, or is lost, names its server by itself. */
static void lane_say_down(const struct lane *l, const struct fault *f)
{
	if (l->conn && PQstatus(l->conn) == CONNECTION_OK)
		log_warn("database %s on %s port %s: %s; trying again", PQdb(l->conn), PQhost(l->conn),
			 PQport(l->conn), f->text);
	else
		log_warn("%s; trying again", f->text);
}

void lane_failed(struct lane *l, const struct fault *f)
{
	struct fault more = { 0 };
	int64_t delay_us;

	if (f->kind == FAULT_FENCED) {
		if (!lane_find_fenced(l, &more)) {
			lane_failed(l, &more);
			return;
		}
		delay_us = 0;
	} else {
		if (!l->is_down || strcmp(l->down_sqlstate, f->sqlstate) != 0)
			lane_say_down(l, f);
		l->is_down = true;
		snprintf(l->down_sqlstate, sizeof(l->down_sqlstate), "%s", f->sqlstate);
		snprintf(l->down_text, sizeof(l->down_text), "%.255s", f->text);
		delay_us = lane_backoff_us(l);
	}
	if (!l->conn || PQstatus(l->conn) != CONNECTION_OK) {
		lane_disconnect(l, delay_us);
		return;
	}
	for (size_t i = 0; i < l->part_count; i++)
		if (l->parts[i]->is_in_batch)
			part_rewind(l->parts[i], delay_us);
}
