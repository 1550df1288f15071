// SPDX-License-Identifier: Apache-2.0
/*
 * migration - the table of keys and what each value must satisfy.
 */
#include "core/migration.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/buf.h"
#include "core/conf.h"
#include "core/log.h"
#include "core/migration_keys.h"
#include "core/pattern.h"

enum {
	MIGRATION_ARENA_MAX = 16 << 20,
	MIGRATION_NAME_MAX = 40,
	HTTP_TOKEN_MIN = 16, /* guessed over the network */
};

static bool no_memory(const struct conf_value *v, struct fault *f)
{
	return conf_refuse(v, f, "too large");
}

static bool set_name(void *out, const struct conf_value *v, struct fault *f)
{
	struct migration *m = out;
	const char *s = v->text;

	if (!(s[0] >= 'a' && s[0] <= 'z') || strlen(s) > MIGRATION_NAME_MAX ||
	    s[strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_")])
		return conf_refuse(v, f, "expected %s, found \"%.64s\"", v->key->expected, v->raw);
	m->name = s;
	return true;
}

static bool set_partitions(void *out, const struct conf_value *v, struct fault *f)
{
	return conf_int(v, 1, 1024, &((struct migration *)out)->partition_count, f);
}

static bool check_patterns(const struct conf_value *v, struct fault *f)
{
	for (size_t i = 0; i < v->item_count; i++)
		if (!pattern_is_valid(v->items[i]))
			return conf_refuse(v, f, "item %zu: expected %s", i + 1, v->key->expected);
	return true;
}

static bool set_include(void *out, const struct conf_value *v, struct fault *f)
{
	struct migration *m = out;

	m->include = v->items;
	m->include_count = v->item_count;
	if (v->item_count == 0)
		return conf_refuse(v, f, "expected %s, found an empty list", v->key->expected);
	return check_patterns(v, f);
}

static bool set_exclude(void *out, const struct conf_value *v, struct fault *f)
{
	struct migration *m = out;

	m->exclude = v->items;
	m->exclude_count = v->item_count;
	return check_patterns(v, f);
}

bool migration_has_table(const struct migration *m, struct span schema, struct span table)
{
	for (size_t i = 0; i < m->exclude_count; i++)
		if (pattern_match(m->exclude[i], schema, table))
			return false;
	for (size_t i = 0; i < m->include_count; i++)
		if (pattern_match(m->include[i], schema, table))
			return true;
	return false;
}

/* The rest. */

static bool set_schema(void *out, const struct conf_value *v, struct fault *f)
{
	struct migration *m = out;

	m->schema = strcmp(v->text, "exists") == 0 ? SCHEMA_EXISTS : SCHEMA_CREATE;
	if (m->schema == SCHEMA_CREATE && strcmp(v->text, "create") != 0)
		return conf_refuse(v, f, "expected %s, found \"%.64s\"", v->key->expected, v->raw);
	return true;
}

static const char *const unique_names[] = { [UNIQUE_LATE] = "late", [UNIQUE_EARLY] = "early" };

const char *unique_mode_name(enum unique_mode mode)
{
	return unique_names[mode];
}

static bool set_unique(void *out, const struct conf_value *v, struct fault *f)
{
	struct migration *m = out;

	m->unique = strcmp(v->text, unique_names[UNIQUE_EARLY]) == 0 ? UNIQUE_EARLY : UNIQUE_LATE;
	return strcmp(v->text, unique_names[m->unique]) == 0 ||
	       conf_refuse(v, f, "expected %s, found \"%.64s\"", v->key->expected, v->raw);
}

static bool set_order(void *out, const struct conf_value *v, struct fault *f)
{
	struct migration *m = out;

	m->order = strcmp(v->text, "transaction") == 0 ? ORDER_TRANSACTION : ORDER_KEY;
	if (m->order == ORDER_KEY && strcmp(v->text, "key") != 0)
		return conf_refuse(v, f, "expected %s, found \"%.64s\"", v->key->expected, v->raw);
	return true;
}

static bool set_threshold(void *out, const struct conf_value *v, struct fault *f)
{
	char *end;
	double threshold = strtod(v->text, &end);

	(void)out;
	if (end == v->text || *end || !(threshold >= 0 && threshold <= 1))
		return conf_refuse(v, f, "expected %s, found \"%.64s\"", v->key->expected, v->raw);
	return threshold == 0 || conf_refuse_later(v, "0 (always rehearse)", f);
}

static bool set_jobs(void *out, const struct conf_value *v, struct fault *f)
{
	return conf_int(v, 1, 64, &((struct migration *)out)->copy_jobs, f);
}

static bool read_ms(const struct conf_value *v, int64_t least, int64_t most, int64_t *ret_ms, struct fault *f)
{
	static const struct {
		const char *name;
		int64_t ms;
	} units[] = { { "ms", 1 },	    { "s", 1000 },	    { "m", 60 * 1000 },
		      { "min", 60 * 1000 }, { "h", 3600 * 1000 }, { "d", 86400 * 1000 } };
	char *end;
	long n = strtol(v->text, &end, 10);

	*ret_ms = 0;
	for (size_t i = 0; end > v->text && i < sizeof(units) / sizeof(*units); i++)
		if (strcmp(end, units[i].name) == 0 && n > 0 && n <= most / units[i].ms)
			*ret_ms = n * units[i].ms;
	return (*ret_ms >= least && *ret_ms <= most) ||
	       conf_refuse(v, f, "expected %s, found \"%.64s\"", v->key->expected, v->raw);
}

static bool set_window(void *out, const struct conf_value *v, struct fault *f)
{
	int64_t ms = 0;

	if (strcmp(v->text, "off") != 0 && !read_ms(v, 100, 600 * 1000, &ms, f))
		return false;
	((struct migration *)out)->window_ms = (int)ms;
	return true;
}

enum { SCRUB_DEFAULT_S = 3600 };
static const double SOURCE_LOAD_DEFAULT = 0.1;

static bool set_scrub(void *out, const struct conf_value *v, struct fault *f)
{
	int64_t ms;

	if (!read_ms(v, 1000, INT64_C(30) * 86400 * 1000, &ms, f))
		return false;
	((struct migration *)out)->scrub_s = (int)(ms / 1000);
	return true;
}

static bool read_share(const struct conf_value *v, double least, double *ret, struct fault *f)
{
	char *end;

	*ret = strtod(v->text, &end);
	return (end != v->text && !*end && *ret >= least && *ret <= 1) ||
	       conf_refuse(v, f, "expected %s, found \"%.64s\"", v->key->expected, v->raw);
}

static bool set_source_load(void *out, const struct conf_value *v, struct fault *f)
{
	return read_share(v, 0.001, &((struct migration *)out)->source_load, f);
}

static bool set_coverage(void *out, const struct conf_value *v, struct fault *f)
{
	return read_share(v, 0.1, &((struct migration *)out)->coverage, f);
}

static bool set_lanes(void *out, const struct conf_value *v, struct fault *f)
{
	struct migration *m = out;

	m->lanes = 0;
	return strcmp(v->text, "auto") == 0 || conf_int(v, 1, MIGRATION_LANES_MAX, &m->lanes, f);
}

/* Where it is served. */

static bool is_port(const char *text)
{
	size_t n = strlen(text);

	return n > 0 && n <= 5 && strspn(text, "0123456789") == n && atoi(text) > 0 && atoi(text) <= 65535;
}

/* host:port; an IPv6 address stands in brackets. Cuts text into the two. */
static bool split_address(char *text, const char **ret_host, const char **ret_port)
{
	char *colon = strrchr(text, ':');
	bool has_brackets = *text == '[';

	if (!colon || colon == text || !is_port(colon + 1))
		return false;
	*colon = 0;
	if (has_brackets) {
		if (colon[-1] != ']')
			return false;
		colon[-1] = 0;
	}
	*ret_host = text + has_brackets;
	*ret_port = colon + 1;
	return **ret_host && (has_brackets || !strchr(text, ':'));
}

static bool set_http(void *out, const struct conf_value *v, struct fault *f)
{
	struct migration_http *http = &((struct migration *)out)->http;
	char *copy;

	if (v->text || v->is_map)
		http->line = v->line;
	if (!v->text)
		return true;
	copy = arena_str(v->arena, span_str(v->text));
	if (!copy)
		return no_memory(v, f);
	if (!split_address(copy, &http->host, &http->port))
		return conf_refuse(v, f, "expected %s, found \"%.64s\"", v->key->expected, v->raw);
	http->listen = v->text;
	return true;
}

/* It goes into a header as it is. */
static bool is_token(const char *text)
{
	for (const char *p = text; *p; p++)
		if (*p <= ' ' || *p > '~')
			return false;
	return strlen(text) >= HTTP_TOKEN_MIN;
}

static bool set_http_token(void *out, const struct conf_value *v, struct fault *f)
{
	struct migration *m = out;

	if (!conf_whole_variable(v->arena, v->raw))
		return conf_refuse(v, f, "a literal token is refused; next step: write ${VAR} in its place");
	log_secret(v->text);
	if (!is_token(v->text))
		return conf_refuse(v, f, "expected %s in that variable", v->key->expected);
	m->http.token = v->text;
	return true;
}

/* Who can read it without being on this machine? */
static bool is_loopback(const char *host)
{
	struct in6_addr v6;
	struct in_addr v4;

	if (inet_pton(AF_INET, host, &v4) == 1)
		return (ntohl(v4.s_addr) >> 24) == 127;
	if (inet_pton(AF_INET6, host, &v6) == 1)
		return IN6_IS_ADDR_LOOPBACK(&v6);
	return strcmp(host, "localhost") == 0;
}

static bool check_http(const struct migration *m, struct fault *f)
{
	const struct migration_http *http = &m->http;

	if (!http->line)
		return true;
	if (!http->listen)
		return fault(f, FAULT_USAGE, "%s:%d: http.listen: missing; expected host:port", m->path, http->line);
	if (http->token || is_loopback(http->host))
		return true;
	return fault(f, FAULT_USAGE,
		     "%s:%d: http: %s can be reached from other machines, so a token is needed; next step: "
		     "http: {listen: \"%s\", token: \"${VAR}\"}, or listen on 127.0.0.1",
		     m->path, http->line, http->listen, http->listen);
}

#define A_MAP         "a map of keys"
#define A_URI         "a libpq URI or keyword string"
#define SOME_PATTERNS "a list of patterns schema.table, with * and ?"
#define SOME_TEXT     "text"
#define A_TABLE       "schema.table"
#define LATER         CONF_LATER_TEXT

/* clang-format off */
static const struct conf_key keys[] = {
	/* section, name, type, required, expected, fallback, only, set */
	{ "", "migration", CONF_TEXT, true, "a name, [a-z][a-z0-9_]{0,39}", NULL, NULL, set_name },
	{ "", "source", CONF_MAP, true, "a map with uri", NULL, NULL, NULL },
	{ "source", "uri", CONF_TEXT, true, A_URI, NULL, NULL, migration_set_source },
	{ "", "target", CONF_MAP, true, "a map with uri", NULL, NULL, NULL },
	{ "target", "uri", CONF_TEXT, true, A_URI, NULL, NULL, migration_set_target },
	{ "", "shadow", CONF_MAP, false, "a map with uri", NULL, NULL, NULL },
	{ "shadow", "uri", CONF_TEXT, true, A_URI, NULL, NULL, migration_set_shadow },
	{ "", "kafka", CONF_MAP, true, "a map with bootstrap.servers", NULL, NULL, NULL },
	{ "kafka", "bootstrap.servers", CONF_TEXT, true, "host:port, ...", NULL, NULL, migration_set_kafka },
	{ "kafka", "partitions", CONF_TEXT, false, "a number from 1 to 1024", "12", NULL, set_partitions },
	{ "kafka", "schema.registry.url", CONF_TEXT, false, "an http or https URL", NULL, NULL, migration_set_registry },
	{ "kafka", "*", CONF_TEXT, false, SOME_TEXT, NULL, NULL, migration_set_kafka },
	{ "", "tables", CONF_MAP, true, "a map with include", NULL, NULL, NULL },
	{ "tables", "include", CONF_LIST, true, SOME_PATTERNS, NULL, NULL, set_include },
	{ "tables", "exclude", CONF_LIST, false, SOME_PATTERNS, NULL, NULL, set_exclude },
	{ "", "schema", CONF_TEXT, false, "create or exists", "create", NULL, set_schema },
	{ "", "unique", CONF_TEXT, false, "late or early", "late", NULL, set_unique },
	{ "", "order", CONF_TEXT, false, "key or transaction", "key", NULL, set_order },
	{ "", "schema_mapping", CONF_MAPS, false, "a list of maps with from", NULL, NULL, mapping_begin },
	{ "schema_mapping", "from", CONF_TEXT, true, A_TABLE, NULL, NULL, mapping_set_from },
	{ "schema_mapping", "to", CONF_TEXT, false, A_TABLE, NULL, NULL, mapping_set_to },
	{ "schema_mapping", "columns", CONF_MAP, false, "a map of column names", NULL, NULL, NULL },
	{ "columns", "*", CONF_ENTRY, false, "a name, ~ or {to: name, type: type}", NULL, NULL, mapping_set_column },
	{ "columns.*", "to", CONF_ENTRY, false, "a name or ~", NULL, NULL, mapping_set_column_to },
	{ "columns.*", "type", CONF_TEXT, false, "a type's name", NULL, NULL, mapping_set_column_type },
	{ "schema_mapping", "origin", CONF_MAP, false, "a map with column and value", NULL, NULL, NULL },
	{ "origin", "column", CONF_TEXT, false, "a column's name", NULL, NULL, mapping_set_origin_column },
	{ "origin", "value", CONF_TEXT, false, SOME_TEXT, NULL, NULL, mapping_set_origin_value },
	{ "", "transformation_rules", CONF_MAPS, false, "a list of maps with table", NULL, NULL, transform_begin },
	{ "transformation_rules", "table", CONF_TEXT, true, A_TABLE, NULL, NULL, transform_set_table },
	{ "transformation_rules", "column", CONF_TEXT, false, "a column's name", NULL, NULL, transform_set_column },
	{ "transformation_rules", "type", CONF_TEXT, false, "a type's name", NULL, NULL, transform_set_type },
	{ "transformation_rules", "as", CONF_TEXT, false, "an SQL expression", NULL, NULL, transform_set_as },
	{ "transformation_rules", "where", CONF_TEXT, false, "an SQL condition", NULL, NULL, transform_set_where },
	{ "", "risk", CONF_MAP, false, A_MAP, NULL, NULL, NULL },
	{ "risk", "shadow_threshold", CONF_TEXT, false, "a number from 0 to 1", NULL, NULL, set_threshold },
	{ "", "resolve", CONF_MAP, false, A_MAP, NULL, NULL, NULL },
	{ "resolve", "shadow", LATER, false, NULL, NULL, "none", NULL },
	{ "resolve", "primary", LATER, false, NULL, NULL, "none", NULL },
	{ "", "schema_change", CONF_MAP, false, A_MAP, NULL, NULL, NULL },
	{ "schema_change", "add", LATER, false, NULL, NULL, "stop", NULL },
	{ "schema_change", "drop", LATER, false, NULL, NULL, "stop", NULL },
	{ "schema_change", "retype", LATER, false, NULL, NULL, "stop", NULL },
	{ "schema_change", "rename", LATER, false, NULL, NULL, "stop", NULL },
	{ "schema_change", "table", LATER, false, NULL, NULL, "stop", NULL },
	{ "", "copy", CONF_MAP, false, A_MAP, NULL, NULL, NULL },
	{ "copy", "jobs", CONF_TEXT, false, "a number from 1 to 64", "4", NULL, set_jobs },
	{ "copy", "rate", LATER, false, NULL, NULL, NULL, NULL },
	{ "copy", "window", LATER, false, NULL, NULL, NULL, NULL },
	{ "copy", "max_replica_lag", LATER, false, NULL, NULL, NULL, NULL },
	{ "", "verify", CONF_MAP, false, A_MAP, NULL, NULL, NULL },
	{ "verify", "window", CONF_TEXT, false, "off, or a time from 100ms to 10min, as in 5s", "5s", NULL, set_window },
	{ "verify", "coverage", CONF_TEXT, false, "a share of the keys, from 0.1 to 1", "1.0", NULL, set_coverage },
	{ "verify", "scrub", CONF_TEXT, false, "a time from 1s to 30d, as in 15m", "1h", NULL, set_scrub },
	{ "verify", "source_load", CONF_TEXT, false, "a share of one core, from 0.001 to 1", "0.1", NULL, set_source_load },
	{ "", "lanes", CONF_TEXT, false, "auto or a number from 1 to 64", "auto", NULL, set_lanes },
	{ "", "limits", CONF_MAP, false, A_MAP, NULL, NULL, NULL },
	{ "limits", "retained_wal", LATER, false, NULL, NULL, NULL, NULL },
	{ "limits", "memory", LATER, false, NULL, NULL, NULL, NULL },
	{ "", "http", CONF_ENTRY, false, "host:port, or {listen: host:port, token: ${VAR}}", NULL, NULL, set_http },
	{ "http", "listen", CONF_TEXT, false, "host:port", NULL, NULL, set_http },
	{ "http", "token", CONF_TEXT, false, "16 or more characters without blanks", NULL, NULL, set_http_token },
};
/* clang-format on */

static void make_names(struct migration *m)
{
	struct arena *a = &m->arena;

	m->slot = m->publication = arena_printf(a, "foreshadow_%s", m->name);
	m->changes_topic = arena_printf(a, "%s.changes", m->name);
	m->snapshot_topic = arena_printf(a, "%s.snapshot", m->name);
	m->control_topic = arena_printf(a, "%s.control", m->name);
	m->incidents_topic = arena_printf(a, "%s.incidents", m->name);
	m->group[ROLE_SHADOW] = arena_printf(a, "%s-shadow", m->name);
	m->group[ROLE_PRIMARY] = arena_printf(a, "%s-primary", m->name);
}

/* Only the plainest slip is seen here; servers are told apart once they are connected to. */
static bool check_servers(const struct migration *m, struct fault *f)
{
	const struct pg_server *servers[] = { &m->source, &m->target, &m->shadow };

	for (size_t i = 0; i < 3; i++)
		for (size_t j = i + 1; j < 3; j++)
			if (strcmp(servers[i]->uri, servers[j]->uri) == 0 && !servers[j]->dbname)
				return fault(f, FAULT_USAGE,
					     "%s: %s and %s are the same: expected two databases",
					     m->path, servers[i]->name, servers[j]->name);
	return true;
}

/* Never ignored: with `window: off` nothing is scrubbed by itself. */
static bool check_verify(const struct migration *m, struct fault *f)
{
	return m->window_ms ||
	       (m->scrub_s == SCRUB_DEFAULT_S && m->source_load == SOURCE_LOAD_DEFAULT && m->coverage == 1) ||
	       fault(f, FAULT_USAGE,
		     "%s: verify.coverage, verify.scrub and verify.source_load are of windows and the scrub between them, which "
		     "verify.window turns off; next step: verify: {window: 5s}",
		     m->path);
}

static bool migration_fill(struct migration *m, struct span text, struct fault *f)
{
	if (!conf_read(keys, sizeof(keys) / sizeof(*keys), m->path, text, &m->arena, m, f))
		return false;
	log_secret(getenv("PGPASSWORD"));
	if (!m->shadow.uri && !migration_default_shadow(m, f))
		return false;
	make_names(m);
	if (arena_failed(&m->arena))
		return fault(f, FAULT_USAGE, "%s: too large when read", m->path);
	return check_servers(m, f) && check_http(m, f) && check_verify(m, f) && mappings_check(&m->mappings, m->path, f);
}

bool migration_parse(struct migration *m, const char *path, struct span text, struct fault *f)
{
	*m = (struct migration) { .path = path };
	arena_init(&m->arena, MIGRATION_ARENA_MAX);
	m->path = arena_str(&m->arena, span_str(path));
	if (m->path && migration_fill(m, text, f))
		return true;
	migration_release(m);
	return false;
}

static bool read_file(int fd, const char *path, struct buf *b, struct fault *f)
{
	char chunk[65536];
	ssize_t n = 0;

	while (!buf_failed(b) && (n = read(fd, chunk, sizeof(chunk))) > 0)
		buf_add(b, chunk, (size_t)n);
	if (n < 0)
		return fault(f, FAULT_USAGE, "cannot read %s: %s", path, strerror(errno));
	if (buf_failed(b))
		return fault(f, FAULT_USAGE, "%s: larger than %d bytes", path, CONF_FILE_MAX);
	return true;
}

bool migration_read(struct migration *m, const char *path, struct fault *f)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct buf b;
	bool ok;

	*m = (struct migration) { .path = NULL };
	if (fd < 0)
		return fault(f, FAULT_USAGE, "cannot read %s: %s; expected a migration's YAML file",
			     path, strerror(errno));
	buf_init(&b, CONF_FILE_MAX);
	ok = read_file(fd, path, &b, f) && migration_parse(m, path, buf_span(&b), f);
	buf_release(&b);
	close(fd);
	return ok;
}

void migration_release(struct migration *m)
{
	arena_release(&m->arena);
	*m = (struct migration) { .path = NULL };
}
