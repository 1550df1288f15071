// SPDX-License-Identifier: Apache-2.0
/*
 * numeric - PostgreSQL's numeric: its binary format ↔ its text ↔ the unscaled number of an Avro
 * decimal.
 *
 * Two forms travel. A *decimal* is a numeric(p,s) with 0 <= s <= p <= 38 as its unscaled number, a
 * 128-bit integer; as bytes it is two's complement, big-endian, of the least length. Everything
 * else is *text* as the server prints it: -?digits[.digits], NaN, Infinity or -Infinity, no
 * exponent, no needless leading zero.
 *
 * Binary format (numeric_send): int16 ndigits, int16 weight, uint16 sign, uint16 dscale, then
 * ndigits digits of base 10000 as int16, the first worth 10000^weight. dscale is the count of
 * decimals shown.
 */
#ifndef CORE_NUMERIC_H
#define CORE_NUMERIC_H

#include "core/arena.h"
#include "core/buf.h"

__extension__ typedef __int128 numeric_unscaled;

enum {
	NUMERIC_PRECISION_MAX = 38, /* 10^38 - 1 is the longest row of nines in 128 bits */
	NUMERIC_DECIMAL_BYTES = 16,
	NUMERIC_DECIMAL_TEXT = 48, /* sign, 39 digits, "0.", to spare */
};

/*
 * Text or binary → unscaled number. False: this is not a value that numeric(precision, scale)
 * shows with exactly scale decimals (so it goes as text), or it is no numeric at all.
 */
bool numeric_decimal_from_text(struct span text, int precision, int scale, numeric_unscaled *ret);
bool numeric_decimal_from_binary(struct span cell, int precision, int scale, numeric_unscaled *ret);

/* Bytes into out[NUMERIC_DECIMAL_BYTES]; returns how many. From 1 to 16 bytes. */
size_t numeric_decimal_to_bytes(numeric_unscaled v, char *out);
bool numeric_decimal_from_bytes(struct span bytes, numeric_unscaled *ret);

/* The server's text into out[NUMERIC_DECIMAL_TEXT], without a NUL; returns its length. */
size_t numeric_decimal_print(numeric_unscaled v, int scale, char *out);
void numeric_decimal_add_binary(numeric_unscaled v, int scale, struct buf *out);

/* Is it a numeric as the server prints it? */
bool numeric_text_is_valid(struct span text);
/* The text numeric_out would print. False: malformed, or arena_failed(a). */
bool numeric_text_from_binary(struct span cell, struct arena *a, struct span *ret_text);
/* text must be valid. False: more digits than a numeric can have. */
bool numeric_text_add_binary(struct span text, struct buf *out);
/* The part of a valid text that all equal values share: 1.00 → 1, 0.0 → 0, -0.0 → 0. */
struct span numeric_text_trim(struct span text);

#endif
