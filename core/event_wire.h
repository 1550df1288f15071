// SPDX-License-Identifier: Apache-2.0
/*
 * event_wire - the head's bytes, which start every record of ours. Used by event.c and codec.c.
 *
 *   generation long · ordinal long · op string · source {commit_lsn long, seq long, lsn long,
 *   txId long, ts_us long, snapshot boolean} · boundary long · attempt int
 *
 * LSNs travel as the long with the same bits; what counts (generation, ordinal, seq, txId, attempt)
 * is never negative. schema_head_json (schema_json.h) says the same to Avro.
 */
#ifndef CORE_EVENT_WIRE_H
#define CORE_EVENT_WIRE_H

#include "core/avro.h"
#include "core/event.h"

enum { EVENT_HEAD_MAX_BYTES = 9 * AVRO_LONG_BYTES + 2 + 1 };

static inline char *event_head_put(char *p, const struct event_head *h, char op)
{
	p = avro_put_long(p, (int64_t)h->generation);
	p = avro_put_long(p, (int64_t)h->ordinal);
	*p++ = 2; /* a string of 1 */
	*p++ = op;
	p = avro_put_long(p, (int64_t)h->position.commit.v);
	p = avro_put_long(p, (int64_t)h->position.seq);
	p = avro_put_long(p, (int64_t)h->lsn);
	p = avro_put_long(p, h->xid);
	p = avro_put_long(p, h->ts_us);
	*p++ = op == 'r' || op == 'e';
	p = avro_put_long(p, (int64_t)h->boundary.v);
	return avro_put_long(p, h->attempt);
}

#endif
