// SPDX-License-Identifier: Apache-2.0
#include "shadow/repair.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/failpoint.h"
#include "core/log.h"
#include "shadow/lane_state.h"
#include "shadow/role.h"

enum { ROWS_BYTES = 1 << 30, LIST_BYTES = 1 << 20, TELL_BACKOFF_US = 5 * 1000 * 1000,
       LOOK_BACKOFF_US = 60 * 1000 * 1000 };

enum repair_step repair_next(const struct repair_ask *r, const struct repair_place *p)
{
	bool is_in_time = p->held_us < r->hold_us && p->held_us < LANE_HELD_MAX_US;

	if (r->state == REPAIR_WRITTEN)
		return REPAIR_TELL;
	if (!r->has_asker)
		return REPAIR_PASS;
	if (r->state == REPAIR_ASKED)
		return p->is_held ? (is_in_time ? REPAIR_HOLD : REPAIR_PASS) : p->may_hold ? REPAIR_HOLD : REPAIR_PASS;
	if (!p->is_held || r->epoch != p->epoch)
		return REPAIR_PASS;
	if (r->state == REPAIR_READY)
		return REPAIR_WRITE;
	return is_in_time ? REPAIR_WAIT : REPAIR_PASS;
}

/* One look. Everything lives in its arena. */
struct repairs {
	struct lane *lane;
	struct arena arena;
	struct repair_ask *asks;
	size_t count;
	struct fault *f;
};

/* ---- the rows ---- */

static const char look_sql[] =
	"SELECT r.id, r.partition, r.state, EXISTS (SELECT FROM pg_catalog.pg_locks l"
	"  WHERE l.locktype = 'advisory' AND l.granted AND l.pid = r.asker_pid)::int, r.hold_ms, coalesce(r.epoch, 0)"
	" FROM foreshadow.repairs r WHERE r.migration = $1 AND r.partition = ANY ($2::int[])"
	" AND r.state IN ('asked', 'held', 'ready', 'written') ORDER BY r.id";

static const char hold_sql[] =
	"UPDATE foreshadow.repairs SET state = 'held', epoch = $2, commit_lsn = $3, seq = $4,"
	" changed_at = clock_timestamp() WHERE id = ANY ($1::bigint[]) AND state = 'asked'";

static const char release_sql[] =
	"UPDATE foreshadow.repairs SET state = 'released', row_values = NULL,"
	" reason = 'the hold was over before there was an answer', changed_at = clock_timestamp()"
	" WHERE migration = $1 AND partition = $2 AND epoch = $3 AND state IN ('held', 'ready')";

static const char row_sql[] =
	"SELECT r.oid, r.version, r.key, r.row_values IS NULL, k.value, v.value"
	" FROM foreshadow.repairs r, unnest(r.key_values) WITH ORDINALITY AS k (value, n)"
	" LEFT JOIN LATERAL (SELECT r.row_values[k.n] AS value) AS v ON true WHERE r.id = $1 ORDER BY k.n";

static const char written_sql[] =
	"UPDATE foreshadow.repairs SET state = 'written', before = $3, after = $4, row_values = NULL,"
	" changed_at = clock_timestamp() WHERE id = $1 AND state = 'ready' AND epoch = $2 RETURNING 1";

static const char failed_sql[] =
	"UPDATE foreshadow.repairs SET state = 'failed', reason = $2, row_values = NULL,"
	" changed_at = clock_timestamp() WHERE id = $1 AND state = 'ready'";

static const char told_sql[] =
	"UPDATE foreshadow.repairs SET state = 'done', changed_at = clock_timestamp() WHERE id = $1";

static const char tell_sql[] =
	"SELECT oid, version, key, commit_lsn, seq, before, after FROM foreshadow.repairs WHERE id = $1";

static bool run(struct repairs *s, const char *sql, int n, const char *const *values)
{
	PGresult *r = pg_query_params(s->lane->conn, s->f, sql, n, values);

	PQclear(r);
	return r != NULL;
}

static enum repair_state state_of(const char *text)
{
	static const char *const names[] = { "asked", "held", "ready", "written" };
	size_t i = 0;

	while (i < REPAIR_WRITTEN && strcmp(text, names[i]) != 0)
		i++;
	return (enum repair_state)i;
}

static bool is_ours(const struct part *p)
{
	return p->topic == CONSUME_CHANGES && p->state != PART_UNTAKEN && p->state != PART_SEEKING;
}

/* The partitions that are ours, as an array. */
static const char *list_parts(struct repairs *s)
{
	struct buf b;
	const char *text;
	size_t n = 0;

	buf_init(&b, LIST_BYTES);
	for (size_t i = 0; i < s->lane->part_count; i++)
		if (is_ours(s->lane->parts[i]))
			buf_printf(&b, "%s%d", n++ ? "," : "{", s->lane->parts[i]->partition);
	buf_str(&b, n ? "}" : "{}");
	text = arena_str(&s->arena, buf_span(&b));
	buf_release(&b);
	return text;
}

static bool look(struct repairs *s)
{
	const char *values[] = { s->lane->migration->name, list_parts(s) };
	PGresult *r;

	if (!lane_plain(s->lane, s->f) || !(r = pg_query_params(s->lane->conn, s->f, look_sql, 2, values)))
		return false;
	s->asks = arena_alloc(&s->arena, (size_t)PQntuples(r) * sizeof(*s->asks) + 1);
	for (int i = 0; s->asks && i < PQntuples(r); i++)
		s->asks[s->count++] = (struct repair_ask) {
			.id = pg_i64(r, i, 0),
			.partition = (int)pg_i64(r, i, 1),
			.state = state_of(PQgetvalue(r, i, 2)),
			.has_asker = pg_i64(r, i, 3) == 1,
			.hold_us = pg_i64(r, i, 4) * 1000,
			.epoch = (uint64_t)pg_i64(r, i, 5),
		};
	PQclear(r);
	return s->asks || fault(s->f, FAULT_INTERNAL, "no memory for the rows of foreshadow.repairs");
}

/* ---- where a partition stands ---- */

static struct repair_place place_of(const struct part *p)
{
	struct repair_place place = { .epoch = p->have.epoch, .is_held = p->state == PART_HELD };

	if (place.is_held)
		place.held_us = clock_us() - p->since_us;
	/* At an exclusive event partition 0 may change any row at any moment: that one first. */
	place.may_hold = (p->state == PART_OPEN || p->state == PART_WAITS_GATE) && !progress_is_waiting(&p->have) &&
			 !part_has_moved(p);
	return place;
}

/* Nothing of it is collected from here on. */
static bool hold(struct repairs *s, struct part *p, const char *ids)
{
	char epoch[24], lsn[LSN_TEXT], seq[24];
	const char *values[] = { ids, epoch, lsn, seq };

	snprintf(epoch, sizeof(epoch), "%" PRIu64, p->have.epoch);
	snprintf(seq, sizeof(seq), "%" PRIu64, p->have.at.position.seq);
	lsn_format(p->have.at.position.commit.v, lsn);
	if (p->state != PART_HELD)
		part_set(p, PART_HELD, NULL);
	if (!ids || !run(s, hold_sql, 4, values))
		return false;
	failpoint("repair.held");
	return true;
}

static bool let_go(struct repairs *s, struct part *p)
{
	char partition[16], epoch[24];
	const char *values[] = { s->lane->migration->name, partition, epoch };

	snprintf(partition, sizeof(partition), "%d", p->partition);
	snprintf(epoch, sizeof(epoch), "%" PRIu64, p->have.epoch);
	part_set(p, PART_OPEN, NULL);
	return run(s, release_sql, 3, values);
}

/* ---- writing ---- */

/* A row of foreshadow.repairs that is ready. */
struct answer {
	int64_t id;
	uint32_t oid, version;
	struct span key;
	struct repair_row row;
	size_t column_count;
};

static bool read_answer(struct repairs *s, int64_t id, struct arena *a, struct answer *ret)
{
	const char *values[] = { arena_printf(a, "%" PRId64, id) };
	PGresult *r = pg_query_params(s->lane->conn, s->f, row_sql, 1, values);
	struct span *key, *row;
	size_t n;

	if (!r)
		return false;
	n = (size_t)PQntuples(r);
	key = arena_alloc(a, n * sizeof(*key) + 1);
	row = arena_alloc(a, n * sizeof(*row) + 1);
	*ret = (struct answer) { .id = id, .column_count = n };
	for (size_t i = 0; key && row && i < n; i++) {
		key[i] = arena_dup(a, pg_value(r, (int)i, 4));
		row[i] = arena_dup(a, pg_value(r, (int)i, 5));
		key[i] = PQgetisnull(r, (int)i, 4) ? span(NULL, 0) : key[i];
		row[i] = PQgetisnull(r, (int)i, 5) ? span(NULL, 0) : row[i];
	}
	if (n > 0) {
		ret->oid = (uint32_t)pg_i64(r, 0, 0);
		ret->version = (uint32_t)pg_i64(r, 0, 1);
		ret->key = arena_dup(a, pg_value(r, 0, 2));
		ret->row = (struct repair_row) { key, *PQgetvalue(r, 0, 3) == 't' ? NULL : row };
	}
	PQclear(r);
	return !arena_failed(a) || fault(s->f, FAULT_INTERNAL, "no memory for a row to repair");
}

/* FAULT_STOP, without a table: why it cannot be written. */
static bool find_table(struct repairs *s, uint32_t oid, uint32_t version, const struct lane_table **ret)
{
	const struct codec *codec = versions_relation(s->lane->role->versions, oid, version, s->f);

	if (codec && lane_table(s->lane, codec_relation(codec)->fingerprint, ret, s->f) == LANE_FOUND)
		return lane_plain(s->lane, s->f);
	return s->f->kind != FAULT_NONE ? false
					: fault(s->f, FAULT_STOP, "version %u of the table is not in %s yet", version,
						s->lane->migration->control_topic);
}

/* *ret_is_written false: it was taken back meanwhile. */
static bool write_row(struct repairs *s, struct part *p, const struct answer *w, const struct target_table *t,
		      struct arena *a, bool *ret_is_written)
{
	PGconn *conn = s->lane->conn;
	struct progress_move move = { p->key, &p->have, &p->have };
	struct span before = { 0 }, after = { 0 };
	struct apply_statement first;
	const char *values[4];
	PGresult *r;

	if (w->column_count != t->column_count)
		return fault(s->f, FAULT_STOP, "%.*s: the row has %zu columns, its version %zu", SPAN_ARG(t->label),
			     w->column_count, t->column_count);
	/* Our row first: its epoch and place are the fence. And what verify is told must not be lost. */
	if (!progress_moves(&move, 1, NULL, a, &first, s->f) || !pg_do(conn, s->f, "BEGIN") ||
	    !pg_do(conn, s->f, "SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = '3s'") ||
	    (t->has_deferred && !pg_do(conn, s->f, "SET CONSTRAINTS ALL DEFERRED")) ||
	    !progress_run(conn, &first, s->f) || !repair_apply(conn, t, &w->row, a, &before, &after, s->f))
		return false;
	values[0] = arena_printf(a, "%" PRId64, w->id);
	values[1] = arena_printf(a, "%" PRIu64, p->have.epoch);
	values[2] = before.p;
	values[3] = after.p;
	r = pg_query_params(conn, s->f, written_sql, 4, values);
	if (!r)
		return false;
	*ret_is_written = PQntuples(r) == 1;
	PQclear(r);
	if (failpoint("repair.before_commit"))
		return fault(s->f, FAULT_ENVIRONMENT, "failpoint repair.before_commit");
	return pg_do(conn, s->f, *ret_is_written ? "COMMIT" : "ROLLBACK");
}

/* What the row is to blame for, or its table: not the server, and not that the partition is another's. */
static bool is_its_own(struct repairs *s)
{
	return s->f->kind != FAULT_FENCED && s->f->kind != FAULT_INTERNAL && PQstatus(s->lane->conn) == CONNECTION_OK;
}

static bool say_failed(struct repairs *s, const struct answer *w)
{
	struct fault why = *s->f;
	const char *values[] = { arena_printf(&s->arena, "%" PRId64, w->id), why.text };

	fault_reset(s->f);
	log_warn("repair of key %.*s failed: %s", SPAN_ARG(w->key), why.text);
	return run(s, failed_sql, 2, values);
}

static bool write(struct repairs *s, struct part *p, int64_t id)
{
	const struct lane_table *table = NULL;
	bool is_written = false, ok;
	struct answer answer = { .id = id };
	struct arena a;

	arena_init(&a, ROWS_BYTES);
	ok = lane_plain(s->lane, s->f) && read_answer(s, id, &a, &answer) && answer.column_count > 0;
	if (!ok) {
		arena_release(&a);
		return s->f->kind == FAULT_NONE; /* the row is gone */
	}
	ok = find_table(s, answer.oid, answer.version, &table) &&
	     write_row(s, p, &answer, table->target, &a, &is_written);
	if (!ok && PQstatus(s->lane->conn) == CONNECTION_OK && PQtransactionStatus(s->lane->conn) != PQTRANS_IDLE)
		pg_do(s->lane->conn, NULL, "ROLLBACK");
	if (is_written && ok)
		log_info("repaired %.*s key %.*s", SPAN_ARG(table->target->label), SPAN_ARG(answer.key));
	if (!ok && is_its_own(s))
		ok = say_failed(s, &answer);
	arena_release(&a);
	if (ok && is_written)
		failpoint("repair.written");
	return ok;
}

/* ---- telling ---- */

/* At least once: the row stays 'written' until Kafka has acknowledged it, whoever owns the partition then. */
static bool tell(struct repairs *s, const struct repair_ask *ask)
{
	const char *values[] = { arena_printf(&s->arena, "%" PRId64, ask->id) };
	PGresult *r = pg_query_params(s->lane->conn, s->f, tell_sql, 1, values);
	struct incident_repair report = { .role = role_traits(s->lane->role->role)->name,
					  .topic = s->lane->migration->changes_topic,
					  .partition = ask->partition };
	const struct codec *codec;
	struct fault why = { 0 };
	bool is_told;

	if (!r)
		return false;
	if (PQntuples(r) == 0) {
		PQclear(r);
		return true;
	}
	codec = versions_relation(s->lane->role->versions, (uint32_t)pg_i64(r, 0, 0), (uint32_t)pg_i64(r, 0, 1), &why);
	if (codec)
		report.table = span_str(arena_printf(&s->arena, "%.*s.%.*s", SPAN_ARG(codec_relation(codec)->target_schema),
						     SPAN_ARG(codec_relation(codec)->target_table)));
	report.key = pg_value(r, 0, 2);
	lsn_parse(pg_value(r, 0, 3), &report.position.commit.v);
	report.position.seq = (uint64_t)pg_i64(r, 0, 4);
	report.before = pg_value(r, 0, 5);
	report.after = pg_value(r, 0, 6);
	is_told = incident_repaired(s->lane->role->incidents, &report, &why);
	PQclear(r);
	if (is_told)
		return run(s, told_sql, 1, values);
	log_warn("the incident of a repair is not in %s yet: %s; trying again", s->lane->migration->incidents_topic, why.text);
	s->lane->tell_us = clock_us() + TELL_BACKOFF_US;
	return true;
}

/* ---- a turn ---- */

/* Returns how many keep the partition held: *ok false: the target failed. */
static size_t serve_part(struct repairs *s, struct part *p, bool *ok)
{
	size_t waiting = 0, asked = 0;
	struct buf ids;

	buf_init(&ids, LIST_BYTES);
	for (size_t i = 0; *ok && i < s->count; i++) {
		struct repair_place place = place_of(p);

		if (s->asks[i].partition != p->partition)
			continue;
		switch (repair_next(&s->asks[i], &place)) {
		case REPAIR_HOLD:
			buf_printf(&ids, "%s%" PRId64, asked++ ? "," : "{", s->asks[i].id);
			break;
		case REPAIR_WAIT:
			waiting++;
			break;
		case REPAIR_WRITE:
			*ok = write(s, p, s->asks[i].id);
			break;
		case REPAIR_PASS:
		case REPAIR_TELL:
			break;
		}
	}
	buf_str(&ids, "}");
	if (*ok && asked)
		*ok = hold(s, p, buf_failed(&ids) ? NULL : buf_cstr(&ids)) ||
		      (buf_failed(&ids) && fault(s->f, FAULT_INTERNAL, "no memory for a list of repairs"));
	buf_release(&ids);
	return waiting + asked;
}

static void fail(struct lane *l, struct part *p, const struct fault *f)
{
	if (p) {
		p->is_in_batch = true; /* what lane_failed acts on */
		if (p->state == PART_HELD)
			part_set(p, PART_OPEN, NULL);
	}
	lane_failed(l, f);
}

static void serve(struct repairs *s)
{
	struct lane *l = s->lane;

	for (size_t i = 0; i < l->part_count && l->conn; i++) {
		struct part *p = l->parts[i];
		bool ok = true;
		size_t waiting;

		if (!is_ours(p))
			continue;
		waiting = serve_part(s, p, &ok);
		if (ok && p->state == PART_HELD && waiting == 0)
			ok = let_go(s, p);
		if (!ok) {
			fail(l, p, s->f);
			return;
		}
		if (p->state == PART_HELD)
			part_set_later(p, PART_HELD, LANE_HELD_POLL_US, NULL);
	}
	for (size_t i = 0; i < s->count && l->conn && clock_us() >= l->tell_us; i++)
		if (s->asks[i].state == REPAIR_WRITTEN && !tell(s, &s->asks[i])) {
			fail(l, NULL, s->f);
			return;
		}
}

/* Nothing else of the lane depends on that table: it goes on without. */
static void look_failed(struct lane *l, const struct fault *f)
{
	if (f->kind == FAULT_ENVIRONMENT || PQstatus(l->conn) != CONNECTION_OK) {
		fail(l, NULL, f);
		return;
	}
	log_warn("rows to be repaired cannot be looked for: %s; looking again in %d s", f->text,
		 LOOK_BACKOFF_US / 1000000);
	l->repair_us = clock_us() + LOOK_BACKOFF_US;
}

static bool has_state(const struct lane *l, bool (*is)(const struct part *p))
{
	for (size_t i = 0; i < l->part_count; i++)
		if (is(l->parts[i]))
			return true;
	return false;
}

static bool is_held(const struct part *p)
{
	return p->state == PART_HELD;
}

void repair_turn(struct lane *l)
{
	struct repairs s = { .lane = l };
	int64_t now = clock_us();
	struct fault f = { 0 };

	if (now < l->repair_us || !has_state(l, is_ours))
		return;
	s.f = &f;
	arena_init(&s.arena, ROWS_BYTES);
	if (look(&s))
		serve(&s);
	else
		look_failed(l, &f);
	now = clock_us();
	if (l->repair_us <= now)
		l->repair_us = now + (has_state(l, is_held) ? LANE_HELD_POLL_US : LANE_REPAIR_POLL_US);
	arena_release(&s.arena);
}
