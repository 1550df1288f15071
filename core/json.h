// SPDX-License-Identifier: Apache-2.0
/*
 * json - our own values as jansson's. Any thread. New references; NULL from jansson's functions: no memory.
 */
#ifndef CORE_JSON_H
#define CORE_JSON_H

#include <jansson.h>
#include <stdint.h>

#include "core/span.h"

/* Text; null where it is absent. Whoever has bytes that are no UTF-8 gets null, too: keys and names of ours are. */
json_t *json_span(struct span s);
/* As PostgreSQL prints it. */
json_t *json_lsn(uint64_t lsn);

#endif
