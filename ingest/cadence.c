// SPDX-License-Identifier: Apache-2.0
#include "ingest/cadence.h"

void cadence_done(struct cadence *c, int64_t now_us)
{
	int64_t saved_us = now_us - CADENCE_SAVED * c->interval_us;
	int64_t due_us = c->due_us > saved_us ? c->due_us : saved_us;

	c->due_us = (due_us < now_us ? due_us : now_us) + c->interval_us;
}
