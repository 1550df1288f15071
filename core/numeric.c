// SPDX-License-Identifier: Apache-2.0
#include "core/numeric.h"

#include "core/cursor.h"

__extension__ typedef unsigned __int128 numeric_magnitude;

enum {
	SIGN_POSITIVE = 0x0000,
	SIGN_NEGATIVE = 0x4000,
	SIGN_NAN = 0xc000,
	SIGN_INFINITY = 0xd000,
	SIGN_MINUS_INFINITY = 0xf000,
	DSCALE_MAX = 0x3fff,
	SPECIAL_DSCALE = 0x20, /* what the server sends with an infinity, and ignores */
	BASE = 10000,
	BASE_DIGITS = 4,
	INTEGER_DIGITS_MAX = 131072, /* weight is an int16 */
};

/* Four groups of four digits: what a 128-bit number is taken apart by. */
#define TEN_16 UINT64_C(10000000000000000)

/* clang-format off */
static const uint64_t powers[] = {
	1u, 10u, 100u, 1000u, 10000u, 100000u, 1000000u, 10000000u, 100000000u, 1000000000u,
	10000000000u, 100000000000u, 1000000000000u, 10000000000000u, 100000000000000u,
	1000000000000000u, TEN_16, 10 * TEN_16, 100 * TEN_16, 1000 * TEN_16,
};
/* clang-format on */

enum { POWERS = sizeof(powers) / sizeof(powers[0]) };

/* Up to 10^38. */
static numeric_magnitude power_of_ten(unsigned n)
{
	return n < POWERS ? powers[n] : (numeric_magnitude)powers[19] * powers[n - 19];
}

/* Divides *v and returns the remainder; most numbers are short, and a 128-bit division is long. */
static uint64_t take_remainder(numeric_magnitude *v, uint64_t divisor)
{
	uint64_t remainder;

	if (*v <= UINT64_MAX) {
		remainder = (uint64_t)*v % divisor;
		*v = (uint64_t)*v / divisor;
		return remainder;
	}
	remainder = (uint64_t)(*v % divisor);
	*v /= divisor;
	return remainder;
}

static const struct special {
	const char *text;
	uint16_t sign, dscale;
} specials[] = {
	{ "NaN", SIGN_NAN, 0 },
	{ "Infinity", SIGN_INFINITY, SPECIAL_DSCALE },
	{ "-Infinity", SIGN_MINUS_INFINITY, SPECIAL_DSCALE },
};

enum { SPECIALS = sizeof(specials) / sizeof(specials[0]) };

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static numeric_magnitude magnitude_of(numeric_unscaled v)
{
	return v < 0 ? -(numeric_magnitude)v : (numeric_magnitude)v;
}

static numeric_unscaled with_sign(numeric_magnitude v, bool is_negative)
{
	return is_negative ? -(numeric_unscaled)v : (numeric_unscaled)v;
}

bool numeric_decimal_from_text(struct span text, int precision, int scale, numeric_unscaled *ret)
{
	bool is_negative = text.n > 0 && text.p[0] == '-';
	size_t start = is_negative, decimals = (size_t)scale, whole;
	numeric_magnitude v = 0;

	if (text.n > NUMERIC_DECIMAL_TEXT || text.n < start + 1 + decimals + (decimals > 0))
		return false;
	whole = text.n - decimals - (decimals > 0);
	if (decimals > 0 && text.p[whole] != '.')
		return false;
	if (text.p[start] == '0' && whole > start + 1)
		return false;
	for (size_t i = start; i < text.n; i++) {
		if (i == whole)
			continue;
		if (!is_digit(text.p[i]) || v >= power_of_ten(NUMERIC_PRECISION_MAX - 1))
			return false;
		v = v * 10 + (unsigned)(text.p[i] - '0');
	}
	if (v >= power_of_ten(precision) || (is_negative && v == 0))
		return false;
	*ret = with_sign(v, is_negative);
	return true;
}

/* The fields of the binary format; digits is what is left in c. */
struct header {
	uint16_t digit_count, sign, dscale;
	int weight;
};

static bool header_read(struct cursor *c, struct header *h)
{
	h->digit_count = cursor_u16(c);
	h->weight = cursor_i16(c);
	h->sign = cursor_u16(c);
	h->dscale = cursor_u16(c);
	return !c->cut && cursor_left(c) == 2 * (size_t)h->digit_count && h->dscale <= DSCALE_MAX;
}

enum { HEADER_WORDS = 4 };

static void header_put(const struct header *h, uint16_t *words)
{
	words[0] = htobe16(h->digit_count);
	words[1] = htobe16((uint16_t)h->weight);
	words[2] = htobe16(h->sign);
	words[3] = htobe16(h->dscale);
}

static void header_write(const struct header *h, struct buf *out)
{
	uint16_t words[HEADER_WORDS];

	header_put(h, words);
	buf_add(out, words, sizeof(words));
}

/*
 * Takes the next digit, as far as it is shown. place: how many decimals there are from this digit
 * to the end of the shown number; negative where the digit reaches beyond it. What is beyond must
 * be zero: the server sends nothing else.
 */
static bool shown_digit(struct cursor *c, int place, unsigned *ret_digit, unsigned *ret_width)
{
	unsigned digit = cursor_u16(c), beyond, power;

	*ret_digit = digit;
	*ret_width = BASE_DIGITS;
	if (digit >= BASE)
		return false;
	if (place >= 0)
		return true;
	beyond = place > -BASE_DIGITS ? (unsigned)-place : BASE_DIGITS;
	power = (unsigned)powers[beyond];
	*ret_digit = digit / power;
	*ret_width = BASE_DIGITS - beyond;
	return digit % power == 0;
}

/* places <= POWERS - 1: whatever the digits are, the number fits into 64 bits. */
static bool small_from_digits(const struct header *h, struct cursor *c, int places,
			      numeric_magnitude *ret)
{
	unsigned digit, width;
	uint64_t v = 0;

	for (unsigned i = 0; i < h->digit_count; i++) {
		places -= BASE_DIGITS;
		if (!shown_digit(c, places, &digit, &width))
			return false;
		v = v * powers[width] + digit;
	}
	*ret = places > 0 ? v * powers[places] : v;
	return true;
}

static bool large_from_digits(const struct header *h, struct cursor *c, int places,
			      numeric_magnitude *ret)
{
	numeric_magnitude v = 0;
	unsigned digit, width;

	for (unsigned i = 0; i < h->digit_count; i++) {
		places -= BASE_DIGITS;
		if (!shown_digit(c, places, &digit, &width) ||
		    v >= power_of_ten(NUMERIC_PRECISION_MAX - width))
			return false;
		v = v * powers[width] + digit;
	}
	if (places > 0 && v > 0) {
		if (places > NUMERIC_PRECISION_MAX ||
		    v >= power_of_ten((unsigned)(NUMERIC_PRECISION_MAX - places)))
			return false;
		v *= power_of_ten((unsigned)places);
	}
	*ret = v;
	return true;
}

bool numeric_decimal_from_binary(struct span cell, int precision, int scale, numeric_unscaled *ret)
{
	struct cursor c = cursor(cell);
	struct header h;
	numeric_magnitude v;
	int places;

	if (!header_read(&c, &h) || h.dscale != scale ||
	    (h.sign != SIGN_POSITIVE && h.sign != SIGN_NEGATIVE))
		return false;
	places = (h.weight + 1) * BASE_DIGITS + scale;
	if (!(places < POWERS ? small_from_digits(&h, &c, places, &v)
			      : large_from_digits(&h, &c, places, &v)))
		return false;
	if (v >= power_of_ten((unsigned)precision))
		return false;
	*ret = with_sign(v, h.sign == SIGN_NEGATIVE);
	return true;
}

size_t numeric_decimal_to_bytes(numeric_unscaled v, char *out)
{
	uint64_t low = (uint64_t)v, high = (uint64_t)(v >> 64);
	uint64_t be[2] = { htobe64(high), htobe64(low) };
	uint64_t sign = (int64_t)low < 0 ? UINT64_MAX : 0;
	size_t n;

	/* __builtin_clrsb: the bits that only repeat the sign. */
	if (high == sign)
		n = (size_t)(64 - __builtin_clrsbll((long long)low) + 7) / 8;
	else
		n = (size_t)(64 - __builtin_clrsbll((long long)high) + 7) / 8 + 8;
	memcpy(out, (char *)be + NUMERIC_DECIMAL_BYTES - n, n);
	return n;
}

bool numeric_decimal_from_bytes(struct span bytes, numeric_unscaled *ret)
{
	uint64_t be[2];

	if (bytes.n < 1 || bytes.n > NUMERIC_DECIMAL_BYTES)
		return false;
	memset(be, bytes.p[0] & 0x80 ? 0xff : 0, sizeof(be));
	memcpy((char *)be + NUMERIC_DECIMAL_BYTES - bytes.n, bytes.p, bytes.n);
	*ret = (numeric_unscaled)((numeric_magnitude)be64toh(be[0]) << 64 | be64toh(be[1]));
	return true;
}

/* Digits from the back of out[NUMERIC_DECIMAL_TEXT], at least scale + 1 of them; returns the first.
 */
static char *print_digits(numeric_magnitude v, int scale, char *out)
{
	char *end = out + NUMERIC_DECIMAL_TEXT, *p = end;

	while (v > 0 || p > end - scale - 1) {
		uint64_t part = take_remainder(&v, TEN_16);

		for (int i = 0; i < 16 && (part > 0 || v > 0 || p > end - scale - 1); i++) {
			*--p = (char)('0' + part % 10);
			part /= 10;
		}
	}
	return p;
}

size_t numeric_decimal_print(numeric_unscaled v, int scale, char *out)
{
	char digits[NUMERIC_DECIMAL_TEXT];
	const char *end = digits + NUMERIC_DECIMAL_TEXT;
	const char *p = print_digits(magnitude_of(v), scale, digits);
	size_t whole = (size_t)(end - p) - (size_t)scale, n = 0;

	if (v < 0)
		out[n++] = '-';
	memcpy(out + n, p, whole);
	n += whole;
	if (scale > 0) {
		out[n++] = '.';
		memcpy(out + n, p + whole, (size_t)scale);
		n += (size_t)scale;
	}
	return n;
}

void numeric_decimal_add_binary(numeric_unscaled v, int scale, struct buf *out)
{
	enum { GROUPS_MAX = 12 }; /* 39 digits, the last group of decimals filled up with zeros */
	uint16_t groups[GROUPS_MAX]; /* from the last */
	uint16_t words[HEADER_WORDS + GROUPS_MAX], *word = words + HEADER_WORDS;
	unsigned n = 0, zeros = 0, partial = (unsigned)scale % BASE_DIGITS;
	unsigned decimals = ((unsigned)scale + BASE_DIGITS - 1) / BASE_DIGITS;
	numeric_magnitude rest = magnitude_of(v);
	uint64_t low;

	if (partial > 0) {
		unsigned power = (unsigned)powers[partial];

		groups[n++] = (uint16_t)(take_remainder(&rest, power) * (BASE / power));
	}
	while (rest > UINT64_MAX) {
		low = take_remainder(&rest, TEN_16);
		for (int i = 0; i < 4; i++, low /= BASE)
			groups[n++] = (uint16_t)(low % BASE);
	}
	for (low = (uint64_t)rest; low > 0; low /= BASE)
		groups[n++] = (uint16_t)(low % BASE);
	while (n > 0 && groups[n - 1] == 0)
		n--;
	while (zeros < n && groups[zeros] == 0)
		zeros++;
	header_put(&(struct header) { .digit_count = (uint16_t)(n - zeros),
				      .weight = n > 0 ? (int)n - (int)decimals - 1 : 0,
				      .sign = v < 0 ? SIGN_NEGATIVE : SIGN_POSITIVE,
				      .dscale = (uint16_t)scale },
		   words);
	while (n > zeros)
		*word++ = htobe16(groups[--n]);
	buf_add(out, words, (size_t)((char *)word - (char *)words));
}

/* A valid text that is not one of the specials, taken apart. */
struct parts {
	bool is_negative;
	struct span whole, decimals;
};

static bool parts_split(struct span text, struct parts *ret)
{
	size_t i = text.n > 0 && text.p[0] == '-', start = i;

	ret->is_negative = start > 0;
	while (i < text.n && is_digit(text.p[i]))
		i++;
	ret->whole = span(text.p + start, i - start);
	ret->decimals = span("", 0);
	if (ret->whole.n == 0 || (ret->whole.n > 1 && ret->whole.p[0] == '0'))
		return false;
	if (i == text.n)
		return true;
	if (text.p[i++] != '.' || i == text.n)
		return false;
	ret->decimals = span(text.p + i, text.n - i);
	while (i < text.n && is_digit(text.p[i]))
		i++;
	return i == text.n;
}

static const struct special *special_find(struct span text)
{
	for (int i = 0; i < SPECIALS; i++)
		if (span_eq_str(text, specials[i].text))
			return &specials[i];
	return NULL;
}

bool numeric_text_is_valid(struct span text)
{
	struct parts parts;

	return parts_split(text, &parts) || special_find(text);
}

static char *print_group(char *p, unsigned group)
{
	p[0] = (char)('0' + group / 1000);
	p[1] = (char)('0' + group / 100 % 10);
	p[2] = (char)('0' + group / 10 % 10);
	p[3] = (char)('0' + group % 10);
	return p + BASE_DIGITS;
}

/* Writes a group for each weight from `first` down to `last`, zeros where there is no digit. */
static bool print_groups(const struct header *h, struct cursor *digits, int first, int last,
			 char *p)
{
	for (int weight = first; weight >= last; weight--) {
		bool has_digit = weight <= h->weight && cursor_left(digits) > 0;
		unsigned group = has_digit ? cursor_u16(digits) : 0;

		if (group >= BASE)
			return false;
		p = print_group(p, group);
	}
	while (cursor_left(digits) > 0)
		if (cursor_u16(digits) >= BASE)
			return false;
	return true;
}

/* What numeric_out does: dscale decimals, digits beyond them not shown. */
static bool text_from_digits(struct header h, struct cursor digits, struct arena *a,
			     struct span *ret_text)
{
	int first = h.digit_count > 0 && h.weight > 0 ? h.weight : 0;
	int last = -((h.dscale + BASE_DIGITS - 1) / BASE_DIGITS);
	size_t whole = (size_t)(first + 1) * BASE_DIGITS, n = whole;
	char *room = arena_alloc(a, 1 + whole + 1 + (size_t)-last * BASE_DIGITS + 1);
	char *p = room, *end;

	/* A byte for the sign, whole digits, later the point, decimals, a NUL for strspn. */
	if (!p || !print_groups(&h, &digits, first, last, ++p))
		return false;
	if (h.dscale > 0) {
		memmove(p + whole + 1, p + whole, h.dscale);
		p[whole] = '.';
		n += 1 + (size_t)h.dscale;
	}
	end = p + n;
	while (p < room + whole && *p == '0')
		p++;
	if (h.sign == SIGN_NEGATIVE && strspn(p, "0.") < (size_t)(end - p))
		*--p = '-';
	*ret_text = span(p, (size_t)(end - p));
	return true;
}

bool numeric_text_from_binary(struct span cell, struct arena *a, struct span *ret_text)
{
	struct cursor c = cursor(cell);
	struct header h;

	if (!header_read(&c, &h))
		return false;
	for (int i = 0; i < SPECIALS; i++) {
		if (h.sign == specials[i].sign && h.digit_count == 0) {
			*ret_text = span_str(specials[i].text);
			return true;
		}
	}
	if (h.sign != SIGN_POSITIVE && h.sign != SIGN_NEGATIVE)
		return false;
	return text_from_digits(h, c, a, ret_text);
}

/* The group worth 10000^weight. */
static uint16_t parts_group(const struct parts *parts, int weight)
{
	unsigned group = 0;

	if (weight >= 0) {
		size_t beyond = (size_t)weight * BASE_DIGITS; /* digits right of the group */
		size_t end = parts->whole.n - beyond;
		size_t start = end > BASE_DIGITS ? end - BASE_DIGITS : 0;

		for (size_t i = start; i < end; i++)
			group = group * 10 + (unsigned)(parts->whole.p[i] - '0');
	} else {
		size_t start = (size_t)(-weight - 1) * BASE_DIGITS;

		for (size_t i = start; i < start + BASE_DIGITS; i++)
			group = group * 10 + (i < parts->decimals.n
						  ? (unsigned)(parts->decimals.p[i] - '0')
						  : 0);
	}
	return (uint16_t)group;
}

static void parts_add_binary(const struct parts *parts, struct buf *out)
{
	int first = (int)((parts->whole.n + BASE_DIGITS - 1) / BASE_DIGITS) - 1;
	int last = -(int)((parts->decimals.n + BASE_DIGITS - 1) / BASE_DIGITS);
	struct header h = { .dscale = (uint16_t)parts->decimals.n };

	while (first >= last && parts_group(parts, first) == 0)
		first--;
	while (last <= first && parts_group(parts, last) == 0)
		last++;
	if (first >= last) {
		h.digit_count = (uint16_t)(first - last + 1);
		h.weight = first;
		h.sign = parts->is_negative ? SIGN_NEGATIVE : SIGN_POSITIVE;
	}
	header_write(&h, out);
	for (int weight = first; weight >= last; weight--)
		buf_be16(out, parts_group(parts, weight));
}

bool numeric_text_add_binary(struct span text, struct buf *out)
{
	const struct special *special = special_find(text);
	struct parts parts;

	if (special) {
		header_write(&(struct header) { .sign = special->sign, .dscale = special->dscale },
			     out);
		return true;
	}
	if (!parts_split(text, &parts) || parts.whole.n > INTEGER_DIGITS_MAX ||
	    parts.decimals.n > DSCALE_MAX)
		return false;
	parts_add_binary(&parts, out);
	return true;
}

struct span numeric_text_trim(struct span text)
{
	struct parts parts;

	if (!parts_split(text, &parts))
		return text;
	if (parts.decimals.n > 0) {
		while (text.p[text.n - 1] == '0')
			text.n--;
		if (text.p[text.n - 1] == '.')
			text.n--;
	}
	return span_eq_str(text, "-0") ? span("0", 1) : text;
}
