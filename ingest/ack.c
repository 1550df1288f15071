// SPDX-License-Identifier: Apache-2.0
#include "ingest/ack.h"

#include <assert.h>
#include <stdlib.h>

struct partition {
	uint64_t sent, delivered, marked;
};

/*
 * A ring of barriers. needed[slot * partition_count + p] is the number of the last message that was
 * sent to p when the barrier in this slot was complete. checked is how many partitions of the
 * oldest barrier are known to have got there, so that a report costs O(1) over time.
 */
struct ack {
	int partition_count, checked;
	size_t barrier_max, first, count;
	struct boundary confirmed, newest;
	uint64_t sent, delivered;
	struct partition *partitions;
	struct boundary *barriers;
	uint64_t *needed;
};

struct ack *ack_new(int partition_count, size_t barrier_max, struct boundary confirmed)
{
	struct ack *a = calloc(1, sizeof(*a));

	assert(partition_count > 0 && barrier_max > 0);
	if (!a)
		return NULL;
	a->partition_count = partition_count;
	a->barrier_max = barrier_max;
	a->confirmed = a->newest = confirmed;
	a->partitions = calloc((size_t)partition_count, sizeof(*a->partitions));
	a->barriers = calloc(barrier_max, sizeof(*a->barriers));
	a->needed = calloc(barrier_max * (size_t)partition_count, sizeof(*a->needed));
	if (a->partitions && a->barriers && a->needed)
		return a;
	ack_free(a);
	return NULL;
}

void ack_free(struct ack *a)
{
	if (!a)
		return;
	free(a->partitions);
	free(a->barriers);
	free(a->needed);
	free(a);
}

uint64_t ack_sent(struct ack *a, int partition)
{
	a->sent++;
	return ++a->partitions[partition].sent;
}

void ack_unsent(struct ack *a, int partition)
{
	assert(a->partitions[partition].sent > a->partitions[partition].delivered);
	a->sent--;
	a->partitions[partition].sent--;
}

static void advance(struct ack *a)
{
	while (a->count > 0) {
		const uint64_t *needed = a->needed + a->first * (size_t)a->partition_count;

		while (a->checked < a->partition_count &&
		       a->partitions[a->checked].delivered >= needed[a->checked])
			a->checked++;
		if (a->checked < a->partition_count)
			return;
		a->confirmed = a->barriers[a->first];
		a->first = (a->first + 1) % a->barrier_max;
		a->count--;
		a->checked = 0;
	}
}

bool ack_delivered(struct ack *a, int partition, uint64_t number, struct fault *f)
{
	struct partition *p;

	if (partition < 0 || partition >= a->partition_count)
		return fault(f, FAULT_INTERNAL, "delivery report for partition %d of %d", partition,
			     a->partition_count);
	p = &a->partitions[partition];
	if (number != p->delivered + 1 || number > p->sent)
		return fault(f, FAULT_ENVIRONMENT,
			     "partition %d: delivery report for message %llu out of order, wanted "
			     "%llu of %llu",
			     partition, (unsigned long long)number,
			     (unsigned long long)p->delivered + 1, (unsigned long long)p->sent);
	p->delivered++;
	a->delivered++;
	if (partition == a->checked)
		advance(a);
	return true;
}

bool ack_has_room(const struct ack *a)
{
	return a->count < a->barrier_max;
}

void ack_barrier(struct ack *a, struct boundary x)
{
	size_t slot = (a->first + a->count) % a->barrier_max;

	assert(ack_has_room(a));
	assert(boundary_cmp(x, a->newest) > 0);
	a->newest = a->barriers[slot] = x;
	for (int p = 0; p < a->partition_count; p++)
		a->needed[slot * (size_t)a->partition_count + (size_t)p] = a->partitions[p].sent;
	a->count++;
	advance(a);
}

struct boundary ack_confirmed(const struct ack *a)
{
	return a->confirmed;
}

void ack_mark(struct ack *a)
{
	for (int p = 0; p < a->partition_count; p++)
		a->partitions[p].marked = a->partitions[p].sent;
}

bool ack_mark_reached(const struct ack *a)
{
	for (int p = 0; p < a->partition_count; p++) {
		if (a->partitions[p].delivered < a->partitions[p].marked)
			return false;
	}
	return true;
}

uint64_t ack_outstanding(const struct ack *a)
{
	return a->sent - a->delivered;
}

uint64_t ack_total(const struct ack *a)
{
	return a->delivered;
}
