// SPDX-License-Identifier: Apache-2.0
#include "core/buf.h"

#include <stdarg.h>
#include <stdio.h>

enum { BUF_FIRST_BYTES = 64 };

void buf_init(struct buf *b, size_t max_bytes)
{
	*b = (struct buf) { .max_bytes = max_bytes };
}

void buf_release(struct buf *b)
{
	free(b->p);
	buf_init(b, b->max_bytes);
}

/* One byte more than cap is allocated: buf_cstr has room for its NUL even at the maximum. */
bool buf_grow(struct buf *b, size_t n)
{
	size_t cap = b->cap ? b->cap : BUF_FIRST_BYTES;
	char *p;

	if (b->failed || n > b->max_bytes - b->n) {
		b->failed = true;
		return false;
	}
	while (cap - b->n < n)
		cap = cap > b->max_bytes / 2 ? b->max_bytes : 2 * cap;
	if (cap > b->max_bytes)
		cap = b->max_bytes;
	if (b->p && cap == b->cap)
		return true;
	p = realloc(b->p, cap + 1);
	if (!p) {
		b->failed = true;
		return false;
	}
	b->p = p;
	b->cap = cap;
	return true;
}

void buf_str(struct buf *b, const char *s)
{
	buf_add(b, s, strlen(s));
}

void buf_printf(struct buf *b, const char *format, ...)
{
	va_list args, again;
	int n;

	va_start(args, format);
	va_copy(again, args);
	n = vsnprintf(NULL, 0, format, args);
	if (n < 0)
		b->failed = true;
	else if (buf_reserve(b, (size_t)n)) {
		if (n > 0)
			vsnprintf(b->p + b->n, (size_t)n + 1, format, again);
		b->n += (size_t)n;
	}
	va_end(again);
	va_end(args);
}

const char *buf_cstr(struct buf *b)
{
	if (!b->p)
		return "";
	b->p[b->n] = 0;
	return b->p;
}
