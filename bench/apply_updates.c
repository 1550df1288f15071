// SPDX-License-Identifier: Apache-2.0
/*
 * apply_updates - updates of random existing rows, our way and the way one would do it by hand.
 *
 *     apply_updates ours|peer CONNINFO ROWS UPDATES BATCH
 *
 * ours: plan and apply (unnest arrays, one pipeline a batch); peer: one prepared UPDATE per change, pipelined,
 * one commit a batch. Both set the same columns of table public.bench to the same values. Prints one JSON
 * line: changes, seconds, cpu_seconds of this process.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "core/clock.h"
#include "shadow/apply.h"

enum { COLUMNS = 6 };

struct work {
	PGconn *conn;
	uint64_t rows, updates, batch, seed;
};

/* Rows of a batch are distinct, so that ours has nothing to merge away. */
static uint64_t pick(struct work *w, uint64_t i)
{
	return (i * 7919 + w->seed) % w->rows + 1;
}

static void fill(struct value row[COLUMNS], uint64_t id, char texts[2][64])
{
	snprintf(texts[0], 64, "%032" PRIx64, id * 0x9e3779b97f4a7c15u);
	snprintf(texts[1], 64, "updated row %028" PRIu64, id);
	row[0] = (struct value) { .state = VALUE_IS_NATIVE, .i = (int64_t)id };
	row[1] = (struct value) { .state = VALUE_IS_NATIVE, .i = (int64_t)(id % 1000) };
	row[2] = (struct value) { .state = VALUE_IS_NATIVE, .bytes = span_str(texts[0]) };
	row[3] = (struct value) { .state = VALUE_IS_TEXT, .bytes = span_str("1234.56") };
	row[4] = (struct value) { .state = VALUE_IS_NATIVE, .i = 1700000000000000 };
	row[5] = (struct value) { .state = VALUE_IS_NATIVE, .bytes = span_str(texts[1]) };
}

static const struct relation *bench_relation(void)
{
	static struct column columns[COLUMNS];
	static const struct {
		const char *name;
		uint32_t oid;
		int32_t typmod;
		const char *type;
	} defs[COLUMNS] = {
		{ "id", 20, -1, "bigint" },          { "n", 23, -1, "integer" },
		{ "a", 25, -1, "text" },             { "amount", 1700, ((12 << 16) | 2) + 4, "numeric" },
		{ "at", 1184, -1, "timestamp with time zone" }, { "b", 25, -1, "text" },
	};
	static struct relation rel;

	for (size_t i = 0; i < COLUMNS; i++)
		columns[i] = (struct column) {
			.name = span_str(defs[i].name), .target = span_str(defs[i].name), .type_oid = defs[i].oid, .typmod = defs[i].typmod,
			.type_name = span_str(defs[i].type),
			.type = value_type_of(defs[i].oid, defs[i].typmod, false),
			.is_key = i == 0, .is_identity = i == 0,
		};
	rel = (struct relation) {
		.oid = 1, .version = 1, .schema = span_str("public"), .table = span_str("bench"),
		.root_schema = span_str("public"), .root_table = span_str("bench"),
		.target_schema = span_str("public"), .target_table = span_str("bench"), .identity = 'd',
		.merge = true, .columns = columns, .column_count = COLUMNS, .key_count = 1,
	};
	return &rel;
}

static bool ours_batch(struct work *w, struct apply *apply, const struct target_table *table, struct plan *plan,
		       uint64_t from, uint64_t n, struct fault *f)
{
	struct value(*rows)[COLUMNS] = arena_alloc(plan->arena, n * sizeof(*rows));
	char(*texts)[2][64] = arena_alloc(plan->arena, n * sizeof(*texts));
	char(*keys)[64] = arena_alloc(plan->arena, n * sizeof(*keys));
	struct apply_failure failure;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t id = pick(w, from + i);
		fill(rows[i], id, texts[i]);
		int len = snprintf(keys[i], 64, "[\"public\",\"bench\",\"%" PRIu64 "\"]", id);
		struct plan_change ch = { .table = table, .op = 'u', .key = span(keys[i], (size_t)len),
					  .after = rows[i], .commit = { from + 1 } };
		if (!plan_add(plan, &ch, f))
			return false;
	}
	return plan_finish(plan, f) && apply_plan(apply, plan, NULL, 0, &failure, f);
}

static bool run_ours(struct work *w, struct fault *f)
{
	struct arena tables, batch;
	struct plan plan;
	struct apply *apply = apply_new();

	arena_init(&tables, 16 << 20);
	arena_init(&batch, 256 << 20);
	const struct target_table *table = target_read(w->conn, bench_relation(), &tables, f);
	bool ok = table && apply_start(apply, w->conn, f);
	plan_init(&plan, &batch);
	for (uint64_t done = 0; ok && done < w->updates; done += w->batch) {
		ok = ours_batch(w, apply, table, &plan, done, w->batch, f);
		plan_reset(&plan);
		arena_reset(&batch);
	}
	apply_free(apply);
	arena_release(&batch);
	arena_release(&tables);
	return ok;
}

static bool peer_results(struct work *w, uint64_t n, struct fault *f)
{
	for (uint64_t i = 0; i < n + 3; i++) { /* BEGIN, n updates, COMMIT, sync */
		PGresult *r = PQgetResult(w->conn);
		ExecStatusType status = PQresultStatus(r);
		PQclear(r);
		if (status != PGRES_COMMAND_OK && status != PGRES_PIPELINE_SYNC)
			return pg_fault(w->conn, NULL, f);
		if (status != PGRES_PIPELINE_SYNC)
			PQgetResult(w->conn); /* the NULL behind each */
	}
	return true;
}

static bool peer_batch(struct work *w, uint64_t from, uint64_t n, struct fault *f)
{
	PQsendQueryParams(w->conn, "BEGIN", 0, NULL, NULL, NULL, NULL, 0);
	for (uint64_t i = 0; i < n; i++) {
		uint64_t id = pick(w, from + i), be_id = htobe64(id);
		uint32_t be_n = htobe32((uint32_t)(id % 1000));
		uint64_t be_at = htobe64((uint64_t)(1700000000000000 - 946684800000000));
		struct value row[COLUMNS];
		char texts[2][64];
		fill(row, id, texts);
		const char *values[COLUMNS] = { (char *)&be_id, (char *)&be_n, texts[0], "1234.56", (char *)&be_at, texts[1] };
		const int lengths[COLUMNS] = { 8, 4, (int)strlen(texts[0]), 0, 8, (int)strlen(texts[1]) };
		const int formats[COLUMNS] = { 1, 1, 1, 0, 1, 1 };
		if (!PQsendQueryPrepared(w->conn, "u", COLUMNS, values, lengths, formats, 1))
			return pg_fault(w->conn, NULL, f);
	}
	PQsendQueryParams(w->conn, "COMMIT", 0, NULL, NULL, NULL, NULL, 0);
	return (PQpipelineSync(w->conn) || pg_fault(w->conn, NULL, f)) && peer_results(w, n, f);
}

static bool run_peer(struct work *w, struct fault *f)
{
	PGresult *r = PQprepare(w->conn, "u",
				"UPDATE public.bench SET n = $2, a = $3, amount = $4, at = $5, b = $6 WHERE id = $1", 0,
				NULL);
	bool ok = PQresultStatus(r) == PGRES_COMMAND_OK || pg_fault(w->conn, r, f);

	PQclear(r);
	ok = ok && PQenterPipelineMode(w->conn);
	for (uint64_t done = 0; ok && done < w->updates; done += w->batch)
		ok = peer_batch(w, done, w->batch, f);
	return ok;
}

static double cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv)
{
	struct fault f = { 0 };

	if (argc != 6) {
		fprintf(stderr, "usage: apply_updates ours|peer CONNINFO ROWS UPDATES BATCH\n");
		return 2;
	}
	struct work w = { .rows = strtoull(argv[3], NULL, 10), .updates = strtoull(argv[4], NULL, 10),
			  .batch = strtoull(argv[5], NULL, 10), .seed = 17 };
	const struct pg_server server = { .uri = argv[2], .name = "target" };
	w.conn = pg_connect(&server, PG_PLAIN, "bench", &f);
	bool ok = w.conn && pg_do(w.conn, &f, "SET synchronous_commit = off");
	int64_t start = clock_us();
	double cpu = cpu_seconds();
	if (ok)
		ok = strcmp(argv[1], "ours") == 0 ? run_ours(&w, &f) : run_peer(&w, &f);
	if (ok)
		printf("{\"changes\": %" PRIu64 ", \"seconds\": %.6f, \"cpu_seconds\": %.6f}\n", w.updates,
		       (double)(clock_us() - start) / 1e6, cpu_seconds() - cpu);
	else
		fprintf(stderr, "apply_updates: %s\n", f.text);
	pg_close(&w.conn);
	return ok ? 0 : 1;
}
