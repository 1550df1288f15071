// SPDX-License-Identifier: Apache-2.0
/*
 * The expression becomes a view over a temporary table with the source's columns. The view's stored parse
 * tree (pg_rewrite.ev_action) names every function that the expression calls and every kind of node in
 * it, casts and operators included, which no text of it does.
 */
#include "shadow/expressions.h"

#include "core/arena.h"
#include "core/buf.h"

enum { SQL_BYTES = 16 << 20, ARENA_BYTES = 16 << 20 };

/* Nodes of a parse tree that make an expression depend on more than its row. */
static const char nodes_sql[] =
	"SELECT CASE"
	"  WHEN tree ~ '\\{SUBLINK ' THEN 'it has a subquery, and a rule may not read tables'"
	"  WHEN tree ~ '\\{(SQLVALUEFUNCTION|CURRENTOFEXPR|NEXTVALUEEXPR|PARAM) ' THEN"
	"   'it asks for the time, the user or a sequence, which differ from one evaluation to the next'"
	"  WHEN tree ~ '\\{(AGGREF|WINDOWFUNC|GROUPINGFUNC) ' OR tree ~ ':hasTargetSRFs true' THEN"
	"   'it makes one value of several rows, or several of one'"
	/* 'now'::date is a constant by the time it is stored; so are arrays and ranges of such. */
	"  WHEN tree ~ '\\{CONST :consttype "
	"(1082|1083|1114|1184|1266|1182|1183|1115|1185|1270|3908|3910|3912|4533|4534|4535) '"
	"   AND $1 ~* '\\m(now|today|tomorrow|yesterday)\\M' THEN"
	"   'it has a date or time that may be taken from the clock (now, today, tomorrow, yesterday)'"
	/* Text that is made and then read as a date or time could say the same. */
	"  WHEN tree ~ '\\{COERCEVIAIO :arg \\{(OPEXPR|FUNCEXPR|CONST|CASE|COALESCE|COERCEVIAIO)'"
	"   AND tree ~ ':resulttype (1082|1083|1114|1184|1266) ' THEN"
	"   'it reads text that it makes itself as a date or time, which could be \"now\" (use to_date, to_timestamp, "
	"make_date)'"
	" END FROM (SELECT ev_action::text AS tree FROM pg_rewrite"
	"  WHERE ev_class = 'pg_temp.foreshadow_rule'::regclass) t";

/*
 * Functions that it calls and that are neither immutable nor known to be stable only through what we
 * pin: conversions (time zone, date style, locale) and text forms of values.
 */
static const char functions_sql[] =
	"SELECT p.oid::regprocedure, CASE p.provolatile WHEN 'v' THEN 'volatile' ELSE 'stable' END"
	" FROM (SELECT DISTINCT m[1]::oid AS oid FROM pg_rewrite,"
	"  regexp_matches(ev_action::text, ':(?:funcid|opfuncid) (\\d+)', 'g') m"
	"  WHERE ev_class = 'pg_temp.foreshadow_rule'::regclass) f"
	" JOIN pg_proc p ON p.oid = f.oid JOIN pg_namespace n ON n.oid = p.pronamespace"
	" WHERE p.provolatile = 'v' OR (p.provolatile = 's' AND NOT (n.nspname = 'pg_catalog' AND ("
	"  EXISTS (SELECT FROM pg_cast c WHERE c.castfunc = p.oid AND p.proname !~ '^reg')"
	"  OR EXISTS (SELECT FROM pg_type t WHERE p.oid IN (t.typinput, t.typoutput))"
	"  OR EXISTS (SELECT FROM pg_operator o WHERE o.oprcode = p.oid)"
	"  OR p.proname IN ('to_char', 'to_date', 'to_timestamp', 'to_number', 'concat', 'concat_ws', 'format',"
	"   'array_to_string', 'to_json', 'to_jsonb', 'json_build_object', 'json_build_array',"
	"   'jsonb_build_object', 'jsonb_build_array', 'row_to_json', 'array_to_json', 'json_object',"
	"   'date_trunc', 'date_part', 'extract', 'timezone', 'make_timestamptz', 'date_bin', 'date_add',"
	"   'timestamptz', 'timestamp', 'date', 'time', 'timetz', 'quote_literal', 'overlaps', 'date_subtract',"
	"   'convert_from', 'convert_to', 'jsonb_path_query_first_tz'))))"
	" LIMIT 1";

struct check {
	PGconn *conn;
	const struct migration *m;
	const struct relation *rel;
	struct arena a;
	struct buf sql;
	bool has_table; /* the target's table is there */
	expressions_say *say;
	void *arg;
};

static bool no_memory(struct fault *f)
{
	return fault(f, FAULT_INTERNAL, "no memory for a transformation rule");
}

/* The transform behind an expression: its line, its declared type. column absent: the filter. */
static const struct transform *transform_of(const struct check *c, struct span column)
{
	for (size_t i = 0; i < c->m->mappings.transform_count; i++) {
		const struct transform *t = &c->m->mappings.transforms[i];

		if (span_eq(t->schema, c->rel->target_schema) && span_eq(t->table, c->rel->target_table) &&
		    t->is_filter == !column.p && span_eq(t->column, column))
			return t;
	}
	return NULL;
}

static bool refuse(const struct check *c, const struct transform *t, const char *why, const char *step,
		   struct fault *f)
{
	return fault(f, FAULT_USAGE, "%s:%d: transformation_rules: %s for %.*s.%.*s%s%.*s: %s; next step: %s",
		     c->m->path, t->line, t->is_filter ? "where" : "as", SPAN_ARG(c->rel->target_schema),
		     SPAN_ARG(c->rel->target_table), t->is_filter ? "" : ".", SPAN_ARG(t->column), why, step);
}

static bool run(struct check *c, struct fault *f)
{
	return buf_failed(&c->sql) ? no_memory(f) : pg_do(c->conn, f, buf_cstr(&c->sql));
}

/* What a rule reads must be what it is on the source: an enum that became text would compare as text. */
static bool check_type_is_there(struct check *c, const struct column *col, bool *ret, struct fault *f)
{
	const char *names[2] = { arena_str(&c->a, col->type_name),
				 col->collation.p ? arena_str(&c->a, col->collation) : NULL };
	PGresult *r = names[0] ? pg_query_params(c->conn, f, "SELECT to_regtype($1) IS NOT NULL AND"
						 " ($2::text IS NULL OR to_regcollation($2) IS NOT NULL)", 2, names)
			       : NULL;

	if (!r)
		return names[0] ? false : no_memory(f);
	*ret = *PQgetvalue(r, 0, 0) == 't';
	PQclear(r);
	return true;
}

static bool is_read(const struct relation *rel, size_t column)
{
	for (size_t i = 0; i < rel->filter.input_count; i++)
		if (rel->filter.inputs[i] == column)
			return true;
	for (size_t k = 0; k < rel->computed_count; k++)
		for (size_t i = 0; i < rel->computed[k].as.input_count; i++)
			if (rel->computed[k].as.inputs[i] == column)
				return true;
	return false;
}

static bool make_row_table(struct check *c, struct fault *f)
{
	bool first = true, is_there = false;

	buf_reset(&c->sql);
	buf_str(&c->sql, "CREATE TEMP TABLE foreshadow_row (");
	for (size_t i = 0; i < c->rel->column_count; i++) {
		const struct column *col = &c->rel->columns[i];

		if (!is_read(c->rel, i))
			continue;
		if (!check_type_is_there(c, col, &is_there, f))
			return false;
		if (!is_there && c->has_table)
			return fault(f, FAULT_USAGE, "%s:%d: transformation_rules: a rule for %.*s.%.*s reads column "
				     "\"%.*s\" of type %.*s%s%.*s, which this database does not have; next step: "
				     "create it there as it is on the source",
				     c->m->path, mappings_line(&c->m->mappings, c->rel->root_schema, c->rel->root_table),
				     SPAN_ARG(c->rel->target_schema), SPAN_ARG(c->rel->target_table), SPAN_ARG(col->name),
				     SPAN_ARG(col->type_name), col->collation.p ? " and collation " : "",
				     SPAN_ARG(col->collation));
		if (!is_there)
			continue; /* schema: create brings it; asked again when the tables are there */
		buf_str(&c->sql, first ? "" : ", ");
		first = false;
		pg_quote_ident(&c->sql, col->name);
		buf_str(&c->sql, " ");
		buf_add_span(&c->sql, col->type_name);
		if (col->collation.p) {
			buf_str(&c->sql, " COLLATE ");
			buf_add_span(&c->sql, col->collation);
		}
	}
	buf_str(&c->sql, ")");
	return run(c, f);
}

static void write_select(struct check *c, struct span sql)
{
	buf_str(&c->sql, " SELECT (");
	buf_add_span(&c->sql, sql);
	buf_str(&c->sql, "\n) AS value FROM pg_temp.foreshadow_row");
}

/* One text of one row, or NULL. parameter: $1, or NULL. */
static bool ask(struct check *c, const char *query, const char *parameter, const char **ret_first,
		const char **ret_second, struct fault *f)
{
	PGresult *r = pg_query_params(c->conn, f, query, parameter != NULL, &parameter);

	if (!r)
		return false;
	*ret_first = PQntuples(r) && !PQgetisnull(r, 0, 0) ? arena_str(&c->a, pg_value(r, 0, 0)) : NULL;
	if (ret_second)
		*ret_second = *ret_first ? arena_str(&c->a, pg_value(r, 0, 1)) : NULL;
	PQclear(r);
	return !arena_failed(&c->a) || no_memory(f);
}

static bool check_parts(struct check *c, const struct transform *t, struct fault *f)
{
	const char *why, *function, *kind;

	if (!ask(c, nodes_sql, t->as, &why, NULL, f))
		return false;
	if (why)
		return refuse(c, t, why, "compute it of the row's own columns alone", f);
	if (!ask(c, functions_sql, NULL, &function, &kind, f))
		return false;
	if (!function)
		return true;
	why = arena_printf(&c->a, "it calls %s, which is %s: evaluated again, it may give another value", function,
			   kind);
	return refuse(c, t, why ? why : "it is volatile", "use immutable functions (conversions that depend on "
		      "DateStyle, TimeZone or lc_monetary are allowed, since these are pinned)", f);
}

/* Can the expression be assigned to the column? Asked by an INSERT that is parsed and not run. */
static bool check_type(struct check *c, const struct transform *t, struct span sql, struct fault *f)
{
	struct fault why = { 0 };
	bool is_declared = t->is_filter || t->type;

	buf_reset(&c->sql);
	if (!(c->has_table && !t->is_filter) && !is_declared)
		return true;
	if (c->has_table && !t->is_filter) {
		buf_str(&c->sql, "INSERT INTO ");
		pg_quote_table(&c->sql, c->rel->target_schema, c->rel->target_table);
		buf_str(&c->sql, " (");
		pg_quote_ident(&c->sql, t->column);
		buf_str(&c->sql, ") OVERRIDING SYSTEM VALUE");
	} else {
		buf_printf(&c->sql, "CREATE TEMP TABLE foreshadow_value (value %s)", t->is_filter ? "boolean" : t->type);
		if (!run(c, &why)) {
			if (why.kind != FAULT_ENVIRONMENT)
				return refuse(c, t, why.text, "correct type", f);
			if (f)
				*f = why;
			return false;
		}
		buf_reset(&c->sql);
		buf_str(&c->sql, "INSERT INTO pg_temp.foreshadow_value");
	}
	write_select(c, sql);
	PGresult *r = PQprepare(c->conn, "", buf_cstr(&c->sql), 0, NULL);
	bool ok = PQresultStatus(r) == PGRES_COMMAND_OK;
	if (!ok)
		pg_fault(c->conn, r, &why);
	PQclear(r);
	if (ok)
		return true;
	if (why.kind == FAULT_ENVIRONMENT) {
		if (f)
			*f = why;
		return false;
	}
	return refuse(c, t, why.text,
		      strcmp(why.sqlstate, "42703") == 0 ? "add the column on the target: ALTER TABLE … ADD COLUMN"
							 : "cast it to the column's type", f);
}

static bool check_one(struct check *c, struct span column, struct span sql, struct fault *f)
{
	const struct transform *t = transform_of(c, column);
	const struct transform stale = { .line = 1, .is_filter = !column.p, .column = column, .as = "" };
	struct fault why = { 0 };
	const char *understood;

	if (!t) /* of a version that the file does not have any more */
		t = &stale;
	if (!pg_do(c->conn, f, "SAVEPOINT rule"))
		return false;
	buf_reset(&c->sql);
	buf_str(&c->sql, "CREATE TEMP VIEW foreshadow_rule AS");
	write_select(c, sql);
	if (!run(c, &why)) {
		if (why.kind != FAULT_ENVIRONMENT)
			return refuse(c, t, why.text, "correct the expression (functions outside pg_catalog need "
				      "their schema)", f);
		if (f)
			*f = why;
		return false;
	}
	if (!check_parts(c, t, f) ||
	    !ask(c, "SELECT pg_get_viewdef('pg_temp.foreshadow_rule'::regclass)", NULL, &understood, NULL, f) ||
	    !check_type(c, t, sql, f))
		return false;
	if (c->say && understood)
		c->say(c->arg, column, span_str(understood));
	return pg_do(c->conn, f, "ROLLBACK TO SAVEPOINT rule");
}

static bool check_all(struct check *c, struct fault *f)
{
	const struct relation *rel = c->rel;
	const char *name;
	PGresult *r;
	bool ok;

	buf_reset(&c->sql);
	pg_quote_table(&c->sql, rel->target_schema, rel->target_table);
	name = buf_cstr(&c->sql);
	r = pg_query_params(c->conn, f, "SELECT to_regclass($1) IS NOT NULL", 1, &name);
	if (!r)
		return false;
	c->has_table = *PQgetvalue(r, 0, 0) == 't';
	PQclear(r);
	ok = make_row_table(c, f);
	for (size_t i = 0; ok && i < rel->computed_count; i++)
		ok = check_one(c, rel->computed[i].column, rel->computed[i].as.sql, f);
	return ok && (!rel->filter.sql.p || check_one(c, span(NULL, 0), rel->filter.sql, f));
}

bool expressions_check(PGconn *conn, const struct migration *m, const struct relation *rel,
		       expressions_say *say, void *arg, struct fault *f)
{
	struct check c = { .conn = conn, .m = m, .rel = rel, .say = say, .arg = arg };
	bool ok;

	if (rel->computed_count == 0 && !rel->filter.sql.p)
		return true;
	arena_init(&c.a, ARENA_BYTES);
	buf_init(&c.sql, SQL_BYTES);
	ok = pg_do(conn, f, "BEGIN") && check_all(&c, f);
	if (PQstatus(conn) == CONNECTION_OK)
		pg_do(conn, NULL, "ROLLBACK");
	buf_release(&c.sql);
	arena_release(&c.a);
	return ok;
}
