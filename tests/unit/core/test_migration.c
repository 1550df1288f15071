// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/buf.h"
#include "core/migration.h"

#define NAME "migration: shop\n"
#define SERVERS                                                                                    \
	"source: {uri: \"host=old dbname=shop\"}\ntarget: {uri: "                                  \
	"\"postgresql://app@new:5432/store\"}\n"
#define KAFKA  "kafka: {bootstrap.servers: \"127.0.0.1:9092\"}\n"
#define TABLES "tables: {include: [\"public.*\"]}\n"
#define BASE   NAME SERVERS KAFKA TABLES /* five lines */

static void must_parse(struct migration *m, const char *yaml)
{
	struct fault f = { .kind = FAULT_NONE };

	if (!migration_parse(m, "m.yaml", span_str(yaml), &f))
		fail_msg("refused: %s", f.text);
}

static void the_smallest_file_gets_all_defaults(void **state)
{
	struct migration m;

	(void)state;
	must_parse(&m, BASE);
	assert_string_equal(m.name, "shop");
	assert_string_equal(m.source.uri, "host=old dbname=shop");
	assert_string_equal(m.source.name, "source");
	assert_int_equal(m.partition_count, 12);
	assert_int_equal(m.copy_jobs, 4);
	assert_int_equal(m.window_ms, 5000);
	assert_true(m.coverage == 1);
	assert_int_equal(m.lanes, 0);
	assert_int_equal(m.schema, SCHEMA_CREATE);
	assert_null(m.registry_url);
	assert_int_equal(m.kafka_count, 1);
	assert_string_equal(m.kafka[0].key, "bootstrap.servers");
	assert_string_equal(m.kafka[0].value, "127.0.0.1:9092");
	assert_string_equal(m.slot, "foreshadow_shop");
	assert_string_equal(m.publication, "foreshadow_shop");
	assert_string_equal(m.changes_topic, "shop.changes");
	assert_string_equal(m.snapshot_topic, "shop.snapshot");
	assert_string_equal(m.control_topic, "shop.control");
	assert_string_equal(m.incidents_topic, "shop.incidents");
	assert_string_equal(m.group[ROLE_SHADOW], "shop-shadow");
	assert_string_equal(m.group[ROLE_PRIMARY], "shop-primary");
	migration_release(&m);
}

static void every_key_of_this_version_is_taken(void **state)
{
	struct migration m;

	(void)state;
	must_parse(
	    &m, NAME SERVERS
	    "shadow: {uri: \"host=s dbname=x\"}\n"
	    "kafka:\n  bootstrap.servers: h:1\n  partitions: 3\n  linger.ms: 7\n"
	    "  schema.registry.url: http://r:8081\n  socket.keepalive.enable: true\n"
	    "tables:\n  include: [public.*, a.b]\n  exclude: [public.audit_*]\n"
	    "schema: exists\nunique: early\norder: transaction\nschema_mapping: []\n"
	    "transformation_rules: []\nrisk: {shadow_threshold: 0.0}\n"
	    "resolve: {shadow: none, primary: none}\n"
	    "schema_change: {add: stop, drop: stop, retype: stop, rename: stop, table: stop}\n"
	    "copy: {jobs: 2}\nverify: {window: 2s, coverage: 0.75, scrub: 15m, source_load: 0.25}\nlimits: {}\nlanes: 8\nhttp: ~\n");
	assert_false(m.shadow_is_default);
	assert_string_equal(m.shadow.uri, "host=s dbname=x");
	assert_null(m.shadow.dbname);
	assert_int_equal(m.partition_count, 3);
	assert_string_equal(m.registry_url, "http://r:8081");
	assert_int_equal(m.kafka_count, 3); /* ours are not handed to librdkafka */
	assert_int_equal(m.schema, SCHEMA_EXISTS);
	assert_int_equal(m.unique, UNIQUE_EARLY);
	assert_int_equal(m.order, ORDER_TRANSACTION);
	assert_int_equal(m.copy_jobs, 2);
	assert_int_equal(m.window_ms, 2000);
	assert_int_equal(m.scrub_s, 15 * 60);
	assert_true(m.source_load == 0.25);
	assert_true(m.coverage == 0.75);
	assert_int_equal(m.lanes, 8);
	assert_int_equal(m.include_count, 2);
	assert_int_equal(m.exclude_count, 1);
	migration_release(&m);
}

static void mappings_are_names_as_the_catalog_has_them(void **state)
{
	struct migration m;
	const struct mapping *orders;
	struct mapped to;

	(void)state;
	must_parse(&m, BASE
		   "schema_mapping:\n"
		   "  - from: public.*\n    to: sales.*\n"
		   "  - from: Public.\"Or\"\"ders\"\n    to: sales.orders\n"
		   "    columns: {Cust: customer_id, note: ~, qty: {to: '\"Quantity\"', type: bigint},\n"
		   "              secret: {to: ~}, same: {type: text}}\n"
		   "    origin: {column: shop, value: eu}\n"
		   "transformation_rules:\n"
		   "  - {table: sales.orders, column: Total, type: \"numeric(12,2)\", as: \"x / 100.0\"}\n"
		   "  - {table: sales.orders, where: \"tenant <> 0\"}\n");
	to = mappings_table(&m.mappings, span_str("public"), span_str("Or\"ders"));
	orders = to.mapping;
	assert_non_null(orders);
	assert_true(span_eq_str(to.schema, "sales") && span_eq_str(to.table, "orders"));
	assert_int_equal(orders->line, 9);
	assert_true(span_eq_str(mapping_column(orders, span_str("cust"))->to, "customer_id"));
	assert_true(mapping_column(orders, span_str("note"))->is_dropped);
	assert_true(span_eq_str(mapping_column(orders, span_str("qty"))->to, "Quantity"));
	assert_string_equal(mapping_column(orders, span_str("qty"))->type, "bigint");
	assert_null(mapping_column(orders, span_str("secret"))->to.p);
	assert_false(mapping_column(orders, span_str("secret"))->is_dropped);
	assert_true(span_eq_str(mapping_column(orders, span_str("same"))->to, "same"));
	assert_null(mapping_column(orders, span_str("other")));
	assert_true(span_eq_str(orders->origin_column, "shop"));
	/* All of a schema; and what nobody maps. */
	to = mappings_table(&m.mappings, span_str("public"), span_str("x"));
	assert_true(span_eq_str(to.schema, "sales") && span_eq_str(to.table, "x"));
	to = mappings_table(&m.mappings, span_str("other"), span_str("x"));
	assert_null(to.mapping);
	assert_true(span_eq_str(to.schema, "other") && span_eq_str(to.table, "x"));
	assert_int_equal(m.mappings.transform_count, 2);
	assert_true(span_eq_str(m.mappings.transforms[0].column, "total"));
	assert_string_equal(m.mappings.transforms[0].as, "x / 100.0");
	assert_true(m.mappings.transforms[1].is_filter);
	assert_string_equal(m.mappings.transforms[1].as, "tenant <> 0");
	assert_int_equal(mappings_line(&m.mappings, span_str("public"), span_str("Or\"ders")), 9);
	assert_int_equal(mappings_line(&m.mappings, span_str("other"), span_str("x")), 0);
	migration_release(&m);
}

static const struct refusal {
	const char *yaml;
	const char *words[4]; /* all in the message */
} refusals[] = {
	/* unknown keys name place and neighbour */
	{ BASE "lane: 4\n", { "m.yaml:6:", "unknown key lane;", "lanes" } },
	{ BASE "copy:\n  job: 4\n", { "m.yaml:7:", "unknown key copy.job;", "copy.jobs" } },
	{ NAME SERVERS TABLES "kafka:\n  bootstrap.servers: h:1\n  linger: 4\n",
	  { "m.yaml:7:", "unknown key kafka.linger;", "linger.ms" } },
	{ NAME SERVERS TABLES "kafka: {bootstrap.server: h}\n",
	  { "unknown key kafka.bootstrap.server;", "kafka.bootstrap.servers" } },
	{ BASE "schema_change: {ad: stop}\n", { "m.yaml:6:", "schema_change.add" } },
	{ BASE "resolve: {sahdow: none}\n", { "resolve.shadow" } },
	/* wrong types */
	{ BASE "copy: 4\n", { "m.yaml:6: copy:", "expected a map", "found text" } },
	{ BASE "copy: ~\n", { "m.yaml:6: copy:", "expected a map", "found nothing" } },
	{ BASE "copy: {jobs: many}\n", { "copy.jobs", "a number from 1 to 64", "\"many\"" } },
	{ BASE "copy: {jobs: 0}\n", { "copy.jobs", "a number from 1 to 64", "\"0\"" } },
	{ BASE "copy: {jobs: 99999999999999999999}\n", { "copy.jobs", "a number" } },
	{ BASE "copy: {jobs: [1]}\n", { "copy.jobs", "found a list" } },
	{ BASE "lanes: {a: b}\n", { "lanes", "auto or a number", "found a map" } },
	{ BASE "lanes: 65\n", { "m.yaml:6: lanes", "65" } },
	{ BASE "lanes:\n", { "m.yaml:6: lanes", "found nothing" } },
	{ BASE "schema: maybe\n", { "schema", "create or exists", "\"maybe\"" } },
	{ BASE "unique: never\n", { "m.yaml:6: unique", "late or early", "\"never\"" } },
	{ BASE "risk: {shadow_threshold: high}\n", { "risk.shadow_threshold", "from 0 to 1" } },
	{ NAME SERVERS KAFKA "tables: {include: public.*}\n",
	  { "m.yaml:5:", "tables.include", "a list of patterns", "found text" } },
	{ NAME SERVERS KAFKA "tables: {include: []}\n", { "tables.include", "empty list" } },
	{ NAME SERVERS KAFKA "tables:\n  include:\n    - orders\n", { "item 1", "schema.table" } },
	{ NAME SERVERS KAFKA "tables:\n  include:\n    - a.b\n    - [c.d]\n",
	  { "m.yaml:8: tables.include", "found a list" } },
	{ NAME SERVERS KAFKA "tables: {include: [a.b.c]}\n", { "schema.table" } },
	{ NAME SERVERS KAFKA "tables: {include: ['\"a.b']}\n", { "schema.table" } },
	{ NAME SERVERS TABLES "kafka: {bootstrap.servers: h, partitions: 0}\n",
	  { "kafka.partitions", "1 to 1024" } },
	{ NAME SERVERS TABLES "kafka: {bootstrap.servers: h, linger.ms: soon}\n",
	  { "kafka.linger.ms", "librdkafka" } },
	{ NAME SERVERS TABLES "kafka: {bootstrap.servers: h, schema.registry.url: 'r:8'}\n",
	  { "kafka.schema.registry.url", "http" } },
	{ "- a\n- b\n", { "m.yaml:1:", "expected a map", "a list" } },
	{ "migration\n", { "m.yaml:1:", "expected a map", "found text" } },
	/* missing parts */
	{ "", { "m.yaml:1:", "empty" } },
	{ SERVERS KAFKA TABLES, { "m.yaml:1: migration: missing", "expected a name" } },
	{ NAME KAFKA TABLES, { "m.yaml:1: source: missing" } },
	{ NAME SERVERS TABLES, { "kafka: missing", "bootstrap.servers" } },
	{ NAME SERVERS TABLES "kafka: {partitions: 3}\n",
	  { "m.yaml:5: kafka.bootstrap.servers: missing" } },
	{ NAME SERVERS KAFKA, { "tables: missing", "include" } },
	{ BASE "shadow: {}\n", { "m.yaml:6: shadow.uri: missing" } },
	/* names */
	{ "migration: Shop\n", { "m.yaml:1: migration", "[a-z][a-z0-9_]", "\"Shop\"" } },
	{ "migration: 1st\n", { "[a-z][a-z0-9_]" } },
	{ "migration: a-b\n", { "[a-z][a-z0-9_]" } },
	{ "migration: a2345678901234567890123456789012345678901\n", { "[a-z][a-z0-9_]" } },
	/* mapping and rules */
	{ BASE "schema_mapping: {from: a.b}\n", { "m.yaml:6: schema_mapping:", "expected a list" } },
	{ BASE "schema_mapping: [a]\n", { "m.yaml:6: schema_mapping:", "found text" } },
	{ BASE "schema_mapping:\n  - {to: c.d}\n",
	  { "m.yaml:7: schema_mapping.from: missing", "schema.table" } },
	{ BASE "schema_mapping: [{form: a.b}]\n", { "unknown key schema_mapping.form;", "from" } },
	{ BASE "schema_mapping: [{from: ab}]\n", { "m.yaml:6: schema_mapping.from", "\"ab\"" } },
	{ BASE "schema_mapping: [{from: a.b.c}]\n", { "schema_mapping.from", "schema.table" } },
	{ BASE "schema_mapping: [{from: '*.b'}]\n", { "schema_mapping.from", "schema.table" } },
	{ BASE "schema_mapping: [{from: 'a.*', to: b.c}]\n", { "m.yaml:6:", "schema.* for both" } },
	{ BASE "schema_mapping: [{from: 'a.*', columns: {x: y}}]\n", { "m.yaml:6:", "of one table" } },
	{ BASE "schema_mapping:\n - {from: a.b, to: a.c}\n - {from: a.B}\n",
	  { "m.yaml:8: schema_mapping.from", "line 7" } },
	{ BASE "schema_mapping: [{from: a.b, columns: {x: y, X: z}}]\n", { "\"x\" is given twice" } },
	{ BASE "schema_mapping: [{from: a.b, columns: {x: [y]}}]\n", { "columns.x", "found a list" } },
	{ BASE "schema_mapping: [{from: a.b, columns: {x: {too: y}}}]\n", { "columns.*.too", "to" } },
	{ BASE "schema_mapping: [{from: a.b, origin: {column: x}}]\n", { "origin", "column and value" } },
	{ BASE "transformation_rules:\n  - {column: x, as: '1'}\n",
	  { "m.yaml:7: transformation_rules.table: missing" } },
	{ BASE "transformation_rules: [{table: a.b}]\n", { "m.yaml:6:", "column and as, or where" } },
	{ BASE "transformation_rules: [{table: a.b, as: '1'}]\n", { "transformation_rules.column" } },
	{ BASE "transformation_rules: [{table: a.b, column: x, where: y}]\n", { "leave out column" } },
	{ BASE "transformation_rules: [{table: a.b, where: y, as: x}]\n", { "either as or where" } },
	{ BASE "transformation_rules: [{table: 'a.*', where: y}]\n", { "transformation_rules.table" } },
	{ BASE "transformation_rules:\n - {table: a.b, where: y}\n - {table: A.b, where: z}\n",
	  { "m.yaml:8:", "the rows already, in line 7" } },
	/* not in this version */
	{ BASE "order: commit\n", { "order", "key or transaction", "commit" } },
	{ BASE "risk: {shadow_threshold: 0.05}\n",
	  { "risk.shadow_threshold", "not in this version" } },
	{ BASE "resolve: {shadow: lossless}\n",
	  { "resolve.shadow", "not in this version", "none" } },
	{ BASE "resolve: {primary: proven}\n", { "resolve.primary", "not in this version" } },
	{ BASE "schema_change: {table: apply}\n",
	  { "schema_change.table", "not in this version", "stop" } },
	{ BASE "copy: {rate: 50MB/s}\n", { "copy.rate", "not in this version" } },
	{ BASE "verify: {window: 5}\n", { "verify.window", "off, or a time from 100ms to 10min", "5" } },
	{ BASE "verify: {window: 99ms}\n", { "verify.window", "a time from" } },
	{ BASE "verify: {window: 11min}\n", { "verify.window", "a time from" } },
	{ BASE "verify: {window: -5s}\n", { "verify.window", "a time from" } },
	{ BASE "verify: {window: 5 s}\n", { "verify.window", "a time from" } },
	{ BASE "verify: {window: 5s, scrub: 999ms}\n", { "verify.scrub", "a time from 1s to 30d", "999ms" } },
	{ BASE "verify: {window: 5s, scrub: 31d}\n", { "verify.scrub", "a time from 1s to 30d" } },
	{ BASE "verify: {window: 5s, source_load: 0}\n", { "verify.source_load", "a share of one core" } },
	{ BASE "verify: {window: 5s, source_load: 10%}\n", { "verify.source_load", "a share of one core", "10%" } },
	{ BASE "verify: {window: off, scrub: 15m}\n", { "verify.scrub", "verify.window turns off", "verify: {window: 5s}" } },
	{ BASE "verify: {window: 5s, coverage: 0}\n", { "verify.coverage", "from 0.1 to 1" } },
	{ BASE "verify: {window: off, coverage: 0.5}\n", { "verify.coverage", "verify.window turns off" } },
	{ BASE "verify: {window: off, source_load: 0.5}\n", { "verify.source_load", "verify.window turns off" } },
	{ BASE "limits: {memory: 256MB}\n", { "limits.memory", "not in this version" } },
	/* where it is served */
	{ BASE "http: \"0.0.0.0:8321\"\n",
	  { "m.yaml:6: http:", "0.0.0.0:8321 can be reached from other machines", "token" } },
	{ BASE "http: \"[::]:8321\"\n", { "can be reached from other machines" } },
	{ BASE "http: \"[::ffff:127.0.0.1]:8321\"\n", { "can be reached from other machines" } },
	{ BASE "http: \"localhost.example:8321\"\n", { "can be reached from other machines" } },
	{ BASE "http: {listen: \"10.0.0.1:80\"}\n", { "can be reached from other machines" } },
	{ BASE "http: 8321\n", { "m.yaml:6: http: expected host:port", "8321" } },
	{ BASE "http: \"127.0.0.1\"\n", { "expected host:port" } },
	{ BASE "http: \":8321\"\n", { "expected host:port" } },
	{ BASE "http: \"127.0.0.1:\"\n", { "expected host:port" } },
	{ BASE "http: \"127.0.0.1:0\"\n", { "expected host:port" } },
	{ BASE "http: \"127.0.0.1:65536\"\n", { "expected host:port" } },
	{ BASE "http: \"127.0.0.1:80x\"\n", { "expected host:port" } },
	{ BASE "http: \"::1:8321\"\n", { "expected host:port" } },
	{ BASE "http: \"[]:8321\"\n", { "expected host:port" } },
	{ BASE "http: \"[:8321\"\n", { "expected host:port" } },
	{ BASE "http: [a]\n", { "http", "expected host:port" } },
	{ BASE "http: {}\n", { "m.yaml:6: http.listen: missing" } },
	{ BASE "http: {token: \"${FS_TOKEN}\"}\n", { "http.listen: missing" } },
	{ BASE "http: {listen: \"127.0.0.1:1\", port: 1}\n", { "unknown key http.port" } },
	{ BASE "http: {listen: \"127.0.0.1:1\", token: literal-and-long-enough}\n",
	  { "http.token", "a literal token is refused" } },
	{ BASE "http: {listen: \"127.0.0.1:1\", token: \"${FS_SHORT}\"}\n", { "http.token", "16 or more" } },
	{ BASE "http: {listen: \"127.0.0.1:1\", token: \"${FS_BLANK}\"}\n", { "without blanks" } },
	/* settings of Kafka that are ours */
	{ NAME "kafka: {acks: 1}\n", { "m.yaml:2: kafka.acks", "all replicas" } },
	{ NAME "kafka: {enable.idempotence: false}\n", { "enable.idempotence" } },
	{ NAME "kafka: {group.id: x}\n", { "kafka.group.id", "named after" } },
	{ NAME "kafka: {group.instance.id: x}\n", { "kafka.group.instance.id" } },
	{ NAME "kafka: {enable.auto.commit: true}\n", { "progress is kept in the target" } },
	{ NAME "kafka: {partition.assignment.strategy: roundrobin}\n", { "range" } },
	{ NAME "kafka: {message.timeout.ms: 5}\n", { "never given up" } },
	{ NAME "kafka: {delivery.timeout.ms: 5}\n", { "never given up" } },
	{ NAME "kafka: {auto.offset.reset: latest}\n", { "kafka.auto.offset.reset" } },
	{ NAME "kafka: {transactional.id: x}\n", { "kafka.transactional.id" } },
	/* the file itself */
	{ BASE "migration: again\n", { "m.yaml:6:", "migration is given twice", "line 1" } },
	{ NAME "kafka: {bootstrap.servers: a, bootstrap.servers: b}\n", { "given twice" } },
	{ BASE "---\nmigration: b\n", { "m.yaml:7:", "second document" } },
	{ NAME "source: {uri: \"x\n", { "m.yaml:", "not YAML" } },
	{ "migration: \"a\\0b\"\n", { "NUL" } },
	{ "? [a]\n: b\n", { "m.yaml:1:", "plain word" } },
	{ "migration: *nowhere\n", { "m.yaml:1:", "not YAML" } },
	{ "source: &a {uri: *a}\n", { "source.uri", "found a map" } },
	/* variables */
	{ "migration: ${FORESHADOW_TEST_UNSET}\n",
	  { "m.yaml:1: migration", "FORESHADOW_TEST_UNSET" } },
	{ "migration: ${\n", { "${NAME}" } },
	{ "migration: ${1A}\n", { "${NAME}" } },
	/* servers */
	{ NAME "source: {uri: \"host\"}\n", { "m.yaml:2: source.uri", "libpq" } },
	{ NAME "source: {uri: \"hots=a\"}\n", { "source.uri", "libpq" } },
	{ NAME "source: {uri: a=b}\ntarget: {uri: a=b}\n", { "source.uri" } },
	{ NAME "source: {uri: host=a}\ntarget: {uri: host=a}\n" KAFKA TABLES,
	  { "source and target" } },
	{ NAME "source: \"postgresql://h/d\"\n", { "m.yaml:2: source", "a map with uri" } },
};

static void assert_served(const char *yaml, const char *host, const char *port, const char *token)
{
	struct migration m;
	char text[600];

	snprintf(text, sizeof(text), "%s%s", BASE, yaml);
	must_parse(&m, text);
	assert_string_equal(m.http.host, host);
	assert_string_equal(m.http.port, port);
	if (token)
		assert_string_equal(m.http.token, token);
	else
		assert_null(m.http.token);
	migration_release(&m);
}

static void it_is_served_on_loopback_or_with_a_token(void **state)
{
	struct migration m;

	(void)state;
	must_parse(&m, BASE "http: ~\n");
	assert_null(m.http.listen);
	migration_release(&m);
	setenv("FS_TOKEN", "0123456789abcdef", 1);
	setenv("FS_PORT", "81", 1);
	assert_served("http: \"127.0.0.1:8321\"\n", "127.0.0.1", "8321", NULL);
	assert_served("http: 127.9.9.9:${FS_PORT}\n", "127.9.9.9", "81", NULL);
	assert_served("http: localhost:8321\n", "localhost", "8321", NULL);
	assert_served("http: \"[::1]:8321\"\n", "::1", "8321", NULL);
	assert_served("http: {listen: \"127.0.0.1:1\"}\n", "127.0.0.1", "1", NULL);
	assert_served("http: {listen: \"0.0.0.0:1\", token: \"${FS_TOKEN}\"}\n", "0.0.0.0", "1",
		      "0123456789abcdef");
	assert_served("http: {token: \"${FS_TOKEN}\", listen: \"[::]:1\"}\n", "::", "1", "0123456789abcdef");
	unsetenv("FS_TOKEN");
	unsetenv("FS_PORT");
}

static void what_is_wrong_is_refused_with_its_place(void **state)
{
	(void)state;
	setenv("FS_TOKEN", "0123456789abcdef", 1);
	setenv("FS_SHORT", "0123456789abcde", 1);
	setenv("FS_BLANK", "0123456789 abcdef", 1);
	for (size_t i = 0; i < sizeof(refusals) / sizeof(*refusals); i++) {
		const struct refusal *r = &refusals[i];
		struct fault f = { .kind = FAULT_NONE };
		struct migration m;

		if (migration_parse(&m, "m.yaml", span_str(r->yaml), &f))
			fail_msg("accepted:\n%s", r->yaml);
		assert_int_equal(f.kind, FAULT_USAGE);
		for (size_t w = 0; w < 4 && r->words[w]; w++)
			if (!strstr(f.text, r->words[w]))
				fail_msg("no \"%s\" in: %s\nfor:\n%s", r->words[w], f.text,
					 r->yaml);
	}
}

static const char *const literals[] = {
	"source: {uri: \"postgresql://u:canary@h/d\"}\n",
	"source: {uri: \"postgres://u:c%61nary@h/d\"}\n",
	"source: {uri: \"postgresql://h/d?password=canary\"}\n",
	"source: {uri: \"postgresql://h/d?p%61ssword=canary\"}\n",
	"source: {uri: \"host=h password=canary\"}\n",
	"source: {uri: \"host=h password = 'canary'\"}\n",
	"source: {uri: \"host=h password='canary${FS_PASSWORD}'\"}\n",
	"source: {uri: \"host=h sslpassword=canary\"}\n",
	"source: {uri: \"postgresql://u:can/ary@h:canary/d\"}\n", /* libpq cannot read it */
	"source: {uri: \"postgresql://u:canary@[h/d\"}\n",
	"source: {uri: \"host=h password=canary nonsense\"}\n",
	"kafka: {sasl.password: canary}\n",
	"kafka: {ssl.key.password: canary}\n",
	"kafka: {ssl.keystore.password: \"${FS_PASSWORD}canary\"}\n",
	"kafka: {sasl.oauthbearer.client.secret: canary}\n",
	"kafka: {ssl.key.pem: canary}\n",
	"kafka: {schema.registry.url: \"http://u:canary@h\"}\n",
	"http: {listen: \"h:1\", token: canary-canary-canary}\n",
	"source: \"postgresql://u:canary@h/d\"\n",
};

static void a_literal_password_is_refused_and_not_shown(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(literals) / sizeof(*literals); i++) {
		struct fault f = { .kind = FAULT_NONE };
		struct migration m;

		if (migration_parse(&m, "m.yaml", span_str(literals[i]), &f))
			fail_msg("accepted: %s", literals[i]);
		assert_int_equal(f.kind, FAULT_USAGE);
		if (strstr(f.text, "canary") || strstr(f.text, "c%61") || strstr(f.text, "ary@"))
			fail_msg("shown: %s", f.text);
		assert_non_null(strstr(f.text, "m.yaml:1:"));
	}
}

static void a_literal_password_is_refused_with_the_ways_out(void **state)
{
	struct fault f;
	struct migration m;

	(void)state;
	assert_false(migration_parse(&m, "m.yaml", span_str(literals[0]), &f));
	assert_non_null(strstr(f.text, "source.uri"));
	assert_non_null(strstr(f.text, "${VAR}"));
	assert_non_null(strstr(f.text, "PGPASSFILE"));
	assert_non_null(strstr(f.text, "service file"));
}

/* What libpq makes of the source's URI for a keyword. */
static void assert_source_option(const char *yaml, const char *keyword, const char *wanted)
{
	PQconninfoOption *options, *o;
	struct migration m;

	must_parse(&m, yaml);
	options = PQconninfoParse(m.source.uri, NULL);
	assert_non_null(options);
	for (o = options; o->keyword && strcmp(o->keyword, keyword) != 0; o++)
		;
	assert_non_null(o->val);
	assert_string_equal(o->val, wanted);
	PQconninfoFree(options);
	migration_release(&m);
}

#define WITH_SOURCE(uri)                                                                           \
	NAME "source: {uri: \"" uri "\"}\ntarget: {uri: \"host=t dbname=x\"}\n" KAFKA TABLES

static void a_password_from_the_environment_arrives_as_it_is(void **state)
{
	static const char password[] = "p@s s/w:'\\%41#?&=\"";

	(void)state;
	setenv("FS_PASSWORD", password, 1);
	assert_source_option(WITH_SOURCE("postgresql://u:${FS_PASSWORD}@h:5/d"), "password",
			     password);
	assert_source_option(WITH_SOURCE("postgresql://u:${FS_PASSWORD}@h:5/d"), "host", "h");
	assert_source_option(WITH_SOURCE("postgresql://u@h/d?password=${FS_PASSWORD}"), "password",
			     password);
	assert_source_option(WITH_SOURCE("host=h password=${FS_PASSWORD} dbname=d"), "password",
			     password);
	assert_source_option(WITH_SOURCE("host=h password='${FS_PASSWORD}' dbname=d"), "dbname",
			     "d");
	unsetenv("FS_PASSWORD");
}

static void other_variables_stand_for_their_text(void **state)
{
	(void)state;
	setenv("FS_ALL", "postgresql://u:secret@h:77/d", 1);
	setenv("FS_HOST", "h:77", 1);
	assert_source_option(WITH_SOURCE("${FS_ALL}"), "password", "secret");
	assert_source_option(WITH_SOURCE("postgresql://u@${FS_HOST}/d"), "port", "77");
	assert_source_option(WITH_SOURCE("host=h dbname=a$b"), "dbname", "a$b");
	unsetenv("FS_ALL");
	unsetenv("FS_HOST");
}

static void kafka_secrets_come_from_the_environment(void **state)
{
	struct migration m;

	(void)state;
	setenv("FS_PASSWORD", "canary", 1);
	must_parse(&m, NAME SERVERS TABLES
		   "kafka: {bootstrap.servers: h, sasl.password: \"${FS_PASSWORD}\"}\n");
	assert_string_equal(m.kafka[1].key, "sasl.password");
	assert_string_equal(m.kafka[1].value, "canary");
	migration_release(&m);
	unsetenv("FS_PASSWORD");
}

static void assert_default_shadow(const char *target, const char *wanted)
{
	char yaml[1024];
	struct migration m;

	snprintf(yaml, sizeof(yaml),
		 NAME KAFKA TABLES "source: {uri: host=a}\ntarget: {uri: \"%s\"}\n", target);
	must_parse(&m, yaml);
	assert_true(m.shadow_is_default);
	assert_string_equal(m.shadow.name, "shadow");
	assert_string_equal(m.shadow.uri, m.target.uri);
	assert_string_equal(m.shadow.dbname, wanted);
	migration_release(&m);
}

static void the_default_shadow_is_beside_the_target(void **state)
{
	char path[] = "/tmp/foreshadow-service-XXXXXX";
	static const char service[] = "[shop_new]\nhost=h\ndbname=stock\n";
	int fd = mkstemp(path);

	(void)state;
	assert_true(write(fd, service, sizeof(service) - 1) == (ssize_t)sizeof(service) - 1);
	close(fd);
	unsetenv("PGDATABASE");
	assert_default_shadow("postgresql://app@new:5432/store?sslmode=verify-full",
			      "store_shadow");
	assert_default_shadow("host=h dbname='my db'", "my db_shadow");
	assert_default_shadow("postgresql://app@new", "app_shadow");
	setenv("PGDATABASE", "fromenv", 1);
	assert_default_shadow("postgresql://app@new", "fromenv_shadow");
	setenv("PGSERVICEFILE", path, 1);
	assert_default_shadow("service=shop_new", "stock_shadow");
	assert_null(getenv("PGSERVICE"));
	unsetenv("PGDATABASE");
	unsetenv("PGSERVICEFILE");
	unlink(path);
}

static bool has(const char *include, const char *exclude, const char *schema, const char *table)
{
	const char *in[] = { include }, *out[] = { exclude };
	struct migration m = {
		.include = in, .include_count = 1, .exclude = out, .exclude_count = exclude ? 1 : 0
	};

	return migration_has_table(&m, span_str(schema), span_str(table));
}

static void patterns_match_as_a_dba_expects(void **state)
{
	(void)state;
	assert_true(has("public.*", NULL, "public", "orders"));
	assert_false(has("public.*", NULL, "publi", "c.orders"));
	assert_false(has("public.*", NULL, "public2", "orders"));
	assert_false(has("public.*", "public.audit_*", "public", "audit_log"));
	assert_true(has("public.*", "public.audit_*", "public", "audits"));
	assert_true(has("*.*", NULL, "a", "b"));
	assert_true(has("p*c.o*r*s", NULL, "public", "orders"));
	assert_true(has("public.*a*b", NULL, "public", "aabab"));
	assert_false(has("public.*a*b", NULL, "public", "aaba"));
	assert_true(has("public.order?", NULL, "public", "orders"));
	assert_false(has("public.order?", NULL, "public", "order"));
	assert_true(has("public.caf?", NULL, "public", "caf\xc3\xa9"));
	assert_true(has("public.Orders", NULL, "public", "orders"));
	assert_false(has("public.Orders", NULL, "public", "Orders"));
	assert_true(has("public.\"Orders\"", NULL, "public", "Orders"));
	assert_true(has("\"a.b\".\"c*\"", NULL, "a.b", "c*"));
	assert_false(has("\"a.b\".\"c*\"", NULL, "a.b", "cc"));
	assert_true(has("a.\"q\"\"q\"", NULL, "a", "q\"q"));
	assert_true(has("a.\"Q\"*", NULL, "a", "Quarter"));
	assert_false(has("a.b", NULL, "a", "bb"));
	assert_false(has("a.b", NULL, "a", ""));
}

static void a_file_that_is_too_large_is_refused(void **state)
{
	size_t n = (1 << 20) + 1;
	char *text = malloc(n);
	struct fault f;
	struct migration m;

	(void)state;
	memset(text, '#', n);
	assert_false(migration_parse(&m, "m.yaml", span(text, n), &f));
	assert_non_null(strstr(f.text, "larger"));
	free(text);
}

static void a_file_that_is_not_there_is_named(void **state)
{
	struct fault f;
	struct migration m;

	(void)state;
	assert_false(migration_read(&m, "/nowhere/m.yaml", &f));
	assert_int_equal(f.kind, FAULT_USAGE);
	assert_non_null(strstr(f.text, "/nowhere/m.yaml"));
	assert_false(migration_read(&m, "/", &f));
	migration_release(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_smallest_file_gets_all_defaults),
		cmocka_unit_test(every_key_of_this_version_is_taken),
		cmocka_unit_test(mappings_are_names_as_the_catalog_has_them),
		cmocka_unit_test(it_is_served_on_loopback_or_with_a_token),
		cmocka_unit_test(what_is_wrong_is_refused_with_its_place),
		cmocka_unit_test(a_literal_password_is_refused_and_not_shown),
		cmocka_unit_test(a_literal_password_is_refused_with_the_ways_out),
		cmocka_unit_test(a_password_from_the_environment_arrives_as_it_is),
		cmocka_unit_test(other_variables_stand_for_their_text),
		cmocka_unit_test(kafka_secrets_come_from_the_environment),
		cmocka_unit_test(the_default_shadow_is_beside_the_target),
		cmocka_unit_test(patterns_match_as_a_dba_expects),
		cmocka_unit_test(a_file_that_is_too_large_is_refused),
		cmocka_unit_test(a_file_that_is_not_there_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
