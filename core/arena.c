// SPDX-License-Identifier: Apache-2.0
#include "core/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { ARENA_ALIGN = 16, ARENA_FIRST_BYTES = 4096 };

struct arena_block {
	struct arena_block *next;
	size_t n, cap;
	_Alignas(ARENA_ALIGN) char bytes[];
};

void arena_init(struct arena *a, size_t max_bytes)
{
	*a = (struct arena) { .max_bytes = max_bytes };
}

static void arena_free_blocks(struct arena *a, struct arena_block *keep)
{
	struct arena_block *next;

	for (struct arena_block *b = a->head; b; b = next) {
		next = b->next;
		if (b != keep)
			free(b);
	}
}

void arena_release(struct arena *a)
{
	arena_free_blocks(a, NULL);
	arena_init(a, a->max_bytes);
}

void arena_reset(struct arena *a)
{
	struct arena_block *largest = a->head;

	for (struct arena_block *b = a->head; b; b = b->next)
		if (b->cap > largest->cap)
			largest = b;
	arena_free_blocks(a, largest);
	a->head = largest;
	a->used_bytes = 0;
	a->failed = false;
	if (!largest)
		return;
	largest->next = NULL;
	largest->n = 0;
	a->used_bytes = largest->cap;
}

/* used_bytes counts what the blocks hold, used or not: that is what the maximum is about. */
static bool arena_add_block(struct arena *a, size_t n)
{
	size_t left = a->max_bytes - a->used_bytes;
	size_t cap = a->head ? 2 * a->head->cap : ARENA_FIRST_BYTES;
	struct arena_block *b;

	if (n > left)
		return false;
	if (cap < n)
		cap = n;
	if (cap > left)
		cap = left / ARENA_ALIGN * ARENA_ALIGN;
	b = malloc(sizeof(*b) + cap);
	if (!b)
		return false;
	b->next = a->head;
	b->n = 0;
	b->cap = cap;
	a->head = b;
	a->used_bytes += cap;
	return true;
}

void *arena_alloc(struct arena *a, size_t n)
{
	size_t room = a->head ? a->head->cap - a->head->n : 0;
	char *p;

	if (a->failed || n > SIZE_MAX / 2)
		goto failed;
	n = n ? (n + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN : ARENA_ALIGN;
	if (n > room && !arena_add_block(a, n))
		goto failed;
	p = a->head->bytes + a->head->n;
	a->head->n += n;
	return memset(p, 0, n);
failed:
	a->failed = true;
	return NULL;
}

struct span arena_dup(struct arena *a, struct span s)
{
	char *p = arena_str(a, s);

	return span(p, p ? s.n : 0);
}

char *arena_str(struct arena *a, struct span s)
{
	char *p = arena_alloc(a, s.n + 1);

	if (p && s.n > 0)
		memcpy(p, s.p, s.n);
	return p;
}

char *arena_printf(struct arena *a, const char *format, ...)
{
	va_list args, again;
	char *p = NULL;
	int n;

	va_start(args, format);
	va_copy(again, args);
	n = vsnprintf(NULL, 0, format, args);
	if (n >= 0)
		p = arena_alloc(a, (size_t)n + 1);
	if (p)
		vsnprintf(p, (size_t)n + 1, format, again);
	va_end(again);
	va_end(args);
	return p;
}
