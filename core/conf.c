// SPDX-License-Identifier: Apache-2.0
#include "core/conf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <yaml.h>

#include "core/buf.h"

enum {
	CONF_KEYS_MAX = 128,
	CONF_NAME_MAX = 64, /* longer ones are cut for the edit distance and in messages */
};

struct conf {
	const struct conf_key *keys;
	size_t key_count;
	const char *path;
	yaml_document_t *doc;
	struct arena *arena;
	void *out;
	int seen_line[CONF_KEYS_MAX]; /* 0: not given */
};

static bool conf_no_memory(const char *path, struct fault *f)
{
	return fault(f, FAULT_USAGE, "%s: too large when read", path);
}

bool conf_refuse(const struct conf_value *v, struct fault *f, const char *format, ...)
{
	const struct conf_key *key = v->key;
	char text[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	return fault(f, FAULT_USAGE, "%s:%d: %s%s%.64s: %s", v->path, v->line, key->section,
		     *key->section ? "." : "", v->name, text);
}

bool conf_refuse_later(const struct conf_value *v, const char *only, struct fault *f)
{
	if (only)
		return conf_refuse(v, f, "not in this version, except for the value %s", only);
	return conf_refuse(v, f, "not in this version; next step: leave it out");
}

bool conf_int(const struct conf_value *v, int min, int max, int *ret_value, struct fault *f)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(v->text, &end, 10);
	if (errno || end == v->text || *end || n < min || n > max)
		return conf_refuse(v, f, "expected %s, found \"%.64s\"", v->key->expected, v->raw);
	*ret_value = (int)n;
	return true;
}

static size_t conf_min(size_t a, size_t b)
{
	return a < b ? a : b;
}

static size_t conf_distance(const char *a, const char *b)
{
	size_t an = conf_min(strlen(a), CONF_NAME_MAX), bn = conf_min(strlen(b), CONF_NAME_MAX);
	size_t row[CONF_NAME_MAX + 1];

	for (size_t j = 0; j <= bn; j++)
		row[j] = j;
	for (size_t i = 1; i <= an; i++) {
		size_t diagonal = row[0];

		row[0] = i;
		for (size_t j = 1; j <= bn; j++) {
			size_t change = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			row[j] = conf_min(change, conf_min(row[j], row[j - 1]) + 1);
		}
	}
	return row[bn];
}

const char *conf_nearest(const char *seen, const char *const *known, size_t n)
{
	const char *nearest = NULL;
	size_t least = SIZE_MAX;

	for (size_t i = 0; i < n; i++) {
		size_t distance = conf_distance(seen, known[i]);

		if (distance < least) {
			least = distance;
			nearest = known[i];
		}
	}
	return nearest;
}

/* Bytes of the name behind "${" if a well-formed variable starts at p, else 0. */
static size_t conf_variable(const char *p)
{
	static const char letters[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789";
	size_t n;

	if (p[0] != '$' || p[1] != '{' || (p[2] >= '0' && p[2] <= '9'))
		return 0;
	n = strspn(p + 2, letters);
	return p[2 + n] == '}' ? n : 0;
}

const char *conf_whole_variable(struct arena *arena, const char *text)
{
	size_t n = conf_variable(text);

	if (n == 0 || text[n + 3])
		return NULL;
	return arena_str(arena, span(text + 2, n));
}

static bool conf_expand_one(const struct conf_value *v, const char *name, struct buf *b,
			    const char *special, void (*encode)(struct buf *, const char *),
			    struct fault *f)
{
	const char *value = getenv(name);

	if (!value)
		return conf_refuse(v, f, "the environment has no variable %s; next step: set it",
				   name);
	if (special && strcmp(name, special) == 0)
		encode(b, value);
	else
		buf_str(b, value);
	return true;
}

const char *conf_expand(const struct conf_value *v, const char *special,
			void (*encode)(struct buf *b, const char *value), struct fault *f)
{
	const char *text = NULL;
	struct buf b;

	if (!strstr(v->raw, "${"))
		return v->raw;
	buf_init(&b, CONF_FILE_MAX);
	for (const char *p = v->raw; *p;) {
		size_t n = conf_variable(p);
		char name[CONF_NAME_MAX + 1];

		if (n == 0 && p[0] == '$' && p[1] == '{') {
			conf_refuse(v, f, "\"${\" begins a variable: expected ${NAME}");
			goto done;
		}
		if (n == 0) {
			buf_u8(&b, (uint8_t)*p++);
			continue;
		}
		snprintf(name, sizeof(name), "%.*s", (int)n, p + 2);
		if (!conf_expand_one(v, name, &b, special, encode, f))
			goto done;
		p += n + 3;
	}
	text = buf_failed(&b) ? NULL : arena_str(v->arena, span_str(buf_cstr(&b)));
	if (!text)
		conf_no_memory(v->path, f);
done:
	buf_release(&b);
	return text;
}

static const char *conf_node_type(const yaml_node_t *node)
{
	switch (node->type) {
	case YAML_NO_NODE:
		return "nothing";
	case YAML_SCALAR_NODE:
		return "text";
	case YAML_SEQUENCE_NODE:
		return "a list";
	case YAML_MAPPING_NODE:
		return "a map";
	}
	return "nothing";
}

static bool conf_is_null(const yaml_node_t *node)
{
	const char *text = (const char *)node->data.scalar.value;

	return node->type == YAML_SCALAR_NODE &&
	       node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
	       (!*text || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
}

static bool conf_refuse_type(const struct conf_value *v, const yaml_node_t *node, struct fault *f)
{
	return conf_refuse(v, f, "expected %s, found %s", v->key->expected,
			   conf_is_null(node) ? "nothing" : conf_node_type(node));
}

/* Fills v->raw and v->text. */
static bool conf_scalar(struct conf_value *v, const yaml_node_t *node, struct fault *f)
{
	const char *text = (const char *)node->data.scalar.value;

	v->line = (int)node->start_mark.line + 1;
	if (node->type != YAML_SCALAR_NODE || conf_is_null(node))
		return conf_refuse_type(v, node, f);
	if (strlen(text) != node->data.scalar.length)
		return conf_refuse(v, f, "expected %s, found a NUL byte", v->key->expected);
	v->raw = arena_str(v->arena, span_str(text));
	if (!v->raw)
		return conf_no_memory(v->path, f);
	v->text = conf_expand(v, NULL, NULL, f);
	return v->text != NULL;
}

static bool conf_list(struct conf *c, struct conf_value *v, yaml_node_t *node, struct fault *f)
{
	int line = v->line;
	size_t n;

	if (node->type != YAML_SEQUENCE_NODE)
		return conf_refuse_type(v, node, f);
	n = (size_t)(node->data.sequence.items.top - node->data.sequence.items.start);
	v->items = arena_alloc(v->arena, n * sizeof(*v->items));
	if (!v->items)
		return conf_no_memory(v->path, f);
	for (size_t i = 0; i < n; i++) {
		if (!conf_scalar(
			v, yaml_document_get_node(c->doc, node->data.sequence.items.start[i]), f))
			return false;
		v->items[v->item_count++] = v->text;
	}
	v->line = line;
	return true;
}

static bool conf_map(struct conf *c, const char *section, yaml_node_t *map, struct fault *f);
static const char *conf_key_text(struct conf *c, const yaml_node_pair_t *pair, int *ret_line);

static bool conf_later(const struct conf_value *v, yaml_node_t *node, struct fault *f)
{
	if (conf_is_null(node))
		return true;
	if (v->key->type == CONF_LATER_LIST)
		return (node->type == YAML_SEQUENCE_NODE &&
			node->data.sequence.items.top == node->data.sequence.items.start) ||
		       conf_refuse_later(v, "[]", f);
	if (v->key->only && node->type == YAML_SCALAR_NODE &&
	    strcmp((const char *)node->data.scalar.value, v->key->only) == 0)
		return true;
	return conf_refuse_later(v, v->key->only, f);
}

/* Keys that an item of a list must have: the table's other rules look at the whole file. */
static bool conf_item_has(struct conf *c, const struct conf_key *key, const yaml_node_t *item)
{
	const yaml_node_pair_t *p = item->data.mapping.pairs.start;
	int line;

	for (; p < item->data.mapping.pairs.top; p++) {
		const char *name = conf_key_text(c, p, &line);

		if (name && strcmp(name, key->name) == 0)
			return true;
	}
	return false;
}

static bool conf_maps(struct conf *c, struct conf_value *v, const yaml_node_t *list,
		      struct fault *f)
{
	if (list->type != YAML_SEQUENCE_NODE)
		return conf_refuse_type(v, list, f);
	for (yaml_node_item_t *i = list->data.sequence.items.start;
	     i < list->data.sequence.items.top; i++) {
		yaml_node_t *item = yaml_document_get_node(c->doc, *i);

		v->line = (int)item->start_mark.line + 1;
		if (item->type != YAML_MAPPING_NODE)
			return conf_refuse_type(v, item, f);
		if (!v->key->set(c->out, v, f) || !conf_map(c, v->key->name, item, f))
			return false;
		for (size_t k = 0; k < c->key_count; k++) {
			struct conf_value missing = *v;

			missing.key = &c->keys[k];
			missing.name = c->keys[k].name;
			if (strcmp(c->keys[k].section, v->key->name) == 0 &&
			    c->keys[k].is_required && !conf_item_has(c, &c->keys[k], item))
				return conf_refuse(&missing, f, "missing; expected %s",
						   c->keys[k].expected);
		}
	}
	return true;
}

static bool conf_entry(struct conf *c, struct conf_value *v, yaml_node_t *node, struct fault *f)
{
	char section[CONF_NAME_MAX * 2];

	v->is_map = node->type == YAML_MAPPING_NODE;
	if (!v->is_map && !conf_is_null(node) && !conf_scalar(v, node, f))
		return false;
	if (!v->key->set(c->out, v, f))
		return false;
	if (strcmp(v->key->name, "*") == 0)
		snprintf(section, sizeof(section), "%s.*", v->key->section);
	else
		snprintf(section, sizeof(section), "%s", v->key->name);
	return !v->is_map || conf_map(c, section, node, f);
}

static bool conf_take(struct conf *c, const struct conf_key *key, const char *name,
		      yaml_node_t *node, struct fault *f)
{
	struct conf_value v = { .path = c->path,
				.line = (int)node->start_mark.line + 1,
				.key = key,
				.name = name,
				.arena = c->arena };

	switch (key->type) {
	case CONF_TEXT:
		return conf_scalar(&v, node, f) && key->set(c->out, &v, f);
	case CONF_LIST:
		return conf_list(c, &v, node, f) && key->set(c->out, &v, f);
	case CONF_MAP:
		if (node->type != YAML_MAPPING_NODE)
			return conf_refuse_type(&v, node, f);
		return conf_map(c, name, node, f);
	case CONF_MAPS:
		return conf_maps(c, &v, node, f);
	case CONF_ENTRY:
		return conf_entry(c, &v, node, f);
	case CONF_LATER_TEXT:
	case CONF_LATER_LIST:
		return conf_later(&v, node, f);
	}
	return false;
}

static const struct conf_key *conf_find(const struct conf *c, const char *section, const char *name)
{
	const struct conf_key *any = NULL;

	for (size_t i = 0; i < c->key_count; i++) {
		if (strcmp(c->keys[i].section, section) != 0)
			continue;
		if (strcmp(c->keys[i].name, name) == 0)
			return &c->keys[i];
		if (strcmp(c->keys[i].name, "*") == 0)
			any = &c->keys[i];
	}
	return any;
}

static bool conf_unknown(const struct conf *c, const char *section, const char *name, int line,
			 struct fault *f)
{
	const char *known[CONF_KEYS_MAX];
	const char *dot = *section ? "." : "";
	size_t n = 0;

	for (size_t i = 0; i < c->key_count; i++)
		if (strcmp(c->keys[i].section, section) == 0)
			known[n++] = c->keys[i].name;
	return fault(f, FAULT_USAGE,
		     "%s:%d: unknown key %s%s%.64s; the nearest known key is %s%s%s", c->path, line,
		     section, dot, name, section, dot, conf_nearest(name, known, n));
}

static const char *conf_key_text(struct conf *c, const yaml_node_pair_t *pair, int *ret_line)
{
	const yaml_node_t *node = yaml_document_get_node(c->doc, pair->key);

	*ret_line = (int)node->start_mark.line + 1;
	if (node->type != YAML_SCALAR_NODE ||
	    strlen((const char *)node->data.scalar.value) != node->data.scalar.length)
		return NULL;
	return (const char *)node->data.scalar.value;
}

static bool conf_pair(struct conf *c, const char *section, const yaml_node_t *map,
		      const yaml_node_pair_t *pair, struct fault *f)
{
	int line, first_line;
	const char *name = conf_key_text(c, pair, &line), *copy;
	const struct conf_key *key;

	if (!name)
		return fault(f, FAULT_USAGE, "%s:%d: expected a plain word as key", c->path, line);
	key = conf_find(c, section, name);
	if (!key)
		return conf_unknown(c, section, name, line, f);
	for (const yaml_node_pair_t *p = map->data.mapping.pairs.start; p < pair; p++)
		if (strcmp(conf_key_text(c, p, &first_line), name) == 0)
			return fault(f, FAULT_USAGE,
				     "%s:%d: key %s%s%.64s is given twice, first in line %d",
				     c->path, line, section, *section ? "." : "", name, first_line);
	copy = arena_str(c->arena, span_str(name)); /* the document goes before the settings */
	if (!copy)
		return conf_no_memory(c->path, f);
	c->seen_line[key - c->keys] = line;
	return conf_take(c, key, copy, yaml_document_get_node(c->doc, pair->value), f);
}

static bool conf_map(struct conf *c, const char *section, yaml_node_t *map, struct fault *f)
{
	for (yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top;
	     p++)
		if (!conf_pair(c, section, map, p, f))
			return false;
	return true;
}

/* 0: the section is not given. */
static int conf_section_line(const struct conf *c, const char *section)
{
	if (!*section)
		return 1;
	for (size_t i = 0; i < c->key_count; i++)
		if (c->keys[i].type == CONF_MAP && strcmp(c->keys[i].name, section) == 0)
			return c->seen_line[i];
	return 0;
}

/* What was not given: refused where it is required, else its fallback is taken. */
static bool conf_fill(struct conf *c, struct fault *f)
{
	for (size_t i = 0; i < c->key_count; i++) {
		const struct conf_key *key = &c->keys[i];
		struct conf_value v = { .path = c->path,
					.line = conf_section_line(c, key->section),
					.key = key,
					.name = key->name,
					.raw = key->fallback,
					.text = key->fallback,
					.arena = c->arena };

		if (c->seen_line[i])
			continue;
		if (key->is_required && v.line)
			return conf_refuse(&v, f, "missing; expected %s", key->expected);
		if (key->fallback && !key->set(c->out, &v, f))
			return false;
	}
	return true;
}

static bool conf_root(struct conf *c, struct fault *f)
{
	yaml_node_t *root = yaml_document_get_root_node(c->doc);

	if (!root)
		return fault(f, FAULT_USAGE, "%s:1: the file is empty: expected a map of keys",
			     c->path);
	if (root->type != YAML_MAPPING_NODE)
		return fault(f, FAULT_USAGE, "%s:%d: expected a map of keys, found %s", c->path,
			     (int)root->start_mark.line + 1, conf_node_type(root));
	return conf_map(c, "", root, f) && conf_fill(c, f);
}

static bool conf_load(yaml_parser_t *parser, yaml_document_t *doc, const char *path,
		      struct fault *f)
{
	if (yaml_parser_load(parser, doc))
		return true;
	return fault(f, FAULT_USAGE, "%s:%d: not YAML: %s", path,
		     (int)parser->problem_mark.line + 1,
		     parser->problem ? parser->problem : "out of memory");
}

static bool conf_is_last(yaml_parser_t *parser, const char *path, struct fault *f)
{
	yaml_document_t next;
	yaml_node_t *root;
	int line;

	if (!conf_load(parser, &next, path, f))
		return false;
	root = yaml_document_get_root_node(&next);
	line = root ? (int)root->start_mark.line + 1 : 0;
	yaml_document_delete(&next);
	return !root || fault(f, FAULT_USAGE, "%s:%d: a second document: expected one", path, line);
}

bool conf_read(const struct conf_key *keys, size_t key_count, const char *path, struct span text,
	       struct arena *arena, void *out, struct fault *f)
{
	yaml_document_t doc;
	yaml_parser_t parser;
	struct conf c = { .keys = keys,
			  .key_count = key_count,
			  .path = path,
			  .doc = &doc,
			  .arena = arena,
			  .out = out };
	bool ok = false;

	if (key_count > CONF_KEYS_MAX)
		return fault(f, FAULT_INTERNAL, "conf: too many keys");
	if (text.n > CONF_FILE_MAX)
		return fault(f, FAULT_USAGE, "%s: larger than %d bytes", path, CONF_FILE_MAX);
	if (!yaml_parser_initialize(&parser))
		return conf_no_memory(path, f);
	yaml_parser_set_input_string(&parser, (const unsigned char *)(text.p ? text.p : ""),
				     text.n);
	if (!conf_load(&parser, &doc, path, f))
		goto done;
	/* An empty first document is the end of the stream: nothing may be asked after it. */
	ok = !yaml_document_get_root_node(&doc) || conf_is_last(&parser, path, f);
	ok = ok && conf_root(&c, f);
	yaml_document_delete(&doc);
done:
	yaml_parser_delete(&parser);
	return ok;
}
