// SPDX-License-Identifier: Apache-2.0
/*
 * failpoint - named places where a test makes a build with FAILPOINTS=ON die, stop or fail.
 *
 *     FORESHADOW_FAILPOINTS="apply.before_commit=stop@3;publish.sent=crash@17"
 *
 * name=action[@nth]; nth counts passes (default 1; fires once). Actions: crash (SIGKILL to self),
 * stop (SIGSTOP to self: a test continues it), error (failpoint() returns true: the caller fails
 * as that place can fail), hang (waits until the file named by FORESHADOW_FAILPOINT_RELEASE
 * exists), slow (100 ms at every pass from nth on), broken (as error, at every pass from nth on: for
 * a check that a test wants to see missing). A fired failpoint logs "failpoint NAME fired".
 * In other builds failpoint() is a constant false.
 */
#ifndef CORE_FAILPOINT_H
#define CORE_FAILPOINT_H

#include <stdbool.h>

#ifdef FAILPOINTS
bool failpoint(const char *name);
#else
static inline bool failpoint(const char *name)
{
	(void)name;
	return false;
}
#endif

#endif
