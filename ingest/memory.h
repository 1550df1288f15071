// SPDX-License-Identifier: Apache-2.0
/*
 * memory - what ingest keeps in <m>.control besides relations: who the source is, and the copies.
 *
 * Keys and values are listed in docs/internals.md; ingest is the only writer of them.
 */
#ifndef INGEST_MEMORY_H
#define INGEST_MEMORY_H

#include "core/arena.h"
#include "core/control.h"
#include "core/lsn.h"

/* Waits up to timeout_ms and serves what must be served meanwhile. */
typedef bool (*memory_idle)(void *arg, int timeout_ms, struct fault *f);

struct memory {
	struct control *control;
	memory_idle idle;
	void *arg;
};

/*
 * Acknowledged when true. Tries as long as idle lets it, in slices between which the source hears
 * from us: a record given up here could still arrive after it was decided that it is not there.
 */
bool memory_put(const struct memory *m, const char *key, struct span value, struct fault *f);

struct memory_identity {
	uint64_t system_id;
	uint32_t timeline;
	const char *slot;
	bool has_slot_lsn; /* false: the slot is being made */
	struct boundary slot_lsn;
	int partition_count;
	const char *unique; /* unique: of the migration file when it began */
	uint64_t generation;
};
/* *ret_exists false: a new migration. Strings live in a. */
bool memory_identity_read(const struct memory *m, struct arena *a, bool *ret_exists,
			  struct memory_identity *ret, struct fault *f);
bool memory_identity_write(const struct memory *m, const struct memory_identity *id,
			   struct fault *f);

enum memory_copy_step { MEMORY_BEGIN, MEMORY_POINT, MEMORY_COMPLETE, MEMORY_VOID };
struct memory_copy { /* one attempt of one table */
	uint32_t oid, attempt;
	bool has[MEMORY_VOID + 1];
	struct boundary begin;
	uint64_t round;
};
/* Both may have been said: an ingest that was taken for dead completed what its successor had voided. */
static inline bool memory_copy_is_whole(const struct memory_copy *c)
{
	return c->has[MEMORY_COMPLETE] && !c->has[MEMORY_VOID];
}
struct memory_copies {
	struct memory_copy *copies; /* by oid, then attempt */
	size_t count;
};
bool memory_copies_read(const struct memory *m, struct arena *a, struct memory_copies *ret,
			struct fault *f);
bool memory_copy_begin(const struct memory *m, uint64_t generation, uint32_t oid, uint32_t attempt,
		       struct boundary at, uint64_t round, struct fault *f);
bool memory_copy_point(const struct memory *m, uint64_t generation, uint32_t oid, uint32_t attempt,
		       struct boundary point, struct fault *f);
bool memory_copy_complete(const struct memory *m, uint64_t generation, uint32_t oid,
			  uint32_t attempt, uint64_t records, struct fault *f);
bool memory_copy_void(const struct memory *m, uint64_t generation, uint32_t oid, uint32_t attempt,
		      const char *reason, struct fault *f);

#endif
