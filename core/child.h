// SPDX-License-Identifier: Apache-2.0
/*
 * child - runs a program to its end: arguments, extra environment, its stdout into a buf, the end of its stderr for the message.
 *
 * No shell. Secrets belong into env, never into argv. A child does not outlive the thread that waits for it: it is sent
 * SIGTERM when that, or the process, ends in any way.
 */
#ifndef CORE_CHILD_H
#define CORE_CHILD_H

#include "core/buf.h"
#include "core/fault.h"

struct child {
	const char *const *argv;      /* NULL-terminated; argv[0] is found on PATH */
	const char *const *env;       /* NULL-terminated "NAME=value" to add or override; may be NULL */
	struct buf *ret_out;          /* stdout goes here; NULL: thrown away */
	int stop_fd;                  /* the child is sent SIGTERM when this becomes readable; -1: none */
};

/* False and a fault with the last lines of stderr unless it ended with exit code 0; FAULT_ENVIRONMENT if it was stopped. */
bool child_run(const struct child *c, struct fault *f);

#endif
