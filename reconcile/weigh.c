// SPDX-License-Identifier: Apache-2.0
#include "reconcile/weigh.h"

#include <stdlib.h>

#include "core/clock.h"
#include "core/pg.h"

enum { COUNTS_BYTES = 512 << 20, NAMES_BYTES = 64 << 20, BARRIER_BYTES = 256 << 20, POLL_MS = 50 };

/* What a target says in one statement. */
struct answer {
	struct balance_place *places; /* one per partition */
	struct position *positions;
	struct balance_count *counts; /* of all of them */
	size_t count_count;
	struct boundary barrier; /* of all partitions; 0: they differ, or something behind it is applied */
	int64_t next_offset;     /* of partition 0 */
	bool is_older;           /* not all of it was counted by table */
};

static bool no_memory(struct fault *f)
{
	return fault(f, FAULT_INTERNAL, "no memory for the counts of the tables");
}

static bool counted(void *arg, int partition, uint64_t ordinal, uint32_t oid, struct fault *f)
{
	struct weigh *w = arg;

	for (int role = 0; role < 2; role++)
		if (w->balances[role] && !balance_record(w->balances[role], partition, ordinal, oid))
			return no_memory(f);
	return true;
}

bool weigh_open(struct weigh *w, struct ends *ends, struct fault *f)
{
	*w = (struct weigh) { .ends = ends };
	for (int role = 0; role < 2; role++) {
		if (!ends->targets[role])
			continue;
		w->balances[role] = balance_new(ends->m->partition_count);
		if (!w->balances[role])
			return no_memory(f);
		for (int p = 0; p < ends->m->partition_count; p++)
			balance_follow(w->balances[role], p, ends->tail->parts[p].ordinal);
	}
	ends->tail->counted = counted;
	ends->tail->counted_arg = w;
	return true;
}

void weigh_close(struct weigh *w)
{
	for (int role = 0; role < 2; role++)
		balance_free(w->balances[role]);
	if (w->ends && w->ends->tail)
		w->ends->tail->counted = NULL;
	*w = (struct weigh) { NULL };
}

/* ---- what the target says ---- */

static const char counts_sql[] =
    "SELECT p.partition, p.ordinal, p.commit_lsn, p.seq, p.barrier_lsn, p.next_offset, c.oid,"
    "  c.applied + c.covered + c.passed + c.accepted, c.applied + c.covered + c.accepted,"
    "  (c.oid = 0 AND c.applied + c.covered + c.passed > 0)::int"
    " FROM foreshadow.progress p LEFT JOIN foreshadow.counts c"
    "  ON c.migration = p.migration AND c.partition = p.partition"
    " WHERE p.migration = $1 AND p.topic = $2 ORDER BY p.partition, c.oid";

/* Everything before the barrier, and nothing behind it. */
static void take_barrier(struct answer *a, int partition, struct boundary barrier, struct position place)
{
	bool is_behind = place.commit.v >= barrier.v;

	if (partition == 0)
		a->barrier = barrier;
	if (is_behind || boundary_cmp(a->barrier, barrier) != 0)
		a->barrier = (struct boundary) { 0 };
}

static void take_row(struct answer *a, const PGresult *r, int row)
{
	int partition = (int)pg_i64(r, row, 0);
	struct balance_place *place = &a->places[partition];
	struct boundary barrier = { 0 };

	if (!place->counts) {
		lsn_parse(pg_value(r, row, 2), &a->positions[partition].commit.v);
		a->positions[partition].seq = (uint64_t)pg_i64(r, row, 3);
		lsn_parse(pg_value(r, row, 4), &barrier.v);
		take_barrier(a, partition, barrier, a->positions[partition]);
		if (partition == 0)
			a->next_offset = pg_i64(r, row, 5);
		*place = (struct balance_place) { .ordinal = (uint64_t)pg_i64(r, row, 1),
						  .counts = &a->counts[a->count_count] };
	}
	if (PQgetisnull(r, row, 6))
		return;
	a->is_older |= pg_i64(r, row, 9) == 1;
	a->counts[a->count_count++] = (struct balance_count) { (uint32_t)pg_i64(r, row, 6), pg_i64(r, row, 7),
							       pg_i64(r, row, 8) };
	place->count_count++;
}

static bool take_answer(const PGresult *r, int partition_count, struct arena *a, struct answer *ret, struct fault *f)
{
	size_t n = (size_t)PQntuples(r) + 1;

	*ret = (struct answer) { .places = arena_alloc(a, (size_t)partition_count * sizeof(*ret->places)),
				 .positions = arena_alloc(a, (size_t)partition_count * sizeof(*ret->positions)),
				 .counts = arena_alloc(a, n * sizeof(*ret->counts)) };
	if (arena_failed(a))
		return no_memory(f);
	for (int p = 0; p < partition_count; p++) {
		ret->places[p] = (struct balance_place) { 0 };
		ret->positions[p] = (struct position) { { 0 }, 0 };
	}
	for (int i = 0; i < PQntuples(r); i++) {
		if (pg_i64(r, i, 0) < 0 || pg_i64(r, i, 0) >= partition_count)
			return fault(f, FAULT_INPUT, "foreshadow.progress has a row of partition %s, of %d",
				     PQgetvalue(r, i, 0), partition_count);
		take_row(ret, r, i);
	}
	for (int p = 0; p < partition_count; p++)
		if (!ret->places[p].counts)
			return fault(f, FAULT_ENVIRONMENT, "foreshadow.progress lacks the row of partition %d", p);
	return true;
}

static bool ask(struct weigh *w, enum role role, struct arena *a, struct answer *ret, struct fault *f)
{
	const struct migration *m = w->ends->m;
	const char *values[] = { m->name, m->changes_topic };
	PGresult *r = pg_query_params(w->ends->targets[role], f, counts_sql, 2, values);
	bool ok;

	arena_reset(a);
	ok = r && take_answer(r, m->partition_count, a, ret, f);
	PQclear(r);
	return ok || fault_in(f, "%s", ends_role_names[role]);
}

/* If there is time, until they stand at one barrier. */
static bool ask_together(struct weigh *w, enum role role, int wait_ms, struct arena *a, struct answer *ret,
			 struct fault *f)
{
	int64_t until_us = clock_us() + wait_ms * INT64_C(1000);

	while (ask(w, role, a, ret, f)) {
		if (ret->barrier.v || w->ends->are_still || clock_us() >= until_us)
			return true;
		if (!tail_poll(w->ends->tail, POLL_MS, f))
			return false;
	}
	return false;
}

/* ---- totals ---- */

static struct balance_name *list_names(const struct known *known, struct arena *a, size_t *ret_count)
{
	size_t n = known_version_count(known);
	struct balance_name *names = arena_alloc(a, n * sizeof(*names) + 1);
	struct buf b;

	buf_init(&b, 4096);
	for (size_t i = 0; names && i < n; i++) {
		const struct relation *rel = known_version(known, i);

		buf_reset(&b);
		pg_quote_table(&b, rel->target_schema, rel->target_table);
		names[i] = (struct balance_name) { rel->oid, arena_dup(a, buf_span(&b)) };
	}
	buf_release(&b);
	*ret_count = n;
	return arena_failed(a) ? NULL : names;
}

static bool compare_totals(struct weigh *w, const struct answer *answer, balance_report *report, void *arg,
			   struct weigh_result *ret, struct fault *f)
{
	struct balance_name *names;
	struct barrier barrier = { 0 };
	struct arena a, of_names;
	size_t name_count;
	bool ok;

	if (answer->is_older)
		ret->why_no_totals = "the migration began with a version that did not count by table";
	else if (!answer->barrier.v)
		ret->why_no_totals = "its partitions do not stand at one barrier";
	if (ret->why_no_totals)
		return true;
	arena_init(&a, BARRIER_BYTES);
	arena_init(&of_names, NAMES_BYTES);
	ok = tail_barrier(w->ends->tail, answer->barrier, answer->next_offset, &a, &barrier, &ret->has_totals, f);
	if (ok && !ret->has_totals)
		ret->why_no_totals = "the barrier is not near its place in the stream any more";
	if (ok && ret->has_totals) {
		names = list_names(w->ends->tail->known, &of_names, &name_count);
		ok = (names && balance_totals(&barrier, answer->barrier, names, name_count, answer->counts,
					      answer->count_count, report, arg)) ||
		     no_memory(f);
	}
	arena_release(&of_names);
	arena_release(&a);
	return ok;
}

/* ---- weighing ---- */

struct telling {
	struct weigh *w;
	balance_report *report;
	void *arg;
	struct weigh_result *result;
	struct weigh_totals totals;
};

static void tell(void *arg, const struct balance_difference *d)
{
	struct telling *t = arg;
	struct balance_difference named = *d;
	const struct relation *rel = d->oid && !d->table.n ? known_relation(t->w->ends->tail->known, d->oid) : NULL;
	struct buf name;

	buf_init(&name, 4096);
	if (rel) {
		pg_quote_table(&name, rel->target_schema, rel->target_table);
		named.table = buf_span(&name);
	}
	if (d->kind == BALANCE_TOTALS || d->kind == BALANCE_SOURCE) {
		t->totals.difference_count++;
		balance_error_add(&t->totals.error, d);
	} else {
		t->result->difference_count++;
		balance_error_add(&t->result->error, d);
	}
	t->report(t->arg, &named);
	buf_release(&name);
}

static bool weigh_answer(struct weigh *w, enum role role, const struct answer *answer, struct telling *t, struct fault *f)
{
	if (!ends_read_to(w->ends, answer->positions, f))
		return false;
	for (int p = 0; p < w->ends->m->partition_count; p++)
		if (!balance_place(w->balances[role], p, &answer->places[p], tell, t))
			return no_memory(f);
	if (!compare_totals(w, answer, tell, t, t->result, f))
		return false;
	if (t->result->has_totals)
		w->totals[role] = t->totals;
	t->result->difference_count += w->totals[role].difference_count;
	for (int kind = 0; kind < BALANCE_KINDS; kind++)
		t->result->error.by_kind[kind] += w->totals[role].error.by_kind[kind];
	return true;
}

bool weigh_now(struct weigh *w, enum role role, int totals_wait_ms, balance_report *report, void *arg,
	       struct weigh_result *ret, struct fault *f)
{
	struct telling t = { .w = w, .report = report, .arg = arg, .result = ret };
	struct answer answer = { 0 };
	struct arena a;
	bool ok;

	*ret = (struct weigh_result) { 0 };
	arena_init(&a, COUNTS_BYTES);
	ok = ask_together(w, role, totals_wait_ms, &a, &answer, f) && weigh_answer(w, role, &answer, &t, f);
	arena_release(&a);
	return ok;
}
