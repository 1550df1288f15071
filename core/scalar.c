// SPDX-License-Identifier: Apache-2.0
#include "core/scalar.h"

#include <math.h>

#include "core/shortest.h"

bool scalar_int_parse(struct span text, int64_t *ret)
{
	bool is_negative = text.n > 0 && text.p[0] == '-';
	int64_t v = 0;

	if (text.n == (size_t)is_negative)
		return false;
	/* Below zero throughout: there is one number more on that side. */
	for (size_t i = is_negative; i < text.n; i++) {
		unsigned digit = (unsigned)(text.p[i] - '0');

		if (digit > 9 || __builtin_mul_overflow(v, 10, &v) ||
		    __builtin_sub_overflow(v, (int64_t)digit, &v))
			return false;
	}
	if (!is_negative && v == INT64_MIN)
		return false;
	*ret = is_negative ? v : -v;
	return true;
}

static size_t skip_digits(const char *p, size_t i)
{
	while (p[i] >= '0' && p[i] <= '9')
		i++;
	return i;
}

/* strtod takes more than PostgreSQL prints (blanks, hexadecimal, nan(...)): the grammar is ours. */
static bool float_is_valid(const char *p)
{
	size_t i = p[0] == '-', start = i;

	i = skip_digits(p, i);
	if (i == start)
		return false;
	if (p[i] == '.') {
		start = ++i;
		i = skip_digits(p, i);
		if (i == start)
			return false;
	}
	if (p[i] == 'e') {
		i++;
		i += p[i] == '-' || p[i] == '+';
		start = i;
		i = skip_digits(p, i);
		if (i == start)
			return false;
	}
	return p[i] == 0;
}

/* The process never calls setlocale, so the decimal point of strtod is a point. */
bool scalar_float_parse(struct span text, bool is_single, double *ret)
{
	char copy[SHORTEST_TEXT + 1] = "";
	double d;

	if (text.n == 0 || text.n > SHORTEST_TEXT)
		return false;
	if (span_eq_str(text, "NaN")) {
		*ret = NAN;
		return true;
	}
	if (span_eq_str(text, "Infinity") || span_eq_str(text, "-Infinity")) {
		*ret = text.p[0] == '-' ? -INFINITY : INFINITY;
		return true;
	}
	memcpy(copy, text.p, text.n);
	if (!float_is_valid(copy))
		return false;
	d = is_single ? (double)strtof(copy, NULL) : strtod(copy, NULL);
	if (isinf(d))
		return false;
	*ret = d;
	return true;
}

bool scalar_hex_decode(const char *p, size_t byte_count, char *out)
{
	for (size_t i = 0; i < byte_count; i++) {
		int high = span_hex_digit(p[2 * i]), low = span_hex_digit(p[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		out[i] = (char)(high << 4 | low);
	}
	return true;
}

char *scalar_hex_encode(struct span bytes, char *out)
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < bytes.n; i++) {
		*out++ = digits[(uint8_t)bytes.p[i] >> 4];
		*out++ = digits[(uint8_t)bytes.p[i] & 15];
	}
	return out;
}

/* Bytes of each of a UUID's five groups, with the hyphens between them. */
static const unsigned char uuid_groups[] = { 4, 2, 2, 2, 6 };

bool scalar_uuid_parse(struct span text, char *out)
{
	const char *p = text.p;

	if (text.n != SCALAR_UUID_TEXT)
		return false;
	for (size_t i = 0; i < sizeof(uuid_groups); i++) {
		if (i > 0 && *p++ != '-')
			return false;
		if (!scalar_hex_decode(p, uuid_groups[i], out))
			return false;
		p += 2 * uuid_groups[i];
		out += uuid_groups[i];
	}
	return true;
}

void scalar_uuid_print(const char *bytes, char *out)
{
	for (size_t i = 0; i < sizeof(uuid_groups); i++) {
		if (i > 0)
			*out++ = '-';
		out = scalar_hex_encode(span(bytes, uuid_groups[i]), out);
		bytes += uuid_groups[i];
	}
}

void scalar_int_print(int64_t i, struct buf *out)
{
	char text[24], *end = text + sizeof(text), *p = end;
	uint64_t rest = i < 0 ? -(uint64_t)i : (uint64_t)i;

	do
		*--p = (char)('0' + rest % 10);
	while ((rest /= 10) > 0);
	if (i < 0)
		*--p = '-';
	buf_add(out, p, (size_t)(end - p));
}

void scalar_float_print(double d, bool is_single, struct buf *out)
{
	char text[SHORTEST_TEXT];
	size_t n = is_single ? shortest_float((float)d, text) : shortest_double(d, text);

	buf_add(out, text, n);
}
