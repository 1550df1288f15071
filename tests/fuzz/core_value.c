// SPDX-License-Identifier: Apache-2.0
/*
 * Input: a byte for the kind, a byte for the form ('t' or else binary), the cell. What is accepted
 * must go to every writer, come back from its text as it was, and keep its binary form from then
 * on.
 */
#include <stdio.h>
#include <stdlib.h>

#include "core/value.h"

enum { ROOM = 1 << 24 };

static struct arena arena;
static struct buf text, binary, again;

static void must(bool is_true, const char *what, const struct fault *f)
{
	if (is_true)
		return;
	fprintf(stderr, "%s: %s\n", what, f->text);
	abort();
}

static void reread_text(const struct value_type *t, const struct value *v, struct fault *f)
{
	struct value other;
	struct cell c = { 't', buf_span(&text) };

	must(value_from_cell(t, c, &arena, &other, f), "its own text is refused", f);
	must(other.state == v->state && span_eq(other.bytes, v->bytes), "another value", f);
	must(v->bytes.p || other.i == v->i || v->d != v->d, "another number", f);
}

static void reread_binary(const struct value_type *t, struct fault *f)
{
	struct value other;
	struct cell c = { 'b', span(binary.p + 4, binary.n - 4) };

	must(value_from_cell(t, c, &arena, &other, f), "its own binary form is refused", f);
	must(value_add_binary(t, &other, &again, f), "no binary form again", f);
	must(span_eq(buf_span(&binary), buf_span(&again)), "another binary form", f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct value_type t;
	struct value v;
	struct fault f = { FAULT_NONE };
	struct cell c;

	if (size < 2)
		return 0;
	t = (struct value_type) { .kind = data[0] % VALUE_KINDS };
	if (t.kind == VALUE_DECIMAL) {
		t.precision = data[0] / VALUE_KINDS * 3 % 38 + 1;
		t.scale = data[0] % (t.precision + 1);
	}
	c = (struct cell) { data[1] == 't' ? 't' : 'b', span(data + 2, size - 2) };
	arena_init(&arena, ROOM);
	buf_init(&text, ROOM);
	buf_init(&binary, ROOM);
	buf_init(&again, ROOM);
	if (value_from_cell(&t, c, &arena, &v, &f)) {
		must(value_add_key(&t, &v, &text, &f), "no key", &f);
		buf_reset(&text);
		must(value_add_text(&t, &v, &text, &f), "no text", &f);
		must(value_add_binary(&t, &v, &binary, &f) || t.kind == VALUE_NUMERIC ||
			 t.kind == VALUE_DECIMAL,
		     "no binary form", &f);
		reread_text(&t, &v, &f);
		if (value_kind_has_binary(t.kind) && t.kind != VALUE_JSONB && !f.kind)
			reread_binary(&t, &f);
	} else {
		must(f.kind == FAULT_INPUT, "refused for another reason", &f);
	}
	arena_release(&arena);
	buf_release(&text);
	buf_release(&binary);
	buf_release(&again);
	return 0;
}
