// SPDX-License-Identifier: Apache-2.0
/*
 * migration - the YAML file (a MigrationInstruction) as a struct, and the names made from it.
 *
 * One table of keys drives reading, checking and the messages. ${VAR} is expanded. A literal
 * password in a URI is refused. A known key that this version cannot honour is refused unless its
 * value asks for what happens anyway. Everything lives in the struct's arena.
 */
#ifndef CORE_MIGRATION_H
#define CORE_MIGRATION_H

#include "core/arena.h"
#include "core/fault.h"
#include "core/kafka.h"
#include "core/mapping.h"
#include "core/pg.h"

enum schema_mode { SCHEMA_CREATE, SCHEMA_EXISTS };
enum unique_mode { UNIQUE_LATE, UNIQUE_EARLY };
/* What a target may show: changes of one key in order, or whole source transactions in order. */
enum migration_order { ORDER_KEY, ORDER_TRANSACTION };
enum schema_change_policy { SCHEMA_CHANGE_APPLY, SCHEMA_CHANGE_RECOPY, SCHEMA_CHANGE_STOP };

enum { MIGRATION_LANES_MAX = 64 };

/* Where the numbers are served; an address that others can reach has a token. */
struct migration_http {
	const char *listen;              /* as in the file, "host:port"; NULL: nowhere */
	const char *host, *port;
	const char *token;               /* what requests must show, or NULL */
	int line;                        /* 0: not given */
};

struct migration {
	struct arena arena;
	const char *path;                /* of the YAML file */
	const char *name;                /* migration: */
	struct pg_server source, target, shadow;
	bool shadow_is_default;          /* shadow: not given: <target db>_shadow on the target's server */
	struct kafka_setting *kafka;     /* what goes to librdkafka; NULL-terminated by count */
	size_t kafka_count;
	int partition_count;             /* kafka.partitions, default 12 */
	const char *registry_url;        /* kafka.schema.registry.url or NULL */
	const char **include, **exclude; /* patterns schema.table with * and ?, double quotes allowed */
	size_t include_count, exclude_count;
	struct mappings mappings;
	enum schema_mode schema;
	enum unique_mode unique;         /* default late */
	enum migration_order order;
	int copy_jobs;                   /* default 4 */
	int window_ms;                   /* verify.window; default 5 s; 0 (off): no windows, and the gate is open */
	int scrub_s;                     /* verify.scrub, in seconds: from one scrub to the next; default 1 h */
	double coverage;                 /* verify.coverage: share of a late window's keys that are compared; default 1 */
	double source_load;              /* verify.source_load: share of one core of the source; default 0.1 */
	int lanes;                       /* 0: auto; up to MIGRATION_LANES_MAX */
	struct migration_http http;      /* http: */

	/* names, made by migration_read */
	const char *slot, *publication;  /* foreshadow_<name> */
	const char *changes_topic, *snapshot_topic, *control_topic, *incidents_topic;
	const char *group[2];            /* <name>-shadow, <name>-primary: indexed by enum role */
};

/* "late", "early" */
const char *unique_mode_name(enum unique_mode mode);

enum role { ROLE_SHADOW, ROLE_PRIMARY };

bool migration_read(struct migration *m, const char *path, struct fault *f);
/* As migration_read from bytes; path is for messages. What the fuzzer calls. */
bool migration_parse(struct migration *m, const char *path, struct span text, struct fault *f);
void migration_release(struct migration *m);

/* Is schema.table in tables:? (include matches and no exclude does) */
bool migration_has_table(const struct migration *m, struct span schema, struct span table);

static inline const struct pg_server *migration_target(const struct migration *m, enum role role)
{
	return role == ROLE_SHADOW ? &m->shadow : &m->target;
}

#endif
