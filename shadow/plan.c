// SPDX-License-Identifier: Apache-2.0
/*
 * plan - see plan.h.
 *
 * Changes are grouped by the table of the *target* (several leaves of a source may fill one), and
 * groups do not see each other: under replica role no constraint reaches from one table to another. Where
 * one does, the tables of a family are one group, ordered.
 *
 * Within a group, a *segment* is a run of changes whose net effect is computed per key in a hash;
 * flushing it emits deletes, then updates, then inserts. Invariants:
 * 1. A key has at most one entry in its group's open segment.
 * 2. An entry's effect is what all its changes do to a row, given that they could happen at all in
 * this order; a change that could not follow its predecessor flushes the segment first.
 * 3. A group has an open segment or an open run (ordered changes), never both.
 */
#include "shadow/plan.h"

#include <assert.h>

#include "core/buf.h"

enum effect { EFFECT_NONE, EFFECT_INSERT, EFFECT_UPDATE, EFFECT_DELETE, EFFECT_REPLACE };

struct entry {
	uint64_t hash;
	struct span key;
	size_t next; /* the group's next entry in order of appearance, or NO_ENTRY */
	uint32_t group, segment;
	enum effect effect;
	size_t bucket;                                /* while flushing */
	const struct target_table *old_table, *table; /* of the delete; of the update or insert */
	struct plan_row old, new;
};

struct group {
	uint32_t target_oid;
	struct span family;   /* absent: of the one table */
	uint32_t segment;     /* number of the open one */
	size_t first, last;   /* its entries */
	struct plan_exec run; /* the open run; row_count 0: none */
	size_t run_cap;
};

/* Rows that become one execution. */
struct bucket {
	const struct target_table *table;
	enum statement_op op;
	uint64_t *sets;
	size_t row_count, filled;
	struct plan_row *rows;
};

#define NO_ENTRY SIZE_MAX

/* The working state of one plan_finish. */
struct work {
	struct plan *plan;
	struct entry *entries;
	size_t entry_count;
	size_t *slots; /* index + 1 into entries; 0: free */
	size_t slot_count;
	struct group *groups;
	size_t group_count, group_cap, last_group;
	struct bucket *buckets;
	size_t bucket_count, bucket_cap;
	struct buf key;
	bool replaces; /* plan_replacing */
	struct fault *f;
};

void plan_init(struct plan *p, struct arena *a)
{
	*p = (struct plan) { .arena = a };
}

void plan_reset(struct plan *p)
{
	struct plan kept = { .arena = p->arena, .before = p->before, .after = p->after };

	*p = kept;
}

void plan_release(struct plan *p)
{
	cascades_release(&p->before);
	cascades_release(&p->after);
}

void plan_carry(struct plan *p)
{
	struct cascades before = p->before;

	p->before = p->after;
	p->after = before;
}

void plan_begin(struct plan *p)
{
	cascades_forget(&p->before);
}

/* An array in the arena that has room for one more; NULL: full. */
static void *grown(struct arena *a, void *array, size_t count, size_t *cap, size_t item_bytes)
{
	if (count < *cap)
		return array;
	size_t more = *cap ? *cap * 2 : 64;
	void *p = arena_alloc(a, more * item_bytes);
	if (!p)
		return NULL;
	if (count)
		memcpy(p, array, count * item_bytes);
	*cap = more;
	return p;
}

static bool no_memory(struct fault *f)
{
	return fault(f, FAULT_INTERNAL, "the batch's plan does not fit into its memory");
}

static bool has_unchanged(const struct target_table *t, const struct value *row)
{
	for (size_t i = 0; i < t->column_count; i++)
		if (row[i].state == VALUE_IS_UNCHANGED)
			return true;
	return false;
}

static bool lacks_key(const struct target_table *t, const struct value *row)
{
	for (size_t i = 0; i < t->column_count; i++)
		if (t->rel->columns[i].is_key && row[i].state == VALUE_IS_UNCHANGED)
			return true;
	return false;
}

static bool refuse(const struct plan_change *ch, const char *why, struct fault *f)
{
	return fault(f, FAULT_INPUT, "%.*s: a change with op %c and key %.*s %s",
		     SPAN_ARG(ch->table->label), ch->op, SPAN_ARG(ch->key), why);
}

static bool check(const struct plan_change *ch, struct fault *f)
{
	const struct target_table *t = ch->table;

	switch (ch->op) {
	case 'c':
	case 'r':
		if (!ch->after)
			return refuse(ch, "has no new row", f);
		if (has_unchanged(t, ch->after))
			return refuse(ch, "has an unchanged column, which an insert cannot have",
				      f);
		return true;
	case 'u':
		if (!ch->after)
			return refuse(ch, "has no new row", f);
		if (!ch->before && t->is_keyless)
			return refuse(ch, "has no old row, and the table has no key", f);
		if (!ch->before && lacks_key(t, ch->after))
			return refuse(ch, "does not say the row's key", f);
		break;
	case 'd':
		if (!ch->before)
			return refuse(ch, "has no old row", f);
		break;
	default:
		return refuse(ch, "is no change of a row", f);
	}
	if (ch->before && (t->is_keyless ? has_unchanged(t, ch->before) : lacks_key(t, ch->before)))
		return refuse(ch, "does not say which row it was", f);
	return true;
}

bool plan_add(struct plan *p, const struct plan_change *ch, struct fault *f)
{
	if (!check(ch, f))
		return false;
	p->changes = grown(p->arena, p->changes, p->change_count, &p->change_cap,
			   sizeof(*p->changes));
	if (!p->changes)
		return no_memory(f);
	p->changes[p->change_count++] = *ch;
	if (ch->table->has_deferred)
		p->has_deferred = true;
	return true;
}

static bool emit(struct plan *p, const struct plan_exec *exec)
{
	p->execs = grown(p->arena, p->execs, p->exec_count, &p->exec_cap, sizeof(*p->execs));
	if (!p->execs)
		return false;
	p->execs[p->exec_count++] = *exec;
	return true;
}

static bool row_sets(const struct value *row, size_t i)
{
	return row[i].state != VALUE_IS_UNCHANGED;
}

/* The columns a new row gives a value for. */
static uint64_t *sets_of(struct arena *a, const struct target_table *t, const struct value *row)
{
	uint64_t *sets = arena_alloc(a, column_set_words(t->column_count) * sizeof(*sets) + 1);

	for (size_t i = 0; sets && i < t->column_count; i++)
		if (row_sets(row, i))
			column_set_add(sets, i);
	return sets;
}

static const struct value *key_row(const struct plan_change *ch)
{
	return ch->before ? ch->before : ch->after;
}

/* new over old: what new leaves unchanged has old's value. new itself when it leaves nothing. */
static const struct value *merged(struct arena *a, const struct target_table *t,
				  const struct value *old, const struct value *new)
{
	if (!old || !has_unchanged(t, new))
		return new;
	struct value *row = arena_alloc(a, t->column_count * sizeof(*row));
	for (size_t i = 0; row && i < t->column_count; i++)
		row[i] = new[i].state == VALUE_IS_UNCHANGED ? old[i] : new[i];
	return row;
}

/* The new row of a key change with what the old row tells (REPLICA IDENTITY FULL: everything). */
static const struct value *with_identity(struct arena *a, const struct plan_change *ch)
{
	const struct relation *rel = ch->table->rel;
	struct value *row;

	if (!has_unchanged(ch->table, ch->after))
		return ch->after;
	row = arena_alloc(a, ch->table->column_count * sizeof(*row));
	for (size_t i = 0; row && i < ch->table->column_count; i++) {
		bool told = rel->identity == 'f' || rel->columns[i].is_identity;
		row[i] = ch->after[i].state == VALUE_IS_UNCHANGED && told ? ch->before[i]
									  : ch->after[i];
	}
	return row;
}

/*
 * Does an update change the key? If so *ret_old and *ret_new are the message keys, in out until the
 * next call. Different bytes may still be one key (1.0 and 1.00): then the canonical forms decide.
 */
static bool key_change(struct arena *a, struct buf *out, const struct plan_change *ch,
		       bool *ret_changes, struct span *ret_old, struct span *ret_new,
		       struct fault *f)
{
	const struct target_table *t = ch->table;
	const struct value *row;
	size_t old_bytes;
	bool same = true;

	*ret_changes = false;
	if (!ch->before)
		return true;
	for (size_t i = 0; i < t->column_count && same; i++) {
		const struct value *b = &ch->before[i], *n = &ch->after[i];
		if (t->rel->columns[i].is_key && n->state != VALUE_IS_UNCHANGED)
			same = b->state == n->state && b->i == n->i && span_eq(b->bytes, n->bytes);
	}
	if (same)
		return true;
	row = with_identity(a, ch);
	if (!row)
		return no_memory(f);
	buf_reset(out);
	if (!relation_key(t->rel, ch->before, out, f))
		return false;
	old_bytes = out->n;
	if (!relation_key(t->rel, row, out, f))
		return false;
	*ret_old = span(out->p, old_bytes);
	*ret_new = span(out->p + old_bytes, out->n - old_bytes);
	*ret_changes = !span_eq(*ret_old, *ret_new);
	return true;
}

static bool is_in_group(const struct group *g, const struct target_table *t)
{
	if (t->family.p)
		return g->family.p && span_eq(g->family, t->family);
	return !g->family.p && g->target_oid == t->oid;
}

static struct group *group_of(struct work *w, const struct target_table *t)
{
	if (w->group_count && is_in_group(&w->groups[w->last_group], t))
		return &w->groups[w->last_group];
	for (size_t i = 0; i < w->group_count; i++)
		if (is_in_group(&w->groups[i], t)) {
			w->last_group = i;
			return &w->groups[i];
		}
	w->groups = grown(w->plan->arena, w->groups, w->group_count, &w->group_cap,
			  sizeof(*w->groups));
	if (!w->groups)
		return NULL;
	w->last_group = w->group_count++;
	w->groups[w->last_group] = (struct group) { t->oid, t->family, 1, NO_ENTRY, NO_ENTRY, { 0 }, 0 };
	return &w->groups[w->last_group];
}

/* The key's entry in the group's open segment, made when there is none (NULL: no memory). */
static struct entry *entry_of(struct work *w, struct group *g, struct span key)
{
	uint32_t number = (uint32_t)(g - w->groups);
	uint64_t hash = span_hash(key);
	size_t i = hash & (w->slot_count - 1);

	for (; w->slots[i]; i = (i + 1) & (w->slot_count - 1)) {
		struct entry *e = &w->entries[w->slots[i] - 1];
		if (e->hash == hash && e->group == number && e->segment == g->segment &&
		    span_eq(e->key, key))
			return e;
	}
	struct entry *e = &w->entries[w->entry_count];
	*e = (struct entry) {
		.hash = hash, .key = key, .next = NO_ENTRY, .group = number, .segment = g->segment
	};
	if (g->last == NO_ENTRY)
		g->first = w->entry_count;
	else
		w->entries[g->last].next = w->entry_count;
	g->last = w->entry_count;
	w->slots[i] = ++w->entry_count;
	return e;
}

static bool same_sets(const struct target_table *t, const uint64_t *sets, const struct value *row)
{
	for (size_t i = 0; i < t->column_count; i++)
		if (column_set_has(sets, i) != row_sets(row, i))
			return false;
	return true;
}

/* The bucket a row belongs to (inserts set every column); masks are few, and neighbours often share
 * one: newest first. */
static struct bucket *bucket_of(struct work *w, enum statement_op op, const struct target_table *t,
				const struct value *row)
{
	for (size_t i = w->bucket_count; i-- > 0;) {
		struct bucket *b = &w->buckets[i];
		if (b->op == op && b->table == t &&
		    (op != STATEMENT_UPDATE || same_sets(t, b->sets, row)))
			return b;
	}
	w->buckets = grown(w->plan->arena, w->buckets, w->bucket_count, &w->bucket_cap,
			   sizeof(*w->buckets));
	if (!w->buckets)
		return NULL;
	struct bucket *b = &w->buckets[w->bucket_count++];
	*b = (struct bucket) { .table = t, .op = op };
	if (row && !(b->sets = sets_of(w->plan->arena, t, row)))
		return NULL;
	return b;
}

/* Does an entry take part in the phase of op, with which table and row? */
static bool takes_part(const struct entry *e, enum statement_op op,
		       const struct target_table **table, const struct plan_row **row)
{
	bool part = false;

	*table = e->table;
	*row = &e->new;
	switch (e->effect) {
	case EFFECT_NONE:
		break;
	case EFFECT_INSERT:
		part = op == STATEMENT_INSERT;
		break;
	case EFFECT_UPDATE:
		part = op == STATEMENT_UPDATE;
		break;
	case EFFECT_DELETE:
	case EFFECT_REPLACE:
		part = op == STATEMENT_DELETE ||
		       (op == STATEMENT_INSERT && e->effect == EFFECT_REPLACE);
		break;
	}
	if (part && op == STATEMENT_DELETE) {
		*table = e->old_table;
		*row = &e->old;
	}
	return part;
}

static bool flush_phase(struct work *w, const struct group *g, enum statement_op op)
{
	struct arena *a = w->plan->arena;
	const struct target_table *t;
	const struct plan_row *row;

	w->bucket_count = 0;
	for (size_t i = g->first; i != NO_ENTRY; i = w->entries[i].next) {
		if (!takes_part(&w->entries[i], op, &t, &row))
			continue;
		struct bucket *b = bucket_of(w, op, t, row->row);
		if (!b)
			return false;
		b->row_count++;
		w->entries[i].bucket = (size_t)(b - w->buckets);
	}
	for (size_t i = 0; i < w->bucket_count; i++) {
		w->buckets[i].rows = arena_alloc(a,
						 w->buckets[i].row_count * sizeof(struct plan_row));
		if (!w->buckets[i].rows)
			return false;
	}
	for (size_t i = g->first; i != NO_ENTRY; i = w->entries[i].next)
		if (takes_part(&w->entries[i], op, &t, &row)) {
			struct bucket *b = &w->buckets[w->entries[i].bucket];
			b->rows[b->filled++] = *row;
		}
	for (size_t i = 0; i < w->bucket_count; i++) {
		const struct bucket *b = &w->buckets[i];
		if (!emit(w->plan,
			  &(struct plan_exec) { b->table, op, b->sets, b->rows, b->row_count }))
			return false;
	}
	return true;
}

/* Emits what the group has gathered; afterwards it has neither a segment nor a run. */
static bool flush(struct work *w, struct group *g)
{
	if (g->run.row_count && !emit(w->plan, &g->run))
		return false;
	g->run = (struct plan_exec) { 0 };
	g->run_cap = 0;
	if (g->first == NO_ENTRY)
		return true;
	if (!flush_phase(w, g, STATEMENT_DELETE) || !flush_phase(w, g, STATEMENT_UPDATE) ||
	    !flush_phase(w, g, STATEMENT_INSERT))
		return false;
	g->first = g->last = NO_ENTRY;
	g->segment++;
	return true;
}

/* Where foreign keys act on the target: may they have done it already? And what may this change set off? */
static bool cascade(struct plan *p, const struct plan_change *ch, enum statement_op *op, struct fault *f)
{
	const struct target_table *t = ch->table;
	bool is_delete = ch->op == 'd', is_rekey = *op == STATEMENT_REKEY;

	if (is_delete && cascades_explain(&p->after, t, ch->commit, true))
		*op = *op == STATEMENT_DELETE ? STATEMENT_DELETE_CASCADED : STATEMENT_DELETE_ONE_CASCADED;
	else if (is_rekey && relation_is_plain(t->rel) && cascades_explain(&p->after, t, ch->commit, false))
		*op = STATEMENT_REKEY_CASCADED;
	if (!is_delete && !is_rekey && !(ch->op == 'u' && t->is_referenced_beside_key))
		return true;
	return cascades_note(&p->after, t, ch->commit, is_delete) || no_memory(f);
}

/* One change as an execution of its own. */
static bool change_exec(struct plan *p, struct buf *key, size_t change, struct plan_exec *ret,
		   struct fault *f)
{
	const struct plan_change *ch = &p->changes[change];
	bool keyless = ch->table->is_keyless;
	struct plan_row *row = arena_alloc(p->arena, sizeof(*row));
	struct span old, new;
	bool changes;

	if (!row)
		return no_memory(f);
	*row = (struct plan_row) { ch->op == 'c' || ch->op == 'r' ? NULL : key_row(ch), NULL,
				   change };
	*ret = (struct plan_exec) { .table = ch->table, .rows = row, .row_count = 1 };
	if (ch->op == 'd') {
		ret->op = keyless ? STATEMENT_DELETE_ONE : STATEMENT_DELETE;
		return true;
	}
	row->row = ch->after;
	ret->sets = sets_of(p->arena, ch->table, ch->after);
	if (!ret->sets)
		return no_memory(f);
	if (ch->op != 'u') {
		ret->op = STATEMENT_INSERT;
		return true;
	}
	if (keyless) {
		ret->op = STATEMENT_UPDATE_ONE;
		return true;
	}
	if (!key_change(p->arena, key, ch, &changes, &old, &new, f))
		return false;
	ret->op = changes ? STATEMENT_REKEY : STATEMENT_UPDATE;
	return true;
}

static bool single(struct plan *p, struct buf *key, size_t change, struct plan_exec *ret,
		   struct fault *f)
{
	const struct plan_change *ch = &p->changes[change];

	return change_exec(p, key, change, ret, f) && (!ch->table->family.p || cascade(p, ch, &ret->op, f));
}

/*
 * An ordered change. Inserts that follow each other share a statement, and so do deletes by key:
 * rows of one statement cannot stand in each other's way there. Updates can (unique values changing
 * places).
 */
static bool add_ordered(struct work *w, struct group *g, size_t change)
{
	struct plan_exec exec, *run = &g->run;
	struct plan_row *rows;

	if (g->first != NO_ENTRY && !flush(w, g))
		return no_memory(w->f);
	if (!single(w->plan, &w->key, change, &exec, w->f))
		return false;
	bool joins = exec.op == STATEMENT_INSERT || exec.op == STATEMENT_DELETE ||
		     exec.op == STATEMENT_DELETE_CASCADED;
	if (run->row_count && (!joins || run->op != exec.op || run->table != exec.table) &&
	    !flush(w, g))
		return no_memory(w->f);
	if (!joins)
		return emit(w->plan, &exec) || no_memory(w->f);
	if (!run->row_count) {
		*run = exec;
		g->run_cap = 1;
		return true;
	}
	rows = grown(w->plan->arena, (void *)run->rows, run->row_count, &g->run_cap, sizeof(*rows));
	if (!rows)
		return no_memory(w->f);
	rows[run->row_count++] = exec.rows[0];
	run->rows = rows;
	return true;
}

/* May the change follow what the entry says? A fresh entry says nothing about the row. */
static bool can_delete(const struct entry *e, bool fresh)
{
	return fresh || e->effect == EFFECT_INSERT || e->effect == EFFECT_UPDATE ||
	       e->effect == EFFECT_REPLACE;
}

static bool can_insert(const struct entry *e, bool fresh)
{
	return fresh || e->effect == EFFECT_NONE || e->effect == EFFECT_DELETE;
}

static bool can_update(const struct entry *e, bool fresh, const struct target_table *t)
{
	return fresh || (can_delete(e, false) && e->table == t);
}

static void do_delete(struct entry *e, const struct plan_change *ch, bool fresh, size_t change)
{
	if (e->effect == EFFECT_INSERT) {
		e->effect = EFFECT_NONE;
		return;
	}
	if (fresh || e->effect == EFFECT_UPDATE) {
		/* The row as it was before the batch: a filter asks for more than its key. */
		e->old_table = ch->table;
		e->old = (struct plan_row) { fresh ? ch->before : e->new.key, NULL, change };
	} else {
		e->old.change = change;
	}
	e->effect = EFFECT_DELETE;
}

static void do_insert(struct entry *e, const struct plan_change *ch, const struct value *row,
		      size_t change)
{
	e->effect = e->effect == EFFECT_DELETE ? EFFECT_REPLACE : EFFECT_INSERT;
	e->table = ch->table;
	e->new = (struct plan_row) { NULL, row, change };
}

static bool do_update(struct work *w, struct entry *e, const struct plan_change *ch, bool fresh,
		      size_t change)
{
	if (fresh) {
		e->effect = EFFECT_UPDATE;
		e->table = ch->table;
		e->new = (struct plan_row) { key_row(ch), ch->after, change };
		return true;
	}
	const struct value *row = merged(w->plan->arena, ch->table, e->new.row, ch->after);
	if (!row)
		return no_memory(w->f);
	e->new.row = row;
	e->new.change = change;
	return true;
}

/* The key's entry, and whether this call made it. */
static struct entry *look(struct work *w, struct group *g, struct span key, bool *fresh)
{
	size_t before = w->entry_count;
	struct entry *e = entry_of(w, g, key);

	*fresh = w->entry_count > before;
	return e;
}

static bool add_rekey(struct work *w, struct group *g, size_t change)
{
	struct plan_exec exec;

	if (!flush(w, g))
		return no_memory(w->f);
	if (!single(w->plan, &w->key, change, &exec, w->f))
		return false;
	return emit(w->plan, &exec) || no_memory(w->f);
}

static bool add_key_change(struct work *w, struct group *g, struct span old_key,
			   struct span new_key, size_t change)
{
	const struct plan_change *ch = &w->plan->changes[change];
	struct arena *a = w->plan->arena;
	bool old_fresh, new_fresh;

	old_key = arena_dup(a, old_key);
	new_key = arena_dup(a, new_key);
	const struct value *row = with_identity(a, ch);
	if (!old_key.p || !new_key.p || !row)
		return no_memory(w->f);
	struct entry *old = look(w, g, old_key, &old_fresh);
	struct entry *new = look(w, g, new_key, &new_fresh);
	bool known = !old_fresh && old->table == ch->table &&
		     (old->effect == EFFECT_INSERT || old->effect == EFFECT_UPDATE ||
		      old->effect == EFFECT_REPLACE);
	row = merged(a, ch->table, known ? old->new.row : NULL, row);
	if (!row)
		return no_memory(w->f);
	if (has_unchanged(ch->table, row) || !can_delete(old, old_fresh) ||
	    !can_insert(new, new_fresh))
		return add_rekey(w, g, change);
	do_delete(old, ch, old_fresh, change);
	do_insert(new, ch, row, change);
	return true;
}

/* An update as delete and insert, when every column's value is known. *ret_done: it was done so. */
static bool add_replaced(struct work *w, struct entry *e, bool fresh, size_t change, bool *ret_done)
{
	struct plan_change ch = w->plan->changes[change];
	struct arena *a = w->plan->arena;
	bool known = !fresh && e->table == ch.table && e->effect != EFFECT_NONE && e->effect != EFFECT_DELETE;
	const struct value *row = ch.before ? with_identity(a, &ch) : ch.after;

	row = row ? merged(a, ch.table, known ? e->new.row : NULL, row) : NULL;
	if (!row)
		return no_memory(w->f);
	*ret_done = !has_unchanged(ch.table, row);
	if (!*ret_done)
		return true;
	ch.before = key_row(&ch);
	do_delete(e, &ch, fresh, change);
	do_insert(e, &ch, row, change);
	return true;
}

static bool add_merged(struct work *w, struct group *g, size_t change)
{
	const struct plan_change *ch = &w->plan->changes[change];
	struct span old, new;
	bool fresh, can, changes = false;

	if (g->run.row_count && !flush(w, g))
		return no_memory(w->f);
	if (ch->op == 'u' && !key_change(w->plan->arena, &w->key, ch, &changes, &old, &new, w->f))
		return false;
	if (changes)
		return add_key_change(w, g, old, new, change);
	struct entry *e = look(w, g, ch->key, &fresh);
	can = ch->op == 'd'   ? can_delete(e, fresh)
	      : ch->op == 'u' ? can_update(e, fresh, ch->table)
			      : can_insert(e, fresh);
	if (!can) {
		if (!flush(w, g))
			return no_memory(w->f);
		e = look(w, g, ch->key, &fresh);
	}
	if (ch->op == 'u' && w->replaces && ch->table->can_replace) {
		bool is_done = false;
		if (!add_replaced(w, e, fresh, change, &is_done))
			return false;
		if (is_done)
			return true;
	}
	if (ch->op == 'u')
		return do_update(w, e, ch, fresh, change);
	if (ch->op == 'd')
		do_delete(e, ch, fresh, change);
	else
		do_insert(e, ch, ch->after, change);
	return true;
}

/* Room for what the changes can need at most: a key change looks at two keys, and every change may
 * be looked up again after a flush. */
static bool work_init(struct work *w, struct plan *p, struct fault *f)
{
	size_t n = p->change_count * 2 + 1;

	*w = (struct work) { .plan = p, .f = f, .slot_count = 16 };
	while (w->slot_count < 2 * n)
		w->slot_count *= 2;
	w->entries = arena_alloc(p->arena, n * sizeof(*w->entries));
	w->slots = arena_alloc(p->arena, w->slot_count * sizeof(*w->slots));
	buf_init(&w->key, (size_t)64 << 20);
	return (w->entries && w->slots) || no_memory(f);
}

static bool plan_net(struct plan *p, bool replaces, struct fault *f)
{
	struct work w;
	bool ok;

	p->execs = NULL;
	p->exec_count = p->exec_cap = 0;
	ok = work_init(&w, p, f) && (cascades_copy(&p->after, &p->before) || no_memory(f));
	w.replaces = replaces;
	for (size_t i = 0; ok && i < p->change_count; i++) {
		struct group *g = group_of(&w, p->changes[i].table);
		if (!g)
			ok = no_memory(f);
		else if (p->changes[i].table->is_ordered &&
			 !(replaces && p->changes[i].table->can_replace))
			ok = add_ordered(&w, g, i);
		else
			ok = add_merged(&w, g, i);
	}
	for (size_t i = 0; ok && i < w.group_count; i++)
		ok = flush(&w, &w.groups[i]) || no_memory(f);
	buf_release(&w.key);
	return ok;
}

bool plan_finish(struct plan *p, struct fault *f)
{
	return plan_net(p, false, f);
}

bool plan_replacing(struct plan *p, struct fault *f)
{
	return plan_net(p, true, f);
}

bool plan_sequential(struct plan *p, struct fault *f)
{
	struct buf key;
	bool ok = cascades_copy(&p->after, &p->before) || no_memory(f);

	p->execs = NULL;
	p->exec_count = p->exec_cap = 0;
	buf_init(&key, (size_t)64 << 20);
	for (size_t i = 0; ok && i < p->change_count; i++) {
		struct plan_exec exec;
		ok = single(p, &key, i, &exec, f) && (emit(p, &exec) || no_memory(f));
	}
	buf_release(&key);
	return ok;
}

bool plan_add_copied(struct plan *p, const struct target_table *table, const struct value *const *rows,
		     size_t row_count, struct fault *f)
{
	struct plan_exec exec = { .table = table, .op = STATEMENT_INSERT, .row_count = row_count };
	struct plan_row *list = arena_alloc(p->arena, row_count * sizeof(*list) + 1);

	if (row_count == 0)
		return true;
	exec.sets = sets_of(p->arena, table, rows[0]);
	if (!list || !exec.sets)
		return no_memory(f);
	for (size_t i = 0; i < row_count; i++)
		list[i] = (struct plan_row) { NULL, rows[i], 0 };
	exec.rows = list;
	return emit(p, &exec) || no_memory(f);
}
