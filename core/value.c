// SPDX-License-Identifier: Apache-2.0
/*
 * Each kind is a reader of text cells, a reader of binary cells and two writers. A value in the
 * text state goes back to the binary form through the same reader of text, into the number that
 * PostgreSQL itself uses for what no other system can hold (infinity, BC, 24:00:00).
 */
#include "core/value.h"


#include "core/cursor.h"
#include "core/numeric.h"
#include "core/scalar.h"
#include "core/temporal.h"

/* Type OIDs are frozen in PostgreSQL: src/include/catalog/pg_type.dat. */
enum {
	OID_TEXT = 25,
	OID_TEXT_ARRAY = 1009,
	OID_NUMERIC = 1700,
};

enum { JSONB_VERSION = 1, SEEN_MAX = 64 };

static const struct kind_row {
	const char *name;
	uint32_t element_oid, array_oid;
} kinds[VALUE_KINDS] = {
	[VALUE_BOOL] = { "bool", 16, 1000 },
	[VALUE_INT2] = { "int2", 21, 1005 },
	[VALUE_INT4] = { "int4", 23, 1007 },
	[VALUE_INT8] = { "int8", 20, 1016 },
	[VALUE_FLOAT4] = { "float4", 700, 1021 },
	[VALUE_FLOAT8] = { "float8", 701, 1022 },
	[VALUE_TEXT] = { "text", OID_TEXT, OID_TEXT_ARRAY },
	[VALUE_BPCHAR] = { "bpchar", OID_TEXT, OID_TEXT_ARRAY },
	[VALUE_JSONB] = { "jsonb", OID_TEXT, OID_TEXT_ARRAY },
	[VALUE_BYTEA] = { "bytea", 17, 1001 },
	[VALUE_UUID] = { "uuid", 2950, 2951 },
	[VALUE_DATE] = { "date", 1082, 1182 },
	[VALUE_TIME] = { "time", 1083, 1183 },
	[VALUE_TIMESTAMP] = { "timestamp", 1114, 1115 },
	[VALUE_TIMESTAMPTZ] = { "timestamptz", 1184, 1185 },
	[VALUE_DECIMAL] = { "decimal", OID_NUMERIC, 1231 },
	[VALUE_NUMERIC] = { "numeric", OID_NUMERIC, 1231 },
	[VALUE_OTHER] = { "other", OID_TEXT, OID_TEXT_ARRAY },
};

/* What is not here is OTHER: "char" too, whose text form of a byte >= 0x80 depends on the version.
 */
static const struct type_row {
	uint32_t oid;
	enum value_kind kind;
} types[] = {
	{ 16, VALUE_BOOL },          { 17, VALUE_BYTEA },   { 19, VALUE_TEXT }, /* name */
	{ 20, VALUE_INT8 },          { 21, VALUE_INT2 },    { 23, VALUE_INT4 },
	{ OID_TEXT, VALUE_TEXT },    { 114, VALUE_TEXT }, /* json */
	{ 142, VALUE_TEXT }, /* xml: both forms are alike as long as client_encoding is UTF8 */
	{ 700, VALUE_FLOAT4 },       { 701, VALUE_FLOAT8 }, { 1042, VALUE_BPCHAR },
	{ 1043, VALUE_TEXT }, /* varchar */
	{ 1082, VALUE_DATE },        { 1083, VALUE_TIME },  { 1114, VALUE_TIMESTAMP },
	{ 1184, VALUE_TIMESTAMPTZ }, { 2950, VALUE_UUID },  { 3802, VALUE_JSONB },
};

/*
 * numeric's typmod: 4 + (precision << 16 | scale), the scale a signed number of 11 bits since
 * PostgreSQL 15, before that 0 ... 1000: the same bits.
 */
static struct value_type type_of_numeric(int32_t typmod)
{
	uint32_t bits = (uint32_t)typmod - 4;
	int precision = (int)(bits >> 16 & 0xffff), scale = (int)((bits & 0x7ff) ^ 1024) - 1024;

	if (typmod < 4 || precision > NUMERIC_PRECISION_MAX || scale < 0 || scale > precision)
		return (struct value_type) { .kind = VALUE_NUMERIC };
	return (struct value_type) { VALUE_DECIMAL, precision, scale };
}

struct value_type value_type_of(uint32_t base_type_oid, int32_t typmod, bool is_enum)
{
	if (is_enum)
		return (struct value_type) { .kind = VALUE_TEXT };
	if (base_type_oid == OID_NUMERIC)
		return type_of_numeric(typmod);
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (types[i].oid == base_type_oid)
			return (struct value_type) { .kind = types[i].kind };
	return (struct value_type) { .kind = VALUE_OTHER };
}

const char *value_kind_name(enum value_kind kind)
{
	return kinds[kind].name;
}

bool value_kind_has_binary(enum value_kind kind)
{
	return kind != VALUE_OTHER;
}

uint32_t value_element_oid(enum value_kind kind)
{
	return kinds[kind].element_oid;
}

uint32_t value_array_oid(enum value_kind kind)
{
	return kinds[kind].array_oid;
}

/* Says what was seen: characters as they are, other bytes as '?'. */
static bool refuse_text(const struct value_type *t, struct span text, struct fault *f)
{
	char seen[SEEN_MAX];
	size_t n = text.n < SEEN_MAX ? text.n : SEEN_MAX;

	for (size_t i = 0; i < n; i++)
		seen[i] = text.p[i] >= ' ' && text.p[i] <= '~' ? text.p[i] : '?';
	return fault(f, FAULT_INPUT,
		     "%s: \"%.*s\"%s (%zu bytes) is not a value as PostgreSQL prints it "
		     "(DateStyle ISO, TimeZone UTC, bytea_output hex)",
		     kinds[t->kind].name, (int)n, seen, n < text.n ? "..." : "", text.n);
}

static bool refuse_binary(const struct value_type *t, struct span cell, struct fault *f)
{
	static const char digits[] = "0123456789abcdef";
	char seen[SEEN_MAX];
	size_t n = cell.n < SEEN_MAX / 2 ? cell.n : SEEN_MAX / 2;

	for (size_t i = 0; i < n; i++) {
		seen[2 * i] = digits[(uint8_t)cell.p[i] >> 4];
		seen[2 * i + 1] = digits[(uint8_t)cell.p[i] & 15];
	}
	return fault(f, FAULT_INPUT, "%s: the %zu bytes %.*s%s are not its binary form",
		     kinds[t->kind].name, cell.n, (int)(2 * n), seen, n < cell.n ? "..." : "");
}

static bool refuse_native(const struct value_type *t, const struct value *v, struct fault *f)
{
	return fault(f, FAULT_INPUT, "%s: %lld (%zu bytes) is outside what the type can hold",
		     kinds[t->kind].name, (long long)v->i, v->bytes.n);
}

static bool refuse_state(const struct value_type *t, const struct value *v, const char *wanted,
			 struct fault *f)
{
	return fault(f, FAULT_INPUT, "%s: a value that is %s where %s is needed",
		     kinds[t->kind].name, v->state == VALUE_IS_NULL ? "null" : "unchanged", wanted);
}

static bool out_of_memory(const struct value_type *t, struct fault *f)
{
	return fault(f, FAULT_INTERNAL, "%s: no memory for a value", kinds[t->kind].name);
}

static void set_i(struct value *ret, int64_t i)
{
	*ret = (struct value) { .state = VALUE_IS_NATIVE, .i = i };
}

static void set_d(struct value *ret, double d)
{
	*ret = (struct value) { .state = VALUE_IS_NATIVE, .d = d };
}

static void set_bytes(struct value *ret, struct span bytes)
{
	*ret = (struct value) { .state = VALUE_IS_NATIVE, .bytes = bytes };
}

static void set_text(struct value *ret, struct span text)
{
	*ret = (struct value) { .state = VALUE_IS_TEXT, .bytes = text };
}

static bool int_is_valid(enum value_kind kind, int64_t i)
{
	return kind == VALUE_INT8 || (kind == VALUE_INT4 ? i == (int32_t)i : i == (int16_t)i);
}

/* May this number be the native form of a date, a time or a timestamp? */
static bool temporal_is_native(enum value_kind kind, int64_t i)
{
	if (kind == VALUE_DATE)
		return i >= TEMPORAL_FIRST_DAY && i < TEMPORAL_END_DAY;
	if (kind == VALUE_TIME)
		return i >= 0 && i < TEMPORAL_DAY_US;
	return i >= TEMPORAL_FIRST_DAY * TEMPORAL_DAY_US && i < TEMPORAL_END_DAY * TEMPORAL_DAY_US;
}

/* PostgreSQL's number of a date, time or timestamp from its text. */
static bool temporal_from_text(enum value_kind kind, struct span text, int64_t *ret)
{
	int32_t days;

	if (kind == VALUE_TIME)
		return temporal_parse_time(text, ret);
	if (kind != VALUE_DATE)
		return temporal_parse_timestamp(text, kind == VALUE_TIMESTAMPTZ, ret);
	if (!temporal_parse_date(text, &days))
		return false;
	*ret = days;
	return true;
}

static size_t temporal_print(enum value_kind kind, int64_t number, char *out)
{
	if (kind == VALUE_DATE)
		return temporal_print_date((int32_t)number, out);
	if (kind == VALUE_TIME)
		return temporal_print_time(number, out);
	return temporal_print_timestamp(number, kind == VALUE_TIMESTAMPTZ, out);
}

static int64_t temporal_epoch(enum value_kind kind)
{
	if (kind == VALUE_TIME)
		return 0;
	return kind == VALUE_DATE ? TEMPORAL_EPOCH_DAYS : TEMPORAL_EPOCH_US;
}

/* False: not native. The extremes stand for infinity and must not wrap around. */
static bool set_temporal(enum value_kind kind, int64_t number, struct value *ret)
{
	int64_t i;

	if (__builtin_add_overflow(number, temporal_epoch(kind), &i) ||
	    !temporal_is_native(kind, i))
		return false;
	set_i(ret, i);
	return true;
}

static bool set_decimal(numeric_unscaled v, struct arena *a, struct value *ret)
{
	char *p = arena_alloc(a, NUMERIC_DECIMAL_BYTES);

	if (!p)
		return false;
	set_bytes(ret, span(p, numeric_decimal_to_bytes(v, p)));
	return true;
}

static bool set_uuid(const char *bytes, struct arena *a, struct value *ret)
{
	char *p = arena_alloc(a, SCALAR_UUID_TEXT);

	if (!p)
		return false;
	scalar_uuid_print(bytes, p);
	set_bytes(ret, span(p, SCALAR_UUID_TEXT));
	return true;
}

static bool uuid_from_text(const struct value_type *t, struct span text, struct arena *a,
			   struct value *ret, struct fault *f)
{
	char bytes[SCALAR_UUID_BYTES];

	if (!scalar_uuid_parse(text, bytes))
		return refuse_text(t, text, f);
	return set_uuid(bytes, a, ret) || out_of_memory(t, f);
}

static bool bytea_is_hex(struct span text)
{
	return text.n >= 2 && text.n % 2 == 0 && memcmp(text.p, "\\x", 2) == 0;
}

static bool bytea_from_text(const struct value_type *t, struct span text, struct arena *a,
			    struct value *ret, struct fault *f)
{
	size_t n;
	char *p;

	if (!bytea_is_hex(text))
		return refuse_text(t, text, f);
	n = text.n / 2 - 1;
	p = arena_alloc(a, n);
	if (!p)
		return out_of_memory(t, f);
	if (!scalar_hex_decode(text.p + 2, n, p))
		return refuse_text(t, text, f);
	set_bytes(ret, span(p, n));
	return true;
}

static bool decimal_from_text(const struct value_type *t, struct span text, struct arena *a,
			      struct value *ret, struct fault *f)
{
	numeric_unscaled v;

	if (numeric_decimal_from_text(text, t->precision, t->scale, &v))
		return set_decimal(v, a, ret) || out_of_memory(t, f);
	if (!numeric_text_is_valid(text))
		return refuse_text(t, text, f);
	set_text(ret, text);
	return true;
}

static bool value_from_text(const struct value_type *t, struct span text, struct arena *a,
			    struct value *ret, struct fault *f)
{
	int64_t i;
	double d;

	switch (t->kind) {
	case VALUE_BOOL:
		if (text.n != 1 || (text.p[0] != 't' && text.p[0] != 'f'))
			return refuse_text(t, text, f);
		set_i(ret, text.p[0] == 't');
		return true;
	case VALUE_INT2:
	case VALUE_INT4:
	case VALUE_INT8:
		if (!scalar_int_parse(text, &i) || !int_is_valid(t->kind, i))
			return refuse_text(t, text, f);
		set_i(ret, i);
		return true;
	case VALUE_FLOAT4:
	case VALUE_FLOAT8:
		if (!scalar_float_parse(text, t->kind == VALUE_FLOAT4, &d))
			return refuse_text(t, text, f);
		set_d(ret, d);
		return true;
	case VALUE_TEXT:
	case VALUE_BPCHAR:
	case VALUE_JSONB:
		set_bytes(ret, text);
		return true;
	case VALUE_BYTEA:
		return bytea_from_text(t, text, a, ret, f);
	case VALUE_UUID:
		return uuid_from_text(t, text, a, ret, f);
	case VALUE_DATE:
	case VALUE_TIME:
	case VALUE_TIMESTAMP:
	case VALUE_TIMESTAMPTZ:
		if (!temporal_from_text(t->kind, text, &i))
			return refuse_text(t, text, f);
		if (!set_temporal(t->kind, i, ret))
			set_text(ret, text);
		return true;
	case VALUE_DECIMAL:
		return decimal_from_text(t, text, a, ret, f);
	case VALUE_NUMERIC:
		if (!numeric_text_is_valid(text))
			return refuse_text(t, text, f);
		set_text(ret, text);
		return true;
	case VALUE_OTHER:
	case VALUE_KINDS:
		break;
	}
	set_text(ret, text);
	return true;
}

/* The number of a fixed-length binary form; its length was checked. */
static int64_t number_from_binary(struct span cell)
{
	struct cursor c = cursor(cell);

	switch (cell.n) {
	case 1:
		return cursor_u8(&c);
	case 2:
		return cursor_i16(&c);
	case 4:
		return cursor_i32(&c);
	default:
		return cursor_i64(&c);
	}
}

static double float_from_bits(int64_t number)
{
	uint32_t bits = (uint32_t)number;
	float ret;

	memcpy(&ret, &bits, sizeof(ret));
	return ret;
}

static double double_from_bits(int64_t number)
{
	double ret;

	memcpy(&ret, &number, sizeof(ret));
	return ret;
}

/* Infinite, BC and late ones included: does PostgreSQL have it? */
static bool temporal_is_valid(enum value_kind kind, int64_t number)
{
	if (kind == VALUE_DATE)
		return temporal_date_is_valid((int32_t)number);
	if (kind == VALUE_TIME)
		return temporal_time_is_valid(number);
	return temporal_timestamp_is_valid(number);
}

static bool temporal_from_binary(const struct value_type *t, struct span cell, struct arena *a,
				 struct value *ret, struct fault *f)
{
	int64_t number = number_from_binary(cell);
	char *p;

	if (set_temporal(t->kind, number, ret))
		return true;
	if (!temporal_is_valid(t->kind, number))
		return refuse_binary(t, cell, f);
	p = arena_alloc(a, TEMPORAL_TEXT);
	if (!p)
		return out_of_memory(t, f);
	set_text(ret, span(p, temporal_print(t->kind, number, p)));
	return true;
}

static bool decimal_from_binary(const struct value_type *t, struct span cell, struct arena *a,
				struct value *ret, struct fault *f)
{
	numeric_unscaled v;
	struct span text;

	if (t->kind == VALUE_DECIMAL &&
	    numeric_decimal_from_binary(cell, t->precision, t->scale, &v))
		return set_decimal(v, a, ret) || out_of_memory(t, f);
	if (!numeric_text_from_binary(cell, a, &text))
		return arena_failed(a) ? out_of_memory(t, f) : refuse_binary(t, cell, f);
	return value_from_text(t, text, a, ret, f);
}

/* 0: any length. */
static size_t binary_length(enum value_kind kind)
{
	static const uint8_t bytes[VALUE_KINDS] = {
		[VALUE_BOOL] = 1,          [VALUE_INT2] = 2,        [VALUE_INT4] = 4,
		[VALUE_INT8] = 8,          [VALUE_FLOAT4] = 4,      [VALUE_FLOAT8] = 8,
		[VALUE_UUID] = SCALAR_UUID_BYTES, [VALUE_DATE] = 4,        [VALUE_TIME] = 8,
		[VALUE_TIMESTAMP] = 8,     [VALUE_TIMESTAMPTZ] = 8,
	};

	return bytes[kind];
}

static bool value_from_binary(const struct value_type *t, struct span cell, struct arena *a,
			      struct value *ret, struct fault *f)
{
	size_t wanted = binary_length(t->kind);

	if (wanted > 0 && cell.n != wanted)
		return refuse_binary(t, cell, f);
	switch (t->kind) {
	case VALUE_BOOL:
		if ((uint8_t)cell.p[0] > 1)
			return refuse_binary(t, cell, f);
		set_i(ret, cell.p[0]);
		return true;
	case VALUE_INT2:
	case VALUE_INT4:
	case VALUE_INT8:
		set_i(ret, number_from_binary(cell));
		return true;
	case VALUE_FLOAT4:
		set_d(ret, float_from_bits(number_from_binary(cell)));
		return true;
	case VALUE_FLOAT8:
		set_d(ret, double_from_bits(number_from_binary(cell)));
		return true;
	case VALUE_TEXT:
	case VALUE_BPCHAR:
	case VALUE_BYTEA:
		set_bytes(ret, cell);
		return true;
	case VALUE_JSONB:
		if (cell.n < 1 || cell.p[0] != JSONB_VERSION)
			return refuse_binary(t, cell, f);
		set_bytes(ret, span(cell.p + 1, cell.n - 1));
		return true;
	case VALUE_UUID:
		return set_uuid(cell.p, a, ret) || out_of_memory(t, f);
	case VALUE_DATE:
	case VALUE_TIME:
	case VALUE_TIMESTAMP:
	case VALUE_TIMESTAMPTZ:
		return temporal_from_binary(t, cell, a, ret, f);
	case VALUE_DECIMAL:
	case VALUE_NUMERIC:
		return decimal_from_binary(t, cell, a, ret, f);
	case VALUE_OTHER:
	case VALUE_KINDS:
		break;
	}
	return fault(f, FAULT_INPUT,
		     "%s: a binary cell (%zu bytes) of a type that only travels as text",
		     kinds[t->kind].name, cell.n);
}

bool value_from_cell(const struct value_type *t, struct cell c, struct arena *a, struct value *ret,
		     struct fault *f)
{
	switch (c.format) {
	case 't':
		return value_from_text(t, c.bytes, a, ret, f);
	case 'b':
		return value_from_binary(t, c.bytes, a, ret, f);
	case 'n':
		*ret = (struct value) { .state = VALUE_IS_NULL };
		return true;
	case 'u':
		*ret = (struct value) { .state = VALUE_IS_UNCHANGED };
		return true;
	}
	return fault(f, FAULT_INPUT, "%s: cell of format 0x%02x, wanted 'n', 'u', 't' or 'b'",
		     kinds[t->kind].name, (uint8_t)c.format);
}

/* Length and bytes of what follows the four bytes at `start`. */
static void patch_length(struct buf *out, size_t start)
{
	uint32_t n;

	if (buf_failed(out))
		return;
	n = htobe32((uint32_t)(out->n - start - 4));
	memcpy(out->p + start, &n, sizeof(n));
}

static void add_bytes(struct span bytes, struct buf *out)
{
	if (!buf_reserve(out, 4 + bytes.n))
		return;
	buf_be32(out, (uint32_t)bytes.n);
	buf_add_span(out, bytes);
}

/* The last byte_count bytes of the number. Eight are written, so that their count need not be
 * known. */
static void add_number(int64_t number, size_t byte_count, struct buf *out)
{
	uint32_t length = htobe32((uint32_t)byte_count);
	uint64_t be = htobe64((uint64_t)number << (64 - 8 * byte_count));

	if (!buf_reserve(out, sizeof(length) + sizeof(be)))
		return;
	memcpy(out->p + out->n, &length, sizeof(length));
	memcpy(out->p + out->n + sizeof(length), &be, sizeof(be));
	out->n += sizeof(length) + byte_count;
}

static void add_float(enum value_kind kind, double d, struct buf *out)
{
	float single = (float)d;
	uint32_t single_bits;
	int64_t bits;

	if (kind == VALUE_FLOAT4) {
		memcpy(&single_bits, &single, sizeof(single_bits));
		add_number(single_bits, 4, out);
	} else {
		memcpy(&bits, &d, sizeof(bits));
		add_number(bits, 8, out);
	}
}

static bool add_uuid(const struct value_type *t, struct span text, struct buf *out, struct fault *f)
{
	char bytes[SCALAR_UUID_BYTES];

	if (!scalar_uuid_parse(text, bytes))
		return refuse_text(t, text, f);
	add_bytes(span(bytes, SCALAR_UUID_BYTES), out);
	return true;
}

static bool add_numeric_text(const struct value_type *t, struct span text, struct buf *out,
			     struct fault *f)
{
	size_t start = out->n;

	buf_be32(out, 0);
	if (!numeric_text_add_binary(text, out))
		return refuse_text(t, text, f);
	patch_length(out, start);
	return true;
}

static bool add_decimal(const struct value_type *t, const struct value *v, struct buf *out,
			struct fault *f)
{
	size_t start = out->n;
	numeric_unscaled unscaled;

	if (!numeric_decimal_from_bytes(v->bytes, &unscaled))
		return refuse_native(t, v, f);
	buf_be32(out, 0);
	numeric_decimal_add_binary(unscaled, t->scale, out);
	patch_length(out, start);
	return true;
}

static bool add_native(const struct value_type *t, const struct value *v, struct buf *out,
		       struct fault *f)
{
	switch (t->kind) {
	case VALUE_BOOL:
		add_number(v->i != 0, 1, out);
		return true;
	case VALUE_INT2:
	case VALUE_INT4:
	case VALUE_INT8:
		if (!int_is_valid(t->kind, v->i))
			return refuse_native(t, v, f);
		add_number(v->i, binary_length(t->kind), out);
		return true;
	case VALUE_FLOAT4:
	case VALUE_FLOAT8:
		add_float(t->kind, v->d, out);
		return true;
	case VALUE_DATE:
	case VALUE_TIME:
	case VALUE_TIMESTAMP:
	case VALUE_TIMESTAMPTZ:
		if (!temporal_is_native(t->kind, v->i))
			return refuse_native(t, v, f);
		add_number(v->i - temporal_epoch(t->kind), binary_length(t->kind), out);
		return true;
	case VALUE_UUID:
		return add_uuid(t, v->bytes, out, f);
	case VALUE_DECIMAL:
		return add_decimal(t, v, out, f);
	case VALUE_NUMERIC:
		return add_numeric_text(t, v->bytes, out, f);
	case VALUE_TEXT:
	case VALUE_BPCHAR:
	case VALUE_JSONB:
	case VALUE_BYTEA:
	case VALUE_OTHER:
	case VALUE_KINDS:
		break;
	}
	add_bytes(v->bytes, out);
	return true;
}

static bool add_bytea_text(const struct value_type *t, struct span text, struct buf *out,
			   struct fault *f)
{
	size_t n;

	if (!bytea_is_hex(text))
		return refuse_text(t, text, f);
	n = text.n / 2 - 1;
	buf_be32(out, (uint32_t)n);
	if (!buf_reserve(out, n))
		return true;
	if (!scalar_hex_decode(text.p + 2, n, out->p + out->n))
		return refuse_text(t, text, f);
	out->n += n;
	return true;
}

/* value_from_cell makes the text state of few kinds; here it may be any kind's. */
static bool add_from_text(const struct value_type *t, struct span text, struct buf *out,
			  struct fault *f)
{
	struct value v;
	struct arena none;
	int64_t number;

	switch (t->kind) {
	case VALUE_BOOL:
	case VALUE_INT2:
	case VALUE_INT4:
	case VALUE_INT8:
	case VALUE_FLOAT4:
	case VALUE_FLOAT8:
		arena_init(&none, 0);
		return value_from_text(t, text, &none, &v, f) && add_native(t, &v, out, f);
	case VALUE_DATE:
	case VALUE_TIME:
	case VALUE_TIMESTAMP:
	case VALUE_TIMESTAMPTZ:
		if (!temporal_from_text(t->kind, text, &number))
			return refuse_text(t, text, f);
		add_number(number, binary_length(t->kind), out);
		return true;
	case VALUE_UUID:
		return add_uuid(t, text, out, f);
	case VALUE_DECIMAL:
	case VALUE_NUMERIC:
		return add_numeric_text(t, text, out, f);
	case VALUE_BYTEA:
		return add_bytea_text(t, text, out, f);
	case VALUE_TEXT:
	case VALUE_BPCHAR:
	case VALUE_JSONB:
	case VALUE_OTHER:
	case VALUE_KINDS:
		break;
	}
	add_bytes(text, out);
	return true;
}

bool value_add_binary(const struct value_type *t, const struct value *v, struct buf *out,
		      struct fault *f)
{
	switch (v->state) {
	case VALUE_IS_NULL:
		buf_be32(out, UINT32_MAX);
		return true;
	case VALUE_IS_NATIVE:
		return add_native(t, v, out, f);
	case VALUE_IS_TEXT:
		return add_from_text(t, v->bytes, out, f);
	case VALUE_IS_UNCHANGED:
		break;
	}
	return refuse_state(t, v, "a parameter", f);
}

static void print_bytea(struct span bytes, struct buf *out)
{
	if (!buf_reserve(out, 2 + 2 * bytes.n))
		return;
	buf_str(out, "\\x");
	scalar_hex_encode(bytes, out->p + out->n);
	out->n += 2 * bytes.n;
}

static bool print_decimal(const struct value_type *t, const struct value *v, struct buf *out,
			  struct fault *f)
{
	char text[NUMERIC_DECIMAL_TEXT];
	numeric_unscaled unscaled;

	if (!numeric_decimal_from_bytes(v->bytes, &unscaled))
		return refuse_native(t, v, f);
	buf_add(out, text, numeric_decimal_print(unscaled, t->scale, text));
	return true;
}

static bool print_temporal(const struct value_type *t, const struct value *v, struct buf *out,
			   struct fault *f)
{
	char text[TEMPORAL_TEXT];

	if (!temporal_is_native(t->kind, v->i))
		return refuse_native(t, v, f);
	buf_add(out, text, temporal_print(t->kind, v->i - temporal_epoch(t->kind), text));
	return true;
}

static bool print_native(const struct value_type *t, const struct value *v, struct buf *out,
			 struct fault *f)
{
	switch (t->kind) {
	case VALUE_BOOL:
		buf_add(out, v->i ? "t" : "f", 1);
		return true;
	case VALUE_INT2:
	case VALUE_INT4:
	case VALUE_INT8:
		scalar_int_print(v->i, out);
		return true;
	case VALUE_FLOAT4:
	case VALUE_FLOAT8:
		scalar_float_print(v->d, t->kind == VALUE_FLOAT4, out);
		return true;
	case VALUE_BYTEA:
		print_bytea(v->bytes, out);
		return true;
	case VALUE_DATE:
	case VALUE_TIME:
	case VALUE_TIMESTAMP:
	case VALUE_TIMESTAMPTZ:
		return print_temporal(t, v, out, f);
	case VALUE_DECIMAL:
		return print_decimal(t, v, out, f);
	case VALUE_TEXT:
	case VALUE_BPCHAR:
	case VALUE_JSONB:
	case VALUE_UUID:
	case VALUE_NUMERIC:
	case VALUE_OTHER:
	case VALUE_KINDS:
		break;
	}
	buf_add_span(out, v->bytes);
	return true;
}

bool value_add_text(const struct value_type *t, const struct value *v, struct buf *out,
		    struct fault *f)
{
	switch (v->state) {
	case VALUE_IS_NATIVE:
		return print_native(t, v, out, f);
	case VALUE_IS_TEXT:
		buf_add_span(out, v->bytes);
		return true;
	case VALUE_IS_NULL:
	case VALUE_IS_UNCHANGED:
		break;
	}
	return refuse_state(t, v, "text", f);
}

/* The part of a text that all values which an index calls equal share. False: malformed. */
static bool canonical_text(enum value_kind kind, struct span text, struct span *ret)
{
	*ret = text;
	switch (kind) {
	case VALUE_BPCHAR:
		while (ret->n > 0 && ret->p[ret->n - 1] == ' ')
			ret->n--;
		return true;
	case VALUE_FLOAT4:
	case VALUE_FLOAT8:
		if (span_eq_str(text, "-0"))
			*ret = span("0", 1);
		return true;
	case VALUE_DECIMAL:
	case VALUE_NUMERIC:
		*ret = numeric_text_trim(text);
		return numeric_text_is_valid(text);
	case VALUE_BOOL:
	case VALUE_INT2:
	case VALUE_INT4:
	case VALUE_INT8:
	case VALUE_TEXT:
	case VALUE_JSONB:
	case VALUE_BYTEA:
	case VALUE_UUID: /* value_from_cell made it lower-case */
	case VALUE_DATE:
	case VALUE_TIME:
	case VALUE_TIMESTAMP:
	case VALUE_TIMESTAMPTZ:
	case VALUE_OTHER:
	case VALUE_KINDS:
		break;
	}
	return true;
}

bool value_add_key(const struct value_type *t, const struct value *v, struct buf *out,
		   struct fault *f)
{
	size_t start = out->n;
	struct span text, key;

	if (v->state != VALUE_IS_NATIVE && v->state != VALUE_IS_TEXT)
		return refuse_state(t, v, "a key", f);
	if (!value_add_text(t, v, out, f))
		return false;
	if (buf_failed(out) || out->n == start)
		return true;
	text = span(out->p + start, out->n - start);
	if (!canonical_text(t->kind, text, &key))
		return refuse_text(t, text, f);
	memmove(out->p + start, key.p, key.n);
	out->n = start + key.n;
	return true;
}
