// SPDX-License-Identifier: Apache-2.0
#include "ingest/objects.h"

#include "core/buf.h"

static const char views_sql[] =
	"SELECT c.relkind, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
	" WHERE c.relkind IN ('v', 'm') AND c.relpersistence <> 't'"
	" AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'foreshadow')"
	" AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 1259 AND d.objid = c.oid AND d.deptype = 'e')"
	" ORDER BY 1, 2, 3";

/* By relkind. %s: the quoted name. */
static const struct kind {
	char relkind;
	const char *object, *format;
} kinds[] = {
	{ 'm', "materialized view",
	  "%s is left out: its rows come from other tables; create it on the target when the copy is complete (pg_dump "
	  "--schema-only --table), and run there before the application moves: REFRESH MATERIALIZED VIEW %1$s" },
	{ 'v', "view",
	  "%s is left out: it has no rows of its own; create it on the target before the application moves (pg_dump "
	  "--schema-only --table)" },
};

static const struct kind *find_kind(char relkind)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (kinds[i].relkind == relkind)
			return &kinds[i];
	return &kinds[0];
}

static struct objects_note view_note(struct arena *a, const PGresult *r, int row)
{
	const struct kind *kind = find_kind(*PQgetvalue(r, row, 0));
	struct buf name;

	buf_init(&name, 4096);
	pg_quote_table(&name, pg_value(r, row, 1), pg_value(r, row, 2));
	struct objects_note note = { kind->object, arena_printf(a, kind->format, buf_cstr(&name)) };
	buf_release(&name);
	return note;
}

static struct objects_note large_objects_note(struct arena *a, const PGresult *r)
{
	return (struct objects_note) {
		"large objects",
		arena_printf(a, "%s in the database are left out: changes of large objects are not in the stream; bring "
			     "them when the application's writes have stopped, with pg_dump --blobs and pg_restore "
			     "(docs/operations.md has the commands), or move them to bytea columns before",
			     PQgetvalue(r, 0, 0)),
	};
}

bool objects_read(PGconn *conn, const struct migration *m, struct arena *a, struct objects_note **ret,
		  size_t *ret_count, struct fault *f)
{
	PGresult *views = pg_query(conn, f, views_sql);
	PGresult *large = views ? pg_query(conn, f, "SELECT count(*) FROM pg_largeobject_metadata") : NULL;
	struct objects_note *notes = large ? arena_alloc(a, ((size_t)PQntuples(views) + 1) * sizeof(*notes)) : NULL;
	size_t n = 0;

	for (int row = 0; notes && row < PQntuples(views); row++)
		if (migration_has_table(m, pg_value(views, row, 1), pg_value(views, row, 2)))
			notes[n++] = view_note(a, views, row);
	if (notes && pg_i64(large, 0, 0) > 0)
		notes[n++] = large_objects_note(a, large);
	bool ok = large && (!arena_failed(a) || fault(f, FAULT_INTERNAL, "no memory for the source's objects"));
	PQclear(views);
	PQclear(large);
	*ret = notes;
	*ret_count = n;
	return ok;
}
