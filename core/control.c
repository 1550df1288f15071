// SPDX-License-Identifier: Apache-2.0
/*
 * The map is an array sorted by key. A record enters it from two sides: the reader thread, in order
 * of offsets, and control_put as soon as the broker has acknowledged. An entry therefore keeps its
 * record's offset, and only a higher one replaces it; a tombstone keeps its entry, without a value.
 *
 * Threads: the reader (owns the consumer after control_open), and any caller. lock guards the map;
 * put_lock the producer, held for a whole control_put. put_lock is taken before lock.
 */
#include "core/control.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/log.h"

enum {
	CONTROL_STALLED_US = 30 * 1000 * 1000,
	CONTROL_COMPLAIN_US = 10 * 1000 * 1000,
	CONTROL_POLL_MS = 1000,
	CONTROL_WATCHES_MAX = 64,
};

struct control_entry {
	struct span key, value; /* allocated; a tombstone's value is absent */
	int64_t offset;
};

struct control {
	char *topic;
	rd_kafka_t *reader;
	rd_kafka_queue_t *reader_queue;
	pthread_t thread;
	bool has_thread;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct control_entry *entries;
	size_t entry_count, entry_cap;
	uint64_t version;
	int watches[CONTROL_WATCHES_MAX];
	size_t watch_count;
	bool is_stopping;

	pthread_mutex_t put_lock;
	struct kafka_conf conf; /* its own copy, for producers made later */
	rd_kafka_t *producer;
	rd_kafka_queue_t *reports;
	uintptr_t put_count; /* a report tells its put by this number */
};

/* --- the map; callers hold lock --- */

/* Index of the first entry whose key is not below key. */
static size_t control_find(const struct control *c, struct span key)
{
	size_t low = 0, high = c->entry_count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (span_cmp(c->entries[middle].key, key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool control_has(const struct control *c, size_t i, struct span key)
{
	return i < c->entry_count && span_eq(c->entries[i].key, key);
}

/* NUL-terminated behind the end; absent stays absent. */
static bool span_copy(struct span s, struct span *ret)
{
	char *p = s.p ? malloc(s.n + 1) : NULL;

	if (s.p && !p)
		return false;
	if (p) {
		memcpy(p, s.p, s.n);
		p[s.n] = 0;
	}
	*ret = span(p, s.n);
	return true;
}

static bool control_insert(struct control *c, size_t i, struct span key)
{
	size_t cap = c->entry_cap ? 2 * c->entry_cap : 64;
	struct control_entry *entries, e = { .offset = -1 };

	if (c->entry_count == c->entry_cap) {
		entries = realloc(c->entries, cap * sizeof(*entries));
		if (!entries)
			return false;
		c->entries = entries;
		c->entry_cap = cap;
	}
	if (!span_copy(key, &e.key))
		return false;
	memmove(&c->entries[i + 1], &c->entries[i], (c->entry_count - i) * sizeof(e));
	c->entries[i] = e;
	c->entry_count++;
	return true;
}

static void control_signal(struct control *c)
{
	static const uint64_t one = 1;

	c->version++;
	pthread_cond_broadcast(&c->changed);
	for (size_t i = 0; i < c->watch_count; i++)
		if (write(c->watches[i], &one, sizeof(one)) < 0 && errno != EAGAIN)
			log_warn("control: eventfd %d cannot be signalled", c->watches[i]);
}

static bool control_store(struct control *c, struct span key, struct span value, int64_t offset)
{
	size_t i = control_find(c, key);
	struct span copy;

	if (!control_has(c, i, key) && !control_insert(c, i, key))
		return false;
	if (offset <= c->entries[i].offset)
		return true;
	if (!span_copy(value, &copy))
		return false;
	free((char *)c->entries[i].value.p);
	c->entries[i].value = copy;
	c->entries[i].offset = offset;
	control_signal(c);
	return true;
}

/* Takes lock. */
static bool control_take(struct control *c, struct span key, struct span value, int64_t offset)
{
	bool ok;

	pthread_mutex_lock(&c->lock);
	ok = control_store(c, key, value, offset);
	pthread_mutex_unlock(&c->lock);
	return ok;
}

/* --- reading --- */

static bool control_take_message(struct control *c, const rd_kafka_message_t *m, struct fault *f)
{
	struct span key = span(m->key ? m->key : "", m->key_len);

	if (m->err)
		return kafka_fault(m->err, c->topic, f);
	return control_take(c, key, span(m->payload, m->len), m->offset) ||
	       fault(f, FAULT_INTERNAL, "no memory for the records of topic %s", c->topic);
}

/* Errors that librdkafka gets over by itself are waited out, but not for ever. */
static bool control_read_to(struct control *c, int64_t end, struct fault *f)
{
	int64_t next = 0, deadline_us = clock_us() + CONTROL_STALLED_US;
	struct fault why = { 0 };
	rd_kafka_message_t *m;

	while (next < end && clock_us() < deadline_us) {
		m = rd_kafka_consumer_poll(c->reader, CONTROL_POLL_MS);
		if (!m)
			continue;
		if (control_take_message(c, m, &why)) {
			next = m->offset + 1;
			deadline_us = clock_us() + CONTROL_STALLED_US;
		}
		rd_kafka_message_destroy(m);
		if (why.kind != FAULT_NONE && why.kind != FAULT_ENVIRONMENT)
			return fault(f, why.kind, "%s", why.text);
	}
	return next >= end ||
	       fault(f, FAULT_ENVIRONMENT,
		     "topic %s: read up to offset %lld of %lld, then nothing came for %d s",
		     c->topic, (long long)next, (long long)end, CONTROL_STALLED_US / 1000000);
}

/* From the first record on, by its number: asked for the beginning, librdkafka may rest for half a second first. */
static bool control_assign(struct control *c, int64_t low, struct fault *f)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_resp_err_t err;

	rd_kafka_topic_partition_list_add(list, c->topic, 0)->offset = low;
	err = rd_kafka_assign(c->reader, list);
	rd_kafka_topic_partition_list_destroy(list);
	return !err || kafka_fault(err, c->topic, f);
}

static bool control_is_stopping(struct control *c)
{
	bool is_stopping;

	pthread_mutex_lock(&c->lock);
	is_stopping = c->is_stopping;
	pthread_mutex_unlock(&c->lock);
	return is_stopping;
}

/* Thread: reader. */
static void *control_follow(void *arg)
{
	struct control *c = arg;
	int64_t complained_us = 0;
	rd_kafka_message_t *m;
	struct fault f = { 0 };

	log_thread("control");
	while (!control_is_stopping(c)) {
		m = rd_kafka_consumer_poll(c->reader, CONTROL_POLL_MS);
		if (!m)
			continue;
		if (!control_take_message(c, m, &f) &&
		    clock_us() - complained_us > CONTROL_COMPLAIN_US) {
			log_warn("control cannot be followed: %s", f.text);
			complained_us = clock_us();
		}
		rd_kafka_message_destroy(m);
	}
	return NULL;
}

static bool control_start(struct control *c, struct fault *f)
{
	int64_t low, high;

	c->reader = kafka_reader(&c->conf, f);
	if (!c->reader || !kafka_bounds(c->reader, c->topic, 0, &low, &high, f) ||
	    !control_assign(c, low, f))
		return false;
	c->reader_queue = rd_kafka_queue_get_consumer(c->reader);
	/* An empty log is [low, low): there is nothing to wait for. */
	if (low < high && !control_read_to(c, high, f))
		return false;
	if (pthread_create(&c->thread, NULL, control_follow, c) != 0)
		return fault(f, FAULT_INTERNAL, "no thread to follow topic %s", c->topic);
	c->has_thread = true;
	return true;
}

/* --- life --- */

static bool control_copy_conf(struct control *c, const struct kafka_conf *conf)
{
	struct kafka_setting *settings = calloc(conf->count + 1, sizeof(*settings));
	bool ok = settings != NULL;

	c->conf = (struct kafka_conf) { .settings = settings };
	for (size_t i = 0; ok && i < conf->count; i++, c->conf.count++) {
		settings[i].key = strdup(conf->settings[i].key);
		settings[i].value = strdup(conf->settings[i].value);
		ok = settings[i].key && settings[i].value;
	}
	if (ok && conf->client_id) {
		c->conf.client_id = strdup(conf->client_id);
		ok = c->conf.client_id != NULL;
	}
	return ok;
}

static void control_release_conf(struct control *c)
{
	/* One more than was counted: it may have been cut off by a lack of memory. */
	for (size_t i = 0; c->conf.settings && c->conf.settings[i].key; i++) {
		free((char *)c->conf.settings[i].key);
		free((char *)c->conf.settings[i].value);
	}
	free((void *)c->conf.settings);
	free((char *)c->conf.client_id);
}

static void control_init_locks(struct control *c)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->changed, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&c->lock, NULL);
	pthread_mutex_init(&c->put_lock, NULL);
}

struct control *control_open(const struct kafka_conf *conf, const char *topic, struct fault *f)
{
	struct control *c = calloc(1, sizeof(*c));

	if (!c) {
		fault(f, FAULT_INTERNAL, "no memory to read topic %s", topic);
		return NULL;
	}
	control_init_locks(c);
	c->topic = strdup(topic);
	if (!c->topic || !control_copy_conf(c, conf))
		fault(f, FAULT_INTERNAL, "no memory to read topic %s", topic);
	else if (control_start(c, f))
		return c;
	control_close(c);
	return NULL;
}

static void control_drop_producer(struct control *c)
{
	if (!c->producer)
		return;
	rd_kafka_queue_destroy(c->reports);
	rd_kafka_destroy(c->producer);
	c->producer = NULL;
}

static void control_stop_reader(struct control *c)
{
	pthread_mutex_lock(&c->lock);
	c->is_stopping = true;
	pthread_mutex_unlock(&c->lock);
	if (c->has_thread) {
		rd_kafka_queue_yield(c->reader_queue);
		pthread_join(c->thread, NULL);
	}
	if (c->reader_queue)
		rd_kafka_queue_destroy(c->reader_queue);
	if (c->reader)
		rd_kafka_destroy(c->reader);
}

void control_close(struct control *c)
{
	if (!c)
		return;
	control_stop_reader(c);
	control_drop_producer(c);
	for (size_t i = 0; i < c->entry_count; i++) {
		free((char *)c->entries[i].key.p);
		free((char *)c->entries[i].value.p);
	}
	free(c->entries);
	control_release_conf(c);
	free(c->topic);
	pthread_cond_destroy(&c->changed);
	pthread_mutex_destroy(&c->lock);
	pthread_mutex_destroy(&c->put_lock);
	free(c);
}

/* --- asking --- */

struct span control_get(struct control *c, struct span key, struct arena *a)
{
	struct span value = span(NULL, 0);
	size_t i;

	pthread_mutex_lock(&c->lock);
	i = control_find(c, key);
	if (control_has(c, i, key) && c->entries[i].value.p)
		value = arena_dup(a, c->entries[i].value);
	pthread_mutex_unlock(&c->lock);
	return value;
}

struct control_pair {
	struct control_pair *next;
	struct span key, value;
};

/* A copy of what starts with prefix, in order. Callers hold lock. */
static struct control_pair *control_copy(const struct control *c, struct span prefix,
					 struct arena *a)
{
	struct control_pair *first = NULL, **end = &first, *pair;

	for (size_t i = control_find(c, prefix); i < c->entry_count; i++) {
		const struct control_entry *e = &c->entries[i];

		if (e->key.n < prefix.n || memcmp(e->key.p, prefix.p, prefix.n) != 0)
			break;
		if (!e->value.p)
			continue;
		pair = arena_alloc(a, sizeof(*pair));
		if (!pair)
			break;
		pair->key = arena_dup(a, e->key);
		pair->value = arena_dup(a, e->value);
		*end = pair;
		end = &pair->next;
	}
	return first;
}

/* Of a copy, so that each() may call any function of this module. */
void control_each(struct control *c, const char *prefix,
		  bool (*each)(void *arg, struct span key, struct span value), void *arg)
{
	struct control_pair *pair;
	struct arena a;

	arena_init(&a, (size_t)1 << 30);
	pthread_mutex_lock(&c->lock);
	pair = control_copy(c, span_str(prefix), &a);
	pthread_mutex_unlock(&c->lock);
	if (arena_failed(&a))
		log_error("control: no memory for the records under %s", prefix);
	for (; pair && pair->value.p; pair = pair->next)
		if (!each(arg, pair->key, pair->value))
			break;
	arena_release(&a);
}

uint64_t control_version(struct control *c)
{
	uint64_t version;

	pthread_mutex_lock(&c->lock);
	version = c->version;
	pthread_mutex_unlock(&c->lock);
	return version;
}

static struct timespec control_deadline(int timeout_ms)
{
	int64_t us = clock_us() + (int64_t)timeout_ms * 1000;

	return (struct timespec) { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 };
}

uint64_t control_wait(struct control *c, uint64_t seen, int timeout_ms)
{
	struct timespec deadline = control_deadline(timeout_ms);
	uint64_t version;

	pthread_mutex_lock(&c->lock);
	while (c->version == seen &&
	       pthread_cond_timedwait(&c->changed, &c->lock, &deadline) != ETIMEDOUT)
		;
	version = c->version;
	pthread_mutex_unlock(&c->lock);
	return version;
}

bool control_watch(struct control *c, int event_fd)
{
	bool ok;

	pthread_mutex_lock(&c->lock);
	ok = c->watch_count < CONTROL_WATCHES_MAX;
	if (ok)
		c->watches[c->watch_count++] = event_fd;
	pthread_mutex_unlock(&c->lock);
	return ok;
}

void control_unwatch(struct control *c, int event_fd)
{
	pthread_mutex_lock(&c->lock);
	for (size_t i = 0; i < c->watch_count; i++)
		if (c->watches[i] == event_fd) {
			c->watches[i] = c->watches[--c->watch_count];
			break;
		}
	pthread_mutex_unlock(&c->lock);
}

/* --- putting; callers hold put_lock --- */

static bool put_produce(struct control *c, struct span key, struct span value, struct fault *f)
{
	rd_kafka_resp_err_t err;

	if (!c->producer)
		c->producer = kafka_producer(&c->conf, -1, &c->reports, f);
	if (!c->producer)
		return false;
	err = rd_kafka_producev(c->producer, RD_KAFKA_V_TOPIC(c->topic), RD_KAFKA_V_PARTITION(0),
				RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
				RD_KAFKA_V_KEY(key.p, key.n),
				RD_KAFKA_V_VALUE((void *)value.p, value.n),
				RD_KAFKA_V_OPAQUE((void *)++c->put_count), RD_KAFKA_V_END);
	return !err || kafka_fault(err, c->topic, f);
}

/* Reports of earlier puts that were given up come here too; they are not ours. */
static bool put_find_report(struct control *c, rd_kafka_event_t *event,
			    rd_kafka_resp_err_t *ret_err, int64_t *ret_offset)
{
	const rd_kafka_message_t *m;
	bool found = false;

	if (rd_kafka_event_type(event) != RD_KAFKA_EVENT_DR)
		return false;
	while ((m = rd_kafka_event_message_next(event)) != NULL)
		if ((uintptr_t)m->_private == c->put_count) {
			*ret_err = m->err;
			*ret_offset = m->offset;
			found = true;
		}
	return found;
}

/* A producer with a fatal error is of no more use: the next put makes a new one. */
static bool put_is_fatal(struct control *c, struct fault *f)
{
	char text[256];
	rd_kafka_resp_err_t err = rd_kafka_fatal_error(c->producer, text, sizeof(text));

	if (!err)
		return false;
	control_drop_producer(c);
	fault(f, FAULT_ENVIRONMENT, "topic %s cannot be written: %s", c->topic, text);
	return true;
}

static bool put_wait(struct control *c, int64_t deadline_us, int64_t *ret_offset, struct fault *f)
{
	rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_NO_ERROR;
	rd_kafka_event_t *event;
	bool found = false;
	int64_t left_us;

	while (!found) {
		left_us = deadline_us - clock_us();
		if (left_us <= 0)
			return fault(f, FAULT_ENVIRONMENT,
				     "topic %s: a record was not acknowledged in time; it may "
				     "still be written",
				     c->topic);
		event = rd_kafka_queue_poll(c->reports, (int)(left_us / 1000) + 1);
		if (!event)
			continue;
		found = put_find_report(c, event, &err, ret_offset);
		rd_kafka_event_destroy(event);
		if (!found && put_is_fatal(c, f))
			return false;
	}
	if (err && put_is_fatal(c, f))
		return false;
	return !err || kafka_fault(err, c->topic, f);
}

/* A broker that had the record already (a retry) does not say its offset: the reader will meet it.
 */
static bool put_wait_for_reader(struct control *c, struct span key, struct span value,
				int64_t deadline_us, struct fault *f)
{
	int64_t left_us = deadline_us - clock_us();
	struct timespec deadline = control_deadline(left_us > 0 ? (int)(left_us / 1000) : 0);
	bool seen = false, late = false;
	size_t i;

	pthread_mutex_lock(&c->lock);
	while (!seen && !late) {
		i = control_find(c, key);
		seen = control_has(c, i, key) && !c->entries[i].value.p == !value.p &&
		       span_eq(c->entries[i].value, value);
		if (!seen)
			late = pthread_cond_timedwait(&c->changed, &c->lock, &deadline) ==
			       ETIMEDOUT;
	}
	pthread_mutex_unlock(&c->lock);
	return seen ||
	       fault(f, FAULT_ENVIRONMENT,
		     "topic %s: a record was acknowledged but not read back in time", c->topic);
}

bool control_put(struct control *c, struct span key, struct span value, int timeout_ms,
		 struct fault *f)
{
	int64_t deadline_us = clock_us() + (int64_t)timeout_ms * 1000, offset = -1;
	bool ok;

	pthread_mutex_lock(&c->put_lock);
	ok = put_produce(c, key, value, f) && put_wait(c, deadline_us, &offset, f);
	pthread_mutex_unlock(&c->put_lock);
	if (!ok)
		return fault_in(f, "control record %.*s", SPAN_ARG(key));
	if (offset < 0)
		return put_wait_for_reader(c, key, value, deadline_us, f);
	return control_take(c, key, value, offset) ||
	       fault(f, FAULT_INTERNAL, "no memory for the records of topic %s", c->topic);
}
