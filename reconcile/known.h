// SPDX-License-Identifier: Apache-2.0
/*
 * known - the relation versions in <m>.control, and how to read their records.
 *
 * Read at known_new, and again when a version is asked for that is not there. Single-threaded.
 */
#ifndef RECONCILE_KNOWN_H
#define RECONCILE_KNOWN_H

#include "core/codec.h"
#include "core/control.h"

struct known;

struct known *known_new(struct control *control, struct fault *f);
void known_free(struct known *k);
/* Takes in what control has by now. */
bool known_look(struct known *k, struct fault *f);
/* Waits a few seconds for it. NULL: not there. */
const struct codec *known_codec(struct known *k, uint64_t fingerprint);
const struct relation *known_relation(struct known *k, uint32_t oid);
/* The newest version of every table, ordered by OID. */
size_t known_count(const struct known *k);
const struct relation *known_newest(const struct known *k, size_t i);
/* Every version of every table. */
size_t known_version_count(const struct known *k);
const struct relation *known_version(const struct known *k, size_t i);

#endif
