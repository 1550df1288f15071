// SPDX-License-Identifier: Apache-2.0
/*
 * schema_json - Avro schemas as JSON: built, brought into canonical form, fingerprinted.
 *
 * jansson keeps the order of attributes, so the same relation gives the same bytes every time.
 * The canonical form is the Avro specification's "Parsing Canonical Form for Schemas": what is not
 * needed to parse data (doc, defaults, logical types, our pg.* properties) is dropped, names are
 * full, attributes in a fixed order, no white space. codec.h is what other parts use.
 */
#ifndef CORE_SCHEMA_JSON_H
#define CORE_SCHEMA_JSON_H

#include "core/buf.h"
#include "core/fault.h"

/* A name in Avro's alphabet: each other byte, and a digit in front, as _xHH. */
void schema_name(struct span name, struct buf *out);
/* Appends the canonical form of a schema. */
bool schema_canonical(struct span json, struct buf *out, struct fault *f);
/* CRC-64-AVRO of bytes. */
uint64_t schema_crc64(struct span bytes);
/* Does Avro-C accept it? */
bool schema_check(struct span json, struct fault *f);

/* The JSON of the fields that start every schema of ours (event_wire.h), without [ ]. */
extern const char schema_head_json[];

#endif
