// SPDX-License-Identifier: Apache-2.0
#include "ingest/mapped.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/buf.h"
#include "core/conf.h"

enum { SQL_BYTES = 16 << 20 };

static void mistake(struct mistakes *m, struct arena *a, const struct migration *file, int line,
		    const char *format, ...) __attribute__((format(printf, 5, 6)));

static void mistake(struct mistakes *m, struct arena *a, const struct migration *file, int line,
		    const char *format, ...)
{
	char text[1500];
	va_list args;

	if (m->count == m->cap) {
		size_t cap = m->cap ? m->cap * 2 : 16;
		const char **texts = arena_alloc(a, cap * sizeof(*texts));

		if (!texts)
			return;
		for (size_t i = 0; i < m->count; i++)
			texts[i] = m->texts[i];
		m->texts = texts;
		m->cap = cap;
	}
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	m->texts[m->count++] = arena_printf(a, "%s:%d: %s", file->path, line, text);
}

/* ---- names ---- */

static bool is_rule_of(const struct transform *t, const struct relation *rel)
{
	return span_eq(t->schema, rel->target_schema) && span_eq(t->table, rel->target_table);
}

static void map_columns(const struct mapping *mapping, struct relation *rel)
{
	for (size_t i = 0; i < rel->column_count; i++) {
		struct column *col = &rel->columns[i];
		const struct mapping_column *c = mapping_column(mapping, col->name);

		col->target = c ? c->to : col->name;
		col->is_dropped = c && c->is_dropped;
		if (!col->is_dropped)
			continue;
		col->target = span(NULL, 0);
	}
}

/* A computed column takes the place of the one that would be written there. */
static void compute(const struct migration *m, struct arena *a, struct relation *rel)
{
	const struct mappings *x = &m->mappings;

	rel->computed = arena_alloc(a, x->transform_count * sizeof(*rel->computed) + 1);
	for (size_t i = 0; rel->computed && i < x->transform_count; i++) {
		const struct transform *t = &x->transforms[i];
		struct computed *c;

		if (!is_rule_of(t, rel))
			continue;
		if (t->is_filter) {
			rel->filter.sql = span_str(t->as);
			continue;
		}
		c = &rel->computed[rel->computed_count++];
		*c = (struct computed) { .column = t->column, .as.sql = span_str(t->as) };
		for (size_t k = 0; k < rel->column_count; k++)
			if (span_eq(rel->columns[k].target, t->column)) {
				c->is_key = rel->columns[k].is_key;
				rel->columns[k].target = span(NULL, 0);
			}
	}
}

void mapped_apply(const struct migration *m, struct arena *a, struct relation *rel)
{
	struct mapped to = mappings_table(&m->mappings, rel->root_schema, rel->root_table);

	rel->target_schema = to.schema;
	rel->target_table = to.table;
	map_columns(to.mapping, rel);
	if (to.mapping) {
		rel->origin_column = to.mapping->origin_column;
		rel->origin_value = to.mapping->origin_value;
	}
	compute(m, a, rel);
}

/* ---- which columns an expression reads ---- */

static int line_of(const struct migration *m, const struct relation *rel, const struct computed *c)
{
	for (size_t i = 0; i < m->mappings.transform_count; i++) {
		const struct transform *t = &m->mappings.transforms[i];

		if (is_rule_of(t, rel) && (c ? !t->is_filter && span_eq(t->column, c->column) : t->is_filter))
			return t->line;
	}
	return 1;
}

/* SELECT (expr) over the columns of the relation, but for one. */
static void write_probe(const struct relation *rel, struct span sql, bool with_dropped, size_t without,
			struct buf *out)
{
	bool first = true;

	buf_reset(out);
	buf_str(out, "SELECT (");
	buf_add_span(out, sql);
	buf_str(out, "\n) FROM (SELECT ");
	for (size_t i = 0; i < rel->column_count; i++) {
		if (i == without || (rel->columns[i].is_dropped && !with_dropped))
			continue;
		buf_str(out, first ? "NULL::" : ", NULL::");
		first = false;
		buf_add_span(out, rel->columns[i].type_name);
		buf_str(out, " AS ");
		pg_quote_ident(out, rel->columns[i].name);
	}
	buf_str(out, ") AS \"the source's row\"");
}

/* *ret_fault: why it does not parse; kind FAULT_NONE: it does. False: the connection. */
static bool parses(PGconn *conn, struct buf *sql, struct fault *ret_fault, struct fault *f)
{
	PGresult *r;

	fault_reset(ret_fault);
	if (buf_failed(sql))
		return fault(f, FAULT_INTERNAL, "no memory for a transformation rule");
	r = PQprepare(conn, "", buf_cstr(sql), 0, NULL);
	if (PQresultStatus(r) != PGRES_COMMAND_OK)
		pg_fault(conn, r, ret_fault);
	PQclear(r);
	if (ret_fault->kind != FAULT_ENVIRONMENT)
		return true;
	if (f)
		*f = *ret_fault;
	return false;
}

/* Could the text mean the column at all? Saves most of the asking. */
static bool mentions(struct span sql, struct span name)
{
	for (size_t i = 0; i + name.n <= sql.n; i++)
		if (strncasecmp(sql.p + i, name.p, name.n) == 0)
			return true;
	/* As escapes (U&"d\0061t"), or with doubled quotes, it looks different. */
	return memmem(sql.p, sql.n, "&\"", 2) || memchr(name.p, '"', name.n);
}

/* The dropped column that the expression reads, if that is what is wrong with it. */
static bool find_dropped(PGconn *conn, const struct relation *rel, struct span sql, struct buf *probe,
			 const struct column **ret, struct fault *f)
{
	struct fault why;

	*ret = NULL;
	write_probe(rel, sql, true, SIZE_MAX, probe);
	if (!parses(conn, probe, &why, f))
		return false;
	for (size_t i = 0; !why.kind && !*ret && i < rel->column_count; i++) {
		if (!rel->columns[i].is_dropped || !mentions(sql, rel->columns[i].name))
			continue;
		struct fault without;
		write_probe(rel, sql, true, i, probe);
		if (!parses(conn, probe, &without, f))
			return false;
		if (without.kind)
			*ret = &rel->columns[i];
	}
	return true;
}

static bool read_inputs(PGconn *conn, const struct relation *rel, struct arena *a, struct buf *probe,
			struct expression *e, struct fault *f)
{
	uint32_t *inputs = arena_alloc(a, rel->column_count * sizeof(*inputs) + 1);
	struct fault why;

	if (!inputs)
		return fault(f, FAULT_INTERNAL, "no memory for a transformation rule");
	e->inputs = inputs;
	for (size_t i = 0; i < rel->column_count; i++) {
		if (rel->columns[i].is_dropped || !mentions(e->sql, rel->columns[i].name))
			continue;
		write_probe(rel, e->sql, false, i, probe);
		if (!parses(conn, probe, &why, f))
			return false;
		if (why.kind)
			inputs[e->input_count++] = (uint32_t)i;
	}
	return true;
}

static bool read_expression(PGconn *conn, const struct migration *m, struct arena *a,
			    struct relation *rel, const struct computed *c, struct expression *e,
			    struct mistakes *ret, struct fault *f)
{
	int line = line_of(m, rel, c);
	const struct column *dropped;
	struct fault why;
	struct buf probe;
	bool ok;

	buf_init(&probe, SQL_BYTES);
	write_probe(rel, e->sql, false, SIZE_MAX, &probe);
	ok = parses(conn, &probe, &why, f);
	if (ok && !why.kind) {
		ok = read_inputs(conn, rel, a, &probe, e, f);
	} else if (ok) {
		ok = find_dropped(conn, rel, e->sql, &probe, &dropped, f);
		if (ok && dropped)
			mistake(ret, a, m, line, "transformation_rules: the rule for %.*s.%.*s reads "
				"column \"%.*s\", which schema_mapping drops with ~; next step: write "
				"{to: ~} there, then it travels and is not written",
				SPAN_ARG(rel->target_schema), SPAN_ARG(rel->target_table),
				SPAN_ARG(dropped->name));
		else if (ok)
			mistake(ret, a, m, line, "transformation_rules: %s of %.*s.%.*s does not parse over "
				"the columns of %.*s.%.*s: %s; next step: correct the expression (functions "
				"outside pg_catalog need their schema; the source must have them, and the types, too: it is "
				"asked again there to verify)", c ? "as" : "where",
				SPAN_ARG(rel->target_schema), SPAN_ARG(rel->target_table),
				SPAN_ARG(rel->schema), SPAN_ARG(rel->table), why.text);
	}
	buf_release(&probe);
	return ok;
}

bool mapped_read(PGconn *conn, const struct migration *m, struct arena *a, struct relation *rel,
		 struct mistakes *ret, struct fault *f)
{
	for (size_t i = 0; i < rel->computed_count; i++)
		if (!read_expression(conn, m, a, rel, &rel->computed[i], &rel->computed[i].as, ret, f))
			return false;
	return !rel->filter.sql.p || read_expression(conn, m, a, rel, NULL, &rel->filter, ret, f);
}

/* ---- one table ---- */

static bool is_toastable(const struct facts_table *t, struct span column)
{
	for (size_t i = 0; i < t->column_count; i++)
		if (span_eq(t->columns[i].name, column))
			return t->columns[i].is_toastable;
	return false;
}

static const char *full_identity(const struct relation *rel, struct arena *a)
{
	struct buf b;

	buf_init(&b, 4096);
	buf_str(&b, "ALTER TABLE ");
	pg_quote_table(&b, rel->schema, rel->table);
	buf_str(&b, " REPLICA IDENTITY FULL");
	const char *s = arena_str(a, buf_span(&b));
	buf_release(&b);
	return s ? s : "";
}

/*
 * A row crosses a filter by an update. With the old row's key alone that can be judged if the filter
 * reads nothing else, and the row that comes in is whole only if nothing outside the key can be
 * left out as unchanged.
 */
static void check_filter(const struct migration *m, struct arena *a, const struct facts_table *t,
			 struct mistakes *ret)
{
	const struct relation *rel = t->rel;
	int line = line_of(m, rel, NULL);

	if (!rel->filter.sql.p || rel->identity == 'f')
		return;
	for (size_t i = 0; i < rel->filter.input_count; i++) {
		const struct column *col = &rel->columns[rel->filter.inputs[i]];

		if (col->is_key)
			continue;
		mistake(ret, a, m, line, "transformation_rules: where reads column \"%.*s\" of %.*s.%.*s, "
			"which is not part of its replica identity: published, it would make the source's "
			"UPDATE and DELETE fail, and without the old value nobody knows whether a row "
			"leaves the filter; next step: run %s on the source", SPAN_ARG(col->name),
			SPAN_ARG(rel->schema), SPAN_ARG(rel->table), full_identity(rel, a));
		return;
	}
	for (size_t i = 0; i < rel->column_count; i++) {
		const struct column *col = &rel->columns[i];

		if (col->is_key || col->is_dropped || !is_toastable(t, col->name))
			continue;
		mistake(ret, a, m, line, "transformation_rules: a row of %.*s.%.*s whose key moves it into the "
			"filter needs every value, and column \"%.*s\" may be stored out of line and then is "
			"not sent; next step: run %s on the source", SPAN_ARG(rel->schema),
			SPAN_ARG(rel->table), SPAN_ARG(col->name), full_identity(rel, a));
		return;
	}
}

/* Unchanged out-of-line values are not sent: a rule over that column alone is then unchanged too, but one
 * over several needs them all. */
static void check_inputs(const struct migration *m, struct arena *a, const struct facts_table *t,
			 const struct computed *c, struct mistakes *ret)
{
	const struct relation *rel = t->rel;
	int line = line_of(m, rel, c);

	for (size_t i = 0; i < c->as.input_count; i++) {
		const struct column *col = &rel->columns[c->as.inputs[i]];

		if (c->is_key && !col->is_key)
			mistake(ret, a, m, line, "transformation_rules: column \"%.*s\" is part of the key of "
				"%.*s.%.*s, and its rule reads \"%.*s\", which is not: old rows could not be "
				"found; next step: let it read key columns only", SPAN_ARG(c->column),
				SPAN_ARG(rel->target_schema), SPAN_ARG(rel->target_table), SPAN_ARG(col->name));
		if (c->as.input_count > 1 && rel->identity != 'f' && !col->is_key &&
		    is_toastable(t, col->name)) {
			mistake(ret, a, m, line, "transformation_rules: the rule for \"%.*s\" reads several "
				"columns, and \"%.*s\" of %.*s.%.*s may be stored out of line: an update that "
				"leaves it alone does not send it; next step: run %s on the source",
				SPAN_ARG(c->column), SPAN_ARG(col->name), SPAN_ARG(rel->schema),
				SPAN_ARG(rel->table), full_identity(rel, a));
			return;
		}
	}
}

static void check_target_names(const struct migration *m, struct arena *a, const struct relation *rel,
			       int line, struct mistakes *ret)
{
	for (size_t i = 0; i < rel->column_count; i++)
		for (size_t j = 0; j < i; j++)
			if (rel->columns[i].target.p && span_eq(rel->columns[i].target, rel->columns[j].target))
				mistake(ret, a, m, line, "schema_mapping: columns \"%.*s\" and \"%.*s\" of %.*s.%.*s "
					"would both be \"%.*s\"; next step: rename one, or compute it by a rule",
					SPAN_ARG(rel->columns[j].name), SPAN_ARG(rel->columns[i].name),
					SPAN_ARG(rel->schema), SPAN_ARG(rel->table),
					SPAN_ARG(rel->columns[i].target));
}

static bool is_computed_key(const struct relation *rel, struct span target)
{
	for (size_t i = 0; i < rel->computed_count; i++)
		if (rel->computed[i].is_key && span_eq(rel->computed[i].column, target))
			return true;
	return false;
}

/* How a list of column names could have been meant. */
static const char *nearest_column(const struct relation *rel, struct span name, struct arena *a)
{
	const char **known = arena_alloc(a, (rel->column_count + 1) * sizeof(*known));
	const char *seen = arena_str(a, name);

	for (size_t i = 0; known && i < rel->column_count; i++)
		known[i] = arena_str(a, rel->columns[i].name);
	return known && seen && !arena_failed(a) ? conf_nearest(seen, known, rel->column_count) : NULL;
}

static void check_columns(const struct migration *m, struct arena *a, const struct relation *rel,
			  const struct mapping *mapping, bool has_begun, struct mistakes *ret)
{
	for (size_t i = 0; mapping && i < mapping->column_count; i++) {
		const struct mapping_column *c = &mapping->columns[i];
		const struct column *col = NULL;
		const char *nearest;

		for (size_t k = 0; k < rel->column_count; k++)
			if (span_eq(rel->columns[k].name, c->from))
				col = &rel->columns[k];
		if (!col && !has_begun) {
			nearest = nearest_column(rel, c->from, a);
			mistake(ret, a, m, c->line, "schema_mapping.columns: %.*s.%.*s has no column \"%.*s\"; the "
				"nearest is \"%s\"; next step: correct the name, or leave it out", SPAN_ARG(rel->schema), SPAN_ARG(rel->table), SPAN_ARG(c->from),
				nearest ? nearest : "");
		} else if (col && col->is_key && (c->is_dropped || (!c->to.p && !is_computed_key(rel, c->from)))) {
			mistake(ret, a, m, c->line, "schema_mapping.columns: \"%.*s\" is part of the key of "
				"%.*s.%.*s, by which rows are found on the target; next step: keep it, or compute "
				"it by a rule", SPAN_ARG(c->from), SPAN_ARG(rel->schema), SPAN_ARG(rel->table));
		}
	}
}

static bool fills_origin(const struct relation *rel)
{
	struct relation alone = *rel;

	alone.origin_column = span(NULL, 0);
	return relation_fills(&alone, rel->origin_column);
}

void mapped_check(const struct migration *m, struct arena *a, const struct facts_table *t, bool has_begun,
		  struct mistakes *ret)
{
	const struct relation *rel = t->rel;
	struct mapped to = mappings_table(&m->mappings, rel->root_schema, rel->root_table);

	check_columns(m, a, rel, to.mapping, has_begun, ret);
	if (to.mapping)
		check_target_names(m, a, rel, to.mapping->line, ret);
	if (to.mapping && rel->origin_column.p && fills_origin(rel))
		mistake(ret, a, m, to.mapping->line, "schema_mapping.origin: column \"%.*s\" of %.*s.%.*s is filled by "
			"%.*s.%.*s or by a rule already; next step: name another column, or drop that one with ~",
			SPAN_ARG(rel->origin_column), SPAN_ARG(rel->target_schema), SPAN_ARG(rel->target_table),
			SPAN_ARG(rel->schema), SPAN_ARG(rel->table));
	if (to.mapping && rel->origin_column.p && rel->keyless)
		mistake(ret, a, m, to.mapping->line, "schema_mapping.origin: %.*s.%.*s has no key, and the rows of "
			"such a table cannot be merged with others; next step: give it a primary key",
			SPAN_ARG(rel->schema), SPAN_ARG(rel->table));
	check_filter(m, a, t, ret);
	for (size_t i = 0; i < rel->computed_count; i++)
		check_inputs(m, a, t, &rel->computed[i], ret);
}

/* ---- all tables ---- */

static bool same_root(const struct relation *a, const struct relation *b)
{
	return span_eq(a->root_schema, b->root_schema) && span_eq(a->root_table, b->root_table);
}

/* Two tables in one need a column that says which row is whose. */
static void check_merge(const struct migration *m, struct arena *a, const struct relation *x,
			const struct relation *y, struct mistakes *ret)
{
	struct mapped to = mappings_table(&m->mappings, y->root_schema, y->root_table);
	int line = to.mapping ? to.mapping->line : 1;

	if (!x->origin_column.p || !y->origin_column.p)
		mistake(ret, a, m, line, "schema_mapping: %.*s.%.*s and %.*s.%.*s both go to %.*s.%.*s, and nothing "
			"tells their rows apart: keys that both have would collide, and a TRUNCATE of one would "
			"take the other's; next step: give each an origin: {column: …, value: …}",
			SPAN_ARG(x->root_schema), SPAN_ARG(x->root_table), SPAN_ARG(y->root_schema),
			SPAN_ARG(y->root_table), SPAN_ARG(y->target_schema), SPAN_ARG(y->target_table));
	else if (!span_eq(x->origin_column, y->origin_column) || span_eq(x->origin_value, y->origin_value))
		mistake(ret, a, m, line, "schema_mapping.origin: %.*s.%.*s and %.*s.%.*s go to one table: expected the "
			"same column and different values, found \"%.*s\": '%.*s' and \"%.*s\": '%.*s'",
			SPAN_ARG(x->root_schema), SPAN_ARG(x->root_table), SPAN_ARG(y->root_schema),
			SPAN_ARG(y->root_table), SPAN_ARG(x->origin_column), SPAN_ARG(x->origin_value),
			SPAN_ARG(y->origin_column), SPAN_ARG(y->origin_value));
}

static int compare_targets(const void *a, const void *b)
{
	const struct relation *x = *(struct relation *const *)a, *y = *(struct relation *const *)b;
	int order = span_cmp(x->target_schema, y->target_schema);

	order = order ? order : span_cmp(x->target_table, y->target_table);
	order = order ? order : span_cmp(x->root_schema, y->root_schema);
	return order ? order : span_cmp(x->root_table, y->root_table);
}

static void check_merges(const struct migration *m, struct arena *a, struct relation *const *relations,
			 size_t count, struct mistakes *ret)
{
	struct relation **sorted = arena_alloc(a, (count + 1) * sizeof(struct relation *));

	if (!sorted)
		return;
	for (size_t i = 0; i < count; i++)
		sorted[i] = relations[i];
	qsort(sorted, count, sizeof(struct relation *), compare_targets);
	for (size_t i = 0; i < count; i++)
		for (size_t j = i; j-- > 0 && span_eq(sorted[i]->target_schema, sorted[j]->target_schema) &&
				   span_eq(sorted[i]->target_table, sorted[j]->target_table);) {
			if (same_root(sorted[i], sorted[j]))
				break; /* leaves: their root's first one was compared */
			check_merge(m, a, sorted[j], sorted[i], ret);
		}
}

static const char *nearest_table(struct relation *const *relations, size_t count, bool on_target,
				 struct span schema, struct span table, struct arena *a)
{
	const char **known = arena_alloc(a, (count + 1) * sizeof(*known));
	const char *seen = arena_printf(a, "%.*s.%.*s", SPAN_ARG(schema), SPAN_ARG(table));

	for (size_t i = 0; known && i < count; i++)
		known[i] = on_target ? arena_printf(a, "%.*s.%.*s", SPAN_ARG(relations[i]->target_schema),
						    SPAN_ARG(relations[i]->target_table))
				     : arena_printf(a, "%.*s.%.*s", SPAN_ARG(relations[i]->root_schema),
						    SPAN_ARG(relations[i]->root_table));
	return known && count && !arena_failed(a) ? conf_nearest(seen, known, count) : "none";
}

/* Does a column of rel have this name on the target, by the mapping alone? */
static bool has_target_column(const struct migration *m, const struct relation *rel, struct span name)
{
	struct mapped to = mappings_table(&m->mappings, rel->root_schema, rel->root_table);

	for (size_t i = 0; i < rel->column_count; i++) {
		const struct mapping_column *c = mapping_column(to.mapping, rel->columns[i].name);
		bool is_there = !c || (!c->is_dropped && c->to.p);

		if (is_there && span_eq(c ? c->to : rel->columns[i].name, name))
			return true;
	}
	return false;
}

/* A rule of some table: schema: create has to make its column if the source gives none. */
static void check_type(const struct migration *m, struct arena *a, struct relation *const *relations,
		       size_t count, const struct transform *t, struct mistakes *ret)
{
	if (m->schema != SCHEMA_CREATE || t->is_filter || t->type)
		return;
	for (size_t i = 0; i < count; i++)
		if (is_rule_of(t, relations[i]) && has_target_column(m, relations[i], t->column))
			return;
	mistake(ret, a, m, t->line, "transformation_rules: no column of the source becomes \"%.*s\" of %.*s.%.*s, so "
		"schema: create has to make it and needs its type; next step: add type: to the rule",
		SPAN_ARG(t->column), SPAN_ARG(t->schema), SPAN_ARG(t->table));
}

void mapped_check_all(const struct migration *m, struct arena *a, struct relation *const *relations,
		      size_t count, struct mistakes *ret)
{
	for (size_t i = 0; i < m->mappings.table_count; i++) {
		const struct mapping *x = &m->mappings.tables[i];
		bool found = false;

		for (size_t k = 0; !found && k < count; k++)
			found = span_eq(relations[k]->root_schema, x->from_schema) &&
				(!x->from_table.p || span_eq(relations[k]->root_table, x->from_table));
		if (!found)
			mistake(ret, a, m, x->line, "schema_mapping.from: no table %.*s.%.*s is in scope; the nearest is "
				"%s; next step: correct the name, or tables.include", SPAN_ARG(x->from_schema),
				x->from_table.p ? (int)x->from_table.n : 1, x->from_table.p ? x->from_table.p : "*",
				nearest_table(relations, count, false, x->from_schema, x->from_table, a));
	}
	for (size_t i = 0; i < m->mappings.transform_count; i++) {
		const struct transform *t = &m->mappings.transforms[i];
		bool found = false;

		for (size_t k = 0; !found && k < count; k++)
			found = is_rule_of(t, relations[k]);
		if (found)
			check_type(m, a, relations, count, t, ret);
		else
			mistake(ret, a, m, t->line, "transformation_rules.table: no table of the migration goes to "
				"%.*s.%.*s; the nearest target is %s; next step: correct the name (rules name "
				"tables as they are on the target)", SPAN_ARG(t->schema), SPAN_ARG(t->table),
				nearest_table(relations, count, true, t->schema, t->table, a));
	}
	check_merges(m, a, relations, count, ret);
}
