// SPDX-License-Identifier: Apache-2.0
#include "ingest/life.h"

#include <assert.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/failpoint.h"
#include "core/log.h"
#include "core/registry.h"
#include "ingest/families.h"
#include "ingest/resume.h"

enum {
	ARENA_BYTES = 256 << 20,
	FEEDBACK_US = 1000 * 1000,
	FEEDBACK_SOON_US = 200 * 1000, /* when something new can be confirmed */
	SLOT_POLL_MS = 500,
	SLOT_ALIVE_US = 5 * 1000 * 1000,
	BARRIER_US = 200 * 1000,
	BARRIER_WHOLE_US = 50 * 1000, /* a barrier is what ends a transaction that nothing follows */
	SLOT_MARGIN_MS = 10 * 1000,
	SLOT_WAIT_MS = 70 * 1000, /* when wal_sender_timeout is off */
};

bool life_is_stopped(const struct life *l)
{
	return l->options->stop && atomic_load(l->options->stop);
}

/* ---- waiting ---- */

bool life_feedback(struct life *l, int64_t now_us, bool is_forced, struct fault *f)
{
	struct boundary x = l->confirmed;
	int64_t age_us = now_us - l->feedback_us;

	if (l->publish && boundary_cmp(publish_confirmed(l->publish), x) > 0)
		x = publish_confirmed(l->publish);
	if (!is_forced && age_us < l->feedback_every_us &&
	    (age_us < FEEDBACK_SOON_US || boundary_cmp(x, l->fed_back) == 0))
		return true;
	failpoint("ingest.before_feedback");
	l->feedback_us = now_us;
	l->fed_back = l->confirmed = x;
	/* The answer is a keepalive, which moves an idle stream's boundary on. */
	return source_feedback(l->source, x, true, f);
}

static void clear_event(int fd)
{
	uint64_t value;
	ssize_t n = read(fd, &value, sizeof(value));

	(void)n; /* nothing there: somebody was faster */
}

bool life_serve(struct life *l, int timeout_ms, struct fault *f)
{
	struct pollfd fds[3] = {
		{ .fd = l->event_fd, .events = POLLIN },
		{ .fd = l->drain_until_us ? -1 : l->options->stop_fd, .events = POLLIN },
		{ .fd = -1, .events = POLLOUT },
	};

	if (!l->drain_until_us && life_is_stopped(l))
		return fault(f, FAULT_ENVIRONMENT, "told to stop");
	if (l->drain_until_us && clock_us() > l->drain_until_us)
		return fault(f, FAULT_ENVIRONMENT,
			     "stopped with %llu records not acknowledged by Kafka; the next start "
			     "publishes them again",
			     (unsigned long long)publish_outstanding(l->publish));
	if (l->is_streaming && source_wants_write(l->source))
		fds[2].fd = source_fd(l->source);
	if (poll(fds, 3, timeout_ms) > 0 && fds[0].revents)
		clear_event(l->event_fd);
	if (l->publish && !publish_serve(l->publish, f))
		return false;
	if (!l->is_streaming)
		return true;
	if (fds[2].revents && !source_flush(l->source, f))
		return false;
	return life_feedback(l, clock_us(), false, f);
}

static bool idle(void *arg, int timeout_ms, struct fault *f)
{
	return life_serve(arg, timeout_ms, f);
}

/* ---- what stream and publish ask for ---- */

static bool make_relation(void *arg, const struct pgoutput_relation *message,
			  const struct relation *previous, struct position from, struct arena *a,
			  struct relation **ret, struct fault *f)
{
	struct life *l = arg;

	if (!catalog_relation(l->plain, message, l->m, previous, previous->version + 1, from, a, ret, f))
		return false;
	constraints_follow(*ret, previous);
	return true;
}

static void reshaped(void *arg, uint32_t oid, struct position at)
{
	struct life *l = arg;

	if (l->rounds)
		rounds_reshaped(l->rounds, oid, at);
}

static bool announce(void *arg, struct span schema_json, uint64_t fingerprint, struct fault *f)
{
	struct life *l = arg;
	const char *topics[] = { l->m->changes_topic, l->m->snapshot_topic };

	return life_serve(l, 0, f) &&
	       registry_announce(l->registry, l->framing, topics, 2, schema_json, fingerprint, f);
}

static bool learn(void *arg, int32_t schema_id, struct fault *f)
{
	struct life *l = arg;

	return life_serve(l, 0, f) && registry_learn(l->registry, l->framing, schema_id, f);
}

static void copied(void *arg, const rd_kafka_message_t *m)
{
	struct life *l = arg;

	if (l->rounds)
		rounds_delivered(l->rounds, m);
}

static struct resume_request request(struct life *l)
{
	return (struct resume_request) { .reader = l->reader,
					 .framing = l->framing,
					 .topic = l->m->changes_topic,
					 .partition_count = l->m->partition_count,
					 .confirmed = l->confirmed,
					 .origin = l->identity.slot_lsn,
					 .idle = idle,
					 .learn = l->registry ? learn : NULL,
					 .arg = l };
}

/* ---- start: topics and identity ---- */

static bool topics_exist(struct life *l, bool is_new, struct fault *f)
{
	const struct kafka_topic_spec specs[] = {
		{ l->m->changes_topic, l->m->partition_count, false },
		{ l->m->snapshot_topic, l->m->partition_count, false },
		{ l->m->incidents_topic, 1, false },
	};

	return l->options->topics_exist ||
	       kafka_topics_ensure(l->reader, specs, sizeof(specs) / sizeof(*specs), is_new, f);
}

/* Without an identity nothing of ours may be there yet: it would be of a life we know nothing of.
 */
static bool check_untouched(struct life *l, struct fault *f)
{
	const struct resume_request q = request(l);
	struct kafka_range *ranges = arena_alloc(&l->arena, (size_t)l->m->partition_count * sizeof(*ranges));
	struct source_slot slot;

	if (!ranges)
		return fault(f, FAULT_INTERNAL, "out of memory");
	if (!resume_ranges(&q, l->m->changes_topic, ranges, f))
		return false;
	for (int p = 0; p < l->m->partition_count; p++)
		if (ranges[p].high > 0)
			return fault(f, FAULT_STOP,
				     "topic %s has records, but %s does not know this migration: "
				     "delete the topics "
				     "(foreshadow drop), or restore %s",
				     l->m->changes_topic, l->m->control_topic, l->m->control_topic);
	if (!source_slot_state(l->plain, l->m->slot, &l->arena, &slot, f))
		return false;
	if (slot.exists)
		return fault(f, FAULT_STOP,
			     "the source has a replication slot %s, but %s does not know this "
			     "migration: drop the "
			     "slot (SELECT pg_drop_replication_slot('%s')), or restore the topic",
			     l->m->slot, l->m->control_topic, l->m->slot);
	return true;
}

static struct memory_identity own_identity(const struct life *l)
{
	const struct source_identity *id = source_identify(l->source);

	return (struct memory_identity) { .system_id = id->system_id,
					  .timeline = id->timeline,
					  .slot = l->m->slot,
					  .partition_count = l->m->partition_count,
					  .unique = unique_mode_name(l->m->unique) };
}

/* Nothing was promised before slot_lsn is known: what is there of a slot is made again. */
static bool make_slot(struct life *l, struct fault *f)
{
	char text[LSN_TEXT];

	if (!memory_identity_write(&l->memory, &l->identity, f))
		return false;
	if (!source_slot_drop(l->plain, l->m->slot, f)) {
		/* Still being made for a life that is gone: its walsender notices in a while. */
		if (strcmp(f->sqlstate, "55006") == 0)
			f->kind = FAULT_ENVIRONMENT;
		return false;
	}
	if (!source_slot_create(l->source, l->options->stop_fd, &l->identity.slot_lsn, f))
		return false;
	failpoint("ingest.slot_created");
	l->identity.has_slot_lsn = true;
	log_info("slot created slot=%s boundary=%s", l->m->slot,
		 lsn_format(l->identity.slot_lsn.v, text));
	return memory_identity_write(&l->memory, &l->identity, f);
}

static bool gap_possible(const struct life *l, const char *why, struct fault *f)
{
	char from[LSN_TEXT], to[LSN_TEXT];

	return fault(f, FAULT_LOST,
		     "%s: a gap from %s to %s is possible; drop the migration (foreshadow drop) "
		     "and copy again",
		     why, lsn_format(l->identity.slot_lsn.v, from),
		     lsn_format(source_identify(l->source)->wal_position, to));
}

static bool check_slot(struct life *l, const struct source_slot *slot, struct fault *f)
{
	char why[256];

	if (!slot->exists) {
		snprintf(why, sizeof(why), "the replication slot %s is gone", l->m->slot);
		return gap_possible(l, why, f);
	}
	if (!slot->is_logical || strcmp(slot->plugin, "pgoutput") != 0 ||
	    boundary_cmp(slot->confirmed_flush, l->identity.slot_lsn) < 0) {
		snprintf(why, sizeof(why),
			 "the replication slot %s is not the one this migration made", l->m->slot);
		return gap_possible(l, why, f);
	}
	if (strcmp(slot->wal_status, "lost") == 0) {
		snprintf(why, sizeof(why),
			 "the replication slot %s was invalidated (wal_status lost, see "
			 "max_slot_wal_keep_size)",
			 l->m->slot);
		return gap_possible(l, why, f);
	}
	return true;
}

static bool check_identity(struct life *l, struct fault *f)
{
	const struct memory_identity own = own_identity(l);
	struct source_slot slot;
	char why[256];

	if (l->identity.partition_count != l->m->partition_count)
		return fault(f, FAULT_STOP,
			     "kafka.partitions is %d, but this migration began with %d: set it "
			     "back; the number is "
			     "frozen because it decides where a key goes",
			     l->m->partition_count, l->identity.partition_count);
	if (strcmp(l->identity.unique, own.unique) != 0)
		return fault(f, FAULT_STOP,
			     "unique is %s, but this migration began with %s, which decided how its tables are "
			     "routed: write unique: %s, or start over (foreshadow drop)",
			     own.unique, l->identity.unique, l->identity.unique);
	if (strcmp(l->identity.slot, l->m->slot) != 0)
		return fault(f, FAULT_STOP, "this migration's slot is %s, not %s", l->identity.slot,
			     l->m->slot);
	if (l->identity.system_id != own.system_id || l->identity.timeline != own.timeline) {
		snprintf(why, sizeof(why),
			 "the source is system %llu, timeline %u, but this migration began on "
			 "system %llu, "
			 "timeline %u",
			 (unsigned long long)own.system_id, own.timeline,
			 (unsigned long long)l->identity.system_id, l->identity.timeline);
		return gap_possible(l, why, f);
	}
	return source_slot_state(l->plain, l->m->slot, &l->arena, &slot, f) &&
	       check_slot(l, &slot, f);
}

static bool publication(struct life *l, struct fault *f)
{
	struct source_table *tables = arena_alloc(&l->arena, (l->catalog.relation_count + 1) *
								 sizeof(*tables));

	if (!tables)
		return fault(f, FAULT_INTERNAL, "out of memory");
	for (size_t i = 0; i < l->catalog.relation_count; i++) {
		tables[i].schema = l->catalog.relations[i]->schema;
		tables[i].table = l->catalog.relations[i]->table;
	}
	return source_publication_ensure(l->plain, l->m->publication, tables,
					 l->catalog.relation_count, l->options->stop_fd, f);
}

static bool is_published(const PGresult *published, uint32_t oid)
{
	for (int i = 0; i < PQntuples(published); i++)
		if (pg_i64(published, i, 0) == (int64_t)oid)
			return true;
	return false;
}

static const struct relation *find_in_scope(const struct life *l, uint32_t oid)
{
	for (size_t i = 0; i < l->catalog.relation_count; i++)
		if (l->catalog.relations[i]->oid == oid)
			return l->catalog.relations[i];
	return NULL;
}

/*
 * A table that was copied, left the publication and comes back has changes that nobody sent. (No
 * publication at all is another matter: it is made again whole, and the slot's decoding fails.)
 */
static bool refuse_returned_tables(struct life *l, struct fault *f)
{
	const char *publication_name = l->m->publication;
	struct memory_copies copies;
	bool ok = memory_copies_read(&l->memory, &l->arena, &copies, f);
	PGresult *published = ok ? pg_query_params(l->plain, f,
						   "SELECT r.prrelid FROM pg_catalog.pg_publication_rel r JOIN"
						   " pg_catalog.pg_publication p ON p.oid = r.prpubid"
						   " WHERE p.pubname = $1",
						   1, &publication_name)
				 : NULL;

	ok = published != NULL;
	for (size_t i = 0; ok && PQntuples(published) > 0 && i < copies.count; i++) {
		const struct memory_copy *copy = &copies.copies[i];
		const struct relation *rel = find_in_scope(l, copy->oid);
		if (rel && memory_copy_is_whole(copy) && !is_published(published, copy->oid))
			ok = fault(f, FAULT_LOST,
				   "source: table %.*s.%.*s was copied, but is not in publication %s any more: "
				   "its changes since then are lost; exclude it in tables:, or drop the "
				   "migration (foreshadow drop) and copy again",
				   SPAN_ARG(rel->schema), SPAN_ARG(rel->table), l->m->publication);
	}
	PQclear(published);
	return ok;
}

static bool connect_source(struct life *l, struct fault *f)
{
	l->source = source_new(l->m, f);
	if (!l->source)
		return false;
	l->plain = pg_connect(&l->m->source, PG_PLAIN, "foreshadow ingest", f);
	if (!l->plain || !source_check(l->plain, f) ||
	    !catalog_read(l->plain, l->m, &l->arena, &l->catalog, f) ||
	    !catalog_accept(&l->catalog, l->m, f))
		return false;
	for (size_t i = 0; i < l->catalog.note_count; i++)
		log_info("%s", l->catalog.notes[i]);
	return true;
}

static bool identify(struct life *l, struct fault *f)
{
	uint64_t generation;
	bool exists;

	if (!memory_identity_read(&l->memory, &l->arena, &exists, &l->identity, f))
		return false;
	if (!topics_exist(l, !exists || !l->identity.has_slot_lsn, f))
		return false;
	if (exists && l->identity.has_slot_lsn)
		return check_identity(l, f) && refuse_returned_tables(l, f) && publication(l, f);
	if (!exists && !check_untouched(l, f))
		return false;
	generation = exists ? l->identity.generation : 0;
	l->identity = own_identity(l);
	l->identity.generation = generation;
	return publication(l, f) && make_slot(l, f);
}

/* ---- start: the slot ---- */

/* Seconds since the walsender's client last said something; negative: not known. */
static double reply_age(struct life *l, int pid)
{
	struct fault ignored = { 0 };
	char number[16];
	const char *values[] = { number };
	PGresult *r;
	double age = -1;

	snprintf(number, sizeof(number), "%d", pid);
	r = pg_query_params(l->plain, &ignored,
			    "SELECT extract(epoch FROM pg_catalog.clock_timestamp() - reply_time)"
			    " FROM pg_catalog.pg_stat_replication WHERE pid = $1::int4",
			    1, values);
	if (r && PQntuples(r) == 1 && !PQgetisnull(r, 0, 0))
		age = atof(PQgetvalue(r, 0, 0));
	PQclear(r);
	return age;
}

/*
 * A slot may still be held by a process that is gone or stopped, until the server notices: at most
 * wal_sender_timeout. One whose owner goes on answering is another ingest; source_start says so.
 */
static bool wait_for_slot(struct life *l, struct fault *f)
{
	int timeout_ms = source_identify(l->source)->wal_sender_timeout_ms;
	int64_t began_us = clock_us(), last_us;
	bool is_told = false;

	last_us = began_us +
		  (int64_t)(timeout_ms ? timeout_ms + SLOT_MARGIN_MS : SLOT_WAIT_MS) * 1000;
	while (clock_us() < last_us) {
		struct source_slot slot;
		double age;

		if (!source_slot_state(l->plain, l->m->slot, &l->arena, &slot, f))
			return false;
		if (slot.active_pid == 0)
			return true;
		age = reply_age(l, slot.active_pid);
		if (clock_us() - began_us > SLOT_ALIVE_US && age >= 0 && age < 3)
			return true;
		if (!is_told)
			log_info("waiting for the slot slot=%s held_by_pid=%d last_reply_s=%.1f",
				 l->m->slot, slot.active_pid, age);
		is_told = true;
		if (!life_serve(l, SLOT_POLL_MS, f))
			return false;
	}
	return true;
}

static bool take_slot(struct life *l, struct fault *f)
{
	struct source_slot slot;
	int timeout_ms = source_identify(l->source)->wal_sender_timeout_ms;

	l->feedback_every_us = FEEDBACK_US;
	if (timeout_ms > 0 && timeout_ms * INT64_C(1000) / 4 < FEEDBACK_US)
		l->feedback_every_us = timeout_ms * INT64_C(1000) / 4;
	if (!wait_for_slot(l, f) || !source_start(l->source, catalog_binary_ok(&l->catalog), f))
		return false;
	/* Asked for now, when nobody else can move it any more. */
	if (!source_slot_state(l->plain, l->m->slot, &l->arena, &slot, f))
		return false;
	if (slot.active_pid != source_pid(l->source))
		return fault(f, FAULT_ENVIRONMENT,
			     "the slot %s is held by pid %d, not by us (pid %d)", l->m->slot,
			     slot.active_pid, source_pid(l->source));
	l->confirmed = l->fed_back = slot.confirmed_flush;
	l->is_streaming = true;
	l->feedback_us = clock_us();
	return true;
}

/* ---- start: the partitions ---- */

static bool next_generation(struct life *l, const struct resume_request *q, struct fault *f)
{
	uint64_t changes, snapshot;

	if (!resume_highest(q, l->m->changes_topic, &changes, f) ||
	    !resume_highest(q, l->m->snapshot_topic, &snapshot, f))
		return false;
	l->generation = l->identity.generation;
	if (changes > l->generation)
		l->generation = changes;
	if (snapshot > l->generation)
		l->generation = snapshot;
	l->generation++;
	l->identity.generation = l->generation;
	return memory_identity_write(&l->memory, &l->identity, f);
}

/* A process that slept since it took the slot must not go on: its successor reads behind our fence.
 */
static bool still_ours(struct life *l, struct fault *f)
{
	struct source_slot slot;

	if (!source_slot_state(l->plain, l->m->slot, &l->arena, &slot, f))
		return false;
	return slot.active_pid == source_pid(l->source) ||
	       fault(f, FAULT_ENVIRONMENT, "the slot %s was taken by pid %d", l->m->slot,
		     slot.active_pid);
}

static struct boundary newest_accepted(const struct life *l, const struct resume *partitions)
{
	struct boundary newest = l->confirmed;

	for (int p = 0; p < l->m->partition_count; p++) {
		if (boundary_cmp(partitions[p].sequence.barrier, newest) > 0)
			newest = partitions[p].sequence.barrier;
	}
	return newest;
}

/* Has nothing been published since the slot was made? */
static bool is_untouched(const struct life *l, const struct resume *partitions)
{
	if (boundary_cmp(l->confirmed, l->identity.slot_lsn) != 0)
		return false;
	for (int p = 0; p < l->m->partition_count; p++) {
		if (partitions[p].sequence.ordinal > 0)
			return false;
	}
	return true;
}

/* Bases; and if there is nothing else yet the first barrier, at the slot's creation. */
static bool lay_base(struct life *l, const struct resume *partitions, struct fault *f)
{
	struct publish_place *places = arena_alloc(&l->arena,
						   (size_t)l->m->partition_count * sizeof(*places));
	bool is_first = is_untouched(l, partitions);
	const struct barrier none = { 0 };

	if (!places)
		return fault(f, FAULT_INTERNAL, "out of memory");
	for (int p = 0; p < l->m->partition_count; p++)
		places[p] = (struct publish_place) { partitions[p].sequence.ordinal,
						     partitions[p].sequence.position };
	if (!publish_base(l->publish, places, is_first ? (struct boundary) { 0 } : l->confirmed, f))
		return false;
	failpoint("ingest.base_sent");
	return !is_first || (publish_barrier(l->publish, l->confirmed, &none, f) &&
			     publish_drain(l->publish, f));
}

static bool take_partitions(struct life *l, struct boundary *ret_accepted,
			    struct barrier *ret_counts, struct fault *f)
{
	struct resume *partitions = arena_alloc(&l->arena, (size_t)l->m->partition_count *
							       sizeof(*partitions));
	struct resume_request q = request(l);

	if (!partitions)
		return fault(f, FAULT_INTERNAL, "out of memory");
	if (!next_generation(l, &q, f) || !publish_fence(l->publish, l->generation, f))
		return false;
	failpoint("ingest.fence_sent");
	if (!still_ours(l, f))
		return false;
	q.generation = l->generation;
	if (!resume_read(&q, partitions, &l->arena, ret_counts, f) || !lay_base(l, partitions, f))
		return false;
	*ret_accepted = newest_accepted(l, partitions);
	return true;
}

static bool open_publish(struct life *l, struct fault *f)
{
	const struct publish_conf conf = { .kafka = &l->kafka,
					   .framing = l->framing,
					   .changes_topic = l->m->changes_topic,
					   .snapshot_topic = l->m->snapshot_topic,
					   .partition_count = l->m->partition_count,
					   .event_fd = l->event_fd,
					   .idle = idle,
					   .copied = copied,
					   .arg = l };

	l->publish = publish_new(&conf, f);
	return l->publish;
}

/* ---- start: versions, copies, the stream ---- */

struct sibling {
	const struct relation *of, *found;
};

static void match_sibling(void *arg, const struct version *v)
{
	struct sibling *s = arg;

	if (v->rel->oid != s->of->oid && span_eq(v->rel->target_table, s->of->target_table) &&
	    span_eq(v->rel->target_schema, s->of->target_schema))
		s->found = v->rel;
}

/* A version of a leaf that shares the table's target, or NULL. */
static const struct relation *find_sibling(const struct life *l, const struct relation *rel)
{
	struct sibling s = { .of = rel };

	history_each(l->history, match_sibling, &s);
	return s.found;
}

/*
 * What the targets want is asked once, for a table's first version: which further constraints they have, and
 * which tables belong together there. is_known: the relation has a version already.
 */
static bool route_tables(struct life *l, const bool *is_known, struct fault *f)
{
	struct relation *const *relations = l->catalog.relations;
	size_t count = l->catalog.relation_count;
	struct constraints c;

	if (!constraints_read(l->m, l->plain, relations, count, &l->arena, &c, f))
		return false;
	for (size_t i = 0; i < count; i++) {
		const struct relation *sibling = is_known[i] ? NULL : find_sibling(l, relations[i]);
		const char *refusal = is_known[i] ? NULL : families_refuse(&c, relations[i], &l->arena);

		if (refusal)
			return fault(f, FAULT_STOP, "%s", refusal);
		if (!is_known[i])
			constraints_route(&c, relations[i], &l->arena);
		if (sibling)
			constraints_follow(relations[i], sibling);
	}
	families_route(&c, relations, count, &l->arena);
	return !arena_failed(&l->arena) || fault(f, FAULT_INTERNAL, "no memory for the targets' constraints");
}

/* Where changes are cannot be decided anew under way: half of a transaction would be elsewhere. */
static bool check_order(const struct life *l, const struct relation *rel, struct fault *f)
{
	static const char *const names[] = { [ORDER_KEY] = "key", [ORDER_TRANSACTION] = "transaction" };
	bool is_whole = rel->routing == ROUTE_TRANSACTION;

	if (is_whole == (l->m->order == ORDER_TRANSACTION))
		return true;
	return fault(f, FAULT_STOP,
		     "order is %s, but this migration began with order: %s (table %.*s.%.*s): set it back, "
		     "or drop the migration and begin anew",
		     names[l->m->order], names[is_whole ? ORDER_TRANSACTION : ORDER_KEY],
		     SPAN_ARG(rel->schema), SPAN_ARG(rel->table));
}

/* Tables that have no version yet are ours from what is confirmed on. */
static bool open_history(struct life *l, struct fault *f)
{
	const struct history_conf conf = { .migration = l->m->name,
					   .memory = l->memory,
					   .announce = l->registry ? announce : NULL,
					   .arg = l };
	const struct position last = { { UINT64_MAX }, UINT64_MAX };
	size_t known = 0, count = l->catalog.relation_count;
	bool *is_known = arena_alloc(&l->arena, count + 1);

	if (!is_known)
		return fault(f, FAULT_INTERNAL, "no memory for the tables in scope");
	l->history = history_new(&conf, f);
	if (!l->history)
		return false;
	for (size_t i = 0; i < count; i++) {
		const struct version *v = history_at(l->history, l->catalog.relations[i]->oid, last);

		if (v && !check_order(l, v->rel, f))
			return false;
		if (v && v->rel->routing == ROUTE_GROUP)
			constraints_follow(l->catalog.relations[i], v->rel);
		known += is_known[i] = v != NULL;
	}
	if (known < count && !route_tables(l, is_known, f))
		return false;
	for (size_t i = 0; i < count; i++) {
		struct relation *rel = l->catalog.relations[i];
		const struct version *v;

		if (is_known[i])
			continue;
		if (!history_add(l->history, rel, position_at(l->confirmed), &v, f))
			return false;
		log_info("table in scope table=%.*s.%.*s oid=%u target=%.*s columns=%zu routing=%s%s%.*s",
			 SPAN_ARG(rel->schema), SPAN_ARG(rel->table), rel->oid, SPAN_ARG(v->name),
			 rel->column_count, routing_name(rel->routing),
			 rel->routing_reason.n ? ": " : "", SPAN_ARG(rel->routing_reason));
	}
	return true;
}

static bool open_stream(struct life *l, struct boundary accepted, const struct barrier *counts,
			struct fault *f)
{
	const struct rounds_conf rounds = { .migration = l->m,
					    .memory = l->memory,
					    .history = l->history,
					    .framing = l->framing,
					    .publish = l->publish,
					    .plain = l->plain,
					    .generation = l->generation,
					    .origin = l->identity.slot_lsn,
					    .confirmed = l->confirmed,
					    .catalog = &l->catalog };
	struct stream_conf stream = { .framing = l->framing,
				      .publish = l->publish,
				      .history = l->history,
				      .partition_count = l->m->partition_count,
				      .barrier_us = l->m->order == ORDER_TRANSACTION ? BARRIER_WHOLE_US
										     : BARRIER_US,
				      .relation = make_relation,
				      .reshaped = reshaped,
				      .arg = l,
				      .confirmed = l->confirmed,
				      .accepted = accepted,
				      .counts = counts };

	l->rounds = rounds_new(&rounds, f);
	if (!l->rounds)
		return false;
	stream.copies = rounds_begun(l->rounds, &stream.copy_count);
	l->stream = stream_new(&stream, f);
	return l->stream;
}

bool life_open(struct life *l, struct fault *f)
{
	struct boundary accepted = { 0 };
	struct barrier counts;
	char text[LSN_TEXT];

	arena_init(&l->arena, ARENA_BYTES);
	l->memory = (struct memory) { l->control, idle, l };
	l->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (l->event_fd < 0)
		return fault(f, FAULT_INTERNAL, "no eventfd");
	l->reader = kafka_reader(&l->kafka, f);
	if (!l->reader || !connect_source(l, f) || !identify(l, f) || !take_slot(l, f) ||
	    !open_publish(l, f) || !take_partitions(l, &accepted, &counts, f) ||
	    !open_history(l, f) || !open_stream(l, accepted, &counts, f))
		return false;
	log_info("streaming generation=%llu confirmed=%s tables=%zu binary=%s",
		 (unsigned long long)l->generation, lsn_format(l->confirmed.v, text),
		 l->catalog.relation_count, catalog_binary_ok(&l->catalog) ? "yes" : "no");
	return true;
}

void life_close(struct life *l)
{
	rounds_free(l->rounds); /* its threads use the producer */
	stream_free(l->stream);
	history_free(l->history);
	publish_free(l->publish);
	if (l->reader)
		rd_kafka_destroy(l->reader);
	pg_close(&l->plain);
	source_free(l->source);
	if (l->event_fd >= 0)
		close(l->event_fd);
	arena_release(&l->arena);
}
