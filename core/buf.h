// SPDX-License-Identifier: Apache-2.0
/*
 * buf - bytes that grow up to a maximum given at birth.
 *
 * Writing is sticky: after one append that did not fit, every later one is a no-op and buf_failed()
 * is true until buf_reset. One check at the end is enough. The memory is reused across resets.
 */
#ifndef CORE_BUF_H
#define CORE_BUF_H

#include <endian.h>
#include <stdlib.h>

#include "core/span.h"

struct buf {
	char *p;
	size_t n, cap, max_bytes;
	bool failed;
};

void buf_init(struct buf *b, size_t max_bytes);
void buf_release(struct buf *b);
static inline void buf_reset(struct buf *b)
{
	b->n = 0;
	b->failed = false;
}
static inline bool buf_failed(const struct buf *b)
{
	return b->failed;
}
static inline struct span buf_span(const struct buf *b)
{
	return span(b->p ? b->p : "", b->n);
}

/* Room for n more bytes at b->p + b->n, or false (and failed). The hot paths write there directly. */
bool buf_grow(struct buf *b, size_t n);
static inline bool buf_reserve(struct buf *b, size_t n)
{
	return b->cap - b->n >= n && !b->failed ? true : buf_grow(b, n);
}

static inline void buf_add(struct buf *b, const void *p, size_t n)
{
	if (n > 0 && buf_reserve(b, n)) {
		memcpy(b->p + b->n, p, n);
		b->n += n;
	}
}
static inline void buf_add_span(struct buf *b, struct span s)
{
	buf_add(b, s.p, s.n);
}
static inline void buf_u8(struct buf *b, uint8_t v)
{
	buf_add(b, &v, 1);
}
/* Network byte order, as PostgreSQL's binary formats want it. */
static inline void buf_be16(struct buf *b, uint16_t v)
{
	v = htobe16(v);
	buf_add(b, &v, 2);
}
static inline void buf_be32(struct buf *b, uint32_t v)
{
	v = htobe32(v);
	buf_add(b, &v, 4);
}
static inline void buf_be64(struct buf *b, uint64_t v)
{
	v = htobe64(v);
	buf_add(b, &v, 8);
}
void buf_str(struct buf *b, const char *s);
void buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A NUL behind the end, not counted: the result may be used as a C string until the next write. */
const char *buf_cstr(struct buf *b);

#endif
