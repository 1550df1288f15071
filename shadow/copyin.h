// SPDX-License-Identifier: Apache-2.0
/*
 * copyin - copied rows of a table, by COPY, into a target: in binary where every column's own form
 * is what the target's type reads, else as text.
 *
 * A plain blocking connection inside a transaction of the caller's. Thread: lane.
 */
#ifndef SHADOW_COPYIN_H
#define SHADOW_COPYIN_H

#include "core/buf.h"
#include "shadow/target.h"

/* Buffers that are used again. */
struct copyin {
	struct buf data, scratch;
};
void copyin_init(struct copyin *c);
void copyin_release(struct copyin *c);

/* rows[i]: one value per column of the table. */
struct copyin_rows {
	const struct target_table *table;
	const struct value *const *rows;
	size_t row_count;
};
/* false: the transaction is to be rolled back; which row it was is not known. */
bool copyin_table(PGconn *conn, struct copyin *c, const struct copyin_rows *rows, struct fault *f);

#endif
