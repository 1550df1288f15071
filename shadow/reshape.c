// SPDX-License-Identifier: Apache-2.0
#include "shadow/reshape.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/buf.h"
#include "core/pg.h"

enum { SQL_BYTES = 1 << 20, NAME_BYTES = 63 /* of an identifier */ };

/* Where a table goes. */
struct place {
	const struct reshape_table *t;
	const struct mapping *mapping; /* whose columns and origin it has; or NULL */
	struct span schema, name;
	bool is_shaped;                /* its columns are looked at: no sequence, no partition, not gone */
	bool is_gone;                  /* merged into another table, which gives the shape; with its partitions */
};

struct writer {
	const struct migration *m;
	struct arena *a;
	struct reshape_plan *plan;
	struct place *places;
	size_t count;
	struct buf sql;
	struct reshape_step nowhere; /* takes what memory lacks for */
	bool failed;
};

bool reshape_is_wanted(const struct mappings *m)
{
	bool is_wanted = m->table_count > 0;

	for (size_t i = 0; i < m->transform_count; i++)
		is_wanted |= m->transforms[i].type != NULL;
	return is_wanted;
}

/* ---- where tables go ---- */

static bool is_merged(const struct place *p)
{
	return p->mapping && p->mapping->origin_column.p;
}

/* Of merged tables the first one in the file's order stays. */
static bool is_behind(const struct writer *w, const struct place *p)
{
	for (size_t i = 0; i < w->count; i++) {
		const struct place *other = &w->places[i];

		if (is_merged(other) && other->mapping < p->mapping && span_eq(other->schema, p->schema) &&
		    span_eq(other->name, p->name))
			return true;
	}
	return false;
}

static bool is_gone(const struct writer *w, uint32_t oid)
{
	for (size_t i = 0; i < w->count; i++)
		if (w->places[i].is_gone && w->places[i].t->oid == oid)
			return true;
	return false;
}

static void find_places(struct writer *w, const struct reshape_facts *x)
{
	for (size_t i = 0; i < x->table_count; i++) {
		const struct reshape_table *t = &x->tables[i];
		struct mapped to = mappings_table(&w->m->mappings, t->schema, t->name);
		bool is_shaped = t->kind != 'S' && t->root_oid == t->oid;

		w->places[i] = (struct place) { t, is_shaped ? to.mapping : NULL, to.schema, to.table, is_shaped, false };
	}
	w->count = x->table_count;
	for (size_t i = 0; i < w->count; i++)
		w->places[i].is_gone = is_merged(&w->places[i]) && is_behind(w, &w->places[i]);
	for (size_t i = 0; i < w->count; i++) {
		struct place *p = &w->places[i];

		if (p->t->root_oid != p->t->oid)
			p->is_gone = is_gone(w, p->t->root_oid);
		p->is_shaped = p->is_shaped && !p->is_gone;
	}
}

/* ---- what becomes of a column ---- */

struct fate {
	struct span to; /* absent: it is not on the target */
	const struct transform *rule; /* that fills it; or NULL */
	const char *type;
	int line;
};

static const struct transform *rule_of(const struct migration *m, const struct place *p, struct span column)
{
	for (size_t i = 0; i < m->mappings.transform_count; i++) {
		const struct transform *t = &m->mappings.transforms[i];

		if (!t->is_filter && span_eq(t->schema, p->schema) && span_eq(t->table, p->name) &&
		    span_eq(t->column, column))
			return t;
	}
	return NULL;
}

static struct fate fate_of(const struct writer *w, const struct place *p, const struct reshape_column *c)
{
	const struct mapping_column *mc = mapping_column(p->mapping, c->name);
	struct fate fate = { .to = c->name };

	if (mc) {
		fate.to = mc->is_dropped ? span(NULL, 0) : mc->to;
		fate.type = mc->type;
		fate.line = mc->line;
	}
	if (fate.to.p)
		fate.rule = rule_of(w->m, p, fate.to);
	if (fate.rule && fate.rule->type) {
		fate.type = fate.rule->type;
		fate.line = fate.rule->line;
	}
	return fate;
}

/* The column that has this name on the target, or NULL. */
static const struct reshape_column *column_to(const struct writer *w, const struct place *p, struct span name)
{
	for (size_t i = 0; i < p->t->column_count; i++) {
		struct fate fate = fate_of(w, p, &p->t->columns[i]);

		if (fate.to.p && span_eq(fate.to, name))
			return &p->t->columns[i];
	}
	return NULL;
}

/* ---- writing steps ---- */

static bool writer_init(struct writer *w, const struct migration *m, const struct reshape_facts *x, struct arena *a,
			struct reshape_plan *ret)
{
	*w = (struct writer) { .m = m, .a = a, .plan = ret };
	*ret = (struct reshape_plan) { 0 };
	buf_init(&w->sql, SQL_BYTES);
	w->places = arena_alloc(a, (x->table_count + 1) * sizeof(*w->places));
	if (w->places)
		find_places(w, x);
	return w->places != NULL;
}

static bool writer_end(struct writer *w, struct fault *f)
{
	buf_release(&w->sql);
	return (!w->failed && !arena_failed(w->a)) || fault(f, FAULT_INTERNAL, "no memory for the mapping's DDL");
}

static const char *take_sql(struct writer *w)
{
	w->failed |= buf_failed(&w->sql);
	const char *sql = arena_str(w->a, buf_span(&w->sql));
	buf_reset(&w->sql);
	return sql ? sql : "";
}

/* What was written becomes a step. Valid until the next one. */
static struct reshape_step *step(struct writer *w)
{
	struct reshape_plan *p = w->plan;

	if (p->count == p->cap) {
		size_t cap = p->cap ? p->cap * 2 : 64;
		struct reshape_step *steps = arena_alloc(w->a, cap * sizeof(*steps));

		if (!steps)
			return &w->nowhere;
		if (p->count)
			memcpy(steps, p->steps, p->count * sizeof(*steps));
		p->steps = steps;
		p->cap = cap;
	}
	p->steps[p->count] = (struct reshape_step) { .sql = take_sql(w) };
	return &p->steps[p->count++];
}

/* Words with names in between: %s, what the server quoted; %I an identifier; %T schema and table, two spans. */
static void write_words(struct writer *w, const char *words, const struct span *names)
{
	for (const char *p = words; *p; p++) {
		if (p[0] != '%') {
			buf_u8(&w->sql, (uint8_t)*p);
			continue;
		}
		switch (*++p) {
		case 'I':
			pg_quote_ident(&w->sql, *names++);
			break;
		case 'T':
			pg_quote_table(&w->sql, names[0], names[1]);
			names += 2;
			break;
		default:
			buf_add_span(&w->sql, *names++);
		}
	}
}

/* A step of words and spans. */
#define STEP(w, words, ...) (write_words((w), (words), (const struct span[]) { __VA_ARGS__ }), step(w))
#define NAME_OF(t) (t)->schema, (t)->name

/* ---- plan 1: types ---- */

static void retype(struct writer *w, const struct place *p, const struct reshape_column *c, const struct fate *fate)
{
	const struct reshape_table *t = p->t;
	const char words[] = "ALTER TABLE %T ALTER COLUMN %I TYPE %s USING CAST(NULL AS %s)";
	const struct span names[] = { NAME_OF(t), c->name, span_str(fate->type), span_str(fate->type) };
	struct reshape_step *s;

	/* A statement of its own: ALTER TYPE would look at the identity's sequence first. */
	write_words(w, c->is_identity ? "ALTER TABLE %T ALTER COLUMN %I DROP IDENTITY; " :
		       "ALTER TABLE %T ALTER COLUMN %I DROP DEFAULT; ", names);
	write_words(w, words, names);
	const char *otherwise = take_sql(w);
	write_words(w, words, names);
	s = step(w);
	s->type = fate->type;
	s->line = fate->line;
	s->otherwise = otherwise;
	if (c->sequence.p)
		STEP(w, "ALTER SEQUENCE %s AS bigint", c->sequence);
}

bool reshape_plan_types(const struct migration *m, const struct reshape_facts *x, struct arena *a,
			struct reshape_plan *ret, struct fault *f)
{
	struct writer w;

	writer_init(&w, m, x, a, ret);
	for (size_t i = 0; i < w.count; i++) {
		const struct place *p = &w.places[i];

		for (size_t k = 0; p->is_shaped && k < p->t->column_count; k++) {
			const struct reshape_column *c = &p->t->columns[k];
			struct fate fate = fate_of(&w, p, c);

			if (c->is_inherited || !fate.to.p)
				continue;
			if (fate.rule && c->is_generated)
				STEP(&w, "ALTER TABLE %T ALTER COLUMN %I DROP EXPRESSION", NAME_OF(p->t), c->name);
			if (fate.type)
				retype(&w, p, c, &fate);
		}
	}
	return writer_end(&w, f);
}

/* ---- plan 2: losses ---- */

bool reshape_plan_losses(const struct migration *m, const struct reshape_facts *x, struct arena *a,
			 struct reshape_plan *ret, struct fault *f)
{
	struct writer w;

	writer_init(&w, m, x, a, ret);
	for (size_t i = 0; i < w.count; i++) {
		const struct place *p = &w.places[i];

		for (size_t k = 0; p->is_shaped && k < p->t->column_count; k++) {
			const struct reshape_column *c = &p->t->columns[k];

			if (!c->is_inherited && !fate_of(&w, p, c).to.p)
				STEP(&w, "ALTER TABLE %T DROP COLUMN %I CASCADE", NAME_OF(p->t), c->name);
		}
	}
	return writer_end(&w, f);
}

/* ---- plan 3: merged tables ---- */

static void list_name(struct buf *b, struct span name)
{
	buf_str(b, b->n ? ", " : "");
	buf_add_span(b, name);
}

/* What would not mean the same in a table with rows of several sources. */
static bool refuse_merge(const struct writer *w, const struct place *p, struct fault *f)
{
	const struct reshape_table *t = p->t;
	struct buf uniques, references;
	bool ok = true;

	buf_init(&uniques, 1000);
	buf_init(&references, 1000);
	for (size_t i = 0; !p->is_gone && i < t->index_count; i++)
		if (!t->indexes[i].is_key)
			list_name(&uniques, t->indexes[i].name);
	for (size_t i = 0; i < t->reference_count; i++)
		if (!is_gone(w, t->references[i].from_oid))
			list_name(&references, t->references[i].name);
	if (uniques.n)
		ok = fault(f, FAULT_STOP, "%s:%d: schema_mapping: %.*s.%.*s is merged with other tables, and what must be "
			   "unique in it (%.*s) need not be over all of them; next step: make table %.*s.%.*s by hand, "
			   "without that, and use schema: exists", w->m->path, p->mapping->line, SPAN_ARG(t->schema),
			   SPAN_ARG(t->name), SPAN_ARG(buf_span(&uniques)), SPAN_ARG(p->schema), SPAN_ARG(p->name));
	else if (references.n)
		ok = fault(f, FAULT_STOP, "%s:%d: schema_mapping: %.*s.%.*s is merged with other tables, and a foreign key "
			   "refers to it (%.*s) that does not know from which source; next step: make the tables by "
			   "hand, without that, and use schema: exists", w->m->path, p->mapping->line,
			   SPAN_ARG(t->schema), SPAN_ARG(t->name), SPAN_ARG(buf_span(&references)));
	buf_release(&uniques);
	buf_release(&references);
	return ok;
}

static const struct reshape_index *key_of(const struct reshape_table *t)
{
	for (size_t i = 0; i < t->index_count; i++)
		if (t->indexes[i].is_key)
			return &t->indexes[i];
	return NULL;
}

static struct span made_name(struct writer *w, const char *what, size_t number)
{
	const char *s = arena_printf(w->a, "foreshadow %s %zu", what, number);

	return span_str(s ? s : "");
}

/* The origin's column, as it is called until columns get their names. */
static struct span origin_now(struct writer *w, const struct place *p)
{
	const struct reshape_column *c = column_to(w, p, p->mapping->origin_column);

	return c ? c->name : made_name(w, "column", p->t->column_count);
}

/* The origin's column, and in front of the key. */
static void add_origin(struct writer *w, const struct place *p)
{
	const struct reshape_table *t = p->t;
	const struct reshape_index *key = key_of(t);
	struct span origin = origin_now(w, p);

	if (column_to(w, p, p->mapping->origin_column))
		STEP(w, "ALTER TABLE %T ALTER COLUMN %I SET NOT NULL", NAME_OF(t), origin);
	else
		STEP(w, "ALTER TABLE %T ADD COLUMN %I text NOT NULL", NAME_OF(t), origin);
	if (!key)
		return;
	if (key->is_constraint) {
		STEP(w, "ALTER TABLE %T DROP CONSTRAINT %I", NAME_OF(t), key->name);
		STEP(w, "ALTER TABLE %T ADD CONSTRAINT %I %s%I, %s", NAME_OF(t), key->name, key->head, origin, key->rest);
	} else {
		STEP(w, "DROP INDEX %T", t->schema, key->name);
		STEP(w, "%s%I, %s", key->head, origin, key->rest);
	}
	if (key->is_replica_identity)
		STEP(w, "ALTER TABLE %T REPLICA IDENTITY USING INDEX %I", NAME_OF(t), key->name);
}

static bool merge(struct writer *w, struct fault *f)
{
	for (size_t i = 0; i < w->count; i++)
		if (is_merged(&w->places[i]) && !refuse_merge(w, &w->places[i], f))
			return false;
	for (size_t i = 0; i < w->count; i++) {
		const struct place *p = &w->places[i];

		if (!is_merged(p))
			continue;
		if (p->is_gone)
			STEP(w, "DROP TABLE %T", NAME_OF(p->t));
		else
			add_origin(w, p);
	}
	return true;
}

/* ---- plan 3: columns ---- */

static bool is_renamed(const struct writer *w, const struct place *p, const struct reshape_column *c, struct span *ret_to)
{
	*ret_to = fate_of(w, p, c).to;
	return !c->is_inherited && ret_to->p && !span_eq(*ret_to, c->name);
}

/* By way of names that nobody has: columns may swap theirs. */
static void rename_columns(struct writer *w, const struct place *p)
{
	const struct reshape_table *t = p->t;
	struct span to;

	for (size_t i = 0; i < t->column_count; i++)
		if (is_renamed(w, p, &t->columns[i], &to))
			STEP(w, "ALTER TABLE %T RENAME COLUMN %I TO %I", NAME_OF(t), t->columns[i].name,
			     made_name(w, "column", i));
	for (size_t i = 0; i < t->column_count; i++)
		if (is_renamed(w, p, &t->columns[i], &to))
			STEP(w, "ALTER TABLE %T RENAME COLUMN %I TO %I", NAME_OF(t), made_name(w, "column", i), to);
	if (is_merged(p) && !column_to(w, p, p->mapping->origin_column))
		STEP(w, "ALTER TABLE %T RENAME COLUMN %I TO %I", NAME_OF(t), origin_now(w, p), p->mapping->origin_column);
}

/* Columns that only rules know. One without a type was refused when the file was checked against the source. */
static void add_computed(struct writer *w, const struct place *p)
{
	for (size_t i = 0; i < w->m->mappings.transform_count; i++) {
		const struct transform *t = &w->m->mappings.transforms[i];
		struct reshape_step *s;

		if (t->is_filter || !t->type || !span_eq(t->schema, p->schema) || !span_eq(t->table, p->name) ||
		    column_to(w, p, t->column))
			continue;
		s = STEP(w, "ALTER TABLE %T ADD COLUMN %I %s", NAME_OF(p->t), t->column, span_str(t->type));
		s->type = t->type;
		s->line = t->line;
	}
}

/* ---- plan 3: names ---- */

/* A name in a schema as it will be. Companions that came from elsewhere make way. */
struct final {
	struct span schema, name;
	size_t place;
	bool is_table, may_change;
	struct span changed; /* absent: name stays */
};

static int compare_finals(const void *a, const void *b)
{
	const struct final *x = a, *y = b;
	int order = span_cmp(x->schema, y->schema);

	order = order ? order : span_cmp(x->name, y->name);
	order = order ? order : y->is_table - x->is_table;
	order = order ? order : x->may_change - y->may_change;
	return order ? order : x->place < y->place ? -1 : x->place > y->place;
}

static bool moves(const struct place *p)
{
	return !p->is_gone && (!span_eq(p->schema, p->t->schema) || !span_eq(p->name, p->t->name));
}

static size_t list_finals(const struct writer *w, struct final *finals)
{
	size_t n = 0;

	for (size_t i = 0; i < w->count; i++) {
		const struct place *p = &w->places[i];

		if (p->is_gone)
			continue;
		finals[n++] = (struct final) { p->schema, p->name, i, true, false, { NULL, 0 } };
		for (size_t k = 0; k < p->t->companion_count; k++)
			finals[n++] = (struct final) { p->schema, p->t->companions[k], i, false,
						       !span_eq(p->schema, p->t->schema), { NULL, 0 } };
	}
	qsort(finals, n, sizeof(*finals), compare_finals);
	return n;
}

static bool same_name(const struct final *x, struct span schema, struct span name)
{
	return span_eq(x->schema, schema) && span_eq(x->changed.p ? x->changed : x->name, name);
}

/* name_1, name_2, ...: the first that nobody in the schema has. */
static struct span free_name(struct writer *w, const struct final *finals, size_t n, const struct final *of)
{
	for (size_t number = 1;; number++) {
		char tail[24];
		size_t tail_n = (size_t)snprintf(tail, sizeof(tail), "_%zu", number), keep = of->name.n, i = 0;

		if (keep + tail_n > NAME_BYTES)
			keep = NAME_BYTES - tail_n;
		while (keep < of->name.n && keep > 0 && ((uint8_t)of->name.p[keep] & 0xc0) == 0x80)
			keep--; /* not in the middle of a character */
		const char *text = arena_printf(w->a, "%.*s%s", (int)keep, of->name.p, tail);
		if (!text)
			return span_str("");
		while (i < n && !same_name(&finals[i], of->schema, span_str(text)))
			i++;
		if (i == n)
			return span_str(text);
	}
}

/* Indexes and sequences whose name is taken where they go. Their table waits in its own schema. */
static void rename_companions(struct writer *w, struct final *finals, size_t n)
{
	for (size_t i = 1; i < n; i++) {
		struct final *x = &finals[i];

		if (!x->may_change || !span_eq(x->schema, finals[i - 1].schema) || !span_eq(x->name, finals[i - 1].name))
			continue;
		x->changed = free_name(w, finals, n, x);
		STEP(w, "ALTER TABLE %T RENAME TO %I", made_name(w, "table", x->place), x->name, x->changed);
	}
}

/* One after the other leaves, and takes its name where nobody else is. */
static void leave(struct writer *w, size_t i, bool is_new_schema)
{
	const struct place *p = &w->places[i];
	struct span stage = made_name(w, "table", i);
	const char *set_schema = p->t->kind == 'S' ? "ALTER SEQUENCE %T SET SCHEMA %I" : "ALTER TABLE %T SET SCHEMA %I";

	if (is_new_schema)
		STEP(w, "CREATE SCHEMA IF NOT EXISTS %I", p->schema);
	STEP(w, "CREATE SCHEMA %I", stage);
	STEP(w, set_schema, NAME_OF(p->t), stage);
	if (!span_eq(p->name, p->t->name))
		STEP(w, "ALTER TABLE %T RENAME TO %I", stage, p->t->name, p->name);
}

static void arrive(struct writer *w, size_t i)
{
	const struct place *p = &w->places[i];
	struct span stage = made_name(w, "table", i);

	STEP(w, p->t->kind == 'S' ? "ALTER SEQUENCE %T SET SCHEMA %I" : "ALTER TABLE %T SET SCHEMA %I", stage, p->name,
	     p->schema);
	STEP(w, "DROP SCHEMA %I", stage);
}

static void move_tables(struct writer *w)
{
	size_t n = 0;
	struct final *finals;
	struct span schema = { NULL, 0 };

	for (size_t i = 0; i < w->count; i++)
		n += 1 + w->places[i].t->companion_count;
	finals = arena_alloc(w->a, (n + 1) * sizeof(*finals));
	if (!finals)
		return;
	n = list_finals(w, finals);
	for (size_t i = 0; i < w->count; i++) {
		if (!moves(&w->places[i]))
			continue;
		leave(w, i, !span_eq(schema, w->places[i].schema));
		schema = w->places[i].schema;
	}
	rename_companions(w, finals, n);
	for (size_t i = 0; i < w->count; i++)
		if (moves(&w->places[i]))
			arrive(w, i);
}

bool reshape_plan_names(const struct migration *m, const struct reshape_facts *x, struct arena *a,
			struct reshape_plan *ret, struct fault *f)
{
	struct writer w;
	bool ok;

	writer_init(&w, m, x, a, ret);
	ok = merge(&w, f);
	for (size_t i = 0; ok && i < w.count; i++) {
		if (!w.places[i].is_shaped)
			continue;
		rename_columns(&w, &w.places[i]);
		add_computed(&w, &w.places[i]);
	}
	if (ok)
		move_tables(&w);
	return writer_end(&w, ok ? f : NULL) && ok;
}
