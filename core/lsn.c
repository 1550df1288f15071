// SPDX-License-Identifier: Apache-2.0
#include "core/lsn.h"

#include <stdio.h>

char *lsn_format(uint64_t lsn, char *text)
{
	snprintf(text, LSN_TEXT, "%X/%X", (unsigned)(lsn >> 32), (unsigned)lsn);
	return text;
}

static bool lsn_parse_half(struct span s, uint64_t *ret_half)
{
	uint64_t v = 0;

	if (s.n < 1 || s.n > 8)
		return false;
	for (size_t i = 0; i < s.n; i++) {
		int digit = span_hex_digit(s.p[i]);

		if (digit < 0)
			return false;
		v = v << 4 | (uint64_t)digit;
	}
	*ret_half = v;
	return true;
}

bool lsn_parse(struct span s, uint64_t *ret_lsn)
{
	const char *slash = s.n ? memchr(s.p, '/', s.n) : NULL;
	uint64_t high, low;
	size_t n;

	if (!slash)
		return false;
	n = (size_t)(slash - s.p);
	if (!lsn_parse_half(span(s.p, n), &high) ||
	    !lsn_parse_half(span(slash + 1, s.n - n - 1), &low))
		return false;
	*ret_lsn = high << 32 | low;
	return true;
}
