// SPDX-License-Identifier: Apache-2.0
#include "ingest/families.h"

#include <stdlib.h>

static bool lacks_any(const struct constraints *c)
{
	return c->lacks_replica[ROLE_SHADOW] || c->lacks_replica[ROLE_PRIMARY];
}

static int compare_targets(const struct relation *a, const struct relation *b)
{
	int order = span_cmp(a->target_schema, b->target_schema);

	return order ? order : span_cmp(a->target_table, b->target_table);
}

static bool is_target(const struct relation *rel, struct span schema, struct span table)
{
	return span_eq(rel->target_table, table) && span_eq(rel->target_schema, schema);
}

/* Of a leaf, its root's keys are its own. */
static bool is_source(const struct relation *rel, struct span schema, struct span table)
{
	return (span_eq(rel->table, table) && span_eq(rel->schema, schema)) ||
	       (span_eq(rel->root_table, table) && span_eq(rel->root_schema, schema));
}

typedef bool same_fn(const struct relation *rel, struct span schema, struct span table);

/* ---- connected relations: each points to one before it, or to itself ---- */

static size_t head_of(size_t *heads, size_t i)
{
	while (heads[i] != i)
		i = heads[i] = heads[heads[i]];
	return i;
}

static void join(size_t *heads, size_t a, size_t b)
{
	a = head_of(heads, a);
	b = head_of(heads, b);
	heads[a > b ? a : b] = a > b ? b : a;
}

struct families {
	struct relation *const *relations;
	size_t count;
	size_t *heads;
	bool *has_key; /* some key connects it, be it with itself */
};

/* The first relation that the table is; count: it is not in scope. */
static size_t find(const struct families *x, same_fn *same, struct span schema, struct span table)
{
	size_t i = 0;

	while (i < x->count && !same(x->relations[i], schema, table))
		i++;
	return i;
}

static void join_keys(const struct families *x, const struct constraints_key *keys, size_t n, same_fn *same)
{
	for (size_t i = 0; i < n; i++) {
		size_t child, parent;

		if (!keys[i].is_enforced)
			continue;
		parent = find(x, same, keys[i].to_schema, keys[i].to_table);
		child = parent < x->count ? find(x, same, keys[i].schema, keys[i].table) : x->count;
		if (child == x->count)
			continue;
		join(x->heads, child, parent);
		x->has_key[child] = x->has_key[parent] = true;
	}
}

/* ---- names ---- */

struct family {
	struct span name;
	size_t count; /* target tables */
	bool has_key;
};

/* The first relation that goes to the same target table: i, unless that is a further leaf. */
static size_t first_of_target(const struct families *x, size_t i)
{
	return find(x, is_target, x->relations[i]->target_schema, x->relations[i]->target_table);
}

static struct family family_of(const struct families *x, size_t head, struct arena *a)
{
	const struct relation *first = NULL;
	struct family ret = { 0 };

	for (size_t i = head; i < x->count; i++) {
		const struct relation *rel = x->relations[i];

		if (head_of(x->heads, i) != head)
			continue;
		ret.has_key |= x->has_key[i];
		ret.count += first_of_target(x, i) == i;
		if (rel->routing == ROUTE_GROUP)
			ret.name = rel->family;
		if (!first || compare_targets(rel, first) < 0)
			first = rel;
	}
	if (!ret.name.p && ret.has_key)
		ret.name = span_str(arena_printf(a, "%.*s.%.*s", SPAN_ARG(first->target_schema),
						 SPAN_ARG(first->target_table)));
	return ret;
}

static struct span reason(const struct constraints *c, const struct family *family, struct arena *a)
{
	const bool *lacks = c->lacks_replica;

	return span_str(arena_printf(
		a, "family %.*s of %zu table%s: the role on the %s may not set session_replication_role, so "
		"foreign keys are enforced while changes are applied",
		SPAN_ARG(family->name), family->count, family->count == 1 ? "" : "s",
		lacks[ROLE_SHADOW] && lacks[ROLE_PRIMARY] ? "shadow and the primary target"
		: lacks[ROLE_SHADOW]			  ? "shadow target"
							  : "primary target"));
}

void families_route(const struct constraints *c, struct relation *const *relations, size_t count, struct arena *a)
{
	struct families x = { relations, count, arena_alloc(a, count * sizeof(*x.heads) + 1),
			      arena_alloc(a, count * sizeof(*x.has_key) + 1) };

	if (!lacks_any(c) || !x.heads || !x.has_key)
		return;
	for (size_t i = 0; i < count; i++)
		x.heads[i] = i;
	for (size_t i = 0; i < count; i++)
		join(x.heads, i, first_of_target(&x, i));
	join_keys(&x, c->source_keys, c->source_key_count, is_source);
	join_keys(&x, c->keys, c->key_count, is_target);
	for (size_t head = 0; head < count; head++) {
		struct family family;

		if (x.heads[head] != head)
			continue;
		family = family_of(&x, head, a);
		for (size_t i = head; family.has_key && i < count; i++) {
			struct relation *rel = relations[i];

			if (head_of(x.heads, i) != head || rel->routing == ROUTE_TRANSACTION ||
			    rel->routing == ROUTE_GROUP)
				continue;
			rel->routing = ROUTE_GROUP;
			rel->routing_reason = reason(c, &family, a);
			rel->family = family.name;
		}
	}
}

static const struct constraints_key *find_rewriting(const struct constraints_key *keys, size_t n,
						    const struct relation *rel, same_fn *same)
{
	for (size_t i = 0; i < n; i++)
		if (keys[i].is_enforced && keys[i].rewrites && same(rel, keys[i].schema, keys[i].table))
			return &keys[i];
	return NULL;
}

const char *families_refuse(const struct constraints *c, const struct relation *rel, struct arena *a)
{
	const struct constraints_key *k;

	if (!rel->keyless || !lacks_any(c))
		return NULL;
	k = find_rewriting(c->source_keys, c->source_key_count, rel, is_source);
	k = k ? k : find_rewriting(c->keys, c->key_count, rel, is_target);
	return k ? arena_printf(a,
				"%.*s.%.*s has no key, and foreign key \"%.*s\" changes its rows (ON UPDATE or ON DELETE) "
				"on a target whose role may not set session_replication_role, where such a row "
				"could not be found again; next step: give the table a primary key, or GRANT SET ON PARAMETER "
				"session_replication_role to the targets' role",
				SPAN_ARG(rel->schema), SPAN_ARG(rel->table), SPAN_ARG(k->name))
		 : NULL;
}
