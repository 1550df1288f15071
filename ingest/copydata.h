// SPDX-License-Identifier: Apache-2.0
/*
 * copydata - rows of COPY TO STDOUT, binary or text, as cells.
 *
 * The server puts one row into one CopyData message and libpq hands them out whole, so a message is a row;
 * in the binary format the first one starts with the file header and the last one is the
 * trailer. Pure: cells point into the message, or (text with escapes) into the arena.
 */
#ifndef INGEST_COPYDATA_H
#define INGEST_COPYDATA_H

#include "core/value.h"

struct copydata {
	bool is_binary;
	size_t column_count;
	/* state of the binary format */
	bool has_header, has_ended;
};

static inline struct copydata copydata(bool is_binary, size_t column_count)
{
	return (struct copydata) { .is_binary = is_binary, .column_count = column_count };
}

/* cells: column_count of them. *ret_has_row false: header alone, or the trailer. */
bool copydata_row(struct copydata *c, struct span message, struct arena *a, struct cell *cells,
		  bool *ret_has_row, struct fault *f);
/* Did the data end as the format says? Call after the last message. */
bool copydata_finish(const struct copydata *c, struct fault *f);

#endif
