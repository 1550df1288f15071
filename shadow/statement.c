// SPDX-License-Identifier: Apache-2.0
/*
 * statement - see statement.h.
 *
 * In the texts t is the target table, k the rows that travel: k.o3 is column 3 of the row as it was
 * (keys), k.n3 its new value. Parameter types are given as OIDs when the statement is prepared, so
 * unnest() needs no casts; what travels as text is cast to the target's base type without a typmod:
 * the assignment then meets the column's own typmod, which raises where an explicit cast would cut.
 */
#include "shadow/statement.h"

#include <assert.h>
#include <stdio.h>

#include "core/buf.h"

enum { OID_TEXT = 25, OID_TEXT_ARRAY = 1009, OID_VARCHAR = 1043, OID_INT8 = 20,
       OID_REGCLASS = 2205 };

const char *statement_op_name(enum statement_op op)
{
	static const char *const names[STATEMENT_OPS] = {
		[STATEMENT_INSERT] = "insert",     [STATEMENT_UPDATE] = "update",
		[STATEMENT_DELETE] = "delete",     [STATEMENT_REKEY] = "key change",
		[STATEMENT_UPDATE_ONE] = "update", [STATEMENT_DELETE_ONE] = "delete",
	};
	return names[op];
}

bool statement_has_key(const struct statement_key *k, size_t column)
{
	const struct target_column *c = &k->table->columns[column];

	switch (k->op) {
	case STATEMENT_INSERT:
		return false;
	case STATEMENT_UPDATE:
	case STATEMENT_DELETE:
	case STATEMENT_REKEY:
		return c->is_key;
	case STATEMENT_UPDATE_ONE:
	case STATEMENT_DELETE_ONE:
		return c->is_written;
	case STATEMENT_OPS:
		break;
	}
	return false;
}

bool statement_has_set(const struct statement_key *k, size_t column)
{
	const struct target_column *c = &k->table->columns[column];

	if (!c->is_written || !k->sets || !column_set_has(k->sets, column))
		return false;
	switch (k->op) {
	case STATEMENT_INSERT:
		return true;
	case STATEMENT_UPDATE:
		return !c->is_always && (!c->is_key || c->sets_key);
	case STATEMENT_REKEY:
		/* A key that cannot be set must be refused by the server, not left as it was. */
		return c->is_key || !c->is_always;
	case STATEMENT_UPDATE_ONE:
		return !c->is_always;
	case STATEMENT_DELETE:
	case STATEMENT_DELETE_ONE:
	case STATEMENT_OPS:
		break;
	}
	return false;
}

static bool sets_anything(const struct statement_key *k)
{
	for (size_t i = 0; i < k->table->column_count; i++)
		if (statement_has_set(k, i))
			return true;
	return false;
}

/* What separates the items of a list: nothing before the first. */
static void comma(struct buf *out, bool *first)
{
	if (!*first)
		buf_str(out, ", ");
	*first = false;
}

/* unnest($1, $2) AS k(o1, n2); parameters are numbered on from *param. */
static void write_rows(const struct statement_key *k, bool keys, bool sets, int *param,
		       struct buf *out)
{
	size_t n = k->table->column_count;
	bool first = true;

	buf_str(out, "unnest(");
	for (int part = 0; part < 2; part++)
		for (size_t i = 0; i < n; i++)
			if (part == 0 ? keys && statement_has_key(k, i)
				      : sets && statement_has_set(k, i)) {
				comma(out, &first);
				buf_printf(out, "$%d", ++*param);
			}
	buf_str(out, ") AS k(");
	first = true;
	for (int part = 0; part < 2; part++)
		for (size_t i = 0; i < n; i++)
			if (part == 0 ? keys && statement_has_key(k, i)
				      : sets && statement_has_set(k, i)) {
				comma(out, &first);
				buf_printf(out, "%c%zu", part == 0 ? 'o' : 'n', i + 1);
			}
	buf_str(out, ")");
}

/* k.n3, cast where it travels as another type than the column's: char(3) = text would be compared
 * as text, past the index. regclass alone has a cast from text that is not its input function: it refuses
 * "-" and OIDs. */
static void write_value(const struct statement_key *k, char part, size_t i, struct buf *out)
{
	const struct target_column *c = &k->table->columns[i];

	if (c->type_oid == OID_REGCLASS) {
		buf_printf(out, "pg_catalog.regclassin(pg_catalog.textout(k.%c%zu))", part, i + 1);
		return;
	}
	buf_printf(out, "k.%c%zu", part, i + 1);
	if (!c->is_native || value_element_oid(c->kind) != c->type_oid) {
		buf_str(out, "::");
		buf_add_span(out, c->type_name);
	}
}

/* Both sides in the target's text form: for types without =, or whose = is looser than identity. */
static void write_by_text(const struct statement_key *k, const char *alias, size_t i,
			  const char *operator, struct buf * out)
{
	const struct target_column *c = &k->table->columns[i];

	buf_printf(out, "%s.", alias);
	pg_quote_ident(out, c->name);
	buf_printf(out, "::pg_catalog.text %s ", operator);
	if (c->type_oid == OID_REGCLASS) {
		write_value(k, 'o', i, out);
	} else {
		buf_printf(out, "k.o%zu::", i + 1);
		buf_add_span(out, c->exact_type);
	}
	buf_str(out, "::pg_catalog.text");
}

static void write_key_match(const struct statement_key *k, struct buf *out)
{
	bool first = true;

	for (size_t i = 0; i < k->table->column_count; i++) {
		const struct target_column *c = &k->table->columns[i];
		if (!statement_has_key(k, i))
			continue;
		if (!first)
			buf_str(out, " AND ");
		first = false;
		if (!c->equals.p) {
			write_by_text(k, "t", i, "=", out);
			continue;
		}
		buf_str(out, "t.");
		pg_quote_ident(out, c->name);
		buf_str(out, " ");
		buf_add_span(out, c->equals);
		buf_str(out, " ");
		write_value(k, 'o', i, out);
	}
}

static void write_row_match(const struct statement_key *k, struct buf *out)
{
	bool first = true;

	for (size_t i = 0; i < k->table->column_count; i++) {
		const struct target_column *c = &k->table->columns[i];
		if (!statement_has_key(k, i))
			continue;
		if (!first)
			buf_str(out, " AND ");
		first = false;
		if (!c->is_exact) {
			write_by_text(k, "m", i, "IS NOT DISTINCT FROM", out);
			continue;
		}
		buf_str(out, "m.");
		pg_quote_ident(out, c->name);
		/* A nondeterministic collation calls different strings equal. */
		if (c->type_oid == OID_TEXT || c->type_oid == OID_VARCHAR)
			buf_str(out, " COLLATE pg_catalog.\"C\"");
		buf_str(out, " IS NOT DISTINCT FROM ");
		write_value(k, 'o', i, out);
	}
}

/* The place of one row that equals the old one; a partition has ctids of its own, hence tableoid.
 */
static void write_one(const struct statement_key *k, int *param, struct buf *out)
{
	buf_str(out, "(SELECT m.tableoid AS o, m.ctid AS i FROM ");
	buf_add_span(out, k->table->name);
	buf_str(out, " AS m, ");
	write_rows(k, true, false, param, out);
	buf_str(out, " WHERE ");
	write_row_match(k, out);
	buf_str(out, " LIMIT 1) AS m");
}

static void write_insert(const struct statement_key *k, int *param, struct buf *out)
{
	bool first = true;

	buf_str(out, "INSERT INTO ");
	buf_add_span(out, k->table->name);
	buf_str(out, " AS t (");
	for (size_t i = 0; i < k->table->column_count; i++)
		if (statement_has_set(k, i)) {
			comma(out, &first);
			pg_quote_ident(out, k->table->columns[i].name);
		}
	buf_str(out, k->table->overrides ? ") OVERRIDING SYSTEM VALUE SELECT " : ") SELECT ");
	first = true;
	for (size_t i = 0; i < k->table->column_count; i++)
		if (statement_has_set(k, i)) {
			comma(out, &first);
			write_value(k, 'n', i, out);
		}
	buf_str(out, " FROM ");
	write_rows(k, false, true, param, out);
}

static void write_sets(const struct statement_key *k, struct buf *out)
{
	bool first = true;

	for (size_t i = 0; i < k->table->column_count; i++)
		if (statement_has_set(k, i)) {
			comma(out, &first);
			pg_quote_ident(out, k->table->columns[i].name);
			buf_str(out, " = ");
			write_value(k, 'n', i, out);
		}
}

static void write_update(const struct statement_key *k, int *param, struct buf *out)
{
	if (!sets_anything(k)) {
		/* Nothing to write, but the row must be there. */
		buf_str(out, "SELECT 1 FROM ");
		buf_add_span(out, k->table->name);
		buf_str(out, " AS t, ");
	} else {
		buf_str(out, "UPDATE ");
		buf_add_span(out, k->table->name);
		buf_str(out, " AS t SET ");
		write_sets(k, out);
		buf_str(out, " FROM ");
	}
	write_rows(k, true, true, param, out);
	buf_str(out, " WHERE ");
	write_key_match(k, out);
}

static void write_delete(const struct statement_key *k, int *param, struct buf *out)
{
	buf_str(out, "DELETE FROM ");
	buf_add_span(out, k->table->name);
	buf_str(out, " AS t USING ");
	write_rows(k, true, false, param, out);
	buf_str(out, " WHERE ");
	write_key_match(k, out);
}

static void write_update_one(const struct statement_key *k, int *param, struct buf *out)
{
	if (!sets_anything(k)) {
		buf_str(out, "SELECT 1 FROM ");
		write_one(k, param, out);
		return;
	}
	/* The subquery is written first: its parameters are the first ones. */
	buf_str(out, "UPDATE ");
	buf_add_span(out, k->table->name);
	buf_str(out, " AS t SET ");
	write_sets(k, out);
	buf_str(out, " FROM ");
	write_one(k, param, out);
	buf_str(out, ", ");
	write_rows(k, false, true, param, out);
	buf_str(out, " WHERE t.tableoid = m.o AND t.ctid = m.i");
}

static void write_delete_one(const struct statement_key *k, int *param, struct buf *out)
{
	buf_str(out, "DELETE FROM ");
	buf_add_span(out, k->table->name);
	buf_str(out, " AS t USING ");
	write_one(k, param, out);
	buf_str(out, " WHERE t.tableoid = m.o AND t.ctid = m.i");
}

static void write_returning(const struct statement_key *k, struct buf *out)
{
	if (k->op == STATEMENT_INSERT || k->op == STATEMENT_DELETE ||
	    k->op == STATEMENT_DELETE_ONE || sets_anything(k))
		buf_str(out, " RETURNING 1");
}

bool statement_write(const struct statement_key *k, struct buf *out)
{
	int param = 0;
	char what[256];

	buf_str(out, "WITH w AS (");
	switch (k->op) {
	case STATEMENT_INSERT:
		write_insert(k, &param, out);
		break;
	case STATEMENT_UPDATE:
	case STATEMENT_REKEY:
		write_update(k, &param, out);
		break;
	case STATEMENT_DELETE:
		write_delete(k, &param, out);
		break;
	case STATEMENT_UPDATE_ONE:
		write_update_one(k, &param, out);
		break;
	case STATEMENT_DELETE_ONE:
		write_delete_one(k, &param, out);
		break;
	case STATEMENT_OPS:
		assert(false);
	}
	write_returning(k, out);
	buf_printf(out, ") SELECT foreshadow.expect((SELECT count(*) FROM w), $%d, ", param + 1);
	snprintf(what, sizeof(what), "%.*s %s", SPAN_ARG(k->table->label),
		 statement_op_name(k->op));
	pg_quote_literal(out, span_str(what));
	buf_str(out, ")");
	return !buf_failed(out);
}

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
				c->types[count++] = !k->table->columns[i].is_native
							? OID_TEXT_ARRAY
							: value_array_oid(
							      k->table->columns[i].kind);
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
