// SPDX-License-Identifier: Apache-2.0
/* database - makes a database like the one a connection is in. */
#ifndef SHADOW_DATABASE_H
#define SHADOW_DATABASE_H

#include "core/pg.h"

/* Empty, with the encoding and locale of like's, so that equal texts sort and change case alike; the comment says whose
 * it is. sqlstate of the fault: 42P04 or 23505 if another was faster. */
bool database_create(PGconn *like, const char *name, const char *comment, struct fault *f);

#endif
