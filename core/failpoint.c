// SPDX-License-Identifier: Apache-2.0
/*
 * failpoint - the environment is read at the first pass through any failpoint; after that the table
 * does not change and only the counters move, atomically: any thread may pass at any time.
 *
 * Passes are counted per entry over all threads, so exactly one thread is the nth.
 */
#include "core/failpoint.h"

#ifdef FAILPOINTS

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/log.h"

enum { FAILPOINT_MAX = 32 };

enum failpoint_action {
	FAILPOINT_CRASH,
	FAILPOINT_STOP,
	FAILPOINT_ERROR,
	FAILPOINT_HANG,
	FAILPOINT_SLOW,
	FAILPOINT_BROKEN
};

static const char *const action_names[] = {
	[FAILPOINT_CRASH] = "crash", [FAILPOINT_STOP] = "stop", [FAILPOINT_ERROR] = "error",
	[FAILPOINT_HANG] = "hang",   [FAILPOINT_SLOW] = "slow", [FAILPOINT_BROKEN] = "broken",
};

static struct failpoint {
	const char *name;
	enum failpoint_action action;
	unsigned long nth;
	atomic_ulong passes;
} points[FAILPOINT_MAX];
static size_t point_count;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static bool failpoint_parse_action(const char *s, enum failpoint_action *ret_action)
{
	for (size_t i = 0; i < sizeof(action_names) / sizeof(*action_names); i++)
		if (strcmp(s, action_names[i]) == 0) {
			*ret_action = (enum failpoint_action)i;
			return true;
		}
	return false;
}

/* A test with a misspelt failpoint would pass for nothing, so that ends the process. */
static void failpoint_bad(const char *entry, const char *wanted)
{
	log_error("FORESHADOW_FAILPOINTS: \"%s\": %s", entry, wanted);
	_exit(2);
}

/* name=action[@nth], cut apart in place. */
static void failpoint_parse(char *entry)
{
	struct failpoint *point = &points[point_count];
	char *action = strchr(entry, '='), *nth, *end = NULL;

	if (!action || action == entry)
		failpoint_bad(entry, "expected name=action[@nth]");
	if (point_count == FAILPOINT_MAX)
		failpoint_bad(entry, "too many failpoints");
	*action++ = 0;
	nth = strchr(action, '@');
	point->nth = 1;
	if (nth) {
		*nth++ = 0;
		point->nth = strtoul(nth, &end, 10);
		if (point->nth == 0 || *end)
			failpoint_bad(nth, "expected a pass number from 1");
	}
	if (!failpoint_parse_action(action, &point->action))
		failpoint_bad(action, "expected crash, stop, error, hang, slow or broken");
	point->name = entry;
	point_count++;
}

static char *env_copy; /* what the names point into: kept, and reachable for leak checkers */

static void failpoint_read_env(void)
{
	const char *env = getenv("FORESHADOW_FAILPOINTS");
	char *rest, *entry;

	if (!env || !*env)
		return;
	env_copy = rest = strdup(env);
	while (rest && (entry = strsep(&rest, ";")))
		if (*entry)
			failpoint_parse(entry);
}

static void failpoint_sleep_ms(long ms)
{
	nanosleep(&(struct timespec) { ms / 1000, ms % 1000 * 1000000 }, NULL);
}

static void failpoint_hang(void)
{
	const char *path = getenv("FORESHADOW_FAILPOINT_RELEASE");

	while (!path || access(path, F_OK) != 0)
		failpoint_sleep_ms(10);
}

static bool failpoint_fire(const struct failpoint *point, unsigned long pass)
{
	if (pass == point->nth) /* one that fires at every pass from nth on says so once */
		log_warn("failpoint %s fired", point->name);
	switch (point->action) {
	/* To this thread, which then gets no further; a signal to the process may be another one's. */
	case FAILPOINT_CRASH:
		raise(SIGKILL);
		return false;
	case FAILPOINT_STOP:
		raise(SIGSTOP);
		return false;
	case FAILPOINT_ERROR:
	case FAILPOINT_BROKEN:
		return true;
	case FAILPOINT_HANG:
		failpoint_hang();
		return false;
	case FAILPOINT_SLOW:
		failpoint_sleep_ms(100);
		return false;
	}
	return false;
}

static bool failpoint_goes_on(enum failpoint_action action)
{
	return action == FAILPOINT_SLOW || action == FAILPOINT_BROKEN;
}

bool failpoint(const char *name)
{
	bool is_error = false;

	pthread_once(&once, failpoint_read_env);
	for (size_t i = 0; i < point_count; i++) {
		struct failpoint *point = &points[i];
		unsigned long pass;

		if (strcmp(point->name, name) != 0)
			continue;
		pass = atomic_fetch_add(&point->passes, 1) + 1;
		if (pass == point->nth || (pass > point->nth && failpoint_goes_on(point->action)))
			is_error = failpoint_fire(point, pass) || is_error;
	}
	return is_error;
}

#endif
