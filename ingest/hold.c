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
	h->at = 0;
	buf_init(&h->bytes, HOLD_MAX_BYTES);
}

void hold_release(struct hold *h)
{
	buf_release(&h->bytes);
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
	return true;
}

static struct hold_head head_at(const struct hold *h)
{
	struct hold_head head;

	memcpy(&head, h->bytes.p + h->at, sizeof(head));
	return head;
}

bool hold_front(const struct hold *h, struct held *ret)
{
	const char *p = h->bytes.p + h->at + sizeof(struct hold_head);
	struct hold_head head;

	if (h->at == h->bytes.n)
		return false;
	head = head_at(h);
	ret->number = head.number;
	ret->key = head.has_key ? span(p, head.key_bytes) : (struct span) { 0 };
	ret->record = span(p + head.key_bytes, head.record_bytes);
	return true;
}

void hold_shift(struct hold *h)
{
	struct hold_head head = head_at(h);

	h->at += sizeof(head) + head.key_bytes + head.record_bytes;
	if (h->at < h->bytes.n)
		return;
	buf_reset(&h->bytes);
	h->at = 0;
}

uint32_t hold_next_us(uint32_t hold_us, size_t records, int partition_count)
{
	uint32_t next;

	if (records < (size_t)partition_count * HOLD_BUSY_RECORDS)
		return hold_us / 2 < HOLD_FIRST_US ? 0 : hold_us / 2;
	next = hold_us ? hold_us * 2 : HOLD_FIRST_US;
	return next > HOLD_LAST_US ? HOLD_LAST_US : next;
}
