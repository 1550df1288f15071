// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>

#include "cli/check.h"
#include "core/relation.h"
#include "ingest/objects.h"
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
