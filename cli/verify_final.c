// SPDX-License-Identifier: Apache-2.0
#include "cli/verify_final.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "core/buf.h"

enum { PAGE_BYTES = 512 << 20 };

void verify_final_table(const struct reconcile_table *t, bool json)
{
	if (!json)
		return;
	cli_print_json(json_pack("{s:o, s:o, s:s, s:I, s:I, s:I, s:b, s:s?}", "table", json_span(t->label), "source_table",
				 json_span(t->source), "role", ends_role_names[t->role], "source_rows",
				 (json_int_t)t->result.row_count, "target_rows", (json_int_t)t->result.target_count,
				 "differences", (json_int_t)t->result.found_count, "judged",
				 (int)(!t->unverified && !t->result.open_count), "reason", t->unverified));
}

/* ---- checks ---- */

static json_t *findings_json(const struct final_result *r)
{
	json_t *list = json_array();

	for (size_t i = 0; i < r->finding_count; i++)
		json_array_append_new(list, json_pack("{s:o, s:o, s:b}", "object", json_span(r->findings[i].object), "seen",
						      json_span(r->findings[i].seen), "note",
						      (int)r->findings[i].is_note));
	return list;
}

static const char *outcome(const struct final_result *r)
{
	if (r->unjudged)
		return "unjudged";
	return r->fail_count ? "failed" : "passed";
}

void verify_final_check(const struct final_result *r, bool json)
{
	if (json) {
		cli_print_json(json_pack("{s:s, s:s, s:s, s:o, s:s?}", "check", r->name, "role", ends_role_names[r->role], "outcome",
					 outcome(r), "findings", findings_json(r), "reason", r->unjudged));
		return;
	}
	printf("%-8s %s on the %s", outcome(r), r->name, ends_role_names[r->role]);
	if (r->unjudged)
		printf(": %s", r->unjudged);
	else if (r->fail_count)
		printf("; next step: %s", r->remedy);
	putchar('\n');
	for (size_t i = 0; i < r->finding_count; i++)
		printf("  %.*s: %.*s%s\n", SPAN_ARG(r->findings[i].object), SPAN_ARG(r->findings[i].seen),
		       r->findings[i].is_note ? " (to know)" : "");
}

/* ---- the end ---- */

const char *verify_final_verdict(const struct reconcile_summary *s)
{
	switch (final_decide(&s->final)) {
	case FINAL_READY:
		return "clean";
	case FINAL_NOT_READY:
		return s->found_count ? "diverged" : "failed";
	case FINAL_UNJUDGED:
		break;
	}
	return "incomplete";
}

static bool write_file(const char *path, const struct buf *text, struct fault *f)
{
	FILE *file = fopen(path, "w");
	bool ok = file && fwrite(text->p, 1, text->n, file) == text->n;

	if (file && fclose(file) != 0)
		ok = false;
	return ok || fault(f, FAULT_ENVIRONMENT, "--html %s: %s", path, strerror(errno));
}

bool verify_final_page(const struct cli *c, const struct html *page, const struct reconcile_summary *s, double coverage,
		       const char *reason, struct fault *f)
{
	struct html_head head = { .migration = c->m.name,
				  .verdict = final_decide(&s->final),
				  .reason = reason,
				  .summary = s,
				  .coverage = coverage };
	time_t now = time(NULL);
	char at[64];
	struct tm utc;
	struct buf text;
	bool ok;

	strftime(at, sizeof(at), "%Y-%m-%d %H:%M:%S UTC", gmtime_r(&now, &utc));
	head.at = at;
	buf_init(&text, PAGE_BYTES);
	ok = html_finish(page, &head, &text) ? write_file(c->html, &text, f)
					     : fault(f, FAULT_INTERNAL, "no memory for the page");
	buf_release(&text);
	return ok;
}
