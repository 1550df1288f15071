// SPDX-License-Identifier: Apache-2.0
/*
 * arena - memory that is given back all at once.
 *
 * Blocks grow by doubling up to the arena's maximum; arena_reset keeps the largest block, so a loop
 * that resets once a turn stops calling malloc. Not thread-safe: one owner.
 * Out of memory or over the maximum: arena_alloc returns NULL and arena_failed() stays true until
 * the next reset (sticky: one check after many allocations).
 */
#ifndef CORE_ARENA_H
#define CORE_ARENA_H

#include "core/span.h"

struct arena_block;

struct arena {
	struct arena_block *head;
	size_t used_bytes, max_bytes;
	bool failed;
};

void arena_init(struct arena *a, size_t max_bytes);
void arena_release(struct arena *a);
void arena_reset(struct arena *a);
/* Zeroed, aligned to 16. */
void *arena_alloc(struct arena *a, size_t n);
/* Copies, NUL-terminated behind the end (the NUL is not counted). */
struct span arena_dup(struct arena *a, struct span s);
char *arena_str(struct arena *a, struct span s);
char *arena_printf(struct arena *a, const char *format, ...) __attribute__((format(printf, 2, 3)));
static inline bool arena_failed(const struct arena *a)
{
	return a->failed;
}

#endif
