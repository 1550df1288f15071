// SPDX-License-Identifier: Apache-2.0
/*
 * shortest - floating-point numbers as PostgreSQL (12 and later, extra_float_digits > 0) prints
 * them.
 *
 * The fewest digits that lie strictly between the midpoints to the two neighbours; of those, the
 * digits nearest to the exact value. "Strictly" matters: printf and strtod accept a midpoint that
 * rounds to even and so find fewer digits now and then. Computed exactly, with integers of up to
 * 1,100 bits (Steele and White; Burger and Dybvig): plain, and fast enough for keys and COPY text.
 */
#ifndef CORE_SHORTEST_H
#define CORE_SHORTEST_H

#include <stddef.h>

enum { SHORTEST_TEXT = 32 };

/* Writes the text into out[SHORTEST_TEXT], without a NUL; returns its length. */
size_t shortest_double(double d, char *out);
size_t shortest_float(float d, char *out);

#endif
