// SPDX-License-Identifier: Apache-2.0
/*
 * avro - Avro's binary primitives: zigzag varints, lengths, blocks.
 *
 * Writers go straight to memory that was reserved for the longest form (AVRO_LONG_BYTES per long).
 * Readers work on a cursor and keep its promise: nothing past the end, sticky `cut`. Here cut means
 * cut or malformed: an overlong varint, an int out of range, a negative or too long length, a
 * boolean that is neither 0 nor 1, a block whose items or bytes cannot be in what is left.
 */
#ifndef CORE_AVRO_H
#define CORE_AVRO_H

#include "core/buf.h"
#include "core/cursor.h"

enum { AVRO_LONG_BYTES = 10 };

static inline char *avro_put_long(char *p, int64_t v)
{
	uint64_t z = ((uint64_t)v << 1) ^ (uint64_t)(v >> 63);

	while (z >= 0x80) {
		*p++ = (char)(z | 0x80);
		z >>= 7;
	}
	*p++ = (char)z;
	return p;
}

static inline char *avro_put_bytes(char *p, struct span s)
{
	p = avro_put_long(p, (int64_t)s.n);
	if (s.n > 0)
		memcpy(p, s.p, s.n);
	return p + s.n;
}

static inline char *avro_put_double(char *p, double d)
{
	uint64_t bits;

	memcpy(&bits, &d, 8);
	bits = htole64(bits);
	memcpy(p, &bits, 8);
	return p + 8;
}

static inline char *avro_put_float(char *p, float d)
{
	uint32_t bits;

	memcpy(&bits, &d, 4);
	bits = htole32(bits);
	memcpy(p, &bits, 4);
	return p + 4;
}

/* The same, appended to a buf, for what is not on the hot path. */
static inline void avro_add_long(struct buf *b, int64_t v)
{
	if (buf_reserve(b, AVRO_LONG_BYTES))
		b->n = (size_t)(avro_put_long(b->p + b->n, v) - b->p);
}

static inline void avro_add_bytes(struct buf *b, struct span s)
{
	avro_add_long(b, (int64_t)s.n);
	buf_add_span(b, s);
}

static inline void avro_add_bool(struct buf *b, bool v)
{
	buf_u8(b, v);
}

static inline int64_t avro_read_long(struct cursor *c)
{
	uint64_t z = 0;

	for (unsigned shift = 0; cursor_left(c) > 0 && shift < 70; shift += 7) {
		uint8_t byte = (uint8_t)*c->p++;

		if (shift == 63 && byte > 1)
			break; /* the tenth byte has room for one bit */
		z |= (uint64_t)(byte & 0x7f) << shift;
		if (byte < 0x80)
			return (int64_t)(z >> 1) ^ -(int64_t)(z & 1);
	}
	c->cut = true;
	return 0;
}

/* A long that must lie in low..high. */
static inline int64_t avro_read_range(struct cursor *c, int64_t low, int64_t high)
{
	int64_t v = avro_read_long(c);

	if (v >= low && v <= high)
		return v;
	c->cut = true;
	return 0;
}

static inline int32_t avro_read_int(struct cursor *c)
{
	return (int32_t)avro_read_range(c, INT32_MIN, INT32_MAX);
}

static inline bool avro_read_bool(struct cursor *c)
{
	uint8_t v = cursor_u8(c);

	if (v > 1)
		c->cut = true;
	return v == 1;
}

static inline struct span avro_read_bytes(struct cursor *c)
{
	int64_t n = avro_read_long(c);

	if (n < 0 || (uint64_t)n > cursor_left(c)) {
		c->cut = true;
		return span("", 0);
	}
	return cursor_bytes(c, (size_t)n);
}

static inline double avro_read_double(struct cursor *c)
{
	struct span s = cursor_bytes(c, 8);
	uint64_t bits = 0;
	double d;

	memcpy(&bits, s.p, s.n);
	bits = le64toh(bits);
	memcpy(&d, &bits, 8);
	return d;
}

static inline float avro_read_float(struct cursor *c)
{
	struct span s = cursor_bytes(c, 4);
	uint32_t bits = 0;
	float d;

	memcpy(&bits, s.p, s.n);
	bits = le32toh(bits);
	memcpy(&d, &bits, 4);
	return d;
}

/*
 * An array is blocks of (count, items), ended by a count of 0; a negative count is followed by the
 * block's size in bytes. Start with { 0 }; true: an item follows, read it; false: the end, or
 * c->cut. Every item of our arrays has at least one byte, so a count beyond what is left is a lie.
 */
struct avro_array {
	uint64_t left;
	const char *block_end;
};

static inline bool avro_array_block(struct cursor *c, struct avro_array *a)
{
	int64_t count, size;

	if (a->block_end && a->block_end != c->p)
		c->cut = true;
	a->block_end = NULL;
	count = avro_read_long(c);
	if (count < 0) {
		size = avro_read_range(c, 0, (int64_t)cursor_left(c));
		if ((uint64_t)size > cursor_left(c))
			c->cut = true;
		else
			a->block_end = c->p + size;
	}
	a->left = count < 0 ? -(uint64_t)count : (uint64_t)count;
	if (a->left > cursor_left(c))
		c->cut = true;
	return !c->cut && a->left > 0;
}

static inline bool avro_array_next(struct cursor *c, struct avro_array *a)
{
	if (c->cut || (a->left == 0 && !avro_array_block(c, a)))
		return false;
	a->left--;
	return true;
}

#endif
