// SPDX-License-Identifier: Apache-2.0
/*
 * ingest_null - the ingest path without Kafka: receive, decode, route, encode, throw away.
 *
 *     ingest_null migration.yaml SLOT END_LSN
 *
 * Reads SLOT (made beforehand) until a transaction ends at or past END_LSN and prints one JSON line:
 * changes, bytes, seconds from the first message to the last.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/clock.h"
#include "ingest/catalog.h"
#include "ingest/route.h"
#include "ingest/source.h"

enum { POLL_MS = 3, PARTITIONS = 12 };

struct bench {
	struct arena catalog_arena, message_arena;
	struct catalog catalog;
	struct version *versions;
	struct framing *framing;
	struct route route;
	struct buf record;
	struct event_head head;
	uint64_t changes, bytes;
	int64_t first_us, last_us;
	struct boundary done;
};

static bool make_versions(struct bench *b, const struct migration *m, struct fault *f)
{
	PGconn *conn = pg_connect(&m->source, PG_PLAIN, "bench", f);
	bool ok = conn && catalog_read(conn, m, &b->catalog_arena, &b->catalog, f) &&
		  catalog_accept(&b->catalog, m, f);

	b->versions = calloc(b->catalog.relation_count + 1, sizeof(*b->versions));
	for (size_t i = 0; ok && i < b->catalog.relation_count; i++) {
		struct relation *rel = b->catalog.relations[i];
		struct buf json;
		buf_init(&json, 1 << 20);
		ok = codec_schema(m->name, rel, 0, &json, f) && codec_fingerprint(buf_span(&json), &rel->fingerprint, f);
		buf_release(&json);
		b->versions[i] = (struct version) {
			.rel = rel,
			.codec = ok ? codec_new(rel, f) : NULL,
			.before = calloc(rel->column_count, sizeof(struct value)),
			.after = calloc(rel->column_count, sizeof(struct value)),
		};
		ok = ok && b->versions[i].codec;
	}
	pg_close(&conn);
	return ok;
}

static const struct version *find(const struct bench *b, uint32_t oid)
{
	for (size_t i = 0; i < b->catalog.relation_count; i++)
		if (b->versions[i].rel->oid == oid)
			return &b->versions[i];
	return NULL;
}

static bool take_change(struct bench *b, const struct pgoutput *msg, char op, struct fault *f)
{
	const struct version *v = find(b, msg->change.oid);
	struct routed routed;
	struct route_source source = { op, msg->change.old_kind, msg->change.old.cells,
				       msg->change.has_new ? msg->change.new.cells : NULL };

	if (!v)
		return true;
	if (!route_change(&b->route, v, &source, &routed, f))
		return false;
	b->changes++;
	b->head.position.seq++;
	for (int i = 0; i < (routed.kind == ROUTED_TWO ? 2 : 1); i++) {
		buf_reset(&b->record);
		b->head.op = routed.records[i].op;
		b->head.ordinal = b->changes;
		b->head.fingerprint = v->rel->fingerprint;
		if (!codec_encode(v->codec, b->framing, &b->head, &routed.records[i].change, &b->record, f))
			return false;
		b->bytes += b->record.n;
	}
	return true;
}

static bool take(struct bench *b, const struct source_message *in, struct fault *f)
{
	struct pgoutput msg;

	arena_reset(&b->message_arena);
	if (!pgoutput_parse(in->payload, in->lsn, &b->message_arena, &msg, f))
		return false;
	switch (msg.kind) {
	case PGOUTPUT_BEGIN:
		b->head.position = (struct position) { msg.begin.commit, 0 };
		b->head.xid = msg.begin.xid;
		b->head.ts_us = msg.begin.ts_us;
		return true;
	case PGOUTPUT_COMMIT:
		b->done = msg.commit.end;
		return true;
	case PGOUTPUT_INSERT:
		return take_change(b, &msg, 'c', f);
	case PGOUTPUT_UPDATE:
		return take_change(b, &msg, 'u', f);
	case PGOUTPUT_DELETE:
		return take_change(b, &msg, 'd', f);
	case PGOUTPUT_RELATION:
	case PGOUTPUT_TYPE:
	case PGOUTPUT_TRUNCATE:
	case PGOUTPUT_MESSAGE:
	case PGOUTPUT_IGNORED:
		return true;
	}
	return true;
}

static bool drain(struct bench *b, struct source *s, uint64_t end_lsn, struct fault *f)
{
	int64_t feedback_due = 0;
	int count = 0;

	while (b->done.v < end_lsn) {
		struct source_message in;
		switch (source_receive(s, &in, f)) {
		case SOURCE_FAILED:
			return false;
		case SOURCE_DATA:
			if (!b->first_us)
				b->first_us = clock_us();
			if (!take(b, &in, f))
				return false;
			count++;
			continue;
		case SOURCE_KEEPALIVE:
			continue;
		case SOURCE_NOTHING:
			break;
		}
		if (clock_us() > feedback_due) {
			if (!source_feedback(s, b->done, false, f))
				return false;
			feedback_due = clock_us() + 1000000;
		}
		struct pollfd p = { source_fd(s), POLLIN | (source_wants_write(s) ? POLLOUT : 0), 0 };
		poll(NULL, 0, source_rest_ms(s, count)); /* as ingest does */
		count = 0;
		poll(&p, 1, POLL_MS);
		if (source_wants_write(s) && !source_flush(s, f))
			return false;
	}
	b->last_us = clock_us();
	return true;
}

int main(int argc, char **argv)
{
	struct bench b = { 0 };
	struct migration m;
	struct fault f = { 0 };
	struct source *s = NULL;
	uint64_t end_lsn;

	if (argc != 4 || !lsn_parse(span_str(argv[3]), &end_lsn)) {
		fprintf(stderr, "usage: ingest_null migration.yaml SLOT END_LSN\n");
		return 2;
	}
	arena_init(&b.catalog_arena, 64 << 20);
	arena_init(&b.message_arena, 64 << 20);
	buf_init(&b.record, 64 << 20);
	route_init(&b.route, PARTITIONS);
	b.framing = framing_new(FRAMING_SINGLE_OBJECT);
	b.head.kind = EVENT_CHANGE;
	bool ok = migration_read(&m, argv[1], &f);
	if (ok) {
		m.slot = argv[2];
		ok = make_versions(&b, &m, &f) && (s = source_new(&m, &f)) &&
		     source_start(s, catalog_binary_ok(&b.catalog), &f);
	}
	if (ok) {
		source_wake_late(s, true);
		ok = drain(&b, s, end_lsn, &f);
	}
	if (ok)
		printf("{\"changes\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"seconds\": %.6f}\n", b.changes, b.bytes,
		       (double)(b.last_us - b.first_us) / 1e6);
	else
		fprintf(stderr, "ingest_null: %s\n", f.text);
	source_free(s);
	return ok ? 0 : 1;
}
