// SPDX-License-Identifier: Apache-2.0
/*
 * check_report - what the preflight says, item by item: printed at once, or gathered as JSON.
 */
#ifndef CLI_CHECK_REPORT_H
#define CLI_CHECK_REPORT_H

#include <jansson.h>
#include <stdbool.h>

#include "core/fault.h"

enum verdict { VERDICT_OK, VERDICT_WARN, VERDICT_FAIL };

struct report {
	bool json;
	json_t *items;
	int failed;
	enum fault_kind first_kind;
};

/* A row of the report. A fault is a failed item. */
void check_say(struct report *r, enum verdict v, const char *object, const char *text);
void check_say_fault(struct report *r, const char *object, const struct fault *f);

#endif
