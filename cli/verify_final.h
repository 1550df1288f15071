// SPDX-License-Identifier: Apache-2.0
/* verify_final - what `verify --final` says beside the differences: checks, the verdict, and all of it as a page. */
#ifndef CLI_VERIFY_FINAL_H
#define CLI_VERIFY_FINAL_H

#include "cli/cli.h"
#include "reconcile/html.h"

void verify_final_table(const struct reconcile_table *t, bool json);
void verify_final_check(const struct final_result *r, bool json);
/* The word for the summary. */
const char *verify_final_verdict(const struct reconcile_summary *s);
/* reason: why there is no verdict, or NULL. */
bool verify_final_page(const struct cli *c, const struct html *page, const struct reconcile_summary *s, double coverage,
		       const char *reason, struct fault *f);

#endif
