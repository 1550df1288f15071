// SPDX-License-Identifier: Apache-2.0
/*
 * incident_topic - writes records to <m>.incidents.
 *
 * The topic is for people: nothing depends on a record, so one that Kafka does not take is the caller's to log.
 * Thread-safe.
 */
#ifndef CORE_INCIDENT_TOPIC_H
#define CORE_INCIDENT_TOPIC_H

#include "core/json.h"
#include "core/migration.h"

struct incident_topic;
/* m: borrowed. NULL: no memory. Connects with the first record. */
struct incident_topic *incident_topic_new(const struct migration *m);
void incident_topic_free(struct incident_topic *t);
/* Takes the object over; `at`, the time, is added. What is secret in `message` is not written. key may be absent. Waits for the
 * broker, a few seconds at most. */
bool incident_topic_send(struct incident_topic *t, struct span key, json_t *object, struct fault *f);

#endif
