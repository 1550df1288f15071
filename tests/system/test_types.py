# SPDX-License-Identifier: Apache-2.0
"""Type torture: every type a column can have, alone and inside arrays, domains, composites and ranges.

The list of types is read from pg_type of the source, so a type that nobody thought of fails the
test until it has values or a reason here; and a reason is tried.

Arrays, composites and ranges have no binary form that we decode, and one such column has the whole
slot send text. So the types that have one are tried again in tables without: there all is binary.
"""
import re

import psycopg
import pytest

from following import assert_follows, wait_live

# Types that accept no value a user could write.
LEFT_OUT = {
    "pg_node_tree": "input function refuses every value",
    "pg_ndistinct": "input function refuses every value",
    "pg_dependencies": "input function refuses every value",
    "pg_mcv_list": "input function refuses every value",
    "pg_brin_bloom_summary": "input function refuses every value",
    "pg_brin_minmax_multi_summary": "input function refuses every value",
    "gtsvector": "input function refuses every value",
    "pg_ddl_command": "a pseudo-type",
}

# Types that no range can be over: PostgreSQL does not know their order.
NO_RANGE = dict.fromkeys(
    ["json", "jsonpath", "xml", "xid", "cid", "txid_snapshot", "pg_snapshot", "refcursor", "aclitem", "point", "line", "lseg",
     "box", "path", "polygon", "circle"], "has no default operator class for access method")

# Types whose binary form we decode: those of catalog and user, domains over them and enums.
BINARY = ["bool", "bytea", "name", "int8", "int2", "int4", "text", "varchar", "bpchar", "json", "jsonb", "xml", "float4", "float8",
          "numeric", "date", "time", "timestamp", "timestamptz", "uuid", "numeric(12,2)", "numeric(38,10)", "numeric(5,-2)",
          "numeric(3,5)", "numeric(1000,500)", "varchar(5)", "char(7)", "timestamp(0)", "timestamptz(3)", "time(2)", "mood", "posint",
          "short_numeric"]

LONG_NUMERIC = "1" * 500 + "." + "2" * 500

VALUES = {
    "bool": ["t", "f"],
    "bytea": ["", "\\x00ff5c27", "\\x" + "ab" * 5000],
    "char": ["a", "", "\\"],
    "name": ["n", "", "Ünï \"q\""],
    "int8": ["0", "-9223372036854775808", "9223372036854775807"],
    "int2": ["0", "-32768", "32767"],
    "int4": ["0", "-2147483648", "2147483647"],
    "text": ["", "NULL", "null", "\\N", "a\tb\nc\\d'\"e", "Ünïcödé 🐘", " trailing ", "x" * 100_000],
    "varchar": ["", "vär", "  "],
    "bpchar": ["", "b", "b   "],
    "json": ["null", '{"b":1,  "a":2, "b":3}', "[1, 2.50, \"x\\u00e9\"]", '"plain"'],
    "jsonb": ["null", '{"b":1,  "a":2, "b":3}', "[1, 2.50, \"x\\u00e9\"]", "1e400"],
    "jsonpath": ["$.a[*] ? (@ > 1)", "strict $"],
    "xml": ["<a>b</a>", "text", '<?xml version="1.0"?><r x="1">ü</r>'],
    "float4": ["0", "-0", "NaN", "Infinity", "-Infinity", "1e-45", "3.4028235e+38", "0.1", "123456.7"],
    "float8": ["0", "-0", "NaN", "Infinity", "-Infinity", "5e-324", "1.7976931348623157e+308", "0.1", "1e15", "123456789012345.6"],
    "money": ["0", "-92233720368547758.08", "92233720368547758.07", "1.5"],
    "numeric": ["0", "-0.00", "NaN", "Infinity", "-Infinity", "1.0", "1.00", "1e-20", "-12345678901234567890.123456789",
                LONG_NUMERIC, "1e1000", "0.0001", "10000", "99999999"],
    "date": ["1970-01-01", "infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "0001-01-01", "0001-12-31 BC", "9999-12-31", "10000-01-01"],
    "time": ["00:00:00", "24:00:00", "23:59:59.999999", "12:34:56.7"],
    "timetz": ["00:00:00+15:59", "24:00:00-15:59", "12:00:00.5+00"],
    "timestamp": ["1970-01-01 00:00:00", "infinity", "-infinity", "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999",
                  "0001-01-01 00:00:00", "9999-12-31 23:59:59.999999", "2000-02-29 12:00:00.000001", "1999-12-31 23:59:59.5"],
    "timestamptz": ["1970-01-01 00:00:00+00", "infinity", "-infinity", "4713-01-01 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00",
                    "2024-03-31 02:30:00+02", "9999-12-31 23:59:59.999999+00", "1900-01-01 00:00:00.123456+00"],
    "interval": ["0", "1 day", "24 hours", "-1 year 2 mons -3 days 04:05:06.789", "178000000 years", "1 mon -1 day"],
    "uuid": ["00000000-0000-0000-0000-000000000000", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"],
    "inet": ["1.2.3.4", "1.2.3.4/24", "::1", "fe80::1/64"],
    "cidr": ["1.2.3.0/24", "::/0"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "bit": ["0", "1"],
    "varbit": ["", "1", "0101010111" * 30],
    "tsvector": ["", "'a':1A 'b c':2 '''q''':3", "fat:2,4 cat:3 'it''s':5"],
    "tsquery": ["", "a & !b | c <-> d", "'it''s':*AB"],
    "oid": ["0", "4294967295"],
    "xid": ["0", "4294967295"],
    "xid8": ["0", "18446744073709551615"],
    "cid": ["0", "4294967295"],
    "tid": ["(0,0)", "(4294967295,65535)"],
    "pg_lsn": ["0/0", "FFFFFFFF/FFFFFFFF"],
    "txid_snapshot": ["10:20:10,14,15", "1:1:"],
    "pg_snapshot": ["10:20:10,14,15", "1:1:"],
    "oidvector": ["", "1 2 3"],
    "int2vector": ["", "1 -2 3"],
    "refcursor": ["c", ""],
    "aclitem": ["postgres=r/postgres", "=X*/postgres"],
    "point": ["(0,-0)", "(1.5,Infinity)", "(NaN,1e-300)"],
    "line": ["{1,2,3}", "{-1,0,0.1}"],
    "lseg": ["[(0,0),(1,1)]"],
    "box": ["(1,1),(0,0)"],
    "path": ["[(0,0),(1,1)]", "((0,0),(1,1),(2,0))"],
    "polygon": ["((0,0),(1,1),(2,0))"],
    "circle": ["<(0,0),1.5>"],
    "regproc": ["now", "-"],
    "regprocedure": ["abs(integer)", "-"],
    "regoper": ["||/", "0"],
    "regoperator": ["+(integer,integer)", "0"],
    "regclass": ["pg_class", "-"],
    "regcollation": ['"C"', "-"],
    "regtype": ["integer", "-", "timestamp with time zone"],
    "regconfig": ["english", "simple"],
    "regdictionary": ["simple"],
    "regrole": ["postgres", "-"],
    "regnamespace": ["pg_catalog", "-"],
    "int4range": ["empty", "[1,10)", "(,5)", "[1,)", "(,)"],
    "int8range": ["empty", "[1,10)", "(,)"],
    "numrange": ["empty", "[1.0,1.00]", "(0.5,)"],
    "daterange": ["empty", "[2020-01-01,infinity)", "[2020-01-01,2020-02-01)"],
    "tsrange": ["empty", '["2020-01-01 00:00:00","2020-01-02 00:00:00"]'],
    "tstzrange": ["empty", '["2020-01-01 00:00:00+02",)'],
    "int4multirange": ["{}", "{[1,2),[5,7)}"],
    "int8multirange": ["{}", "{[1,2),[5,7)}"],
    "nummultirange": ["{}", "{[1.0,2],(3,)}"],
    "datemultirange": ["{}", "{[2020-01-01,2020-02-01)}"],
    "tsmultirange": ["{}", '{["2020-01-01 00:00:00","2020-01-02 00:00:00"]}'],
    "tstzmultirange": ["{}", '{["2020-01-01 00:00:00+00",)}'],
}

# Types with modifiers, and types of users, each with the DDL it needs.
MODIFIED = {
    "numeric(12,2)": ["0", "-0.01", "9999999999.99", "NaN"],
    "numeric(38,10)": ["0", "-9999999999999999999999999999.9999999999", "1e-10"],
    "numeric(5,-2)": ["0", "1234500", "-100"],
    "numeric(3,5)": ["0", "0.00999"],
    "numeric(1000,500)": [LONG_NUMERIC[:499], "1"],
    "varchar(5)": ["", "12345", "  "],
    "char(7)": ["", "ab", "ab cd"],
    "bit(5)": ["10101"],
    "bit varying(9)": ["", "101"],
    "timestamp(0)": ["2000-01-01 00:00:01"],
    "timestamptz(3)": ["2000-01-01 00:00:01.123+00"],
    "time(2)": ["01:02:03.45"],
    "interval day to second(3)": ["1 day 00:00:00.123"],
    "mood": ["sad", "a b", "it's \"x\"", "ünï"],
    "pair": ['(1,"a b")', "(,)", '(7,"q""x\\\\y")'],
    "nest": ['("(1,x)","{sad,NULL,""a b""}","[1,5)")', "(,,)"],
    "posint": ["1", "2147483647"],
    "short_numeric": ["1.5"],
    "word_list": ["{a,NULL,\"b c\"}", "{}"],
    "floatrange": ["empty", "[-0,0.1)", "(,infinity]"],
    "textrange": ["empty", '["a b","c""d"]'],
    "floatmultirange": ["{}", "{[1.5,2.5)}"],
}
USER_TYPES = """
create type mood as enum ('sad', 'a b', 'it''s "x"', 'ünï');
create type pair as (n int, t text);
create type nest as (p pair, m mood[], r int4range);
create domain posint as int check (value > 0);
create domain short_numeric as numeric(4,1);
create domain word_list as text[];
create type floatrange as range (subtype = float8);
create type textrange as range (subtype = text, collation = "C");
"""
ARRAYS = {  # shapes of arrays beside the values themselves
    "int4": ["{}", "{NULL}", "{{1,2},{3,NULL}}", "[0:1]={5,6}", "[-1:0][2:3]={{1,2},{3,4}}"],
    "text": ["{}", "{NULL,\"NULL\",\"\",\"a,b\",\"q\\\"\\\\\"}"],
    "float8": ["{-0,NaN,Infinity}"], "mood": ["{sad,\"a b\"}"], "timestamptz": ["{infinity,\"2020-01-01 00:00:00+00\"}"],
    "numeric(12,2)": ["{1.50,NULL,NaN}"], "pair": ['{"(1,a)",NULL}'], "bytea": ['{"\\\\x00",""}'],
}


def column_types(db):
    """Names of the base, range and multirange types of pg_catalog that a column can have."""
    return [name for name, in db.sql(
        "select typname from pg_type where typnamespace = 'pg_catalog'::regnamespace and typtype in ('b', 'r', 'm', 'e')"
        " and typcategory <> 'A' and typname not like '\\_%%' and typisdefined order by 1")]


def test_every_type_has_values_or_a_reason(source):
    missing = [t for t in column_types(source) if t not in VALUES and t not in LEFT_OUT]
    assert not missing, f"types without values or a reason: {missing}"


def test_types_left_out_accept_no_value(source):
    for name, reason in LEFT_OUT.items():
        if reason == "a pseudo-type":
            with pytest.raises(psycopg.errors.InvalidTableDefinition, match=reason.removeprefix("a ")):
                source.execute(f"create table refused (v {name})")
        for text in ("", "1", "{}", "a"):
            with pytest.raises(psycopg.errors.FeatureNotSupported):
                source.execute(f"select {literal(text)}::pg_catalog.{name}")


def test_types_without_a_range_have_no_order(source):
    db = source.createdb("no_range")
    db.execute(USER_TYPES)
    for name, reason in NO_RANGE.items():
        with pytest.raises(psycopg.errors.UndefinedObject, match=reason):
            db.execute(f"create type refused as range (subtype = {type_sql(name)})")
    db.drop()


def literal(text):
    return "'" + text.replace("'", "''") + "'"


def type_sql(name):
    return f'pg_catalog."{name}"' if name in VALUES else name


def array_values(name, values):
    """The array of all values, made by the server from its elements, and the shapes."""
    elements = ", ".join(f"{literal(v)}::{type_sql(name)}" for v in values[:6] if len(v) < 2000)
    return [f"array[{elements}]::{type_sql(name)}[]"] + [f"{literal(v)}::{type_sql(name)}[]" for v in ARRAYS.get(name, [])]


def range_values(name, values, kind):
    """Ranges of that kind over pairs of the values, in the type's own order: closed, half open, open-ended, empty."""
    values = [f"{literal(v)}::{type_sql(name)}" for v in values]
    pairs = list(zip(values, values[1:] + values[:1]))
    return [text.format(kind=kind, a=a, b=b) for i, (a, b) in enumerate(pairs) for text in (
        "{kind}(least({a}, {b}), greatest({a}, {b}), '[]')", "{kind}(least({a}, {b}), greatest({a}, {b}))",
        "{kind}({a}, null, '(]')", "{kind}(null, {a})", "'empty'::{kind}") if i == 0 or "greatest" in text]


class TypeTable:
    """One table for one type: alone, in an array, in a domain, in a composite, in an array of composites and of domains,
    and where the type has an order in a range, an array of ranges and a multirange."""

    def __init__(self, number, name, values):
        self.table = f"ty_{number}"
        self.name, self.values = name, values
        self.columns = ["v", "a", "d", "c", "ca", "da"]
        self.has_range = name not in NO_RANGE
        if self.has_range:
            self.columns += ["r", "ra", "rm"]

    def setup(self):
        t = type_sql(self.name)
        ranges = (f"create type ran_{self.table} as range (subtype = {t}, multirange_type_name = mul_{self.table});"
                  if self.has_range else "")
        return (f"create domain dom_{self.table} as {t}; create type com_{self.table} as (v {t}, n int); {ranges}"
                f"create table {self.table} (id int primary key, v {t}, a {t}[], d dom_{self.table},"
                f" c com_{self.table}, ca com_{self.table}[], da dom_{self.table}[]"
                + (f", r ran_{self.table}, ra ran_{self.table}[], rm mul_{self.table}" if self.has_range else "") + ");")

    def insert(self, base):
        rows = [f"({base}" + ", null" * len(self.columns) + ")"]
        arrays = array_values(self.name, self.values)
        ranges = range_values(self.name, self.values, f"ran_{self.table}") if self.has_range else []
        for i in range(max(len(self.values), len(arrays), len(ranges))):
            value, array = literal(self.values[i % len(self.values)]), arrays[i % len(arrays)]
            v = f"{value}::{type_sql(self.name)}"
            com = f"row({v}, {i})::com_{self.table}"
            row = f"({base + 1 + i}, {v}, {array}, {v}, {com}, array[{com}, null], array[{v}]::dom_{self.table}[]"
            if ranges:
                r, other = ranges[i % len(ranges)], ranges[(i + 1) % len(ranges)]
                row += f", {r}, array[{r}, null, {other}], mul_{self.table}({r}, {other})"
            rows.append(row + ")")
        return f"insert into {self.table} values " + ", ".join(rows) + ";"

    def changes(self):
        """Each value takes the place of another, and back to NULL; keys move; rows go."""
        return (f"update {self.table} x set " + ", ".join(f"{c} = y.{c}" for c in self.columns) +
                f" from {self.table} y where y.id = x.id + 1 and x.id < 1000;"
                f"update {self.table} set id = id + 5000, v = null where id in (1002, 1003);"
                f"delete from {self.table} where id in (1, 1001);")


def all_tables():
    named = {**{k: v for k, v in VALUES.items()}, **MODIFIED}
    return [TypeTable(i, name, values) for i, (name, values) in enumerate(named.items())]


def run_torture(m, kinds):
    tables = all_tables()
    with m.source.connect() as c:
        c.execute(USER_TYPES)
        for t in tables:
            c.execute(t.setup())
            c.execute(t.insert(0))
        c.execute("create table grows (id int primary key, m mood)")
        c.execute("create table wide (id int primary key, t text); insert into wide values (1, repeat('0123456789', 1000000))")
    m.start()
    wait_live(m, timeout=240)
    with m.source.connect() as c:
        for t in tables:
            c.execute(t.insert(1000))
            c.execute(t.changes())
        c.execute("insert into wide values (2, repeat('abcdefghij', 1000000)); update wide set id = 3 where id = 1")
    assert_follows(m, timeout=240)
    if kinds == "enum":
        grow_enum(m)


def grow_enum(m):
    """A value that the enum got while everything runs, on the targets first."""
    for db in (*m.targets(), m.source):
        db.execute("alter type mood add value 'later' before 'sad'")
    m.source.execute("insert into grows values (1, 'later'), (2, 'sad'); update grows set m = 'later' where id = 2")
    assert_follows(m, ["public.grows"])


def test_type_torture(migration):
    run_torture(migration(), "enum")


def test_type_torture_towards_18(migration, target18):
    run_torture(migration(server=target18), "enum")


class BinaryTable:
    """Two tables for one type: the type alone under a key of its own, old rows sent whole, and where it has an order as the key."""

    def __init__(self, number, name, values):
        self.table, self.key_table = f"bt_{number}", f"bk_{number}" if name not in NO_RANGE else None
        self.name, self.values = name, values

    def setup(self):
        t = type_sql(self.name)
        return (f"create table {self.table} (id int primary key, v {t}); alter table {self.table} replica identity full;"
                + (f"create table {self.key_table} (v {t} primary key, n int);" if self.key_table else ""))

    def insert(self, base):
        values = [f"{literal(v)}::{type_sql(self.name)}" for v in self.values]
        rows = [f"({base}, null)"] + [f"({base + 1 + i}, {v})" for i, v in enumerate(values)]
        sql = f"insert into {self.table} values " + ", ".join(rows) + ";"
        if self.key_table:  # some values are equal
            sql += (f"insert into {self.key_table} values " + ", ".join(f"({v}, {i})" for i, v in enumerate(values)) +
                    " on conflict do nothing;")
        return sql

    def changes(self):
        sql = (f"update {self.table} x set v = y.v from {self.table} y where y.id = x.id + 1 and x.id < 1000;"
               f"update {self.table} set id = id + 5000 where id in (1001, 1002); update {self.table} set v = null where id = 6001;"
               f"delete from {self.table} where id in (1, 2, 1000);")
        if self.key_table:
            sql += (f"update {self.key_table} set n = n + 100; delete from {self.key_table} where n % 2 = 1;"
                    + self.insert(3000) + f"update {self.key_table} set n = 7 where n = 101;")
        return sql


def assert_binary(m, tables):
    """By what it says, all that it has read was in binary form."""
    streams = re.findall(r"streaming generation=.* binary=(\w+)", m.log())
    copies = dict(re.findall(r"copied public\.(\w+): .* format=(\w+)", m.log()))
    assert streams and set(streams) == {"yes"}, streams
    names = {t.table for t in tables} | {t.key_table for t in tables if t.key_table}
    assert names <= set(copies) and set(copies.values()) == {"binary"}, copies


def run_binary_torture(m):
    named = {**VALUES, **MODIFIED}
    tables = [BinaryTable(i, name, named[name]) for i, name in enumerate(BINARY)]
    with m.source.connect() as c:
        c.execute(USER_TYPES)
        for t in tables:
            c.execute(t.setup())
            c.execute(t.insert(0))
        c.execute("create table grows (id int primary key, m mood)")
    m.start()
    wait_live(m, timeout=240)
    with m.source.connect() as c:
        for t in tables:
            c.execute(t.insert(1000))
            c.execute(t.changes())
    assert_follows(m, timeout=240)
    grow_enum(m)
    assert_binary(m, tables)


def test_binary_torture(migration):
    run_binary_torture(migration())


def test_binary_torture_towards_18(migration, target18):
    run_binary_torture(migration(server=target18))
