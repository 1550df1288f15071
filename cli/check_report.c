// SPDX-License-Identifier: Apache-2.0
#include "cli/check_report.h"

#include <stdio.h>

static const char *const verdict_names[] = { "ok", "warn", "FAIL" };

void check_say(struct report *r, enum verdict v, const char *object, const char *text)
{
	if (r->json)
		json_array_append_new(r->items, json_pack("{s:s, s:s, s:s}", "object", object, "verdict",
							  v == VERDICT_FAIL ? "fail" : verdict_names[v], "text", text));
	else
		printf("%-5s %-20s %s\n", verdict_names[v], object, text);
}

void check_say_fault(struct report *r, const char *object, const struct fault *f)
{
	if (!r->failed++)
		r->first_kind = f->kind;
	check_say(r, VERDICT_FAIL, object, f->text);
}
