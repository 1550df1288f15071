// SPDX-License-Identifier: Apache-2.0
/*
 * truncate - see truncate.h.
 *
 * Facts come from the target's catalog, statements from truncate_write, which is pure. All plain
 * TRUNCATEs are one command: tables that reference each other can only go together. A table that
 * must be DELETEd leaves that command, and then so must what it references: hence the loop in
 * read_references.
 *
 * A partitioned table goes without ONLY, with all its partitions. Any other goes with ONLY: what
 * inherits from it by hand is a table of its own, in the message as on the target.
 */
#include "shadow/truncate.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/buf.h"

/* The target table, its kind, and the leaf of the source's name if it is a partition of that table.
 */
static const char facts_sql[] =
    "SELECT c.oid, c.relkind,"
    "  (SELECT l.oid FROM pg_class l JOIN pg_namespace ln ON ln.oid = l.relnamespace"
    "   WHERE ln.nspname = $3 AND l.relname = $4 AND l.oid <> c.oid AND l.relkind = 'r'"
    "   AND l.oid IN (SELECT relid FROM pg_partition_tree(c.oid)))"
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";

/* $1: the tables that will be truncated. Which of them (or of their partitions) are referenced from
 * outside? */
static const char referenced_sql[] =
    "WITH RECURSIVE own AS (SELECT o AS root, o AS oid FROM unnest($1::oid[]) o"
    "  UNION SELECT own.root, i.inhrelid FROM own JOIN pg_inherits i ON i.inhparent = own.oid"
    "    JOIN pg_class p ON p.oid = own.oid AND p.relkind = 'p')"
    " SELECT DISTINCT own.root FROM own JOIN pg_constraint k ON k.confrelid = own.oid"
    " WHERE k.contype = 'f' AND k.conrelid NOT IN (SELECT oid FROM own)";

static bool is_leaf(const struct relation *rel)
{
	return !span_eq(rel->schema, rel->root_schema) || !span_eq(rel->table, rel->root_table);
}

static uint32_t truncated_oid(const struct truncate_fact *fact)
{
	if (!is_leaf(fact->table->rel) || fact->table->has_every_leaf)
		return fact->root_oid;
	return fact->leaf_oid;
}

static bool seen_before(const struct truncate_fact *facts, size_t i)
{
	for (size_t j = 0; j < i; j++)
		if (truncated_oid(&facts[j]) == truncated_oid(&facts[i]))
			return true;
	return false;
}

/* Which table a fact is about: the leaf itself where the target has it and it goes alone. */
static void write_name(const struct truncate_fact *fact, struct buf *out)
{
	const struct relation *rel = fact->table->rel;

	if (truncated_oid(fact) == fact->root_oid)
		pg_quote_table(out, rel->target_schema, rel->target_table);
	else
		pg_quote_table(out, rel->schema, rel->table);
}

/* Its rows share the target's table with those of other sources. */
static bool is_merged(const struct truncate_fact *fact)
{
	return fact->table->rel->origin_column.p;
}

static bool write_truncate(const struct truncate_fact *facts, size_t count, struct buf *out)
{
	bool any = false;

	for (size_t i = 0; i < count; i++) {
		const struct truncate_fact *fact = &facts[i];
		if (!truncated_oid(fact) || fact->is_referenced || is_merged(fact) ||
		    seen_before(facts, i))
			continue;
		buf_str(out, any ? ", " : "TRUNCATE ");
		if (!fact->is_partitioned || truncated_oid(fact) == fact->leaf_oid)
			buf_str(out, "ONLY ");
		write_name(fact, out);
		any = true;
	}
	if (any)
		buf_str(out, ";\n");
	return any;
}

static void write_origin(const struct relation *rel, const char *word, struct buf *out)
{
	if (!rel->origin_column.p)
		return;
	buf_str(out, word);
	pg_quote_ident(out, rel->origin_column);
	buf_str(out, " = ");
	pg_quote_literal(out, rel->origin_value);
}

/* Are the target's columns called as the source's? */
static bool has_own_names(const struct relation *rel)
{
	for (size_t i = 0; i < rel->column_count; i++)
		if (!span_eq(rel->columns[i].target, rel->columns[i].name))
			return false;
	return true;
}

/* The bound speaks of the source's columns. */
static void write_bound(const struct relation *rel, struct buf *out)
{
	bool first = true;

	buf_str(out, "(SELECT ");
	buf_add_span(out, rel->bound);
	buf_str(out, " FROM (SELECT ");
	for (size_t i = 0; i < rel->column_count; i++) {
		if (!rel->columns[i].target.p)
			continue;
		buf_str(out, first ? "" : ", ");
		first = false;
		pg_quote_ident(out, rel->columns[i].target);
		buf_str(out, " AS ");
		pg_quote_ident(out, rel->columns[i].name);
	}
	buf_str(out, ") AS \"the source's row\")");
}

/* May the bound read a column that is computed, dropped or not written? By its text: rather too often. */
static bool bound_lacks_column(const struct relation *rel)
{
	for (size_t i = 0; i < rel->column_count; i++) {
		const struct column *col = &rel->columns[i];

		if (!col->target.p && memmem(rel->bound.p, rel->bound.n, col->name.p, col->name.n))
			return true;
	}
	return false;
}

static bool write_delete(const struct truncate_fact *fact, struct buf *out, struct fault *f)
{
	const struct relation *rel = fact->table->rel;

	if (truncated_oid(fact)) {
		buf_str(out, "DELETE FROM ");
		if (!fact->is_partitioned || truncated_oid(fact) == fact->leaf_oid)
			buf_str(out, "ONLY ");
		write_name(fact, out);
		write_origin(rel, " WHERE ", out);
		buf_str(out, ";\n");
		return true;
	}
	if (!rel->bound.n)
		return fault(
		    f, FAULT_STOP,
		    "TRUNCATE of %.*s.%.*s: its partition bound is not known, so its rows in "
		    "%.*s.%.*s cannot be told from others; the table must be copied again",
		    SPAN_ARG(rel->schema), SPAN_ARG(rel->table), SPAN_ARG(rel->target_schema),
		    SPAN_ARG(rel->target_table));
	if (bound_lacks_column(rel))
		return fault(
		    f, FAULT_STOP,
		    "TRUNCATE of %.*s.%.*s: its partition bound reads a column that %.*s.%.*s does not have "
		    "as it is, so its rows there cannot be told from others; the table must be copied again",
		    SPAN_ARG(rel->schema), SPAN_ARG(rel->table), SPAN_ARG(rel->target_schema),
		    SPAN_ARG(rel->target_table));
	buf_str(out, "DELETE FROM ");
	pg_quote_table(out, rel->target_schema, rel->target_table);
	buf_str(out, " WHERE ");
	if (has_own_names(rel))
		buf_add_span(out, rel->bound);
	else
		write_bound(rel, out);
	write_origin(rel, " AND ", out);
	buf_str(out, ";\n");
	return true;
}

bool truncate_write(const struct truncate_fact *facts, size_t count, bool is_replica,
		    struct buf *out, struct fault *f)
{
	for (size_t i = 0; i < count; i++) {
		const struct truncate_fact *fact = &facts[i];
		const struct relation *rel = fact->table->rel;
		bool is_plain = truncated_oid(fact) && !fact->is_referenced && !is_merged(fact);
		if (is_plain || (truncated_oid(fact) && !is_merged(fact) && seen_before(facts, i)))
			continue;
		if (fact->is_referenced && !is_replica)
			return fault(
			    f, FAULT_STOP,
			    "TRUNCATE of %.*s.%.*s: a foreign key of a table that stays references "
			    "%.*s.%.*s, and a DELETE could cascade: GRANT SET ON PARAMETER "
			    "session_replication_role to the target's user",
			    SPAN_ARG(rel->schema), SPAN_ARG(rel->table),
			    SPAN_ARG(rel->target_schema), SPAN_ARG(rel->target_table));
		if (!write_delete(fact, out, f))
			return false;
	}
	write_truncate(facts, count, out);
	return !buf_failed(out) || fault(f, FAULT_INTERNAL, "no memory for a TRUNCATE");
}

static bool read_fact(PGconn *conn, const struct truncate_table *t, struct arena *a,
		      struct truncate_fact *ret, struct fault *f)
{
	const struct relation *rel = t->rel;
	const char *params[] = { arena_str(a, rel->target_schema), arena_str(a, rel->target_table),
				 arena_str(a, rel->schema), arena_str(a, rel->table) };
	PGresult *r;

	if (arena_failed(a))
		return fault(f, FAULT_INTERNAL, "no memory for a TRUNCATE");
	r = pg_query_params(conn, f, facts_sql, 4, params);
	if (!r)
		return false;
	bool found = PQntuples(r) == 1;
	if (found)
		*ret = (struct truncate_fact) {
			.table = t,
			.root_oid = (uint32_t)pg_i64(r, 0, 0),
			.leaf_oid = pg_value(r, 0, 2).p ? (uint32_t)pg_i64(r, 0, 2) : 0,
			.is_partitioned = span_eq_str(pg_value(r, 0, 1), "p"),
		};
	PQclear(r);
	return found || fault(f, FAULT_STOP, "the target has no table %s.%s", params[0], params[1]);
}

/* Asks about the tables in list ("{1,2") as one TRUNCATE; NULL: failed. */
static PGresult *ask_references(PGconn *conn, const char *list, struct arena *a, struct fault *f)
{
	list = list ? arena_printf(a, "%s}", list) : NULL;
	if (!list) {
		fault(f, FAULT_INTERNAL, "no memory for a TRUNCATE");
		return NULL;
	}
	return pg_query_params(conn, f, referenced_sql, 1, &list);
}

/* One look at what would be one command: what references one of its tables from another is inside.
 */
static bool read_round(PGconn *conn, struct truncate_fact *facts, size_t count, struct arena *a,
		       bool *ret_more, struct fault *f)
{
	const char *list = "{";

	for (size_t i = 0; i < count && list; i++)
		if (truncated_oid(&facts[i]) && !facts[i].is_referenced && !is_merged(&facts[i]))
			list = arena_printf(a, "%s%s%u", list, list[1] ? "," : "",
					    truncated_oid(&facts[i]));
	PGresult *r = ask_references(conn, list, a, f);
	if (!r)
		return false;
	*ret_more = PQntuples(r) > 0;
	for (size_t i = 0; i < count; i++)
		for (int row = 0; row < PQntuples(r); row++)
			if ((uint32_t)pg_i64(r, row, 0) == truncated_oid(&facts[i]))
				facts[i].is_referenced = true;
	PQclear(r);
	return true;
}

static bool read_references(PGconn *conn, struct truncate_fact *facts, size_t count,
			    struct arena *a, struct fault *f)
{
	for (size_t i = 0; i < count; i++) {
		if (truncated_oid(&facts[i]))
			continue;
		/* Rows leave the root by DELETE in any case. */
		PGresult *r = ask_references(conn, arena_printf(a, "{%u", facts[i].root_oid), a, f);
		if (!r)
			return false;
		facts[i].is_referenced = PQntuples(r) > 0;
		PQclear(r);
	}
	for (bool more = true; more;)
		if (!read_round(conn, facts, count, a, &more, f))
			return false;
	return true;
}

static bool run(PGconn *conn, const struct truncate_table *tables, size_t count, bool is_replica,
		struct arena *a, struct buf *sql, struct fault *f)
{
	struct truncate_fact *facts = arena_alloc(a, count * sizeof(*facts) + 1);

	if (!facts)
		return fault(f, FAULT_INTERNAL, "no memory for a TRUNCATE");
	for (size_t i = 0; i < count; i++)
		if (!read_fact(conn, &tables[i], a, &facts[i], f))
			return false;
	return read_references(conn, facts, count, a, f) &&
	       truncate_write(facts, count, is_replica, sql, f) && pg_do(conn, f, buf_cstr(sql));
}

bool truncate_run(PGconn *conn, const struct truncate_table *tables, size_t count, bool is_replica,
		  struct fault *f)
{
	struct arena a;
	struct buf sql;
	bool ok;

	if (count == 0)
		return true;
	arena_init(&a, (size_t)64 << 20);
	buf_init(&sql, (size_t)64 << 20);
	ok = run(conn, tables, count, is_replica, &a, &sql, f);
	buf_release(&sql);
	arena_release(&a);
	return ok;
}
