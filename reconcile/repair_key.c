// SPDX-License-Identifier: Apache-2.0
#include "reconcile/repair_key.h"

enum { SQL_BYTES = 64 << 20, KEY_BYTES = 64 << 20 };

static bool no_memory(struct fault *f)
{
	return fault(f, FAULT_INTERNAL, "no memory for the key of a row to repair");
}

/* ---- the source's texts ---- */

static PGresult *ask_source(struct ends *e, const struct digest *d, int64_t seed, struct span key, struct fault *f)
{
	struct digest_plan plan = { .digest = d, .server = DIGEST_SOURCE, .seed = seed };
	const char *values[1];
	struct buf sql, list;
	PGresult *r = NULL;

	buf_init(&sql, SQL_BYTES);
	buf_init(&list, SQL_BYTES);
	digest_source_keys(&plan, &sql);
	pg_array_begin(&list);
	pg_array_add(&list, key);
	pg_array_end(&list);
	values[0] = buf_cstr(&list);
	if (buf_failed(&sql) || buf_failed(&list))
		no_memory(f);
	else
		r = pg_query_params(e->source, f, buf_cstr(&sql), 1, values);
	buf_release(&sql);
	buf_release(&list);
	return r;
}

/* Which row of the source has become this one? */
static bool look_up(struct ends *e, const struct digest *d, int64_t seed, struct span key, struct arena *a,
		    struct span *parts, const char **ret_why, struct fault *f)
{
	PGresult *r = ask_source(e, d, seed, key, f);

	if (!r)
		return false;
	if (PQntuples(r) == 0)
		*ret_why = "no row of the source comes to this key, and which one did cannot be told, since the key is "
			   "computed or prints otherwise on the target; next step: delete it there in a session with "
			   "session_replication_role = replica";
	else if (PQntuples(r) > 1)
		*ret_why = "several rows of the source have its key";
	for (size_t i = 0; !*ret_why && i < d->rel->key_count; i++)
		parts[i] = arena_dup(a, pg_value(r, 0, (int)i + 1));
	PQclear(r);
	return true;
}

/* A text that is no value of the source's type would make any question about it fail. */
static bool check_casts(struct ends *e, const struct digest *d, const struct span *parts, struct arena *a,
			const char **ret_why, struct fault *f)
{
	struct digest_plan plan = { .digest = d, .server = DIGEST_SOURCE };
	const char **values = arena_alloc(a, d->rel->key_count * sizeof(*values) + 1);
	struct fault why = { 0 };
	struct buf sql;
	PGresult *r;

	for (size_t i = 0; values && i < d->rel->key_count; i++)
		values[i] = parts[i].p;
	buf_init(&sql, SQL_BYTES);
	digest_source_casts(&plan, &sql);
	r = values && !buf_failed(&sql)
		? pg_query_params(e->source, &why, buf_cstr(&sql), (int)d->rel->key_count, values)
		: NULL;
	buf_release(&sql);
	if (r || why.kind == FAULT_DATA) {
		if (!r)
			*ret_why = arena_printf(a,
						"no row of the source can have its key (%s); next step: delete it on the "
						"target in a session with session_replication_role = replica",
						why.text);
		PQclear(r);
		return true;
	}
	if (why.kind == FAULT_NONE)
		return no_memory(f);
	*f = why;
	return false;
}

/* ---- the stream's key ---- */

static bool is_leaf_of(const struct relation *leaf, const struct relation *rel)
{
	return span_eq(leaf->root_schema, rel->root_schema) && span_eq(leaf->root_table, rel->root_table);
}

/* The part that is this column's. */
static const struct span *find_part(const struct relation *rel, const struct span *parts, struct span name)
{
	size_t n = 0;

	for (size_t i = 0; i < rel->column_count; i++)
		if (rel->columns[i].is_key) {
			if (span_eq(rel->columns[i].name, name))
				return &parts[n];
			n++;
		}
	return NULL;
}

/* The message key of a row with these parts in this leaf. False: no row of it can have them. */
static bool stream_key(const struct relation *leaf, const struct relation *rel, const struct span *parts,
		       struct arena *a, struct span *ret)
{
	struct value *values = arena_alloc(a, leaf->column_count * sizeof(*values) + 1);
	struct buf b;
	bool ok = values != NULL;

	for (size_t i = 0; ok && i < leaf->column_count; i++) {
		struct cell cell = { .format = 't' };
		const struct span *part;

		if (!leaf->columns[i].is_key)
			continue;
		part = find_part(rel, parts, leaf->columns[i].name);
		ok = part && part->p;
		if (!ok)
			break;
		cell.bytes = *part;
		ok = value_from_cell(&leaf->columns[i].type, cell, a, &values[i], NULL);
	}
	buf_init(&b, KEY_BYTES);
	ok = ok && relation_key(leaf, values, &b, NULL) && !buf_failed(&b);
	*ret = ok ? arena_dup(a, buf_span(&b)) : span(NULL, 0);
	buf_release(&b);
	return ok && ret->p;
}

/* All leaves of a table must agree on its place: a row may move from one to another. */
static const char *make_message_key(struct ends *e, const struct relation *rel, struct arena *a, struct repair_key *k)
{
	int partitions = e->m->partition_count;

	if (!stream_key(rel, rel, k->parts, a, &k->message_key))
		return "no row of the source can have its key; next step: delete it on the target in a session with "
		       "session_replication_role = replica";
	k->partition = relation_partition(rel, k->message_key, partitions);
	for (size_t i = 0; i < known_count(e->tail->known); i++) {
		const struct relation *leaf = known_newest(e->tail->known, i);
		struct span other;

		if (!is_leaf_of(leaf, rel))
			continue;
		/* Where any change of the table may be of this row, they need not be called the same. */
		if (!stream_key(leaf, rel, k->parts, a, &other) || (rel->merge && !span_eq(other, k->message_key)) ||
		    relation_partition(leaf, other, partitions) != k->partition)
			return "the partitions of its table differ in their key columns, so that its changes are in different "
			       "places of the stream; next step: correct it on the target in a session with "
			       "session_replication_role = replica";
	}
	k->hash = span_hash(k->message_key);
	return NULL;
}

/* An element per column, NULL where it is not of the key. */
static bool write_values(const struct relation *rel, struct arena *a, struct repair_key *k)
{
	struct buf b;
	size_t n = 0;

	buf_init(&b, KEY_BYTES);
	pg_array_begin(&b);
	k->is_canonical = rel->merge;
	for (size_t i = 0; i < rel->column_count; i++) {
		pg_array_add(&b, rel->columns[i].is_key ? k->parts[n] : span(NULL, 0));
		n += rel->columns[i].is_key;
	}
	pg_array_end(&b);
	k->values = buf_failed(&b) ? span(NULL, 0) : arena_dup(a, buf_span(&b));
	buf_release(&b);
	return k->values.p != NULL;
}

bool repair_key_find(struct ends *e, const struct digest *d, int64_t seed, struct span key, struct arena *a,
		     struct repair_key *ret, const char **ret_why, struct fault *f)
{
	const struct relation *rel = d->rel;
	struct span *parts = arena_alloc(a, (rel->key_count + 1) * sizeof(*parts));
	size_t count;

	*ret_why = NULL;
	*ret = (struct repair_key) { .parts = parts };
	if (!parts)
		return no_memory(f);
	if (!d->has_stream_key) {
		if (!look_up(e, d, seed, key, a, parts, ret_why, f))
			return false;
	} else if (!digest_key_parts(key, a, parts, rel->key_count + 1, &count) || count != rel->key_count) {
		return fault(f, FAULT_INTERNAL, "%.*s: not a key: %.*s", SPAN_ARG(d->label), SPAN_ARG(key));
	}
	if (!*ret_why)
		*ret_why = make_message_key(e, rel, a, ret);
	if (!*ret_why && !check_casts(e, d, parts, a, ret_why, f))
		return false;
	if (*ret_why)
		return true;
	return (write_values(rel, a, ret) && !arena_failed(a)) || no_memory(f);
}
