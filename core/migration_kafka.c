// SPDX-License-Identifier: Apache-2.0
/*
 * migration_kafka - the settings under kafka: in the YAML. They are librdkafka's, but for those that are ours to choose,
 * and the schema registry's.
 */
#include <stdlib.h>

#include "core/log.h"
#include "core/migration_keys.h"

enum { KAFKA_SETTINGS_MAX = 200 };

static const struct refused_row {
	const char *prefix, *reason;
} refused_rows[] = {
	{ "acks", "a change must be on all replicas before the source forgets it" },
	{ "request.required.acks",
	  "a change must be on all replicas before the source forgets it" },
	{ "enable.idempotence", "a resent record must not appear twice" },
	{ "enable.gapless.guarantee",
	  "a lost record starts a new generation, which fills the gap" },
	{ "group.", "groups and members are named after migration, role and instance" },
	{ "enable.auto.", "progress is kept in the target, with the changes" },
	{ "auto.commit.enable", "progress is kept in the target, with the changes" },
	{ "partition.assignment.strategy", "both topics' partitions must go to one member: range" },
	{ "message.timeout.ms", "a change is never given up: resent until it is acknowledged" },
	{ "delivery.timeout.ms", "a change is never given up: resent until it is acknowledged" },
	{ "auto.offset.reset", "a consumer must not jump over changes, or back" },
	{ "transactional.id", "Kafka transactions are not used: targets decide what is applied" },
	{ "delivery.report.only.error", "acknowledgements say what the source may forget" },
	{ "message.max.bytes", "it is 64 MiB, as the topics are made" },
	{ "message.max", "it is 64 MiB, as the topics are made" },
	{ "receive.message.max.bytes", "it follows from the largest record, 64 MiB" },
	{ "allow.auto.create.topics", "a topic made by accident has the wrong settings" },
	{ "socket.nagle.disable", "it is on: an acknowledgement must not wait" },
	{ "check.crcs", "it is on: a damaged record must not be applied" },
	{ "isolation.level", "there are no Kafka transactions to be isolated from" },
	{ "enable.partition.eof", "the end of a partition is found by offsets" },
	{ "client.id", "it names migration, role and instance" },
};

static const char *refused_reason(const char *key)
{
	for (size_t i = 0; i < sizeof(refused_rows) / sizeof(*refused_rows); i++) {
		const char *prefix = refused_rows[i].prefix;
		size_t n = strlen(prefix);

		if (strncmp(key, prefix, n) == 0 && (prefix[n - 1] == '.' || !key[n]))
			return refused_rows[i].reason;
	}
	return NULL;
}

static bool is_secret_setting(const char *key)
{
	return strstr(key, "password") || strstr(key, "secret") ||
	       strcmp(key, "ssl.key.pem") == 0 || strcmp(key, "sasl.jaas.config") == 0;
}

/* Names that rd_kafka_conf_dump leaves out because they are ours, or aliases. */
static const char *const more_settings[] = {
	"partitions",    "schema.registry.url", "bootstrap.servers", "linger.ms",
	"retries",       "compression.type",    "sasl.mechanism",    "max.partition.fetch.bytes",
	"max.in.flight",
};
enum { MORE_SETTINGS = sizeof(more_settings) / sizeof(*more_settings) };

/* Not to be set by text, or not by the user. */
static bool is_settable(const char *name)
{
	return !strstr(name, "_cb") && !strstr(name, "opaque") && !refused_reason(name);
}

static bool refuse_unknown_setting(const struct conf_value *v, rd_kafka_conf_t *conf,
				   struct fault *f)
{
	size_t n = 0, count = 0;
	const char **dump = rd_kafka_conf_dump(conf, &n), *known[512];
	bool ok;

	for (; count < MORE_SETTINGS; count++)
		known[count] = more_settings[count];
	for (size_t i = 0; i + 1 < n && count < sizeof(known) / sizeof(*known); i += 2)
		if (is_settable(dump[i]))
			known[count++] = dump[i];
	ok = fault(f, FAULT_USAGE,
		   "%s:%d: unknown key kafka.%.64s; the nearest known key is kafka.%s", v->path,
		   v->line, v->name, conf_nearest(v->name, known, count));
	rd_kafka_conf_dump_free(dump, n);
	return ok;
}

/* Tried on a configuration that is thrown away: so the message has the line. */
static bool check_setting(const struct conf_value *v, struct fault *f)
{
	rd_kafka_conf_t *conf;
	char reason[256];
	bool ok = true;

	/* Setting this one loads the libraries it names. */
	if (strcmp(v->name, "plugin.library.paths") == 0)
		return true;
	conf = rd_kafka_conf_new();
	switch (rd_kafka_conf_set(conf, v->name, v->text, reason, sizeof(reason))) {
	case RD_KAFKA_CONF_OK:
		break;
	case RD_KAFKA_CONF_UNKNOWN:
		ok = refuse_unknown_setting(v, conf, f);
		break;
	case RD_KAFKA_CONF_INVALID:
		ok = conf_refuse(v, f, "librdkafka: %s",
				 is_secret_setting(v->name) ? "invalid value" : reason);
		break;
	}
	rd_kafka_conf_destroy(conf);
	return ok;
}

bool migration_set_kafka(void *out, const struct conf_value *v, struct fault *f)
{
	struct migration *m = out;
	const char *reason = refused_reason(v->name);

	if (reason)
		return conf_refuse(v, f, "this setting is foreshadow's own: %s", reason);
	if (is_secret_setting(v->name)) {
		if (!conf_whole_variable(v->arena, v->raw))
			return conf_refuse(v, f,
					   "a literal password or key is refused; next step: write "
					   "${VAR} in its place");
		log_secret(v->text);
	}
	if (!check_setting(v, f))
		return false;
	if (!m->kafka)
		m->kafka = arena_alloc(&m->arena, KAFKA_SETTINGS_MAX * sizeof(*m->kafka));
	if (!m->kafka || m->kafka_count == KAFKA_SETTINGS_MAX)
		return conf_refuse(v, f, "too large");
	m->kafka[m->kafka_count++] = (struct kafka_setting) { v->name, v->text };
	return true;
}

/* scheme://user:password@host…: the password's place, or an empty span. */
static struct span url_password(const char *url)
{
	const char *start = strstr(url, "://"), *at = NULL, *colon;
	size_t n;

	if (!start)
		return span("", 0);
	start += 3;
	n = strcspn(start, "/?#");
	for (size_t i = 0; i < n; i++)
		if (start[i] == '@')
			at = start + i;
	colon = at ? memchr(start, ':', (size_t)(at - start)) : NULL;
	return colon ? span(colon + 1, (size_t)(at - colon) - 1) : span("", 0);
}

bool migration_set_registry(void *out, const struct conf_value *v, struct fault *f)
{
	struct migration *m = out;
	struct span password = url_password(v->raw);
	const char *variable = NULL;

	if (password.n > 0 && !conf_whole_variable(v->arena, v->raw)) {
		char *text = arena_str(v->arena, password);

		variable = text ? conf_whole_variable(v->arena, text) : NULL;
		if (!variable)
			return conf_refuse(v, f,
					   "a literal password is refused; next step: write ${VAR} "
					   "in its place");
		log_secret(getenv(variable));
	}
	m->registry_url = conf_expand(v, variable, migration_encode_percent, f);
	if (!m->registry_url)
		return false;
	password = url_password(m->registry_url);
	if (password.n > 0)
		log_secret(arena_str(v->arena, password));
	if (strncmp(m->registry_url, "http://", 7) != 0 &&
	    strncmp(m->registry_url, "https://", 8) != 0)
		return conf_refuse(v, f, "expected %s", v->key->expected);
	return true;
}
