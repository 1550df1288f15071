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
