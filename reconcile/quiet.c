// SPDX-License-Identifier: Apache-2.0
#include "reconcile/quiet.h"

#include <endian.h>
#include <inttypes.h>

#include "core/buf.h"
#include "core/failpoint.h"

enum {
	LIST_BYTES = 64 << 20,
	NAMED = 8,
	PEEK_FIRST = 10 * 1000,      /* messages of the slot */
	PEEK_MAX = 1000 * 1000,
};

/* ---- who writes ---- */

static bool same_table(const struct relation *a, const struct relation *b)
{
	return span_eq(a->root_schema, b->root_schema) && span_eq(a->root_table, b->root_table);
}

static struct quiet_writer *writer_of(struct quiet *quiet, const struct relation *rel)
{
	size_t i = 0;

	while (i < quiet->writer_count && !same_table(quiet->writers[i].rel, rel))
		i++;
	if (i == QUIET_TABLES_MAX)
		i--;
	else if (i == quiet->writer_count)
		quiet->writers[quiet->writer_count++] = (struct quiet_writer) { .rel = rel };
	return &quiet->writers[i];
}

static bool is_in_scope(const struct quiet *quiet, const struct relation *rel)
{
	const struct migration *m = quiet->ends->m;

	return migration_has_table(m, rel->root_schema, rel->root_table) ||
	       migration_has_table(m, rel->schema, rel->table);
}

static void see_change(void *arg, const struct relation *rel, struct position p)
{
	struct quiet *quiet = arg;

	/* With a runner: only what was committed behind the mark. Without: whatever a target has not applied. */
	if (is_in_scope(quiet, rel) && (!quiet->has_runner || p.commit.v >= quiet->lsn))
		writer_of(quiet, rel)->change_count++;
}

/* ---- transactions that are open ---- */

/* Who keeps writers out by locks (EXCLUSIVE, SHARE) is none; SELECT … FOR UPDATE is none either. */
static const char open_sql[] =
	"SELECT DISTINCT ON (l.relation) l.relation::pg_catalog.int8, coalesce(l.pid, 0) FROM pg_catalog.pg_locks l"
	" WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.granted"
	" AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())"
	" AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() ORDER BY l.relation, l.pid";

static bool look_for_open(struct quiet *quiet, struct fault *f)
{
	PGresult *r = pg_query(quiet->ends->source, f, open_sql);

	if (!r)
		return fault_in(f, "source");
	for (int i = 0; i < PQntuples(r); i++) {
		const struct relation *rel =
			known_relation(quiet->ends->tail->known, (uint32_t)pg_i64(r, i, 0));
		struct quiet_writer *w = rel && is_in_scope(quiet, rel) ? writer_of(quiet, rel) : NULL;

		if (w)
			*w = (struct quiet_writer) { w->rel, w->change_count, (int)pg_i64(r, i, 1), true };
	}
	PQclear(r);
	return true;
}

/* ---- what the slot would still send ---- */

static uint32_t be32(const char *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

void quiet_message(struct span message, uint64_t *ret_commit, const char **ret_oids, size_t *ret_count)
{
	enum { BEGIN = 1 + 8, ROW = 1 + 4, TRUNCATE = 1 + 4 + 1 };
	uint64_t commit;

	*ret_count = 0;
	*ret_oids = NULL;
	if (message.n >= BEGIN && message.p[0] == 'B') {
		memcpy(&commit, message.p + 1, sizeof(commit));
		*ret_commit = be64toh(commit);
	} else if (message.n >= ROW && strchr("IUD", message.p[0])) {
		*ret_oids = message.p + 1;
		*ret_count = 1;
	} else if (message.n >= TRUNCATE && message.p[0] == 'T') {
		*ret_oids = message.p + TRUNCATE;
		*ret_count = be32(message.p + 1);
		if (*ret_count > (message.n - TRUNCATE) / 4)
			*ret_count = (message.n - TRUNCATE) / 4;
	}
}

/* What quiet_message reads of them: all of a TRUNCATE ('T'), of others the head. */
static const char peek_sql[] =
	"SELECT pg_catalog.encode(CASE pg_catalog.get_byte(data, 0) WHEN 84 THEN data ELSE pg_catalog.substr(data, 1, 9) END, 'hex')"
	" FROM pg_catalog.pg_logical_slot_peek_binary_changes($1, NULL, $3::pg_catalog.int4,"
	" 'proto_version', '1', 'publication_names', $2)";

static bool from_hex(struct span hex, struct arena *a, struct span *ret)
{
	char *p = arena_alloc(a, hex.n / 2 + 1);

	for (size_t i = 0; p && i < hex.n / 2; i++)
		p[i] = (char)(span_hex_digit(hex.p[2 * i]) << 4 | span_hex_digit(hex.p[2 * i + 1]));
	*ret = span(p, hex.n / 2);
	return p != NULL;
}

/* Transactions that the targets contain are sent again after a restart: they are passed over. The limit is looked at
 * between transactions; *ret_is_all: it was not reached. */
static bool peek(struct quiet *quiet, int limit, bool *ret_is_all, struct fault *f)
{
	const struct migration *m = quiet->ends->m;
	char limit_text[16];
	const char *values[] = { m->slot, m->publication, limit_text };
	uint64_t commit = 0;
	struct arena a;
	PGresult *r;
	bool ok;

	snprintf(limit_text, sizeof(limit_text), "%d", limit);
	r = pg_query_params(quiet->ends->source, f, peek_sql, 3, values);
	ok = r != NULL;
	if (!ok)
		return fault_in(f, "source: what slot %s would still send (if foreshadow run has begun meanwhile, ask again)", m->slot);
	arena_init(&a, LIST_BYTES);
	for (int i = 0; ok && i < PQntuples(r); i++) {
		struct span message;
		const char *oids;
		size_t n = 0;

		arena_reset(&a);
		ok = from_hex(pg_value(r, i, 0), &a, &message) ||
		     fault(f, FAULT_INTERNAL, "no memory for a message of slot %s", m->slot);
		if (ok)
			quiet_message(message, &commit, &oids, &n);
		for (size_t k = 0; k < n && commit >= quiet->lsn; k++) {
			const struct relation *rel = known_relation(quiet->ends->tail->known, be32(oids + 4 * k));

			if (rel && is_in_scope(quiet, rel))
				writer_of(quiet, rel)->change_count++;
		}
	}
	*ret_is_all = PQntuples(r) < limit;
	arena_release(&a);
	PQclear(r);
	return ok;
}

/* It begins at the same place each time. There may be any number of messages that say nothing: of transactions that the
 * targets contain, and, up to PostgreSQL 14, of those that changed no table of the publication. */
static bool look_into_slot(struct quiet *quiet, struct fault *f)
{
	bool is_all = false;

	for (int limit = failpoint("quiet.peek") ? 1 : PEEK_FIRST;; limit *= 10) {
		if (!peek(quiet, limit, &is_all, f))
			return false;
		if (is_all || quiet->writer_count)
			return true;
		if (limit >= PEEK_MAX || failpoint("quiet.enough"))
			return fault(f, FAULT_ENVIRONMENT,
				     "it is not known whether the source is quiet: slot %s would send more than the %d messages "
				     "that were looked at; next step: let foreshadow run --until caught-up end, then foreshadow "
				     "verify --final again", quiet->ends->m->slot, limit);
	}
}

/* ---- looking ---- */

static void list_writers(const struct quiet *quiet, struct buf *out)
{
	for (size_t i = 0; i < quiet->writer_count && i < NAMED; i++) {
		const struct quiet_writer *w = &quiet->writers[i];

		buf_printf(out, "%s%.*s.%.*s (", i ? ", " : "", SPAN_ARG(w->rel->root_schema),
			   SPAN_ARG(w->rel->root_table));
		if (w->change_count)
			buf_printf(out, "%" PRIu64 " changes%s", w->change_count, w->is_open ? ", " : "");
		if (w->is_open && w->pid)
			buf_printf(out, "open transaction of process %d", w->pid);
		else if (w->is_open)
			buf_str(out, "prepared transaction");
		buf_str(out, ")");
	}
	if (quiet->writer_count > NAMED)
		buf_str(out, ", and more");
}

static bool say_writers(const struct quiet *quiet, struct fault *f)
{
	struct buf text;
	char lsn[LSN_TEXT];

	buf_init(&text, LIST_BYTES);
	list_writers(quiet, &text);
	lsn_format(quiet->lsn, lsn);
	if (quiet->has_runner)
		fault(f, FAULT_ENVIRONMENT,
		      "the source is not quiet, it is written behind %s: %.900s; next step: stop the application's "
		      "writes, then foreshadow verify --final again",
		      lsn, buf_cstr(&text));
	else
		fault(f, FAULT_ENVIRONMENT,
		      "the source is not quiet, the targets, at %s, lack what was written since: %.900s; next step: "
		      "stop the application's writes, let foreshadow run --until caught-up end, then foreshadow verify "
		      "--final again",
		      lsn, buf_cstr(&text));
	buf_release(&text);
	return false;
}

static bool wait_for(struct quiet *quiet, uint64_t lsn, struct fault *f)
{
	return ends_wait(quiet->ends, ROLE_SHADOW, lsn, f) && ends_wait(quiet->ends, ROLE_PRIMARY, lsn, f);
}

bool quiet_hold(struct quiet *quiet, struct fault *f)
{
	struct ends_moment now;
	bool ok = true;

	if (quiet->has_runner)
		ok = ends_mark(quiet->ends, &now, f) && wait_for(quiet, now.lsn, f);
	ok = ok && tail_drain(quiet->ends->tail, f) && (quiet->has_runner || look_into_slot(quiet, f)) &&
	     look_for_open(quiet, f);
	return ok && (quiet->writer_count == 0 || say_writers(quiet, f));
}

/* ---- the beginning ---- */

static bool ask_slot(struct quiet *quiet, struct fault *f)
{
	const char *values[] = { quiet->ends->m->slot };
	PGresult *r = pg_query_params(quiet->ends->source, f,
				      "SELECT active FROM pg_catalog.pg_replication_slots WHERE slot_name = $1", 1, values);
	bool ok = r && PQntuples(r) == 1;

	if (!r)
		return fault_in(f, "source");
	quiet->has_runner = ok && *PQgetvalue(r, 0, 0) == 't';
	PQclear(r);
	return ok || fault(f, FAULT_ENVIRONMENT, "source: there is no slot %s; next step: foreshadow run",
			   quiet->ends->m->slot);
}

static bool stand_still(struct quiet *quiet, struct fault *f)
{
	uint64_t lsn[2];

	if (!ends_barrier(quiet->ends, ROLE_SHADOW, &lsn[0], f) || !ends_barrier(quiet->ends, ROLE_PRIMARY, &lsn[1], f))
		return false;
	quiet->lsn = lsn[0] < lsn[1] ? lsn[0] : lsn[1];
	quiet->ends->are_still = true;
	return true;
}

bool quiet_begin(struct quiet *quiet, struct ends *ends, struct fault *f)
{
	struct ends_moment mark = { 0 };

	*quiet = (struct quiet) { .ends = ends };
	if (!ask_slot(quiet, f))
		return false;
	if (quiet->has_runner ? !ends_mark(ends, &mark, f) : !stand_still(quiet, f))
		return false;
	if (quiet->has_runner)
		quiet->lsn = mark.lsn;
	ends->tail->changed = see_change;
	ends->tail->changed_arg = quiet;
	return wait_for(quiet, quiet->lsn, f) && quiet_hold(quiet, f);
}
