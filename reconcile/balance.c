// SPDX-License-Identifier: Apache-2.0
#include "reconcile/balance.h"

#include <inttypes.h>
#include <stdlib.h>

enum { SLOTS_FIRST = 64 };

/* A table in a partition. */
struct sum {
	uint32_t oid;
	int64_t first;    /* counted at the first place */
	int64_t streamed; /* records since then */
	int64_t seen;     /* counted at the place that is being looked at */
};

struct run {
	uint32_t oid, n;
};

struct part {
	bool is_followed;
	bool has_first;
	uint64_t first, place, head; /* ordinals: the first place, where the runs begin, the newest record */
	struct run *runs;
	size_t run_first, run_count, run_cap;
	struct sum *sums; /* open addressing by oid; slot_count is a power of two */
	bool *is_used;
	size_t slot_count, sum_count;
};

struct balance {
	int partition_count;
	size_t runs_max; /* of each partition */
	struct part *parts;
};

struct balance *balance_new(int partition_count)
{
	struct balance *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->partition_count = partition_count;
	b->runs_max = (size_t)BALANCE_RUNS_MAX / (size_t)partition_count;
	b->parts = calloc((size_t)partition_count, sizeof(*b->parts));
	if (b->parts)
		return b;
	free(b);
	return NULL;
}

void balance_free(struct balance *b)
{
	if (!b)
		return;
	for (int p = 0; p < b->partition_count; p++) {
		free(b->parts[p].runs);
		free(b->parts[p].sums);
		free(b->parts[p].is_used);
	}
	free(b->parts);
	free(b);
}

/* ---- tables of a partition ---- */

static size_t slot_of(const struct part *p, uint32_t oid)
{
	size_t i = (size_t)(oid * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (p->slot_count - 1);

	while (p->is_used[i] && p->sums[i].oid != oid)
		i = (i + 1) & (p->slot_count - 1);
	return i;
}

static bool sums_grow(struct part *p)
{
	struct part old = *p;

	if (2 * (p->sum_count + 1) <= p->slot_count)
		return true;
	p->slot_count = old.slot_count ? 2 * old.slot_count : SLOTS_FIRST;
	p->sums = calloc(p->slot_count, sizeof(*p->sums));
	p->is_used = calloc(p->slot_count, sizeof(*p->is_used));
	if (!p->sums || !p->is_used) {
		free(p->sums);
		free(p->is_used);
		*p = old;
		return false;
	}
	for (size_t i = 0; i < old.slot_count; i++) {
		size_t slot;

		if (!old.is_used[i])
			continue;
		slot = slot_of(p, old.sums[i].oid);
		p->sums[slot] = old.sums[i];
		p->is_used[slot] = true;
	}
	free(old.sums);
	free(old.is_used);
	return true;
}

/* NULL: no memory. */
static struct sum *sum_at(struct part *p, uint32_t oid)
{
	size_t slot;

	if (!sums_grow(p))
		return NULL;
	slot = slot_of(p, oid);
	if (!p->is_used[slot]) {
		p->is_used[slot] = true;
		p->sums[slot] = (struct sum) { .oid = oid };
		p->sum_count++;
	}
	return &p->sums[slot];
}

/* ---- the stream ---- */

/* Begins anew: the next place at or behind this ordinal is the first one. */
static void begin(struct part *p, uint64_t ordinal)
{
	p->has_first = false;
	p->place = p->head = ordinal;
	p->run_first = p->run_count = 0;
	for (size_t i = 0; i < p->slot_count; i++)
		p->is_used[i] = false;
	p->sum_count = 0;
}

void balance_follow(struct balance *b, int partition, uint64_t ordinal)
{
	b->parts[partition].is_followed = true;
	begin(&b->parts[partition], ordinal);
}

static bool runs_grow(struct part *p)
{
	size_t cap = p->run_cap ? 2 * p->run_cap : 256;
	struct run *runs;

	if (p->run_count < p->run_cap)
		return true;
	if (p->run_first > p->run_cap / 2) {
		p->run_count -= p->run_first;
		memmove(p->runs, p->runs + p->run_first, p->run_count * sizeof(*p->runs));
		p->run_first = 0;
		return true;
	}
	runs = realloc(p->runs, cap * sizeof(*runs));
	if (!runs)
		return false;
	p->runs = runs;
	p->run_cap = cap;
	return true;
}

bool balance_record(struct balance *b, int partition, uint64_t ordinal, uint32_t oid)
{
	struct part *p = &b->parts[partition];
	struct run *last = p->run_count > p->run_first ? &p->runs[p->run_count - 1] : NULL;

	if (!p->is_followed)
		return true;
	/* Not told of one, or so far behind the stream is the target that this is not worth its memory. */
	if (ordinal != p->head + 1 || p->run_count - p->run_first >= b->runs_max) {
		begin(p, ordinal);
		return true;
	}
	p->head = ordinal;
	if (last && last->oid == oid && last->n < UINT32_MAX) {
		last->n++;
		return true;
	}
	if (!runs_grow(p))
		return false;
	p->runs[p->run_count++] = (struct run) { oid, 1 };
	return true;
}

/* Takes the runs up to there into the sums. */
static bool advance(struct part *p, uint64_t to)
{
	while (p->place < to) {
		struct run *r = &p->runs[p->run_first];
		uint64_t n = r->n < to - p->place ? r->n : to - p->place;
		struct sum *sum = sum_at(p, r->oid);

		if (!sum)
			return false;
		sum->streamed += (int64_t)n;
		p->place += n;
		r->n -= (uint32_t)n;
		p->run_first += r->n == 0;
	}
	return true;
}

/* ---- a place ---- */

static bool take_first(struct part *p, const struct balance_place *place)
{
	for (size_t i = 0; i < place->count_count; i++) {
		struct sum *sum = sum_at(p, place->counts[i].oid);

		if (!sum)
			return false;
		sum->first = place->counts[i].records;
	}
	/* What was read in front of it is in there. */
	for (size_t i = 0; i < p->slot_count; i++)
		p->sums[i].streamed = 0;
	p->has_first = true;
	p->first = place->ordinal;
	return true;
}

static bool take_seen(struct part *p, const struct balance_place *place)
{
	for (size_t i = 0; i < p->slot_count; i++)
		p->sums[i].seen = 0;
	for (size_t i = 0; i < place->count_count; i++) {
		struct sum *sum = sum_at(p, place->counts[i].oid);

		if (!sum)
			return false;
		sum->seen = place->counts[i].records;
	}
	return true;
}

static void check_stream(const struct part *p, int partition, balance_report *report, void *arg)
{
	for (size_t i = 0; i < p->slot_count; i++) {
		const struct sum *s = &p->sums[i];
		struct balance_difference d = { .kind = BALANCE_STREAM,
						.partition = partition,
						.oid = s->oid,
						.from = p->first,
						.to = p->place,
						.wanted = s->streamed,
						.seen = s->seen - s->first };

		if (p->is_used[i] && d.wanted != d.seen)
			report(arg, &d);
	}
}

static void check_ordinals(int partition, const struct balance_place *place, balance_report *report, void *arg)
{
	struct balance_difference d = { .kind = BALANCE_ORDINALS,
					.partition = partition,
					.to = place->ordinal,
					.wanted = (int64_t)place->ordinal };

	for (size_t i = 0; i < place->count_count; i++)
		d.seen += place->counts[i].records;
	if (d.wanted != d.seen)
		report(arg, &d);
}

bool balance_place(struct balance *b, int partition, const struct balance_place *place, balance_report *report, void *arg)
{
	struct part *p = &b->parts[partition];

	check_ordinals(partition, place, report, arg);
	if (!p->is_followed || place->ordinal < p->place || place->ordinal > p->head)
		return true;
	if (!advance(p, place->ordinal))
		return false;
	if (!p->has_first)
		return take_first(p, place);
	if (!take_seen(p, place))
		return false;
	check_stream(p, partition, report, arg);
	return true;
}

/* ---- totals ---- */

/* Names that stand for the same tables are one group: its parent's. */
struct named {
	struct span name;
	uint32_t oid;
	size_t parent;
	int64_t wanted, seen;
};

static int by_name(const void *a, const void *b)
{
	return span_cmp(((const struct named *)a)->name, ((const struct named *)b)->name);
}

static size_t group_of(struct named *list, size_t i)
{
	while (list[i].parent != i)
		i = list[i].parent = list[list[i].parent].parent;
	return i;
}

static void join(struct named *list, size_t i, size_t k)
{
	list[group_of(list, k)].parent = group_of(list, i);
}

struct by_oid {
	uint32_t oid;
	size_t index;
};

static int oid_order(const void *a, const void *b)
{
	const struct by_oid *x = a, *y = b;

	if (x->oid != y->oid)
		return x->oid < y->oid ? -1 : 1;
	return x->index < y->index ? -1 : x->index > y->index;
}

/* A name or an OID that nothing is known of has a group of its own. */
static size_t list_all(struct named *list, const struct barrier *barrier, const struct balance_name *names,
		       size_t name_count, const struct balance_count *seen, size_t seen_count)
{
	size_t n = 0;

	for (size_t i = 0; i < name_count; i++)
		list[n++] = (struct named) { .name = names[i].name, .oid = names[i].oid };
	for (size_t i = 0; i < barrier->count_count; i++)
		list[n++] = (struct named) { .name = barrier->counts[i].table,
					     .wanted = (int64_t)barrier->counts[i].published };
	for (size_t i = 0; i < seen_count; i++)
		list[n++] = (struct named) { .oid = seen[i].oid, .seen = seen[i].changes };
	return n;
}

static void join_all(struct named *list, struct by_oid *oids, size_t n)
{
	qsort(list, n, sizeof(*list), by_name);
	for (size_t i = 0; i < n; i++) {
		list[i].parent = i;
		oids[i] = (struct by_oid) { list[i].oid, i };
	}
	for (size_t i = 1; i < n; i++)
		if (list[i].name.n && span_eq(list[i].name, list[i - 1].name))
			join(list, i - 1, i);
	qsort(oids, n, sizeof(*oids), oid_order);
	for (size_t i = 1; i < n; i++)
		if (oids[i].oid && oids[i].oid == oids[i - 1].oid)
			join(list, oids[i - 1].index, oids[i].index);
}

static void check_groups(struct named *list, size_t n, struct boundary at, balance_report *report, void *arg)
{
	for (size_t i = 0; i < n; i++) {
		struct named *group = &list[group_of(list, i)];

		if (group == &list[i])
			continue;
		group->wanted += list[i].wanted;
		group->seen += list[i].seen;
		group->oid = group->oid ? group->oid : list[i].oid;
		group->name = group->name.n ? group->name : list[i].name;
	}
	for (size_t i = 0; i < n; i++) {
		struct balance_difference d = { .kind = BALANCE_TOTALS,
						.oid = list[i].oid,
						.table = list[i].name,
						.to = at.v,
						.wanted = list[i].wanted,
						.seen = list[i].seen };

		if (group_of(list, i) == i && d.wanted != d.seen)
			report(arg, &d);
	}
}

static void check_source(const struct barrier *barrier, struct boundary at, balance_report *report, void *arg)
{
	for (size_t i = 0; i < barrier->count_count; i++) {
		const struct event_count *c = &barrier->counts[i];
		struct balance_difference d = { .kind = BALANCE_SOURCE,
						.table = c->table,
						.to = at.v,
						.wanted = (int64_t)c->decoded,
						.seen = (int64_t)c->published };

		if (d.wanted != d.seen)
			report(arg, &d);
	}
}

bool balance_totals(const struct barrier *barrier, struct boundary at, const struct balance_name *names, size_t name_count,
		    const struct balance_count *seen, size_t seen_count, balance_report *report, void *arg)
{
	size_t max = name_count + barrier->count_count + seen_count + 1, n;
	struct named *list = calloc(max, sizeof(*list));
	struct by_oid *oids = calloc(max, sizeof(*oids));
	bool ok = list && oids;

	if (ok) {
		n = list_all(list, barrier, names, name_count, seen, seen_count);
		join_all(list, oids, n);
		check_groups(list, n, at, report, arg);
		check_source(barrier, at, report, arg);
	}
	free(list);
	free(oids);
	return ok;
}

/* ---- for people ---- */

static void describe_table(const struct balance_difference *d, struct buf *out)
{
	if (d->table.n)
		buf_printf(out, "%.*s", SPAN_ARG(d->table));
	else if (d->oid)
		buf_printf(out, "the table with OID %u on the source", d->oid);
	else
		buf_str(out, "a table that is not known");
}

void balance_describe(const struct balance_difference *d, struct buf *out)
{
	char lsn[LSN_TEXT];

	switch (d->kind) {
	case BALANCE_ORDINALS:
		buf_printf(out, "partition %d: %" PRId64 " records are counted up to ordinal %" PRIu64, d->partition,
			   d->seen, d->to);
		return;
	case BALANCE_STREAM:
		describe_table(d, out);
		buf_printf(out, ", partition %d, ordinals %" PRIu64 "..%" PRIu64 ": %" PRId64
			   " records are counted, the stream has %" PRId64, d->partition, d->from + 1, d->to, d->seen,
			   d->wanted);
		return;
	case BALANCE_TOTALS:
		describe_table(d, out);
		buf_printf(out, ": %" PRId64 " changes are counted at barrier %s, ingest published %" PRId64, d->seen,
			   lsn_format(d->to, lsn), d->wanted);
		return;
	case BALANCE_SOURCE:
		describe_table(d, out);
		buf_printf(out, ": ingest published %" PRId64 " changes up to barrier %s and decoded %" PRId64, d->seen,
			   lsn_format(d->to, lsn), d->wanted);
		return;
	case BALANCE_KINDS:
		return;
	}
}

void balance_error_add(struct balance_error *e, const struct balance_difference *d)
{
	e->by_kind[d->kind] += (uint64_t)(d->seen > d->wanted ? d->seen - d->wanted : d->wanted - d->seen);
}

uint64_t balance_error_sum(const struct balance_error *e)
{
	uint64_t most = 0;

	for (int kind = 0; kind < BALANCE_KINDS; kind++)
		if (e->by_kind[kind] > most)
			most = e->by_kind[kind];
	return most;
}
