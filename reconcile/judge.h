// SPDX-License-Identifier: Apache-2.0
/*
 * judge - suspect keys of one table and target: which of them really differ?
 *
 * In rounds. Each reads the suspects' rows on the source in a snapshot S, waits until the target contains
 * S, reads their rows there together with the places of its partitions, reads the stream up to those
 * places, and lets verdict decide. What is to be judged later goes into the next round. The tail must have
 * been watching the table since before the suspects were found.
 *
 * Failpoints, to show what each part is good for: judge.hasty (what differs is a difference), judge.settled
 * (old transactions are not waited for). judge.refused: the target refuses to be asked, in a transaction.
 *
 * Thread: the connections'.
 */
#ifndef RECONCILE_JUDGE_H
#define RECONCILE_JUDGE_H

#include "reconcile/digest.h"
#include "reconcile/ends.h"

/* A difference that is certain. Texts are of the digest's columns, absent for NULL. */
struct difference {
	const struct digest *digest;
	enum role role;
	struct span key;                    /* digest.h */
	int64_t source_count, target_count; /* rows; 0: there is none */
	const struct span *source, *target; /* NULL: there is no row */
	const bool *is_explained;           /* columns that differ by what is under way; NULL: none */
	enum verdict_hop hop;
	struct span writer, written_at;     /* of the target's row, as digest_rows has them; absent: unknown */
	uint64_t since_lsn;                 /* of the last change that the stream knows of; 0: none */
};

struct judge {
	struct ends *ends;
	const struct digest *digest;
	enum role role;
	struct digest_range range;
	struct span near[2]; /* by server: conditions that find the keys in an index, or absent */
	int64_t seed;
	struct ends_moment since; /* taken after the tail began to watch */
	struct span copies;       /* ends_copies before that: all live */
	void (*found)(void *arg, const struct difference *d);
	void (*open)(void *arg, struct span key); /* could not be judged; may be NULL */
	void *arg;
	size_t found_count, explained_count, open_count; /* open: could not be judged */
	size_t bytes; /* that the last keys' rows took, in the round that took most */
};

/* "missing", "extraneous", "mismatch"; "source to stream", "stream to target", or NULL where it is not known. */
const char *difference_kind(const struct difference *d);
const char *difference_hop(const struct difference *d);

enum { JUDGE_BATCH = 4000 };

/* At most JUDGE_BATCH keys. False: a server or Kafka. */
bool judge_keys(struct judge *j, const struct span *keys, size_t n, struct fault *f);

#endif
