// SPDX-License-Identifier: Apache-2.0
/*
 * conf - reads a YAML file by a table of keys.
 *
 * The file is a map of scalars, lists of scalars, maps ("sections") of these and lists of sections;
 * the table says what is known, of which type, required or with which fallback, and who takes it. What is wrong is
 * refused with file:line, key, and what was expected: an unknown key (with the nearest known one),
 * a key given twice, a wrong type, a missing part, a second document. ${VAR} in a scalar is taken
 * from the environment. Values are never shown after expansion. Nothing follows an alias deeper
 * than the table goes, so cycles do no harm.
 */
#ifndef CORE_CONF_H
#define CORE_CONF_H

#include "core/arena.h"
#include "core/fault.h"

enum { CONF_FILE_MAX = 1 << 20 };

enum conf_type {
	CONF_TEXT,
	CONF_LIST,       /* of texts */
	CONF_MAP,        /* a section: its keys have its name as section */
	CONF_MAPS,       /* a list of sections: set is called as each begins, then for its keys */
	CONF_ENTRY,      /* text, ~ or a section: set is called with the text (or NULL), then for its
			    keys, whose section is its name, or "<section>.*" for the row "*" */
	CONF_LATER_TEXT, /* known, but not in this version: refused, but for the value in `only` */
	CONF_LATER_LIST, /* the same, but for an empty one */
};

struct conf_key;

struct conf_value {
	const char *path; /* of the file */
	int line;
	const struct conf_key *key;
	const char *name;       /* as written: tells the keys of a "*" row apart */
	const char *raw, *text; /* a scalar as written, and after ${VAR}; NULL: none, or ~ */
	bool is_map;            /* CONF_ENTRY: a section follows */
	const char **items;     /* of a list, after ${VAR} */
	size_t item_count;
	struct arena *arena;
};

struct conf_key {
	const char *section, *name; /* section "": the top; name "*": any other name */
	enum conf_type type;
	bool is_required;     /* where its section is given */
	const char *expected; /* "a number from 1 to 64": for messages */
	const char *fallback; /* a scalar that stands in when it is not given, or NULL */
	const char *only;     /* CONF_LATER_TEXT: the value that asks for what happens anyway */
	bool (*set)(void *out, const struct conf_value *v, struct fault *f);
};

/* Strings that setters see live in the arena. */
bool conf_read(const struct conf_key *keys, size_t key_count, const char *path, struct span text,
	       struct arena *arena, void *out, struct fault *f);

/* "file:line: section.key: …" as FAULT_USAGE; returns false. */
bool conf_refuse(const struct conf_value *v, struct fault *f, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Refuses a value whose feature this version lacks; only: what it may be, or NULL. */
bool conf_refuse_later(const struct conf_value *v, const char *only, struct fault *f);
bool conf_int(const struct conf_value *v, int min, int max, int *ret_value, struct fault *f);

/*
 * v->raw with its ${VAR}s replaced; the value of the one named `special` (NULL: none) goes through
 * encode first. NULL and a fault when a variable is missing.
 */
struct buf;
const char *conf_expand(const struct conf_value *v, const char *special,
			void (*encode)(struct buf *b, const char *value), struct fault *f);
/* The VAR if text is exactly "${VAR}", else NULL. */
const char *conf_whole_variable(struct arena *arena, const char *text);

/* The one of the known names with the least edits to seen; NULL only if there is none. */
const char *conf_nearest(const char *seen, const char *const *known, size_t n);

#endif
