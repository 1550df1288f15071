// SPDX-License-Identifier: Apache-2.0
/*
 * objects - what of the source does not travel by the stream though tables: may seem to ask for it: views,
 * materialized views, large objects. (Tables that are left out are among the catalog's notes.)
 */
#ifndef INGEST_OBJECTS_H
#define INGEST_OBJECTS_H

#include "core/migration.h"

struct objects_note {
	const char *object; /* "view", "materialized view", "large objects" */
	const char *text;   /* which, why it is left out, what to do */
};

/* Everything lives in a. False only when the catalog could not be read. */
bool objects_read(PGconn *conn, const struct migration *m, struct arena *a, struct objects_note **ret,
		  size_t *ret_count, struct fault *f);

#endif
