// SPDX-License-Identifier: Apache-2.0
#include "core/pattern.h"

enum glob_kind { GLOB_END, GLOB_DOT, GLOB_ANY, GLOB_ONE, GLOB_BYTE };

struct glob {
	const char *p;
	bool is_quoted;
	char byte; /* of the last GLOB_BYTE */
};

static enum glob_kind glob_next(struct glob *g)
{
	while (*g->p == '"') {
		if (g->is_quoted && g->p[1] == '"') {
			g->p += 2;
			g->byte = '"';
			return GLOB_BYTE;
		}
		g->is_quoted = !g->is_quoted;
		g->p++;
	}
	if (!*g->p)
		return GLOB_END;
	g->byte = *g->p++;
	if (g->is_quoted)
		return GLOB_BYTE;
	if (g->byte >= 'A' && g->byte <= 'Z')
		g->byte = (char)(g->byte - 'A' + 'a');
	return g->byte == '.'   ? GLOB_DOT
	       : g->byte == '*' ? GLOB_ANY
	       : g->byte == '?' ? GLOB_ONE
				: GLOB_BYTE;
}

/* Bytes of the UTF-8 character at i. */
static size_t glob_character(struct span s, size_t i)
{
	size_t n = 1;

	while (i + n < s.n && ((unsigned char)s.p[i + n] & 0xc0) == 0x80)
		n++;
	return n;
}

/* One part of the pattern, up to its end or dot, against all of s; then g stands behind it. */
static bool glob_part(struct glob *g, struct span s)
{
	struct glob after_any = { NULL };
	size_t i = 0, any_from = 0;

	for (;;) {
		enum glob_kind kind = glob_next(g);

		if (kind == GLOB_ANY) {
			after_any = *g;
			any_from = i;
			continue;
		}
		if ((kind == GLOB_END || kind == GLOB_DOT) && i == s.n)
			return true;
		if (kind == GLOB_ONE && i < s.n) {
			i += glob_character(s, i);
			continue;
		}
		if (kind == GLOB_BYTE && i < s.n && s.p[i] == g->byte) {
			i++;
			continue;
		}
		/* No: let the last * take one byte more. */
		if (!after_any.p || any_from >= s.n)
			return false;
		i = ++any_from;
		*g = after_any;
	}
}

bool pattern_match(const char *pattern, struct span schema, struct span table)
{
	struct glob g = { .p = pattern };

	return glob_part(&g, schema) && glob_part(&g, table);
}

bool pattern_is_valid(const char *pattern)
{
	struct glob g = { .p = pattern };
	size_t dots = 0, length = 0;

	for (;;) {
		switch (glob_next(&g)) {
		case GLOB_END:
			return dots == 1 && length > 0 && !g.is_quoted;
		case GLOB_DOT:
			if (length == 0)
				return false;
			dots++;
			length = 0;
			break;
		case GLOB_ANY:
		case GLOB_ONE:
		case GLOB_BYTE:
			length++;
			break;
		}
	}
}
