// SPDX-License-Identifier: Apache-2.0
/*
 * fault - why something failed: a kind that says what the caller may do, and a sentence for an operator.
 *
 * The sentence names the object, what was seen, what was wanted and, where there is one, the next
 * step. It is said once, where it is known; callers may put context in front (fault_in). Library
 * code returns faults, loops and commands log them.
 */
#ifndef CORE_FAULT_H
#define CORE_FAULT_H

#include <stdbool.h>

enum fault_kind {
	FAULT_NONE,
	FAULT_USAGE,       /* command line or YAML: exit 2 */
	FAULT_INPUT,       /* bytes or settings of another system that we cannot accept: exit 1 */
	FAULT_ENVIRONMENT, /* connection, disk, shutdown, deadlock: the same call may succeed later */
	FAULT_FENCED,      /* somebody else owns this now: drop it, do not retry blindly */
	FAULT_STOP,        /* a decision of a person is needed: exit 3 */
	FAULT_LOST,        /* data that must be there is not (Kafka tail, slot): exit 3 */
	FAULT_DATA,        /* a statement failed because of a row: replay, then incident */
	FAULT_INTERNAL,    /* a bug of ours or out of memory: exit 1 */
};

struct fault {
	enum fault_kind kind;
	char sqlstate[6];  /* of the server error behind it, or "" */
	char text[1536];
};

/*
 * Both return false, so that failing is one line. f may be NULL (nobody wants the reason).
 * fault() replaces what f held; fault_in() puts "context: " before the text that is there.
 */
bool fault(struct fault *f, enum fault_kind kind, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
bool fault_in(struct fault *f, const char *format, ...) __attribute__((format(printf, 2, 3)));
void fault_reset(struct fault *f);

const char *fault_kind_name(enum fault_kind kind);
int fault_exit_code(enum fault_kind kind);

#endif
