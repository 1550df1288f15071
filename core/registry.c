// SPDX-License-Identifier: Apache-2.0
#include "core/registry.h"

#include <curl/curl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>

#include "core/codec.h"

enum {
	REGISTRY_CONNECT_MS = 5000,
	REGISTRY_TIMEOUT_MS = 30000,
	REGISTRY_ANSWER_BYTES = 16 << 20,
	REGISTRY_SAID_BYTES = 300, /* of an error's text */
};

#define REGISTRY_TYPE "application/vnd.schemaregistry.v1+json"

struct registry {
	char *url;   /* without a slash at its end */
	char *shown; /* without user and password */
	struct curl_slist *headers;
	pthread_mutex_t lock; /* of what is below */
	CURL *curl;
	struct buf answer;
};

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void start_curl(void)
{
	curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* --- one request --- */

static size_t take_answer(char *bytes, size_t size, size_t n, void *arg)
{
	struct buf *answer = arg;

	buf_add(answer, bytes, size * n);
	return buf_failed(answer) ? 0 : n;
}

static void prepare(struct registry *r, const char *url, const char *method, const char *body)
{
	CURL *curl = r->curl;

	curl_easy_reset(curl); /* options only: the connection is kept */
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, r->headers);
	curl_easy_setopt(curl, CURLOPT_USERAGENT, "foreshadow/" FORESHADOW_VERSION);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)REGISTRY_CONNECT_MS);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)REGISTRY_TIMEOUT_MS);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_answer);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, &r->answer);
	if (body)
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
}

/* The answer's text is in r->answer. path begins with a slash. */
static bool request(struct registry *r, const char *method, const char *path, const char *body,
		    long *ret_status, struct fault *f)
{
	CURLcode code;
	struct buf url;

	buf_init(&url, 64 << 10);
	buf_reset(&r->answer);
	buf_str(&url, r->url);
	buf_str(&url, path);
	prepare(r, buf_cstr(&url), method, body);
	code = curl_easy_perform(r->curl);
	buf_release(&url);
	if (code == CURLE_OK) {
		curl_easy_getinfo(r->curl, CURLINFO_RESPONSE_CODE, ret_status);
		return true;
	}
	return fault(f, buf_failed(&r->answer) ? FAULT_INPUT : FAULT_ENVIRONMENT,
		     "schema registry %s: %s", r->shown,
		     buf_failed(&r->answer) ? "an answer of more than 16 MiB"
					    : curl_easy_strerror(code));
}

static enum fault_kind kind_of_status(long status)
{
	if (status == 401 || status == 403)
		return FAULT_STOP;
	return status >= 500 || status == 408 || status == 429 ? FAULT_ENVIRONMENT : FAULT_INPUT;
}

/* What the registry says: "message" of its JSON, or the start of whatever came. */
static bool status_fault(struct registry *r, long status, const char *doing, struct fault *f)
{
	json_t *json = json_loadb(buf_span(&r->answer).p, r->answer.n, 0, NULL);
	const char *said = json_string_value(json_object_get(json, "message"));
	struct span text = said ? span_str(said) : buf_span(&r->answer);

	if (text.n > REGISTRY_SAID_BYTES)
		text.n = REGISTRY_SAID_BYTES;
	fault(f, kind_of_status(status), "schema registry %s: %s: HTTP %ld: %.*s", r->shown, doing,
	      status, SPAN_ARG(text));
	json_decref(json);
	return false;
}

static json_t *answer_json(struct registry *r, const char *doing, struct fault *f)
{
	json_t *json = json_loadb(buf_span(&r->answer).p, r->answer.n, 0, NULL);

	if (!json)
		fault(f, FAULT_INPUT,
		      "schema registry %s: %s: the answer is not JSON: is this URL "
		      "that of a registry's Confluent API?",
		      r->shown, doing);
	return json;
}

/* --- life --- */

static char *copy_without_slash(const char *url)
{
	size_t n = strlen(url);

	while (n > 0 && url[n - 1] == '/')
		n--;
	return strndup(url, n);
}

/* NULL: not a URL. To be freed with curl_free. */
static char *without_password(const char *url)
{
	CURLU *u = curl_url();
	char *shown = NULL;

	if (u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
	    curl_url_set(u, CURLUPART_USER, NULL, 0) == CURLUE_OK &&
	    curl_url_set(u, CURLUPART_PASSWORD, NULL, 0) == CURLUE_OK)
		curl_url_get(u, CURLUPART_URL, &shown, 0);
	curl_url_cleanup(u);
	return shown;
}

static bool registry_init(struct registry *r, const char *url, struct fault *f)
{
	r->url = copy_without_slash(url);
	r->curl = curl_easy_init();
	r->headers = curl_slist_append(NULL, "Content-Type: " REGISTRY_TYPE);
	if (!r->url || !r->curl || !r->headers)
		return fault(f, FAULT_INTERNAL, "no memory for the schema registry");
	r->shown = without_password(r->url);
	return r->shown || fault(f, FAULT_USAGE,
				 "schema.registry.url is not a URL: wanted http://host:port or "
				 "https://host:port");
}

struct registry *registry_new(const char *url, struct fault *f)
{
	struct registry *r;

	pthread_once(&curl_once, start_curl);
	r = calloc(1, sizeof(*r));
	if (!r) {
		fault(f, FAULT_INTERNAL, "no memory for the schema registry");
		return NULL;
	}
	pthread_mutex_init(&r->lock, NULL);
	buf_init(&r->answer, REGISTRY_ANSWER_BYTES);
	if (registry_init(r, url, f))
		return r;
	registry_free(r);
	return NULL;
}

void registry_free(struct registry *r)
{
	if (!r)
		return;
	curl_easy_cleanup(r->curl);
	curl_slist_free_all(r->headers);
	curl_free(r->shown);
	free(r->url);
	buf_release(&r->answer);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

/* --- put --- */

/* <topic>-<full record name>, ready for a path. False: the schema has no name. */
static bool subject_of(struct registry *r, const char *topic, struct span schema_json,
		       struct buf *out)
{
	json_t *schema = json_loadb(schema_json.p, schema_json.n, 0, NULL);
	const char *namespace = json_string_value(json_object_get(schema, "namespace"));
	const char *name = json_string_value(json_object_get(schema, "name"));
	char *escaped = NULL;
	struct buf subject;

	buf_init(&subject, 16 << 10);
	if (name && namespace)
		buf_printf(&subject, "%s-%s.%s", topic, namespace, name);
	else if (name)
		buf_printf(&subject, "%s-%s", topic, name);
	if (name && !buf_failed(&subject))
		escaped = curl_easy_escape(r->curl, subject.p, (int)subject.n);
	if (escaped)
		buf_str(out, escaped);
	curl_free(escaped);
	buf_release(&subject);
	json_decref(schema);
	return escaped && !buf_failed(out);
}

/* {"schema": "…"} as text, to be freed. */
static char *put_body(struct span schema_json)
{
	json_t *body = json_pack("{s:s%}", "schema", schema_json.p, schema_json.n);
	char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;

	json_decref(body);
	return text;
}

static bool post(struct registry *r, const char *subject, const char *body, long *ret_status,
		 struct fault *f)
{
	struct buf path;
	bool ok;

	buf_init(&path, 64 << 10);
	buf_printf(&path, "/subjects/%s/versions", subject);
	ok = request(r, "POST", buf_cstr(&path), body, ret_status, f);
	buf_release(&path);
	return ok;
}

static bool allow_any(struct registry *r, const char *subject, struct fault *f)
{
	struct buf path;
	long status;
	bool ok;

	buf_init(&path, 64 << 10);
	buf_printf(&path, "/config/%s", subject);
	ok = request(r, "PUT", buf_cstr(&path), "{\"compatibility\":\"NONE\"}", &status, f);
	if (ok && status != 200)
		ok = status_fault(r, status,
				  "the new schema is not compatible with the one before, and "
				  "compatibility NONE is refused for its subject",
				  f);
	buf_release(&path);
	return ok;
}

static bool read_id(struct registry *r, int32_t *ret_id, struct fault *f)
{
	json_t *json = answer_json(r, "a schema is registered", f);
	json_t *id = json_object_get(json, "id");
	json_int_t v = json_is_integer(id) ? json_integer_value(id) : -1;

	if (json && (v < 0 || v > INT32_MAX))
		fault(f, FAULT_INPUT, "schema registry %s: an answer without an id", r->shown);
	json_decref(json);
	if (!json || v < 0 || v > INT32_MAX)
		return false;
	*ret_id = (int32_t)v;
	return true;
}

static bool put_subject(struct registry *r, const char *subject, const char *body, int32_t *ret_id,
			struct fault *f)
{
	long status;

	if (!post(r, subject, body, &status, f))
		return false;
	if (status == 409 && (!allow_any(r, subject, f) || !post(r, subject, body, &status, f)))
		return false;
	if (status != 200)
		return status_fault(r, status, "a schema is registered", f);
	return read_id(r, ret_id, f);
}

bool registry_put(struct registry *r, const char *topic, struct span schema_json, int32_t *ret_id,
		  struct fault *f)
{
	struct buf subject;
	char *body = put_body(schema_json);
	bool ok;

	buf_init(&subject, 64 << 10);
	pthread_mutex_lock(&r->lock);
	if (!body || !subject_of(r, topic, schema_json, &subject))
		ok = fault(f, FAULT_INTERNAL, "a schema for topic %s has no name", topic);
	else
		ok = put_subject(r, buf_cstr(&subject), body, ret_id, f);
	pthread_mutex_unlock(&r->lock);
	buf_release(&subject);
	free(body);
	return ok;
}

/* --- get --- */

static bool read_schema(struct registry *r, int32_t id, struct buf *out, struct fault *f)
{
	json_t *json = answer_json(r, "a schema is asked for", f);
	json_t *schema = json_object_get(json, "schema");
	bool ok = json_is_string(schema);

	if (ok)
		buf_add(out, json_string_value(schema), json_string_length(schema));
	else if (json)
		fault(f, FAULT_INPUT, "schema registry %s: id %d: an answer without a schema",
		      r->shown, id);
	json_decref(json);
	return ok &&
	       (!buf_failed(out) ||
		fault(f, FAULT_INPUT, "schema registry %s: id %d: a schema of more than %zu bytes",
		      r->shown, id, out->max_bytes));
}

bool registry_get(struct registry *r, int32_t id, struct buf *out, struct fault *f)
{
	char path[64], doing[64];
	long status = 0;
	bool ok;

	snprintf(path, sizeof(path), "/schemas/ids/%d", id);
	snprintf(doing, sizeof(doing), "the schema of id %d is asked for", id);
	pthread_mutex_lock(&r->lock);
	ok = request(r, "GET", path, NULL, &status, f) &&
	     (status == 200 || status_fault(r, status, doing, f)) && read_schema(r, id, out, f);
	/* Written by somebody who had it from a registry: this one may be behind. */
	if (!ok && f && status == 404)
		f->kind = FAULT_ENVIRONMENT;
	pthread_mutex_unlock(&r->lock);
	return ok;
}

/* --- with a framing --- */

static bool learn(struct registry *r, struct framing *fr, uint64_t fingerprint, int32_t id,
		  struct fault *f)
{
	return framing_learn(fr, fingerprint, id) ||
	       fault(
		   f, FAULT_STOP,
		   "schema registry %s: id %d was another schema before: was the registry emptied?",
		   r->shown, id);
}

bool registry_announce(struct registry *r, struct framing *fr, const char *const *topics, size_t n,
		       struct span schema_json, uint64_t fingerprint, struct fault *f)
{
	int32_t id;

	for (size_t i = 0; i < n; i++)
		if (!registry_put(r, topics[i], schema_json, &id, f) ||
		    !learn(r, fr, fingerprint, id, f))
			return false;
	return true;
}

bool registry_announce_fixed(struct registry *r, struct framing *fr, const char *const *topics,
			     size_t n, struct fault *f)
{
	for (enum event_kind kind = EVENT_EXCLUSIVE; kind <= EVENT_MARKER; kind++) {
		const struct codec_fixed *fixed = codec_fixed(kind);

		if (!registry_announce(r, fr, topics, n, span_str(fixed->json), fixed->fingerprint,
				       f))
			return false;
	}
	return true;
}

bool registry_learn(struct registry *r, struct framing *fr, int32_t id, struct fault *f)
{
	uint64_t fingerprint;
	struct buf json;
	bool ok;

	buf_init(&json, REGISTRY_ANSWER_BYTES);
	ok = registry_get(r, id, &json, f) && codec_fingerprint(buf_span(&json), &fingerprint, f) &&
	     learn(r, fr, fingerprint, id, f);
	buf_release(&json);
	return ok;
}
