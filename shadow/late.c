// SPDX-License-Identifier: Apache-2.0
#include "shadow/late.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "core/buf.h"
#include "core/clock.h"
#include "core/failpoint.h"
#include "core/log.h"
#include "core/relation.h"
#include "shadow/role.h"
#include "shadow/model.h"
#include "shadow/schema_parts.h"

enum { OTHERS_MS = 15000, OTHERS_POLL_MS = 250, SQL_BYTES = 1 << 20, NAMES_BYTES = 64 << 20, JOBS_MAX = 64 };

/*
 * A row a step, in the order of rank: steps of one rank may run side by side, and a higher rank is dropped first.
 *   0         an index of a table or leaf
 *   1         the constraint that such an index becomes
 *   2…        an index of a partitioned table, deepest first: made of its parts (ATTACH, in the same step)
 *   1000      a foreign key that refers to one of these
 *   2000      a trigger or rule, if they were left out ($3); its name has its kind in front: an index may be called alike
 * what, kind (of the object that stays; NULL: none does), schema, table, name, statements, and whether the target
 * has it already, as a query.
 */
static const char steps_sql[] =
	SCHEMA_SCOPE
	", x AS (SELECT i.indexrelid AS oid, i.indrelid, c.relname AS name, c.relkind, c.relispartition, n.nspname AS schema,"
	"  t.relname AS table, k.oid AS constraint, k.condeferrable, k.condeferred, s.spcname,"
	"  (SELECT count(*) FROM pg_partition_ancestors(i.indrelid)) AS depth"
	"  FROM late l JOIN pg_index i ON i.indexrelid = l.oid JOIN pg_class c ON c.oid = i.indexrelid"
	"  JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace"
	"  LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace"
	"  LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype = 'u'"
	"  WHERE i.indrelid IN (SELECT oid FROM scope) AND (i.indisvalid OR c.relkind = 'I')),"
	" attach(parent, sql) AS (SELECT h.inhparent, string_agg(format('ALTER INDEX %I.%I ATTACH PARTITION %I.%I',"
	"   p.schema, p.name, x.schema, x.name), ';' ORDER BY x.oid)"
	"  FROM x JOIN pg_inherits h ON h.inhrelid = x.oid JOIN x p ON p.oid = h.inhparent GROUP BY 1) "
	"SELECT 0 AS rank, 'unique index' AS what, 'index' AS kind, schema, \"table\", name,"
	"  coalesce('SET LOCAL default_tablespace = ' || quote_ident(spcname) || ';', '') || pg_get_indexdef(oid) AS sql,"
	"  format('SELECT to_regclass(%L) IS NOT NULL', format('%I.%I', schema, name)) AS is_there"
	"  FROM x WHERE relkind = 'i' "
	"UNION ALL SELECT 1, 'unique constraint', 'constraint', schema, \"table\", name,"
	"  format('ALTER TABLE ONLY %I.%I ADD CONSTRAINT %I UNIQUE USING INDEX %I%s', schema, \"table\", name, name,"
	"   CASE WHEN condeferred THEN ' DEFERRABLE INITIALLY DEFERRED' WHEN condeferrable THEN ' DEFERRABLE' END),"
	"  format('SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass(%L) AND conname = %L)',"
	"   format('%I.%I', schema, \"table\"), name)"
	"  FROM x WHERE relkind = 'i' AND \"constraint\" IS NOT NULL "
	"UNION ALL SELECT 100 - depth, 'unique index', CASE WHEN \"constraint\" IS NULL THEN 'index' ELSE 'constraint' END,"
	"  schema, \"table\", name, CASE WHEN \"constraint\" IS NULL THEN pg_get_indexdef(oid) ELSE"
	"  format('ALTER TABLE ONLY %I.%I ADD CONSTRAINT %I %s', schema, \"table\", name,"
	"   pg_get_constraintdef(\"constraint\")) END || coalesce(';' || a.sql, ''),"
	"  format('SELECT to_regclass(%L) IS NOT NULL', format('%I.%I', schema, name))"
	"  FROM x LEFT JOIN attach a ON a.parent = x.oid WHERE relkind = 'I' "
	"UNION ALL SELECT 1000, 'foreign key', 'constraint', n.nspname, t.relname, k.conname,"
	"  format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s', n.nspname, t.relname, k.conname, pg_get_constraintdef(k.oid)),"
	"  format('SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass(%L) AND conname = %L)',"
	"   format('%I.%I', n.nspname, t.relname), k.conname)"
	"  FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace"
	"  WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conindid IN (SELECT oid FROM late)"
	"   AND k.conrelid IN (SELECT oid FROM scope) AND k.confrelid IN (SELECT oid FROM scope) "
	"UNION ALL SELECT 2000, 'trigger', 'trigger', n.nspname, c.relname, 'trigger ' || t.tgname,"
	"  pg_get_triggerdef(t.oid) || CASE t.tgenabled WHEN 'O' THEN '' ELSE format(';ALTER TABLE %I.%I %s TRIGGER %I',"
	"   n.nspname, c.relname, CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE"
	"   'ENABLE ALWAYS' END, t.tgname) END,"
	"  format('SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass(%L) AND tgname = %L)',"
	"   format('%I.%I', n.nspname, c.relname), t.tgname)"
	"  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
	"  WHERE $3::bool AND t.tgrelid IN (SELECT oid FROM scope) AND NOT t.tgisinternal AND t.tgparentid = 0 "
	"UNION ALL SELECT 2000, 'rule', 'rule', n.nspname, c.relname, 'rule ' || w.rulename,"
	"  pg_get_ruledef(w.oid) || CASE w.ev_enabled WHEN 'O' THEN '' ELSE format('ALTER TABLE %I.%I %s RULE %I',"
	"   n.nspname, c.relname, CASE w.ev_enabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE"
	"   'ENABLE ALWAYS' END, w.rulename) END,"
	"  format('SELECT EXISTS (SELECT FROM pg_rewrite WHERE ev_class = to_regclass(%L) AND rulename = %L)',"
	"   format('%I.%I', n.nspname, c.relname), w.rulename)"
	"  FROM pg_rewrite w JOIN pg_class c ON c.oid = w.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace"
	"  WHERE $3::bool AND w.ev_class IN (SELECT oid FROM scope) "
	"ORDER BY 1, 4, 5, 6";

enum { STEP_RANK, STEP_WHAT, STEP_KIND, STEP_SCHEMA, STEP_TABLE, STEP_NAME, STEP_SQL, STEP_IS_THERE };

/* Shared by the threads of one rank; next and has_failed are the only things they write, and fault under lock. */
struct build {
	const struct migration *m;
	enum role role;
	int stop_fd;
	const PGresult *steps;
	int end;
	_Atomic int next;
	_Atomic bool has_failed;
	pthread_mutex_t lock;
	struct fault fault;          /* the first one */
};

static const char *step_text(const struct build *b, int step, int column)
{
	return PQgetvalue(b->steps, step, column);
}

static bool is_there(PGconn *conn, const char *sql, bool *ret, struct fault *f)
{
	PGresult *r = pg_query(conn, f, sql);

	*ret = r && PQgetvalue(r, 0, 0)[0] == 't';
	PQclear(r);
	return r != NULL;
}

/* One transaction: the statements, and the row by which a run that goes on finds what to drop. A constraint takes
 * the row of the index that it was made of. */
static void write_transaction(const struct build *b, int step, struct buf *out)
{
	if (PQgetisnull(b->steps, step, STEP_KIND)) {
		buf_printf(out, "BEGIN;%s;ROLLBACK", step_text(b, step, STEP_SQL));
		return;
	}
	buf_printf(out, "BEGIN;%s;INSERT INTO foreshadow.late (migration, rank, kind, table_schema, table_name, name, seconds)"
			" VALUES (", step_text(b, step, STEP_SQL));
	pg_quote_literal(out, span_str(b->m->name));
	buf_printf(out, ",%s", step_text(b, step, STEP_RANK));
	for (int column = STEP_KIND; column <= STEP_NAME; column++) {
		buf_str(out, ",");
		pg_quote_literal(out, span_str(step_text(b, step, column)));
	}
	buf_str(out, ",extract(epoch FROM clock_timestamp() - transaction_timestamp()))"
		     " ON CONFLICT (migration, table_schema, table_name, name) DO UPDATE SET kind = excluded.kind,"
		     " rank = excluded.rank, seconds = foreshadow.late.seconds + excluded.seconds;COMMIT");
}

/* Does every partition contain the same transactions? Else a duplicate may be one of a moment. */
static bool is_aligned(PGconn *conn, const struct migration *m)
{
	struct fault ignored = { 0 };
	const char *values[] = { m->name, m->changes_topic };
	PGresult *r = pg_query_params(conn, &ignored,
				      "SELECT max(commit_lsn) < min(barrier_lsn) FROM foreshadow.progress"
				      " WHERE migration = $1 AND topic = $2",
				      2, values);
	bool is = r && PQgetvalue(r, 0, 0)[0] == 't';

	PQclear(r);
	return is;
}

/* Of a statement that the data or the catalog refuses: a person must decide. */
static bool refused(const struct build *b, PGconn *conn, int step, struct fault *f)
{
	bool is_duplicate = strcmp(f->sqlstate, "23505") == 0;
	char what[600];

	snprintf(what, sizeof(what), "the %s: %s %s of %s.%s %s", role_traits(b->role)->name,
		 step_text(b, step, STEP_WHAT), step_text(b, step, STEP_NAME), step_text(b, step, STEP_SCHEMA),
		 step_text(b, step, STEP_TABLE),
		 PQgetisnull(b->steps, step, STEP_KIND) ? "does not hold" : "cannot be built");
	if (f->kind != FAULT_ENVIRONMENT) {
		char seen[900];
		snprintf(seen, sizeof(seen), "%.899s", f->text);
		fault(f, FAULT_STOP, "%s; %s, then run again with --until", seen,
		      !is_duplicate ? "make the target accept it"
		      : is_aligned(conn, b->m)
			      ? "the source has no such rows, or could not have the index: remove the duplicates on the target"
			      : "the source went on writing, so the target's partitions stand at different places: let it rest");
	}
	return fault_in(f, "%s", what);
}

static bool run_step(struct build *b, PGconn *conn, int step, struct fault *f)
{
	const char *what = step_text(b, step, STEP_WHAT), *name = step_text(b, step, STEP_NAME);
	const char *schema = step_text(b, step, STEP_SCHEMA), *table = step_text(b, step, STEP_TABLE);
	int64_t began_us = clock_us();
	char slow[400];
	struct buf sql;
	bool has;

	if (!is_there(conn, step_text(b, step, STEP_IS_THERE), &has, f))
		return false;
	if (has) {
		log_info("%s is there already name=%s table=%s.%s", what, name, schema, table);
		return true;
	}
	snprintf(slow, sizeof(slow), "building %s %s of %s.%s", what, name, schema, table);
	buf_init(&sql, SQL_BYTES);
	write_transaction(b, step, &sql);
	PGresult *r = buf_failed(&sql) ? NULL : pg_query_until(conn, buf_cstr(&sql), b->stop_fd, slow, f);
	bool ok = r != NULL || (buf_failed(&sql) && fault(f, FAULT_INTERNAL, "%s: too long", slow));
	PQclear(r);
	buf_release(&sql);
	if (ok)
		log_info("%s %s name=%s table=%s.%s seconds=%.2f", what,
			 PQgetisnull(b->steps, step, STEP_KIND) ? "holds" : "built", name, schema, table,
			 (double)(clock_us() - began_us) / 1e6);
	else if (PQstatus(conn) == CONNECTION_OK)
		pg_do(conn, NULL, "ROLLBACK");
	failpoint("late.built");
	return ok || refused(b, conn, step, f);
}

static void take_fault(struct build *b, const struct fault *f)
{
	pthread_mutex_lock(&b->lock);
	if (!atomic_exchange(&b->has_failed, true))
		b->fault = *f;
	pthread_mutex_unlock(&b->lock);
	log_error("%s", f->text);
}

/* Goes on after an index that was refused: one run shows all that are. */
static void *build_main(void *arg)
{
	struct build *b = arg;
	struct fault f = { 0 };
	PGconn *conn;

	log_thread(role_traits(b->role)->name);
	conn = pg_connect(migration_target(b->m, b->role), PG_PLAIN, b->m->slot, &f);
	if (!conn)
		take_fault(b, &f);
	for (int step; conn && (step = atomic_fetch_add(&b->next, 1)) < b->end;) {
		fault_reset(&f);
		if (run_step(b, conn, step, &f))
			continue;
		take_fault(b, &f);
		if (f.kind == FAULT_ENVIRONMENT)
			break;
	}
	pg_close(&conn);
	return NULL;
}

/* The steps of one rank, first to b->end. */
static void build_rank(struct build *b, int first, bool is_parallel)
{
	pthread_t threads[JOBS_MAX];
	int jobs = is_parallel ? b->m->copy_jobs : 1, n = 0;

	atomic_store(&b->next, first);
	if (jobs > b->end - first)
		jobs = b->end - first;
	while (n < jobs && n < JOBS_MAX && pthread_create(&threads[n], NULL, build_main, b) == 0)
		n++;
	if (n == 0)
		build_main(b);
	for (int i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
}

static bool build_steps(const struct migration *m, enum role role, const PGresult *steps, int stop_fd, struct fault *f)
{
	struct build b = { .m = m, .role = role, .stop_fd = stop_fd, .steps = steps };
	int n = PQntuples(steps);

	pthread_mutex_init(&b.lock, NULL);
	for (int first = 0; first < n && !b.has_failed; first = b.end) {
		int64_t rank = pg_i64(steps, first, STEP_RANK);
		for (b.end = first; b.end < n && pg_i64(steps, b.end, STEP_RANK) == rank;)
			b.end++;
		/* Foreign keys lock two tables each, and could lock them crosswise. */
		build_rank(&b, first, rank < 1000);
	}
	pthread_mutex_destroy(&b.lock);
	if (b.has_failed)
		*f = b.fault;
	return !b.has_failed;
}

static bool build_indexes(const struct migration *m, enum role role, const struct schema_scope *scope, PGconn *target,
			  int stop_fd, struct fault *f)
{
	bool has_triggers = false;
	struct model model = { 0 };
	PGresult *steps = NULL;

	if (!schema_triggers_read(target, m, &has_triggers, f))
		return false;
	if (model_open(&model, m, role, target, scope, false, stop_fd, f))
		steps = pg_query_params(model.conn, f, steps_sql, 3,
					(const char *const[]) { model.oids.scope, model.oids.late,
								has_triggers ? "t" : "f" });
	bool ok = model_close(&model, m, role, target, steps ? f : NULL) && steps && build_steps(m, role, steps, stop_fd, f);
	PQclear(steps);
	return ok;
}

/* ---- foreign keys that only the target has ---- */

/* Those of the tables $1 (schemas), $2 (names), each with its table, as one text. */
static const char known_keys_sql[] =
	"SELECT format('%I.%I ', n.nspname, t.relname) || pg_get_constraintdef(k.oid) FROM pg_constraint k"
	" JOIN pg_class t ON t.oid = k.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace"
	" WHERE k.contype = 'f' AND k.conparentid = 0 AND (n.nspname, t.relname) IN"
	" (SELECT * FROM unnest($1::text[], $2::text[]))";

/* Steps (see steps_sql) without a kind: tried and taken back. Not those in $3. */
static const char key_steps_sql[] =
	"SELECT 1000, 'foreign key', NULL, n.nspname, t.relname, k.conname,"
	"  format('ALTER TABLE %I.%I ADD CONSTRAINT foreshadow_holds %s', n.nspname, t.relname, d), 'SELECT false'"
	" FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace,"
	" LATERAL pg_get_constraintdef(k.oid) d"
	" WHERE k.contype = 'f' AND k.conparentid = 0 AND k.convalidated AND (n.nspname, t.relname) IN"
	" (SELECT * FROM unnest($1::text[], $2::text[]))"
	" AND format('%I.%I ', n.nspname, t.relname) || d <> ALL ($3::text[]) ORDER BY 4, 5, 6";

static bool known_keys(const struct migration *m, const char *const *names, struct buf *out, struct fault *f)
{
	PGconn *source = pg_connect(&m->source, PG_PLAIN, m->slot, f);
	PGresult *r = source ? pg_query_params(source, f, known_keys_sql, 2, names) : NULL;

	pg_array_begin(out);
	for (int i = 0; r && i < PQntuples(r); i++)
		pg_array_add(out, pg_value(r, i, 0));
	pg_array_end(out);
	PQclear(r);
	pg_close(&source);
	return r != NULL;
}

static bool validate_keys(const struct migration *m, enum role role, const struct schema_scope *scope, PGconn *target,
			  int stop_fd, struct fault *f)
{
	struct buf lists[5];         /* schemas and tables on the source, on the target; keys of the source */
	PGresult *steps = NULL;

	for (size_t i = 0; i < 5; i++)
		buf_init(&lists[i], NAMES_BYTES);
	for (size_t i = 0; i < 4; i++)
		pg_array_begin(&lists[i]);
	for (size_t i = 0; i < scope->count; i++) {
		const struct relation *rel = scope->relations[i];
		pg_array_add(&lists[0], rel->root_schema);
		pg_array_add(&lists[1], rel->root_table);
		pg_array_add(&lists[2], rel->target_schema);
		pg_array_add(&lists[3], rel->target_table);
	}
	for (size_t i = 0; i < 4; i++)
		pg_array_end(&lists[i]);
	const char *names[] = { buf_cstr(&lists[0]), buf_cstr(&lists[1]) };
	bool ok = known_keys(m, names, &lists[4], f);
	const char *values[] = { buf_cstr(&lists[2]), buf_cstr(&lists[3]), buf_cstr(&lists[4]) };
	if (ok)
		steps = pg_query_params(target, f, key_steps_sql, 3, values);
	ok = steps && build_steps(m, role, steps, stop_fd, f);
	PQclear(steps);
	for (size_t i = 0; i < 5; i++)
		buf_release(&lists[i]);
	return ok;
}

/* ---- public ---- */

/* Connections that are being closed are waited for. *ret_who: the instance that goes on, or "". */
static bool wait_for_others(PGconn *target, const struct migration *m, const char *instance, int stop_fd,
			    char ret_who[100], struct fault *f)
{
	int64_t end_us = clock_us() + OTHERS_MS * INT64_C(1000);
	const char *values[] = { m->name, instance };

	for (;;) {
		struct pollfd stop = { stop_fd, POLLIN, 0 };
		PGresult *r = pg_query_params(target, f,
					      "SELECT owner_instance FROM foreshadow.progress JOIN pg_stat_activity a"
					      " ON a.pid = owner_pid AND a.backend_start = owner_start"
					      " WHERE migration = $1 AND owner_instance <> $2 LIMIT 1",
					      2, values);
		if (!r)
			return false;
		snprintf(ret_who, 100, "%.99s", PQntuples(r) ? PQgetvalue(r, 0, 0) : "");
		PQclear(r);
		if (!*ret_who || clock_us() > end_us || poll(&stop, 1, OTHERS_POLL_MS) > 0)
			return true;
	}
}

static bool build_all(const struct migration *m, enum role role, const struct schema_scope *scope, PGconn *target,
		      int stop_fd, struct fault *f)
{
	return (m->schema == SCHEMA_EXISTS || build_indexes(m, role, scope, target, stop_fd, f)) &&
	       validate_keys(m, role, scope, target, stop_fd, f) && schema_state_write(target, m, "complete", f);
}

bool late_build(const struct migration *m, enum role role, const struct schema_scope *scope, const char *instance,
		int stop_fd, struct fault *f)
{
	const char *name = role_traits(role)->name;
	char state[SCHEMA_STATE_BYTES], who[100] = "";
	PGconn *target = pg_connect(migration_target(m, role), PG_PLAIN, m->slot, f);
	bool ok = target && wait_for_others(target, m, instance, stop_fd, who, f) && schema_state_lock(target, stop_fd, f) &&
		  schema_state_read(target, m, state, f);

	if (ok && *who)
		log_info("the %s: instance %s goes on, and builds what comes late when it ends with --until", name, who);
	else if (ok && strcmp(state, "finished") == 0)
		ok = build_all(m, role, scope, target, stop_fd, f);
	else if (ok && strcmp(state, "complete") != 0)
		log_info("the %s: what comes late is not built yet: copies are under way", name);
	pg_close(&target); /* gives the lock back */
	return ok;
}

/* Foreign keys, then indexes of partitioned tables with their parts, then the rest. */
static const char take_back_sql[] =
	"SELECT kind, format('%I.%I', table_schema, table_name), name, CASE kind"
	" WHEN 'trigger' THEN format('DROP TRIGGER IF EXISTS %I ON %I.%I', substr(name, 9), table_schema, table_name)"
	" WHEN 'rule' THEN format('DROP RULE IF EXISTS %I ON %I.%I', substr(name, 6), table_schema, table_name)"
	" WHEN 'constraint' THEN format('ALTER TABLE IF EXISTS %I.%I DROP CONSTRAINT IF EXISTS %I', table_schema,"
	"  table_name, name) ELSE format('DROP INDEX IF EXISTS %I.%I', table_schema, name) END"
	" FROM foreshadow.late WHERE migration = $1 ORDER BY rank DESC";

static bool take_back(PGconn *target, const struct migration *m, const PGresult *made, struct fault *f)
{
	const char *values[] = { m->name };
	bool ok = pg_do(target, f, "BEGIN");

	for (int i = 0; ok && i < PQntuples(made); i++) {
		ok = pg_do(target, f, PQgetvalue(made, i, 3));
		if (ok)
			log_info("late %s taken back until the end name=%s table=%s", PQgetvalue(made, i, 0),
				 PQgetvalue(made, i, 2), PQgetvalue(made, i, 1));
	}
	PGresult *r = ok ? pg_query_params(target, f, "DELETE FROM foreshadow.late WHERE migration = $1", 1, values) : NULL;
	ok = r && schema_state_write(target, m, "finished", f) && pg_do(target, f, "COMMIT");
	PQclear(r);
	return ok || fault_in(f, "taking back what an earlier run built at its end");
}

bool late_take_back(PGconn *target, const struct migration *m, struct fault *f)
{
	const char *values[] = { m->name };
	char state[SCHEMA_STATE_BYTES];
	PGresult *made = pg_query_params(target, f, take_back_sql, 1, values);
	bool ok = made && schema_state_read(target, m, state, f);

	if (ok && (PQntuples(made) > 0 || strcmp(state, "complete") == 0))
		ok = take_back(target, m, made, f);
	PQclear(made);
	return ok;
}
