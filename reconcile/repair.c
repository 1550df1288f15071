// SPDX-License-Identifier: Apache-2.0
#include "reconcile/repair.h"

#include <stdlib.h>

#include "core/clock.h"
#include "core/failpoint.h"
#include "core/log.h"
#include "reconcile/asks.h"
#include "reconcile/narrow.h"
#include "reconcile/repair_key.h"

enum {
	BATCH_ITEMS = 32,
	BATCH_BYTES = 16 << 20, /* of the rows of a batch: they are held at once */
	ARENA_BYTES = 1 << 30,
	SQL_BYTES = 512 << 20,
	ATTEMPTS = 10, /* in which a partition stood */
	PATIENCE_US = 60 * 1000 * 1000, /* for those in which none did: its owner may have died */
	POLL_US = 20 * 1000,
	HELD_US = 3 * 1000 * 1000,    /* until all partitions stand */
	READ_US = 10 * 1000 * 1000,   /* until the stream has come; the two and ASK_HOLD_MS go together */
	WRITTEN_US = 15 * 1000 * 1000,
	TOLD_US = 5 * 1000 * 1000,    /* of that: for the incident */
};

enum repair_fit repair_fits(const struct repair_event *events, size_t n, bool by_key, bool is_settled)
{
	bool sees_one = false;

	for (size_t i = 0; i < n; i++) {
		/* What a TRUNCATE leaves is not as old as the snapshot that reads it. */
		if (events[i].is_seen != events[i].is_applied || (events[i].is_table && !events[i].is_seen))
			return REPAIR_CHANGES;
		sees_one = sees_one || (by_key && events[i].is_seen);
	}
	return sees_one || is_settled ? REPAIR_FITS : REPAIR_UNSETTLED;
}

/* A difference on its way. */
struct task {
	struct repair_item *item;
	struct repair_key key;
	struct span row;     /* the source's in this attempt, as the literal of a text[]; absent: none */
	int row_count;
	bool is_over, is_written;
	const char *why;     /* it is not repaired yet, or at all */
};

/* Some of them, at once. Everything lives in its arena. */
struct batch {
	struct repair *r;
	struct task *tasks;
	size_t count;
	struct ends_moment since;
	struct span copies;
	struct snapshot snapshot;
	bool is_settled;
	struct arena arena;
	struct fault *f;
};

static bool no_memory(struct fault *f)
{
	return fault(f, FAULT_INTERNAL, "no memory for rows to repair");
}

static PGconn *target_conn(const struct batch *b)
{
	return b->r->ends->targets[b->r->role];
}

/* Takes in the stream meanwhile. */
static bool pause_a_little(struct batch *b)
{
	int64_t until_us = clock_us() + POLL_US, left;

	while ((left = until_us - clock_us()) > 0)
		if (!tail_poll(b->r->ends->tail, (int)(left / 1000) + 1, b->f))
			return false;
	return true;
}

/* ---- the table is watched ---- */

/* From here on the tail has every change of the table, and the target has all that were before. */
static bool watch(struct batch *b)
{
	struct ends *e = b->r->ends;
	const struct relation *rel = b->r->digest->rel;
	bool are_live;

	if (!ends_copies(e, b->r->role, rel, &b->arena, &b->copies, &are_live, b->f))
		return false;
	tail_watch(e->tail, rel);
	e->tail->has_copy = !are_live;
	return ends_mark(e, &b->since, b->f) && ends_wait(e, b->r->role, b->since.lsn, b->f);
}

/* Why nothing of the table can be repaired now; NULL: nothing is the matter. */
static bool look_at_table(struct batch *b, const char **ret)
{
	struct tail *t = b->r->ends->tail;
	const struct relation *rel = b->r->digest->rel, *newest;
	struct span copies;
	bool are_live;

	*ret = NULL;
	if (!ends_copies(b->r->ends, b->r->role, rel, &b->arena, &copies, &are_live, b->f) || !known_look(t->known, b->f))
		return false;
	newest = known_relation(t->known, rel->oid);
	if (!are_live || t->has_copy || !span_eq(copies, b->copies))
		*ret = "its table is being copied; next step: verify --repair when the copy is complete";
	else if (t->has_overflowed)
		*ret = "its table changes faster than the changes can be remembered; next step: verify --repair when it rests";
	else if (!newest || newest->version != rel->version)
		*ret = "its table has changed its columns; next step: verify --repair again";
	return true;
}

/* ---- the source's rows ---- */

static const char *key_array(struct batch *b, struct task **now, size_t n, size_t part)
{
	struct buf list;
	const char *text;

	buf_init(&list, SQL_BYTES);
	pg_array_begin(&list);
	for (size_t i = 0; i < n; i++)
		pg_array_add(&list, now[i]->key.parts[part]);
	pg_array_end(&list);
	text = buf_failed(&list) ? NULL : arena_str(&b->arena, buf_span(&list));
	buf_release(&list);
	return text;
}

static bool take_rows(struct batch *b, struct task **now, size_t n, const PGresult *result)
{
	for (size_t i = 0; i < n; i++) {
		now[i]->row = span(NULL, 0);
		now[i]->row_count = 0;
	}
	for (int row = 0; row < PQntuples(result); row++) {
		int64_t i = pg_i64(result, row, 0) - 1;

		if (i < 0 || (size_t)i >= n)
			continue;
		now[i]->row_count++;
		now[i]->row = arena_dup(&b->arena, pg_value(result, row, 1));
	}
	return !arena_failed(&b->arena) || no_memory(b->f);
}

static bool ask_rows(struct batch *b, struct task **now, size_t n)
{
	const struct digest *d = b->r->digest;
	struct digest_plan plan = { .digest = d, .server = DIGEST_SOURCE, .seed = b->r->seed };
	const char **values = arena_alloc(&b->arena, d->rel->key_count * sizeof(*values) + 1);
	PGresult *result = NULL;
	struct buf sql;
	bool ok;

	for (size_t k = 0; values && k < d->rel->key_count; k++)
		values[k] = key_array(b, now, n, k);
	buf_init(&sql, SQL_BYTES);
	digest_source_rows(&plan, &sql);
	if (arena_failed(&b->arena) || buf_failed(&sql))
		no_memory(b->f);
	else
		result = pg_query_params(b->r->ends->source, b->f, buf_cstr(&sql), (int)d->rel->key_count, values);
	buf_release(&sql);
	ok = result && take_rows(b, now, n, result);
	PQclear(result);
	return ok;
}

/* In one snapshot. */
static bool read_source(struct batch *b, struct task **now, size_t n)
{
	struct ends *e = b->r->ends;
	PGresult *result;
	bool ok;

	if (!ends_begin(e->source, b->f) || !(result = pg_query(e->source, b->f, "SELECT pg_catalog.pg_current_snapshot()")))
		return false;
	ok = snapshot_parse(pg_value(result, 0, 0), &b->arena, &b->snapshot) ||
	     fault(b->f, FAULT_INPUT, "source: not a snapshot: %s", PQgetvalue(result, 0, 0));
	PQclear(result);
	return ok && ask_rows(b, now, n) && ends_commit(e->source, b->f) &&
	       ends_is_settled(e, &b->snapshot, &b->since, &b->is_settled, b->f);
}

/* ---- does it fit? ---- */

static bool decide(struct batch *b, const struct task *t, struct position place, enum repair_fit *ret)
{
	const struct tail *tail = b->r->ends->tail;
	struct repair_event *events = NULL;
	size_t n = 0;

	for (int pass = 0; pass < 2; pass++) {
		if (pass && !(events = arena_alloc(&b->arena, n * sizeof(*events) + 1)))
			return no_memory(b->f);
		n = 0;
		for (size_t i = 0; i < tail->event_count; i++) {
			const struct tail_event *e = &tail->events[i];

			if (t->key.is_canonical && e->kind != TAIL_TABLE && e->key_hash != t->key.hash)
				continue;
			if (pass)
				events[n] = (struct repair_event) {
					.is_table = e->kind == TAIL_TABLE,
					.is_seen = snapshot_sees(&b->snapshot, snapshot_widen(&b->snapshot, e->xid)),
					.is_applied = position_cmp(e->position, place) <= 0,
				};
			n++;
		}
	}
	*ret = repair_fits(events, n, t->key.is_canonical, b->is_settled);
	if (failpoint("repair.hasty"))
		*ret = REPAIR_FITS;
	return true;
}

static const char *const fit_reasons[] = {
	[REPAIR_FITS] = NULL,
	[REPAIR_CHANGES] = "it changes all the time: the source was ahead of the target in each attempt; next step: verify "
			   "--repair again when the row rests",
	[REPAIR_UNSETTLED] = "an old transaction on the source may have changed it, and is not over; next step: verify "
			     "--repair again when that has ended",
};

/* Answers it, or takes it back. */
static bool answer(struct batch *b, struct task *t, struct ask *k, const char *of_table)
{
	enum repair_fit fit = REPAIR_CHANGES;

	t->why = of_table;
	if (k->state != ASK_HELD) {
		t->why = k->reason ? k->reason
				   : "its partition does not stop: nobody applies it, or it waits; next step: foreshadow "
				     "status";
	} else if (!t->why && t->row_count > 1) {
		t->is_over = true;
		t->why = "several rows of the source have its key";
	} else if (!t->why) {
		if (!decide(b, t, k->place, &fit))
			return false;
		t->why = fit_reasons[fit];
		if (fit == REPAIR_FITS)
			return asks_answer(target_conn(b), k, t->row, b->f);
	}
	return asks_withdraw(target_conn(b), k, 1, b->f);
}

/* ---- an attempt ---- */

static bool has_state(const struct ask *asks, size_t n, enum ask_state state)
{
	for (size_t i = 0; i < n; i++)
		if (asks[i].state == state)
			return true;
	return false;
}

static bool wait_held(struct batch *b, struct ask *asks, size_t n)
{
	int64_t until_us = clock_us() + HELD_US;

	do {
		if (!pause_a_little(b) || !asks_look(target_conn(b), asks, n, &b->arena, b->f))
			return false;
	} while (has_state(asks, n, ASK_ASKED) && clock_us() < until_us);
	return true;
}

/* READY as far as we know: it may be taken back yet. */
static bool wait_written(struct batch *b, struct ask *asks, size_t n)
{
	int64_t start_us = clock_us();

	for (;;) {
		if (!asks_look(target_conn(b), asks, n, &b->arena, b->f))
			return false;
		if (!has_state(asks, n, ASK_HELD) && !has_state(asks, n, ASK_READY) &&
		    (!has_state(asks, n, ASK_WRITTEN) || clock_us() - start_us > TOLD_US))
			return true;
		if (clock_us() - start_us > WRITTEN_US)
			return asks_withdraw(target_conn(b), asks, n, b->f) &&
			       asks_look(target_conn(b), asks, n, &b->arena, b->f);
		if (!pause_a_little(b))
			return false;
	}
}

static void take_outcome(struct task *t, const struct ask *k)
{
	switch (k->state) {
	case ASK_WRITTEN:
	case ASK_DONE:
		t->is_written = t->is_over = true;
		t->why = NULL;
		return;
	case ASK_FAILED:
		t->is_over = true;
		t->why = k->reason;
		return;
	case ASK_RELEASED:
	case ASK_ASKED:
	case ASK_HELD:
	case ASK_READY:
		break;
	}
	if (!t->why)
		t->why = k->reason ? k->reason : "the owner of its partition gave no answer; next step: foreshadow status";
}

/* What the source has, and what of the stream goes with it. */
static bool read_both(struct batch *b, struct task **now, size_t n, const char **ret_of_table)
{
	struct ends *e = b->r->ends;
	struct ends_moment mark;
	bool is_read = false;

	if (!read_source(b, now, n) || !ends_mark(e, &mark, b->f) ||
	    !ends_read_past(e, mark.lsn, READ_US, &is_read, b->f) || !look_at_table(b, ret_of_table))
		return false;
	if (!is_read && !*ret_of_table)
		*ret_of_table = "the stream does not come: ingest is not running, or is behind; next step: foreshadow status";
	return true;
}

/* *ret_has_stood: some partition did. */
static bool attempt(struct batch *b, struct task **now, struct ask *asks, size_t n, bool *ret_has_stood)
{
	const char *of_table = NULL;

	for (size_t i = 0; i < n; i++)
		asks[i] = (struct ask) { .message_key = now[i]->key.message_key,
					 .key_values = now[i]->key.values,
					 .partition = now[i]->key.partition };
	if (!asks_send(target_conn(b), b->r->ends->m->name, b->r->digest->rel, asks, n, b->f) || !wait_held(b, asks, n))
		return false;
	failpoint("repair.asked");
	*ret_has_stood = has_state(asks, n, ASK_HELD);
	if (*ret_has_stood && !read_both(b, now, n, &of_table))
		return false;
	for (size_t i = 0; i < n; i++)
		if (!answer(b, now[i], &asks[i], of_table))
			return false;
	if (!wait_written(b, asks, n))
		return false;
	for (size_t i = 0; i < n; i++)
		take_outcome(now[i], &asks[i]);
	return true;
}

static bool attempt_all(struct batch *b)
{
	const struct tail *t = b->r->ends->tail;
	struct task **now = arena_alloc(&b->arena, b->count * sizeof(*now) + 1);
	struct ask *asks = arena_alloc(&b->arena, b->count * sizeof(*asks) + 1);
	int64_t until_us = clock_us() + PATIENCE_US;

	if (!now || !asks)
		return no_memory(b->f);
	for (int tries = 0; tries < ATTEMPTS && clock_us() < until_us;) {
		bool has_stood = false;
		size_t n = 0;

		for (size_t i = 0; i < b->count; i++)
			if (!b->tasks[i].is_over)
				now[n++] = &b->tasks[i];
		if (n == 0)
			return true;
		if ((t->has_copy || t->has_overflowed) && !watch(b))
			return false;
		if (!attempt(b, now, asks, n, &has_stood) || !pause_a_little(b))
			return false;
		tries += has_stood;
	}
	return true;
}

/* ---- afterwards ---- */

static struct task *find_task(struct batch *b, struct span key)
{
	for (size_t i = 0; i < b->count; i++)
		if (span_eq(b->tasks[i].item->key, key))
			return &b->tasks[i];
	return NULL;
}

static void still_differs(void *arg, const struct difference *d)
{
	struct task *t = find_task(arg, d->key);

	if (t && t->is_written)
		t->why = "the source's row was written, and still the target's differs: something on the target changes "
			 "it (a trigger, a rule), or a rule of the file gives another value there";
}

static void still_open(void *arg, struct span key)
{
	struct task *t = find_task(arg, key);

	if (t && t->is_written)
		t->why = "the source's row was written; it changes all the time, and could not be compared again";
}

/* Conditions that find the keys; absent where no index has them. */
static bool find_near(struct batch *b, struct span near[2])
{
	struct touched_key *keys = arena_alloc(&b->arena, b->count * sizeof(*keys) + 1);
	struct touched_part order[TOUCHED_PARTS_MAX];
	size_t parts = touched_parts(b->r->digest->rel, order), n = 0;

	for (size_t i = 0; keys && i < b->count; i++) {
		struct span *texts = arena_alloc(&b->arena, parts * sizeof(*texts) + 1);

		if (!b->tasks[i].is_written)
			continue;
		for (size_t k = 0; texts && k < parts; k++)
			texts[k] = b->tasks[i].key.parts[order[k].ordinal];
		keys[n++].parts = texts;
	}
	return !arena_failed(&b->arena) && narrow(b->r->digest, keys, n, parts, &b->arena, near)
		   ? true
		   : no_memory(b->f);
}

static bool judge_again(struct batch *b)
{
	struct judge j = { .ends = b->r->ends, .digest = b->r->digest, .role = b->r->role, .seed = b->r->seed,
			   .since = b->since,  .copies = b->copies,    .found = still_differs, .open = still_open,
			   .arg = b };
	struct span keys[BATCH_ITEMS];
	size_t n = 0;

	for (size_t i = 0; i < b->count; i++)
		if (b->tasks[i].is_written)
			keys[n++] = b->tasks[i].item->key;
	return n == 0 || (find_near(b, j.near) && judge_keys(&j, keys, n, b->f));
}

/* A server or Kafka failed in the middle. */
static void take_fault(struct batch *b)
{
	for (size_t i = 0; b->tasks && i < b->count; i++) {
		struct task *t = &b->tasks[i];

		if (t->is_written)
			t->why = "the source's row was written; it could not be compared again";
		else if (!t->why)
			t->why = b->f->text;
	}
}

static bool say(struct batch *b)
{
	for (size_t i = 0; i < b->count; i++) {
		struct task *t = &b->tasks[i];

		t->item->is_repaired = t->is_written && !t->why;
		t->item->reason = t->why ? arena_str(b->r->a, span_str(t->why)) : NULL;
		b->r->said(b->r->arg, b->r, t->item);
	}
	return !arena_failed(b->r->a) || no_memory(b->f);
}

/* ---- batches ---- */

static bool batch_run(struct repair *r, struct repair_item *items, size_t n, struct fault *f)
{
	struct batch b = { .r = r, .count = n, .f = f };
	bool ok;

	arena_init(&b.arena, ARENA_BYTES);
	b.tasks = arena_alloc(&b.arena, n * sizeof(*b.tasks) + 1);
	for (size_t i = 0; b.tasks && i < n; i++)
		b.tasks[i].item = &items[i];
	ok = (b.tasks || no_memory(f)) && watch(&b);
	for (size_t i = 0; ok && i < n; i++) {
		struct task *t = &b.tasks[i];

		ok = repair_key_find(r->ends, r->digest, r->seed, items[i].key, &b.arena, &t->key, &t->why, f);
		t->is_over = t->why != NULL;
	}
	ok = ok && attempt_all(&b) && judge_again(&b);
	if (!ok)
		take_fault(&b);
	ok = (!b.tasks || say(&b)) && ok;
	arena_release(&b.arena);
	return ok;
}

/* How many of them are a batch. */
static size_t batch_size(const struct repair_item *items, size_t n)
{
	size_t count = 0, bytes = 0;

	while (count < n && count < BATCH_ITEMS && (count == 0 || bytes + items[count].bytes <= BATCH_BYTES))
		bytes += items[count++].bytes;
	return count;
}

static void refuse(struct repair *r, struct repair_item *items, size_t n, const char *why)
{
	for (size_t i = 0; i < n; i++) {
		items[i].reason = why;
		r->said(r->arg, r, &items[i]);
	}
}

/* What is too much goes first: it may stand in the way of what is missing (a unique value). */
static int compare_items(const void *a, const void *b)
{
	const struct repair_item *x = a, *y = b;

	return (strcmp(y->kind, "extraneous") == 0) - (strcmp(x->kind, "extraneous") == 0);
}

bool repair_items(struct repair *r, struct repair_item *items, size_t n, struct fault *f)
{
	PGconn *conn = r->ends->targets[r->role];
	bool ok = true;

	if (n == 0)
		return true;
	if (r->digest->is_keyless) {
		refuse(r, items, n, "its table has no key, so no single row can be told from its equals; next step: delete or "
				    "insert it on the target in a session with session_replication_role = replica");
		return true;
	}
	if (!asks_begin(conn, r->ends->m->name, f))
		return fault_in(f, "%s", ends_role_names[r->role]);
	qsort(items, n, sizeof(*items), compare_items);
	for (size_t i = 0, now; ok && i < n; i += now) {
		now = batch_size(items + i, n - i);
		ok = batch_run(r, items + i, now, f);
	}
	return ok && asks_end(conn, r->ends->m->name, f);
}
