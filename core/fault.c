// SPDX-License-Identifier: Apache-2.0
#include "core/fault.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct fault_row {
	const char *name;
	int exit_code;
} rows[] = {
	[FAULT_NONE] = { "none", 0 },         [FAULT_USAGE] = { "usage", 2 },
	[FAULT_INPUT] = { "input", 1 },       [FAULT_ENVIRONMENT] = { "environment", 1 },
	[FAULT_FENCED] = { "fenced", 1 },     [FAULT_STOP] = { "stop", 3 },
	[FAULT_LOST] = { "lost", 3 },         [FAULT_DATA] = { "data", 3 },
	[FAULT_INTERNAL] = { "internal", 1 },
};

/* The arguments may point into f->text, so the new text is made beside it. */
bool fault(struct fault *f, enum fault_kind kind, const char *format, ...)
{
	char text[sizeof(f->text)];
	va_list args;

	if (!f)
		return false;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	f->kind = kind;
	f->sqlstate[0] = 0;
	memcpy(f->text, text, strlen(text) + 1);
	return false;
}

bool fault_in(struct fault *f, const char *format, ...)
{
	char context[sizeof(f->text) - 2]; /* ": " always fits behind it */
	va_list args;
	size_t n, kept;

	if (!f)
		return false;
	va_start(args, format);
	vsnprintf(context, sizeof(context), format, args);
	va_end(args);
	n = strlen(context);
	kept = strlen(f->text);
	if (kept > sizeof(f->text) - 1 - n - 2)
		kept = sizeof(f->text) - 1 - n - 2;
	memmove(f->text + n + 2, f->text, kept);
	memcpy(f->text, context, n);
	memcpy(f->text + n, ": ", 2);
	f->text[n + 2 + kept] = 0;
	return false;
}

void fault_reset(struct fault *f)
{
	if (!f)
		return;
	f->kind = FAULT_NONE;
	f->sqlstate[0] = 0;
	f->text[0] = 0;
}

const char *fault_kind_name(enum fault_kind kind)
{
	return rows[kind].name;
}

int fault_exit_code(enum fault_kind kind)
{
	return rows[kind].exit_code;
}
