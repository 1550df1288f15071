// SPDX-License-Identifier: Apache-2.0
/*
 * survey - two servers' digests of the same rows, from coarse to fine: leaves, then keys.
 *
 * survey_ask and survey_drill run a digest's statement on a connection; survey_differ and survey_suspects
 * are pure and lay two answers side by side. What differs here is only suspect: the two were not read
 * at the same moment.
 */
#ifndef RECONCILE_SURVEY_H
#define RECONCILE_SURVEY_H

#include "reconcile/digest.h"

struct survey_leaf {
	int64_t leaf, count, xor;
	struct span sum;
};

struct survey {
	struct survey_leaf *leaves; /* ascending */
	size_t leaf_count;
	int64_t row_count;
	int64_t took_us; /* by the server's clock */
};

struct survey_key {
	struct span key;
	int64_t hash, count;
};

struct survey_keys {
	struct survey_key *keys;
	size_t count;
};

/* Everything lives in the arena. */
bool survey_ask(PGconn *conn, const struct digest_plan *p, struct arena *a, struct survey *ret,
		struct fault *f);
/* Its two halves, as of pg_send; `then` is a statement that the server runs behind it; NULL: none, and ret_then is NULL. */
bool survey_send(PGconn *conn, const struct digest_plan *p, const char *then, struct fault *f);
bool survey_take(PGconn *conn, struct arena *a, struct survey *ret, PGresult **ret_then, struct fault *f);
bool survey_drill(PGconn *conn, const struct digest_plan *p, const int64_t *leaves, size_t n,
		  struct arena *a, struct survey_keys *ret, struct fault *f);

/* The leaves that are not the same in both. NULL: no memory. */
int64_t *survey_differ(const struct survey *source, const struct survey *target, struct arena *a,
		       size_t *ret_count);
/* The keys that are not the same in both; sorts them. NULL: no memory. */
struct span *survey_suspects(struct survey_keys *source, struct survey_keys *target,
			     struct arena *a, size_t *ret_count);

#endif
