// SPDX-License-Identifier: Apache-2.0
#include "ingest/hold.h"

/* In front of each record's key and value. */
struct hold_head {
	uint64_t number;
	uint32_t key_bytes, record_bytes;
	bool has_key;
};

enum { HOLD_MAX_BYTES = HOLD_BYTES + 2 * HOLD_RECORD_BYTES };

void hold_init(struct hold *h)
{
	*h = (struct hold) { .count = 0 };
	buf_init(&h->bytes, HOLD_MAX_BYTES);
}

void hold_release(struct hold *h)
{
	buf_release(&h->bytes);
}

void hold_reset(struct hold *h)
{
	buf_reset(&h->bytes);
	h->count = 0;
}

bool hold_add(struct hold *h, const struct held *r)
{
	const struct hold_head head = { .number = r->number,
					.key_bytes = (uint32_t)r->key.n,
					.record_bytes = (uint32_t)r->record.n,
					.has_key = r->key.p != NULL };
	size_t begin = h->bytes.n;

	buf_add(&h->bytes, &head, sizeof(head));
	buf_add_span(&h->bytes, r->key);
	buf_add_span(&h->bytes, r->record);
	if (buf_failed(&h->bytes)) {
		h->bytes.n = begin;
		h->bytes.failed = false;
		return false;
	}
	h->count++;
	return true;
}

bool hold_next(const struct hold *h, size_t *at, struct held *ret)
{
	const char *p = h->bytes.p + *at;
	struct hold_head head;

	if (*at == h->bytes.n)
		return false;
	memcpy(&head, p, sizeof(head));
	p += sizeof(head);
	ret->number = head.number;
	ret->key = head.has_key ? span(p, head.key_bytes) : (struct span) { 0 };
	ret->record = span(p + head.key_bytes, head.record_bytes);
	*at += sizeof(head) + head.key_bytes + head.record_bytes;
	return true;
}

uint32_t hold_next_us(uint32_t hold_us, size_t records, int partition_count)
{
	uint32_t next;

	if (records < (size_t)partition_count * HOLD_BUSY_RECORDS)
		return hold_us / 2 < HOLD_FIRST_US ? 0 : hold_us / 2;
	next = hold_us ? hold_us * 2 : HOLD_FIRST_US;
	return next > HOLD_LAST_US ? HOLD_LAST_US : next;
}
