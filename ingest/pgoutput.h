// SPDX-License-Identifier: Apache-2.0
/*
 * pgoutput - the messages of PostgreSQL's logical replication plugin, protocol version 1, as structs.
 *
 * Pure: bytes in, struct out; spans point into the message, arrays live in the arena given. What an
 * array needs is bounded by the bytes that are left, never by a count somebody sent alone.
 *
 * Positions come as core/lsn.h's types; times as microseconds since 1970 UTC. An empty schema name on the
 * wire means pg_catalog and is given as that.
 */
#ifndef INGEST_PGOUTPUT_H
#define INGEST_PGOUTPUT_H

#include "core/lsn.h"
#include "core/value.h"

enum pgoutput_kind {
	PGOUTPUT_BEGIN, PGOUTPUT_COMMIT, PGOUTPUT_RELATION, PGOUTPUT_TYPE,
	PGOUTPUT_INSERT, PGOUTPUT_UPDATE, PGOUTPUT_DELETE, PGOUTPUT_TRUNCATE,
	PGOUTPUT_MESSAGE,   /* pg_logical_emit_message */
	PGOUTPUT_IGNORED,   /* origin; unsolicited stream abort */
};

struct pgoutput_column {
	bool is_identity;
	struct span name;
	uint32_t type_oid;
	int32_t typmod;
};

struct pgoutput_relation {
	uint32_t oid;
	struct span schema, table;
	char identity;          /* 'd' 'n' 'i' 'f' */
	struct pgoutput_column *columns;
	size_t column_count;
};

struct pgoutput_tuple {
	struct cell *cells;
	size_t count;
};

struct pgoutput_change {        /* INSERT, UPDATE, DELETE */
	uint32_t oid;
	char old_kind;          /* 'K' identity columns (the others are null), 'O' the whole old row, 0 none */
	bool has_new;
	struct pgoutput_tuple old, new;
};

struct pgoutput {
	enum pgoutput_kind kind;
	union {
		struct {
			struct commit_lsn commit;
			int64_t ts_us;
			uint32_t xid;
		} begin;
		struct {
			struct commit_lsn commit;
			struct boundary end;
			int64_t ts_us;
		} commit;
		struct pgoutput_relation relation;
		struct {
			uint32_t oid;
			struct span schema, name;
		} type;
		struct pgoutput_change change;
		struct {
			bool cascade, restart_identity;
			uint32_t *oids;
			size_t count;
		} truncate;
		struct {
			bool is_transactional;
			uint64_t lsn;
			struct span prefix, content;
		} message;
	};
};

/* lsn (the WAL position the message came with) is for the fault's text only. */
bool pgoutput_parse(struct span message, uint64_t lsn, struct arena *a, struct pgoutput *ret,
		    struct fault *f);

#endif
