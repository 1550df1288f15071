// SPDX-License-Identifier: Apache-2.0
#include "reconcile/html.h"

#include <inttypes.h>

enum { PART_BYTES = 64 << 20 };

/* ---- text ---- */

void html_escape(struct buf *out, struct span text)
{
	for (size_t i = 0; i < text.n; i++) {
		unsigned char c = (unsigned char)text.p[i];

		if (c == '&')
			buf_str(out, "&amp;");
		else if (c == '<')
			buf_str(out, "&lt;");
		else if (c == '>')
			buf_str(out, "&gt;");
		else if (c == '"')
			buf_str(out, "&quot;");
		else if (c == '\'')
			buf_str(out, "&#39;");
		else if (c == 0x7f || (c < 0x20 && c != '\n' && c != '\t'))
			buf_str(out, "\xef\xbf\xbd");
		else
			buf_u8(out, c);
	}
}

static void cell(struct buf *out, const char *class, struct span text)
{
	buf_printf(out, "<td%s%s%s>", *class ? " class=\"" : "", class, *class ? "\"" : "");
	html_escape(out, text);
	buf_str(out, "</td>");
}

static void number(struct buf *out, int64_t n)
{
	buf_printf(out, "<td class=\"n\">%" PRId64 "</td>", n);
}

static void mark(struct buf *out, const char *class, const char *word)
{
	buf_printf(out, "<td><b class=\"%s\">%s</b></td>", class, word);
}

/* ---- parts ---- */

static struct html_part *parts_of(struct html *h, size_t i)
{
	struct html_part *const parts[] = { &h->tables, &h->checks, &h->findings, &h->differences, &h->unseen };

	return i < sizeof(parts) / sizeof(parts[0]) ? parts[i] : NULL;
}

void html_init(struct html *h)
{
	struct html_part *part;

	*h = (struct html) { 0 };
	for (size_t i = 0; (part = parts_of(h, i)); i++)
		buf_init(&part->rows, PART_BYTES);
}

void html_release(struct html *h)
{
	struct html_part *part;

	for (size_t i = 0; (part = parts_of(h, i)); i++)
		buf_release(&part->rows);
}

/* The rows to write to, or NULL: there are enough. */
static struct buf *row_of(struct html_part *part)
{
	return part->row_count++ < HTML_ROWS_MAX ? &part->rows : NULL;
}

static void add_unseen(struct html *h, struct span where, const char *role, const char *what, struct span why)
{
	struct buf *out = row_of(&h->unseen);

	if (!out)
		return;
	buf_str(out, "<li>");
	html_escape(out, where);
	buf_printf(out, " on the %s: %s", role, what);
	html_escape(out, why);
	buf_str(out, "</li>\n");
}

void html_table(struct html *h, const struct reconcile_table *t)
{
	const char *role = ends_role_names[t->role];
	struct buf *out = row_of(&h->tables);
	bool is_whole = !t->unverified && !t->result.open_count;

	if (out) {
		buf_str(out, "<tr>");
		cell(out, "", t->source);
		cell(out, "", t->label);
		cell(out, "", span_str(role));
		number(out, t->result.row_count);
		number(out, t->result.target_count);
		number(out, (int64_t)t->result.found_count);
		if (t->result.found_count)
			mark(out, "bad", "different");
		else
			mark(out, is_whole ? "good" : "open", is_whole ? "equal" : "not judged");
		buf_str(out, "</tr>\n");
	}
	if (t->unverified)
		add_unseen(h, t->label, role, "not compared: ", span_str(t->unverified));
	if (t->result.open_count)
		add_unseen(h, t->label, role, "rows that changed all the time were not judged", span("", 0));
	for (size_t i = 0; i < t->skipped_count; i++)
		add_unseen(h, t->label, role, "its type is not on the source, so this column was not compared: ",
			   t->skipped[i]);
}

static void add_finding(struct html *h, const struct final_result *r, const struct final_finding *finding)
{
	struct buf *out = row_of(&h->findings);

	if (!out)
		return;
	buf_str(out, "<tr>");
	cell(out, "", span_str(r->title));
	cell(out, "", span_str(ends_role_names[r->role]));
	cell(out, "name", finding->object);
	cell(out, "", finding->seen);
	mark(out, finding->is_note ? "open" : "bad", finding->is_note ? "to know" : "to correct");
	buf_str(out, "</tr>\n");
}

void html_check(struct html *h, const struct final_result *r)
{
	struct buf *out = row_of(&h->checks);

	if (out) {
		buf_str(out, "<tr>");
		cell(out, "", span_str(r->title));
		cell(out, "", span_str(ends_role_names[r->role]));
		if (r->unjudged)
			mark(out, "open", "not judged");
		else
			mark(out, r->fail_count ? "bad" : "good", r->fail_count ? "no" : "yes");
		number(out, (int64_t)r->finding_count);
		cell(out, "", span_str(r->fail_count ? r->remedy : ""));
		buf_str(out, "</tr>\n");
	}
	if (r->unjudged)
		add_unseen(h, span_str(r->title), ends_role_names[r->role], "could not be asked: ", span_str(r->unjudged));
	for (size_t i = 0; i < r->finding_count; i++)
		add_finding(h, r, &r->findings[i]);
}

void html_difference(struct html *h, struct span where, const char *kind, struct span what)
{
	struct buf *out = row_of(&h->differences);

	if (!out)
		return;
	buf_str(out, "<tr>");
	cell(out, "", where);
	cell(out, "", span_str(kind));
	cell(out, "name", what);
	buf_str(out, "</tr>\n");
}

/* ---- the page ---- */

static const char style[] =
	"body{font:16px/1.5 system-ui,sans-serif;color:#1c2329;background:#fff;max-width:64rem;margin:2rem auto;padding:0 1rem}"
	"h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem}"
	".verdict{border-left:.5rem solid;padding:.75rem 1rem;margin:1.25rem 0;background:#f5f7f8}"
	".verdict p{margin:.25rem 0}.verdict strong{font-size:1.3rem}"
	".verdict.good{border-color:#1a7f4b}.verdict.bad{border-color:#b3261e}.verdict.open{border-color:#8a6100}"
	"b.good{color:#1a7f4b}b.bad{color:#b3261e}b.open{color:#8a6100}"
	"table{border-collapse:collapse;width:100%;font-size:.9rem}th,td{text-align:left;vertical-align:top;"
	"padding:.3rem .6rem .3rem 0;border-bottom:1px solid #d8dee2}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}"
	"td.name{font-family:ui-monospace,monospace;font-size:.85em;overflow-wrap:anywhere}li{overflow-wrap:anywhere}"
	".facts{color:#4a555d}@media print{body{margin:0;max-width:none;font-size:11pt}tr,li{break-inside:avoid}"
	"thead{display:table-header-group}*{print-color-adjust:exact}}";

static const struct words {
	const char *class, *verdict, *meaning;
} words[] = {
	[FINAL_READY] = { "good", "Ready to switch over.",
			  "Nothing was written to the old database during the validation. Every row of every table was "
			  "compared with both copies and is equal, and every check of the new database passed." },
	[FINAL_NOT_READY] = { "bad", "Do not switch over yet.",
			      "The new database differs from the old one, or something in it is not in order. What must be "
			      "corrected is named below." },
	[FINAL_UNJUDGED] = { "open", "No verdict: the validation could not be completed.",
			     "Nothing is known to be wrong, but not everything could be judged, so this is no permission to "
			     "switch over." },
};

/* What no comparison of ours sees (docs/operations.md says the same). */
static const char *const blind_spots[] = {
	"Whether something could still write to the old database. Seen is that nothing did.",
	"Columns that only the new database has, and rows of a merged table that come from none of its sources.",
	"Views, materialized views, functions, rights, large objects, foreign and unlogged tables: they do not travel.",
	"Tables that are not part of this migration.",
	"Differences that PostgreSQL does not print: values are compared as it prints them. Two different rows look alike in one "
	"case in 2^64.",
	"A transformation rule that is wrong: it is evaluated in the same way on both sides.",
	"Exclusion constraints, temporal foreign keys and non-unique indexes are not required to be there; missing indexes are "
	"listed.",
};

static void section(struct buf *out, const struct html_part *part, const char *title, const char *columns)
{
	if (part->row_count == 0)
		return;
	buf_printf(out, "<h2>%s</h2>\n<table><thead><tr>%s</tr></thead><tbody>\n", title, columns);
	buf_add_span(out, buf_span(&part->rows));
	buf_str(out, "</tbody></table>\n");
	if (part->row_count > HTML_ROWS_MAX)
		buf_printf(out, "<p>… and %zu more.</p>\n", part->row_count - HTML_ROWS_MAX);
}

static void write_verdict(struct buf *out, const struct html_head *head)
{
	const struct words *w = &words[head->verdict];
	const struct reconcile_summary *s = head->summary;
	char lsn[LSN_TEXT];

	buf_printf(out, "<div class=\"verdict %s\"><p><strong>%s</strong></p><p>%s</p>", w->class, w->verdict, w->meaning);
	if (head->reason) {
		buf_str(out, "<p>");
		html_escape(out, span_str(head->reason));
		buf_str(out, "</p>");
	}
	buf_printf(out,
		   "</div>\n<p class=\"facts\">%zu comparisons of tables, %" PRId64 " rows, %zu differences; %.6g %% of it judged; "
		   "%zu checks failed, %zu could not be asked. The copies contain the old database up to log position %s. %s</p>\n",
		   s->table_count, s->row_count, s->found_count, 100 * head->coverage, s->final.failed_checks,
		   s->final.unjudged_checks, lsn_format(s->lsn, lsn),
		   s->has_proof ? "A difference that was planted beforehand was found."
				: "No difference could be planted beforehand, so nothing proves that one would be found.");
}

bool html_finish(const struct html *h, const struct html_head *head, struct buf *out)
{
	buf_str(out, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
		     "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>Final validation of ");
	html_escape(out, span_str(head->migration));
	buf_printf(out, "</title><style>%s</style></head><body>\n<h1>Final validation of ", style);
	html_escape(out, span_str(head->migration));
	buf_str(out, "</h1>\n<p class=\"facts\">");
	html_escape(out, span_str(head->at));
	buf_str(out, "</p>\n");
	write_verdict(out, head);
	section(out, &h->findings, "What was found",
		"<th>Check</th><th>Copy</th><th>Object</th><th>Seen</th><th></th>");
	section(out, &h->differences, "Rows that differ", "<th>Table</th><th>Kind</th><th>Row</th>");
	section(out, &h->checks, "Checks",
		"<th>Check</th><th>Copy</th><th>Passed</th><th class=\"n\">Found</th><th>Next step</th>");
	section(out, &h->tables, "Tables",
		"<th>Old table</th><th>New table</th><th>Copy</th><th class=\"n\">Rows, old</th><th class=\"n\">Rows, new</th>"
		"<th class=\"n\">Differences</th><th></th>");
	buf_str(out, "<h2>What was not compared, and why</h2>\n<ul>\n");
	buf_add_span(out, buf_span(&h->unseen.rows));
	for (size_t i = 0; i < sizeof(blind_spots) / sizeof(blind_spots[0]); i++)
		buf_printf(out, "<li>%s</li>\n", blind_spots[i]);
	buf_str(out, "</ul>\n</body></html>\n");
	return !buf_failed(out) && !buf_failed(&h->tables.rows) && !buf_failed(&h->checks.rows) &&
	       !buf_failed(&h->findings.rows) && !buf_failed(&h->differences.rows) && !buf_failed(&h->unseen.rows);
}
