// SPDX-License-Identifier: Apache-2.0
/* relation_read: any bytes; what is accepted is written and read again the same, and has a schema.
 */
#include <stdlib.h>

#include "core/codec.h"
#include "core/schema_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void write_again(const struct relation *rel, struct arena *a)
{
	struct buf once, twice;
	struct relation *again;
	struct fault f;

	buf_init(&once, 1 << 26);
	buf_init(&twice, 1 << 26);
	must(relation_write(rel, &once));
	must(relation_read(buf_span(&once), a, &again, &f));
	must(relation_write(again, &twice));
	must(span_eq(buf_span(&once), buf_span(&twice)));
	must(relation_same_shape(rel, again));
	buf_release(&once);
	buf_release(&twice);
}

/* Refused: no columns, or two that are one in Avro. */
static void make_schema(const struct relation *rel)
{
	struct buf schema, canonical;
	struct fault f = { 0 };

	buf_init(&schema, 1 << 26);
	buf_init(&canonical, 1 << 26);
	if (codec_schema("m", rel, 0, &schema, &f)) {
		must(schema_canonical(buf_span(&schema), &canonical, &f));
		must(schema_check(buf_span(&schema), &f));
	} else {
		must(f.kind == FAULT_INPUT);
	}
	buf_release(&schema);
	buf_release(&canonical);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct fault f = { 0 };
	struct relation *rel;
	struct arena a;

	arena_init(&a, 65536 + 512 * n);
	if (relation_read(span(data, n), &a, &rel, &f)) {
		must(rel->oid > 0 && rel->version > 0 && rel->keyless == (rel->key_count == 0));
		write_again(rel, &a);
		make_schema(rel);
	} else {
		must(f.kind == FAULT_INPUT);
	}
	arena_release(&a);
	return 0;
}
