// SPDX-License-Identifier: Apache-2.0
/*
 * hold - records of one partition that go to librdkafka together.
 *
 * librdkafka makes a batch of what is in a partition's queue when its linger ends, and a batch
 * costs the broker and every consumer about as much whether it has ten records or a thousand. While
 * little happens nothing is held. When records come fast they are held for a while, so that a batch
 * has hundreds: hold_next_us says how long, from how many were there the last time.
 *
 * Pure. Thread: ingest.
 */
#ifndef INGEST_HOLD_H
#define INGEST_HOLD_H

#include "core/buf.h"

enum {
	HOLD_BYTES = 64 * 1024,        /* a partition that has this much is handed over */
	HOLD_RECORD_BYTES = 16 * 1024, /* a larger record is not worth holding */
	HOLD_FIRST_US = 1000,
	HOLD_LAST_US = 20 * 1000,
	HOLD_BUSY_RECORDS = 16, /* of a partition, on average: worth waiting for more */
};

struct hold {
	struct buf bytes;
	size_t at; /* of the record in front */
};

struct held {
	struct span key, record; /* key.p NULL: none */
	uint64_t number;         /* the caller's */
};

void hold_init(struct hold *h);
void hold_release(struct hold *h);
/* Copies it. False: no memory, and nothing was added. */
bool hold_add(struct hold *h, const struct held *r);
/* The record in front, if there is one. It stays until hold_shift. */
bool hold_front(const struct hold *h, struct held *ret);
void hold_shift(struct hold *h);

/* How long records may be held from now on, when hold_us has brought `records` together. */
uint32_t hold_next_us(uint32_t hold_us, size_t records, int partition_count);

#endif
