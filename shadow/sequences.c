// SPDX-License-Identifier: Apache-2.0
#include "shadow/sequences.h"

#include <stdlib.h>

#include "core/buf.h"
#include "core/log.h"
#include "core/relation.h"

enum {
	SEQUENCES_BYTES = 256 << 20,
	BATCH = 100,                    /* a statement locks each sequence it names */
	SEQUENCES_LOCK = 0x666f7265,    /* first key of our advisory locks; the second is 2 */
};

/* ---- what to set, pure ---- */

__extension__ typedef __int128 wide; /* differences of bigints */

static wide next_of(const struct sequences_state *s)
{
	return (wide)s->value + (s->is_called ? s->increment : 0);
}

static bool is_up(const struct sequences_state *s)
{
	return s->increment > 0;
}

/* How many values are left between the source's and the nearer bound of the two. */
static wide values_left(const struct sequences_state *source, const struct sequences_state *target)
{
	wide bound = is_up(source) ? (source->max < target->max ? source->max : target->max)
				   : (source->min > target->min ? source->min : target->min);

	return (bound - source->value) / source->increment;
}

static bool holds(const struct sequences_state *s, int64_t value)
{
	return value >= s->min && value <= s->max;
}

enum sequences_verdict sequences_decide(const struct sequences_state *source,
					const struct sequences_state *target, int64_t margin,
					int64_t *ret_value)
{
	wide steps = source->is_cycle ? 0 : values_left(source, target) / 2;

	if (is_up(source) != is_up(target))
		return SEQUENCES_UNFIT;
	steps = steps < 0 ? 0 : steps > margin ? margin : steps;
	struct sequences_state wanted = *source;
	wanted.value = (int64_t)(source->value + steps * source->increment);
	wide ahead = next_of(&wanted) - next_of(target);
	if (source->is_cycle ? ahead == 0 : is_up(source) ? ahead <= 0 : ahead >= 0)
		return SEQUENCES_KEEP;
	if (!holds(target, wanted.value))
		return SEQUENCES_UNFIT;
	*ret_value = wanted.value;
	return SEQUENCES_SET;
}

/* ---- the source's list ---- */

static const char list_sql[] =
	"WITH RECURSIVE scope(oid) AS ("
	"  SELECT unnest($1::oid[]) UNION"
	"  SELECT i.inhparent FROM pg_inherits i JOIN scope s ON i.inhrelid = s.oid)"
	"SELECT n.nspname, q.relname, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle,"
	"  has_schema_privilege(n.oid, 'USAGE') AND has_sequence_privilege(q.oid, 'SELECT'),"
	"  o.nspname, o.relname, o.attname"
	" FROM pg_class q JOIN pg_namespace n ON n.oid = q.relnamespace JOIN pg_sequence s ON s.seqrelid = q.oid"
	" LEFT JOIN LATERAL (SELECT m.nspname, t.relname, a.attname FROM pg_depend o"
	"   JOIN pg_class t ON t.oid = o.refobjid JOIN pg_namespace m ON m.oid = t.relnamespace"
	"   JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = o.refobjsubid"
	"   WHERE o.classid = 1259 AND o.objid = q.oid AND o.refclassid = 1259 AND o.deptype IN ('a', 'i')"
	"   LIMIT 1) o ON true"
	" WHERE n.nspname <> 'foreshadow' AND " SEQUENCES_IN_SCOPE " ORDER BY 1, 2";

static struct span dup(struct arena *a, const PGresult *r, int row, int column)
{
	struct span s = pg_value(r, row, column);

	return s.p ? arena_dup(a, s) : s;
}

static bool is_true(const PGresult *r, int row, int column)
{
	return span_eq_str(pg_value(r, row, column), "t");
}

static const char *quoted(struct arena *a, struct span schema, struct span name)
{
	struct buf b;

	buf_init(&b, 4096);
	pg_quote_table(&b, schema, name);
	const char *s = arena_str(a, buf_span(&b));
	buf_release(&b);
	return s;
}

/* increment, min, max, cache, cycle: five columns from `first` on. */
static void take_definition(const PGresult *r, int row, int first, struct sequences_state *ret)
{
	*ret = (struct sequences_state) {
		.increment = pg_i64(r, row, first),
		.min = pg_i64(r, row, first + 1),
		.max = pg_i64(r, row, first + 2),
		.cache = pg_i64(r, row, first + 3),
		.is_cycle = is_true(r, row, first + 4),
	};
}

/* The owner as the target calls it. */
static void place_owner(struct sequences_item *item, const struct schema_scope *scope, struct arena *a)
{
	for (size_t i = 0; item->owner_table.p && i < scope->count; i++) {
		const struct relation *rel = scope->relations[i];
		if (!(span_eq(rel->root_schema, item->owner_schema) &&
		      span_eq(rel->root_table, item->owner_table)) &&
		    !(span_eq(rel->schema, item->owner_schema) && span_eq(rel->table, item->owner_table)))
			continue;
		item->owner_schema = arena_dup(a, rel->target_schema);
		item->owner_table = arena_dup(a, rel->target_table);
		for (size_t k = 0; k < rel->column_count; k++)
			if (rel->columns[k].target.p && span_eq(rel->columns[k].name, item->owner_column)) {
				item->owner_column = arena_dup(a, rel->columns[k].target);
				return;
			}
		return;
	}
}

bool sequences_list(PGconn *source, const struct mappings *mappings, const struct schema_scope *scope, struct arena *a,
		    struct sequences_item **ret_items, size_t *ret_count, struct fault *f)
{
	char *oids = schema_scope_oids(scope);
	const char *values[] = { oids };
	PGresult *r = pg_query_params(source, f, list_sql, 1, values);

	free(oids);
	if (!r)
		return false;
	size_t count = (size_t)PQntuples(r);
	struct sequences_item *items = arena_alloc(a, count * sizeof(*items) + 1);
	for (size_t i = 0; items && i < count; i++) {
		int row = (int)i;
		items[i] = (struct sequences_item) {
			.schema = dup(a, r, row, 0),
			.name = dup(a, r, row, 1),
			.is_readable = is_true(r, row, 7),
			.owner_schema = dup(a, r, row, 8),
			.owner_table = dup(a, r, row, 9),
			.owner_column = dup(a, r, row, 10),
		};
		take_definition(r, row, 2, &items[i].state);
		items[i].label = quoted(a, items[i].schema, items[i].name);
		place_owner(&items[i], scope, a);
		/* One that no column owns moves with its schema (reshape.h). */
		if (!items[i].owner_table.p)
			items[i].schema = mappings_table(mappings, items[i].schema, span("", 0)).schema;
	}
	PQclear(r);
	if (arena_failed(a))
		return fault(f, FAULT_INTERNAL, "no memory for the sequences");
	*ret_items = items;
	*ret_count = count;
	return true;
}

/* ---- the target's side ---- */

/* $1..$5: names of sequences and of the columns they belong to. A row for each that is there. */
static const char find_sql[] =
	"SELECT w.i - 1, q.oid, n.nspname, q.relname,"
	"  s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle,"
	"  has_schema_privilege(n.oid, 'USAGE') AND has_sequence_privilege(q.oid, 'SELECT')"
	"   AND has_sequence_privilege(q.oid, 'UPDATE')"
	" FROM unnest($1::name[], $2::name[], $3::name[], $4::name[], $5::name[])"
	"  WITH ORDINALITY w(schema, name, owner_schema, owner_table, owner_column, i)"
	" JOIN pg_class q ON q.oid = coalesce("
	"  (SELECT o.oid FROM pg_namespace m JOIN pg_class t ON t.relnamespace = m.oid"
	"    JOIN pg_attribute a ON a.attrelid = t.oid"
	"    JOIN pg_depend d ON d.classid = 1259 AND d.refclassid = 1259 AND d.refobjid = t.oid"
	"     AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i')"
	"    JOIN pg_class o ON o.oid = d.objid AND o.relkind = 'S'"
	"    WHERE m.nspname = w.owner_schema AND t.relname = w.owner_table AND a.attname = w.owner_column"
	"    ORDER BY o.relname = w.name DESC, o.oid LIMIT 1),"
	"  (SELECT o.oid FROM pg_namespace m JOIN pg_class o ON o.relnamespace = m.oid AND o.relkind = 'S'"
	"    WHERE m.nspname = w.schema AND o.relname = w.name))"
	" JOIN pg_namespace n ON n.oid = q.relnamespace JOIN pg_sequence s ON s.seqrelid = q.oid";

/* A sequence of the batch and its counterpart. */
struct pair {
	const struct sequences_item *item;
	struct sequences_state source, target;
	uint32_t target_oid;      /* 0: the target has none */
	const char *target_label; /* quoted */
	bool is_writable, is_set;
	int64_t value;
};

struct tally {
	size_t set, kept, left;
};

struct session {
	PGconn *source, *target;
	const char *name;         /* of the target, for messages */
	bool with_margin;
	struct arena *batch;      /* reset for each */
};

static bool find_on_target(struct session *s, struct pair *pairs, size_t count, struct fault *f)
{
	struct buf names[5];
	const char *values[5];

	for (int column = 0; column < 5; column++) {
		buf_init(&names[column], 1 << 20);
		pg_array_begin(&names[column]);
		for (size_t i = 0; i < count; i++) {
			const struct sequences_item *item = pairs[i].item;
			const struct span columns[] = { item->schema, item->name, item->owner_schema,
							item->owner_table, item->owner_column };
			pg_array_add(&names[column], columns[column]);
		}
		pg_array_end(&names[column]);
		values[column] = buf_cstr(&names[column]);
	}
	PGresult *r = pg_query_params(s->target, f, find_sql, 5, values);
	for (int row = 0; r && row < PQntuples(r); row++) {
		struct pair *p = &pairs[pg_i64(r, row, 0)];
		p->target_oid = (uint32_t)pg_i64(r, row, 1);
		p->target_label = quoted(s->batch, pg_value(r, row, 2), pg_value(r, row, 3));
		take_definition(r, row, 4, &p->target);
		p->is_writable = is_true(r, row, 9);
	}
	PQclear(r);
	for (int column = 0; column < 5; column++)
		buf_release(&names[column]);
	return r != NULL;
}

/* The values of one side of the pairs, in one statement. */
static bool read_values(PGconn *conn, struct pair *pairs, size_t count, bool of_target, struct fault *f)
{
	struct buf sql;

	buf_init(&sql, 1 << 20);
	for (size_t i = 0; i < count; i++)
		buf_printf(&sql, "%sSELECT %zu, last_value, is_called FROM %s", i ? " UNION ALL " : "", i,
			   of_target ? pairs[i].target_label : pairs[i].item->label);
	PGresult *r = count ? pg_query(conn, f, buf_cstr(&sql)) : NULL;
	for (int row = 0; r && row < PQntuples(r); row++) {
		struct pair *p = &pairs[pg_i64(r, row, 0)];
		struct sequences_state *state = of_target ? &p->target : &p->source;
		state->value = pg_i64(r, row, 1);
		state->is_called = is_true(r, row, 2);
	}
	PQclear(r);
	buf_release(&sql);
	return r || count == 0;
}

/* setval() belongs to no transaction: what is set stays set, whatever comes after it. */
static bool set_values(PGconn *target, const struct pair *pairs, size_t count, struct fault *f)
{
	struct buf lists[3];
	const char *values[3];
	size_t n = 0;

	for (int i = 0; i < 3; i++)
		buf_init(&lists[i], 1 << 16);
	for (size_t i = 0; i < count; i++) {
		const char *separator = n ? "," : "{";
		if (!pairs[i].is_set)
			continue;
		n++;
		buf_printf(&lists[0], "%s%u", separator, pairs[i].target_oid);
		buf_printf(&lists[1], "%s%lld", separator, (long long)pairs[i].value);
		buf_printf(&lists[2], "%s%c", separator, pairs[i].source.is_called ? 't' : 'f');
	}
	for (int i = 0; i < 3; i++) {
		buf_str(&lists[i], "}");
		values[i] = buf_cstr(&lists[i]);
	}
	PGresult *r = n ? pg_query_params(target, f,
					  "SELECT setval(u.oid::regclass, u.value, u.is_called)"
					  " FROM unnest($1::oid[], $2::bigint[], $3::bool[]) u(oid, value, is_called)",
					  3, values)
			: NULL;
	PQclear(r);
	for (int i = 0; i < 3; i++)
		buf_release(&lists[i]);
	return r || n == 0;
}

/* Can nothing be set? Says why. */
static bool is_left(const struct session *s, const struct pair *p)
{
	const char *label = p->item->label;

	if (!p->target_oid)
		log_warn("sequence %s: the %s has none of that name; create it there and run again, or set its "
			 "counterpart by hand", label, s->name);
	else if (!p->is_writable)
		log_warn("sequence %s: the %s's user may not set %s; run there: GRANT SELECT, UPDATE ON SEQUENCE %s "
			 "to that user", label, s->name, p->target_label, p->target_label);
	else
		return false;
	return true;
}

static void decide(const struct session *s, struct pair *p, struct tally *tally)
{
	int64_t cache = p->source.cache;
	int64_t margin = !s->with_margin ? 0 : cache > SEQUENCES_MARGIN ? cache : SEQUENCES_MARGIN;

	switch (sequences_decide(&p->source, &p->target, margin, &p->value)) {
	case SEQUENCES_SET:
		p->is_set = true;
		tally->set++;
		return;
	case SEQUENCES_KEEP:
		tally->kept++;
		return;
	case SEQUENCES_UNFIT:
		tally->left++;
		log_warn("sequence %s: the source is at %lld, increment %lld; %s on the %s has increment %lld and "
			 "bounds %lld to %lld; run there: ALTER SEQUENCE %s with the source's INCREMENT, MINVALUE "
			 "and MAXVALUE", p->item->label, (long long)p->source.value, (long long)p->source.increment,
			 p->target_label, s->name, (long long)p->target.increment, (long long)p->target.min,
			 (long long)p->target.max, p->target_label);
		return;
	}
}

/* Those that can be set come first; returns how many. */
static size_t keep_settable(const struct session *s, struct pair *pairs, size_t count, struct tally *tally)
{
	size_t kept = 0;

	for (size_t i = 0; i < count; i++) {
		if (is_left(s, &pairs[i]))
			tally->left++;
		else
			pairs[kept++] = pairs[i];
	}
	return kept;
}

/* Sequences of merged tables are one on the target: the first of each comes first; returns how many. */
static size_t first_of_each(struct pair *pairs, size_t count)
{
	size_t n = 0;

	for (size_t i = 0; i < count; i++) {
		bool is_first = true;
		for (size_t k = 0; k < n; k++)
			is_first = is_first && pairs[k].target_oid != pairs[i].target_oid;
		if (!is_first)
			continue;
		struct pair p = pairs[i];
		pairs[i] = pairs[n];
		pairs[n++] = p;
	}
	return n;
}

/* Each is judged by the value that the target has then: one of several sources' never sets it back. */
static bool set_pairs(struct session *s, struct pair *pairs, size_t count, struct tally *tally, struct fault *f)
{
	for (size_t n; count > 0; pairs += n, count -= n) {
		n = first_of_each(pairs, count);
		if (!read_values(s->target, pairs, n, true, f) || !read_values(s->source, pairs, n, false, f))
			return false;
		for (size_t i = 0; i < n; i++)
			decide(s, &pairs[i], tally);
		if (!set_values(s->target, pairs, n, f))
			return false;
	}
	return true;
}

static bool set_batch(struct session *s, struct pair *pairs, size_t count, struct tally *tally,
		      struct fault *f)
{
	if (!find_on_target(s, pairs, count, f))
		return false;
	if (arena_failed(s->batch))
		return fault(f, FAULT_INTERNAL, "no memory for sequences");
	return set_pairs(s, pairs, keep_settable(s, pairs, count, tally), tally, f);
}

static bool set_all(struct session *s, const struct sequences_item *items, size_t count,
		    struct tally *tally, struct fault *f)
{
	for (size_t i = 0; i < count;) {
		struct pair pairs[BATCH] = { 0 };
		size_t n = 0;
		for (; i < count && n < BATCH; i++) {
			if (items[i].is_readable) {
				pairs[n++] = (struct pair) { .item = &items[i], .source = items[i].state };
				continue;
			}
			tally->left++;
			log_warn("sequence %s: the source's user may not read it; run there: GRANT SELECT ON SEQUENCE "
				 "%s to that user", items[i].label, items[i].label);
		}
		arena_reset(s->batch);
		if (!set_batch(s, pairs, n, tally, f))
			return false;
	}
	return true;
}

/* The lock: a process that looked before another one set would set back. */
static bool open_session(struct session *s, const struct migration *m, enum role role, struct fault *f)
{
	s->target = pg_connect(migration_target(m, role), PG_PLAIN, m->slot, f);
	s->source = s->target ? pg_connect(&m->source, PG_PLAIN, m->slot, f) : NULL;
	return s->source && pg_do(s->source, f, "SET lock_timeout = '30s'") &&
	       pg_do(s->target, f, "SET lock_timeout = '30s'") &&
	       pg_dof(s->target, f, "SELECT pg_advisory_lock(%d, 2)", SEQUENCES_LOCK);
}

bool sequences_set(const struct migration *m, enum role role, const struct schema_scope *scope,
		   bool with_margin, struct fault *f)
{
	struct arena all, batch;
	struct session s = { .name = migration_target(m, role)->name, .with_margin = with_margin, .batch = &batch };
	struct sequences_item *items = NULL;
	struct tally tally = { 0 };
	size_t count = 0;

	arena_init(&all, SEQUENCES_BYTES);
	arena_init(&batch, SEQUENCES_BYTES);
	bool ok = open_session(&s, m, role, f) && sequences_list(s.source, &m->mappings, scope, &all, &items, &count, f) &&
		  set_all(&s, items, count, &tally, f);
	if (ok)
		log_info("sequences of the %s: %zu set%s, %zu as far already, %zu left alone", s.name, tally.set,
			 with_margin ? " with a margin" : "", tally.kept, tally.left);
	else
		fault_in(f, "setting the sequences of the %s", s.name);
	arena_release(&batch);
	arena_release(&all);
	pg_close(&s.source);
	pg_close(&s.target);
	return ok;
}
