// SPDX-License-Identifier: Apache-2.0
/*
 * counts - how many records of each table a batch takes its partitions over: the target's side of the balance.
 *
 * Every record with an ordinal counts once, in its partition, for its table (an event of several tables: the
 * first), so that the sum over a partition's tables is its ordinal:
 *
 *   applied  a change that went into a plan; an exclusive event, in the partition whose row moves when it runs
 *   covered  a change that the table's copy has
 *   passed   an exclusive event that ran in another partition's name
 *
 * What is applied is counted where it is planned, not where it is collected: a record that is lost in between is
 * missing here. The others are noted where they are collected, by their ordinals (struct count_notes): a batch sums up
 * what lies between its two places, so whatever was collected and given up before does not count.
 *
 * Pure. Thread: the lane's.
 */
#ifndef SHADOW_COUNTS_H
#define SHADOW_COUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct count {
	int partition;
	uint32_t oid; /* on the source */
	uint64_t applied, covered, passed;
};

struct counts { /* begins as all zero */
	struct count *rows;
	size_t count, cap;
	uint32_t *slots; /* 0: free, else 1 + index of a row */
	size_t slot_count;
};

void counts_release(struct counts *c);
void counts_reset(struct counts *c);
/* The row, made if there is none. Valid until the next call. NULL: no memory. */
struct count *counts_at(struct counts *c, int partition, uint32_t oid);

/* Records of one partition that are not applied, in runs of ordinals that follow each other. */
struct count_run {
	uint64_t first;
	uint32_t n, oid;
	bool is_passed; /* else covered */
};
struct count_notes { /* begins as all zero */
	struct count_run *runs;
	size_t count, cap;
};

void count_notes_release(struct count_notes *notes);
/* This ordinal is being collected: what was noted of it and of later ones is of an earlier attempt. */
void count_notes_reach(struct count_notes *notes, uint64_t ordinal);
/* After count_notes_reach. False: no memory. */
bool count_notes_add(struct count_notes *notes, uint64_t ordinal, uint32_t oid, bool is_passed);
/* Ordinals above `above`, up to `to`. False: no memory. */
bool count_notes_sum(const struct count_notes *notes, uint64_t above, uint64_t to, int partition, struct counts *ret);
/* Forgets ordinals up to this one. */
void count_notes_forget(struct count_notes *notes, uint64_t to);

#endif
