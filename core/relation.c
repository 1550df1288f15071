// SPDX-License-Identifier: Apache-2.0
#include "core/relation.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

enum { RELATION_MAX_COLUMNS = 1664 }; /* PostgreSQL's limit of a tuple */

static const char *const routing_names[ROUTINGS] = {
	[ROUTE_KEY] = "key",
	[ROUTE_TABLE] = "table",
	[ROUTE_GROUP] = "group",
	[ROUTE_TRANSACTION] = "transaction",
};

const char *routing_name(enum routing routing)
{
	return routing_names[routing];
}

/* --- write --- */

static json_t *span_json(struct span s)
{
	return s.p ? json_stringn(s.p, s.n) : json_null();
}

static json_t *column_json(const struct column *col)
{
	bool is_decimal = col->type.kind == VALUE_DECIMAL;

	return json_pack(
	    "{s:o, s:I, s:i, s:o, s:s, s:i, s:i, s:b, s:b, s:b, s:b, s:o, s:o}", "name", span_json(col->name),
	    "type_oid", (json_int_t)col->type_oid, "typmod", (int)col->typmod, "type_name",
	    span_json(col->type_name), "kind", value_kind_name(col->type.kind), "precision",
	    is_decimal ? col->type.precision : 0, "scale", is_decimal ? col->type.scale : 0, "key",
	    (int)col->is_key, "identity", (int)col->is_identity, "collates", (int)col->collates,
	    "dropped", (int)col->is_dropped, "target", span_json(col->target), "collation", span_json(col->collation));
}

static json_t *inputs_json(const struct expression *e)
{
	json_t *inputs = json_array();

	for (size_t i = 0; inputs && i < e->input_count; i++)
		json_array_append_new(inputs, json_integer(e->inputs[i]));
	return inputs;
}

static json_t *computed_json(const struct relation *rel)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < rel->computed_count; i++) {
		const struct computed *c = &rel->computed[i];

		json_array_append_new(list, json_pack("{s:o, s:o, s:o, s:b}", "column", span_json(c->column),
						      "as", span_json(c->as.sql), "inputs", inputs_json(&c->as),
						      "key", (int)c->is_key));
	}
	return list;
}

static json_t *filter_json(const struct relation *rel)
{
	return rel->filter.sql.p ? json_pack("{s:o, s:o}", "as", span_json(rel->filter.sql), "inputs",
					     inputs_json(&rel->filter))
				 : json_null();
}

static json_t *columns_json(const struct relation *rel)
{
	json_t *columns = json_array();

	for (size_t i = 0; i < rel->column_count; i++)
		if (json_array_append_new(columns, column_json(&rel->columns[i])) < 0) {
			json_decref(columns);
			return NULL;
		}
	return columns;
}

static json_t *relation_json(const struct relation *rel)
{
	char lsn[LSN_TEXT], fingerprint[17], identity[2] = { rel->identity, 0 };

	snprintf(fingerprint, sizeof(fingerprint), "%016" PRIx64, rel->fingerprint);
	return json_pack(
	    "{s:I, s:I, s:{s:s, s:I}, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s, s:b, s:b, "
	    "s:s, s:o, s:s, s:o, s:o, s:o, s:o, s:o}",
	    "oid", (json_int_t)rel->oid, "version", (json_int_t)rel->version, "from", "commit_lsn",
	    lsn_format(rel->from.commit.v, lsn), "seq", (json_int_t)rel->from.seq, "schema",
	    span_json(rel->schema), "table", span_json(rel->table), "root_schema",
	    span_json(rel->root_schema), "root_table", span_json(rel->root_table), "target_schema",
	    span_json(rel->target_schema), "target_table", span_json(rel->target_table), "bound",
	    span_json(rel->bound), "identity", identity, "keyless", (int)rel->keyless, "merge",
	    (int)rel->merge, "routing", routing_names[rel->routing], "routing_reason",
	    span_json(rel->routing_reason), "fingerprint", fingerprint, "columns",
	    columns_json(rel), "computed", computed_json(rel), "filter", filter_json(rel),
	    "origin_column", span_json(rel->origin_column), "origin_value", span_json(rel->origin_value));
}

bool relation_write(const struct relation *rel, struct buf *out)
{
	json_t *json = relation_json(rel);
	char *text;

	/* A record without a family is as it was before there were any. */
	if (json && rel->routing == ROUTE_GROUP)
		json_object_set_new(json, "family", span_json(rel->family));
	text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	json_decref(json);
	if (!text)
		return false;
	buf_str(out, text);
	free(text);
	return !buf_failed(out);
}

/* --- read --- */

/*
 * Strict: every attribute must be there with its type, and no other: a record that says more than
 * we understand is not one we may act on. Sticky like a cursor: the first complaint stays.
 */
struct reader {
	json_t *object;
	struct arena *a;
	struct fault *f;
	size_t taken; /* attributes of object that were asked for */
	bool failed;
};

static bool reader_fault(struct reader *r, const char *key, const char *wanted)
{
	if (!r->failed)
		fault(r->f, FAULT_INPUT, "relation record: \"%s\" %s", key, wanted);
	r->failed = true;
	return false;
}

static json_t *reader_get(struct reader *r, const char *key)
{
	r->taken++;
	return json_object_get(r->object, key);
}

/* All that the object has was asked for. */
static void reader_end(struct reader *r, const char *what)
{
	if (json_object_size(r->object) != r->taken)
		reader_fault(r, what, "has an attribute that this version does not know");
}

static int64_t read_int(struct reader *r, const char *key, int64_t low, int64_t high)
{
	json_t *v = reader_get(r, key);

	if (json_is_integer(v) && json_integer_value(v) >= low && json_integer_value(v) <= high)
		return json_integer_value(v);
	reader_fault(r, key, "is not an integer in its range");
	return 0;
}

static bool read_bool(struct reader *r, const char *key)
{
	json_t *v = reader_get(r, key);

	if (!json_is_boolean(v))
		reader_fault(r, key, "is not a boolean");
	return json_is_true(v);
}

static struct span string_of(json_t *v)
{
	return span(json_string_value(v), json_string_length(v));
}

/* Borrowed from the JSON. */
static struct span read_text(struct reader *r, const char *key)
{
	json_t *v = reader_get(r, key);

	if (json_is_string(v))
		return string_of(v);
	reader_fault(r, key, "is not a string");
	return span("", 0);
}

static struct span read_name(struct reader *r, const char *key)
{
	struct span s = read_text(r, key);

	if (s.n == 0)
		reader_fault(r, key, "is empty");
	return arena_dup(r->a, s);
}

static struct span read_optional(struct reader *r, const char *key)
{
	json_t *v = reader_get(r, key);

	if (json_is_string(v))
		return arena_dup(r->a, string_of(v));
	if (!json_is_null(v))
		reader_fault(r, key, "is neither a string nor null");
	return span(NULL, 0);
}

static size_t read_choice(struct reader *r, const char *key, const char *const *names, size_t n)
{
	struct span s = read_text(r, key);

	for (size_t i = 0; i < n; i++)
		if (span_eq_str(s, names[i]))
			return i;
	reader_fault(r, key, "is not a known word");
	return 0;
}

static struct position read_from(struct reader *r)
{
	struct reader from = { .object = reader_get(r, "from"), .f = r->f };
	struct position p = { 0 };

	if (!json_is_object(from.object)) {
		reader_fault(r, "from", "is not an object");
		return p;
	}
	if (!lsn_parse(read_text(&from, "commit_lsn"), &p.commit.v))
		reader_fault(&from, "commit_lsn", "is not an LSN");
	p.seq = (uint64_t)read_int(&from, "seq", 0, INT64_MAX);
	reader_end(&from, "from");
	r->failed |= from.failed;
	return p;
}

static uint64_t read_fingerprint(struct reader *r)
{
	struct span s = read_text(r, "fingerprint");
	uint64_t v = 0;

	for (size_t i = 0; i < s.n; i++) {
		char c = s.p[i];

		if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
			reader_fault(r, "fingerprint", "is not 16 lower-case hexadecimal digits");
		v = v << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
	}
	if (s.n != 16)
		reader_fault(r, "fingerprint", "is not 16 lower-case hexadecimal digits");
	return v;
}

static void read_type(struct reader *r, struct value_type *t)
{
	const char *names[VALUE_KINDS];

	for (int k = 0; k < VALUE_KINDS; k++)
		names[k] = value_kind_name((enum value_kind)k);
	t->kind = (enum value_kind)read_choice(r, "kind", names, VALUE_KINDS);
	t->precision = (int)read_int(r, "precision", 0, 38);
	t->scale = (int)read_int(r, "scale", 0, t->precision);
	if ((t->kind == VALUE_DECIMAL) != (t->precision > 0))
		reader_fault(r, "precision", "does not go with the kind");
}

static void read_column(struct reader *r, struct column *col)
{
	col->name = read_name(r, "name");
	col->type_oid = (uint32_t)read_int(r, "type_oid", 0, UINT32_MAX);
	col->typmod = (int32_t)read_int(r, "typmod", INT32_MIN, INT32_MAX);
	col->type_name = read_optional(r, "type_name");
	read_type(r, &col->type);
	col->is_key = read_bool(r, "key");
	col->is_identity = read_bool(r, "identity");
	col->collates = read_bool(r, "collates");
	col->is_dropped = read_bool(r, "dropped");
	col->target = read_optional(r, "target");
	col->collation = read_optional(r, "collation");
	if (col->is_dropped && (col->is_key || col->target.p))
		reader_fault(r, "dropped", "does not go with a key column or a target");
	reader_end(r, "columns");
}

/* Indexes of columns, ascending; none of a dropped one. */
static void read_expression(struct reader *r, const struct relation *rel, struct expression *e)
{
	json_t *inputs;
	uint32_t *list;

	e->sql = read_name(r, "as");
	inputs = reader_get(r, "inputs");
	e->input_count = json_array_size(inputs);
	list = arena_alloc(r->a, e->input_count * sizeof(*list) + 1);
	if (!json_is_array(inputs) || e->input_count > rel->column_count || !list) {
		e->input_count = 0;
		reader_fault(r, "inputs", "is not a list of columns");
		return;
	}
	for (size_t i = 0; i < e->input_count; i++) {
		json_int_t n = json_integer_value(json_array_get(inputs, i));

		if (!json_is_integer(json_array_get(inputs, i)) || n < 0 ||
		    n >= (json_int_t)rel->column_count || (i > 0 && n <= (json_int_t)list[i - 1]) ||
		    rel->columns[n].is_dropped) {
			e->input_count = 0;
			reader_fault(r, "inputs", "is not an ascending list of columns that travel");
			return;
		}
		list[i] = (uint32_t)n;
	}
	e->inputs = list;
}

static void read_computed(struct reader *r, struct relation *rel)
{
	json_t *list = reader_get(r, "computed");
	size_t n = json_array_size(list);

	if (!json_is_array(list) || n > RELATION_MAX_COLUMNS) {
		reader_fault(r, "computed", "is not a list of at most 1664");
		return;
	}
	rel->computed = arena_alloc(r->a, n * sizeof(*rel->computed) + 1);
	for (size_t i = 0; rel->computed && i < n && !r->failed; i++) {
		struct computed *c = &rel->computed[rel->computed_count++];
		struct reader item = { .object = json_array_get(list, i), .a = r->a, .f = r->f };

		c->column = read_name(&item, "column");
		read_expression(&item, rel, &c->as);
		c->is_key = read_bool(&item, "key");
		reader_end(&item, "computed");
		r->failed |= item.failed;
	}
}

static void read_filter(struct reader *r, struct relation *rel)
{
	struct reader item = { .object = reader_get(r, "filter"), .a = r->a, .f = r->f };

	if (json_is_null(item.object))
		return;
	if (!json_is_object(item.object)) {
		reader_fault(r, "filter", "is neither an object nor null");
		return;
	}
	read_expression(&item, rel, &rel->filter);
	reader_end(&item, "filter");
	r->failed |= item.failed;
}

/* Two columns of one name? A set of names, so that a long list is not quadratic. */
static bool add_name(json_t *seen, struct span name)
{
	return name.p && !json_object_get(seen, name.p) &&
	       json_object_set_new(seen, name.p, json_null()) == 0;
}

static void read_columns(struct reader *r, struct relation *rel)
{
	json_t *columns = reader_get(r, "columns"), *seen;
	size_t n = json_array_size(columns);

	if (!json_is_array(columns) || n > RELATION_MAX_COLUMNS) {
		reader_fault(r, "columns", "is not a list of at most 1664");
		return;
	}
	rel->columns = arena_alloc(r->a, n * sizeof(*rel->columns));
	if (!rel->columns)
		return;
	seen = json_object();
	for (size_t i = 0; i < n && !r->failed && !arena_failed(r->a); i++) {
		struct column *col = &rel->columns[rel->column_count++];
		struct reader item = { .object = json_array_get(columns, i), .a = r->a, .f = r->f };

		read_column(&item, col);
		r->failed |= item.failed;
		rel->key_count += col->is_key;
		if (!r->failed && !arena_failed(r->a) && !add_name(seen, col->name))
			reader_fault(r, "columns", "has two of the same name");
	}
	json_decref(seen);
}

static void read_relation(struct reader *r, struct relation *rel)
{
	struct span identity;

	rel->oid = (uint32_t)read_int(r, "oid", 1, UINT32_MAX);
	rel->version = (uint32_t)read_int(r, "version", 1, INT32_MAX);
	rel->from = read_from(r);
	rel->schema = read_name(r, "schema");
	rel->table = read_name(r, "table");
	rel->root_schema = read_name(r, "root_schema");
	rel->root_table = read_name(r, "root_table");
	rel->target_schema = read_name(r, "target_schema");
	rel->target_table = read_name(r, "target_table");
	rel->bound = read_optional(r, "bound");
	identity = read_text(r, "identity");
	if (identity.n != 1 || !strchr("dif", identity.p[0]))
		reader_fault(r, "identity", "is not d, i or f");
	else
		rel->identity = identity.p[0];
	rel->keyless = read_bool(r, "keyless");
	rel->merge = read_bool(r, "merge");
	rel->routing = (enum routing)read_choice(r, "routing", routing_names, ROUTINGS);
	rel->routing_reason = read_optional(r, "routing_reason");
	if (rel->routing == ROUTE_GROUP)
		rel->family = read_name(r, "family");
	rel->fingerprint = read_fingerprint(r);
	read_columns(r, rel);
	if (!r->failed && !arena_failed(r->a)) {
		read_computed(r, rel);
		read_filter(r, rel);
	}
	rel->origin_column = read_optional(r, "origin_column");
	rel->origin_value = read_optional(r, "origin_value");
	if (!rel->origin_column.p != !rel->origin_value.p)
		reader_fault(r, "origin_value", "does not go with origin_column");
	reader_end(r, "relation");
	if (!r->failed && rel->keyless != (rel->key_count == 0))
		reader_fault(r, "keyless", "does not go with the key columns");
}

bool relation_read(struct span json, struct arena *a, struct relation **ret, struct fault *f)
{
	struct relation *rel = arena_alloc(a, sizeof(*rel));
	struct reader r = { .a = a, .f = f };
	json_error_t error;

	r.object = json_loadb(json.p ? json.p : "", json.n, JSON_REJECT_DUPLICATES, &error);
	if (!r.object)
		return fault(f, FAULT_INPUT, "relation record is not JSON: %s", error.text);
	if (!json_is_object(r.object))
		reader_fault(&r, "relation", "is not an object");
	else if (rel)
		read_relation(&r, rel);
	json_decref(r.object);
	if (r.failed)
		return false;
	if (arena_failed(a))
		return fault(f, FAULT_INTERNAL, "no memory for a relation record of %zu bytes",
			     json.n);
	*ret = rel;
	return true;
}

bool relation_of_record(struct span key, uint32_t *ret_oid, uint32_t *ret_version)
{
	char text[64];

	if (key.n >= sizeof(text))
		return false;
	memcpy(text, key.p, key.n);
	text[key.n] = 0;
	return sscanf(text, "relation/%" SCNu32 "/%" SCNu32, ret_oid, ret_version) == 2;
}

/* --- shape, key, partition --- */

static bool column_same_shape(const struct column *a, const struct column *b)
{
	return span_eq(a->name, b->name) && a->type_oid == b->type_oid && a->typmod == b->typmod &&
	       a->is_key == b->is_key;
}

bool relation_same_shape(const struct relation *a, const struct relation *b)
{
	if (a->column_count != b->column_count || a->identity != b->identity ||
	    a->keyless != b->keyless)
		return false;
	for (size_t i = 0; i < a->column_count; i++)
		if (!column_same_shape(&a->columns[i], &b->columns[i]))
			return false;
	return true;
}

static bool same_optional(struct span a, struct span b)
{
	return !a.p == !b.p && span_eq(a, b);
}

static bool same_computed(const struct relation *a, const struct relation *b)
{
	if (a->computed_count != b->computed_count)
		return false;
	for (size_t i = 0; i < a->computed_count; i++)
		if (!span_eq(a->computed[i].column, b->computed[i].column) ||
		    !span_eq(a->computed[i].as.sql, b->computed[i].as.sql))
			return false;
	return true;
}

bool relation_same_mapping(const struct relation *a, const struct relation *b)
{
	if (!span_eq(a->target_schema, b->target_schema) || !span_eq(a->target_table, b->target_table) ||
	    !same_computed(a, b) || !same_optional(a->filter.sql, b->filter.sql) ||
	    !same_optional(a->origin_column, b->origin_column) ||
	    !same_optional(a->origin_value, b->origin_value))
		return false;
	for (size_t i = 0; i < a->column_count && i < b->column_count; i++)
		if (a->columns[i].is_dropped != b->columns[i].is_dropped ||
		    !same_optional(a->columns[i].target, b->columns[i].target))
			return false;
	return true;
}

static const struct column *column_named(const struct relation *rel, struct span name)
{
	for (size_t i = 0; i < rel->column_count; i++)
		if (span_eq(rel->columns[i].name, name))
			return &rel->columns[i];
	return NULL;
}

/* Everything on the target is called as on the source. */
static bool is_unmapped(const struct relation *rel)
{
	for (size_t i = 0; i < rel->column_count; i++)
		if (!span_eq(rel->columns[i].target, rel->columns[i].name))
			return false;
	return relation_is_plain(rel) && span_eq(rel->target_schema, rel->root_schema) &&
	       span_eq(rel->target_table, rel->root_table);
}

bool relation_keeps_mapping(const struct relation *next, const struct relation *previous)
{
	if (is_unmapped(next) && is_unmapped(previous))
		return true;
	for (size_t i = 0; i < next->column_count; i++) {
		const struct column *col = &next->columns[i], *was = column_named(previous, col->name);

		if (was && (was->is_dropped != col->is_dropped || !same_optional(was->target, col->target)))
			return false;
	}
	return span_eq(next->target_schema, previous->target_schema) &&
	       span_eq(next->target_table, previous->target_table) && same_computed(next, previous) &&
	       same_optional(next->filter.sql, previous->filter.sql) &&
	       same_optional(next->origin_column, previous->origin_column) &&
	       same_optional(next->origin_value, previous->origin_value);
}

bool relation_fills(const struct relation *rel, struct span target_column)
{
	for (size_t i = 0; i < rel->column_count; i++)
		if (rel->columns[i].target.p && span_eq(rel->columns[i].target, target_column))
			return true;
	for (size_t i = 0; i < rel->computed_count; i++)
		if (span_eq(rel->computed[i].column, target_column))
			return true;
	return rel->origin_column.p && span_eq(rel->origin_column, target_column);
}

/* Bytes that a character takes more inside a JSON string. */
static size_t escape_extra(unsigned char c)
{
	if (c == '"' || c == '\\')
		return 1;
	return c < 0x20 ? 5 : 0;
}

static char *escape_put(char *end, unsigned char c)
{
	static const char hex[] = "0123456789abcdef";

	if (c >= 0x20) {
		*--end = (char)c;
		if (c == '"' || c == '\\')
			*--end = '\\';
		return end;
	}
	*--end = hex[c & 15];
	*--end = hex[c >> 4];
	end -= 4;
	memcpy(end, "\\u00", 4);
	return end;
}

/* Escapes what was appended to out since start, in place, from its end. Most keys need nothing. */
static void escape_tail(struct buf *out, size_t start)
{
	size_t extra = 0;
	char *from, *to;

	for (size_t i = start; i < out->n; i++)
		extra += escape_extra((unsigned char)out->p[i]);
	if (extra == 0 || !buf_reserve(out, extra))
		return;
	from = out->p + out->n;
	to = from + extra;
	while (from < to)
		to = escape_put(to, (unsigned char)*--from);
	out->n += extra;
}

static void add_json_string(struct buf *out, struct span s)
{
	size_t start;

	buf_u8(out, '"');
	start = out->n;
	buf_add_span(out, s);
	escape_tail(out, start);
	buf_u8(out, '"');
}

static bool add_key_column(const struct relation *rel, const struct column *col,
			   const struct value *v, struct buf *out, struct fault *f)
{
	size_t start;

	if (v->state == VALUE_IS_NULL || v->state == VALUE_IS_UNCHANGED)
		return fault(f, FAULT_INPUT, "table %.*s.%.*s: key column %.*s is %s",
			     SPAN_ARG(rel->schema), SPAN_ARG(rel->table), SPAN_ARG(col->name),
			     v->state == VALUE_IS_NULL ? "null"
						       : "unchanged, its value is not known");
	buf_add(out, ",\"", 2);
	start = out->n;
	if (!value_add_key(&col->type, v, out, f))
		return fault_in(f, "table %.*s.%.*s, key column %.*s", SPAN_ARG(rel->schema),
				SPAN_ARG(rel->table), SPAN_ARG(col->name));
	escape_tail(out, start);
	buf_u8(out, '"');
	return true;
}

bool relation_key(const struct relation *rel, const struct value *values, struct buf *out,
		  struct fault *f)
{
	buf_u8(out, '[');
	add_json_string(out, rel->target_schema);
	buf_u8(out, ',');
	add_json_string(out, rel->target_table);
	if (rel->origin_value.p) {
		buf_u8(out, ',');
		add_json_string(out, rel->origin_value);
	}
	for (size_t i = 0; !rel->keyless && i < rel->column_count; i++)
		if (rel->columns[i].is_key &&
		    !add_key_column(rel, &rel->columns[i], &values[i], out, f))
			return false;
	buf_u8(out, ']');
	return !buf_failed(out) ||
	       fault(f, FAULT_INPUT, "table %.*s.%.*s: a message key does not fit %zu bytes",
		     SPAN_ARG(rel->schema), SPAN_ARG(rel->table), out->max_bytes);
}

/* Up to the end of the second string: ["schema","table" */
static size_t table_part(struct span key)
{
	int quotes = 0;

	for (size_t i = 0; i < key.n; i++)
		if (key.p[i] == '\\')
			i++;
		else if (key.p[i] == '"' && ++quotes == 4)
			return i + 1;
	return key.n;
}

static int partition_of(struct span text, int partition_count)
{
	uint64_t h = 0xcbf29ce484222325; /* FNV-1a, 64 bits */

	for (size_t i = 0; i < text.n; i++)
		h = (h ^ (uint8_t)text.p[i]) * 0x100000001b3;
	return (int)((uint32_t)(h >> 32 ^ h) % (uint32_t)partition_count);
}

int relation_copy_partition(const struct relation *rel, struct span key, int partition_count)
{
	size_t n = rel->routing == ROUTE_TABLE || rel->keyless ? table_part(key) : key.n;

	return partition_of(span(key.p, n), partition_count);
}

int relation_partition(const struct relation *rel, struct span key, int partition_count)
{
	switch (rel->routing) {
	case ROUTE_TRANSACTION:
		return RELATION_TRANSACTION_PARTITION;
	case ROUTE_GROUP:
		return partition_of(rel->family, partition_count);
	case ROUTE_KEY:
	case ROUTE_TABLE:
	case ROUTINGS:
		break;
	}
	return relation_copy_partition(rel, key, partition_count);
}
