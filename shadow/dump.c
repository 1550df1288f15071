// SPDX-License-Identifier: Apache-2.0
#include "shadow/dump.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/child.h"

enum { LISTING_BYTES = 64 << 20, VERSION_BYTES = 4096 };

/* ---- running a client ---- */

/* libpq's environment variables for the connection, so that children connect alike and no password is in argv. */
struct conn_env {
	char *entries[64];
	size_t n;
};

static void conn_env_release(struct conn_env *e)
{
	for (size_t i = 0; i < e->n; i++)
		free(e->entries[i]);
	*e = (struct conn_env) { 0 };
}

static bool conn_env_make(struct conn_env *e, PGconn *conn, struct fault *f)
{
	PQconninfoOption *options = PQconninfo(conn);

	if (!options)
		return fault(f, FAULT_INTERNAL, "schema: out of memory");
	for (PQconninfoOption *o = options; o->keyword && e->n < 62; o++) {
		/* fallback names and our own session settings are not for the children */
		if (!o->envvar || !o->val || !*o->val || strcmp(o->keyword, "options") == 0 ||
		    strcmp(o->keyword, "client_encoding") == 0 || strcmp(o->keyword, "service") == 0)
			continue;
		char *entry = NULL;
		if (asprintf(&entry, "%s=%s", o->envvar, o->val) > 0)
			e->entries[e->n++] = entry;
	}
	PQconninfoFree(options);
	return true;
}

/* Newest program of Debian's layout, else the one on PATH: pg_dump refuses servers newer than itself. */
static void client_program(const char *name, char *path, size_t n)
{
	long best = 0;
	DIR *d = opendir("/usr/lib/postgresql");

	snprintf(path, n, "%s", name);
	for (struct dirent *e; d && (e = readdir(d));) {
		char candidate[256];
		long major = strtol(e->d_name, NULL, 10);
		snprintf(candidate, sizeof(candidate), "/usr/lib/postgresql/%ld/bin/%s", major, name);
		if (major > best && access(candidate, X_OK) == 0) {
			best = major;
			snprintf(path, n, "%s", candidate);
		}
	}
	if (d)
		closedir(d);
}

static bool run_client(const char *program, const char *const *arguments, PGconn *conn, int stop_fd, struct buf *out,
		       struct fault *f)
{
	char path[256];
	const char *argv[32] = { path };
	struct conn_env env = { 0 };

	client_program(program, path, sizeof(path));
	for (size_t i = 0; arguments[i] && i + 1 < 31; i++)
		argv[i + 1] = arguments[i];
	bool ok = (!conn || conn_env_make(&env, conn, f)) &&
		  child_run(&(struct child) { argv, (const char *const *)env.entries, out, stop_fd }, f);
	conn_env_release(&env);
	return ok;
}

bool dump_can_read(PGconn *server, struct fault *f)
{
	const char *arguments[] = { "--version", NULL };
	int wanted = PQserverVersion(server) / 10000;
	struct buf out;

	buf_init(&out, VERSION_BYTES);
	bool ok = run_client("pg_dump", arguments, NULL, -1, &out, f);
	if (ok) {
		/* "pg_dump (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)" */
		const char *text = buf_cstr(&out), *number = strpbrk(text, "0123456789");
		int major = number ? (int)strtol(number, NULL, 10) : 0;
		ok = major >= wanted ||
		     fault(f, FAULT_STOP, "pg_dump is of version %d and cannot read a server of version %d; next "
			   "step: install the PostgreSQL %d client programs", major, wanted, wanted);
	}
	buf_release(&out);
	return ok;
}

/* ---- the dump ---- */

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

bool dump_take(struct dump *d, PGconn *from, int stop_fd, struct fault *f)
{
	const char *dump[] = { "-Fc", "-s", "--no-owner", "--no-privileges", "--no-publications",
			       "--no-subscriptions", "--no-comments", "-w", "-f", d->file, NULL };
	const char *list[] = { "-l", d->file, NULL };

	*d = (struct dump) { .stop_fd = stop_fd };
	buf_init(&d->listing, LISTING_BYTES);
	return make_folder(d, f) && run_client("pg_dump", dump, from, stop_fd, NULL, f) &&
	       run_client("pg_restore", list, NULL, stop_fd, &d->listing, f) &&
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
	return run_client("pg_restore", stage == TOC_EARLY ? early : late, to, d->stop_fd, NULL, f);
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
