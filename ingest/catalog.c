// SPDX-License-Identifier: Apache-2.0
/*
 * Facts first (facts.h), then a pure pass that makes relations of them. The same pass serves the whole
 * catalog and one relation message; for a leaf, the facts of all leaves of its root are read, because:
 *
 * 1. Leaves of one root share a target table. A row that moves from leaf to leaf is a delete here and an
 *    insert there with one key: both must be in one partition, so the leaves are routed alike.
 *
 * Facts may be newer than a relation message. What matters for the stream comes from the message.
 */
#include "ingest/catalog.h"

#include <stdlib.h>

#include "ingest/facts.h"
#include "ingest/mapped.h"

enum { REPORT_TABLES = 12 }; /* so many refusals fit into a fault's text */

/* Is the table in scope by a pattern that can mean nothing else? */
static bool is_named(const struct migration *m, const struct facts_table *t)
{
	struct migration one = *m;

	one.include_count = 1;
	for (size_t i = 0; i < m->include_count; i++) {
		one.include = &m->include[i];
		if (!strpbrk(m->include[i], "*?") && migration_has_table(&one, t->schema, t->name))
			return true;
	}
	return false;
}

/* A leaf belongs to its root when that is in scope, else it stands alone if it is named: who excludes the
 * root does not want the leaves that "public.*" happens to match. Is it in scope? */
static bool place(const struct migration *m, struct facts_table *t)
{
	t->is_leaf = t->root_oid && migration_has_table(m, t->root_schema, t->root_name);
	if (t->is_leaf)
		return true;
	t->root_schema = t->schema;
	t->root_name = t->name;
	t->bound = span(NULL, 0);
	return t->root_oid ? is_named(m, t) : migration_has_table(m, t->schema, t->name);
}

static void set_type(const struct facts *x, struct column *col)
{
	const struct facts_type *t = facts_find_type(x, col->type_oid);

	if (!t) {
		/* Dropped since: its text is what we have. */
		col->type_name = span_str("text");
		col->type = value_type_of(0, -1, false);
		return;
	}
	col->type_name = t->name;
	col->type = value_type_of(t->base_oid, t->base_oid == t->oid ? col->typmod : t->typmod,
				  t->is_enum);
}

static bool is_key_column(const struct facts_table *t, int16_t attnum)
{
	const struct key_index *key = t->choice.index;

	for (size_t i = 0; key && i < key->count; i++)
		if (key->attnums[i] == attnum)
			return true;
	return false;
}

static struct relation *new_relation(struct facts *x, const struct facts_table *t, size_t column_count)
{
	struct relation *rel = arena_alloc(x->a, sizeof(*rel));
	struct column *columns = facts_many(x, column_count, sizeof(*columns));

	if (!rel || !columns)
		return NULL;
	*rel = (struct relation) {
		.oid = t->oid,
		.schema = t->schema,
		.table = t->name,
		.root_schema = t->root_schema,
		.root_table = t->root_name,
		.bound = t->bound,
		.identity = t->identity,
		.columns = columns,
		.column_count = column_count,
	};
	/* It has the OIDs of this server in it: nobody else can evaluate it. */
	if (rel->bound.p && memmem(rel->bound.p, rel->bound.n, "satisfies_hash_partition(", 25))
		rel->bound = span(NULL, 0);
	return rel;
}

static void relation_of_catalog(struct facts *x, struct facts_table *t)
{
	size_t n = 0;

	for (size_t i = 0; i < t->column_count; i++)
		n += !t->columns[i].is_generated;
	struct relation *rel = t->rel = new_relation(x, t, n);
	if (!rel)
		return;
	n = 0;
	for (size_t i = 0; i < t->column_count; i++) {
		const struct facts_column *c = &t->columns[i];
		if (c->is_generated)
			continue;
		struct column *col = &rel->columns[n++];
		col->name = c->name;
		col->type_oid = c->type_oid;
		col->typmod = c->typmod;
		col->is_key = is_key_column(t, c->attnum);
		col->is_identity = t->identity == 'f' || col->is_key;
		col->collation = c->collation;
		set_type(x, col);
	}
}

/* In the catalog, is the column of this name part of the table's key? */
static bool is_key_name(const struct facts_table *t, struct span name)
{
	for (size_t i = 0; i < t->column_count; i++)
		if (span_eq(t->columns[i].name, name))
			return is_key_column(t, t->columns[i].attnum);
	return false;
}

/* The message does not say it. */
static struct span collation_of(const struct facts_table *t, struct span name)
{
	for (size_t i = 0; i < t->column_count; i++)
		if (span_eq(t->columns[i].name, name))
			return t->columns[i].collation;
	return span(NULL, 0);
}

/*
 * What the message says is exact for its position: with identity DEFAULT and INDEX its flagged columns
 * are the key. With FULL all are flagged, and the catalog's primary key is taken if the message has
 * all of its columns.
 */
static void relation_of_message(struct facts *x, struct facts_table *t,
				const struct pgoutput_relation *message)
{
	struct relation *rel = t->rel = new_relation(x, t, message->column_count);
	size_t key_count = 0;

	if (!rel)
		return;
	rel->schema = arena_dup(x->a, message->schema);
	rel->table = arena_dup(x->a, message->table);
	rel->identity = message->identity;
	if (!t->is_leaf) {
		/* It may be called differently by now. */
		rel->root_schema = rel->schema;
		rel->root_table = rel->table;
	}
	for (size_t i = 0; i < message->column_count; i++) {
		const struct pgoutput_column *c = &message->columns[i];
		struct column *col = &rel->columns[i];
		col->name = arena_dup(x->a, c->name);
		col->type_oid = c->type_oid;
		col->typmod = c->typmod;
		col->is_identity = c->is_identity;
		col->is_key = message->identity == 'f' ? is_key_name(t, c->name) : c->is_identity;
		key_count += col->is_key;
		col->collation = collation_of(t, c->name);
		set_type(x, col);
	}
	if (message->identity != 'f' || (t->choice.index && key_count == t->choice.index->count))
		return;
	for (size_t i = 0; i < rel->column_count; i++)
		rel->columns[i].is_key = false;
}

static bool is_canonical(const struct column *col)
{
	return col->type.kind != VALUE_OTHER && col->type.kind != VALUE_JSONB;
}

static void route(struct relation *rel, struct span reason)
{
	rel->routing = ROUTE_TABLE;
	if (!rel->routing_reason.p)
		rel->routing_reason = reason;
}

/* Key, merging and routing of a relation whose key columns are marked. */
static void decide_routing(struct facts *x, struct facts_table *t)
{
	struct relation *rel = t->rel;
	const struct key_index *further = t->choice.further;

	for (size_t i = 0; i < rel->column_count; i++)
		rel->key_count += rel->columns[i].is_key;
	rel->keyless = rel->key_count == 0;
	rel->merge = !rel->keyless;
	if (rel->keyless)
		route(rel, span_str("the table has no usable key"));
	for (size_t i = 0; i < rel->column_count; i++) {
		struct column *col = &rel->columns[i];
		bool collates = t->choice.index && !t->choice.index->is_deterministic;
		col->collates = col->is_key && col->type.kind <= VALUE_BPCHAR &&
				col->type.kind >= VALUE_TEXT && collates;
		if (!col->is_key || (is_canonical(col) && !col->collates))
			continue;
		rel->merge = false;
		route(rel, span_str(arena_printf(x->a, col->collates
			? "key column %.*s has a nondeterministic collation"
			: "equal values of key column %.*s may differ in bytes", SPAN_ARG(col->name))));
	}
	for (size_t i = 0; i < rel->computed_count; i++)
		if (rel->computed[i].is_key) {
			rel->merge = false;
			route(rel, span_str(arena_printf(x->a, "key column %.*s is computed by a rule",
							 SPAN_ARG(rel->computed[i].column))));
		}
	if (further && !rel->keyless)
		route(rel, span_str(arena_printf(x->a, "the source has a further unique or exclusion "
						 "index: %.*s", SPAN_ARG(further->name))));
}

static bool same_key(const struct relation *a, const struct relation *b)
{
	size_t i = 0, j = 0;

	if (a->key_count != b->key_count)
		return false;
	for (size_t n = 0; n < a->key_count; n++, i++, j++) {
		while (!a->columns[i].is_key)
			i++;
		while (!b->columns[j].is_key)
			j++;
		if (!span_eq(a->columns[i].name, b->columns[j].name))
			return false;
	}
	return true;
}

/* Invariant 1: rel, a leaf, is routed as the strictest of its siblings wants. */
static void follow_siblings(struct facts *x, struct relation *rel, uint32_t root_oid)
{
	for (size_t i = 0; i < x->table_count; i++) {
		const struct facts_table *t = &x->tables[i];
		if (!t->is_leaf || t->root_oid != root_oid || !t->rel || t->rel == rel)
			continue;
		if (!same_key(rel, t->rel)) {
			rel->merge = false;
			route(rel, span_str("leaves of the partitioned table have different keys"));
		}
		rel->merge = rel->merge && t->rel->merge;
		if (t->rel->routing == ROUTE_TABLE)
			route(rel, t->rel->routing_reason);
	}
}

/*
 * The source's own further unique indexes come to a target only at the end (create, late). Where the
 * tables exist, those of the targets decide, which ingest/constraints.h finds.
 */
static void choose_key(struct facts *x, struct facts_table *t, char identity, const struct migration *m)
{
	bool is_late = m->unique == UNIQUE_LATE;
	const struct facts_table *root = t->is_leaf ? facts_find_root(x, t->root_oid) : NULL;
	struct key_facts facts = {
		.identity = identity,
		.indexes = t->indexes,
		.index_count = t->index_count,
		.root_indexes = root ? root->indexes : NULL,
		.root_index_count = root ? root->index_count : 0,
		.spares_unique = is_late,
		.spares_exclusion = is_late && m->schema == SCHEMA_EXISTS,
	};
	key_choose(&facts, &t->choice);
}

/*
 * order: transaction is no table's own property: whatever a table would need by itself, one partition
 * gives it.
 */
static void decide_order(struct facts *x, enum migration_order order)
{
	for (size_t i = 0; i < x->table_count && order == ORDER_TRANSACTION; i++)
		if (x->tables[i].rel) {
			x->tables[i].rel->routing = ROUTE_TRANSACTION;
			x->tables[i].rel->routing_reason = span_str("order: transaction");
		}
}

/*
 * Makes the relation of every table: the whole tables of facts, or (message) that one by the message.
 * follow_siblings runs in table order twice over a root's leaves, so that the last one's strictness
 * reaches the first.
 */
static void decide(struct facts *x, const struct migration *m, const struct pgoutput_relation *message)
{
	for (size_t i = 0; i < x->table_count; i++) {
		struct facts_table *t = &x->tables[i];
		bool is_it = message && message->oid == t->oid;
		choose_key(x, t, is_it ? message->identity : t->identity, m);
		if (is_it)
			relation_of_message(x, t, message);
		else
			relation_of_catalog(x, t);
		if (!t->rel)
			continue;
		mapped_apply(m, x->a, t->rel);
		decide_routing(x, t);
	}
	for (int pass = 0; pass < 2; pass++)
		for (size_t i = 0; i < x->table_count; i++)
			if (x->tables[i].is_leaf && x->tables[i].rel)
				follow_siblings(x, x->tables[i].rel, x->tables[i].root_oid);
	decide_order(x, m->order);
}

/* ---- refusals ---- */

static const char *quoted(struct facts *x, struct span schema, struct span table)
{
	struct buf b;

	buf_init(&b, 4096);
	pg_quote_table(&b, schema, table);
	const char *s = arena_str(x->a, buf_span(&b));
	buf_release(&b);
	return s ? s : "?";
}

/* Why the table cannot be replicated, with the statement to run; NULL: it can. */
static const char *refuse(struct facts *x, const struct facts_table *t)
{
	const struct key_choice *c = &t->choice;
	const char *name = quoted(x, t->schema, t->name);

	if (t->rel && t->rel->column_count == 0)
		return arena_printf(x->a, "%s: it has no columns that could be streamed; put it under "
				    "tables.exclude", name);
	if (!t->can_select)
		return arena_printf(x->a, "%s: the user may not read it; run: GRANT USAGE ON SCHEMA \"%.*s\" "
				    "and GRANT SELECT ON %s to that user", name, SPAN_ARG(t->schema), name);
	if (t->has_policies)
		return arena_printf(x->a, "%s: row security hides rows from the user; run: ALTER ROLE <that "
				    "user> BYPASSRLS", name);
	if (!c->refusal)
		return NULL;
	if (c->refused)
		return arena_printf(x->a, "%s: its %s %.*s %s; run: ALTER TABLE %s %s", name,
				    c->refused->is_primary ? "primary key" : "replica identity index",
				    SPAN_ARG(c->refused->name), c->refusal, name, c->remedy);
	return arena_printf(x->a, "%s: %s; run: ALTER TABLE %s %s", name, c->refusal, name, c->remedy);
}

/* Keeps what is in scope and can be streamed; the rest becomes a note. */
static void select_tables(struct facts *x, const struct migration *m, struct catalog *ret)
{
	static const char foreign[] = "%s is left out: the rows of a foreign table are on another server; create "
				      "it on the target, with its server and user mapping";
	static const char unlogged[] = "%s is left out: unlogged tables have no changes in WAL; run on the source: "
				       "ALTER TABLE %1$s SET LOGGED, or create and fill it on the target before the "
				       "application moves";
	size_t kept = 0;

	ret->notes = facts_many(x, x->table_count, sizeof(*ret->notes));
	for (size_t i = 0; ret->notes && i < x->table_count; i++) {
		struct facts_table *t = &x->tables[i];
		const char *why = t->kind == 'f' ? foreign : t->persistence == 'u' ? unlogged : NULL;
		if (!place(m, t))
			continue;
		if (why)
			ret->notes[ret->note_count++] = arena_printf(x->a, why, quoted(x, t->schema, t->name));
		else
			x->tables[kept++] = *t;
	}
	x->table_count = kept;
}

/* The index as the target table's: a leaf's is part of the root's. */
static const struct key_index *whole_index(const struct facts *x, const struct facts_table *t,
					    const struct key_index *index)
{
	const struct facts_table *root = index->root_oid ? facts_find_root(x, t->root_oid) : NULL;

	for (size_t i = 0; root && i < root->index_count; i++)
		if (root->indexes[i].oid == index->root_oid)
			return &root->indexes[i];
	return index;
}

static const char *late_names(struct facts *x, const struct facts_table *t, const struct migration *m)
{
	const char *names = NULL;

	if (m->unique != UNIQUE_LATE || m->schema != SCHEMA_CREATE || !t->rel || t->rel->keyless)
		return NULL;
	for (size_t i = 0; i < t->index_count; i++) {
		const struct key_index *index = &t->indexes[i];
		if (!key_is_secondary(index))
			continue;
		index = whole_index(x, t, index);
		names = arena_printf(x->a, "%s%s%.*s", names ? names : "", names ? ", " : "",
				     SPAN_ARG(index->name));
	}
	return names;
}

static void finish(struct facts *x, const struct migration *m, struct catalog *ret)
{
	ret->late = facts_many(x, x->table_count, sizeof(*ret->late));
	ret->relations = facts_many(x, x->table_count, sizeof(*ret->relations));
	ret->refusals = facts_many(x, x->table_count, sizeof(*ret->refusals));
	for (size_t i = 0; ret->relations && ret->refusals && ret->late && i < x->table_count; i++) {
		const char *refusal = refuse(x, &x->tables[i]);
		ret->late[ret->relation_count] = late_names(x, &x->tables[i], m);
		ret->relations[ret->relation_count++] = x->tables[i].rel;
		if (refusal)
			ret->refusals[ret->refusal_count++] = refusal;
	}
}

/* Has the migration begun? */
static bool has_slot(PGconn *conn, const struct migration *m, bool *ret, struct fault *f)
{
	PGresult *r = pg_query_params(conn, f, "SELECT EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE "
				      "slot_name = $1)", 1, &m->slot);

	if (!r)
		return false;
	*ret = *PQgetvalue(r, 0, 0) == 't';
	PQclear(r);
	return true;
}

/* What in the file does not go with the tables. Asks the server, outside a transaction: it may refuse. */
static bool find_mistakes(PGconn *conn, struct facts *x, const struct migration *m, struct catalog *ret,
			  struct fault *f)
{
	struct mistakes mistakes = { 0 };
	bool has_begun;

	if (!has_slot(conn, m, &has_begun, f))
		return false;
	for (size_t i = 0; i < x->table_count; i++) {
		if (!x->tables[i].rel)
			continue;
		if (!mapped_read(conn, m, x->a, x->tables[i].rel, &mistakes, f))
			return false;
		mapped_check(m, x->a, &x->tables[i], has_begun, &mistakes);
	}
	mapped_check_all(m, x->a, ret->relations, ret->relation_count, &mistakes);
	ret->mistakes = mistakes.texts;
	ret->mistake_count = mistakes.count;
	return true;
}

/* ---- public ---- */

static bool in_snapshot(PGconn *conn, struct fault *f)
{
	return pg_do(conn, f, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY");
}

bool catalog_read(PGconn *conn, const struct migration *m, struct arena *a, struct catalog *ret,
		  struct fault *f)
{
	struct facts x = { .a = a };

	*ret = (struct catalog) { 0 };
	if (!in_snapshot(conn, f))
		return fault_in(f, "source: reading the catalog");
	bool ok = facts_read_tables(conn, &x, 0, f);
	if (ok) {
		select_tables(&x, m, ret);
		ok = facts_read_details(conn, &x, NULL, f);
	}
	ok = pg_do(conn, ok ? f : NULL, "ROLLBACK") && ok;
	if (!ok)
		return fault_in(f, "source: reading the catalog");
	decide(&x, m, NULL);
	finish(&x, m, ret);
	if (!arena_failed(a) && !find_mistakes(conn, &x, m, ret, f))
		return fault_in(f, "source: reading the transformation rules");
	return arena_failed(a) ? fault(f, FAULT_INTERNAL, "no memory for the source's catalog") : true;
}

/* As many of the sentences as fit. */
static bool refuse_all(enum fault_kind kind, const char *first, const char **texts, size_t count,
		       struct fault *f)
{
	struct buf b;

	buf_init(&b, sizeof(f->text) - 200);
	for (size_t i = 0; i < count && i < REPORT_TABLES && !buf_failed(&b); i++)
		buf_printf(&b, "%s%s", i ? " · " : "", texts[i]);
	fault(f, kind, "%s%s%s", first, buf_cstr(&b),
	      count > REPORT_TABLES || buf_failed(&b) ? " · … (foreshadow check lists all)" : "");
	buf_release(&b);
	return false;
}

bool catalog_accept(const struct catalog *c, const struct migration *m, struct fault *f)
{
	char first[100];

	if (c->mistake_count > 0)
		return refuse_all(FAULT_USAGE, "", c->mistakes, c->mistake_count, f);
	if (c->refusal_count == 0)
		return c->relation_count > 0 ||
		       fault(f, FAULT_STOP, "source: no table matches tables: of %s, wanted: at least "
			     "one; next step: correct include and exclude", m->path);
	snprintf(first, sizeof(first), "source: %zu of %zu tables cannot be replicated: ", c->refusal_count,
		 c->relation_count);
	return refuse_all(FAULT_STOP, first, c->refusals, c->refusal_count, f);
}

bool catalog_refuse_mapping(const struct migration *m, const struct relation *rel, const struct relation *previous,
			    struct fault *f)
{
	bool is_renamed = !span_eq(rel->root_table, previous->root_table) ||
			  !span_eq(rel->root_schema, previous->root_schema);

	return fault(f, FAULT_STOP,
		     "%s:%d: the mapping or rules of %.*s.%.*s are not those it was copied with%s%.*s%s%.*s; next step: "
		     "%s, or begin anew (foreshadow drop, empty tables)",
		     m->path, mappings_line(&m->mappings, rel->root_schema, rel->root_table), SPAN_ARG(rel->schema),
		     SPAN_ARG(rel->table), is_renamed ? ", when it was called " : "",
		     is_renamed ? (int)previous->root_schema.n : 0, previous->root_schema.p, is_renamed ? "." : "",
		     is_renamed ? (int)previous->root_table.n : 0, previous->root_table.p,
		     is_renamed ? "write its new name in from" : "put them back as they were");
}

bool catalog_binary_ok(const struct catalog *c)
{
	for (size_t i = 0; i < c->relation_count; i++)
		for (size_t j = 0; j < c->relations[i]->column_count; j++)
			if (!c->relations[i]->columns[j].is_dropped &&
			    !value_kind_has_binary(c->relations[i]->columns[j].type.kind))
				return false;
	return true;
}

/* The table is gone by now: what the version before it says, else what the message says. */
static bool stand_in(struct facts *x, const struct pgoutput_relation *message,
		     const struct relation *previous)
{
	struct facts_table *t = facts_many(x, 1, sizeof(*t));

	if (!t)
		return false;
	*t = (struct facts_table) {
		.oid = message->oid, .identity = message->identity, .can_select = true,
		.schema = arena_dup(x->a, message->schema), .name = arena_dup(x->a, message->table),
	};
	t->is_leaf = previous && !(span_eq(previous->root_schema, previous->schema) &&
				   span_eq(previous->root_table, previous->table));
	t->root_schema = t->is_leaf ? arena_dup(x->a, previous->root_schema) : t->schema;
	t->root_name = t->is_leaf ? arena_dup(x->a, previous->root_table) : t->name;
	if (t->is_leaf && previous->bound.p)
		t->bound = arena_dup(x->a, previous->bound);
	x->tables = t;
	x->table_count = 1;
	return true;
}

static bool read_one(PGconn *conn, struct facts *x, const struct pgoutput_relation *message,
		     const struct migration *m, const struct relation *previous, struct fault *f)
{
	struct catalog unused = { 0 };

	if (!facts_read_tables(conn, x, message->oid, f))
		return false;
	/* Called differently by now and so not in scope any more: it is in the publication all the same. */
	select_tables(x, m, &unused);
	if (!facts_find(x, message->oid) && !stand_in(x, message, previous))
		return fault(f, FAULT_INTERNAL, "no memory for a relation");
	return facts_read_details(conn, x, message, f);
}

static bool accept_message(struct facts *x, const struct facts_table *t, struct fault *f)
{
	const struct relation *rel = t->rel;
	const char *name = quoted(x, rel->schema, rel->table);
	bool has_flags = rel->key_count > 0;

	if (rel->identity == 'n')
		return fault(f, FAULT_STOP, "source: %s: its replica identity is NOTHING; run: ALTER TABLE "
			     "%s REPLICA IDENTITY FULL", name, name);
	if (rel->identity != 'f' && !has_flags)
		return fault(f, FAULT_STOP, "source: %s: it has no usable primary key or replica identity "
			     "index; run: ALTER TABLE %s REPLICA IDENTITY FULL", name, name);
	/* The flags say nothing about uniqueness over the root. */
	if (t->is_leaf && t->choice.refused && !t->choice.refused->spans_root)
		return fault(f, FAULT_STOP, "source: %s", refuse(x, t));
	return true;
}

bool catalog_relation(PGconn *conn, const struct pgoutput_relation *message,
		      const struct migration *m, const struct relation *previous, uint32_t version,
		      struct position from, struct arena *a, struct relation **ret,
		      struct fault *f)
{
	struct facts x = { .a = a };

	if (!in_snapshot(conn, f))
		return fault_in(f, "source: reading the catalog of %.*s", SPAN_ARG(message->table));
	bool ok = read_one(conn, &x, message, m, previous, f);
	ok = pg_do(conn, ok ? f : NULL, "ROLLBACK") && ok;
	if (!ok)
		return fault_in(f, "source: reading the catalog of %.*s", SPAN_ARG(message->table));
	decide(&x, m, message);
	struct facts_table *t = facts_find(&x, message->oid);
	if (arena_failed(a) || !t || !t->rel)
		return fault(f, FAULT_INTERNAL, "no memory for a relation");
	struct mistakes mistakes = { 0 };
	if (!mapped_read(conn, m, a, t->rel, &mistakes, f))
		return fault_in(f, "source: reading the transformation rules");
	mapped_check(m, a, t, true, &mistakes);
	if (mistakes.count)
		return refuse_all(FAULT_STOP, "the table was altered: ", mistakes.texts, mistakes.count, f);
	if (previous && !relation_keeps_mapping(t->rel, previous))
		return catalog_refuse_mapping(m, t->rel, previous, f);
	t->rel->version = version;
	t->rel->from = from;
	*ret = t->rel;
	return accept_message(&x, t, f);
}
