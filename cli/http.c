// SPDX-License-Identifier: Apache-2.0
#include "cli/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/buf.h"

enum {
	CONNECTIONS_MAX = 16,
	IDLE_TIMEOUT_S = 10,
	CONNECTION_BYTES = 16 * 1024, /* request line and headers */
	BODY_BYTES = 32 * 1024 * 1024,
	BACKLOG = 16,
};

struct http {
	const struct migration_http *conf;
	const struct http_page *pages;
	size_t page_count;
	void *arg;
	struct MHD_Daemon *daemon;
};

/* ---- who may ask ---- */

bool http_is_authorized(const char *token, const char *given)
{
	static const char scheme[] = "Bearer ";
	size_t n = strlen(token), given_n;
	unsigned char different;

	if (!given || strncasecmp(given, scheme, sizeof(scheme) - 1) != 0)
		return false;
	given += sizeof(scheme) - 1;
	given_n = strlen(given);
	different = given_n != n;
	/* Over all that was given, wherever it differs first. */
	for (size_t i = 0; i < given_n; i++)
		different |= (unsigned char)(given[i] ^ token[n ? i % n : 0]);
	return !different && n > 0;
}

/* ---- a request ---- */

static enum MHD_Result send_body(struct MHD_Connection *c, int status, const char *type, struct span body,
				 const char *header, const char *value)
{
	struct MHD_Response *r = MHD_create_response_from_buffer(body.n, (void *)body.p, MHD_RESPMEM_MUST_COPY);
	enum MHD_Result result;

	if (!r)
		return MHD_NO;
	MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
	MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	if (header)
		MHD_add_response_header(r, header, value);
	result = MHD_queue_response(c, (unsigned)status, r);
	MHD_destroy_response(r);
	return result;
}

static enum MHD_Result send_error(struct MHD_Connection *c, int status, const char *text, const char *header,
				  const char *value)
{
	return send_body(c, status, "text/plain; charset=utf-8", span_str(text), header, value);
}

static const struct http_page *find_page(const struct http *h, const char *path)
{
	for (size_t i = 0; i < h->page_count; i++)
		if (strcmp(h->pages[i].path, path) == 0)
			return &h->pages[i];
	return NULL;
}

static enum MHD_Result send_page(const struct http *h, struct MHD_Connection *c, const struct http_page *page)
{
	enum MHD_Result result;
	struct buf body;
	int status;

	buf_init(&body, BODY_BYTES);
	status = page->render(h->arg, &body);
	if (buf_failed(&body))
		result = send_error(c, MHD_HTTP_INTERNAL_SERVER_ERROR, "too large\n", NULL, NULL);
	else
		result = send_body(c, status, page->type, buf_span(&body), NULL, NULL);
	buf_release(&body);
	return result;
}

/* Answered at once, in the first call: whatever body comes with a request is not read. */
static enum MHD_Result answer(void *arg, struct MHD_Connection *c, const char *path, const char *method,
			      const char *version, const char *body, size_t *body_n, void **state)
{
	const struct http *h = arg;
	const struct http_page *page;

	(void)version, (void)body, (void)body_n, (void)state;
	if (h->conf->token &&
	    !http_is_authorized(h->conf->token,
				MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION)))
		return send_error(c, MHD_HTTP_UNAUTHORIZED, "a token is needed: Authorization: Bearer ...\n",
				  MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0)
		return send_error(c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET\n", MHD_HTTP_HEADER_ALLOW, "GET");
	page = find_page(h, path);
	if (!page)
		return send_error(c, MHD_HTTP_NOT_FOUND, "there are /metrics and /healthz\n", NULL, NULL);
	return send_page(h, c, page);
}

/* ---- the socket ---- */

static bool cannot_listen(const struct migration_http *conf, const char *reason, struct fault *f)
{
	return fault(f, FAULT_ENVIRONMENT,
		     "http: cannot listen on %s: %s; next step: correct http: in the file, give each process on a "
		     "machine a port of its own, or stop who has that one (ss -ltnp)",
		     conf->listen, reason);
}

/* -1: not; errno. */
static int listen_on(const struct addrinfo *a)
{
	int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
	int on = 1, saved;

	if (fd < 0)
		return -1;
	/* After a kill, what the old process still has half-closed must not be in the way. */
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
		return fd;
	saved = errno;
	close(fd);
	errno = saved;
	return -1;
}

static int open_socket(const struct migration_http *conf, struct fault *f)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
	struct addrinfo *found = NULL;
	int err = getaddrinfo(conf->host, conf->port, &hints, &found), fd;

	if (err) {
		cannot_listen(conf, gai_strerror(err), f);
		return -1;
	}
	fd = listen_on(found);
	if (fd < 0)
		cannot_listen(conf, strerror(errno), f);
	freeaddrinfo(found);
	return fd;
}

struct http *http_start(const struct migration_http *conf, const struct http_page *pages, size_t page_count, void *arg,
			struct fault *f)
{
	struct http *h = calloc(1, sizeof(*h));
	int fd;

	if (!h) {
		fault(f, FAULT_INTERNAL, "out of memory");
		return NULL;
	}
	*h = (struct http) { conf, pages, page_count, arg, NULL };
	fd = open_socket(conf, f);
	if (fd < 0)
		goto fail;
	h->daemon = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL, answer, h,
				     MHD_OPTION_LISTEN_SOCKET, fd,
				     MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
				     MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_TIMEOUT_S,
				     MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES, MHD_OPTION_END);
	if (h->daemon)
		return h;
	cannot_listen(conf, strerror(errno), f);
fail:
	free(h);
	return NULL;
}

void http_stop(struct http *h)
{
	if (!h)
		return;
	MHD_stop_daemon(h->daemon); /* closes the socket, too */
	free(h);
}
