// SPDX-License-Identifier: Apache-2.0
/*
 * scalar - integers, floating-point numbers, hexadecimal digits and UUIDs as PostgreSQL prints them.
 *
 * Readers are strict: false for anything that PostgreSQL would not have printed. Pure.
 */
#ifndef CORE_SCALAR_H
#define CORE_SCALAR_H

#include "core/buf.h"

enum { SCALAR_UUID_TEXT = 36, SCALAR_UUID_BYTES = 16 };

bool scalar_int_parse(struct span text, int64_t *ret);
void scalar_int_print(int64_t i, struct buf *out);

/* is_single: float4, whose shortest text is another one. NaN and infinities too. */
bool scalar_float_parse(struct span text, bool is_single, double *ret);
void scalar_float_print(double d, bool is_single, struct buf *out);

/* 2 * byte_count digits at p. */
bool scalar_hex_decode(const char *p, size_t byte_count, char *out);
/* Returns the end of what it wrote. */
char *scalar_hex_encode(struct span bytes, char *out);

/* SCALAR_UUID_TEXT characters, SCALAR_UUID_BYTES bytes. */
bool scalar_uuid_parse(struct span text, char *out);
void scalar_uuid_print(const char *bytes, char *out);

#endif
