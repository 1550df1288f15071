// SPDX-License-Identifier: Apache-2.0
#include "reconcile/reconcile.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "reconcile/canary.h"
#include "reconcile/quiet.h"
#include "reconcile/weigh.h"

enum { TABLES_BYTES = 512 << 20, DIFFERENCES_BYTES = 512 << 20, TOTALS_WAIT_MS = 10 * 1000 };

/* A table of the source (a partitioned one by its root) with the targets it is compared with. */
struct table {
	const struct relation *rel; /* of one of its leaves */
	struct digest digests[2];
	bool is_compared[2]; /* by role */
	bool is_done;
	const char *unverified[2];
};

/* What differs in the table that is compared. */
struct differences {
	struct repair_item items[2][SCRUB_FOUND_MAX]; /* by role */
	size_t count[2];
	struct arena arena;
};

struct run {
	const struct migration *m;
	const struct reconcile_options *options;
	const struct reconcile_report *report;
	struct reconcile_summary *summary;
	struct known *known;
	struct tail tail;
	struct ends ends;
	struct quiet quiet;
	struct weigh weigh;
	int64_t seed;
	struct table *tables;
	size_t table_count;
	struct differences *differences; /* NULL: nothing is repaired */
	struct arena arena;
	struct fault *f;
};

static bool no_memory(struct fault *f)
{
	return fault(f, FAULT_INTERNAL, "no memory for the tables of the migration");
}

/* ---- which tables ---- */

static bool is_named(const char *wanted, struct span schema, struct span table)
{
	struct span s = span_str(wanted);

	return (s.n == schema.n + 1 + table.n && memcmp(s.p, schema.p, schema.n) == 0 &&
		s.p[schema.n] == '.' && memcmp(s.p + schema.n + 1, table.p, table.n) == 0) ||
	       span_eq(s, table);
}

static bool is_wanted(const struct run *run, const struct relation *rel)
{
	const char *wanted = run->options->table;

	if (!migration_has_table(run->m, rel->root_schema, rel->root_table) &&
	    !migration_has_table(run->m, rel->schema, rel->table))
		return false;
	return !wanted || is_named(wanted, rel->target_schema, rel->target_table) ||
	       is_named(wanted, rel->root_schema, rel->root_table);
}

static bool is_listed(const struct run *run, const struct relation *rel)
{
	for (size_t i = 0; i < run->table_count; i++)
		if (span_eq(run->tables[i].rel->root_schema, rel->root_schema) &&
		    span_eq(run->tables[i].rel->root_table, rel->root_table))
			return true;
	return false;
}

static bool list_tables(struct run *run)
{
	size_t n = known_count(run->known);

	run->tables = arena_alloc(&run->arena, n * sizeof(*run->tables) + 1);
	if (!run->tables)
		return no_memory(run->f);
	for (size_t i = 0; i < n; i++) {
		const struct relation *rel = known_newest(run->known, i);

		if (is_wanted(run, rel) && !is_listed(run, rel))
			run->tables[run->table_count++] = (struct table) { .rel = rel };
	}
	if (run->table_count > 0)
		return true;
	if (run->options->table)
		return fault(run->f, FAULT_USAGE, "--table %s: no table of this migration has this name",
			     run->options->table);
	return fault(run->f, FAULT_ENVIRONMENT,
		     "the migration has no tables yet; next step: foreshadow run");
}

/* ---- what is compared ---- */

/* What keeps one table from being compared is said of it, and the others are compared. */
static bool leave_out(struct run *run, struct table *t, enum role role, const struct fault *why)
{
	t->unverified[role] = arena_printf(&run->arena, "%s", why->text);
	return t->unverified[role] || no_memory(run->f);
}

static bool prepare_role(struct run *run, struct table *t, enum role role, const struct side *source)
{
	struct side *target = arena_alloc(&run->arena, sizeof(*target));
	struct fault why = { 0 };
	struct span copies;
	bool is_live = false;

	if (!target)
		return no_memory(run->f);
	if (!ends_copies(&run->ends, role, t->rel, &run->arena, &copies, &is_live, run->f))
		return false;
	if (!is_live) {
		fault(&why, FAULT_ENVIRONMENT, "its copy is not complete on the %s", ends_role_names[role]);
		return leave_out(run, t, role, &why);
	}
	if (!side_read(run->ends.targets[role], ends_role_names[role], t->rel->target_schema,
		       t->rel->target_table, &run->arena, target, &why) ||
	    !digest_make(t->rel, source, target, &run->arena, &t->digests[role], &why)) {
		if (why.kind == FAULT_STOP)
			return leave_out(run, t, role, &why);
		*run->f = why;
		return false;
	}
	t->is_compared[role] = true;
	return true;
}

static bool prepare(struct run *run, struct table *t)
{
	struct side *source = arena_alloc(&run->arena, sizeof(*source));
	struct fault why = { 0 };

	if (!source)
		return no_memory(run->f);
	if (!side_read(run->ends.source, "source", t->rel->root_schema, t->rel->root_table,
		       &run->arena, source, &why)) {
		if (why.kind != FAULT_STOP) {
			*run->f = why;
			return false;
		}
		for (int role = 0; role < 2; role++)
			if (run->ends.targets[role] && !leave_out(run, t, (enum role)role, &why))
				return false;
		return true;
	}
	for (int role = 0; role < 2; role++)
		if (run->ends.targets[role] && !prepare_role(run, t, (enum role)role, source))
			return false;
	/* Ranges are of both targets, by the same column, or of none. */
	if (t->is_compared[0] && t->is_compared[1] &&
	    !(t->digests[0].range_column[0].p && t->digests[1].range_column[0].p &&
	      span_eq(t->digests[0].range_column[0], t->digests[1].range_column[0])))
		for (int role = 0; role < 2; role++)
			t->digests[role].range_column[0] = t->digests[role].range_column[1] =
			    span(NULL, 0);
	return true;
}

/* ---- the proof ---- */

static bool try_canary(void *arg, size_t table, bool may_be_large, enum canary *ret, struct fault *f)
{
	struct run *run = arg;
	struct table *t = &run->tables[table];
	int role = t->is_compared[0] ? 0 : 1;
	bool is_large = t->digests[role].range_column[0].p == NULL;

	*ret = CANARY_NO_ROW;
	if (!t->is_compared[role] || is_large != may_be_large)
		return true;
	return canary_run(&run->ends, (enum role)role, &t->digests[role], run->seed, ret, f) ||
	       fault_in(f, "%.*s", SPAN_ARG(t->digests[role].label));
}

static bool prove(struct run *run)
{
	enum canary seen;

	if (!canary_prove(&run->ends, run->table_count, try_canary, run, &seen, run->f))
		return false;
	run->summary->has_proof = seen == CANARY_FOUND;
	run->summary->is_unproven = seen == CANARY_OPEN || seen == CANARY_REFUSED;
	return true;
}

/* ---- comparing ---- */

static void say(struct run *run, struct table *t, const struct scrub_result *results)
{
	for (int role = 0; role < 2; role++) {
		const struct scrub_result *r = &results[role];
		const struct digest *d = &t->digests[role];
		struct reconcile_table said = {
			.label = span_str(arena_printf(&run->arena, "%.*s.%.*s",
						       SPAN_ARG(t->rel->target_schema),
						       SPAN_ARG(t->rel->target_table))),
			.source = span_str(arena_printf(&run->arena, "%.*s.%.*s",
							SPAN_ARG(t->rel->root_schema),
							SPAN_ARG(t->rel->root_table))),
			.role = (enum role)role,
			.result = *r,
			.unverified = t->unverified[role],
			.skipped = d->skipped,
			.skipped_count = d->skipped_count,
		};

		if (!run->options->roles[role])
			continue;
		if (!said.unverified && r->is_cut)
			said.unverified = "too many differences: not compared to its end";
		run->summary->table_count++;
		run->summary->row_count += r->row_count;
		run->summary->found_count += r->found_count;
		run->summary->open_count += r->open_count;
		run->summary->unverified_count += said.unverified != NULL;
		run->report->table(run->report->arg, &said);
	}
	t->is_done = true;
}

/* ---- repairs ---- */

static struct span *copy_key(struct arena *a, const struct difference *d)
{
	const struct span *from = d->source ? d->source : d->target;
	struct span *texts = arena_alloc(a, d->digest->column_count * sizeof(*texts) + 1);

	for (size_t i = 0; texts && from && i < d->digest->column_count; i++)
		if (d->digest->columns[i].is_key && from[i].p)
			texts[i] = arena_dup(a, from[i]);
	return texts;
}

static size_t row_bytes(const struct difference *d)
{
	size_t bytes = 0;

	for (size_t i = 0; i < d->digest->column_count; i++)
		bytes += (d->source ? d->source[i].n : 0) + (d->target ? d->target[i].n : 0);
	return bytes;
}

/* Of a keyless table the judge may find a few more: what does not fit here is not repaired. */
static void found(void *arg, const struct difference *d)
{
	struct run *run = arg;
	struct differences *all = run->differences;

	run->report->difference(run->report->arg, d);
	if (!all || all->count[d->role] == SCRUB_FOUND_MAX)
		return;
	all->items[d->role][all->count[d->role]++] = (struct repair_item) {
		.key = arena_dup(&all->arena, d->key),
		.texts = copy_key(&all->arena, d),
		.kind = difference_kind(d),
		.bytes = row_bytes(d),
	};
}

static void say_repair(void *arg, const struct repair *r, const struct repair_item *item)
{
	struct run *run = arg;

	run->summary->repaired_count += item->is_repaired;
	run->report->repair(run->report->arg, r, item);
}

static bool repair_table(struct run *run, struct table *t)
{
	struct differences *all = run->differences;
	bool ok = !arena_failed(&all->arena) || no_memory(run->f);

	for (int role = 0; ok && role < 2; role++) {
		struct repair r = { .ends = &run->ends, .role = (enum role)role, .digest = &t->digests[role],
				    .seed = run->seed,  .a = &all->arena,        .said = say_repair, .arg = run };

		ok = repair_items(&r, all->items[role], all->count[role], run->f);
	}
	return ok;
}

static void forget_differences(struct run *run)
{
	if (!run->differences)
		return;
	run->differences->count[0] = run->differences->count[1] = 0;
	arena_release(&run->differences->arena);
	arena_init(&run->differences->arena, DIFFERENCES_BYTES);
}

/* ---- a table ---- */

static bool compare(struct run *run, struct table *t)
{
	struct scrub s;
	bool ok = true;

	scrub_init(&s, &run->ends, run->seed);
	forget_differences(run);
	s.found = found;
	s.arg = run;
	s.goes_ahead = true;
	for (int role = 0; role < 2; role++)
		s.digests[role] = t->is_compared[role] ? &t->digests[role] : NULL;
	if (s.digests[0] || s.digests[1])
		ok = scrub_table(&s, run->f);
	if (!run->summary->lsn)
		run->summary->lsn = s.first_lsn;
	for (int role = 0; !ok && role < 2; role++)
		t->unverified[role] = arena_printf(&run->arena, "%s", run->f->text);
	say(run, t, s.results);
	if (ok && run->differences)
		ok = repair_table(run, t);
	else if (!ok && ends_pass_over(&run->ends, run->f)) {
		fault_reset(run->f); /* it is in the report */
		return true;
	}
	return ok || fault_in(run->f, "%.*s.%.*s", SPAN_ARG(t->rel->target_schema),
			      SPAN_ARG(t->rel->target_table));
}

/* ---- checks beside the rows ---- */

static void say_check(void *arg, const struct final_result *r)
{
	struct run *run = arg;

	run->summary->final.failed_checks += r->fail_count > 0;
	run->summary->final.unjudged_checks += r->unjudged != NULL;
	run->report->check(run->report->arg, r);
}

/* The differences as findings; more than these are counted only. */
enum { UNBALANCED_MAX = 100 };

struct unbalanced {
	struct run *run;
	struct final_finding *findings;
	size_t count;
};

static struct span unbalanced_object(const struct balance_difference *d, struct arena *a)
{
	bool is_of_partition = d->kind == BALANCE_ORDINALS || d->kind == BALANCE_STREAM;

	if (d->table.n)
		return arena_dup(a, d->table);
	return span_str(is_of_partition ? arena_printf(a, "partition %d", d->partition) : "a table");
}

static void add_unbalanced(void *arg, const struct balance_difference *d)
{
	struct unbalanced *u = arg;
	struct buf text;

	if (u->count == UNBALANCED_MAX)
		return;
	buf_init(&text, 8192);
	balance_describe(d, &text);
	u->findings[u->count++] = (struct final_finding) { unbalanced_object(d, &u->run->arena),
							   arena_dup(&u->run->arena, buf_span(&text)), false };
	buf_release(&text);
}

/* The first time: where the targets stand. What differs by now is said at the end. */
static bool weigh_first(struct run *run)
{
	struct unbalanced unused = { run, NULL, UNBALANCED_MAX };
	struct weigh_result result;

	for (int role = 0; role < 2; role++) {
		if (run->ends.targets[role] &&
		    !weigh_now(&run->weigh, (enum role)role, 0, add_unbalanced, &unused, &result, run->f))
			return false;
		run->weigh.totals[role] = (struct weigh_totals) { 0 };
	}
	return true;
}

/* Without --final, only what is wrong is a line. */
static bool weigh_role(struct run *run, enum role role)
{
	struct unbalanced u = { run, arena_alloc(&run->arena, (UNBALANCED_MAX + 1) * sizeof(*u.findings)), 0 };
	struct final_result check = { .name = "balance",
				      .title = "Every change was counted once",
				      .remedy = "if no row differs: \"Balance\" in docs/operations.md",
				      .role = role };
	struct weigh_result result;

	if (!u.findings)
		return no_memory(run->f);
	if (!weigh_now(&run->weigh, role, run->options->is_final ? TOTALS_WAIT_MS : 0, add_unbalanced, &u, &result, run->f))
		return false;
	check.fail_count = result.difference_count;
	if (result.why_no_totals)
		u.findings[u.count++] = (struct final_finding) { span_str("totals per table"),
								 span_str(arena_printf(&run->arena, "not compared: %s",
										       result.why_no_totals)),
								 true };
	check.findings = u.findings;
	check.finding_count = u.count;
	if (arena_failed(&run->arena))
		return no_memory(run->f);
	if (check.fail_count || run->options->is_final)
		say_check(run, &check);
	return true;
}

static bool weigh_all(struct run *run)
{
	for (int role = 0; role < 2; role++)
		if (run->ends.targets[role] && !weigh_role(run, (enum role)role))
			return false;
	return true;
}

/* Only what holds still from the beginning to the end was compared at one moment. */
static bool check_final(struct run *run)
{
	size_t count = known_count(run->known), n = 0;
	const struct relation **leaves = arena_alloc(&run->arena, count * sizeof(*leaves) + 1);

	if (!leaves)
		return no_memory(run->f);
	for (size_t i = 0; i < count; i++)
		if (is_wanted(run, known_newest(run->known, i)))
			leaves[n++] = known_newest(run->known, i);
	if (!final_check(&run->ends, leaves, n, run->quiet.lsn, say_check, run, run->f) ||
	    !weigh_all(run) || !quiet_hold(&run->quiet, run->f))
		return false;
	run->summary->final.is_quiet = true;
	return true;
}

static void sum_final(struct reconcile_summary *s)
{
	s->final.difference_count = s->found_count;
	s->final.unjudged_tables = s->unverified_count;
	s->final.unjudged_rows = s->open_count;
	s->final.is_unproven = s->is_unproven;
}

/* ---- a run ---- */

static bool run_all(struct run *run)
{
	if (getrandom(&run->seed, sizeof(run->seed), 0) != sizeof(run->seed))
		return fault(run->f, FAULT_INTERNAL, "no random number from the system");
	if (!ends_connect(&run->ends, run->options->roles, run->f) || !tail_start(&run->tail, run->ends.targets, 2, run->f) ||
	    !weigh_open(&run->weigh, &run->ends, run->f) ||
	    (run->options->is_final && !quiet_begin(&run->quiet, &run->ends, run->f)) || !weigh_first(run))
		return false;
	for (size_t i = 0; i < run->table_count; i++)
		if (!prepare(run, &run->tables[i]))
			return false;
	if (!prove(run))
		return false;
	for (size_t i = 0; i < run->table_count; i++)
		if (!compare(run, &run->tables[i]))
			return false;
	return run->options->is_final ? check_final(run) : weigh_all(run);
}

bool reconcile_verify(const struct migration *m, struct control *control, struct framing *framing,
		      const struct reconcile_options *options, const struct reconcile_report *report,
		      struct reconcile_summary *ret, struct fault *f)
{
	struct run run = {
		.m = m, .options = options, .report = report, .summary = ret, .f = f
	};
	const struct scrub_result nothing[2] = { { 0 } };
	bool ok;

	*ret = (struct reconcile_summary) { 0 };
	arena_init(&run.arena, TABLES_BYTES);
	run.differences = options->repairs ? calloc(1, sizeof(*run.differences)) : NULL;
	run.known = known_new(control, f);
	ok = (run.differences || !options->repairs || no_memory(f)) && run.known && tail_open(&run.tail, m, run.known, framing, f) && list_tables(&run);
	if (ok) {
		run.tail.learn = options->learn;
		run.tail.arg = options->arg;
		run.ends = (struct ends) { .m = m, .tail = &run.tail };
		ok = run_all(&run);
	}
	for (size_t i = 0; !ok && i < run.table_count; i++) {
		run.tables[i].unverified[0] = run.tables[i].unverified[1] = "not reached";
		if (!run.tables[i].is_done)
			say(&run, &run.tables[i], nothing);
	}
	sum_final(ret);
	ends_close(&run.ends);
	weigh_close(&run.weigh);
	tail_close(&run.tail);
	known_free(run.known);
	forget_differences(&run);
	free(run.differences);
	arena_release(&run.arena);
	return ok;
}
