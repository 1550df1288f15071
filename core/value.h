// SPDX-License-Identifier: Apache-2.0
/*
 * value - one column's value on its way: from a pgoutput or COPY cell, through Avro, into a parameter.
 *
 * A column travels as one *kind*, chosen from its base type when a relation version is made and
 * frozen with it (relation.h). A value is in one of four states; unchanged is never null:
 *   null · unchanged (TOASTed and not sent) · native (the kind's own form, below) · text (PostgreSQL's
 *   text form: every value of kind OTHER, and what a logical type cannot hold: ±infinity, BC,
 *   years past 9999, 24:00, NaN, a numeric outside its declared scale).
 *
 *   kind         native form                                    Avro branch
 *   BOOL         i = 0/1                                        boolean
 *   INT2, INT4   i                                              int
 *   INT8         i                                              long
 *   FLOAT4/8     d                                              float / double
 *   TEXT, BPCHAR bytes = the characters                         string
 *   BYTEA        bytes                                          bytes
 *   UUID         bytes = 36 lower-case characters               string, logicalType uuid
 *   DATE         i = days since 1970-01-01                      int, date
 *   TIME         i = microseconds of the day                    long, time-micros
 *   TIMESTAMP    i = microseconds since 1970                    long, local-timestamp-micros
 *   TIMESTAMPTZ  i = microseconds since 1970 UTC                long, timestamp-micros
 *   DECIMAL      bytes = unscaled, two's complement, big-endian bytes, decimal(p,s); p <= 38
 *   JSONB        bytes = the characters                         string
 *   NUMERIC      (always text)                                  string
 *   OTHER        (always text)                                  string
 *
 * Text is what a session prints with DateStyle ISO, TimeZone UTC, IntervalStyle postgres,
 * extra_float_digits 3, bytea_output hex, client_encoding UTF8: connections pin these. Other text
 * is refused (FAULT_INPUT), as is a binary cell of the wrong length.
 *
 * Pure: no I/O, no clock, no locale (nobody calls setlocale). Bytes are borrowed from the cell or
 * live in the arena given. value_add_*: a full buf is no fault; the caller looks at buf_failed.
 */
#ifndef CORE_VALUE_H
#define CORE_VALUE_H

#include "core/arena.h"
#include "core/buf.h"
#include "core/fault.h"
#include "core/span.h"

enum value_kind {
	VALUE_BOOL, VALUE_INT2, VALUE_INT4, VALUE_INT8, VALUE_FLOAT4, VALUE_FLOAT8,
	VALUE_TEXT,     /* text, varchar, name, json, xml, "char"-free text-like types, enums, unknown */
	VALUE_BPCHAR, VALUE_JSONB /* text on the wire; binary form has a version byte */,
	VALUE_BYTEA, VALUE_UUID, VALUE_DATE, VALUE_TIME, VALUE_TIMESTAMP, VALUE_TIMESTAMPTZ,
	VALUE_DECIMAL,  /* numeric(p,s), 0 <= s <= p <= 38 */
	VALUE_NUMERIC,  /* numeric without typmod or outside DECIMAL: text; binary is decoded */
	VALUE_OTHER,    /* text form only; its binary form is not decoded */
	VALUE_KINDS
};

enum value_state { VALUE_IS_NULL, VALUE_IS_UNCHANGED, VALUE_IS_NATIVE, VALUE_IS_TEXT };

struct value {
	enum value_state state;
	union {
		int64_t i;
		double d;
	};
	struct span bytes;
};

/* A cell as pgoutput sends it: 'n' null, 'u' unchanged, 't' text, 'b' binary. */
struct cell {
	char format;
	struct span bytes;
};

/* What a column is, as far as values are concerned. */
struct value_type {
	enum value_kind kind;
	int precision, scale;   /* DECIMAL */
};

/* The kind of a base type (domains resolved by the caller; is_enum for enums) with this typmod. */
struct value_type value_type_of(uint32_t base_type_oid, int32_t typmod, bool is_enum);
const char *value_kind_name(enum value_kind kind);
/* May a slot send this kind in binary? (false: OTHER) */
bool value_kind_has_binary(enum value_kind kind);

/* Cell → value. Bytes are borrowed from the cell where possible, else made in a. */
bool value_from_cell(const struct value_type *t, struct cell c, struct arena *a, struct value *ret,
		     struct fault *f);

/* Appends the element of a binary array parameter: int32 length (-1 for null) and PostgreSQL's
 * binary form. Only for kinds that have one (value_array_oid != 0). The value must not be unchanged. */
bool value_add_binary(const struct value_type *t, const struct value *v, struct buf *out,
		      struct fault *f);
/* Appends PostgreSQL's text form (no length), byte-identical to the server's own output under the pinned settings. */
bool value_add_text(const struct value_type *t, const struct value *v, struct buf *out,
		    struct fault *f);
/* Element and array type OID of the parameter for this kind; text/_text where text form is sent. */
uint32_t value_element_oid(enum value_kind kind);
uint32_t value_array_oid(enum value_kind kind);

/* Appends the canonical key text: values that a unique index calls equal give the same bytes
 * (numeric 1.0 = 1.00, -0.0 = 0.0, bpchar padding). Native and text states of one value agree. */
bool value_add_key(const struct value_type *t, const struct value *v, struct buf *out,
		   struct fault *f);

#endif
