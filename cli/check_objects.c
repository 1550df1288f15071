// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>

#include "cli/check.h"
#include "core/relation.h"
#include "ingest/objects.h"
#include "shadow/enforced.h"
#include "shadow/generated.h"
#include "shadow/sequences.h"

/* The tables that catalog has as a scope; false: none. */
static bool make_scope(struct source_seen *s, struct schema_scope *ret)
{
	size_t count = s->catalog.relation_count;
	uint32_t *oids = count ? arena_alloc(&s->arena, count * sizeof(*oids)) : NULL;

	for (size_t i = 0; oids && i < count; i++)
		oids[i] = s->catalog.relations[i]->oid;
	*ret = (struct schema_scope) { oids, s->catalog.relations, count };
	return oids != NULL;
}

static void check_sequences(struct report *r, struct source_seen *s, const struct migration *m)
{
	struct schema_scope scope;
	struct sequences_item *items = NULL;
	struct fault f = { 0 };
	char text[600];
	size_t count = 0, unreadable = 0;

	if (!make_scope(s, &scope))
		return;
	if (!sequences_list(s->conn, &m->mappings, &scope, &s->arena, &items, &count, &f)) {
		check_say_fault(r, "sequences", &f);
		return;
	}
	for (size_t i = 0; i < count; i++) {
		if (items[i].is_readable)
			continue;
		unreadable++;
		snprintf(text, sizeof(text), "%s will not be set: the user may not read it; run: GRANT SELECT ON "
			 "SEQUENCE %s to that user", items[i].label, items[i].label);
		check_say(r, VERDICT_WARN, "sequence", text);
	}
	snprintf(text, sizeof(text), "%zu in scope: their values are set on the targets, when the copy is whole and at the end of "
		 "run --until", count - unreadable);
	if (count)
		check_say(r, VERDICT_OK, "sequences", text);
}

void check_objects(struct report *r, struct source_seen *s, const struct migration *m)
{
	struct objects_note *notes = NULL;
	struct fault f = { 0 };
	size_t count = 0;

	if (!objects_read(s->conn, m, &s->arena, &notes, &count, &f))
		check_say_fault(r, "objects", &f);
	for (size_t i = 0; i < count; i++)
		check_say(r, VERDICT_WARN, notes[i].object, notes[i].text);
	check_sequences(r, s, m);
}

void check_generated(struct report *r, struct source_seen *s, PGconn *target, const char *name)
{
	struct schema_scope scope;
	struct generated g;
	struct fault f = { 0 };

	if (!s->conn || !make_scope(s, &scope))
		return;
	if (!generated_compare(s->conn, target, &scope, &s->arena, &g, &f)) {
		check_say_fault(r, name, &f);
		return;
	}
	for (size_t i = 0; i < g.note_count; i++)
		check_say(r, VERDICT_WARN, name, g.notes[i]);
	for (size_t i = 0; i < g.refusal_count; i++) {
		struct fault refusal = { .kind = FAULT_STOP };
		snprintf(refusal.text, sizeof(refusal.text), "%s", g.refusals[i]);
		check_say_fault(r, name, &refusal);
	}
}

static void check_refusals(struct report *r, struct source_seen *s, PGconn *conn, const struct migration *m, enum role role)
{
	struct schema_scope scope;
	struct fault f = { 0 };
	const char **texts = NULL;
	size_t count = 0;

	if (!make_scope(s, &scope))
		return;
	if (!enforced_refusals(conn, m, &scope, &s->arena, &texts, &count, &f))
		check_say_fault(r, migration_target(m, role)->name, &f);
	for (size_t i = 0; i < count; i++) {
		struct fault refusal = { .kind = FAULT_STOP };
		snprintf(refusal.text, sizeof(refusal.text), "%s", texts[i]);
		check_say_fault(r, migration_target(m, role)->name, &refusal);
	}
}

void check_enforced(struct report *r, struct source_seen *s, PGconn *conn, const struct migration *m, enum role role)
{
	const struct pg_server *server = migration_target(m, role);
	struct fault f = { 0 };
	PGconn *own = NULL;
	bool may = false;
	char text[600];

	if (!pg_may_be_replica(conn, &may, &f)) {
		check_say_fault(r, server->name, &f);
		return;
	}
	if (may)
		return;
	snprintf(text, sizeof(text), "role %s may not set session_replication_role: tables that foreign keys connect go "
		 "through one partition, unmerged, in the source's order, and triggers come at the end; as a superuser there, "
		 "before the migration begins: %s", PQuser(conn), enforced_grant(conn, &s->arena));
	check_say(r, VERDICT_WARN, server->name, text);
	own = pg_connect(server, PG_PLAIN, m->slot, &f);
	if (own)
		check_refusals(r, s, own, m, role);
	else if (strcmp(f.sqlstate, "3D000") != 0)
		check_say_fault(r, server->name, &f);
	pg_close(&own);
}
