// SPDX-License-Identifier: Apache-2.0
#include "shadow/database.h"

#include "core/buf.h"

enum { SQL_BYTES = 1 << 16 };

/* The statement that makes the database; the server knows the ways of its version to name a locale. */
static const char create_sql[] =
	"SELECT format('CREATE DATABASE %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L', $1::text,"
	"  pg_encoding_to_char(d.encoding), d.datcollate, d.datctype) ||"
	" CASE j->>'datlocprovider'"
	"  WHEN 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L', coalesce(j->>'datlocale', j->>'daticulocale'))"
	"   || coalesce(format(' ICU_RULES %L', j->>'daticurules'), '')"
	"  WHEN 'b' THEN format(' LOCALE_PROVIDER builtin BUILTIN_LOCALE %L', j->>'datlocale')"
	"  ELSE ' LOCALE_PROVIDER libc' END"
	" FROM pg_database d CROSS JOIN LATERAL to_jsonb(d) j WHERE d.datname = current_database()";

bool database_create(PGconn *like, const char *name, const char *comment, struct fault *f)
{
	struct buf sql;
	PGresult *r = pg_query_params(like, f, create_sql, 1, &name);
	bool ok = r && pg_do(like, f, PQgetvalue(r, 0, 0));

	PQclear(r);
	buf_init(&sql, SQL_BYTES);
	buf_str(&sql, "COMMENT ON DATABASE ");
	pg_quote_ident(&sql, span_str(name));
	buf_str(&sql, " IS ");
	pg_quote_literal(&sql, span_str(comment));
	ok = ok && pg_do(like, f, buf_cstr(&sql));
	buf_release(&sql);
	return ok;
}
