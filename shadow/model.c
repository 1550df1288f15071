// SPDX-License-Identifier: Apache-2.0
#include "shadow/model.h"

#include <stdlib.h>

#include "core/buf.h"
#include "core/relation.h"
#include "shadow/reshape.h"
#include "shadow/scratch.h"
#include "shadow/target.h"
#include "shadow/wanted.h"

enum { COLUMNS_BYTES = 64 << 20, NAMES_BYTES = 64 << 20 };

/* Columns by name and type, as applying will want them: the first difference, with the DDL. */
static bool compare_columns(PGconn *scratch, const struct schema_scope *scope, struct fault *f)
{
	struct arena a;
	bool ok = true;

	arena_init(&a, COLUMNS_BYTES);
	for (size_t i = 0; ok && i < scope->count; i++) {
		ok = target_read(scratch, scope->relations[i], &a, f) ||
		     fault_in(f, "schema: create with this mapping");
		arena_reset(&a);
	}
	arena_release(&a);
	return ok;
}

/*
 * Every table of a scratch database but those of extensions; and those whose further unique indexes come late: not where
 * the table (a leaf: its root) is a keyless one, ($1, $2) by name.
 */
static const char tables_sql[] =
	"SELECT coalesce(array_agg(c.oid), '{}')::text,"
	"  coalesce(array_agg(c.oid) FILTER (WHERE (rn.nspname, r.relname) NOT IN"
	"   (SELECT * FROM unnest($1::text[], $2::text[]))), '{}')::text"
	" FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
	" JOIN pg_class r ON r.oid = coalesce(pg_partition_root(c.oid), c.oid) JOIN pg_namespace rn ON rn.oid = r.relnamespace"
	" WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
	" AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 1259 AND d.objid = c.oid AND d.deptype = 'e')";

static bool read_tables(struct model *x, const struct migration *m, const struct schema_scope *scope, struct fault *f)
{
	struct buf names[2];

	for (int i = 0; i < 2; i++) {
		buf_init(&names[i], NAMES_BYTES);
		pg_array_begin(&names[i]);
	}
	for (size_t i = 0; i < scope->count; i++)
		if (scope->relations[i]->keyless) {
			pg_array_add(&names[0], scope->relations[i]->target_schema);
			pg_array_add(&names[1], scope->relations[i]->target_table);
		}
	for (int i = 0; i < 2; i++)
		pg_array_end(&names[i]);
	PGresult *r = pg_query_params(x->conn, f, tables_sql, 2,
				      (const char *const[]) { buf_cstr(&names[0]), buf_cstr(&names[1]) });
	if (r) {
		x->oids.scope = strdup(PQgetvalue(r, 0, 0));
		x->oids.late = strdup(m->unique == UNIQUE_LATE ? PQgetvalue(r, 0, 1) : "{}");
	}
	PQclear(r);
	for (int i = 0; i < 2; i++)
		buf_release(&names[i]);
	return r && ((x->oids.scope && x->oids.late) || fault(f, FAULT_INTERNAL, "schema: out of memory"));
}

/* The source's tables in the scratch database, all stages of them at once, mapped. */
static bool reshape(struct model *x, const struct migration *m, enum role role, PGconn *source,
		    const struct schema_scope *scope, bool says_losses, int stop_fd, struct fault *f)
{
	struct dump dump = { 0 };
	size_t entries;
	char *tables = schema_scope_oids(scope);
	char none[] = "{}";
	const struct schema_oids oids = { tables, none };
	bool ok = dump_take(&dump, source, x->conn, stop_fd, f) &&
		  wanted_carry(source, &oids, false, &dump, x->conn, TOC_EARLY, m->copy_jobs, &entries, f) &&
		  reshape_types(x->conn, m, says_losses, f) &&
		  wanted_carry(source, &oids, false, &dump, x->conn, TOC_LATE, m->copy_jobs, &entries, f) &&
		  reshape_names(x->conn, m, role, says_losses, f) &&
		  (!says_losses || compare_columns(x->conn, scope, f));

	dump_release(&dump);
	free(tables);
	return ok;
}

bool model_open(struct model *ret, const struct migration *m, enum role role, PGconn *target,
		const struct schema_scope *scope, bool says_losses, int stop_fd, struct fault *f)
{
	PGconn *source = pg_connect(&m->source, PG_PLAIN, m->slot, f);
	bool ok;

	*ret = (struct model) { .is_scratch = reshape_is_wanted(&m->mappings) };
	if (!source)
		return false;
	if (!ret->is_scratch) {
		ret->conn = source;
		schema_oids_make(&ret->oids, m, scope);
		return true;
	}
	ret->conn = scratch_open(m, role, target, f);
	ok = ret->conn && reshape(ret, m, role, source, scope, says_losses, stop_fd, f) && read_tables(ret, m, scope, f);
	pg_close(&source);
	return ok;
}

bool model_close(struct model *x, const struct migration *m, enum role role, PGconn *target, struct fault *f)
{
	schema_oids_release(&x->oids);
	if (x->is_scratch)
		return scratch_close(m, role, target, &x->conn, f);
	pg_close(&x->conn);
	return true;
}
