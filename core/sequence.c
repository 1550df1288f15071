// SPDX-License-Identifier: Apache-2.0
#include "core/sequence.h"

#include <inttypes.h>
#include <stdio.h>

/* "16/B374D848 3" */
enum { POSITION_TEXT = LSN_TEXT + 21 };

static const char *position_format(struct position p, char *text)
{
	char lsn[LSN_TEXT];

	snprintf(text, POSITION_TEXT, "%s %" PRIu64, lsn_format(p.commit.v, lsn), p.seq);
	return text;
}

static enum sequence_verdict disagree(const struct sequence *s, const struct event_head *h,
				      struct fault *f)
{
	char ours[POSITION_TEXT], theirs[POSITION_TEXT];

	fault(f, FAULT_STOP,
	      "the record of ordinal %" PRIu64 " (generation %" PRIu64 ") is at position %s, but "
	      "ordinal %" PRIu64 " is at position %s here: the topic and this state disagree",
	      h->ordinal, h->generation, position_format(h->position, theirs), s->ordinal,
	      position_format(s->position, ours));
	return SEQUENCE_DISAGREE;
}

/* Only the record that opens the gap has something to say. */
static enum sequence_verdict gap(struct sequence *s, const struct event_head *h, struct fault *f)
{
	uint64_t next = h->kind == EVENT_BARRIER ? h->ordinal + 1 : h->ordinal;

	if (!s->has_gap && h->generation > s->generation)
		fault(f, FAULT_LOST,
		      "a record of generation %" PRIu64 " (ordinal %" PRIu64 ") without its fence: "
		      "the newest fence is of generation %" PRIu64,
		      h->generation, h->ordinal, s->generation);
	else if (!s->has_gap)
		fault(f, FAULT_LOST,
		      "a gap: ordinals %" PRIu64 "..%" PRIu64 " are missing (generation %" PRIu64
		      ")",
		      s->ordinal + 1, next - 1, h->generation);
	s->has_gap = true;
	return SEQUENCE_GAP;
}

/* Rule 3, for records, and for what barriers and bases say about the partition's last. */
static enum sequence_verdict known_ordinal(const struct sequence *s, const struct event_head *h,
					   struct fault *f)
{
	return position_cmp(h->position, s->position) <= 0 ? SEQUENCE_DUPLICATE : disagree(s, h, f);
}

/* Before ordinal 1 there is no record, and so no position to agree on. */
static bool carries_our_last(const struct sequence *s, const struct event_head *h)
{
	return h->ordinal == s->ordinal &&
	       (s->ordinal == 0 || position_cmp(h->position, s->position) == 0);
}

static enum sequence_verdict next_record(struct sequence *s, const struct event_head *h,
					 struct fault *f)
{
	if (s->has_gap || h->generation > s->generation || h->ordinal > s->ordinal + 1)
		return gap(s, h, f);
	if (h->ordinal <= s->ordinal)
		return known_ordinal(s, h, f);
	if (position_cmp(h->position, s->position) <= 0)
		return disagree(s, h, f);
	s->ordinal = h->ordinal;
	s->position = h->position;
	return SEQUENCE_NEXT;
}

static enum sequence_verdict next_barrier(struct sequence *s, const struct event_head *h,
					  struct fault *f)
{
	if (s->has_gap || h->generation > s->generation || h->ordinal > s->ordinal)
		return gap(s, h, f);
	if (h->ordinal < s->ordinal)
		return known_ordinal(s, h, f);
	if (!carries_our_last(s, h))
		return disagree(s, h, f);
	if (boundary_cmp(h->boundary, s->barrier) < 0)
		return SEQUENCE_DUPLICATE;
	s->barrier = h->boundary;
	return SEQUENCE_BARRIER;
}

/*
 * A base of a generation whose fence we did not see is as good as the fence: it was written after
 * the fence was acknowledged, and it says up to where the partition was read.
 */
static enum sequence_verdict next_base(struct sequence *s, const struct event_head *h,
				       struct fault *f)
{
	if (h->ordinal > s->ordinal) {
		fault(f, FAULT_LOST,
		      "ordinals %" PRIu64 "..%" PRIu64 " are missing: generation %" PRIu64
		      " goes on after ordinal %" PRIu64 ", the last one here is %" PRIu64,
		      s->ordinal + 1, h->ordinal, h->generation, h->ordinal, s->ordinal);
		return SEQUENCE_LOST;
	}
	if (h->ordinal == s->ordinal ? !carries_our_last(s, h)
				     : position_cmp(h->position, s->position) > 0)
		return disagree(s, h, f);
	s->generation = h->generation;
	s->has_gap = false;
	return SEQUENCE_MARK;
}

static enum sequence_verdict next_marker(struct sequence *s, const struct event_head *h,
					 struct fault *f)
{
	if (h->op == 's')
		return next_base(s, h, f);
	if (h->op == 'f')
		s->generation = h->generation;
	return SEQUENCE_MARK;
}

enum sequence_verdict sequence_next(struct sequence *s, const struct event_head *h, struct fault *f)
{
	if (h->generation < s->generation)
		return SEQUENCE_STALE;
	switch (h->kind) {
	case EVENT_CHANGE:
	case EVENT_EXCLUSIVE:
		return next_record(s, h, f);
	case EVENT_BARRIER:
		return next_barrier(s, h, f);
	case EVENT_MARKER:
		return next_marker(s, h, f);
	}
	return SEQUENCE_STALE;
}
