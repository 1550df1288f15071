// SPDX-License-Identifier: Apache-2.0
/*
 * source - the source server as ingest meets it: identity, slot, publication and the walsender stream.
 *
 * struct source is one replication connection (it also runs plain SQL until source_start). Functions
 * that take a PGconn want a plain connection made by the caller: they may be called while the
 * stream runs.
 *
 * Legal order: source_new · source_slot_create (new slot) · source_start · source_receive and
 * source_feedback as often as wanted · source_free. The publication must exist before the slot: the
 * slot's decoding looks it up as of each transaction.
 *
 * Thread: one. Nothing here blocks once source_start has returned.
 */
#ifndef INGEST_SOURCE_H
#define INGEST_SOURCE_H

#include "core/arena.h"
#include "core/lsn.h"
#include "core/migration.h"

struct source_identity {
	uint64_t system_id;
	uint32_t timeline;
	const char *database;
	uint64_t wal_position;       /* the server's flush position when asked */
	int version_num;             /* 150005 */
	int wal_sender_timeout_ms;   /* 0: off. Feedback is due well before half of it */
};

struct source;

/* Connects and reads the identity. */
struct source *source_new(const struct migration *m, struct fault *f);
void source_free(struct source *s);
const struct source_identity *source_identify(const struct source *s);
/* The walsender's pid: what the slot's active_pid must be. */
int source_pid(const struct source *s);
/* For poll(2); wants_write: feedback is still buffered, poll for POLLOUT and call source_flush. */
int source_fd(const struct source *s);
bool source_wants_write(const struct source *s);
bool source_flush(struct source *s, struct fault *f);

/* Version 14 to 18, a primary, wal_level=logical, the role's REPLICATION right: FAULT_STOP with the next
 * step. Free slots and walsenders are not counted: the server says so itself. */
bool source_check(PGconn *plain, struct fault *f);

struct source_slot {
	bool exists;
	int active_pid;              /* 0: nobody */
	const char *plugin, *database;
	const char *wal_status;      /* reserved, extended, unreserved, lost; "" when unknown */
	bool is_logical, is_temporary;
	struct boundary confirmed_flush;
	uint64_t restart_lsn;
	int64_t retained_bytes;      /* WAL the slot holds back */
	int64_t safe_wal_size;       /* bytes until it is lost; -1: no limit */
};
/* Strings live in a. */
bool source_slot_state(PGconn *plain, const char *slot, struct arena *a, struct source_slot *ret,
		       struct fault *f);
/* The migration's slot (pgoutput, no snapshot). Waits until the transactions running now have ended, or
 * stop_fd (-1: none) is readable: FAULT_ENVIRONMENT, and no slot is left. */
bool source_slot_create(struct source *s, int stop_fd, struct boundary *ret_point,
			struct fault *f);
/* Drops the slot if it exists. Active: FAULT_STOP that names slot, pid and the next step. */
bool source_slot_drop(PGconn *plain, const char *slot, struct fault *f);

struct source_table {
	struct span schema, table;
};
/* Makes the publication have exactly these tables (ONLY each) and our options; altered in place where
 * it exists, never dropped and made again. Waits for locks on the tables until stop_fd (-1: none) is
 * readable. */
bool source_publication_ensure(PGconn *plain, const char *publication,
			       const struct source_table *tables, size_t n, int stop_fd,
			       struct fault *f);
bool source_publication_drop(PGconn *plain, const char *publication, struct fault *f);

/* Emits a non-transactional logical message with our prefix and sees to it that it reaches the stream on
 * an idle server too; ret_lsn is its end: everything committed before the call, with synchronous_commit=off
 * too, is before it. What "caught up" is measured against. */
bool source_emit(PGconn *plain, const char *content, uint64_t *ret_lsn, struct fault *f);
#define SOURCE_PREFIX "foreshadow"
/* The server's flush position, for lag: reading it writes nothing. */
bool source_wal_position(PGconn *plain, uint64_t *ret_lsn, struct fault *f);

/* START_REPLICATION from the slot's confirmed_flush. The slot being active elsewhere: FAULT_STOP with pid
 * and sqlstate 55006 (a walsender whose client was killed goes away by itself: a caller may wait a little);
 * the connection can be used for another try. */
bool source_start(struct source *s, bool binary, struct fault *f);

enum source_got { SOURCE_NOTHING, SOURCE_DATA, SOURCE_KEEPALIVE, SOURCE_FAILED };
struct source_message {
	uint64_t lsn;                /* DATA: WAL position of the message */
	uint64_t wal_end;            /* KEEPALIVE: sent up to here; DATA: the server's current end */
	struct span payload;         /* DATA: one pgoutput message; valid until the next source_receive */
	bool reply_requested;        /* KEEPALIVE */
};
/* Never blocks. NOTHING: all that the socket held was given. FAILED also when the server ended the
 * stream (shutdown: FAULT_ENVIRONMENT). */
enum source_got source_receive(struct source *s, struct source_message *ret, struct fault *f);
/* write = flush = apply = x. Never blocks: what the socket does not take now waits for source_flush. */
bool source_feedback(struct source *s, struct boundary x, bool want_reply, struct fault *f);
/* For how long it is worth to let more of the stream pile up, after a look that brought so many messages. 0 unless it
 * comes from this host by TCP and there is much of it. */
int source_rest_ms(const struct source *s, int messages);
/* Late: source_fd is readable when the socket holds a good deal (some 16 to 48 KiB), not at the first byte. */
void source_wake_late(struct source *s, bool is_late);

/*
 * An exact pair of snapshot and boundary, from a temporary slot on a connection of its own. The snapshot
 * can be imported (SET TRANSACTION SNAPSHOT) until source_point_release; the slot holds WAL as long.
 * stop_fd as in source_slot_create.
 */
struct source_point {
	PGconn *conn;
	struct boundary point;
	char *snapshot;
};
bool source_point_init(struct source_point *p, const struct migration *m, int stop_fd,
		       struct fault *f);
void source_point_release(struct source_point *p);

#endif
