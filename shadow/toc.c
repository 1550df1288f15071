// SPDX-License-Identifier: Apache-2.0
#include "shadow/toc.h"

#include <stdlib.h>

enum toc_rule {
	RULE_EARLY,     /* everything of this kind, before the copy */
	RULE_OBJECT,    /* if its OID is wanted, in the object's stage */
	RULE_LABEL,     /* no OID: if "schema tag owner" is the label of a wanted object, in its stage */
	RULE_ATTACH,    /* likewise, also of one that is there: a crash may have come in between, and twice is no error */
};

/* A kind that is not here is not restored: data, owners, grants, comments, publications, subscriptions,
 * event triggers, views, materialized views, foreign tables, large objects. */
static const struct toc_kind {
	const char *desc;
	enum toc_rule rule;
} toc_kinds[] = {
	{ "SCHEMA", RULE_OBJECT },
	{ "EXTENSION", RULE_EARLY },
	{ "PROCEDURAL LANGUAGE", RULE_EARLY },
	{ "SHELL TYPE", RULE_EARLY },
	{ "TYPE", RULE_EARLY },
	{ "DOMAIN", RULE_EARLY },
	{ "COLLATION", RULE_EARLY },
	{ "CONVERSION", RULE_EARLY },
	{ "FUNCTION", RULE_EARLY },
	{ "PROCEDURE", RULE_EARLY },
	{ "AGGREGATE", RULE_EARLY },
	{ "OPERATOR", RULE_EARLY },
	{ "OPERATOR CLASS", RULE_EARLY },
	{ "OPERATOR FAMILY", RULE_EARLY },
	{ "ACCESS METHOD", RULE_EARLY },
	{ "CAST", RULE_EARLY },
	{ "TEXT SEARCH PARSER", RULE_EARLY },
	{ "TEXT SEARCH DICTIONARY", RULE_EARLY },
	{ "TEXT SEARCH TEMPLATE", RULE_EARLY },
	{ "TEXT SEARCH CONFIGURATION", RULE_EARLY },
	{ "TABLE", RULE_OBJECT },
	{ "SEQUENCE", RULE_OBJECT },
	{ "DEFAULT", RULE_OBJECT },
	{ "CONSTRAINT", RULE_OBJECT },
	{ "CHECK CONSTRAINT", RULE_OBJECT },
	{ "FK CONSTRAINT", RULE_OBJECT },
	{ "INDEX", RULE_OBJECT },
	{ "TRIGGER", RULE_OBJECT },
	{ "RULE", RULE_OBJECT },
	{ "POLICY", RULE_OBJECT },
	{ "ROW SECURITY", RULE_OBJECT },
	{ "STATISTICS", RULE_OBJECT },
	{ "TABLE ATTACH", RULE_LABEL },
	{ "INDEX ATTACH", RULE_ATTACH },
	{ "SEQUENCE OWNED BY", RULE_LABEL },
};

struct toc_line {
	uint32_t class_oid, oid;
	struct span rest;            /* "DESC schema tag owner" */
};

static bool read_number(struct span *s, uint32_t *ret)
{
	uint64_t v = 0;
	size_t i = 0;

	while (i < s->n && s->p[i] == ' ')
		i++;
	size_t digits = i;
	for (; i < s->n && s->p[i] >= '0' && s->p[i] <= '9' && v <= UINT32_MAX; i++)
		v = v * 10 + (uint64_t)(s->p[i] - '0');
	if (i == digits || v > UINT32_MAX)
		return false;
	*ret = (uint32_t)v;
	*s = span(s->p + i, s->n - i);
	return true;
}

static bool read_line(struct span line, struct toc_line *ret)
{
	uint32_t id;

	if (line.n == 0 || line.p[0] == ';' || !read_number(&line, &id) || line.n == 0 || line.p[0] != ';')
		return false;
	line = span(line.p + 1, line.n - 1);
	if (!read_number(&line, &ret->class_oid) || !read_number(&line, &ret->oid) || line.n == 0)
		return false;
	ret->rest = span(line.p + 1, line.n - 1);
	return true;
}

/* The longest DESC that rest starts with: "TEXT SEARCH PARSER" and "TYPE" are not prefixes of each other's words. */
static const struct toc_kind *find_kind(struct span rest, struct span *ret_names)
{
	const struct toc_kind *best = NULL;
	size_t best_n = 0;

	for (size_t i = 0; i < sizeof(toc_kinds) / sizeof(toc_kinds[0]); i++) {
		size_t n = strlen(toc_kinds[i].desc);
		if (n > best_n && rest.n > n && rest.p[n] == ' ' && memcmp(rest.p, toc_kinds[i].desc, n) == 0) {
			best = &toc_kinds[i];
			best_n = n;
		}
	}
	if (best)
		*ret_names = span(rest.p + best_n + 1, rest.n - best_n - 1);
	return best;
}

static int compare_objects(const void *a, const void *b)
{
	const struct toc_object *x = a, *y = b;

	if (x->class_oid != y->class_oid)
		return x->class_oid < y->class_oid ? -1 : 1;
	return x->oid < y->oid ? -1 : x->oid > y->oid;
}

void toc_sort(struct toc_object *objects, size_t n)
{
	qsort(objects, n, sizeof(*objects), compare_objects);
}

static const struct toc_object *find_object(const struct toc_object *objects, size_t n, const struct toc_line *line)
{
	struct toc_object wanted = { .class_oid = line->class_oid, .oid = line->oid };

	return n ? bsearch(&wanted, objects, n, sizeof(*objects), compare_objects) : NULL;
}

/* The whole text is compared: names may hold blanks, so "a b" could be a prefix of "a b c". */
static const struct toc_object *find_label(const struct toc_object *objects, size_t n, struct span names)
{
	for (size_t i = 0; i < n; i++)
		if (objects[i].label.n && span_eq(objects[i].label, names))
			return &objects[i];
	return NULL;
}

static bool wanted(const struct toc_line *line, const struct toc_object *objects, size_t n, enum toc_stage stage)
{
	struct span names;
	const struct toc_kind *kind = find_kind(line->rest, &names);
	const struct toc_object *o = NULL;

	if (!kind)
		return false;
	switch (kind->rule) {
	case RULE_EARLY:
		return stage == TOC_EARLY;
	case RULE_OBJECT:
		o = find_object(objects, n, line);
		break;
	case RULE_LABEL:
	case RULE_ATTACH:
		o = find_label(objects, n, names);
		break;
	}
	return o && o->stage == stage && (!o->is_there || kind->rule == RULE_ATTACH);
}

size_t toc_filter(struct span listing, const struct toc_object *objects, size_t n, enum toc_stage stage,
		  struct buf *out)
{
	size_t count = 0;

	while (listing.n) {
		const char *end = memchr(listing.p, '\n', listing.n);
		size_t len = end ? (size_t)(end - listing.p) : listing.n;
		struct toc_line line;
		if (read_line(span(listing.p, len), &line) && wanted(&line, objects, n, stage)) {
			buf_add(out, listing.p, len);
			buf_u8(out, '\n');
			count++;
		}
		size_t used = len + (end ? 1 : 0);
		listing = span(listing.p + used, listing.n - used);
	}
	return count;
}
