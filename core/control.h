// SPDX-License-Identifier: Apache-2.0
/*
 * control - the migration's memory: the compacted topic <m>.control as a map from key to the newest record.
 *
 * control_open reads to the end offset seen at the start before it returns; then a thread of its own
 * follows. Values are JSON texts. Keys and their only writers are listed in docs/internals.md.
 * control_put is acknowledged by the broker (and taken into the map) when it returns true.
 *
 * Thread-safe. control_wait wakes on every new record.
 */
#ifndef CORE_CONTROL_H
#define CORE_CONTROL_H

#include "core/arena.h"
#include "core/fault.h"
#include "core/kafka.h"

struct control;

struct control *control_open(const struct kafka_conf *conf, const char *topic, struct fault *f);
void control_close(struct control *c);

/* Newest value of a key copied into a; absent span when there is none. */
struct span control_get(struct control *c, struct span key, struct arena *a);
/* Calls each with every key that starts with prefix, in byte order of keys; stops when it returns false. */
void control_each(struct control *c, const char *prefix,
		  bool (*each)(void *arg, struct span key, struct span value), void *arg);
bool control_put(struct control *c, struct span key, struct span value, int timeout_ms,
		 struct fault *f);
/* Counts records seen; control_wait returns when it differs from seen, or after timeout_ms. */
uint64_t control_version(struct control *c);
uint64_t control_wait(struct control *c, uint64_t seen, int timeout_ms);
/* The calling thread's eventfd is signalled on every new record until control_unwatch. */
bool control_watch(struct control *c, int event_fd);
void control_unwatch(struct control *c, int event_fd);

#endif
