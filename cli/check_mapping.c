// SPDX-License-Identifier: Apache-2.0
/*
 * check_mapping - what `check` says of tables as the mapping makes them, of their routing and why, and of the
 * rules as each target understands them.
 */
#include <stdio.h>

#include "cli/check.h"
#include "core/buf.h"
#include "ingest/families.h"
#include "shadow/expressions.h"
#include "shadow/schema.h"

static void write_mapping(const struct relation *rel, struct buf *out)
{
	for (size_t i = 0; i < rel->column_count; i++) {
		const struct column *col = &rel->columns[i];

		if (col->is_dropped)
			buf_printf(out, ", %.*s dropped", SPAN_ARG(col->name));
		else if (!col->target.p)
			buf_printf(out, ", %.*s not written", SPAN_ARG(col->name));
		else if (!span_eq(col->target, col->name))
			buf_printf(out, ", %.*s -> %.*s", SPAN_ARG(col->name), SPAN_ARG(col->target));
	}
	for (size_t i = 0; i < rel->computed_count; i++)
		buf_printf(out, ", %.*s computed", SPAN_ARG(rel->computed[i].column));
	if (rel->filter.sql.p)
		buf_str(out, ", rows filtered");
	if (rel->origin_column.p)
		buf_printf(out, ", merged, %.*s = '%.*s'", SPAN_ARG(rel->origin_column),
			   SPAN_ARG(rel->origin_value));
}

void check_constraints(struct report *r, struct source_seen *s, const struct migration *m)
{
	struct catalog *catalog = &s->catalog;
	struct constraints constraints;
	struct fault f = { 0 };
	struct buf b;

	if (!constraints_read(m, s->conn, catalog->relations, catalog->relation_count, &s->arena, &constraints, &f)) {
		/* a target that cannot be reached is a line of its own */
		check_say(r, VERDICT_WARN, "tables", f.text);
		return;
	}
	for (size_t i = 0; i < catalog->relation_count; i++)
		constraints_route(&constraints, catalog->relations[i], &s->arena);
	families_route(&constraints, catalog->relations, catalog->relation_count, &s->arena);
	for (size_t i = 0; i < catalog->relation_count; i++) {
		const char *refusal = families_refuse(&constraints, catalog->relations[i], &s->arena);
		struct fault why = { .kind = FAULT_STOP };

		snprintf(why.text, sizeof(why.text), "%s", refusal ? refusal : "");
		if (refusal)
			check_say_fault(r, "table", &why);
	}
	buf_init(&b, 1 << 16);
	for (size_t i = 0; i < constraints.key_count; i++) {
		const struct constraints_key *k = &constraints.keys[i];

		if (constraints.lacks_replica[k->role])
			continue; /* check_enforced's */
		buf_reset(&b);
		buf_printf(&b,
			   "%.*s.%.*s on the %s target has foreign key \"%.*s\": not enforced while changes are applied, "
			   "so it needs no routing; one that the source does not have is validated at the end of run "
			   "--until",
			   SPAN_ARG(k->schema), SPAN_ARG(k->table), k->role == ROLE_SHADOW ? "shadow" : "primary",
			   SPAN_ARG(k->name));
		check_say(r, VERDICT_OK, "foreign key", buf_cstr(&b));
	}
	buf_release(&b);
}

void check_table(struct report *r, const struct relation *rel, const char *late)
{
	struct buf b;

	buf_init(&b, 1 << 20);
	buf_printf(&b, "%.*s.%.*s -> %.*s.%.*s", SPAN_ARG(rel->schema), SPAN_ARG(rel->table),
		   SPAN_ARG(rel->target_schema), SPAN_ARG(rel->target_table));
	write_mapping(rel, &b);
	buf_printf(&b, ", routing %s%s%.*s", routing_name(rel->routing),
		   rel->routing_reason.n ? ": " : "", SPAN_ARG(rel->routing_reason));
	if (late)
		buf_printf(&b, ", built at the end: %s", late);
	check_say(r, rel->keyless ? VERDICT_WARN : VERDICT_OK, "table", buf_cstr(&b));
	buf_release(&b);
}

struct said {
	struct report *r;
	const struct relation *rel;
	const char *server;
};

/* As the server prints it back: what it understood, not what was written. */
static void say_rule(void *arg, struct span column, struct span understood)
{
	struct said *s = arg;
	struct buf b;

	buf_init(&b, 1 << 20);
	buf_printf(&b, "%.*s.%.*s%s%.*s on the %s: %.*s", SPAN_ARG(s->rel->target_schema),
		   SPAN_ARG(s->rel->target_table), column.p ? "." : ", rows", SPAN_ARG(column), s->server,
		   SPAN_ARG(understood));
	check_say(s->r, VERDICT_OK, "rule", buf_cstr(&b));
	buf_release(&b);
}

void check_rules(struct report *r, struct source_seen *s, PGconn *conn, const struct migration *m,
		 const char *server)
{
	/* Mistakes that the source already found would only be said again. */
	for (size_t i = 0; s->catalog.mistake_count == 0 && i < s->catalog.relation_count; i++) {
		struct said said = { r, s->catalog.relations[i], server };
		struct fault f = { 0 };

		if (!expressions_check(conn, m, s->catalog.relations[i], say_rule, &said, &f))
			check_say_fault(r, "rule", &f);
	}
}

void check_columns(struct report *r, struct source_seen *s, PGconn *conn, const struct migration *m,
		   enum role role)
{
	for (size_t i = 0; i < s->catalog.relation_count; i++) {
		struct fault f = { 0 };

		if (!schema_target(conn, m, role, s->catalog.relations[i], &s->arena, &f))
			check_say_fault(r, "columns", &f);
	}
}
