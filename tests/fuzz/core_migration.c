// SPDX-License-Identifier: Apache-2.0
/* Any bytes as a migration's YAML: read or refused with a place, never a crash or a leak. */
#include <stdlib.h>

#include "core/migration.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fault f = { .kind = FAULT_NONE };
	struct migration m;

	if (migration_parse(&m, "fuzz.yaml", span(data, size), &f)) {
		if (!m.name || !m.source.uri || !m.shadow.uri || m.include_count == 0)
			abort();
		migration_has_table(&m, span_str("public"), span_str("orders"));
		migration_release(&m);
	} else if (f.kind != FAULT_USAGE) {
		abort();
	}
	return 0;
}
