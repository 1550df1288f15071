// SPDX-License-Identifier: Apache-2.0
/*
 * random_relation - relations and rows made from a seed, for tests that try many of them.
 *
 * xorshift64*: the same seed gives the same case everywhere. Everything lives in the arena.
 */
#ifndef TESTS_RANDOM_RELATION_H
#define TESTS_RANDOM_RELATION_H

#include "core/codec.h"

static uint64_t random_state = 1;

static inline uint64_t random_u64(void)
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return random_state * 0x2545f4914f6cdd1d;
}

static inline size_t random_below(size_t n)
{
	return (size_t)(random_u64() >> 33) % n;
}

/* Integers of every length in bits, either sign. */
static inline int64_t random_i64(void)
{
	return (int64_t)(random_u64() >> random_below(64)) * (random_below(2) ? 1 : -1);
}

static inline struct span random_bytes(struct arena *a, size_t max, bool is_text)
{
	size_t n = random_below(max + 1);
	char *p = arena_alloc(a, n + 1);

	for (size_t i = 0; i < n; i++)
		p[i] = (char)(is_text ? 1 + random_below(127) : random_below(256));
	return span(p, n);
}

static inline void random_column(struct arena *a, size_t i, struct column *col)
{
	static const char *const odd[] = { "col", "Straße", "two words", "7th", "a\"b", "_x" };

	*col = (struct column) {
		.name = span_str(arena_printf(a, "%s %zu", odd[random_below(6)], i)),
		.type_oid = (uint32_t)random_below(5000),
		.typmod = (int32_t)random_i64(),
		.type_name = span_str("pg_catalog.\"odd type\""),
		.type.kind = (enum value_kind)random_below(VALUE_KINDS),
		.is_key = random_below(3) == 0,
		.is_identity = random_below(3) == 0,
		.collates = random_below(8) == 0,
	};
	if (col->type.kind == VALUE_DECIMAL) {
		col->type.precision = 1 + (int)random_below(38);
		col->type.scale = (int)random_below((size_t)col->type.precision + 1);
	}
}

/* An expression over some of the columns that travel. */
static inline struct expression random_expression(struct arena *a, const struct relation *rel)
{
	uint32_t *inputs = arena_alloc(a, rel->column_count * sizeof(*inputs));
	struct expression e = { span_str("upper(\"a b\") -- x"), inputs, 0 };

	for (size_t i = 0; i < rel->column_count; i++)
		if (!rel->columns[i].is_dropped && random_below(4) == 0)
			inputs[e.input_count++] = (uint32_t)i;
	return e;
}

static inline void random_mapping(struct arena *a, struct relation *rel)
{
	for (size_t i = 0; i < rel->column_count; i++) {
		struct column *col = &rel->columns[i];

		col->is_dropped = !col->is_key && random_below(8) == 0;
		if (!col->is_dropped && random_below(8))
			col->target = random_below(2) ? col->name : span_str("else");
	}
	rel->computed = arena_alloc(a, 3 * sizeof(*rel->computed));
	for (size_t n = random_below(3); rel->computed_count < n;)
		rel->computed[rel->computed_count++] = (struct computed) {
			span_str("c"), random_expression(a, rel), random_below(2)
		};
	if (random_below(2))
		rel->filter = random_expression(a, rel);
	if (random_below(2)) {
		rel->origin_column = span_str("o");
		rel->origin_value = span_str(random_below(2) ? "eu" : "");
	}
}

static inline struct relation *random_relation(struct arena *a)
{
	struct relation *rel = arena_alloc(a, sizeof(*rel));

	*rel = (struct relation) {
		.oid = 1 + (uint32_t)random_below(100000),
		.version = 1 + (uint32_t)random_below(100),
		.from = { { random_u64() }, random_below(1000) },
		.schema = span_str("shop"),
		.table = span_str(arena_printf(a, "t-%zu", random_below(100))),
		.root_schema = span_str("shop"),
		.root_table = span_str("root"),
		.target_schema = span_str("sales"),
		.target_table = span_str("t \"quoted\""),
		.bound = random_below(2) ? span_str("(x >= 3) AND (x < 7)") : span(NULL, 0),
		.identity = "dif"[random_below(3)],
		.merge = random_below(2),
		.routing = (enum routing)random_below(ROUTINGS),
		.routing_reason = span_str("because\n"),
		.fingerprint = random_u64() | 1,
		.column_count = 1 + random_below(40),
	};
	if (rel->routing == ROUTE_GROUP)
		rel->family = span_str("sales.first");
	rel->columns = arena_alloc(a, rel->column_count * sizeof(*rel->columns));
	for (size_t i = 0; i < rel->column_count; i++) {
		random_column(a, i, &rel->columns[i]);
		rel->key_count += rel->columns[i].is_key;
	}
	rel->keyless = rel->key_count == 0;
	random_mapping(a, rel);
	return rel;
}

static inline struct value random_text(struct arena *a)
{
	return (struct value) { .state = VALUE_IS_TEXT, .bytes = random_bytes(a, 300, true) };
}

static inline struct value random_native(struct arena *a, const struct value_type *t)
{
	struct value v = { .state = VALUE_IS_NATIVE };

	switch (t->kind) {
	case VALUE_BOOL:
		v.i = (int64_t)random_below(2);
		return v;
	case VALUE_INT2:
		v.i = (int16_t)random_i64();
		return v;
	case VALUE_INT4:
	case VALUE_DATE:
		v.i = (int32_t)random_i64();
		return v;
	case VALUE_INT8:
	case VALUE_TIME:
	case VALUE_TIMESTAMP:
	case VALUE_TIMESTAMPTZ:
		v.i = random_i64();
		return v;
	case VALUE_FLOAT4:
		v.d = (double)((float)random_i64() / 1024.0f);
		return v;
	case VALUE_FLOAT8:
		v.d = (double)random_i64() / 1024.0;
		return v;
	case VALUE_TEXT:
	case VALUE_BPCHAR:
	case VALUE_JSONB:
		v.bytes = random_bytes(a, 300, true);
		return v;
	case VALUE_BYTEA:
		v.bytes = random_bytes(a, 300, false);
		return v;
	case VALUE_UUID:
		v.bytes = span_str("0f8fad5b-d9cb-469f-a165-70867728950e");
		return v;
	case VALUE_DECIMAL:
		v.bytes = random_bytes(a, 15, false);
		v.bytes.n++; /* at least a byte; the NUL behind */
		return v;
	case VALUE_NUMERIC:
	case VALUE_OTHER:
	case VALUE_KINDS:
		break;
	}
	return random_text(a);
}

static inline bool kind_has_text(enum value_kind kind)
{
	return kind == VALUE_DATE || kind == VALUE_TIME || kind == VALUE_TIMESTAMP ||
	       kind == VALUE_TIMESTAMPTZ || kind == VALUE_DECIMAL;
}

static inline struct value *random_row(struct arena *a, const struct relation *rel,
				       bool may_be_unchanged)
{
	struct value *row = arena_alloc(a, rel->column_count * sizeof(*row));

	for (size_t i = 0; i < rel->column_count; i++) {
		const struct value_type *t = &rel->columns[i].type;
		size_t dice = random_below(8);

		if (dice == 0 || rel->columns[i].is_dropped)
			row[i].state = VALUE_IS_NULL;
		else if (dice == 1 && may_be_unchanged)
			row[i].state = VALUE_IS_UNCHANGED;
		else if (dice == 2 && kind_has_text(t->kind))
			row[i] = random_text(a);
		else
			row[i] = random_native(a, t);
	}
	return row;
}

#endif
