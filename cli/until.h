// SPDX-License-Identifier: Apache-2.0
/*
 * until - has the migration reached what `run --until` asks for?
 *
 * Judged from outside the roles, by what the source and the targets say: with several processes no
 * single one of them knows. `caught-up`: every table is live on the targets looked at, and every
 * partition contains the source's WAL position read when that became so.
 */
#ifndef CLI_UNTIL_H
#define CLI_UNTIL_H

#include "core/lsn.h"
#include "core/migration.h"

struct until {
	const struct migration *m;
	bool looks_at[2];        /* by enum role: which targets count */
	size_t table_count;      /* tables in scope: as many must be live */
	bool is_caught_up;       /* asked for `caught-up` */
	bool has_goal;
	uint64_t goal;           /* LSN that every partition must contain */
};

/* text: an LSN or "caught-up". */
bool until_parse(struct until *u, const char *text, struct fault *f);
/* One look; *ret_reached. A server that cannot be reached now is not an error: not reached. */
bool until_look(struct until *u, bool *ret_reached, struct fault *f);

#endif
