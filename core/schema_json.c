// SPDX-License-Identifier: Apache-2.0
#include "core/schema_json.h"

#include <avro.h>
#include <ctype.h>
#include <jansson.h>

#include "core/codec.h"

/* clang-format off */
#define HEAD_FIELDS \
	"{\"name\":\"generation\",\"type\":\"long\",\"doc\":\"one life of ingest\"}," \
	"{\"name\":\"ordinal\",\"type\":\"long\",\"doc\":\"dense number in the partition; barriers and markers carry the last one\"}," \
	"{\"name\":\"op\",\"type\":\"string\",\"doc\":\"c create, u update, d delete, r read by a copy, t truncate, m other exclusive event, b barrier, f fence, s base, e end of a copy\"}," \
	"{\"name\":\"source\",\"type\":{\"type\":\"record\",\"name\":\"Source\",\"namespace\":\"foreshadow\",\"doc\":\"where in the source's WAL\",\"fields\":[" \
		"{\"name\":\"commit_lsn\",\"type\":\"long\",\"doc\":\"where the transaction's commit record starts\"}," \
		"{\"name\":\"seq\",\"type\":\"long\",\"doc\":\"number within the transaction\"}," \
		"{\"name\":\"lsn\",\"type\":\"long\",\"doc\":\"of the change itself\",\"default\":0}," \
		"{\"name\":\"txId\",\"type\":\"long\",\"default\":0}," \
		"{\"name\":\"ts_us\",\"type\":\"long\",\"doc\":\"commit time, microseconds since 1970 UTC\",\"default\":0}," \
		"{\"name\":\"snapshot\",\"type\":\"boolean\",\"doc\":\"from a copy, not from the WAL\",\"default\":false}]}}," \
	"{\"name\":\"boundary\",\"type\":\"long\",\"doc\":\"barrier, copy: the cut between transactions\",\"default\":0}," \
	"{\"name\":\"attempt\",\"type\":\"int\",\"doc\":\"number of the table's copy\",\"default\":0}"

#define FIXED_SCHEMA(name, doc, fields) \
	"{\"type\":\"record\",\"name\":\"" name "\",\"namespace\":\"foreshadow\",\"doc\":\"" doc "\",\"fields\":[" \
	HEAD_FIELDS "," fields "]}"

#define EXCLUSIVE_FIELDS \
	"{\"name\":\"kind\",\"type\":\"string\",\"doc\":\"truncate, copy, relation, rekey\"}," \
	"{\"name\":\"restart_identity\",\"type\":\"boolean\",\"default\":false}," \
	"{\"name\":\"cascade\",\"type\":\"boolean\",\"default\":false}," \
	"{\"name\":\"in_place\",\"type\":\"boolean\",\"doc\":\"truncate: in this partition alone, not exclusive\",\"default\":false}," \
	"{\"name\":\"tables\",\"type\":{\"type\":\"array\",\"items\":{\"type\":\"record\",\"name\":\"ExclusiveTable\",\"fields\":[" \
		"{\"name\":\"oid\",\"type\":\"long\",\"doc\":\"of the table on the source\"}," \
		"{\"name\":\"version\",\"type\":\"int\",\"doc\":\"of the relation\"}," \
		"{\"name\":\"attempt\",\"type\":\"int\",\"doc\":\"copy: its number\",\"default\":0}]}},\"default\":[]}," \
	"{\"name\":\"changes\",\"type\":{\"type\":\"array\",\"items\":\"bytes\"},\"doc\":\"rekey: complete change records in source order\",\"default\":[]}"

#define BARRIER_FIELDS \
	"{\"name\":\"counts\",\"type\":{\"type\":\"array\",\"items\":{\"type\":\"record\",\"name\":\"Count\",\"fields\":[" \
		"{\"name\":\"table\",\"type\":\"string\"}," \
		"{\"name\":\"decoded\",\"type\":\"long\",\"doc\":\"changes read from the WAL so far\"}," \
		"{\"name\":\"published\",\"type\":\"long\",\"doc\":\"changes written to the topic so far\"}]}},\"doc\":\"in partition 0\",\"default\":[]}"

#define MARKER_FIELDS \
	"{\"name\":\"oid\",\"type\":\"long\",\"doc\":\"end of a copy: of the table on the source\",\"default\":0}," \
	"{\"name\":\"record_count\",\"type\":\"long\",\"doc\":\"end of a copy: its records in this partition\",\"default\":0}," \
	"{\"name\":\"routing_version\",\"type\":\"long\",\"doc\":\"base: the routing from here on\",\"default\":0}"

const char schema_head_json[] = HEAD_FIELDS;

/* The fingerprints are frozen: a test computes them. A change of a schema above is a new format. */
static const struct codec_fixed fixed[] = {
	[EVENT_EXCLUSIVE] = { "foreshadow.Exclusive",
		FIXED_SCHEMA("Exclusive", "an event that runs alone on the whole target", EXCLUSIVE_FIELDS),
		0x37ddb03d42f161c7 },
	[EVENT_BARRIER] = { "foreshadow.Barrier",
		FIXED_SCHEMA("Barrier", "a transaction boundary, in every partition", BARRIER_FIELDS),
		0x0392a7a812f3bdad },
	[EVENT_MARKER] = { "foreshadow.Marker",
		FIXED_SCHEMA("Marker", "fence, base, or end of a copy", MARKER_FIELDS),
		0x9445a07aec7e678a },
};
/* clang-format on */

const struct codec_fixed *codec_fixed(enum event_kind kind)
{
	return kind == EVENT_CHANGE ? NULL : &fixed[kind];
}

void schema_name(struct span name, struct buf *out)
{
	for (size_t i = 0; i < name.n; i++) {
		unsigned char c = (unsigned char)name.p[i];

		if (c < 0x80 && (isalpha(c) || c == '_' || (isdigit(c) && i > 0)))
			buf_u8(out, c);
		else
			buf_printf(out, "_x%02x", c);
	}
}

/* --- building --- */

/* Avro type of a kind: its logical type, and whether a string branch stands beside it. */
static const struct schema_kind {
	const char *type, *logical;
	bool has_text;
} schema_kinds[VALUE_KINDS] = {
	[VALUE_BOOL] = { "boolean" },
	[VALUE_INT2] = { "int" },
	[VALUE_INT4] = { "int" },
	[VALUE_INT8] = { "long" },
	[VALUE_FLOAT4] = { "float" },
	[VALUE_FLOAT8] = { "double" },
	[VALUE_TEXT] = { "string" },
	[VALUE_BPCHAR] = { "string" },
	[VALUE_JSONB] = { "string" },
	[VALUE_BYTEA] = { "bytes" },
	[VALUE_UUID] = { "string", "uuid" },
	[VALUE_DATE] = { "int", "date", true },
	[VALUE_TIME] = { "long", "time-micros", true },
	[VALUE_TIMESTAMP] = { "long", "local-timestamp-micros", true },
	[VALUE_TIMESTAMPTZ] = { "long", "timestamp-micros", true },
	[VALUE_DECIMAL] = { "bytes", "decimal", true },
	[VALUE_NUMERIC] = { "string" },
	[VALUE_OTHER] = { "string" },
};

/* Type of a column: [null, native, string]. NULL when out of memory. */
static json_t *column_type(const struct value_type *t)
{
	const struct schema_kind *k = &schema_kinds[t->kind];
	json_t *native = k->logical
			     ? json_pack("{s:s, s:s}", "type", k->type, "logicalType", k->logical)
			     : json_string(k->type);

	if (t->kind == VALUE_DECIMAL &&
	    (json_object_set_new(native, "precision", json_integer(t->precision)) < 0 ||
	     json_object_set_new(native, "scale", json_integer(t->scale)) < 0)) {
		json_decref(native);
		return NULL;
	}
	return k->has_text ? json_pack("[s, o, s]", "null", native, "string")
			   : json_pack("[s, o]", "null", native);
}

static json_t *column_field(const struct column *col, struct buf *name)
{
	buf_reset(name);
	schema_name(col->name, name);
	return json_pack("{s:s%, s:o, s:n, s:s%, s:s%, s:i}", "name", name->p, name->n, "type",
			 column_type(&col->type), "default", "pg.name", col->name.p, col->name.n,
			 "pg.type", col->type_name.p ? col->type_name.p : "", col->type_name.n,
			 "pg.typmod", (int)col->typmod);
}

/* Two columns whose names become the same name in Avro would be one field. */
static bool check_collision(const struct relation *rel, json_t *seen, const char *name, size_t i,
			    struct fault *f)
{
	json_t *first = json_object_get(seen, name);

	if (!first) {
		json_object_set_new(seen, name, json_integer((json_int_t)i));
		return true;
	}
	struct span other = rel->columns[json_integer_value(first)].name;
	return fault(
	    f, FAULT_INPUT,
	    "table %.*s.%.*s: columns \"%.*s\" and \"%.*s\" have the same name in Avro (%s): "
	    "rename one of them",
	    SPAN_ARG(rel->schema), SPAN_ARG(rel->table), SPAN_ARG(other),
	    SPAN_ARG(rel->columns[i].name), name);
}

static bool add_columns(const struct relation *rel, json_t *fields, struct fault *f)
{
	json_t *seen = json_object();
	struct buf name;
	bool ok = true;

	buf_init(&name, 64 << 10);
	for (size_t i = 0; i < rel->column_count && ok; i++) {
		const struct column *col = &rel->columns[i];

		if (col->is_dropped)
			continue;
		if (json_array_append_new(fields, column_field(col, &name)) < 0)
			ok = fault(
			    f, FAULT_INPUT,
			    "table %.*s.%.*s: column \"%.*s\" has a name or type that is not UTF-8",
			    SPAN_ARG(rel->schema), SPAN_ARG(rel->table), SPAN_ARG(col->name));
		else
			ok = check_collision(rel, seen, buf_cstr(&name), i, f);
	}
	buf_release(&name);
	json_decref(seen);
	return ok;
}

/* The fields behind the head. value and its reference by full name are taken over. */
static json_t *envelope_fields(json_t *value, const char *value_name)
{
	json_t *fields = json_loads("[" HEAD_FIELDS "]", 0, NULL);
	json_t *own = json_pack(
	    "[{s:s, s:{s:s, s:s}, s:s, s:[]}, {s:s, s:[s, o], s:n}, {s:s, s:[s, s], s:n}]", "name",
	    "unchanged", "type", "type", "array", "items", "string", "doc",
	    "names of columns that were not sent: they keep their value", "default", "name",
	    "before", "type", "null", value, "default", "name", "after", "type", "null", value_name,
	    "default");

	if (!own || json_array_extend(fields, own) < 0) {
		json_decref(fields);
		fields = NULL;
	}
	json_decref(own);
	return fields;
}

static json_t *envelope(const struct relation *rel, const char *namespace, const char *name,
			const char *value_name, json_t *columns)
{
	json_t *value = json_pack("{s:s, s:s, s:O}", "type", "record", "name", "Value", "fields",
				  columns);

	return json_pack("{s:s, s:s, s:s, s:s%, s:s%, s:o}", "type", "record", "name", name,
			 "namespace", namespace, "pg.schema", rel->schema.p, rel->schema.n,
			 "pg.table", rel->table.p, rel->table.n, "fields",
			 envelope_fields(value, value_name));
}

/* <m>.<schema>.<table>, each part in Avro's alphabet. */
static char *envelope_namespace(const char *migration, const struct relation *rel, struct arena *a)
{
	struct buf b;
	char *namespace = NULL;

	buf_init(&b, 64 << 10);
	schema_name(span_str(migration), &b);
	buf_u8(&b, '.');
	schema_name(rel->schema, &b);
	buf_u8(&b, '.');
	schema_name(rel->table, &b);
	if (!buf_failed(&b))
	namespace = arena_str(a, buf_span(&b));
	buf_release(&b);
	return namespace;
}

static bool write_envelope(const char *migration, const struct relation *rel, unsigned suffix,
			   json_t *columns, struct buf *out, struct fault *f)
{
	char *namespace, *name, *value_name, *text = NULL;
	json_t *schema = NULL;
	struct arena a;

	arena_init(&a, 256 << 10);
	namespace = envelope_namespace(migration, rel, &a);
	name = suffix > 0 ? arena_printf(&a, "Envelope_v%u", suffix) : arena_printf(&a, "Envelope");
	value_name = arena_printf(&a, "%s.Value", namespace ? namespace : "");
	if (namespace && !arena_failed(&a))
		schema = envelope(rel, namespace, name, value_name, columns);
	if (schema)
		text = json_dumps(schema, JSON_COMPACT);
	if (text)
		buf_str(out, text);
	free(text);
	json_decref(schema);
	arena_release(&a);
	return (text && !buf_failed(out)) ||
	       fault(f, FAULT_INTERNAL,
		     "table %.*s.%.*s: no memory for its Avro schema, or a name that is not UTF-8",
		     SPAN_ARG(rel->schema), SPAN_ARG(rel->table));
}

bool codec_schema(const char *migration, const struct relation *rel, unsigned suffix,
		  struct buf *out, struct fault *f)
{
	json_t *columns;
	bool ok;

	if (rel->column_count == 0)
		return fault(f, FAULT_INPUT,
			     "table %.*s.%.*s has no columns: there is nothing to replicate",
			     SPAN_ARG(rel->schema), SPAN_ARG(rel->table));
	columns = json_array();
	ok = add_columns(rel, columns, f) &&
	     write_envelope(migration, rel, suffix, columns, out, f);
	json_decref(columns);
	return ok;
}

/* --- canonical form --- */

enum { CANONICAL_MAX_DEPTH = 64 };

struct canonical {
	struct buf *out;
	struct fault *f;
	int depth;
};

static bool canonical_type(struct canonical *c, json_t *type, const char *namespace);

static bool canonical_fault(struct canonical *c, const char *what, const char *seen)
{
	return fault(c->f, FAULT_INPUT, "Avro schema: %s%s%s", what, seen ? ": " : "",
		     seen ? seen : "");
}

static bool is_primitive(const char *type)
{
	static const char *const primitives[] = { "null",  "boolean", "int",   "long",
						  "float", "double",  "bytes", "string" };

	for (size_t i = 0; i < sizeof(primitives) / sizeof(primitives[0]); i++)
		if (strcmp(type, primitives[i]) == 0)
			return true;
	return false;
}

static bool canonical_string(struct canonical *c, json_t *s, const char *what)
{
	char *text = json_is_string(s) ? json_dumps(s, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;

	if (!text)
		return canonical_fault(c, "a string is missing", what);
	buf_str(c->out, text);
	free(text);
	return true;
}

/* A name with a dot is full already. */
static bool canonical_name(struct canonical *c, const char *name, const char *namespace)
{
	if (!*name || strpbrk(name, "\"\\") || strpbrk(namespace, "\"\\"))
		return canonical_fault(c, "not a name", name);
	if (strchr(name, '.') || !*namespace)
		buf_printf(c->out, "\"%s\"", name);
	else
		buf_printf(c->out, "\"%s.%s\"", namespace, name);
	return true;
}

static bool canonical_union(struct canonical *c, json_t *branches, const char *namespace)
{
	json_t *branch;
	size_t i;

	buf_u8(c->out, '[');
	json_array_foreach(branches, i, branch)
	{
		if (i > 0)
			buf_u8(c->out, ',');
		if (!canonical_type(c, branch, namespace))
			return false;
	}
	buf_u8(c->out, ']');
	return true;
}

static bool canonical_fields(struct canonical *c, json_t *fields, const char *namespace)
{
	json_t *field;
	size_t i;

	if (!json_is_array(fields))
		return canonical_fault(c, "a record without fields", NULL);
	buf_str(c->out, ",\"fields\":[");
	json_array_foreach(fields, i, field)
	{
		buf_str(c->out, i > 0 ? ",{\"name\":" : "{\"name\":");
		if (!canonical_string(c, json_object_get(field, "name"), "name of a field"))
			return false;
		buf_str(c->out, ",\"type\":");
		if (!canonical_type(c, json_object_get(field, "type"), namespace))
			return false;
		buf_u8(c->out, '}');
	}
	buf_str(c->out, "]");
	return true;
}

static bool canonical_symbols(struct canonical *c, json_t *symbols)
{
	json_t *symbol;
	size_t i;

	if (!json_is_array(symbols))
		return canonical_fault(c, "an enum without symbols", NULL);
	buf_str(c->out, ",\"symbols\":[");
	json_array_foreach(symbols, i, symbol)
	{
		if (i > 0)
			buf_u8(c->out, ',');
		if (!canonical_string(c, symbol, "symbol of an enum"))
			return false;
	}
	buf_u8(c->out, ']');
	return true;
}

static bool canonical_size(struct canonical *c, json_t *size)
{
	if (!json_is_integer(size) || json_integer_value(size) < 0)
		return canonical_fault(c, "a fixed without size", NULL);
	buf_printf(c->out, ",\"size\":%" JSON_INTEGER_FORMAT, json_integer_value(size));
	return true;
}

/* record, enum, fixed: what is inside takes its namespace from the full name. */
static bool canonical_named(struct canonical *c, json_t *type, const char *kind, const char *outer)
{
	const char *name = json_string_value(json_object_get(type, "name"));
	const char *own = json_string_value(json_object_get(type, "namespace"));
	const char *namespace = own ? own : outer;
	char *inner = NULL;
	bool ok;

	if (!name)
		return canonical_fault(c, "a type without name", kind);
	buf_str(c->out, "{\"name\":");
	if (!canonical_name(c, name, namespace))
		return false;
	buf_printf(c->out, ",\"type\":\"%s\"", kind);
	inner = strrchr(name, '.') ? strndup(name, (size_t)(strrchr(name, '.') - name))
				   : strdup(namespace);
	if (!inner)
		return canonical_fault(c, "no memory", NULL);
	if (strcmp(kind, "enum") == 0)
		ok = canonical_symbols(c, json_object_get(type, "symbols"));
	else if (strcmp(kind, "fixed") == 0)
		ok = canonical_size(c, json_object_get(type, "size"));
	else
		ok = canonical_fields(c, json_object_get(type, "fields"), inner);
	free(inner);
	buf_u8(c->out, '}');
	return ok;
}

static bool canonical_container(struct canonical *c, json_t *type, const char *kind,
				const char *attribute, const char *namespace)
{
	buf_printf(c->out, "{\"type\":\"%s\",\"%s\":", kind, attribute);
	if (!canonical_type(c, json_object_get(type, attribute), namespace))
		return false;
	buf_u8(c->out, '}');
	return true;
}

static bool canonical_object(struct canonical *c, json_t *type, const char *namespace)
{
	const char *kind = json_string_value(json_object_get(type, "type"));

	if (!kind)
		return canonical_type(c, json_object_get(type, "type"), namespace);
	if (strcmp(kind, "record") == 0 || strcmp(kind, "error") == 0 ||
	    strcmp(kind, "enum") == 0 || strcmp(kind, "fixed") == 0)
		return canonical_named(c, type, kind, namespace);
	if (strcmp(kind, "array") == 0)
		return canonical_container(c, type, kind, "items", namespace);
	if (strcmp(kind, "map") == 0)
		return canonical_container(c, type, kind, "values", namespace);
	return canonical_type(c, json_object_get(type, "type"), namespace);
}

static bool canonical_type(struct canonical *c, json_t *type, const char *namespace)
{
	bool ok;

	if (c->depth == CANONICAL_MAX_DEPTH)
		return canonical_fault(c, "too deep", NULL);
	c->depth++;
	if (json_is_string(type))
		ok = is_primitive(json_string_value(type))
			 ? canonical_string(c, type, "type")
			 : canonical_name(c, json_string_value(type), namespace);
	else if (json_is_array(type))
		ok = canonical_union(c, type, namespace);
	else if (json_is_object(type))
		ok = canonical_object(c, type, namespace);
	else
		ok = canonical_fault(c, "a type is missing", NULL);
	c->depth--;
	return ok;
}

bool schema_canonical(struct span json, struct buf *out, struct fault *f)
{
	struct canonical c = { .out = out, .f = f };
	json_error_t error;
	json_t *type = json_loadb(json.p ? json.p : "", json.n,
				  JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
	bool ok;

	if (!type)
		return fault(f, FAULT_INPUT, "Avro schema is not JSON: line %d: %s", error.line,
			     error.text);
	ok = canonical_type(&c, type, "");
	json_decref(type);
	if (ok && buf_failed(out))
		return fault(f, FAULT_INPUT, "Avro schema of %zu bytes is too large", json.n);
	return ok;
}

/* As in the Avro specification, bit by bit: schemas are few. */
uint64_t schema_crc64(struct span bytes)
{
	const uint64_t empty = 0xc15d213aa4d7a795;
	uint64_t crc = empty;

	for (size_t i = 0; i < bytes.n; i++) {
		crc ^= (uint8_t)bytes.p[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (empty & -(crc & 1));
	}
	return crc;
}

bool schema_check(struct span json, struct fault *f)
{
	avro_schema_t schema;

	if (avro_schema_from_json_length(json.p, json.n, &schema) != 0)
		return fault(f, FAULT_INPUT, "Avro refuses the schema: %s", avro_strerror());
	avro_schema_decref(schema);
	return true;
}

bool codec_fingerprint(struct span schema_json, uint64_t *ret, struct fault *f)
{
	struct buf canonical;
	bool ok;

	buf_init(&canonical, 16 << 20);
	ok = schema_canonical(schema_json, &canonical, f) && schema_check(schema_json, f);
	if (ok)
		*ret = schema_crc64(buf_span(&canonical));
	buf_release(&canonical);
	return ok;
}
