// SPDX-License-Identifier: Apache-2.0
#include "shadow/wanted.h"

#include <stdio.h>
#include <stdlib.h>

#include "shadow/sequences.h"

enum { PG_NAMESPACE = 2615 };

/* Of an index, as enum toc_stage. */
#define STAGE_OF(oid)                                                                                                 \
	"CASE WHEN " oid " IN (SELECT oid FROM first) THEN 0 WHEN " oid " IN (SELECT oid FROM late) THEN 2 ELSE 1 END"

/*
 * $3: the stage of what fires, triggers and rules.
 * One row an object: class, oid, stage (enum toc_stage), label, ident. A foreign key out of scope is left out; one
 * that refers to a late unique index comes behind it. ident names the object on the target.
 */
static const char objects_sql[] =
	SCHEMA_SCOPE
	", r AS (SELECT c.oid, n.nspname, c.relname, a.rolname FROM pg_class c"
	"  JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles a ON a.oid = c.relowner"
	"  JOIN scope s ON s.oid = c.oid)"
	"SELECT 1259, r.oid, 0, r.nspname || ' ' || r.relname || ' ' || r.rolname, NULL FROM r "
	"UNION ALL SELECT 1259, x.oid, " STAGE_OF("x.oid") ","
	"  r.nspname || ' ' || x.relname || ' ' || r.rolname, 'index ' || r.nspname || ' ' || x.relname"
	"  FROM pg_index i JOIN r ON r.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid "
	"UNION ALL SELECT 2606, k.oid, " STAGE_OF("k.conindid") ", NULL,"
	"  'constraint ' || r.nspname || ' ' || r.relname || ' ' || k.conname"
	"  FROM pg_constraint k JOIN r ON r.oid = k.conrelid WHERE k.contype IN ('p', 'u', 'x') "
	"UNION ALL SELECT 2606, k.oid, CASE WHEN k.conindid IN (SELECT oid FROM late) THEN 2 ELSE 1 END, NULL,"
	"  'constraint ' || r.nspname || ' ' || r.relname || ' ' || k.conname"
	"  FROM pg_constraint k JOIN r ON r.oid = k.conrelid"
	"  WHERE k.contype = 'c' OR (k.contype = 'f' AND k.confrelid IN (SELECT oid FROM scope)) "
	"UNION ALL SELECT 2604, d.oid, 0, NULL, NULL FROM pg_attrdef d JOIN r ON r.oid = d.adrelid "
	"UNION ALL SELECT 2620, t.oid, $3::int, NULL,"
	"  'trigger ' || r.nspname || ' ' || r.relname || ' ' || t.tgname"
	"  FROM pg_trigger t JOIN r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal "
	"UNION ALL SELECT 2618, w.oid, $3::int, NULL,"
	"  'rule ' || r.nspname || ' ' || r.relname || ' ' || w.rulename"
	"  FROM pg_rewrite w JOIN r ON r.oid = w.ev_class "
	"UNION ALL SELECT 3256, p.oid, 1, NULL,"
	"  'policy ' || r.nspname || ' ' || r.relname || ' ' || p.polname"
	"  FROM pg_policy p JOIN r ON r.oid = p.polrelid "
	"UNION ALL SELECT 3381, e.oid, 1, NULL, 'statistics ' || n.nspname || ' ' || e.stxname"
	"  FROM pg_statistic_ext e JOIN r ON r.oid = e.stxrelid JOIN pg_namespace n ON n.oid = e.stxnamespace "
	"UNION ALL SELECT 2615, oid, 0, NULL, 'schema ' || nspname FROM pg_namespace "
	"UNION ALL SELECT 1259, q.oid, 0, n.nspname || ' ' || q.relname || ' ' || a.rolname, NULL"
	"  FROM pg_class q JOIN pg_namespace n ON n.oid = q.relnamespace JOIN pg_roles a ON a.oid = q.relowner"
	"  WHERE " SEQUENCES_IN_SCOPE;

/* The same idents on the target. */
static const char idents_sql[] =
	"SELECT 'index ' || n.nspname || ' ' || c.relname FROM pg_class c"
	" JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('i', 'I') "
	"UNION ALL SELECT 'schema ' || nspname FROM pg_namespace "
	"UNION ALL SELECT 'constraint ' || n.nspname || ' ' || c.relname || ' ' || k.conname FROM pg_constraint k"
	" JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
	"UNION ALL SELECT 'trigger ' || n.nspname || ' ' || c.relname || ' ' || t.tgname FROM pg_trigger t"
	" JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT t.tgisinternal "
	"UNION ALL SELECT 'rule ' || n.nspname || ' ' || c.relname || ' ' || w.rulename FROM pg_rewrite w"
	" JOIN pg_class c ON c.oid = w.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace "
	"UNION ALL SELECT 'policy ' || n.nspname || ' ' || c.relname || ' ' || p.polname FROM pg_policy p"
	" JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
	"UNION ALL SELECT 'statistics ' || n.nspname || ' ' || e.stxname FROM pg_statistic_ext e"
	" JOIN pg_namespace n ON n.oid = e.stxnamespace";

struct wanted {
	PGresult *rows;                /* owns the texts */
	struct toc_object *objects;
	const char **idents;           /* by row; NULL where the object has none */
	size_t count;
};

static void wanted_release(struct wanted *w)
{
	PQclear(w->rows);
	free(w->objects);
	free(w->idents);
}

static int compare_strings(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The listing prints line ends inside names as blanks. */
static struct span label_of(char *text)
{
	for (char *p = text; *p; p++)
		if (*p == '\n' || *p == '\r')
			*p = ' ';
	return span_str(text);
}

/* Marks what the target has and is not made again: in the early stage a schema, later anything. */
static bool mark_present(struct wanted *w, PGconn *target, enum toc_stage stage, struct fault *f)
{
	PGresult *r = pg_query(target, f, idents_sql);
	if (!r)
		return false;
	size_t n = (size_t)PQntuples(r);
	const char **there = calloc(n + 1, sizeof(*there));
	for (size_t i = 0; there && i < n; i++)
		there[i] = PQgetvalue(r, (int)i, 0);
	if (there) {
		qsort(there, n, sizeof(*there), compare_strings);
		for (size_t i = 0; i < w->count; i++)
			w->objects[i].is_there = w->idents[i] &&
						 (stage == TOC_LATE || w->objects[i].class_oid == PG_NAMESPACE) &&
						 bsearch(&w->idents[i], there, n, sizeof(*there), compare_strings);
	}
	PQclear(r);
	free(there);
	return there || fault(f, FAULT_INTERNAL, "schema: out of memory");
}

static bool wanted_read(struct wanted *w, PGconn *from, PGconn *to, const struct schema_oids *oids,
			bool triggers_late, enum toc_stage stage, struct fault *f)
{
	w->rows = pg_query_params(from, f, objects_sql, 3,
				  (const char *const[]) { oids->scope, oids->late, triggers_late ? "2" : "1" });
	if (!w->rows)
		return false;
	w->count = (size_t)PQntuples(w->rows);
	w->objects = calloc(w->count + 1, sizeof(*w->objects));
	w->idents = calloc(w->count + 1, sizeof(*w->idents));
	if (!w->objects || !w->idents)
		return fault(f, FAULT_INTERNAL, "schema: out of memory");
	for (size_t i = 0; i < w->count; i++) {
		int row = (int)i;
		w->objects[i] = (struct toc_object) {
			.class_oid = (uint32_t)pg_i64(w->rows, row, 0),
			.oid = (uint32_t)pg_i64(w->rows, row, 1),
			.stage = (enum toc_stage)pg_i64(w->rows, row, 2),
		};
		if (!PQgetisnull(w->rows, row, 3))
			w->objects[i].label = label_of(PQgetvalue(w->rows, row, 3));
		if (!PQgetisnull(w->rows, row, 4))
			w->idents[i] = PQgetvalue(w->rows, row, 4);
	}
	if (!mark_present(w, to, stage, f))
		return false;
	toc_sort(w->objects, w->count);
	return true;
}

bool wanted_carry(PGconn *from, const struct schema_oids *oids, bool triggers_late, struct dump *dump, PGconn *to,
		  enum toc_stage stage, int jobs, size_t *ret_entries, struct fault *f)
{
	struct wanted wanted = { 0 };
	bool ok = wanted_read(&wanted, from, to, oids, triggers_late, stage, f) &&
		  dump_restore(dump, to, wanted.objects, wanted.count, stage, jobs, ret_entries, f);

	wanted_release(&wanted);
	return ok;
}
