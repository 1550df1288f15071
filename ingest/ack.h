// SPDX-License-Identifier: Apache-2.0
/*
 * ack - which boundary may the source forget?
 *
 * Every message of <m>.changes gets a number in its partition, 1, 2, ... (ack_sent), and is
 * delivered once (ack_delivered). An idempotent producer reports the messages of a partition in
 * order; a report out of order means that the producer lost track, and the generation must end.
 * ack_barrier(X) says: all that belongs to X has been sent, and so has the barrier itself.
 * ack_confirmed() is the newest such X for which every partition has everything sent until then,
 * which includes all barriers before it. It never moves back, and nothing else may be told to the
 * source: not what was received, not a keepalive, not the newest report.
 *
 * Pure. Thread: ingest.
 */
#ifndef INGEST_ACK_H
#define INGEST_ACK_H

#include "core/fault.h"
#include "core/lsn.h"

struct ack;

/* At most barrier_max barriers are outstanding. NULL when out of memory. */
struct ack *ack_new(int partition_count, size_t barrier_max, struct boundary confirmed);
void ack_free(struct ack *a);

/* The number of the message that is sent to this partition now. */
uint64_t ack_sent(struct ack *a, int partition);
/* The newest message of this partition was not sent after all. */
void ack_unsent(struct ack *a, int partition);
bool ack_delivered(struct ack *a, int partition, uint64_t number, struct fault *f);

/* False when barrier_max are outstanding: do not send one now. */
bool ack_has_room(const struct ack *a);
/* x is greater than that of every barrier before; needs ack_has_room. */
void ack_barrier(struct ack *a, struct boundary x);

struct boundary ack_confirmed(const struct ack *a);
/* Remembers what is sent now (one mark at a time); has all of that been delivered? */
void ack_mark(struct ack *a);
bool ack_mark_reached(const struct ack *a);
/* Messages sent and not delivered, over all partitions. */
uint64_t ack_outstanding(const struct ack *a);
/* Messages delivered, over all partitions. */
uint64_t ack_total(const struct ack *a);

#endif
