// SPDX-License-Identifier: Apache-2.0
/*
 * Formats (PostgreSQL's documentation of COPY):
 *
 *   binary  header: "PGCOPY\n\377\r\n\0" · u32 flags (bit 16: OIDs, refused; bits 17 to 31 critical, refused) ·
 *           u32 n · n bytes to skip; row: i16 cells · cells × (i32 n, -1 is NULL · n bytes); trailer: i16 -1
 *   text    cells between tabs, a newline at the end, \N is NULL; COPY TO writes no other escapes than
 *           \b \f \n \r \t \v and \\, so anything else is refused
 */
#include "ingest/copydata.h"

#include "core/cursor.h"

static const char signature[11] = "PGCOPY\n\377\r\n";

static bool read_header(struct cursor *m, struct fault *f)
{
	struct span seen = cursor_bytes(m, sizeof(signature));
	uint32_t flags = cursor_u32(m);
	uint32_t extension = cursor_u32(m);
	cursor_bytes(m, extension);
	if (m->cut)
		return fault(f, FAULT_INPUT, "COPY: header cut at byte %zu", cursor_offset(m));
	if (memcmp(seen.p, signature, sizeof(signature)) != 0)
		return fault(f, FAULT_INPUT, "COPY: data does not start with PGCOPY's signature");
	if (flags & 0xffff0000U)
		return fault(f, FAULT_INPUT, "COPY: header flags 0x%08x, wanted 0", flags);
	return true;
}

static bool binary_cells(struct copydata *c, struct cursor *m, struct cell *cells, struct fault *f)
{
	for (size_t i = 0; i < c->column_count && !m->cut; i++) {
		int32_t n = cursor_i32(m);
		if (n < -1)
			return fault(f, FAULT_INPUT, "COPY: length %d of cell %zu at byte %zu", n,
				     i + 1, cursor_offset(m));
		cells[i].format = n < 0 ? 'n' : 'b';
		cells[i].bytes = n < 0 ? span(NULL, 0) : cursor_bytes(m, (size_t)n);
	}
	return true;
}

static bool binary_row(struct copydata *c, struct span message, struct cell *cells,
		       bool *ret_has_row, struct fault *f)
{
	struct cursor m = cursor(message);

	*ret_has_row = false;
	if (c->has_ended)
		return fault(f, FAULT_INPUT, "COPY: %zu bytes behind the trailer", message.n);
	if (!c->has_header) {
		if (!read_header(&m, f))
			return false;
		c->has_header = true;
		if (cursor_left(&m) == 0)
			return true;
	}
	int16_t count = cursor_i16(&m);
	if (count == -1 && !m.cut)
		c->has_ended = true;
	else if (count < 0 || (size_t)count != c->column_count)
		return fault(f, FAULT_INPUT, "COPY: row of %d cells, wanted %zu", count,
			     c->column_count);
	else if (!binary_cells(c, &m, cells, f))
		return false;
	if (m.cut)
		return fault(f, FAULT_INPUT, "COPY: row cut at byte %zu of %zu", cursor_offset(&m),
			     message.n);
	if (cursor_left(&m) > 0)
		return fault(f, FAULT_INPUT, "COPY: %zu bytes behind a row", cursor_left(&m));
	*ret_has_row = !c->has_ended;
	return true;
}

/* The byte an escape stands for, or -1. */
static int unescape(char c)
{
	switch (c) {
	case 'b': return '\b';
	case 'f': return '\f';
	case 'n': return '\n';
	case 'r': return '\r';
	case 't': return '\t';
	case 'v': return '\v';
	case '\\': return '\\';
	default: return -1;
	}
}

static bool text_cell(struct span raw, struct arena *a, struct cell *ret, struct fault *f)
{
	if (raw.n == 2 && raw.p[0] == '\\' && raw.p[1] == 'N') {
		*ret = (struct cell) { .format = 'n' };
		return true;
	}
	*ret = (struct cell) { .format = 't', .bytes = raw };
	const char *from = raw.n ? memchr(raw.p, '\\', raw.n) : NULL;
	if (!from)
		return true;
	char *out = arena_alloc(a, raw.n);
	if (!out)
		return fault(f, FAULT_INTERNAL, "COPY: no memory for a cell of %zu bytes", raw.n);
	const char *end = raw.p + raw.n;
	size_t n = (size_t)(from - raw.p);
	memcpy(out, raw.p, n);
	for (; from < end; from++) {
		int c = *from;
		if (c == '\\') {
			c = ++from < end ? unescape(*from) : -1;
			if (c < 0)
				return fault(f, FAULT_INPUT, "COPY: unknown escape at byte %zu of a cell",
					     (size_t)(from - raw.p));
		}
		out[n++] = (char)c;
	}
	ret->bytes = span(out, n);
	return true;
}

static bool text_row(struct copydata *c, struct span message, struct arena *a, struct cell *cells,
		     bool *ret_has_row, struct fault *f)
{
	const char *p = message.p, *end = message.p + message.n;

	*ret_has_row = false;
	if (message.n == 0 || end[-1] != '\n')
		return fault(f, FAULT_INPUT, "COPY: line of %zu bytes without an end", message.n);
	end--;
	/* A table without columns: empty lines. */
	for (size_t i = 0; i < c->column_count; i++) {
		if (!p)
			return fault(f, FAULT_INPUT, "COPY: line of %zu cells, wanted %zu", i,
				     c->column_count);
		const char *tab = p < end ? memchr(p, '\t', (size_t)(end - p)) : NULL;
		if (!text_cell(span(p, (size_t)((tab ? tab : end) - p)), a, &cells[i], f))
			return false;
		p = tab ? tab + 1 : NULL;
	}
	if (c->column_count ? p != NULL : p != end)
		return fault(f, FAULT_INPUT, "COPY: line of more than %zu cells", c->column_count);
	*ret_has_row = true;
	return true;
}

bool copydata_row(struct copydata *c, struct span message, struct arena *a, struct cell *cells,
		  bool *ret_has_row, struct fault *f)
{
	return c->is_binary ? binary_row(c, message, cells, ret_has_row, f)
			    : text_row(c, message, a, cells, ret_has_row, f);
}

bool copydata_finish(const struct copydata *c, struct fault *f)
{
	if (c->is_binary && !(c->has_header && c->has_ended))
		return fault(f, FAULT_INPUT, "COPY: data ended without its trailer");
	return true;
}
