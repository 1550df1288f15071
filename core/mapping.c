// SPDX-License-Identifier: Apache-2.0
#include "core/mapping.h"

#include <stdio.h>

#include "core/buf.h"
#include "core/conf.h"
#include "core/migration.h"

/* ---- names ---- */

/* One part of a name, up to its dot or end. Whether it was one unquoted *. */
static bool name_part(const char **p, struct buf *out, bool *ret_any)
{
	bool is_quoted = false, was_quoted = false;

	buf_reset(out);
	for (; **p && (is_quoted || **p != '.'); ++*p) {
		char c = **p;

		if (c == '"' && is_quoted && (*p)[1] == '"') {
			++*p;
		} else if (c == '"') {
			is_quoted = !is_quoted;
			was_quoted = true;
			continue;
		}
		if (!is_quoted && c >= 'A' && c <= 'Z')
			c = (char)(c - 'A' + 'a');
		buf_u8(out, (uint8_t)c);
	}
	*ret_any = !was_quoted && out->n == 1 && out->p[0] == '*';
	return !is_quoted && out->n > 0 && !buf_failed(out);
}

bool mapping_name(const char *text, struct arena *a, struct span *ret_schema,
		  struct span *ret_table, bool *ret_any)
{
	bool any_schema = false, any_table = false, ok;
	struct buf part;

	buf_init(&part, 1024);
	ok = name_part(&text, &part, &any_schema) && !any_schema;
	if (ok)
		*ret_schema = arena_dup(a, buf_span(&part));
	if (ok && ret_table) {
		ok = *text++ == '.' && name_part(&text, &part, &any_table) &&
		     (!any_table || ret_any);
		if (ok)
			*ret_table = any_table ? span(NULL, 0) : arena_dup(a, buf_span(&part));
	}
	if (ret_any)
		*ret_any = any_table;
	buf_release(&part);
	return ok && !*text;
}

/* ---- looking up ---- */

struct mapped mappings_table(const struct mappings *m, struct span schema, struct span table)
{
	const struct mapping *found = NULL;

	for (size_t i = 0; i < m->table_count; i++) {
		const struct mapping *x = &m->tables[i];

		if (!span_eq(x->from_schema, schema))
			continue;
		if (x->from_table.p && span_eq(x->from_table, table)) {
			found = x;
			break;
		}
		if (!x->from_table.p)
			found = x;
	}
	if (!found)
		return (struct mapped) { NULL, schema, table };
	return (struct mapped) { found, found->to_schema.p ? found->to_schema : schema,
				 found->to_table.p ? found->to_table : table };
}

int mappings_line(const struct mappings *m, struct span schema, struct span table)
{
	struct mapped to = mappings_table(m, schema, table);

	for (size_t i = 0; i < m->transform_count && !to.mapping; i++)
		if (span_eq(m->transforms[i].schema, to.schema) && span_eq(m->transforms[i].table, to.table))
			return m->transforms[i].line;
	return to.mapping ? to.mapping->line : 0;
}

const struct mapping_column *mapping_column(const struct mapping *m, struct span column)
{
	for (size_t i = 0; m && i < m->column_count; i++)
		if (span_eq(m->columns[i].from, column))
			return &m->columns[i];
	return NULL;
}

/* ---- setters ---- */

static struct mappings *mappings_of(void *out)
{
	return &((struct migration *)out)->mappings;
}

static struct mapping *newest(void *out)
{
	struct mappings *m = mappings_of(out);

	return &m->tables[m->table_count - 1];
}

static struct transform *newest_transform(void *out)
{
	struct mappings *m = mappings_of(out);

	return &m->transforms[m->transform_count - 1];
}

/* Room for one more at the end; false and a fault: too large. */
static bool grow(void **array, size_t count, size_t *cap, size_t size, const struct conf_value *v,
		 struct fault *f)
{
	size_t more = *cap ? *cap * 2 : 16;
	void *p;

	if (count < *cap)
		return true;
	p = arena_alloc(v->arena, more * size);
	if (!p)
		return conf_refuse(v, f, "too large");
	if (count)
		memcpy(p, *array, count * size);
	*array = p;
	*cap = more;
	return true;
}

static bool refuse(const struct conf_value *v, struct fault *f)
{
	return conf_refuse(v, f, "expected %s, found \"%.64s\"; names are as in SQL: in double "
			   "quotes where they have capital letters, dots or quotes",
			   v->key->expected, v->text ? v->text : "~");
}

/* A column's name: the key or the value. */
static bool column_name(const struct conf_value *v, const char *text, struct span *ret,
			struct fault *f)
{
	return (text && mapping_name(text, v->arena, ret, NULL, NULL)) || refuse(v, f);
}

bool mapping_begin(void *out, const struct conf_value *v, struct fault *f)
{
	struct mappings *m = mappings_of(out);

	if (!grow((void **)&m->tables, m->table_count, &m->table_cap, sizeof(*m->tables), v, f))
		return false;
	m->tables[m->table_count++] = (struct mapping) { .line = v->line };
	return true;
}

bool mapping_set_from(void *out, const struct conf_value *v, struct fault *f)
{
	struct mapping *m = newest(out);
	bool any;

	return mapping_name(v->text, v->arena, &m->from_schema, &m->from_table, &any) ||
	       refuse(v, f);
}

bool mapping_set_to(void *out, const struct conf_value *v, struct fault *f)
{
	struct mapping *m = newest(out);
	bool any;

	return mapping_name(v->text, v->arena, &m->to_schema, &m->to_table, &any) || refuse(v, f);
}

bool mapping_set_column(void *out, const struct conf_value *v, struct fault *f)
{
	struct mapping *m = newest(out);
	struct mapping_column *c;

	if (!grow((void **)&m->columns, m->column_count, &m->column_cap, sizeof(*m->columns), v,
		  f))
		return false;
	c = &m->columns[m->column_count++];
	*c = (struct mapping_column) { .line = v->line, .is_dropped = !v->text && !v->is_map };
	if (!column_name(v, v->name, &c->from, f))
		return false;
	c->to = c->from;
	return !v->text || column_name(v, v->text, &c->to, f);
}

static struct mapping_column *newest_column(void *out)
{
	struct mapping *m = newest(out);

	return &m->columns[m->column_count - 1];
}

bool mapping_set_column_to(void *out, const struct conf_value *v, struct fault *f)
{
	struct mapping_column *c = newest_column(out);

	if (v->is_map)
		return conf_refuse(v, f, "expected %s, found a map", v->key->expected);
	if (v->text)
		return column_name(v, v->text, &c->to, f);
	c->to = span(NULL, 0);
	return true;
}

bool mapping_set_column_type(void *out, const struct conf_value *v, struct fault *f)
{
	(void)f;
	newest_column(out)->type = v->text;
	return true;
}

bool mapping_set_origin_column(void *out, const struct conf_value *v, struct fault *f)
{
	return column_name(v, v->text, &newest(out)->origin_column, f);
}

bool mapping_set_origin_value(void *out, const struct conf_value *v, struct fault *f)
{
	(void)f;
	newest(out)->origin_value = span_str(v->text);
	return true;
}

bool transform_begin(void *out, const struct conf_value *v, struct fault *f)
{
	struct mappings *m = mappings_of(out);

	if (!grow((void **)&m->transforms, m->transform_count, &m->transform_cap,
		  sizeof(*m->transforms), v, f))
		return false;
	m->transforms[m->transform_count++] = (struct transform) { .line = v->line };
	return true;
}

bool transform_set_table(void *out, const struct conf_value *v, struct fault *f)
{
	struct transform *t = newest_transform(out);

	return mapping_name(v->text, v->arena, &t->schema, &t->table, NULL) || refuse(v, f);
}

bool transform_set_column(void *out, const struct conf_value *v, struct fault *f)
{
	return column_name(v, v->text, &newest_transform(out)->column, f);
}

bool transform_set_type(void *out, const struct conf_value *v, struct fault *f)
{
	(void)f;
	newest_transform(out)->type = v->text;
	return true;
}

static bool set_expression(void *out, const struct conf_value *v, struct fault *f)
{
	struct transform *t = newest_transform(out);

	if (t->as)
		return conf_refuse(v, f, "a rule has either as or where, not both; next step: make "
				   "two rules");
	t->as = v->text;
	return true;
}

bool transform_set_as(void *out, const struct conf_value *v, struct fault *f)
{
	return set_expression(out, v, f);
}

bool transform_set_where(void *out, const struct conf_value *v, struct fault *f)
{
	newest_transform(out)->is_filter = true;
	return set_expression(out, v, f);
}

/* ---- what no single key can say ---- */

static bool check_mapping(const struct mappings *m, size_t i, const char *path, struct fault *f)
{
	const struct mapping *x = &m->tables[i];

	if (!x->from_table.p != !x->to_table.p && x->to_schema.p)
		return fault(f, FAULT_USAGE, "%s:%d: schema_mapping: from and to: expected two tables, "
			     "or schema.* for both", path, x->line);
	if (!x->from_table.p && (x->column_count || x->origin_column.p))
		return fault(f, FAULT_USAGE, "%s:%d: schema_mapping: columns and origin are of one "
			     "table; next step: name it in from", path, x->line);
	if (!x->origin_column.p != !x->origin_value.p)
		return fault(f, FAULT_USAGE, "%s:%d: schema_mapping.origin: expected column and value",
			     path, x->line);
	for (size_t j = 0; j < i; j++)
		if (span_eq(m->tables[j].from_schema, x->from_schema) &&
		    !m->tables[j].from_table.p == !x->from_table.p &&
		    span_eq(m->tables[j].from_table, x->from_table))
			return fault(f, FAULT_USAGE, "%s:%d: schema_mapping.from: the same as in line "
				     "%d; next step: make one of the two", path, x->line,
				     m->tables[j].line);
	for (size_t c = 0; c < x->column_count; c++)
		for (size_t d = 0; d < c; d++)
			if (span_eq(x->columns[c].from, x->columns[d].from))
				return fault(f, FAULT_USAGE, "%s:%d: schema_mapping.columns: \"%.*s\" "
					     "is given twice, first in line %d", path,
					     x->columns[c].line, SPAN_ARG(x->columns[c].from),
					     x->columns[d].line);
	return true;
}

static bool check_transform(const struct mappings *m, size_t i, const char *path, struct fault *f)
{
	const struct transform *x = &m->transforms[i];

	if (!x->as)
		return fault(f, FAULT_USAGE, "%s:%d: transformation_rules: expected column and as, or "
			     "where", path, x->line);
	if (x->is_filter && (x->column.p || x->type))
		return fault(f, FAULT_USAGE, "%s:%d: transformation_rules: where is about rows; next "
			     "step: leave out column and type", path, x->line);
	if (!x->is_filter && !x->column.p)
		return fault(f, FAULT_USAGE, "%s:%d: transformation_rules.column: missing; expected "
			     "the name of the target's column that is computed", path, x->line);
	for (size_t j = 0; j < i; j++) {
		const struct transform *y = &m->transforms[j];

		if (span_eq(x->schema, y->schema) && span_eq(x->table, y->table) &&
		    x->is_filter == y->is_filter && span_eq(x->column, y->column))
			return fault(f, FAULT_USAGE, "%s:%d: transformation_rules: there is a rule for "
				     "%s%.*s already, in line %d; next step: make one of the two", path,
				     x->line, x->is_filter ? "the rows" : "column ",
				     SPAN_ARG(x->column), y->line);
	}
	return true;
}

bool mappings_check(const struct mappings *m, const char *path, struct fault *f)
{
	for (size_t i = 0; i < m->table_count; i++)
		if (!check_mapping(m, i, path, f))
			return false;
	for (size_t i = 0; i < m->transform_count; i++)
		if (!check_transform(m, i, path, f))
			return false;
	return true;
}
