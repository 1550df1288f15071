// SPDX-License-Identifier: Apache-2.0
/*
 * registry - a schema registry that speaks Confluent's API, asked by libcurl.
 *
 * Subjects are <topic>-<full record name> (Confluent's TopicRecordNameStrategy). A relation
 * version's schema need not be compatible with the one before: every record names its own. A
 * registry that refuses one for that (409) is asked once to set the subject's compatibility to
 * NONE.
 *
 * FAULT_ENVIRONMENT: no answer, overload, or an id that it does not know (yet): ask again later.
 * FAULT_STOP: it does not let us. FAULT_INPUT: it refuses the schema, or its answer makes no sense.
 * Thread-safe; one request at a time. No password of the URL is in a fault.
 */
#ifndef CORE_REGISTRY_H
#define CORE_REGISTRY_H

#include "core/buf.h"
#include "core/fault.h"

struct framing;
struct registry;

struct registry *registry_new(const char *url, struct fault *f);
void registry_free(struct registry *r);

/* Registers a schema of a named type under a topic; the same schema again gives the same id. */
bool registry_put(struct registry *r, const char *topic, struct span schema_json, int32_t *ret_id,
		  struct fault *f);
/* Appends the schema of an id. */
bool registry_get(struct registry *r, int32_t id, struct buf *out, struct fault *f);

/* registry_put and framing_learn: of a schema with this fingerprint, for each of the topics ... */
bool registry_announce(struct registry *r, struct framing *fr, const char *const *topics, size_t n,
		       struct span schema_json, uint64_t fingerprint, struct fault *f);
/* ... and of the fixed schemas. */
bool registry_announce_fixed(struct registry *r, struct framing *fr, const char *const *topics,
			     size_t n, struct fault *f);
/* registry_get and framing_learn: what an unknown id means. */
bool registry_learn(struct registry *r, struct framing *fr, int32_t id, struct fault *f);

#endif
