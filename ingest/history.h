// SPDX-License-Identifier: Apache-2.0
/*
 * history - the relation versions of <m>.control, by table and position.
 *
 * Decoding uses the version valid at a position: the newest whose from is at or before it, never
 * simply the newest. A version is in <m>.control, acknowledged (its schema first), before any
 * record uses it; history_add returns only then. Versions live until history_free.
 *
 * Two versions whose schemas have the same fingerprint (Avro's canonical form knows no precision,
 * scale or type modifier) get names that differ: Envelope_v<N>.
 *
 * Thread: ingest. Immutable versions may be used by copy workers.
 */
#ifndef INGEST_HISTORY_H
#define INGEST_HISTORY_H

#include "core/codec.h"
#include "ingest/memory.h"

struct version {
	const struct relation *rel;
	struct codec *codec;
	struct value *before, *after; /* column_count each: scratch of the ingest thread */
	struct span name;             /* "schema"."table" of the target, for counts */
};

struct history;

/* Makes the schema known outside (a registry) and to the framing; NULL: nothing to do. */
typedef bool (*history_register)(void *arg, struct span schema_json, uint64_t fingerprint,
				 struct fault *f);
struct history_conf {
	const char *migration;
	struct memory memory;
	history_register announce;
	void *arg; /* of announce */
};

/* With every relation record that control has. */
struct history *history_new(const struct history_conf *conf, struct fault *f);
void history_free(struct history *v);

/* The version of the table valid at this position, or NULL: not a table of ours (yet). */
const struct version *history_at(const struct history *v, uint32_t oid, struct position at);
/* The version that begins exactly here, or NULL. */
const struct version *history_from(const struct history *v, uint32_t oid, struct position at);
/* Calls each with the newest version of every table. */
void history_each(const struct history *v, void (*each)(void *arg, const struct version *version),
		  void *arg);

/* A new version from this position on; version, from and fingerprint of rel are set here. Copies
 * rel. */
bool history_add(struct history *v, const struct relation *rel, struct position from,
		 const struct version **ret, struct fault *f);

#endif
