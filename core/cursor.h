// SPDX-License-Identifier: Apache-2.0
/*
 * cursor - reads a span from front to back, big-endian, and never past its end.
 *
 * Sticky: a read past the end returns zero (or an empty span), sets cut, and so does every read
 * after it. One check after many reads is enough.
 */
#ifndef CORE_CURSOR_H
#define CORE_CURSOR_H

#include <endian.h>

#include "core/span.h"

struct cursor {
	const char *p, *end, *start;
	bool cut;
};

static inline struct cursor cursor(struct span s)
{
	return (struct cursor) { s.p, s.p + s.n, s.p, false };
}
static inline size_t cursor_left(const struct cursor *c)
{
	return c->cut ? 0 : (size_t)(c->end - c->p);
}
static inline size_t cursor_offset(const struct cursor *c)
{
	return (size_t)(c->p - c->start);
}
static inline struct span cursor_bytes(struct cursor *c, size_t n)
{
	if (cursor_left(c) < n) {
		c->cut = true;
		return span("", 0);
	}
	struct span s = span(c->p, n);
	c->p += n;
	return s;
}
static inline uint8_t cursor_u8(struct cursor *c)
{
	struct span s = cursor_bytes(c, 1);
	return s.n ? (uint8_t)s.p[0] : 0;
}
static inline uint16_t cursor_u16(struct cursor *c)
{
	uint16_t v = 0;
	struct span s = cursor_bytes(c, 2);
	if (s.n) /* a constant length: no call, no bytes one by one */
		memcpy(&v, s.p, 2);
	return be16toh(v);
}
static inline uint32_t cursor_u32(struct cursor *c)
{
	uint32_t v = 0;
	struct span s = cursor_bytes(c, 4);
	if (s.n) /* a constant length: no call, no bytes one by one */
		memcpy(&v, s.p, 4);
	return be32toh(v);
}
static inline uint64_t cursor_u64(struct cursor *c)
{
	uint64_t v = 0;
	struct span s = cursor_bytes(c, 8);
	if (s.n) /* a constant length: no call, no bytes one by one */
		memcpy(&v, s.p, 8);
	return be64toh(v);
}
static inline int16_t cursor_i16(struct cursor *c)
{
	return (int16_t)cursor_u16(c);
}
static inline int32_t cursor_i32(struct cursor *c)
{
	return (int32_t)cursor_u32(c);
}
static inline int64_t cursor_i64(struct cursor *c)
{
	return (int64_t)cursor_u64(c);
}
/* Bytes up to the next NUL; the NUL is consumed and not part of the result. */
static inline struct span cursor_cstr(struct cursor *c)
{
	const char *nul = cursor_left(c) ? memchr(c->p, 0, cursor_left(c)) : NULL;
	if (!nul) {
		c->cut = true;
		return span("", 0);
	}
	struct span s = span(c->p, (size_t)(nul - c->p));
	c->p = nul + 1;
	return s;
}

#endif
