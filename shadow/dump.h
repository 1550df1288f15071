// SPDX-License-Identifier: Apache-2.0
/*
 * dump - one pg_dump of a database's schema, and pg_restore of what is wanted of it.
 *
 * The dump is a file in a folder of its own under TMPDIR. Nothing of it is run by a shell or by a client with
 * meta-commands.
 *
 * Order: dump_take · dump_restore, once a stage · dump_release (also after a failure; of {0}: nothing).
 */
#ifndef SHADOW_DUMP_H
#define SHADOW_DUMP_H

#include "shadow/client.h"
#include "shadow/toc.h"

struct dump {
	char dir[256], file[300], list[300];
	struct buf listing; /* the table of contents, as pg_restore -l prints it */
	struct client client;
	int stop_fd;
};

/* Dumps the database that from is connected to, for the server of to. What runs is ended, here and in dump_restore, when
 * stop_fd (-1: none) becomes readable. */
bool dump_take(struct dump *d, PGconn *from, PGconn *to, int stop_fd, struct fault *f);
/*
 * Restores the entries of a stage into the database that to is connected to: the early stage in one transaction, a
 * later one by `jobs` connections. objects: as toc_sort left them.
 */
bool dump_restore(struct dump *d, PGconn *to, const struct toc_object *objects, size_t n, enum toc_stage stage,
		  int jobs, size_t *ret_entries, struct fault *f);
void dump_release(struct dump *d);

#endif
