// SPDX-License-Identifier: Apache-2.0
#include "shadow/cascades.h"

#include <stdlib.h>
#include <string.h>

void cascades_release(struct cascades *c)
{
	free(c->tables);
	*c = (struct cascades) { 0 };
}

void cascades_forget(struct cascades *c)
{
	c->commit = (struct commit_lsn) { 0 };
	c->count = 0;
}

static bool reserve(struct cascades *c, size_t n)
{
	size_t cap = c->cap ? c->cap : 16;
	struct cascades_table *tables;

	if (n <= c->cap)
		return true;
	while (cap < n)
		cap *= 2;
	tables = realloc(c->tables, cap * sizeof(*tables));
	if (!tables)
		return false;
	c->tables = tables;
	c->cap = cap;
	return true;
}

bool cascades_copy(struct cascades *to, const struct cascades *from)
{
	if (!reserve(to, from->count))
		return false;
	to->commit = from->commit;
	to->count = from->count;
	if (from->count)
		memcpy(to->tables, from->tables, from->count * sizeof(*from->tables));
	return true;
}

static struct cascades_table *find(const struct cascades *c, uint32_t oid)
{
	for (size_t i = 0; i < c->count; i++)
		if (c->tables[i].oid == oid)
			return &c->tables[i];
	return NULL;
}

bool cascades_note(struct cascades *c, const struct target_table *t, struct commit_lsn commit, bool is_delete)
{
	struct cascades_table *noted;

	if (c->commit.v != commit.v)
		cascades_forget(c);
	c->commit = commit;
	noted = find(c, t->oid);
	if (!noted) {
		if (!reserve(c, c->count + 1))
			return false;
		noted = &c->tables[c->count++];
		*noted = (struct cascades_table) { .oid = t->oid };
	}
	noted->is_deleted |= is_delete;
	noted->is_rekeyed |= !is_delete;
	return true;
}

/* ON UPDATE or ON DELETE that sets columns of the child. */
static bool sets(char action)
{
	return action == 'c' || action == 'n' || action == 'd';
}

static bool explains(const struct target_parent *p, const struct cascades_table *noted, bool is_delete)
{
	if (is_delete)
		return noted->is_deleted && p->on_delete == 'c';
	return (noted->is_rekeyed && sets(p->on_update)) ||
	       (noted->is_deleted && sets(p->on_delete) && p->on_delete != 'c');
}

bool cascades_explain(const struct cascades *c, const struct target_table *t, struct commit_lsn commit, bool is_delete)
{
	if (c->commit.v != commit.v)
		return false;
	for (size_t i = 0; i < t->parent_count; i++) {
		const struct cascades_table *noted = find(c, t->parents[i].oid);

		if (noted && explains(&t->parents[i], noted, is_delete))
			return true;
	}
	return false;
}
