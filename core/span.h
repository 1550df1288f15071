// SPDX-License-Identifier: Apache-2.0
/*
 * span - a borrowed run of bytes: pointer and length, by value.
 *
 * A span owns nothing. It is valid as long as what it points into: an arena, a buf, a Kafka message.
 * A span with p == NULL is "absent"; a span of length 0 with p != NULL is an empty value.
 */
#ifndef CORE_SPAN_H
#define CORE_SPAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct span {
	const char *p;
	size_t n;
};

/* For printf("%.*s", SPAN_ARG(s)). */
#define SPAN_ARG(s) (int)(s).n, (s).p ? (s).p : ""

static inline struct span span(const void *p, size_t n)
{
	return (struct span) { p, n };
}

static inline struct span span_str(const char *s)
{
	return (struct span) { s, s ? strlen(s) : 0 };
}

static inline bool span_eq(struct span a, struct span b)
{
	return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static inline bool span_eq_str(struct span a, const char *s)
{
	return span_eq(a, span_str(s));
}

/* 0 to 15, or -1. */
static inline int span_hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Is it UTF-8 as PostgreSQL demands it: whole characters, each in its shortest form? */
bool span_is_utf8(struct span s);

/* Order by bytes, then by length: memcmp's sign. */
int span_cmp(struct span a, struct span b);

/* 64-bit hash (XXH64-like mixing is enough: it never leaves the process). */
uint64_t span_hash(struct span s);

#endif
