// SPDX-License-Identifier: Apache-2.0
/*
 * codec - Avro: schemas of relation versions, framing, and the bodies of rows.
 *
 * Envelope schema of a relation version, namespace <m>.<schema>.<table>, name Envelope[_v<N>], fields in this order:
 *   generation long · ordinal long · op string · source record {commit_lsn long, seq long, lsn long,
 *   txId long, ts_us long, snapshot boolean} · boundary long · attempt int · unchanged array of string ·
 *   before union [null, Value] · after union [null, Value]
 * foreshadow.Exclusive, .Barrier and .Marker start with the same fields up to attempt. Value has one field per
 * column, each a union [null, native, (string where the kind needs it)] with default null; properties
 * pg.name, pg.type, pg.typmod beside it. Names outside Avro's alphabet: each other byte as _xHH.
 *
 * Framing: single-object (C3 01 + CRC-64-AVRO little-endian of the canonical form) or Confluent
 * (00 + big-endian id). The codec writes and reads bodies itself, per-column functions compiled once
 * a version, slices not copies; Avro-C is the test oracle and checks that our schemas are valid.
 *
 * A codec is immutable after codec_new: any thread may use it.
 */
#ifndef CORE_CODEC_H
#define CORE_CODEC_H

#include "core/event.h"
#include "core/relation.h"

/* How records are framed: a table fingerprint <-> id, filled as schemas become known. */
enum framing_kind { FRAMING_SINGLE_OBJECT, FRAMING_CONFLUENT };
struct framing;
struct framing *framing_new(enum framing_kind kind);
void framing_free(struct framing *fr);
/* CONFLUENT: schema with this fingerprint has this registry id. Thread-safe. */
bool framing_learn(struct framing *fr, uint64_t fingerprint, int32_t id);
/* The registry's id in a record's frame: what to ask for when event_read says FAULT_ENVIRONMENT. */
bool framing_record_id(struct span record, int32_t *ret_id);

/* The fixed schemas (Exclusive, Barrier, Marker): name, JSON, fingerprint. */
struct codec_fixed {
	const char *name, *json;
	uint64_t fingerprint;
};
const struct codec_fixed *codec_fixed(enum event_kind kind);

/* Envelope schema of rel as JSON; suffix > 0 gives Envelope_v<suffix>. */
bool codec_schema(const char *migration, const struct relation *rel, unsigned suffix,
		  struct buf *out, struct fault *f);
/* CRC-64-AVRO of the Parsing Canonical Form. Also checks by Avro-C that the schema is valid. */
bool codec_fingerprint(struct span schema_json, uint64_t *ret, struct fault *f);

struct codec;
/* Borrows rel for its whole life. */
struct codec *codec_new(const struct relation *rel, struct fault *f);
void codec_free(struct codec *c);
const struct relation *codec_relation(const struct codec *c);

/* A row change in values: arrays of rel->column_count, or NULL. */
struct change {
	const struct value *before, *after;
};

/* Appends framing, head and body. before: only key/identity columns are meaningful unless identity
 * is FULL (the others are written as null). Unchanged columns go to `unchanged`, null in after;
 * op c or r with one is an error. */
bool codec_encode(const struct codec *c, const struct framing *fr, const struct event_head *h,
		  const struct change *ch, struct buf *out, struct fault *f);

/* Body of a CHANGE → values; spans point into body. before and after are caller's arrays of column_count. */
bool codec_decode(const struct codec *c, struct span body, struct value *before, bool *ret_has_before,
		  struct value *after, bool *ret_has_after, struct fault *f);

#endif
