// SPDX-License-Identifier: Apache-2.0
/*
 * html - the final validation as one page: nothing of it comes from elsewhere, and it prints well.
 *
 * Parts are added as they become known; html_finish lays them out, verdict first. Every text is escaped. Bounded: rows
 * beyond HTML_ROWS_MAX of a part are counted instead. Pure.
 */
#ifndef RECONCILE_HTML_H
#define RECONCILE_HTML_H

#include "core/buf.h"
#include "reconcile/reconcile.h"

enum { HTML_ROWS_MAX = 1000 };

struct html_part {
	struct buf rows;
	size_t row_count;
};

struct html {
	struct html_part tables, checks, findings, differences, unseen;
};

struct html_head {
	const char *migration, *at; /* when, as text */
	enum final_verdict verdict;
	const char *reason; /* UNJUDGED: why, or NULL */
	const struct reconcile_summary *summary;
	double coverage;
};

void html_init(struct html *h);
void html_release(struct html *h);
void html_table(struct html *h, const struct reconcile_table *t);
void html_check(struct html *h, const struct final_result *r);
/* where: table and target; what: the difference, as a text. */
void html_difference(struct html *h, struct span where, const char *kind, struct span what);
/* False: too large. */
bool html_finish(const struct html *h, const struct html_head *head, struct buf *out);

/* As text between tags or in a quoted attribute; bytes that are no text become U+FFFD. */
void html_escape(struct buf *out, struct span text);

#endif
