// SPDX-License-Identifier: Apache-2.0
#include "shadow/generated.h"

#include <stdlib.h>

#include "core/buf.h"
#include "core/relation.h"

enum { LIST_BYTES = 256 << 20, REFUSALS_SHOWN = 5 };

/* $1: OIDs. A row per generated column. */
static const char source_sql[] =
	"SELECT a.attrelid, a.attname FROM pg_attribute a"
	" WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> ''";

/* $1, $2, $3: schema, table, column; $4: generated ones or plain ones? The leaves of a root say the same. */
static const char target_sql[] =
	"SELECT DISTINCT n.nspname, c.relname, a.attname"
	" FROM unnest($1::name[], $2::name[], $3::name[]) w(schema, name, attname)"
	" JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name"
	" JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = w.attname"
	" WHERE a.attnum > 0 AND (a.attgenerated <> '') = $4::bool ORDER BY 1, 2, 3";

/* %1$s: the table, %2$s: the column, quoted. */
static const char refusal_format[] =
	"%1$s: column %2$s is generated on the source and plain on the target; generated columns are not in the "
	"stream, so it would stay empty; run on the target: ALTER TABLE %1$s DROP COLUMN %2$s, and add it again as "
	"GENERATED if it is wanted there";
static const char note_format[] =
	"%1$s: column %2$s is plain on the source and generated on the target: the source's values are not written, "
	"the target's expression decides";

/* Columns by the names that the target gives their tables: three array parameters. */
struct columns {
	struct buf lists[3];
};

static void columns_init(struct columns *c)
{
	for (int i = 0; i < 3; i++) {
		buf_init(&c->lists[i], LIST_BYTES);
		pg_array_begin(&c->lists[i]);
	}
}

static void columns_release(struct columns *c)
{
	for (int i = 0; i < 3; i++)
		buf_release(&c->lists[i]);
}

static void columns_add(struct columns *c, const struct relation *rel, struct span column)
{
	pg_array_add(&c->lists[0], rel->target_schema);
	pg_array_add(&c->lists[1], rel->target_table);
	pg_array_add(&c->lists[2], column);
}

static PGresult *columns_ask(struct columns *c, PGconn *target, bool is_generated, struct fault *f)
{
	const char *values[4] = { [3] = is_generated ? "t" : "f" };

	for (int i = 0; i < 3; i++) {
		pg_array_end(&c->lists[i]);
		values[i] = buf_cstr(&c->lists[i]);
		if (buf_failed(&c->lists[i])) {
			fault(f, FAULT_INTERNAL, "no memory for the columns in scope");
			return NULL;
		}
	}
	return pg_query_params(target, f, target_sql, 4, values);
}

static const struct relation *find_relation(const struct schema_scope *scope, uint32_t oid)
{
	for (size_t i = 0; i < scope->count; i++)
		if (scope->oids[i] == oid)
			return scope->relations[i];
	return NULL;
}

static PGresult *ask_source(PGconn *source, const struct schema_scope *scope, struct fault *f)
{
	char *oids = schema_scope_oids(scope);
	const char *values[] = { oids };
	PGresult *r = pg_query_params(source, f, source_sql, 1, values);

	free(oids);
	return r;
}

static const char *sentence(struct arena *a, const char *format, const PGresult *r, int row)
{
	struct buf table, column;

	buf_init(&table, 4096);
	buf_init(&column, 4096);
	pg_quote_table(&table, pg_value(r, row, 0), pg_value(r, row, 1));
	pg_quote_ident(&column, pg_value(r, row, 2));
	const char *text = arena_printf(a, format, buf_cstr(&table), buf_cstr(&column));
	buf_release(&table);
	buf_release(&column);
	return text;
}

static const char **sentences(struct arena *a, const char *format, const PGresult *r, size_t *ret_count)
{
	size_t count = (size_t)PQntuples(r);
	const char **texts = arena_alloc(a, count * sizeof(*texts) + 1);

	for (size_t i = 0; texts && i < count; i++)
		texts[i] = sentence(a, format, r, (int)i);
	*ret_count = texts ? count : 0;
	return texts;
}

static bool read_refusals(PGconn *source, PGconn *target, const struct schema_scope *scope, struct arena *a,
			  struct generated *ret, struct fault *f)
{
	struct columns columns;
	PGresult *r = ask_source(source, scope, f);

	if (!r)
		return false;
	columns_init(&columns);
	for (int row = 0; row < PQntuples(r); row++) {
		const struct relation *rel = find_relation(scope, (uint32_t)pg_i64(r, row, 0));
		if (rel && !relation_fills(rel, pg_value(r, row, 1)))
			columns_add(&columns, rel, pg_value(r, row, 1));
	}
	PQclear(r);
	r = columns_ask(&columns, target, false, f);
	if (r)
		ret->refusals = sentences(a, refusal_format, r, &ret->refusal_count);
	PQclear(r);
	columns_release(&columns);
	return r != NULL;
}

static bool read_notes(PGconn *target, const struct schema_scope *scope, struct arena *a, struct generated *ret,
		       struct fault *f)
{
	struct columns columns;

	columns_init(&columns);
	for (size_t i = 0; i < scope->count; i++)
		for (size_t j = 0; j < scope->relations[i]->column_count; j++)
			if (scope->relations[i]->columns[j].target.p)
				columns_add(&columns, scope->relations[i], scope->relations[i]->columns[j].target);
	PGresult *r = columns_ask(&columns, target, true, f);
	if (r)
		ret->notes = sentences(a, note_format, r, &ret->note_count);
	PQclear(r);
	columns_release(&columns);
	return r != NULL;
}

bool generated_compare(PGconn *source, PGconn *target, const struct schema_scope *scope, struct arena *a,
		       struct generated *ret, struct fault *f)
{
	*ret = (struct generated) { 0 };
	return read_refusals(source, target, scope, a, ret, f) && read_notes(target, scope, a, ret, f) &&
	       (!arena_failed(a) || fault(f, FAULT_INTERNAL, "no memory for the columns in scope"));
}

bool generated_accept(const struct generated *g, struct fault *f)
{
	struct buf b;

	if (g->refusal_count == 0)
		return true;
	buf_init(&b, sizeof(f->text) - 200);
	for (size_t i = 0; i < g->refusal_count && i < REFUSALS_SHOWN && !buf_failed(&b); i++)
		buf_printf(&b, "%s%s", i ? " · " : "", g->refusals[i]);
	fault(f, FAULT_STOP, "%zu generated columns do not fit: %s%s", g->refusal_count, buf_cstr(&b),
	      g->refusal_count > REFUSALS_SHOWN || buf_failed(&b) ? " · … (foreshadow check lists all)" : "");
	buf_release(&b);
	return false;
}
