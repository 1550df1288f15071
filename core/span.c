// SPDX-License-Identifier: Apache-2.0
#include "core/span.h"

int span_cmp(struct span a, struct span b)
{
	size_t n = a.n < b.n ? a.n : b.n;
	int cmp = n ? memcmp(a.p, b.p, n) : 0;

	if (cmp != 0)
		return cmp;
	return a.n < b.n ? -1 : a.n > b.n;
}

/* The two halves of the 128-bit product, folded: each bit of the input reaches every bit. */
static uint64_t span_mix(uint64_t a, uint64_t b)
{
	__extension__ unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* The length of the character at p, 0: there is none. */
static size_t character(const unsigned char *p, size_t n)
{
	static const struct {
		unsigned char from, to, second_from, second_to;
		size_t n;
	} forms[] = {
		{ 0x00, 0x7f, 0x80, 0xbf, 1 }, { 0xc2, 0xdf, 0x80, 0xbf, 2 }, { 0xe0, 0xe0, 0xa0, 0xbf, 3 },
		{ 0xe1, 0xec, 0x80, 0xbf, 3 }, { 0xed, 0xed, 0x80, 0x9f, 3 }, { 0xee, 0xef, 0x80, 0xbf, 3 },
		{ 0xf0, 0xf0, 0x90, 0xbf, 4 }, { 0xf1, 0xf3, 0x80, 0xbf, 4 }, { 0xf4, 0xf4, 0x80, 0x8f, 4 },
	};
	size_t i = 0;

	while (i < sizeof(forms) / sizeof(*forms) && !(p[0] >= forms[i].from && p[0] <= forms[i].to))
		i++;
	if (i == sizeof(forms) / sizeof(*forms) || n < forms[i].n)
		return 0;
	for (size_t k = 1; k < forms[i].n; k++)
		if (p[k] < (k == 1 ? forms[i].second_from : 0x80) || p[k] > (k == 1 ? forms[i].second_to : 0xbf))
			return 0;
	return forms[i].n;
}

bool span_is_utf8(struct span s)
{
	const unsigned char *p = (const unsigned char *)s.p;
	size_t n;

	for (size_t i = 0; i < s.n; i += n)
		if (!(n = character(p + i, s.n - i)))
			return false;
	return true;
}

uint64_t span_hash(struct span s)
{
	/* Odd, about half of the bits set, found by nothing cleverer than that. */
	const uint64_t k1 = 0x9d5c3a2be7f14687, k2 = 0xc6a4f0935be21d7b;
	uint64_t h = s.n * k1 ^ k2;
	uint64_t word;

	for (; s.n >= 8; s.p += 8, s.n -= 8) {
		memcpy(&word, s.p, 8);
		h = span_mix(h ^ word, k1) + k2;
	}
	word = 0;
	if (s.n > 0)
		memcpy(&word, s.p, s.n);
	h = span_mix(h ^ word, k1);
	return span_mix(h ^ k2, k1 ^ h >> 29);
}
