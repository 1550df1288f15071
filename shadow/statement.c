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

enum { WHAT_BYTES = 512 };
enum { OID_TEXT = 25, OID_TEXT_ARRAY = 1009, OID_VARCHAR = 1043, OID_REGCLASS = 2205 };

const char *statement_op_name(enum statement_op op)
{
	static const char *const names[STATEMENT_OPS] = {
		[STATEMENT_INSERT] = "insert",     [STATEMENT_UPDATE] = "update",
		[STATEMENT_DELETE] = "delete",     [STATEMENT_REKEY] = "key change",
		[STATEMENT_UPDATE_ONE] = "update", [STATEMENT_DELETE_ONE] = "delete",
		[STATEMENT_DELETE_CASCADED] = "delete",
		[STATEMENT_DELETE_ONE_CASCADED] = "delete",
		[STATEMENT_REKEY_CASCADED] = "key change",
	};
	return names[op];
}

/* The same without the leave that a cascade gives. All that is inside works on such ones. */
static struct statement_key strict(const struct statement_key *k)
{
	struct statement_key ret = *k;

	if (k->op == STATEMENT_DELETE_CASCADED)
		ret.op = STATEMENT_DELETE;
	else if (k->op == STATEMENT_DELETE_ONE_CASCADED)
		ret.op = STATEMENT_DELETE_ONE;
	else if (k->op == STATEMENT_REKEY_CASCADED)
		ret.op = STATEMENT_REKEY;
	return ret;
}

/* ---- slots: the columns of the target a table's rows go to ---- */

/* Direct ones (by source column), then computed ones, then the origin. */
static size_t slot_count(const struct target_table *t)
{
	return t->column_count + t->computed_count + (t->origin != NULL);
}

static const struct target_column *slot(const struct target_table *t, size_t s)
{
	if (s < t->column_count)
		return &t->columns[s];
	s -= t->column_count;
	return s < t->computed_count ? &t->computed[s].column : t->origin;
}

/* NULL: a direct one, or the origin. */
static const struct target_computed *slot_computed(const struct target_table *t, size_t s)
{
	return s >= t->column_count && s < t->column_count + t->computed_count
		       ? &t->computed[s - t->column_count]
		       : NULL;
}

static bool has_filter(const struct statement_key *k)
{
	return k->table->rel && k->table->rel->filter.sql.p;
}

/* May the rows move into or out of the filter? Otherwise a row stays on its side: its key decides. */
static bool is_crossing(const struct statement_key *k)
{
	switch (k->op) {
	case STATEMENT_REKEY:
	case STATEMENT_UPDATE_ONE:
		return has_filter(k);
	case STATEMENT_UPDATE:
		return has_filter(k) && k->table->rel->identity == 'f';
	case STATEMENT_INSERT:
	case STATEMENT_DELETE:
	case STATEMENT_DELETE_ONE:
	case STATEMENT_DELETE_CASCADED:
	case STATEMENT_DELETE_ONE_CASCADED:
	case STATEMENT_REKEY_CASCADED:
	case STATEMENT_OPS:
		break;
	}
	return false;
}

/* Is the filter asked about the rows' new values? About the old ones? */
static bool filters_new(const struct statement_key *k)
{
	return has_filter(k) && (k->op == STATEMENT_INSERT || is_crossing(k));
}

static bool filters_old(const struct statement_key *k)
{
	return has_filter(k) && k->op != STATEMENT_INSERT;
}

static bool slot_is_key(const struct statement_key *k, size_t s)
{
	const struct target_column *c = slot(k->table, s);

	switch (k->op) {
	case STATEMENT_UPDATE:
	case STATEMENT_DELETE:
	case STATEMENT_REKEY:
		return c->is_key;
	case STATEMENT_UPDATE_ONE:
	case STATEMENT_DELETE_ONE:
		return c->is_written;
	case STATEMENT_INSERT:
	case STATEMENT_DELETE_CASCADED:
	case STATEMENT_DELETE_ONE_CASCADED:
	case STATEMENT_REKEY_CASCADED:
	case STATEMENT_OPS:
		break;
	}
	return false;
}

/* Is a value known for it? A constant is written once, when its row is inserted. */
static bool slot_has_value(const struct statement_key *k, size_t s, bool is_insert)
{
	const struct target_computed *computed = slot_computed(k->table, s);

	if (s < k->table->column_count)
		return k->sets && column_set_has(k->sets, s);
	if (!computed)
		return is_insert;
	for (size_t i = 0; i < computed->as->input_count; i++)
		if (!k->sets || !column_set_has(k->sets, computed->as->inputs[i]))
			return false;
	return is_insert || computed->as->input_count > 0;
}

/* Is it in the list of columns of an INSERT, the one of a crossing included? */
static bool slot_is_inserted(const struct statement_key *k, size_t s)
{
	return (k->op == STATEMENT_INSERT || is_crossing(k)) && slot(k->table, s)->is_written &&
	       slot_has_value(k, s, true);
}

/* Is it in SET? */
static bool slot_is_set(const struct statement_key *k, size_t s)
{
	const struct target_column *c = slot(k->table, s);

	if (!c->is_written || !slot_has_value(k, s, false))
		return false;
	switch (k->op) {
	case STATEMENT_UPDATE:
		return !c->is_always && (!c->is_key || c->sets_key);
	case STATEMENT_REKEY:
		/* A key that cannot be set must be refused by the server, not left as it was. */
		return c->is_key || !c->is_always;
	case STATEMENT_UPDATE_ONE:
		return !c->is_always;
	case STATEMENT_INSERT:
	case STATEMENT_DELETE:
	case STATEMENT_DELETE_ONE:
	case STATEMENT_DELETE_CASCADED:
	case STATEMENT_DELETE_ONE_CASCADED:
	case STATEMENT_REKEY_CASCADED:
	case STATEMENT_OPS:
		break;
	}
	return false;
}

/* No UPDATE can set it (GENERATED ALWAYS): the row that is there must have the new value already. */
static bool slot_is_kept(const struct statement_key *k, size_t s)
{
	const struct target_column *c = slot(k->table, s);

	bool is_update = k->op == STATEMENT_UPDATE_ONE ||
			 ((k->op == STATEMENT_UPDATE || k->op == STATEMENT_REKEY) && !c->is_key);

	return is_update && c->is_always && c->is_written && slot_has_value(k, s, false);
}

/* Is its value in the new row used? */
static bool slot_is_taken(const struct statement_key *k, size_t s)
{
	return slot_is_set(k, s) || slot_is_inserted(k, s) || slot_is_kept(k, s);
}

static bool any_slot(const struct statement_key *k, bool (*is)(const struct statement_key *, size_t))
{
	for (size_t s = 0; s < slot_count(k->table); s++)
		if (is(k, s))
			return true;
	return false;
}

static bool sets_anything(const struct statement_key *k)
{
	return any_slot(k, slot_is_set);
}

/* ---- expressions ---- */

/* Is a computed column needed of the old ('o') or the new ('n') row? */
static bool needs_computed(const struct statement_key *k, size_t i, char part)
{
	size_t s = k->table->column_count + i;

	return part == 'o' ? slot_is_key(k, s) : slot_is_taken(k, s);
}

static bool needs_filter(const struct statement_key *k, char part)
{
	return part == 'o' ? filters_old(k) : filters_new(k);
}

static bool reads(const struct expression *e, size_t column)
{
	for (size_t i = 0; i < e->input_count; i++)
		if (e->inputs[i] == column)
			return true;
	return false;
}

static bool is_input(const struct statement_key *k, size_t column, char part)
{
	const struct target_table *t = k->table;

	if (!t->columns[column].is_read)
		return false;
	if (needs_filter(k, part) && reads(&t->rel->filter, column))
		return true;
	for (size_t i = 0; i < t->computed_count; i++)
		if (needs_computed(k, i, part) && reads(t->computed[i].as, column))
			return true;
	return false;
}

static bool needs_expressions(const struct statement_key *k, char part)
{
	for (size_t i = 0; i < k->table->computed_count; i++)
		if (needs_computed(k, i, part))
			return true;
	return needs_filter(k, part);
}

static bool has_key(const struct statement_key *k, size_t column)
{
	return slot_is_key(k, column) || is_input(k, column, 'o');
}

static bool has_set(const struct statement_key *k, size_t column)
{
	return slot_is_taken(k, column) || is_input(k, column, 'n');
}

bool statement_has_key(const struct statement_key *k, size_t column)
{
	const struct statement_key plain = strict(k);

	return has_key(&plain, column);
}

bool statement_has_set(const struct statement_key *k, size_t column)
{
	const struct statement_key plain = strict(k);

	return has_set(&plain, column);
}

uint32_t statement_array_oid(const struct target_table *t, size_t column)
{
	return t->columns[column].is_native ? value_array_oid(t->columns[column].kind) : OID_TEXT_ARRAY;
}

/* ---- the rows ---- */

/* What separates the items of a list: nothing before the first. */
static void comma(struct buf *out, bool *first)
{
	if (!*first)
		buf_str(out, ", ");
	*first = false;
}

/*
 * (SELECT unnest($1) AS o1, unnest($2) AS n2) AS k; parameters are numbered on from *param. In FROM, each unnest would be
 * put into a tuplestore of its own first.
 */
static void write_unnest(const struct statement_key *k, bool keys, bool sets, int *param,
			 struct buf *out)
{
	bool first = true;

	buf_str(out, "(SELECT ");
	for (int part = 0; part < 2; part++)
		for (size_t i = 0; i < k->table->column_count; i++)
			if (part == 0 ? keys && has_key(k, i)
				      : sets && has_set(k, i)) {
				comma(out, &first);
				buf_printf(out, "unnest($%d) AS %c%zu", ++*param, part == 0 ? 'o' : 'n', i + 1);
			}
	buf_str(out, ") AS k");
}

static void write_cast(struct buf *out, const char *value, struct span type)
{
	/* regclass alone has a cast from text that is not its input function: it refuses "-" and OIDs. */
	if (span_eq_str(type, "regclass"))
		buf_printf(out, "pg_catalog.regclassin(pg_catalog.textout(%s::pg_catalog.text))", value);
	else
		buf_printf(out, "%s::%.*s", value, SPAN_ARG(type));
}

/* A rule need not make sense of rows that the filter keeps out. */
static void write_guard(const struct statement_key *k, char part, struct buf *out)
{
	if (!needs_filter(k, part))
		return;
	buf_str(out, "CASE WHEN (");
	buf_add_span(out, k->table->rel->filter.sql);
	buf_str(out, "\n) THEN ");
}

/*
 * The expressions over the old or new row, as one more item of FROM: ro1, rn1 … and fo, fn. The line
 * end keeps a comment in an expression from reaching further.
 */
static void write_expressions(const struct statement_key *k, char part, struct buf *out)
{
	const struct target_table *t = k->table;
	bool first = true;
	char value[32];

	buf_str(out, " CROSS JOIN LATERAL (SELECT ");
	for (size_t i = 0; i < t->computed_count; i++)
		if (needs_computed(k, i, part)) {
			comma(out, &first);
			write_guard(k, part, out);
			buf_str(out, "(");
			buf_add_span(out, t->computed[i].as->sql);
			buf_str(out, "\n)::");
			buf_add_span(out, t->computed[i].column.type_name);
			buf_printf(out, "%s AS r%c%zu", needs_filter(k, part) ? " END" : "", part, i + 1);
		}
	if (needs_filter(k, part)) {
		comma(out, &first);
		buf_str(out, "(");
		buf_add_span(out, t->rel->filter.sql);
		buf_printf(out, "\n) AS f%c", part);
	}
	buf_str(out, " FROM (SELECT ");
	first = true;
	for (size_t i = 0; i < t->column_count; i++)
		if (is_input(k, i, part)) {
			comma(out, &first);
			snprintf(value, sizeof(value), "k.%c%zu", part, i + 1);
			write_cast(out, value, t->rel->columns[i].type_name);
			if (t->rel->columns[i].collation.p) {
				buf_str(out, " COLLATE ");
				buf_add_span(out, t->rel->columns[i].collation);
			}
			buf_str(out, " AS ");
			pg_quote_ident(out, t->rel->columns[i].name);
		}
	buf_printf(out, ") AS \"the source's row\") AS x%c", part);
}

/* The rows with what is computed of them, to stand in FROM. */
static void write_computed_rows(const struct statement_key *k, bool keys, bool sets, int *param,
				struct buf *out)
{
	buf_str(out, "SELECT * FROM ");
	write_unnest(k, keys, sets, param, out);
	if (keys && needs_expressions(k, 'o'))
		write_expressions(k, 'o', out);
	if (sets && needs_expressions(k, 'n'))
		write_expressions(k, 'n', out);
}

/* An item of FROM called k. A filtered statement has it in front, since several parts read it. */
static void write_rows(const struct statement_key *k, bool keys, bool sets, int *param,
		       struct buf *out)
{
	if (has_filter(k)) {
		buf_str(out, "k");
	} else if ((keys && needs_expressions(k, 'o')) || (sets && needs_expressions(k, 'n'))) {
		buf_str(out, "(");
		write_computed_rows(k, keys, sets, param, out);
		buf_str(out, ") AS k");
	} else {
		write_unnest(k, keys, sets, param, out);
	}
}

/* ---- values ---- */

/* k.n3, cast where it travels as another type than the column's: char(3) = text would be compared
 * as text, past the index. regclass alone has a cast from text that is not its input function: it refuses
 * "-" and OIDs. */
static void write_value(const struct statement_key *k, char part, size_t s, struct buf *out)
{
	const struct target_column *c = slot(k->table, s);

	if (slot_computed(k->table, s)) {
		buf_printf(out, "k.r%c%zu", part, s - k->table->column_count + 1);
		return;
	}
	if (c == k->table->origin) {
		pg_quote_literal(out, k->table->rel->origin_value);
		buf_str(out, "::");
		buf_add_span(out, c->type_name);
		return;
	}
	if (c->type_oid == OID_REGCLASS) {
		buf_printf(out, "pg_catalog.regclassin(pg_catalog.textout(k.%c%zu))", part, s + 1);
		return;
	}
	buf_printf(out, "k.%c%zu", part, s + 1);
	if (!c->is_native || value_element_oid(c->kind) != c->type_oid) {
		buf_str(out, "::");
		buf_add_span(out, c->type_name);
	}
}

/* To be compared with what is stored: a computed value gets the column's typmod first. */
static void write_stored(const struct statement_key *k, char part, size_t s, struct buf *out)
{
	write_value(k, part, s, out);
	if (slot_computed(k->table, s)) {
		buf_str(out, "::");
		buf_add_span(out, slot(k->table, s)->exact_type);
	}
}

/* Both sides in the target's text form: for types without =, or whose = is looser than identity. */
static void write_by_text(const struct statement_key *k, const char *alias, char part, size_t s,
			  const char *operator, struct buf * out)
{
	const struct target_column *c = slot(k->table, s);

	buf_printf(out, "%s.", alias);
	pg_quote_ident(out, c->name);
	buf_printf(out, "::pg_catalog.text %s ", operator);
	if (s >= k->table->column_count || c->type_oid == OID_REGCLASS) {
		write_stored(k, part, s, out);
	} else {
		buf_printf(out, "k.%c%zu::", part, s + 1);
		buf_add_span(out, c->exact_type);
	}
	buf_str(out, "::pg_catalog.text");
}

/* alias.key is that of the old ('o') or the new ('n') row. */
static void write_key_match(const struct statement_key *k, const char *alias, char part, struct buf *out)
{
	bool first = true;

	for (size_t s = 0; s < slot_count(k->table); s++) {
		const struct target_column *c = slot(k->table, s);
		if (!slot_is_key(k, s))
			continue;
		if (!first)
			buf_str(out, " AND ");
		first = false;
		if (!c->equals.p) {
			write_by_text(k, alias, part, s, "=", out);
			continue;
		}
		buf_printf(out, "%s.", alias);
		pg_quote_ident(out, c->name);
		buf_str(out, " ");
		buf_add_span(out, c->equals);
		buf_str(out, " ");
		write_stored(k, part, s, out);
	}
}

static void write_row_match(const struct statement_key *k, struct buf *out)
{
	bool first = true;

	for (size_t s = 0; s < slot_count(k->table); s++) {
		const struct target_column *c = slot(k->table, s);
		if (!slot_is_key(k, s))
			continue;
		if (!first)
			buf_str(out, " AND ");
		first = false;
		if (!c->is_exact) {
			write_by_text(k, "m", 'o', s, "IS NOT DISTINCT FROM", out);
			continue;
		}
		buf_str(out, "m.");
		pg_quote_ident(out, c->name);
		/* A nondeterministic collation calls different strings equal. */
		if (c->type_oid == OID_TEXT || c->type_oid == OID_VARCHAR)
			buf_str(out, " COLLATE pg_catalog.\"C\"");
		buf_str(out, " IS NOT DISTINCT FROM ");
		write_stored(k, 'o', s, out);
	}
	if (first)
		buf_str(out, "true");
}

/* ---- statements ---- */

/* Which rows a part of the statement is about; the condition goes on from WHERE or AND. */
enum crossing { STAYS, LEAVES, COMES };
static void write_crossing(const struct statement_key *k, const char *word, enum crossing crossing,
			   struct buf *out)
{
	static const char *const conditions[] = {
		[STAYS] = "k.fo AND k.fn",
		[LEAVES] = "k.fo AND k.fn IS NOT TRUE",
		[COMES] = "k.fo IS NOT TRUE AND k.fn",
	};

	if (is_crossing(k))
		buf_printf(out, "%s%s", word, conditions[crossing]);
	else if (filters_old(k))
		buf_printf(out, "%sk.fo", word);
	else if (filters_new(k))
		buf_printf(out, "%sk.fn", word);
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
	for (size_t s = 0; s < slot_count(k->table); s++)
		if (slot_is_inserted(k, s)) {
			comma(out, &first);
			pg_quote_ident(out, slot(k->table, s)->name);
		}
	buf_str(out, k->table->overrides ? ") OVERRIDING SYSTEM VALUE SELECT " : ") SELECT ");
	first = true;
	for (size_t s = 0; s < slot_count(k->table); s++)
		if (slot_is_inserted(k, s)) {
			comma(out, &first);
			write_value(k, 'n', s, out);
		}
	buf_str(out, " FROM ");
	write_rows(k, false, true, param, out);
	write_crossing(k, " WHERE ", COMES, out);
}

static void write_sets(const struct statement_key *k, struct buf *out)
{
	bool first = true;

	for (size_t s = 0; s < slot_count(k->table); s++)
		if (slot_is_set(k, s)) {
			comma(out, &first);
			pg_quote_ident(out, slot(k->table, s)->name);
			buf_str(out, " = ");
			write_value(k, 'n', s, out);
		}
}

/* Up to FROM's other items. With nothing to write the row must be there all the same. */
static void write_update_head(const struct statement_key *k, struct buf *out)
{
	bool sets = sets_anything(k);

	buf_str(out, sets ? "UPDATE " : "SELECT 1 FROM ");
	buf_add_span(out, k->table->name);
	buf_str(out, sets ? " AS t SET " : " AS t, ");
	if (sets) {
		write_sets(k, out);
		buf_str(out, " FROM ");
	}
}

static void write_kept(const struct statement_key *k, struct buf *out)
{
	for (size_t s = 0; s < slot_count(k->table); s++)
		if (slot_is_kept(k, s)) {
			buf_str(out, " AND t.");
			pg_quote_ident(out, slot(k->table, s)->name);
			buf_str(out, " = ");
			write_value(k, 'n', s, out);
		}
}

static void write_update(const struct statement_key *k, int *param, struct buf *out)
{
	write_update_head(k, out);
	write_rows(k, true, true, param, out);
	buf_str(out, " WHERE ");
	write_key_match(k, "t", 'o', out);
	write_kept(k, out);
	write_crossing(k, " AND ", STAYS, out);
}

static void write_delete(const struct statement_key *k, int *param, struct buf *out)
{
	buf_str(out, "DELETE FROM ");
	buf_add_span(out, k->table->name);
	buf_str(out, " AS t USING ");
	write_rows(k, true, false, param, out);
	buf_str(out, " WHERE ");
	write_key_match(k, "t", 'o', out);
	write_crossing(k, " AND ", LEAVES, out);
}

static void write_update_one(const struct statement_key *k, int *param, struct buf *out)
{
	if (!sets_anything(k) && !any_slot(k, slot_is_kept)) {
		buf_str(out, "SELECT 1 FROM ");
		write_one(k, param, out);
		return;
	}
	write_update_head(k, out);
	/* Written before the other rows: its parameters are the first ones. */
	write_one(k, param, out);
	buf_str(out, ", ");
	write_rows(k, false, true, param, out);
	buf_str(out, " WHERE t.tableoid = m.o AND t.ctid = m.i");
	write_kept(k, out);
	write_crossing(k, " AND ", STAYS, out);
}

static void write_delete_one(const struct statement_key *k, int *param, struct buf *out)
{
	buf_str(out, "DELETE FROM ");
	buf_add_span(out, k->table->name);
	buf_str(out, " AS t USING ");
	write_one(k, param, out);
	if (has_filter(k)) {
		buf_str(out, ", ");
		write_rows(k, true, false, param, out);
	}
	buf_str(out, " WHERE t.tableoid = m.o AND t.ctid = m.i");
	write_crossing(k, " AND ", LEAVES, out);
}

static void write_main(const struct statement_key *k, int *param, struct buf *out)
{
	bool returns = true;

	switch (k->op) {
	case STATEMENT_INSERT:
		write_insert(k, param, out);
		break;
	case STATEMENT_UPDATE:
	case STATEMENT_REKEY:
		write_update(k, param, out);
		returns = sets_anything(k);
		break;
	case STATEMENT_DELETE:
		write_delete(k, param, out);
		break;
	case STATEMENT_UPDATE_ONE:
		write_update_one(k, param, out);
		returns = sets_anything(k);
		break;
	case STATEMENT_DELETE_ONE:
		write_delete_one(k, param, out);
		break;
	case STATEMENT_DELETE_CASCADED:
	case STATEMENT_DELETE_ONE_CASCADED:
	case STATEMENT_REKEY_CASCADED:
	case STATEMENT_OPS:
		assert(false);
	}
	if (returns)
		buf_str(out, " RETURNING 1");
}

static void write_expect(const char *seen, const char *wanted, struct span what, struct buf *out)
{
	buf_printf(out, "foreshadow.expect(%s, %s, ", seen, wanted);
	pg_quote_literal(out, what);
	buf_str(out, ")");
}

static void write_expect_at_most(const char *seen, const char *wanted, struct span what, struct buf *out)
{
	char more[300];

	snprintf(more, sizeof(more), "greatest(%s, %s)", seen, wanted);
	write_expect(more, wanted, what, out);
}

/* The two parts of a crossing beside the update of what stays, and what each must count. */
static void write_crossed(const struct statement_key *k, struct span what, int *param, struct buf *out)
{
	buf_str(out, "), d AS (");
	if (k->op == STATEMENT_UPDATE_ONE)
		write_delete_one(k, param, out);
	else
		write_delete(k, param, out);
	buf_str(out, " RETURNING 1), i AS (");
	write_insert(k, param, out);
	buf_str(out, " RETURNING 1) SELECT ");
	write_expect("(SELECT count(*) FROM w)", "(SELECT count(*) FROM k WHERE k.fo AND k.fn)", what, out);
	buf_str(out, ", ");
	write_expect("(SELECT count(*) FROM d)", "(SELECT count(*) FROM k WHERE k.fo AND k.fn IS NOT TRUE)",
		     what, out);
	buf_str(out, ", ");
	write_expect("(SELECT count(*) FROM i)", "(SELECT count(*) FROM k WHERE k.fo IS NOT TRUE AND k.fn)",
		     what, out);
	buf_str(out, ", ");
}

/* What the statement is called when its count is wrong. */
static struct span what_of(const struct statement_key *k, char *text, size_t n)
{
	int used = snprintf(text, n, "%.*s %s", SPAN_ARG(k->table->label), statement_op_name(k->op));

	if (any_slot(k, slot_is_kept))
		snprintf(text + used, (size_t)used < n ? n - (size_t)used : 0,
			 " (no UPDATE sets a GENERATED ALWAYS column: the row must have its new value; next step: "
			 "ALTER COLUMN … SET GENERATED BY DEFAULT on the target)");
	return span_str(text);
}

/*
 * The new key first: a cascade has given all children their new keys by now, and what is under the old one may
 * be another child that got it (keys that move up by one).
 */
static bool write_rekey_cascaded(const struct statement_key *k, struct buf *out)
{
	char text[WHAT_BYTES], wanted[16];
	int param = 0;

	buf_str(out, "WITH k AS MATERIALIZED (SELECT * FROM ");
	write_unnest(k, true, true, &param, out);
	buf_str(out, "), ");
	for (int part = 0; part < 2; part++) {
		buf_printf(out, "%s AS (UPDATE ", part == 0 ? "w" : "v");
		buf_add_span(out, k->table->name);
		buf_str(out, " AS t SET ");
		write_sets(k, out);
		buf_str(out, " FROM k WHERE ");
		write_key_match(k, "t", part == 0 ? 'n' : 'o', out);
		if (part == 0) {
			buf_str(out, " RETURNING 1), ");
			continue;
		}
		buf_str(out, " AND NOT EXISTS (SELECT FROM ");
		buf_add_span(out, k->table->name);
		buf_str(out, " AS x WHERE ");
		write_key_match(k, "x", 'n', out);
		buf_str(out, ") RETURNING 1) SELECT ");
	}
	snprintf(wanted, sizeof(wanted), "$%d", param + 1);
	write_expect("(SELECT count(*) FROM w) + (SELECT count(*) FROM v)", wanted, what_of(k, text, sizeof(text)), out);
	return !buf_failed(out);
}

static bool write_plain(const struct statement_key *k, bool is_cascaded, struct buf *out)
{
	int param = 0;
	char text[WHAT_BYTES], wanted[16], seen[200];
	struct span what = what_of(k, text, sizeof(text));

	buf_str(out, "WITH ");
	if (has_filter(k)) {
		buf_str(out, "k AS MATERIALIZED (");
		write_computed_rows(k, true, true, &param, out);
		buf_str(out, "), ");
	}
	buf_str(out, "w AS (");
	write_main(k, &param, out);
	snprintf(wanted, sizeof(wanted), "$%d", param + 1);
	if (is_crossing(k)) {
		write_crossed(k, what, &param, out);
		write_expect("(SELECT count(*) FROM k)", wanted, what, out);
		return !buf_failed(out);
	}
	buf_str(out, ") SELECT ");
	snprintf(seen, sizeof(seen), "(SELECT count(*) FROM w)%s",
		 !has_filter(k)   ? ""
		 : filters_old(k) ? " + (SELECT count(*) FROM k WHERE k.fo IS NOT TRUE)"
				  : " + (SELECT count(*) FROM k WHERE k.fn IS NOT TRUE)");
	if (is_cascaded)
		write_expect_at_most(seen, wanted, what, out);
	else
		write_expect(seen, wanted, what, out);
	return !buf_failed(out);
}

bool statement_write_lookup(const struct target_table *t, struct buf *out)
{
	const struct statement_key k = { t, STATEMENT_DELETE, NULL };
	int param = 0;

	buf_str(out, "SELECT (SELECT pg_catalog.json_object_agg(key, value) FROM"
		     " pg_catalog.json_each_text(pg_catalog.row_to_json(t.*))) FROM ");
	buf_add_span(out, t->name);
	buf_str(out, " AS t, ");
	write_rows(&k, true, false, &param, out);
	buf_str(out, " WHERE ");
	write_key_match(&k, "t", 'o', out);
	buf_str(out, " FOR UPDATE OF t");
	return !buf_failed(out);
}

bool statement_write(const struct statement_key *k, struct buf *out)
{
	const struct statement_key plain = strict(k);

	if (k->op == STATEMENT_REKEY_CASCADED)
		return write_rekey_cascaded(&plain, out);
	return write_plain(&plain, plain.op != k->op, out);
}
