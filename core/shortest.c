// SPDX-License-Identifier: Apache-2.0
#include "core/shortest.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* The largest is 10^324 times 2^3, or 2^1077: 1,080 bits. */
enum { BIG_WORDS = 36, DIGITS_MAX = 18 };

struct big {
	int n; /* words in use; the topmost is not zero */
	uint32_t words[BIG_WORDS];
};

/* 0.d1d2d3… × 10^point */
struct digits {
	int n, point;
	char text[DIGITS_MAX];
};

/* What differs between the two widths: the range of exponents printed without one. */
struct width {
	int mantissa_bits, exponent_bits, plain_max;
};

static const struct width float_width = { 23, 8, 6 }, double_width = { 52, 11, 15 };

static struct big big_shifted(uint64_t v, int bits)
{
	struct big b = { 0 };
	int word = bits / 32;

	bits %= 32;
	b.words[word] = (uint32_t)(v << bits);
	b.words[word + 1] = (uint32_t)(v << bits >> 32);
	b.words[word + 2] = bits ? (uint32_t)(v >> (64 - bits)) : 0;
	for (b.n = word + 3; b.n > 0 && b.words[b.n - 1] == 0;)
		b.n--;
	return b;
}

static void big_mul(struct big *b, uint32_t factor)
{
	uint64_t carry = 0;

	for (int i = 0; i < b->n; i++) {
		carry += (uint64_t)b->words[i] * factor;
		b->words[i] = (uint32_t)carry;
		carry >>= 32;
	}
	if (carry)
		b->words[b->n++] = (uint32_t)carry;
}

static void big_mul_power(struct big *b, int power_of_ten)
{
	for (; power_of_ten >= 9; power_of_ten -= 9)
		big_mul(b, 1000000000);
	for (; power_of_ten > 0; power_of_ten--)
		big_mul(b, 10);
}

static int big_cmp(const struct big *a, const struct big *b)
{
	if (a->n != b->n)
		return a->n < b->n ? -1 : 1;
	for (int i = a->n; i-- > 0;)
		if (a->words[i] != b->words[i])
			return a->words[i] < b->words[i] ? -1 : 1;
	return 0;
}

static void big_sub(struct big *a, const struct big *b)
{
	int64_t borrow = 0;

	for (int i = 0; i < a->n; i++) {
		borrow += (int64_t)a->words[i] - (i < b->n ? b->words[i] : 0);
		a->words[i] = (uint32_t)borrow;
		borrow >>= 32;
	}
	while (a->n > 0 && a->words[a->n - 1] == 0)
		a->n--;
}

/* a + b compared with c. */
static int big_cmp_sum(const struct big *a, const struct big *b, const struct big *c)
{
	struct big sum = *a;
	uint64_t carry = 0;

	for (int i = a->n; i < b->n; i++)
		sum.words[i] = 0;
	sum.n = a->n > b->n ? a->n : b->n;
	for (int i = 0; i < sum.n; i++) {
		carry += (uint64_t)sum.words[i] + (i < b->n ? b->words[i] : 0);
		sum.words[i] = (uint32_t)carry;
		carry >>= 32;
	}
	if (carry)
		sum.words[sum.n++] = (uint32_t)carry;
	return big_cmp(&sum, c);
}

/* The decimal point of m × 2^e, or one too low. */
static int digits_guess_point(uint64_t m, int e)
{
	int log2 = 63 - __builtin_clzll(m) + e;

	return (int)ceil(log2 * 0.30102999566398120 - 1e-9);
}

/*
 * The value is rest/unit; rest - below and rest + above are the midpoints to its neighbours, all
 * four scaled so that they are whole. is_power: the neighbour below is half as far as the one
 * above.
 */
static struct digits digits_of(uint64_t m, int e, bool is_power)
{
	int extra = is_power ? 2 : 1;
	struct big rest = big_shifted(m, (e > 0 ? e : 0) + extra);
	struct big unit = big_shifted(1, (e < 0 ? -e : 0) + extra);
	struct big above = big_shifted(is_power ? 2 : 1, e > 0 ? e : 0);
	struct big below = big_shifted(1, e > 0 ? e : 0);
	struct digits ret = { .point = digits_guess_point(m, e) };
	bool low, high;
	int cmp;

	if (ret.point >= 0) {
		big_mul_power(&unit, ret.point);
	} else {
		big_mul_power(&rest, -ret.point);
		big_mul_power(&above, -ret.point);
		big_mul_power(&below, -ret.point);
	}
	if (big_cmp_sum(&rest, &above, &unit) > 0) {
		big_mul(&unit, 10);
		ret.point++;
	}
	do {
		char digit = '0';

		big_mul(&rest, 10);
		big_mul(&above, 10);
		big_mul(&below, 10);
		for (; big_cmp(&rest, &unit) >= 0; digit++)
			big_sub(&rest, &unit);
		low = big_cmp(&rest, &below) < 0;
		high = big_cmp_sum(&rest, &above, &unit) > 0;
		cmp = low && high ? big_cmp_sum(&rest, &rest, &unit) : high ? 1 : -1;
		if (cmp > 0 || (cmp == 0 && digit % 2 == 1))
			digit++;
		ret.text[ret.n++] = digit;
	} while (!low && !high);
	return ret;
}

static size_t digits_print_exponent(const struct digits *d, char *out)
{
	int exponent = d->point - 1;
	unsigned size = (unsigned)(exponent < 0 ? -exponent : exponent);
	char *p = out;

	*p++ = d->text[0];
	if (d->n > 1) {
		*p++ = '.';
		memcpy(p, d->text + 1, (size_t)d->n - 1);
		p += d->n - 1;
	}
	*p++ = 'e';
	*p++ = exponent < 0 ? '-' : '+';
	if (size >= 100)
		*p++ = (char)('0' + size / 100);
	*p++ = (char)('0' + size / 10 % 10);
	*p++ = (char)('0' + size % 10);
	return (size_t)(p - out);
}

static size_t digits_print_plain(const struct digits *d, char *out)
{
	char *p = out;

	if (d->point <= 0) {
		*p++ = '0';
		*p++ = '.';
		for (int i = d->point; i < 0; i++)
			*p++ = '0';
	}
	for (int i = 0; i < d->n; i++) {
		if (i > 0 && i == d->point)
			*p++ = '.';
		*p++ = d->text[i];
	}
	for (int i = d->n; i < d->point; i++)
		*p++ = '0';
	return (size_t)(p - out);
}

static size_t shortest_print(uint64_t mantissa, int exponent, bool is_negative,
			     const struct width *w, char *out)
{
	const int exponent_max = (1 << w->exponent_bits) - 1, bias = exponent_max / 2;
	struct digits d;
	char *p = out;

	if (exponent == exponent_max && mantissa != 0) {
		memcpy(out, "NaN", 3);
		return 3;
	}
	if (is_negative)
		*p++ = '-';
	if (exponent == exponent_max) {
		memcpy(p, "Infinity", 8);
		return (size_t)(p - out) + 8;
	}
	if (exponent == 0 && mantissa == 0) {
		*p++ = '0';
		return (size_t)(p - out);
	}
	if (exponent == 0)
		d = digits_of(mantissa, 1 - bias - w->mantissa_bits, false);
	else
		d = digits_of(mantissa | 1ull << w->mantissa_bits,
			      exponent - bias - w->mantissa_bits, mantissa == 0 && exponent > 1);
	if (d.point - 1 < -4 || d.point - 1 >= w->plain_max)
		p += digits_print_exponent(&d, p);
	else
		p += digits_print_plain(&d, p);
	return (size_t)(p - out);
}

size_t shortest_double(double d, char *out)
{
	uint64_t bits;

	memcpy(&bits, &d, sizeof(bits));
	return shortest_print(bits & ((1ull << 52) - 1), (int)(bits >> 52 & 0x7ff), bits >> 63,
			      &double_width, out);
}

size_t shortest_float(float d, char *out)
{
	uint32_t bits;

	memcpy(&bits, &d, sizeof(bits));
	return shortest_print(bits & ((1u << 23) - 1), (int)(bits >> 23 & 0xff), bits >> 31,
			      &float_width, out);
}
