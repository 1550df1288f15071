// SPDX-License-Identifier: Apache-2.0
/*
 * cascades - what the target may have done already, where its foreign keys are enforced while changes are applied.
 *
 * A DELETE of a parent deletes its children there (ON DELETE CASCADE), and so the children's own changes, which
 * follow in the source transaction, find no row. Exactly that explains a missing row: a table that the child
 * references, with that action, had a row deleted, or one of its referenced columns changed, earlier in the same
 * source transaction. Anything else that finds no row is an error.
 *
 * Remembers one source transaction, over all rounds that it is applied in. Pure.
 */
#ifndef SHADOW_CASCADES_H
#define SHADOW_CASCADES_H

#include "core/lsn.h"
#include "shadow/target.h"

struct cascades_table {
	uint32_t oid; /* on the target */
	bool is_deleted, is_rekeyed; /* a row of it was */
};

struct cascades {
	struct commit_lsn commit;
	struct cascades_table *tables;
	size_t count, cap;
};

void cascades_release(struct cascades *c);
void cascades_forget(struct cascades *c);
/* false: no memory. */
bool cascades_copy(struct cascades *to, const struct cascades *from);
/* A row of t was deleted, or rekeyed: had a column changed that others may reference. */
bool cascades_note(struct cascades *c, const struct target_table *t, struct commit_lsn commit, bool is_delete);
/* May the target have deleted (is_delete) or rekeyed the row of t that a change of this commit is about? */
bool cascades_explain(const struct cascades *c, const struct target_table *t, struct commit_lsn commit, bool is_delete);

#endif
