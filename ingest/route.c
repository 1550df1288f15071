// SPDX-License-Identifier: Apache-2.0
#include "ingest/route.h"

enum { KEY_MAX_BYTES = 32 << 20, VALUES_MAX_BYTES = 1 << 30 };

void route_init(struct route *r, int partition_count)
{
	*r = (struct route) { .partition_count = partition_count };
	arena_init(&r->values, VALUES_MAX_BYTES);
	buf_init(&r->old_key, KEY_MAX_BYTES);
	buf_init(&r->new_key, KEY_MAX_BYTES);
}

void route_release(struct route *r)
{
	arena_release(&r->values);
	buf_release(&r->old_key);
	buf_release(&r->new_key);
}

static bool table_fault(const struct relation *rel, const struct column *column, struct fault *f,
			const char *what)
{
	return fault(f, FAULT_INPUT, "%.*s.%.*s%s%.*s: %s", SPAN_ARG(rel->schema),
		     SPAN_ARG(rel->table), column ? ", column " : "",
		     column ? (int)column->name.n : 0, column ? column->name.p : "", what);
}

static bool one_value(struct route *r, const struct relation *rel, size_t i, struct cell cell,
		      struct value *ret, struct fault *f)
{
	if (value_from_cell(&rel->columns[i].type, cell, &r->values, ret, f))
		return true;
	return fault_in(f, "%.*s.%.*s, column %.*s", SPAN_ARG(rel->schema), SPAN_ARG(rel->table),
			SPAN_ARG(rel->columns[i].name));
}

/* Of a key tuple only the identity's columns mean anything: the others are sent as null. */
static bool old_values(struct route *r, const struct version *v, const struct route_source *s,
		       struct fault *f)
{
	const struct relation *rel = v->rel;

	for (size_t i = 0; i < rel->column_count; i++) {
		if (rel->columns[i].is_dropped ||
		    (s->old_kind == 'K' && !rel->columns[i].is_identity))
			v->before[i] = (struct value) { .state = VALUE_IS_NULL };
		else if (!one_value(r, rel, i, s->old_cells[i], &v->before[i], f))
			return false;
		else if (v->before[i].state == VALUE_IS_UNCHANGED)
			return table_fault(rel, &rel->columns[i], f, "the old row lacks its value");
	}
	return true;
}

/* ret_has_unchanged: some column's value is known to the target alone. */
static bool new_values(struct route *r, const struct version *v, const struct route_source *s,
		       bool *ret_has_unchanged, struct fault *f)
{
	const struct relation *rel = v->rel;

	*ret_has_unchanged = false;
	for (size_t i = 0; i < rel->column_count; i++) {
		bool is_old_known = s->old_kind == 'O' ||
				    (s->old_kind == 'K' && rel->columns[i].is_identity);

		if (rel->columns[i].is_dropped) {
			v->after[i] = (struct value) { .state = VALUE_IS_NULL };
			continue;
		}
		if (s->new_cells[i].format == 'u' && is_old_known) {
			v->after[i] = v->before[i];
			continue;
		}
		if (!one_value(r, rel, i, s->new_cells[i], &v->after[i], f))
			return false;
		if (v->after[i].state != VALUE_IS_UNCHANGED)
			continue;
		if (s->op == 'c')
			return table_fault(rel, &rel->columns[i], f, "an insert lacks its value");
		if (rel->columns[i].is_key)
			return table_fault(rel, &rel->columns[i], f,
					   "a key column's value was not sent");
		*ret_has_unchanged = true;
	}
	return true;
}

static bool key_of(const struct relation *rel, const struct value *values, struct buf *key,
		   struct fault *f)
{
	buf_reset(key);
	if (relation_key(rel, values, key, f) && !buf_failed(key))
		return true;
	if (buf_failed(key))
		return table_fault(rel, NULL, f, "the key is too large");
	return fault_in(f, "%.*s.%.*s", SPAN_ARG(rel->schema), SPAN_ARG(rel->table));
}

static struct routed_record record(const struct route *r, const struct relation *rel, char op,
				   const struct buf *key, const struct value *before,
				   const struct value *after)
{
	struct span text = buf_span(key);

	return (
	    struct routed_record) { .op = op,
				    .partition = relation_partition(rel, text, r->partition_count),
				    .key = text,
				    .change = { before, after } };
}

static bool route_update(struct route *r, const struct version *v, const struct route_source *s,
			 bool has_unchanged, struct routed *ret, struct fault *f)
{
	const struct relation *rel = v->rel;
	struct routed_record gone;

	if (s->old_kind != 'O' && rel->keyless)
		return table_fault(rel, NULL, f,
				   "an update lacks the old row: REPLICA IDENTITY FULL is needed");
	if (!key_of(rel, v->after, &r->new_key, f))
		return false;
	ret->kind = ROUTED_ONE;
	ret->records[0] = record(r, rel, 'u', &r->new_key, s->old_kind ? v->before : NULL,
				 v->after);
	if (!s->old_kind || rel->keyless)
		return true;
	if (!key_of(rel, v->before, &r->old_key, f))
		return false;
	gone = record(r, rel, 'd', &r->old_key, v->before, NULL);
	if (span_eq(gone.key, ret->records[0].key) || gone.partition == ret->records[0].partition)
		return true;
	if (has_unchanged) {
		ret->kind = ROUTED_REKEY;
		return true;
	}
	ret->kind = ROUTED_TWO;
	ret->records[1] = ret->records[0];
	ret->records[1].op = 'c';
	ret->records[1].change.before = NULL;
	ret->records[0] = gone;
	return true;
}

bool route_change(struct route *r, const struct version *v, const struct route_source *s,
		  struct routed *ret, struct fault *f)
{
	bool has_unchanged = false;

	arena_reset(&r->values);
	if (s->old_kind && !old_values(r, v, s, f))
		return false;
	if (s->op != 'd' && !new_values(r, v, s, &has_unchanged, f))
		return false;
	if (arena_failed(&r->values))
		return table_fault(v->rel, NULL, f, "no memory for a row");
	if (s->op == 'u')
		return route_update(r, v, s, has_unchanged, ret, f);
	if (s->op == 'd' && !s->old_kind)
		return table_fault(v->rel, NULL, f, "a delete lacks the old row");
	if (s->op == 'd' && v->rel->keyless && s->old_kind != 'O')
		return table_fault(
		    v->rel, NULL, f,
		    "a delete lacks the full old row: REPLICA IDENTITY FULL is needed");
	ret->kind = ROUTED_ONE;
	if (!key_of(v->rel, s->op == 'd' ? v->before : v->after, &r->new_key, f))
		return false;
	ret->records[0] = record(r, v->rel, s->op, &r->new_key, s->op == 'd' ? v->before : NULL,
				 s->op == 'd' ? NULL : v->after);
	return true;
}

int route_table_partition(struct route *r, const struct relation *rel, struct fault *f)
{
	const struct value null = { .state = VALUE_IS_NULL };
	struct relation whole = *rel;

	if (!rel->keyless && rel->routing == ROUTE_KEY)
		return -1;
	whole.keyless = true; /* its table part alone decides */
	return key_of(&whole, &null, &r->new_key, f)
		   ? relation_partition(&whole, buf_span(&r->new_key), r->partition_count)
		   : -1;
}
