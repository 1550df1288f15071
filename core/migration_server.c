// SPDX-License-Identifier: Apache-2.0
/*
 * migration_server - the URIs of the YAML.
 *
 * Secrets. A password must come from the environment (${VAR}, PGPASSWORD), PGPASSFILE or a service
 * file. So URIs are looked at before ${VAR} is expanded, with libpq's own parser, which finds a
 * password in any of its forms: its value there must be one ${VAR} as a whole. The variable holds
 * the password itself: it is encoded for the form of the URI it is put into. libpq's words about a
 * string it cannot read are never shown, for they quote it.
 */
#include <stdlib.h>

#include "core/buf.h"
#include "core/log.h"
#include "core/migration_keys.h"

#define PASSWORD_HINT                                                                              \
	"a literal password is refused; next step: write ${VAR} in its place, or use PGPASSFILE "  \
	"or a service file"

void migration_encode_percent(struct buf *b, const char *value)
{
	for (const unsigned char *p = (const unsigned char *)value; *p; p++)
		buf_printf(b, "%%%02X", *p);
}

/* A backslash keeps any byte what it is, inside quotes and outside. */
static void encode_backslash(struct buf *b, const char *value)
{
	for (const char *p = value; *p; p++) {
		buf_u8(b, '\\');
		buf_u8(b, (uint8_t)*p);
	}
}

static bool is_uri(const char *text)
{
	return strncmp(text, "postgresql://", 13) == 0 || strncmp(text, "postgres://", 11) == 0;
}

static bool is_secret_option(const PQconninfoOption *o)
{
	return o->dispchar[0] == '*' && o->val && *o->val; /* libpq's mark of a password field */
}

/* *ret_variable: the VAR that holds the password, or NULL when there is none in the string. */
static bool check_passwords(const struct conf_value *v, const char **ret_variable, struct fault *f)
{
	PQconninfoOption *options = PQconninfoParse(v->raw, NULL);
	bool ok = true;

	*ret_variable = NULL;
	if (!options)
		return conf_refuse(v, f,
				   "expected %s; libpq cannot read this one (special characters "
				   "in a URI are written %%XX)",
				   v->key->expected);
	for (PQconninfoOption *o = options; ok && o->keyword; o++) {
		const char *variable;

		if (!is_secret_option(o))
			continue;
		variable = conf_whole_variable(v->arena, o->val);
		if (!variable)
			ok = conf_refuse(v, f, "%s", PASSWORD_HINT);
		else if (*ret_variable && strcmp(*ret_variable, variable) != 0)
			ok = conf_refuse(v, f,
					 "two passwords in one URI: put one in a service file");
		*ret_variable = variable;
	}
	PQconninfoFree(options);
	return ok;
}

static bool register_passwords(const struct conf_value *v, const char *uri, struct fault *f)
{
	PQconninfoOption *options = PQconninfoParse(uri, NULL);

	if (!options)
		return conf_refuse(v, f, "expected %s; libpq cannot read this one after ${VAR}",
				   v->key->expected);
	for (PQconninfoOption *o = options; o->keyword; o++)
		if (is_secret_option(o))
			log_secret(o->val);
	PQconninfoFree(options);
	return true;
}

static bool set_server(struct pg_server *s, const char *name, const struct conf_value *v,
		       struct fault *f)
{
	const char *variable = NULL, *uri = v->text;

	/* A whole URI out of the environment may hold what it wants. */
	if (!conf_whole_variable(v->arena, v->raw)) {
		if (!check_passwords(v, &variable, f))
			return false;
		uri = conf_expand(v, variable, is_uri(v->raw) ? migration_encode_percent : encode_backslash,
				  f);
	}
	if (!uri || !register_passwords(v, uri, f))
		return false;
	*s = (struct pg_server) { .uri = uri, .name = name };
	return true;
}

bool migration_set_source(void *out, const struct conf_value *v, struct fault *f)
{
	return set_server(&((struct migration *)out)->source, "source", v, f);
}

bool migration_set_target(void *out, const struct conf_value *v, struct fault *f)
{
	return set_server(&((struct migration *)out)->target, "target", v, f);
}

bool migration_set_shadow(void *out, const struct conf_value *v, struct fault *f)
{
	return set_server(&((struct migration *)out)->shadow, "shadow", v, f);
}

static const char *option(const PQconninfoOption *options, const char *keyword)
{
	for (const PQconninfoOption *o = options; o && o->keyword; o++)
		if (strcmp(o->keyword, keyword) == 0 && o->val && *o->val)
			return o->val;
	return NULL;
}

/*
 * libpq's defaults as they are when the URI names this service: only PQconndefaults reads service
 * files without connecting, and it takes the service's name from PGSERVICE. Thread: main, at start.
 */
static PQconninfoOption *defaults_of_service(const char *service)
{
	const char *env = getenv("PGSERVICE");
	char *saved = env ? strdup(env) : NULL;
	PQconninfoOption *defaults;

	if (service)
		setenv("PGSERVICE", service, 1);
	defaults = PQconndefaults();
	if (saved)
		setenv("PGSERVICE", saved, 1);
	else
		unsetenv("PGSERVICE");
	free(saved);
	return defaults;
}

/* The database the URI leads to, by libpq's rules: itself, service, PGDATABASE, the user's name. */
static const char *database_of(struct arena *arena, const char *uri)
{
	PQconninfoOption *given = PQconninfoParse(uri, NULL);
	PQconninfoOption *defaults = defaults_of_service(option(given, "service"));
	const char *name = option(given, "dbname");

	if (!name)
		name = option(defaults, "dbname");
	if (!name)
		name = option(given, "user");
	if (!name)
		name = option(defaults, "user");
	if (name)
		name = arena_str(arena, span_str(name));
	PQconninfoFree(given);
	PQconninfoFree(defaults);
	return name;
}

bool migration_default_shadow(struct migration *m, struct fault *f)
{
	const char *database = database_of(&m->arena, m->target.uri);

	if (!database)
		return fault(
		    f, FAULT_USAGE,
		    "%s: target.uri names no database, so the shadow has no name; next step: add "
		    "shadow: {uri: ...}",
		    m->path);
	m->shadow_is_default = true;
	m->shadow = (struct pg_server) { .uri = m->target.uri,
					 .name = "shadow",
					 .dbname = arena_printf(&m->arena, "%s_shadow", database) };
	return true;
}
