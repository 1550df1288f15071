// SPDX-License-Identifier: Apache-2.0
#include "shadow/client.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/child.h"

enum { TEXT_BYTES = 4096, VERSIONS_MAX = 32, TRANSACTION_TIMEOUT = 17 /* the first version that has it */ };

#define DEBIAN_FOLDER "/usr/lib/postgresql"
/* Behind the application_name of our own connections: theirs. */
#define SCHEMA_SESSION " schema"

/* ---- running one ---- */

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
		const char *mark = strcmp(o->keyword, "application_name") == 0 ? SCHEMA_SESSION : "";
		char *entry = NULL;
		if (asprintf(&entry, "%s=%s%s", o->envvar, o->val, mark) > 0)
			e->entries[e->n++] = entry;
	}
	PQconninfoFree(options);
	return true;
}

bool client_run(const struct client *c, const char *program, const char *const *arguments, PGconn *conn, int stop_fd,
		struct buf *ret_out, struct fault *f)
{
	char path[128];
	const char *argv[32] = { path };
	struct conn_env env = { 0 };

	snprintf(path, sizeof(path), "%s%s", c->folder, program);
	for (size_t i = 0; arguments[i] && i + 1 < 31; i++)
		argv[i + 1] = arguments[i];
	bool ok = (!conn || conn_env_make(&env, conn, f)) &&
		  child_run(&(struct child) { argv, (const char *const *)env.entries, ret_out, stop_fd }, f);
	conn_env_release(&env);
	return ok;
}

bool client_end_leftovers(PGconn *conn, struct fault *f)
{
	return pg_do(conn, f,
		     "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = current_database()"
		     " AND usename = current_user"
		     " AND application_name = current_setting('application_name') || '" SCHEMA_SESSION "'");
}

/* ---- which one ---- */

int client_choose(const int *versions, size_t n, int from, int to)
{
	int newest = 0, oldest = 0;

	for (size_t i = 0; i < n; i++) {
		int version = versions[i];
		if (version < from || (version >= TRANSACTION_TIMEOUT && to < TRANSACTION_TIMEOUT))
			continue;
		if (version <= to && version > newest)
			newest = version;
		if (oldest == 0 || version < oldest)
			oldest = version;
	}
	return newest ? newest : oldest;
}

/* Debian has a folder a version. */
static size_t debian_versions(int versions[VERSIONS_MAX])
{
	DIR *d = opendir(DEBIAN_FOLDER);
	size_t n = 0;

	for (struct dirent *e; d && n < VERSIONS_MAX && (e = readdir(d));) {
		char dump[128], restore[128];
		long version = strtol(e->d_name, NULL, 10);
		snprintf(dump, sizeof(dump), DEBIAN_FOLDER "/%ld/bin/pg_dump", version);
		snprintf(restore, sizeof(restore), DEBIAN_FOLDER "/%ld/bin/pg_restore", version);
		if (access(dump, X_OK) == 0 && access(restore, X_OK) == 0)
			versions[n++] = (int)version;
	}
	if (d)
		closedir(d);
	return n;
}

/* "pg_restore (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)" */
static bool path_version(int *ret, struct fault *f)
{
	const char *arguments[] = { "--version", NULL };
	struct buf out;

	buf_init(&out, TEXT_BYTES);
	bool ok = client_run(&(struct client) { "" }, "pg_restore", arguments, NULL, -1, &out, f);
	if (ok) {
		const char *number = strpbrk(buf_cstr(&out), "0123456789");
		*ret = number ? (int)strtol(number, NULL, 10) : 0;
	}
	buf_release(&out);
	return ok;
}

static bool none_fits(const int *versions, size_t n, int from, int to, struct fault *f)
{
	struct buf seen;

	if (from >= TRANSACTION_TIMEOUT && to < TRANSACTION_TIMEOUT)
		return fault(f, FAULT_STOP,
			     "schema: create from PostgreSQL %d to PostgreSQL %d: a pg_dump that reads the one writes what "
			     "the other does not take; next step: a target of version %d or newer, or make the tables by "
			     "hand and use schema: exists",
			     from, to, TRANSACTION_TIMEOUT);
	buf_init(&seen, TEXT_BYTES);
	for (size_t i = 0; i < n; i++)
		buf_printf(&seen, "%s%d", i ? ", " : "", versions[i]);
	fault(f, FAULT_STOP,
	      "schema: create from PostgreSQL %d to PostgreSQL %d: pg_dump and pg_restore are of version %s; wanted %d%s; "
	      "next step: install postgresql-client-%d (apt.postgresql.org has it if the distribution has not), or use "
	      "schema: exists",
	      from, to, buf_cstr(&seen), from,
	      to >= TRANSACTION_TIMEOUT ? " or newer" : from == TRANSACTION_TIMEOUT - 1 ? "" : " to 16",
	      from > to ? from : to);
	buf_release(&seen);
	return false;
}

bool client_find(struct client *ret, PGconn *from, PGconn *to, struct fault *f)
{
	int versions[VERSIONS_MAX], source = PQserverVersion(from) / 10000, target = PQserverVersion(to) / 10000;
	size_t n = debian_versions(versions);
	bool is_debian = n > 0;

	if (!is_debian && !path_version(&versions[n++], f))
		return false;
	int version = client_choose(versions, n, source, target);
	if (!version)
		return none_fits(versions, n, source, target, f);
	*ret = (struct client) { "" };
	if (is_debian)
		snprintf(ret->folder, sizeof(ret->folder), DEBIAN_FOLDER "/%d/bin/", version);
	return true;
}
