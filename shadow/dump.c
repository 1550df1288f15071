// SPDX-License-Identifier: Apache-2.0
#include "shadow/dump.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LISTING_BYTES = 64 << 20 };

static bool make_folder(struct dump *d, struct fault *f)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(d->dir, sizeof(d->dir), "%.200s/foreshadow-schema-XXXXXX", tmp && *tmp ? tmp : "/tmp");
	if (!mkdtemp(d->dir)) {
		d->dir[0] = 0;
		return fault(f, FAULT_ENVIRONMENT, "cannot make a temporary folder for the schema: %s; set TMPDIR",
			     strerror(errno));
	}
	snprintf(d->file, sizeof(d->file), "%s/schema.dump", d->dir);
	snprintf(d->list, sizeof(d->list), "%s/schema.list", d->dir);
	return true;
}

static bool write_file(const char *path, struct span text, struct fault *f)
{
	FILE *file = fopen(path, "w");
	bool ok = file && fwrite(text.p, 1, text.n, file) == text.n;

	if (file && fclose(file) != 0)
		ok = false;
	return ok || fault(f, FAULT_ENVIRONMENT, "cannot write %s: %s", path, strerror(errno));
}

static bool listing_too_large(struct fault *f)
{
	return fault(f, FAULT_STOP, "the schema's listing is larger than %d bytes", LISTING_BYTES);
}

bool dump_take(struct dump *d, PGconn *from, PGconn *to, int stop_fd, struct fault *f)
{
	const char *dump[] = { "-Fc", "-s", "--no-owner", "--no-privileges", "--no-publications",
			       "--no-subscriptions", "--no-comments", "-w", "-f", d->file, NULL };
	const char *list[] = { "-l", d->file, NULL };

	*d = (struct dump) { .stop_fd = stop_fd };
	buf_init(&d->listing, LISTING_BYTES);
	return client_find(&d->client, from, to, f) && make_folder(d, f) &&
	       client_run(&d->client, "pg_dump", dump, from, stop_fd, NULL, f) &&
	       client_run(&d->client, "pg_restore", list, NULL, stop_fd, &d->listing, f) &&
	       (!buf_failed(&d->listing) || listing_too_large(f));
}

/* The early stage is one transaction: all of it or nothing. A later one goes in parallel. */
static bool restore(const struct dump *d, PGconn *to, enum toc_stage stage, int jobs, struct fault *f)
{
	char jobs_text[16];
	const char *database = PQdb(to);
	const char *early[] = { "--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges",
				"-w", "-L", d->list, "-d", database, d->file, NULL };
	const char *late[] = { "--exit-on-error", "-j", jobs_text, "--no-owner", "--no-privileges",
			       "-w", "-L", d->list, "-d", database, d->file, NULL };

	snprintf(jobs_text, sizeof(jobs_text), "%d", jobs);
	return client_end_leftovers(to, f) &&
	       client_run(&d->client, "pg_restore", stage == TOC_EARLY ? early : late, to, d->stop_fd, NULL, f);
}

bool dump_restore(struct dump *d, PGconn *to, const struct toc_object *objects, size_t n, enum toc_stage stage,
		  int jobs, size_t *ret_entries, struct fault *f)
{
	struct buf lines;

	buf_init(&lines, LISTING_BYTES);
	*ret_entries = toc_filter(buf_span(&d->listing), objects, n, stage, &lines);
	bool ok = (!buf_failed(&lines) || listing_too_large(f)) && write_file(d->list, buf_span(&lines), f) &&
		  (*ret_entries == 0 || restore(d, to, stage, jobs, f));
	buf_release(&lines);
	return ok;
}

void dump_release(struct dump *d)
{
	buf_release(&d->listing);
	if (!d->dir[0])
		return;
	unlink(d->file);
	unlink(d->list);
	rmdir(d->dir);
}
