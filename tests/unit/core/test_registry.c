// SPDX-License-Identifier: Apache-2.0
/* Against a server of one thread that gives the answers a test has laid out, and keeps the
 * requests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/codec.h"
#include "core/registry.h"

enum { ANSWERS_MAX = 10, REQUEST_MAX = 65536 };

struct answer {
	int status;
	const char *body;
};

struct server {
	int fd, port;
	pthread_t thread;
	pthread_mutex_t lock; /* of what follows */
	struct answer answers[ANSWERS_MAX];
	char requests[ANSWERS_MAX][REQUEST_MAX];
	int request_count;
};

struct rig {
	struct server server;
	struct registry *r;
	struct framing *fr;
	struct buf out;
	struct fault f;
};

static struct rig rig;

/* Head and body of one request; the connection carries only this one. */
static void read_request(int fd, char *text)
{
	size_t n = 0, wanted = REQUEST_MAX - 1;
	const char *length, *end;
	ssize_t got;

	memset(text, 0, REQUEST_MAX);
	while (n < wanted && (got = read(fd, text + n, wanted - n)) > 0) {
		n += (size_t)got;
		end = strstr(text, "\r\n\r\n");
		length = strstr(text, "Content-Length: ");
		if (end)
			wanted = (size_t)(end + 4 - text) +
				 (length ? strtoul(length + 16, NULL, 10) : 0);
	}
}

static void *serve(void *arg)
{
	struct server *s = arg;
	char request[REQUEST_MAX];
	int fd;

	while ((fd = accept(s->fd, NULL, NULL)) >= 0) {
		const struct answer *a;

		read_request(fd, request);
		pthread_mutex_lock(&s->lock);
		a = &s->answers[s->request_count];
		memcpy(s->requests[s->request_count++], request, REQUEST_MAX);
		pthread_mutex_unlock(&s->lock);
		dprintf(fd, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
			a->status, strlen(a->body), a->body);
		close(fd);
	}
	return NULL;
}

static void start(const struct answer *answers, size_t n)
{
	memcpy(rig.server.answers, answers, n * sizeof(*answers));
	pthread_create(&rig.server.thread, NULL, serve, &rig.server);
}

#define START(...)                                                                                 \
	start((struct answer[]) { __VA_ARGS__ },                                                   \
	      sizeof((struct answer[]) { __VA_ARGS__ }) / sizeof(struct answer))

static int setup(void **state)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t n = sizeof(address);
	char url[128];

	rig = (struct rig) { 0 };
	pthread_mutex_init(&rig.server.lock, NULL);
	rig.server.fd = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(rig.server.fd, (struct sockaddr *)&address, n) || listen(rig.server.fd, 5) ||
	    getsockname(rig.server.fd, (struct sockaddr *)&address, &n))
		return -1;
	rig.server.port = ntohs(address.sin_port);
	snprintf(url, sizeof(url), "http://me:s3cret@127.0.0.1:%d/api/", rig.server.port);
	rig.r = registry_new(url, &rig.f);
	rig.fr = framing_new(FRAMING_CONFLUENT);
	buf_init(&rig.out, 1 << 20);
	return rig.r ? 0 : -1;
}

static int teardown(void **state)
{
	shutdown(rig.server.fd, SHUT_RDWR);
	if (rig.server.thread)
		pthread_join(rig.server.thread, NULL);
	close(rig.server.fd);
	registry_free(rig.r);
	framing_free(rig.fr);
	buf_release(&rig.out);
	return 0;
}

static void request_has(int i, const char *words)
{
	bool has;

	pthread_mutex_lock(&rig.server.lock);
	has = strstr(rig.server.requests[i], words);
	pthread_mutex_unlock(&rig.server.lock);
	if (!has)
		fail_msg("\"%s\" not in \"%s\"", words, rig.server.requests[i]);
}

static void faulty(bool done, enum fault_kind kind, const char *words)
{
	assert_false(done);
	assert_int_equal(rig.f.kind, kind);
	if (!strstr(rig.f.text, words))
		fail_msg("\"%s\" not in \"%s\"", words, rig.f.text);
	assert_null(strstr(rig.f.text, "s3cret"));
}

static const char schema[] =
    "{\"type\":\"record\",\"name\":\"Envelope\",\"namespace\":\"shop.public.t\","
    "\"fields\":[{\"name\":\"a\",\"type\":\"long\"}]}";

static bool put(int32_t *ret_id)
{
	return registry_put(rig.r, "shop.changes", span_str(schema), ret_id, &rig.f);
}

static void a_schema_is_registered_under_topic_and_record_name(void **state)
{
	int32_t id = 0;

	START({ 200, "{\"id\":42}" });
	if (!put(&id))
		fail_msg("%s", rig.f.text);
	assert_int_equal(id, 42);
	request_has(0,
		    "POST /api/subjects/shop.changes-shop.public.t.Envelope/versions HTTP/1.1\r\n");
	request_has(0, "Content-Type: application/vnd.schemaregistry.v1+json\r\n");
	request_has(0, "Authorization: Basic bWU6czNjcmV0\r\n");
	request_has(0, "{\"schema\":\"{\\\"type\\\":\\\"record\\\",\\\"name\\\":\\\"Envelope\\\"");
}

static void an_incompatible_schema_is_registered_all_the_same(void **state)
{
	int32_t id = 0;

	START({ 409, "{\"error_code\":409}" }, { 200, "{}" }, { 200, "{\"id\":7}" });
	assert_true(put(&id));
	assert_int_equal(id, 7);
	request_has(1, "PUT /api/config/shop.changes-shop.public.t.Envelope HTTP/1.1\r\n");
	request_has(1, "{\"compatibility\":\"NONE\"}");
	request_has(2, "POST /api/subjects/");
}

static void a_registry_that_insists_on_compatibility_is_named(void **state)
{
	int32_t id;

	START({ 409, "{}" }, { 403, "{\"message\":\"not allowed\"}" });
	faulty(put(&id), FAULT_STOP,
	       "compatibility NONE is refused for its subject: HTTP 403: not allowed");
}

static void the_schema_of_an_id_is_fetched(void **state)
{
	START({ 200, "{\"schema\":\"{\\\"type\\\":\\\"long\\\"}\",\"version\":1}" });
	assert_true(registry_get(rig.r, 42, &rig.out, &rig.f));
	assert_string_equal(buf_cstr(&rig.out), "{\"type\":\"long\"}");
	request_has(0, "GET /api/schemas/ids/42 HTTP/1.1\r\n");
}

static void an_unknown_id_may_be_known_later(void **state)
{
	START({ 404, "{\"error_code\":40403,\"message\":\"Schema not found\"}" });
	faulty(registry_get(rig.r, 42, &rig.out, &rig.f), FAULT_ENVIRONMENT,
	       "the schema of id 42 is asked for: HTTP 404: Schema not found");
}

static void answers_are_told_apart_by_what_helps(void **state)
{
	int32_t id;

	START({ 503, "busy" }, { 401, "" }, { 422, "{\"message\":\"Invalid schema\"}" },
	      { 404, "no such page" }, { 200, "<html>" }, { 200, "{\"id\":\"42\"}" },
	      { 200, "{\"id\":-1}" }, { 200, "{}" });
	faulty(put(&id), FAULT_ENVIRONMENT, "HTTP 503: busy");
	faulty(put(&id), FAULT_STOP, "HTTP 401");
	faulty(put(&id), FAULT_INPUT, "HTTP 422: Invalid schema");
	faulty(put(&id), FAULT_INPUT, "HTTP 404: no such page");
	faulty(put(&id), FAULT_INPUT, "not JSON");
	faulty(put(&id), FAULT_INPUT, "without an id");
	faulty(put(&id), FAULT_INPUT, "without an id");
	faulty(registry_get(rig.r, 1, &rig.out, &rig.f), FAULT_INPUT, "without a schema");
}

static void a_registry_that_is_down_is_asked_later(void **state)
{
	struct registry *r = registry_new("http://127.0.0.1:1", &rig.f);

	faulty(registry_get(r, 1, &rig.out, &rig.f), FAULT_ENVIRONMENT, "http://127.0.0.1:1");
	registry_free(r);
}

static void what_is_not_a_url_is_refused(void **state)
{
	assert_null(registry_new("not a url", &rig.f));
	assert_int_equal(rig.f.kind, FAULT_USAGE);
	assert_null(registry_new("http://", &rig.f));
}

static void a_file_is_not_a_registry(void **state)
{
	struct registry *r = registry_new("file:///etc", &rig.f);

	assert_false(r && registry_get(r, 1, &rig.out, &rig.f));
	registry_free(r);
}

static void announced_schemas_are_learned_for_every_topic(void **state)
{
	static const char *const topics[] = { "shop.changes", "shop.snapshot" };
	struct barrier b = { 0 };
	struct event_head h = { 0 };

	START({ 200, "{\"id\":1}" }, { 200, "{\"id\":1}" }, { 200, "{\"id\":2}" },
	      { 200, "{\"id\":2}" }, { 200, "{\"id\":3}" }, { 200, "{\"id\":4}" });
	assert_true(registry_announce_fixed(rig.r, rig.fr, topics, 2, &rig.f));
	request_has(3, "POST /api/subjects/shop.snapshot-foreshadow.Barrier/versions");
	assert_true(event_write_barrier(rig.fr, &h, &b, &rig.out));
	assert_memory_equal(rig.out.p, "\0\0\0\0\2", 5);
}

static void an_id_that_changed_its_schema_stops(void **state)
{
	START({ 200, "{\"id\":1}" }, { 200, "{\"schema\":\"\\\"long\\\"\"}" });
	assert_true(registry_announce(rig.r, rig.fr, (const char *const[]) { "t" }, 1,
				      span_str(schema), 99, &rig.f));
	faulty(registry_learn(rig.r, rig.fr, 1, &rig.f), FAULT_STOP, "id 1 was another schema");
}

static void an_id_is_learned_from_the_registry(void **state)
{
	struct arena a;
	struct event ev;

	START({ 200, "{\"schema\":\"\\\"long\\\"\"}" });
	arena_init(&a, 1 << 16);
	assert_true(registry_learn(rig.r, rig.fr, 9, &rig.f));
	assert_false(event_read(rig.fr, span("\0\0\0\0\x9", 5), &a, &ev, &rig.f));
	assert_int_equal(rig.f.kind, FAULT_INPUT); /* the id is known; there is no head */
	assert_true(ev.head.fingerprint == 0xd054e14493f41db7);
	arena_release(&a);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_schema_is_registered_under_topic_and_record_name),
		TEST(an_incompatible_schema_is_registered_all_the_same),
		TEST(a_registry_that_insists_on_compatibility_is_named),
		TEST(the_schema_of_an_id_is_fetched),
		TEST(an_unknown_id_may_be_known_later),
		TEST(answers_are_told_apart_by_what_helps),
		TEST(a_registry_that_is_down_is_asked_later),
		TEST(what_is_not_a_url_is_refused),
		TEST(a_file_is_not_a_registry),
		TEST(announced_schemas_are_learned_for_every_topic),
		TEST(an_id_that_changed_its_schema_stops),
		TEST(an_id_is_learned_from_the_registry),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
