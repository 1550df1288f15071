// SPDX-License-Identifier: Apache-2.0
/*
 * http - serves a few pages, GET only, in a thread of its own.
 *
 * A page is made anew for each request, by a function that must only read memory: it runs on the
 * server's one thread. With a token, every request must show it (Authorization: Bearer …). Requests are small, connections few and
 * short-lived, so a client that dawdles costs little.
 */
#ifndef CLI_HTTP_H
#define CLI_HTTP_H

#include "core/migration.h"

struct buf;
struct http_page {
	const char *path, *type;                    /* "/healthz", "application/json" */
	int (*render)(void *arg, struct buf *body); /* returns the status code */
};

/* NULL and a fault that names the address when it cannot be listened on. conf and pages are borrowed. */
struct http;
struct http *http_start(const struct migration_http *conf, const struct http_page *pages, size_t page_count, void *arg,
			struct fault *f);
/* Returns when no request runs any more. NULL is fine. */
void http_stop(struct http *h);

/* Is `given` (may be NULL: no such header) what a request with this token must say? Takes as long whatever
 * is wrong with it. */
bool http_is_authorized(const char *token, const char *given);

#endif
