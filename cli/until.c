// SPDX-License-Identifier: Apache-2.0
#include "cli/until.h"

#include <stdio.h>

#include "ingest/source.h"

bool until_parse(struct until *u, const char *text, struct fault *f)
{
	if (strcmp(text, "caught-up") == 0) {
		u->is_caught_up = true;
		return true;
	}
	if (lsn_parse(span_str(text), &u->goal)) {
		u->has_goal = true;
		return true;
	}
	return fault(f, FAULT_USAGE, "--until %s: wanted an LSN such as 16/B374D848, or caught-up", text);
}

/* What the target lacks at the moment is "false", and so is a target that does not answer. */
static bool ask(const struct migration *m, enum role role, const char *sql, const char *second)
{
	struct fault ignored = { 0 };
	const char *values[] = { m->name, second };
	PGconn *conn = pg_connect(migration_target(m, role), PG_PLAIN, m->slot, &ignored);
	PGresult *r = conn ? pg_query_params(conn, &ignored, sql, 2, values) : NULL;
	bool is_true = r && PQntuples(r) == 1 && PQgetvalue(r, 0, 0)[0] == 't';

	PQclear(r);
	pg_close(&conn);
	return is_true;
}

static bool tables_are_live(const struct until *u, enum role role)
{
	char count[32];

	snprintf(count, sizeof(count), "%zu", u->table_count);
	return ask(u->m, role,
		   "SELECT count(*) FILTER (WHERE state = 'live') >= $2::bigint AND bool_and(state = 'live')"
		   " FROM foreshadow.copies WHERE migration = $1",
		   count);
}

static bool contains_goal(const struct until *u, enum role role)
{
	char sql[400], goal[LSN_TEXT];

	snprintf(sql, sizeof(sql),
		 "SELECT count(*) = %d AND min(barrier_lsn) >= $2::pg_lsn FROM foreshadow.progress"
		 " WHERE migration = $1 AND topic = $1 || '.changes'",
		 u->m->partition_count);
	return ask(u->m, role, sql, lsn_format(u->goal, goal));
}

/* With no target to look at (ingest alone): what the slot has confirmed. */
static bool slot_contains_goal(const struct until *u)
{
	struct fault ignored = { 0 };
	char goal[LSN_TEXT];
	const char *values[] = { u->m->slot, lsn_format(u->goal, goal) };
	PGconn *conn = pg_connect(&u->m->source, PG_PLAIN, u->m->slot, &ignored);
	PGresult *r = conn ? pg_query_params(conn, &ignored,
					     "SELECT confirmed_flush_lsn >= $2::pg_lsn FROM pg_replication_slots"
					     " WHERE slot_name = $1",
					     2, values)
			   : NULL;
	bool is_true = r && PQntuples(r) == 1 && PQgetvalue(r, 0, 0)[0] == 't';

	PQclear(r);
	pg_close(&conn);
	return is_true;
}

/* A record of our own behind everything that is committed: its end is a goal that an idle source reaches too. */
static bool set_goal(struct until *u, struct fault *f)
{
	PGconn *conn = pg_connect(&u->m->source, PG_PLAIN, u->m->slot, f);

	u->has_goal = conn && source_emit(conn, "until", &u->goal, f);
	pg_close(&conn);
	return u->has_goal;
}

bool until_look(struct until *u, bool *ret_reached, struct fault *f)
{
	bool has_target = u->looks_at[ROLE_SHADOW] || u->looks_at[ROLE_PRIMARY];

	*ret_reached = false;
	for (int role = 0; role < 2; role++)
		if (u->looks_at[role] && !tables_are_live(u, (enum role)role))
			return true;
	if (!u->has_goal && !set_goal(u, f))
		return f->kind == FAULT_ENVIRONMENT; /* the source will answer again */
	for (int role = 0; role < 2; role++)
		if (u->looks_at[role] && !contains_goal(u, (enum role)role))
			return true;
	*ret_reached = has_target || slot_contains_goal(u);
	return true;
}
