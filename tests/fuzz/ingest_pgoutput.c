// SPDX-License-Identifier: Apache-2.0
/* pgoutput_parse: any bytes; what it gives lies inside them and costs memory in proportion. */
#include <stdlib.h>

#include "ingest/pgoutput.h"

static void inside(struct span whole, struct span part)
{
	if (part.p && part.n && (part.p < whole.p || part.p + part.n > whole.p + whole.n) &&
	    !span_eq_str(part, "pg_catalog"))
		abort();
}

static void check_tuple(struct span whole, const struct pgoutput_tuple *t)
{
	for (size_t i = 0; i < t->count; i++)
		inside(whole, t->cells[i].bytes);
}

static void check(struct span in, const struct pgoutput *m)
{
	switch (m->kind) {
	case PGOUTPUT_RELATION:
		inside(in, m->relation.schema);
		inside(in, m->relation.table);
		for (size_t i = 0; i < m->relation.column_count; i++)
			inside(in, m->relation.columns[i].name);
		break;
	case PGOUTPUT_INSERT:
	case PGOUTPUT_UPDATE:
	case PGOUTPUT_DELETE:
		check_tuple(in, &m->change.old);
		check_tuple(in, &m->change.new);
		break;
	case PGOUTPUT_MESSAGE:
		inside(in, m->message.prefix);
		inside(in, m->message.content);
		break;
	case PGOUTPUT_TYPE:
		inside(in, m->type.schema);
		inside(in, m->type.name);
		break;
	case PGOUTPUT_BEGIN:
	case PGOUTPUT_COMMIT:
	case PGOUTPUT_TRUNCATE:
	case PGOUTPUT_IGNORED:
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct span in = span((const char *)data, n);
	struct arena a;
	struct pgoutput m;
	struct fault f = { 0 };

	arena_init(&a, 4096 + n * 64);
	if (pgoutput_parse(in, 0x1234, &a, &m, &f))
		check(in, &m);
	else if (f.kind != FAULT_INPUT)
		abort();
	arena_release(&a);
	return 0;
}
