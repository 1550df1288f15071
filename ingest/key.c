// SPDX-License-Identifier: Apache-2.0
#include "ingest/key.h"

static const struct key_index *find(const struct key_facts *facts, bool want_identity)
{
	for (size_t i = 0; i < facts->index_count; i++) {
		const struct key_index *x = &facts->indexes[i];
		if (want_identity ? x->is_identity : x->is_primary)
			return x;
	}
	return NULL;
}

/* Why the index cannot be the key, or NULL. The words follow its name. */
static const char *problem(const struct key_index *x)
{
	if (!x->is_valid)
		return "is not valid";
	if (!x->is_unique)
		return "is not unique";
	if (!x->is_immediate)
		return "is deferrable";
	if (x->is_partial)
		return "is partial";
	if (x->has_expressions)
		return "has expressions";
	if (x->is_nullable)
		return "has columns that may be NULL";
	if (x->has_generated)
		return "has a generated column, which the stream does not carry";
	if (!x->spans_root)
		return "belongs to no index of the partitioned table";
	return NULL;
}

static bool is_usable(const struct key_index *x)
{
	return x && !problem(x);
}

static void refuse(char identity, const struct key_index *x, struct key_choice *ret)
{
	if (identity == 'n')
		ret->refusal = "its replica identity is NOTHING";
	else if (!x)
		ret->refusal = identity == 'i' ? "its replica identity index is gone"
					       : "it has no primary key";
	else
		ret->refusal = problem(x);
	ret->refused = identity == 'n' ? NULL : x;
}

static bool has_column(const struct key_index *x, int16_t attnum)
{
	for (size_t i = 0; i < x->count; i++)
		if (x->attnums[i] == attnum)
			return true;
	return false;
}

/* Two rows that meet in x have the same key anyway: x has all of its columns and compares as bytes do. */
static bool is_implied(const struct key_index *x, const struct key_index *key)
{
	if (!x->is_unique || x->has_expressions || !x->is_deterministic)
		return false;
	for (size_t i = 0; i < key->count; i++)
		if (!has_column(x, key->attnums[i]))
			return false;
	return true;
}

bool key_is_secondary(const struct key_index *x)
{
	return x->is_unique && !x->is_primary && !x->is_identity;
}

static bool is_spared(const struct key_facts *facts, const struct key_index *x)
{
	return x->is_unique ? facts->spares_unique && key_is_secondary(x) : facts->spares_exclusion;
}

static const struct key_index *further(const struct key_facts *facts, const struct key_index *key)
{
	for (size_t i = 0; i < facts->index_count; i++) {
		const struct key_index *x = &facts->indexes[i];
		if (x != key && !(key && is_implied(x, key)) && !is_spared(facts, x))
			return x;
	}
	/* Those of the root that have no index here: not valid yet, or made ON ONLY. Their columns have the
	 * root's numbers, so only whether they are the key's parent is asked. */
	for (size_t i = 0; i < facts->root_index_count; i++) {
		const struct key_index *x = &facts->root_indexes[i];
		bool is_here = (key && key->root_oid == x->oid) || is_spared(facts, x);
		for (size_t j = 0; j < facts->index_count && !is_here; j++)
			is_here = facts->indexes[j].root_oid == x->oid;
		if (!is_here)
			return x;
	}
	return NULL;
}

void key_choose(const struct key_facts *facts, struct key_choice *ret)
{
	const struct key_index *primary = find(facts, false);
	const struct key_index *wanted = facts->identity == 'i' ? find(facts, true)
				       : facts->identity == 'n' ? NULL : primary;

	*ret = (struct key_choice) { .index = is_usable(wanted) ? wanted : NULL };
	ret->further = further(facts, ret->index);
	if (ret->index || facts->identity == 'f')
		return;
	refuse(facts->identity, wanted, ret);
	ret->remedy = is_usable(primary) ? "REPLICA IDENTITY DEFAULT" : "REPLICA IDENTITY FULL";
}
