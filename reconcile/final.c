// SPDX-License-Identifier: Apache-2.0
#include "reconcile/final.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/buf.h"
#include "reconcile/final_sql.h"

enum { FINDINGS_BYTES = 256 << 20, SQL_BYTES = 64 << 10, PARAMETERS = 6 };

struct asking {
	struct ends *e;
	enum role role;
	const struct final_sql *check;
	const char *values[PARAMETERS]; /* of the statements: final_sql.h */
	struct final_result *result;
	struct arena *arena;
};

/* ---- the tables, for the statements ---- */

static json_t *text(struct span s)
{
	return json_stringn(s.p ? s.p : "", s.n);
}

static json_t *columns_json(const struct relation *rel)
{
	json_t *columns = json_object();

	for (size_t i = 0; i < rel->column_count; i++)
		if (rel->columns[i].target.p)
			json_object_setn_new(columns, rel->columns[i].name.p, rel->columns[i].name.n,
					     text(rel->columns[i].target));
	return columns;
}

/* The caller frees it. NULL: no memory. */
static char *scope_json(const struct relation *const *relations, size_t n)
{
	json_t *list = json_array();
	char *all;

	for (size_t i = 0; i < n; i++) {
		const struct relation *rel = relations[i];

		json_array_append_new(list, json_pack("{s:I, s:o, s:o, s:o, s:o, s:o}", "oid", (json_int_t)rel->oid,
						      "source_schema", text(rel->root_schema), "source_table",
						      text(rel->root_table), "schema", text(rel->target_schema),
						      "table", text(rel->target_table), "columns",
						      columns_json(rel)));
	}
	all = json_dumps(list, JSON_COMPACT);
	json_decref(list);
	return all;
}

/* ---- asking ---- */

static PGresult *ask(const struct asking *q, PGconn *conn, const char *head, const char *before, const char *sql,
		     const char *after, struct fault *f)
{
	struct buf all;
	PGresult *r;

	buf_init(&all, SQL_BYTES);
	buf_printf(&all, "%s%s%s%s", head, before, sql, after);
	r = pg_query_params(conn, f, buf_cstr(&all), PARAMETERS, q->values);
	buf_release(&all);
	return r;
}

static bool ask_source(struct asking *q, struct fault *f)
{
	PGresult *r;

	q->values[1] = "[]";
	if (!q->check->source)
		return true;
	r = ask(q, q->e->source, final_source_head, "SELECT coalesce(jsonb_agg(to_jsonb(x)), '[]') FROM (", q->check->source,
		") x", f);
	if (!r)
		return fault_in(f, "source");
	q->values[1] = arena_str(q->arena, pg_value(r, 0, 0));
	PQclear(r);
	return q->values[1] || fault(f, FAULT_INTERNAL, "no memory for what the source says");
}

static void add(struct asking *q, struct span object, struct span seen, bool is_note)
{
	struct final_result *result = q->result;

	result->findings[result->finding_count++] =
		(struct final_finding) { arena_dup(q->arena, object), arena_dup(q->arena, seen), is_note };
	result->fail_count += !is_note;
}

static bool probe(struct asking *q, const PGresult *list, int row, struct fault *f)
{
	PGresult *r = pg_query(q->e->targets[q->role], f, PQgetvalue(list, row, 1));
	char seen[200];

	if (!r)
		return fault_in(f, "%s", PQgetvalue(list, row, 0));
	if (pg_i64(r, 0, 0) > 0) {
		snprintf(seen, sizeof(seen), "%" PRId64 " %s", pg_i64(r, 0, 0), PQgetvalue(list, row, 2));
		add(q, pg_value(list, row, 0), span_str(seen), false);
	}
	PQclear(r);
	return true;
}

static bool ask_target(struct asking *q, struct fault *f)
{
	PGresult *r = ask(q, q->e->targets[q->role], final_target_head, "", q->check->target, "", f);
	bool ok = true;

	if (!r)
		return fault_in(f, "%s", ends_role_names[q->role]);
	q->result->findings = arena_alloc(q->arena, (size_t)PQntuples(r) * sizeof(*q->result->findings) + 1);
	for (int i = 0; ok && q->result->findings && i < PQntuples(r); i++) {
		if (q->check->is_probe)
			ok = probe(q, r, i, f);
		else
			add(q, pg_value(r, i, 0), pg_value(r, i, 1), *PQgetvalue(r, i, 2) == 't');
	}
	PQclear(r);
	return ok && (!arena_failed(q->arena) || fault(f, FAULT_INTERNAL, "no memory for what a check found"));
}

static bool has_lost_server(const struct ends *e)
{
	return PQstatus(e->source) != CONNECTION_OK || PQstatus(e->targets[0]) != CONNECTION_OK ||
	       PQstatus(e->targets[1]) != CONNECTION_OK;
}

static bool run_check(struct asking *q, void (*report)(void *arg, const struct final_result *r), void *arg, struct fault *f)
{
	struct final_result result = { .name = q->check->name,
				       .title = q->check->title,
				       .remedy = q->check->remedy,
				       .role = q->role };
	struct fault why = { 0 };

	q->result = &result;
	if (!ask_source(q, &why) || !ask_target(q, &why))
		result.unjudged = why.text;
	report(arg, &result);
	arena_reset(q->arena);
	return !has_lost_server(q->e) || fault(f, why.kind ? why.kind : FAULT_ENVIRONMENT, "%s", why.text);
}

bool final_check(struct ends *e, const struct relation *const *relations, size_t n, uint64_t lsn,
		 void (*report)(void *arg, const struct final_result *r), void *arg, struct fault *f)
{
	char *scope = scope_json(relations, n), partitions[16], at[LSN_TEXT];
	struct arena a;
	bool ok = scope || fault(f, FAULT_INTERNAL, "no memory for the tables of the migration");

	arena_init(&a, FINDINGS_BYTES);
	snprintf(partitions, sizeof(partitions), "%d", e->m->partition_count);
	lsn_format(lsn, at);
	for (size_t i = 0; ok && i < 2 * final_sql_count; i++) {
		struct asking q = { .e = e,
				    .role = i % 2 ? ROLE_PRIMARY : ROLE_SHADOW,
				    .check = &final_sqls[i / 2],
				    .values = { scope, "[]", e->m->name, partitions,
						e->m->schema == SCHEMA_CREATE ? "t" : "f", at },
				    .arena = &a };

		ok = run_check(&q, report, arg, f);
	}
	arena_release(&a);
	free(scope);
	return ok;
}

/* ---- the decision ---- */

enum final_verdict final_decide(const struct final_sum *s)
{
	if (!s->is_quiet)
		return FINAL_UNJUDGED;
	if (s->difference_count || s->failed_checks)
		return FINAL_NOT_READY;
	if (s->unjudged_checks || s->unjudged_tables || s->unjudged_rows || s->is_unproven)
		return FINAL_UNJUDGED;
	return FINAL_READY;
}
