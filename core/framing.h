// SPDX-License-Identifier: Apache-2.0
/*
 * framing - what stands in front of every record; used by event.c and codec.c. See codec.h.
 *
 *   single-object   C3 01, CRC-64-AVRO of the schema's canonical form, little-endian
 *   Confluent       00, the registry's schema id, big-endian
 */
#ifndef CORE_FRAMING_H
#define CORE_FRAMING_H

#include "core/codec.h"
#include "core/cursor.h"

enum { FRAMING_MAX_BYTES = 10 };

/* Writes the frame of a schema to p, which has FRAMING_MAX_BYTES; the end, or NULL if a registry's
 * id is needed and not known. */
char *framing_put(const struct framing *fr, uint64_t fingerprint, char *p);
/* Reads a frame. FAULT_INPUT: not a frame. FAULT_ENVIRONMENT: an id that was not learned (yet). */
bool framing_get(const struct framing *fr, struct cursor *c, uint64_t *ret_fingerprint,
		 struct fault *f);

#endif
