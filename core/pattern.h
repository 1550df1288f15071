// SPDX-License-Identifier: Apache-2.0
/*
 * pattern - tables by patterns schema.table.
 *
 * Outside double quotes * is any run of characters, ? one character, . divides schema and table, and letters are folded to
 * lower case, as SQL and pg_dump do; inside them all is literal and "" is a quote.
 *
 * Pure.
 */
#ifndef CORE_PATTERN_H
#define CORE_PATTERN_H

#include "core/span.h"

bool pattern_match(const char *pattern, struct span schema, struct span table);
/* Two parts that are not empty, with one dot between them. */
bool pattern_is_valid(const char *pattern);

#endif
