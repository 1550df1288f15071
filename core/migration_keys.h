// SPDX-License-Identifier: Apache-2.0
/*
 * migration_keys - keys of the YAML that have a file of their own: migration_server.c and migration_kafka.c. For
 * migration.c's table; nobody else includes it. As conf.h wants them: out is the struct migration.
 */
#ifndef CORE_MIGRATION_KEYS_H
#define CORE_MIGRATION_KEYS_H

#include "core/conf.h"
#include "core/migration.h"

bool migration_set_source(void *out, const struct conf_value *v, struct fault *f);
bool migration_set_target(void *out, const struct conf_value *v, struct fault *f);
bool migration_set_shadow(void *out, const struct conf_value *v, struct fault *f);
/* Beside the target: its database's name and _shadow. */
bool migration_default_shadow(struct migration *m, struct fault *f);

bool migration_set_kafka(void *out, const struct conf_value *v, struct fault *f);
bool migration_set_registry(void *out, const struct conf_value *v, struct fault *f);

/* For conf_expand: every byte as %XX, for a value within a URI. */
void migration_encode_percent(struct buf *b, const char *value);

#endif
