// SPDX-License-Identifier: Apache-2.0
#include "reconcile/final_sql.h"

#define HEAD                                                                                                          \
	"WITH RECURSIVE arg AS (SELECT $1::jsonb AS scope, $2::jsonb AS source, $3::text AS migration,"               \
	"  $4::int AS partitions, $5::bool AS is_created, $6::pg_lsn AS lsn),"                                        \
	" leaf AS (SELECT x.* FROM arg, jsonb_to_recordset(scope) x(oid bigint, source_schema text, source_table text," \
	"  schema text, \"table\" text, columns jsonb)),"                                                             \
	" t AS (SELECT DISTINCT ON (source_schema, source_table) * FROM leaf ORDER BY source_schema, source_table)"

const char final_source_head[] =
	HEAD ", src AS (SELECT c.oid, t.schema, t.\"table\", t.columns FROM t JOIN pg_namespace n ON n.nspname = t.source_schema"
	"  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.source_table) ";

const char final_target_head[] =
	HEAD ", base(oid) AS (SELECT DISTINCT c.oid FROM t JOIN pg_namespace n ON n.nspname = t.schema"
	"  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.\"table\"),"
	" own(oid) AS (SELECT oid FROM base UNION SELECT i.inhrelid FROM pg_inherits i JOIN own ON own.oid = i.inhparent) ";

#define NAMED "to_regclass(format('%I.%I', x.schema, x.\"table\"))"

/* ---- foreign keys and other constraints ---- */

static const char unvalidated_source[] =
	"SELECT s.schema, s.\"table\", k.conname FROM src s JOIN pg_constraint k ON k.conrelid = s.oid WHERE NOT k.convalidated";

#define SAME_ON_SOURCE                                                                                        \
	"EXISTS (SELECT FROM arg, jsonb_to_recordset(arg.source) x(schema text, \"table\" text, conname text)" \
	" WHERE x.conname = k.conname AND " NAMED " = k.conrelid)"

static const char unvalidated_target[] =
	"SELECT k.conrelid::regclass || ': ' || k.conname, CASE WHEN " SAME_ON_SOURCE
	" THEN 'not validated, as on the source' ELSE 'not validated' END, " SAME_ON_SOURCE
	" FROM pg_constraint k JOIN own ON own.oid = k.conrelid WHERE NOT k.convalidated ORDER BY 1";

/* MATCH FULL: neither without a parent nor partly null. By the key's own operators. */
static const char orphans_target[] =
	"SELECT k.conrelid::regclass || ': ' || k.conname,"
	"  format('SELECT count(*) FROM %s c WHERE (%s) AND NOT EXISTS (SELECT FROM %s p WHERE %s)',"
	"   k.conrelid::regclass, u.given, k.confrelid::regclass, u.same),"
	"  'rows without the row they refer to'"
	" FROM pg_constraint k JOIN own ON own.oid = k.conrelid CROSS JOIN LATERAL ("
	"  SELECT string_agg(format('p.%I OPERATOR(%I.%s) c.%I', pa.attname, n.nspname, o.oprname, ca.attname), ' AND ') AS same,"
	"   string_agg(format('c.%I IS NOT NULL', ca.attname), CASE k.confmatchtype WHEN 'f' THEN ' OR ' ELSE ' AND ' END) AS given"
	"  FROM unnest(k.conkey, k.confkey, k.conpfeqop) u(child, parent, operator)"
	"  JOIN pg_attribute ca ON ca.attrelid = k.conrelid AND ca.attnum = u.child"
	"  JOIN pg_attribute pa ON pa.attrelid = k.confrelid AND pa.attnum = u.parent"
	"  JOIN pg_operator o ON o.oid = u.operator JOIN pg_namespace n ON n.oid = o.oprnamespace) u"
	" WHERE k.contype = 'f' AND k.conparentid = 0 AND to_jsonb(k) ->> 'conperiod' IS DISTINCT FROM 'true'"
	"  AND NOT " SAME_ON_SOURCE " ORDER BY 1";

/* ---- indexes ---- */

static const char invalid_indexes_target[] =
	"SELECT i.indrelid::regclass || ': ' || i.indexrelid::regclass, CASE WHEN i.indisvalid THEN 'not ready' ELSE 'invalid' END,"
	"  false FROM pg_index i JOIN own ON own.oid = i.indrelid WHERE NOT (i.indisvalid AND i.indisready AND i.indislive) ORDER BY 1";

/* What an index is: its keys (in names of the target), unique or not, and which rows. */
#define INDEX_KEYS(attribute)                                                                                 \
	"(SELECT jsonb_agg(CASE WHEN k.att = 0 THEN pg_get_indexdef(i.indexrelid, k.n::int, true)"             \
	"   ELSE " attribute " END ORDER BY k.n)"                                                              \
	"  FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(att, n)"                                            \
	"  LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.att WHERE k.n <= i.indnkeyatts)"

static const char missing_indexes_source[] =
	"SELECT s.schema, s.\"table\", c.relname AS name, i.indisunique AS is_unique, pg_get_indexdef(c.oid) AS definition,"
	"  pg_get_expr(i.indpred, i.indrelid) AS predicate, " INDEX_KEYS("s.columns ->> a.attname::text") " AS keys"
	" FROM src s JOIN pg_index i ON i.indrelid = s.oid JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indisvalid";

static const char missing_indexes_target[] =
	"SELECT format('%s.%s: %s', x.schema, x.\"table\", x.name), 'only on the source: ' || x.definition,"
	"  NOT x.is_unique OR NOT arg.is_created OR x.keys @> '[null]'"
	"   OR (SELECT count(*) FROM t WHERE t.schema = x.schema AND t.\"table\" = x.\"table\") > 1"
	" FROM arg CROSS JOIN LATERAL jsonb_to_recordset(arg.source) x(schema text, \"table\" text, name text,"
	"  is_unique bool, definition text, predicate text, keys jsonb)"
	" WHERE NOT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
	"  WHERE i.indrelid = " NAMED " AND (c.relname = x.name OR (i.indisunique = x.is_unique"
	"   AND pg_get_expr(i.indpred, i.indrelid) IS NOT DISTINCT FROM x.predicate"
	"   AND " INDEX_KEYS("a.attname::text") " = x.keys))) ORDER BY 3, 1";

/* ---- triggers ---- */

static const char triggers_source[] =
	"SELECT s.schema, s.\"table\", g.tgname AS name, g.tgenabled::text AS enabled FROM src s"
	" JOIN pg_trigger g ON g.tgrelid = s.oid WHERE NOT g.tgisinternal AND g.tgparentid = 0";

#define STATE_OF(letter) "('{\"O\": \"enabled\", \"D\": \"disabled\", \"R\": \"for replicas only\", \"A\": \"always\"}'::jsonb ->> " letter ")"

/* A foreign key is two pairs of triggers of its own: disabled, it is not enforced. */
static const char triggers_target[] =
	"SELECT format('%s.%s: %s', x.schema, x.\"table\", x.name), CASE WHEN g.oid IS NULL THEN 'only on the source'"
	"  ELSE " STATE_OF("g.tgenabled::text") " || ', on the source ' || " STATE_OF("x.enabled") " END,"
	"  g.oid IS NULL AND NOT arg.is_created"
	" FROM arg CROSS JOIN LATERAL jsonb_to_recordset(arg.source) x(schema text, \"table\" text, name text, enabled text)"
	" LEFT JOIN pg_trigger g ON g.tgrelid = " NAMED " AND g.tgname = x.name AND NOT g.tgisinternal"
	" WHERE g.tgenabled::text IS DISTINCT FROM x.enabled "
	"UNION ALL SELECT DISTINCT k.conrelid::regclass || ': ' || k.conname, 'not enforced: its triggers are disabled', false"
	" FROM pg_trigger g JOIN own ON own.oid = g.tgrelid JOIN pg_constraint k ON k.oid = g.tgconstraint"
	" WHERE g.tgisinternal AND g.tgenabled = 'D' ORDER BY 1";

/* ---- sequences ---- */

/* One number of a statement made of names, without a function of our own. */
#define NUMBER_OF(statement) "substring(query_to_xml(" statement ", false, false, '')::text FROM '<n>(-?[0-9]+)</n>')::numeric"

#define NEXT_OF(schema, name, increment)                                                                              \
	"CASE WHEN has_sequence_privilege(format('%I.%I', " schema ", " name "), 'SELECT') THEN "                     \
	NUMBER_OF("format('SELECT last_value::numeric + CASE WHEN is_called THEN %s ELSE 0 END AS n FROM %I.%I', "    \
		  increment ", " schema ", " name ")") " END"

static const char sequences_source[] =
	"SELECT o.schema, o.\"table\", o.\"column\", n.nspname AS sequence_schema, q.relname AS name, s.seqcycle AS is_cycle,"
	"  " NEXT_OF("n.nspname", "q.relname", "s.seqincrement") " AS next"
	" FROM pg_class q JOIN pg_namespace n ON n.oid = q.relnamespace JOIN pg_sequence s ON s.seqrelid = q.oid"
	" LEFT JOIN LATERAL (SELECT d.refobjid, src.schema, src.\"table\", src.columns ->> a.attname::text AS \"column\" FROM pg_depend d"
	"  JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid LEFT JOIN src ON src.oid = d.refobjid"
	"  WHERE d.classid = 'pg_class'::regclass AND d.objid = q.oid AND d.refclassid = 'pg_class'::regclass"
	"   AND d.deptype IN ('a', 'i') LIMIT 1) o ON true"
	" WHERE q.relkind = 'S' AND q.relpersistence <> 't' AND n.nspname <> 'foreshadow'"
	"  AND (o.refobjid IS NULL OR o.schema IS NOT NULL)";

/*
 * here: each of the source's with its counterpart, found as it is when it is set: by the column it belongs to, else by
 * its name. feeds: the columns of the target that take their values from one.
 */
static const char sequences_target[] =
	", here AS (SELECT x.*, coalesce((SELECT o.oid FROM pg_depend d JOIN pg_class o ON o.oid = d.objid AND o.relkind = 'S'"
	"   JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid"
	"   WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')"
	"    AND d.refobjid = CASE WHEN x.schema IS NOT NULL THEN " NAMED " END AND a.attname = x.\"column\""
	"   ORDER BY o.relname = x.name DESC, o.oid LIMIT 1),"
	"  (SELECT o.oid FROM pg_class o JOIN pg_namespace n ON n.oid = o.relnamespace WHERE o.relkind = 'S' AND o.relname = x.name"
	"   AND (n.nspname = x.sequence_schema OR n.nspname IN (SELECT t.schema FROM t WHERE t.source_schema = x.sequence_schema))"
	"   ORDER BY n.nspname = x.sequence_schema DESC LIMIT 1)) AS oid"
	"  FROM arg CROSS JOIN LATERAL jsonb_to_recordset(arg.source) x(schema text, \"table\" text, \"column\" text,"
	"   sequence_schema text, name text, is_cycle bool, next numeric)),"
	" feeds AS (SELECT d.objid AS oid, d.refobjid AS relid, d.refobjsubid AS att FROM pg_depend d JOIN base ON base.oid = d.refobjid"
	"   WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')"
	"  UNION SELECT d.refobjid, e.adrelid, e.adnum FROM pg_attrdef e JOIN base ON base.oid = e.adrelid"
	"   JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = e.oid AND d.refclassid = 'pg_class'::regclass),"
	" now AS (SELECT q.oid, n.nspname, q.relname, s.seqincrement > 0 AS is_up, s.seqcycle,"
	"   " NEXT_OF("n.nspname", "q.relname", "s.seqincrement") " AS next"
	"  FROM pg_class q JOIN pg_namespace n ON n.oid = q.relnamespace JOIN pg_sequence s ON s.seqrelid = q.oid"
	"  WHERE q.relkind = 'S' AND q.oid IN (SELECT oid FROM here UNION SELECT oid FROM feeds)),"
	" filled AS (SELECT now.*, c.relname AS \"table\", a.attname, " NUMBER_OF("format('SELECT %s(%I) AS n FROM %s',"
	"   CASE WHEN now.is_up THEN 'max' ELSE 'min' END, a.attname, c.oid::regclass)") " AS last"
	"  FROM feeds JOIN now ON now.oid = feeds.oid JOIN pg_class c ON c.oid = feeds.relid"
	"  JOIN pg_attribute a ON a.attrelid = feeds.relid AND a.attnum = feeds.att"
	"  WHERE a.atttypid IN (20, 21, 23, 1700) AND NOT now.seqcycle) "
	/* what the target lacks or may not be read */
	"SELECT format('%s.%s', h.sequence_schema, h.name), CASE WHEN h.next IS NULL THEN 'may not be read on the source'"
	"  WHEN h.oid IS NULL THEN 'only on the source' ELSE 'may not be read on the target' END,"
	"  h.oid IS NULL AND (NOT arg.is_created OR (h.schema IS NOT NULL AND h.\"column\" IS NULL))"
	" FROM arg CROSS JOIN here h LEFT JOIN now ON now.oid = h.oid WHERE h.next IS NULL OR now.next IS NULL "
	/* behind the source */
	"UNION ALL SELECT format('%s.%s', now.nspname, now.relname),"
	"  format('its next value is %s, on the source %s', now.next, h.next), false"
	" FROM here h JOIN now ON now.oid = h.oid"
	" WHERE NOT h.is_cycle AND CASE WHEN now.is_up THEN now.next < h.next ELSE now.next > h.next END "
	/* behind the rows: to say only, where the source's is so, too */
	"UNION ALL SELECT format('%s.%s', nspname, relname), format('its next value is %s, %s.%s holds %s%s', next, \"table\", attname,"
	"  last, CASE WHEN s.is_same THEN '; as on the source' END), s.is_same"
	" FROM filled CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM here h WHERE h.oid = filled.oid"
	"  AND CASE WHEN is_up THEN h.next <= last ELSE h.next >= last END)) s(is_same)"
	" WHERE CASE WHEN is_up THEN next <= last ELSE next >= last END ORDER BY 1";

/* ---- all of them ---- */

const struct final_sql final_sqls[] = {
	{ "copies", "Every table has been copied completely", "foreshadow run, until status says that all tables are live", NULL,
	  "SELECT l.schema || '.' || l.\"table\", 'the copy is ' || coalesce(c.state, 'not begun'), false FROM leaf l"
	  " LEFT JOIN foreshadow.copies c ON c.migration = (SELECT migration FROM arg) AND c.oid = l.oid"
	  " WHERE c.state IS DISTINCT FROM 'live' ORDER BY 1",
	  false },
	{ "drained", "Everything the source wrote has arrived", "foreshadow run; its log says what keeps a partition", NULL,
	  "SELECT 'partition ' || g, CASE WHEN p.waiting_at IS NOT NULL THEN 'waits at ' || p.waiting_at"
	  "  WHEN p.barrier_lsn IS NULL THEN 'has applied nothing' ELSE 'stands at ' || p.barrier_lsn END, false"
	  " FROM arg CROSS JOIN generate_series(0, arg.partitions - 1) g LEFT JOIN foreshadow.progress p"
	  "  ON p.migration = arg.migration AND p.topic = arg.migration || '.changes' AND p.partition = g"
	  " WHERE p.waiting_at IS NOT NULL OR p.barrier_lsn IS NULL OR p.barrier_lsn < arg.lsn ORDER BY g",
	  false },
	{ "schema", "Indexes, constraints and triggers that come last are built", "let foreshadow run --until caught-up end", NULL,
	  "SELECT 'schema', 'its stage is ' || coalesce(s.state, 'not begun') || ', wanted: complete', false FROM arg"
	  " LEFT JOIN foreshadow.schemas s ON s.migration = arg.migration WHERE s.state IS DISTINCT FROM 'complete'",
	  false },
	{ "sequences", "Sequences give out new values only", "let foreshadow run --until caught-up end: it sets them; else setval()",
	  sequences_source, sequences_target, false },
	{ "constraints", "Every constraint is validated", "correct the rows, then ALTER TABLE … VALIDATE CONSTRAINT",
	  unvalidated_source, unvalidated_target, false },
	{ "foreign_keys", "Every row has the row it refers to", "look for the rows on the source; if they are there, compare again",
	  unvalidated_source, orphans_target, true },
	{ "indexes", "Every index is valid and in use", "REINDEX INDEX …", NULL, invalid_indexes_target, false },
	{ "missing_indexes", "No unique index of the source is missing", "CREATE INDEX … as shown", missing_indexes_source,
	  missing_indexes_target, false },
	{ "triggers", "Triggers are enabled as on the source", "ALTER TABLE … ENABLE TRIGGER …", triggers_source, triggers_target,
	  false },
};
const size_t final_sql_count = sizeof(final_sqls) / sizeof(final_sqls[0]);
