// SPDX-License-Identifier: Apache-2.0
/*
 * copied - commits a batch of copied rows: COPY for each table, and the rows counted per table and
 * partition in the same transaction, so that an end marker can be checked against what is there.
 * COPY computes nothing: where a table of the batch is transformed, all go by INSERT.
 */
#include "shadow/lane_state.h"

/* Rows of one table in a batch of copied rows, and their counts. */
struct copied_table {
	const struct lane_table *table;
	const struct value **rows;
	size_t row_count;
};
struct copied_count {
	struct part *part;
	uint32_t oid, attempt;
	uint64_t records, bytes, wanted;
	bool has_ended;
};

struct copied {
	struct copied_table *tables;
	struct copied_count *counts;
	size_t table_count, count_count;
};

static uint32_t record_oid(const struct batch_record *r)
{
	return r->table ? codec_relation(r->table->codec)->oid : r->marker.oid;
}

/* Few tables and partitions are in a batch of copied rows, and runs of one are long: from the end. */
static struct copied_table *copied_table(struct copied *c, struct arena *a, size_t max,
					 const struct lane_table *table)
{
	struct copied_table *t;

	for (size_t i = c->table_count; i-- > 0;)
		if (c->tables[i].table == table)
			return &c->tables[i];
	t = &c->tables[c->table_count++];
	*t = (struct copied_table) { table, arena_alloc(a, max * sizeof(*t->rows)), 0 };
	return t;
}

static struct copied_count *copied_count(struct copied *c, const struct batch_record *r)
{
	for (size_t i = c->count_count; i-- > 0;)
		if (c->counts[i].part == r->part && c->counts[i].oid == record_oid(r))
			return &c->counts[i];
	c->counts[c->count_count] = (struct copied_count) { .part = r->part,
							     .oid = record_oid(r),
							     .attempt = r->head.attempt };
	return &c->counts[c->count_count++];
}

static bool copied_add(struct lane *l, struct copied *c, size_t i, struct fault *f)
{
	const struct batch_record *r = &l->batch.records[i];
	struct copied_count *count = copied_count(c, r);
	const struct value *before, *after = NULL;
	struct copied_table *t;

	if (!r->table) {
		count->has_ended = true;
		count->wanted = r->marker.record_count;
		return true;
	}
	count->records++;
	count->bytes += r->body.n;
	t = copied_table(c, &l->batch.arena, l->batch.count, r->table);
	if (!t->rows)
		return fault(f, FAULT_INTERNAL, "no memory for copied rows");
	if (!batch_decode(l, r, &before, &after, f))
		return false;
	if (!after)
		return fault(f, FAULT_INPUT, "a copied row without values");
	t->rows[t->row_count++] = after;
	return true;
}

static bool copied_statements(struct lane *l, const struct copied *c, struct apply_statement *first,
			      struct fault *f)
{
	if (!batch_statement(l, first, f))
		return false;
	for (size_t i = 0; i < c->count_count; i++) {
		const struct copied_count *k = &c->counts[i];

		if (!copies_count(l->migration->name, k->oid, k->attempt, k->part->partition,
				  k->records, k->bytes, k->has_ended, k->wanted, &l->batch.arena,
				  &first[1 + i], f))
			return false;
	}
	return true;
}

static bool copied_is_plain(const struct copied *c)
{
	for (size_t i = 0; i < c->table_count; i++)
		if (!relation_is_plain(c->tables[i].table->target->rel))
			return false;
	return true;
}

static bool copied_apply(struct lane *l, const struct copied *c, const struct apply_statement *first,
			 struct fault *f)
{
	struct arena *a = &l->batch.arena;
	struct copyin_rows *rows = arena_alloc(a, (c->table_count + 1) * sizeof(*rows));

	if (!rows)
		return fault(f, FAULT_INTERNAL, "no memory for copied rows");
	for (size_t i = 0; i < c->table_count; i++)
		rows[i] = (struct copyin_rows) { c->tables[i].table->target, c->tables[i].rows,
						c->tables[i].row_count };
	return apply_copy(l->apply, rows, c->table_count, first, c->count_count + 1, f);
}

static bool copied_apply_transformed(struct lane *l, const struct copied *c,
				     const struct apply_statement *first, struct fault *f)
{
	struct plan *p = &l->batch.plan;
	struct apply_failure failure;

	for (size_t i = 0; i < c->table_count; i++) {
		const struct copied_table *t = &c->tables[i];

		if (!plan_add_copied(p, t->table->target, t->rows, t->row_count, f))
			return false;
	}
	return apply_plan(l->apply, p, first, c->count_count + 1, &failure, f);
}

void batch_commit_copies(struct lane *l)
{
	struct batch *b = &l->batch;
	struct copied c = {
		.tables = arena_alloc(&b->arena, (b->count + 1) * sizeof(*c.tables)),
		.counts = arena_alloc(&b->arena, (b->count + 1) * sizeof(*c.counts)),
	};
	struct apply_statement *first;
	struct fault f = { 0 };

	if (!c.tables || !c.counts) {
		fault(&f, FAULT_INTERNAL, "no memory for copied rows");
		batch_refused(l, &f);
		return;
	}
	for (size_t i = 0; i < b->count; i++)
		if (!copied_add(l, &c, i, &f)) {
			batch_poison(l, i, &f);
			return;
		}
	first = arena_alloc(&b->arena, (c.count_count + 1) * sizeof(*first));
	if (!first || !copied_statements(l, &c, first, &f)) {
		batch_refused(l, &f);
		return;
	}
	if (copied_is_plain(&c) ? copied_apply(l, &c, first, &f)
				: copied_apply_transformed(l, &c, first, &f))
		batch_committed(l);
	else if (!fault_is_of_a_row(&f))
		lane_failed(l, &f);
	else
		batch_refused(l, &f);
}
