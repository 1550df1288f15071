// SPDX-License-Identifier: Apache-2.0
/*
 * versions - relation versions and their codecs as <m>.control has them: by schema fingerprint, and by
 * (OID, version).
 *
 * Everything returned is immutable and lives as long as the struct: one per process and role, shared
 * by its lanes. Thread-safe. NULL: control does not have it yet (wait for it, control_watch).
 */
#ifndef SHADOW_VERSIONS_H
#define SHADOW_VERSIONS_H

#include "core/codec.h"
#include "core/control.h"

struct versions;

struct versions *versions_new(struct control *control);
void versions_free(struct versions *v);

/* NULL with f->kind FAULT_NONE: not there yet. */
const struct codec *versions_codec(struct versions *v, uint64_t fingerprint, struct fault *f);
const struct codec *versions_relation(struct versions *v, uint32_t oid, uint32_t version,
				      struct fault *f);
/* How many leaves has rel's root, as of position? */
size_t versions_leaf_count(struct versions *v, const struct relation *rel, struct position at);

#endif
