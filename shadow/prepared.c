// SPDX-License-Identifier: Apache-2.0
#include "shadow/prepared.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/buf.h"

enum { OID_INT8 = 20 };

/* One prepared statement, known by the table's id, the operation and the column set. */
struct entry {
	struct entry *next; /* of its hash slot */
	uint64_t hash;
	uint64_t table_id;
	enum statement_op op;
	uint64_t *sets;
	size_t words;
	uint64_t used; /* clock of the last use */
	struct statement statement;
};

struct statement_cache {
	size_t max_count, count;
	struct entry **slots;
	size_t slot_count; /* a power of two */
	uint64_t clock, next_name;
	struct buf sql;
	uint32_t *types;
	size_t type_cap;
};

struct statement_cache *statement_cache_new(size_t max_count)
{
	struct statement_cache *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->max_count = max_count ? max_count : 1;
	c->slot_count = 16;
	while (c->slot_count < c->max_count)
		c->slot_count *= 2;
	c->slots = calloc(c->slot_count, sizeof(*c->slots));
	if (!c->slots) {
		free(c);
		return NULL;
	}
	buf_init(&c->sql, (size_t)1 << 20);
	return c;
}

static void entry_free(struct entry *e)
{
	if (!e)
		return;
	free(e->sets);
	free(e);
}

void statement_cache_reset(struct statement_cache *c)
{
	for (size_t i = 0; i < c->slot_count; i++)
		while (c->slots[i]) {
			struct entry *e = c->slots[i];
			c->slots[i] = e->next;
			entry_free(e);
		}
	c->count = 0;
}

void statement_cache_free(struct statement_cache *c)
{
	if (!c)
		return;
	statement_cache_reset(c);
	buf_release(&c->sql);
	free(c->types);
	free(c->slots);
	free(c);
}

static uint64_t set_word(const uint64_t *set, size_t i)
{
	return set ? set[i] : 0;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * UINT64_C(0x9E3779B97F4A7C15);
	return h ^ h >> 29;
}

static uint64_t key_hash(const struct statement_key *k, size_t words)
{
	uint64_t h = mix(mix(0, k->table->id), k->op);

	for (size_t i = 0; i < words; i++)
		h = mix(h, set_word(k->sets, i));
	return h;
}

static bool entry_is(const struct entry *e, const struct statement_key *k, uint64_t hash)
{
	if (e->hash != hash || e->table_id != k->table->id || e->op != k->op)
		return false;
	for (size_t i = 0; i < e->words; i++)
		if (e->sets[i] != set_word(k->sets, i))
			return false;
	return true;
}

static struct entry *entry_new(const struct statement_key *k, uint64_t hash, size_t words)
{
	struct entry *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->sets = calloc(words + 1, sizeof(*e->sets));
	if (!e->sets) {
		free(e);
		return NULL;
	}
	e->hash = hash;
	e->table_id = k->table->id;
	e->op = k->op;
	e->words = words;
	for (size_t i = 0; i < words; i++)
		e->sets[i] = set_word(k->sets, i);
	return e;
}

/* Which array type each parameter has, in the order of the header; the count last. */
static int param_types(struct statement_cache *c, const struct statement_key *k)
{
	size_t n = k->table->column_count, need = 2 * n + 1;
	int count = 0;

	if (c->type_cap < need) {
		uint32_t *types = realloc(c->types, need * sizeof(*types));
		if (!types)
			return -1;
		c->types = types;
		c->type_cap = need;
	}
	for (int part = 0; part < 2; part++)
		for (size_t i = 0; i < n; i++)
			if (part == 0 ? statement_has_key(k, i) : statement_has_set(k, i))
				c->types[count++] = statement_array_oid(k->table, i);
	c->types[count++] = OID_INT8;
	return count;
}

static bool drop_oldest(struct statement_cache *c, PGconn *conn, int *sends, struct fault *f)
{
	struct entry **oldest = NULL;
	char sql[64];

	for (size_t i = 0; i < c->slot_count; i++)
		for (struct entry **at = &c->slots[i]; *at; at = &(*at)->next)
			if (!oldest || (*at)->used < (*oldest)->used)
				oldest = at;
	assert(oldest);
	struct entry *e = *oldest;
	snprintf(sql, sizeof(sql), "DEALLOCATE %s", e->statement.name);
	*oldest = e->next;
	entry_free(e);
	c->count--;
	if (!PQsendQueryParams(conn, sql, 0, NULL, NULL, NULL, NULL, 0))
		return pg_fault(conn, NULL, f);
	++*sends;
	return true;
}

static bool prepare(struct statement_cache *c, PGconn *conn, const struct statement_key *k,
		    struct statement *s, int *sends, struct fault *f)
{
	buf_reset(&c->sql);
	s->param_count = param_types(c, k);
	if (s->param_count < 0 || !statement_write(k, &c->sql))
		return fault(f, FAULT_INTERNAL, "no memory for a statement on %.*s",
			     SPAN_ARG(k->table->label));
	snprintf(s->name, sizeof(s->name), "s%llu", (unsigned long long)++c->next_name);
	if (!PQsendPrepare(conn, s->name, buf_cstr(&c->sql), s->param_count, c->types))
		return pg_fault(conn, NULL, f);
	++*sends;
	return true;
}

const struct statement *statement_get(struct statement_cache *c, PGconn *conn,
				      const struct statement_key *k, int *ret_sends,
				      struct fault *f)
{
	size_t words = column_set_words(k->table->column_count);
	uint64_t hash = key_hash(k, words);
	struct entry **slot = &c->slots[hash & (c->slot_count - 1)];

	*ret_sends = 0;
	for (struct entry *e = *slot; e; e = e->next)
		if (entry_is(e, k, hash)) {
			e->used = ++c->clock;
			return &e->statement;
		}
	if (c->count >= c->max_count && !drop_oldest(c, conn, ret_sends, f))
		return NULL;
	struct entry *e = entry_new(k, hash, words);
	if (!e) {
		fault(f, FAULT_INTERNAL, "no memory for a prepared statement");
		return NULL;
	}
	if (!prepare(c, conn, k, &e->statement, ret_sends, f)) {
		entry_free(e);
		return NULL;
	}
	e->used = ++c->clock;
	e->next = *slot;
	*slot = e;
	c->count++;
	return &e->statement;
}
