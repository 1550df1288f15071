// SPDX-License-Identifier: Apache-2.0
/* copydata_row: first byte: bit 0 binary, bit 1 a row was read before; second: columns; then one
 * message. */
#include <stdlib.h>

#include "ingest/copydata.h"

enum { MAX_COLUMNS = 255 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct cell cells[MAX_COLUMNS] = { 0 };
	struct fault f = { 0 };
	struct arena a;
	bool has_row;

	if (n < 2)
		return 0;
	struct copydata c = copydata(data[0] & 1, data[1]);
	c.has_header = data[0] & 2;
	arena_init(&a, 65536 + n * 64);
	if (copydata_row(&c, span((const char *)data + 2, n - 2), &a, cells, &has_row, &f)) {
		for (size_t i = 0; has_row && i < c.column_count; i++)
			if (!cells[i].format || cells[i].bytes.n > n)
				abort();
	} else if (f.kind != FAULT_INPUT) {
		abort();
	}
	arena_release(&a);
	return 0;
}
