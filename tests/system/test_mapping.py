# SPDX-License-Identifier: Apache-2.0
"""Mapping and transformation rules: a target has what the same SQL gives on the source."""
import random
import threading

import pytest
from psycopg import errors

from following import assert_balanced, wait_caught_up, wait_live
from rig.postgres import PINNED

SOURCE = """
create schema shop_a; create schema shop_b;
create table customers (id int primary key, first text, last text, email text, born date, secret text, note text);
alter table customers replica identity full;
create table orders (id int primary key, customer int, tenant int, total_cents int, qty varchar(10), at timestamp,
                     doc json, mood text, price numeric(10,2), big text);
alter table orders replica identity full;
create table shop_a.items (id int primary key, label text);
create table shop_b.items (id int primary key, label text);
create table journal (who int, what text);
alter table journal replica identity full;
create table plain (id int primary key, a int, b text);
insert into customers select i, 'f' || i, 'l' || i, 'mail' || i || '@x', '2000-01-01'::date + i, 'secret' || i, 'n' from generate_series(1, 300) i;
insert into orders select i, i % 300, i % 3, i * 7, (i % 50)::text, '2024-01-01'::timestamp + i * interval '1 hour', '{"a": 1, "a": 2}',
  (array['sad', 'ok'])[1 + i % 2], i / 3.0, repeat(md5(i::text), i % 100) from generate_series(1, 600) i;
insert into shop_a.items select i, 'a' || i from generate_series(1, 50) i;
insert into shop_b.items select i, 'b' || i from generate_series(1, 70) i;
insert into journal select i % 7, 'w' || i % 11 from generate_series(1, 200) i;
insert into plain select i, i, 'p' || i from generate_series(1, 100) i
"""

TARGET = """
create schema crm; create schema sales;
create type mood as enum ('sad', 'ok', 'happy');
create table crm.people (person_id bigint primary key, name text, email text not null, born timestamp, added text default 'here');
create table sales.orders (id bigint primary key, customer_id bigint, tenant int, total numeric(12,2) not null, quantity int,
                           at timestamptz, doc jsonb, mood mood, price money, size int, big text);
create table items (shop text, id int, label varchar(20), primary key (shop, id));
create table journal (who text, shout text);
create table renamed (key int primary key, b text, a text)
"""

MAPPING = [
    {"from": "public.customers", "to": "crm.people",
     "columns": {"id": {"to": "person_id", "type": "bigint"}, "first": {"to": None}, "last": {"to": None}, "secret": None, "note": None}},
    {"from": "public.orders", "to": "sales.orders",
     "columns": {"customer": "customer_id", "total_cents": {"to": None}, "qty": {"to": "quantity", "type": "int"}}},
    {"from": "shop_a.items", "to": "public.items", "origin": {"column": "shop", "value": "a"}},
    {"from": "shop_b.items", "to": "public.items", "origin": {"column": "shop", "value": "it's b"}},
    {"from": "public.journal", "columns": {"what": {"to": None}}},
    {"from": "public.plain", "to": "public.renamed", "columns": {"id": "key", "a": "b", "b": "a"}},
]
RULES = [
    {"table": "crm.people", "column": "name", "as": "first || ' ' || last"},
    {"table": "crm.people", "column": "email", "as": "'x' || md5(email || id)"},
    {"table": "sales.orders", "column": "total", "type": "numeric(12,2)", "as": "round(total_cents / 100.0, 2) -- cents"},
    {"table": "sales.orders", "column": "at", "as": "at at time zone 'Europe/Berlin'"},
    {"table": "sales.orders", "column": "size", "as": "length(big)"},
    {"table": "sales.orders", "where": "tenant <> 0"},
    {"table": "public.journal", "column": "shout", "as": "upper(what)"},
    {"table": "public.journal", "where": "who <> 3 and what <> 'w5'"},
]
# What each table of the target must be, asked of the source.
WANTED = {
    "select person_id, name, email, born, added from crm.people":
        "select id::bigint, first || ' ' || last, 'x' || md5(email || id), born::timestamp, 'here' from customers",
    "select id, customer_id, tenant, total, quantity, at, doc, mood, price, size, big from sales.orders":
        "select id::bigint, customer::bigint, tenant, round(total_cents / 100.0, 2)::numeric(12,2), qty::int,"
        " at at time zone 'Europe/Berlin', doc::jsonb, mood, price::money, length(big), big from orders where tenant <> 0",
    "select shop, id, label from items":
        "select 'a', id, label from shop_a.items union all select 'it''s b', id, label from shop_b.items",
    "select who, shout from journal":
        "select who::text, upper(what) from journal where who <> 3 and what <> 'w5'",
    "select key, b, a from renamed": "select id, a::text, b from plain",
}


def rows(db, query):
    """As COPY prints them, sorted."""
    with db.connect() as connection:
        for name, value in PINNED.items():
            connection.execute("select set_config(%s, %s, false)", (name, value))
        connection.execute("set search_path = public")
        with connection.cursor().copy(f"copy ({query}) to stdout") as copy:
            return sorted(bytes(line) for line in copy)


def assert_mapped(m, wanted=WANTED):
    for db in m.targets():
        for on_target, on_source in wanted.items():
            seen, expected = rows(db, on_target), rows(m.source, on_source)
            assert seen == expected, (f"{db}: {on_target}\n{len(seen)} rows, expected {len(expected)}\nonly there: "
                                      f"{[r for r in seen if r not in expected][:5]}\nmissing: "
                                      f"{[r for r in expected if r not in seen][:5]}")


def make(migration, source=SOURCE, target=TARGET, **config):
    m = migration(**{"schema": "exists", "create_shadow": True, "schema_mapping": MAPPING, "transformation_rules": RULES,
                     "tables": {"include": ["public.*", "shop_?.*"]}, **config})
    m.source.execute(source)
    for db in m.targets():
        db.execute(target)
    return m


def change(rng, connection):
    """One transaction of what an application might do."""
    n, i = rng.randrange(16), rng.randint(1, 700)
    statements = {
        0: f"update orders set tenant = (tenant + 1) % 3 where id = {i}",
        1: f"update orders set tenant = 0, total_cents = total_cents + 1 where id between {i} and {i + 5}",
        2: f"update orders set tenant = 1 where id between {i} and {i + 5}",
        3: f"update orders set id = id + 1000000, mood = 'happy' where id = {i}",
        4: f"insert into orders values ({i}, 1, {i % 3}, {i}, '7', now(), '{{}}', 'ok', 1.5, repeat('x', {i % 9000})) on conflict do nothing",
        5: f"delete from orders where id = {i}; insert into orders (id, tenant, total_cents, mood) values ({i}, {i % 3}, 5, 'sad')",
        6: f"update orders set big = repeat(md5('{i}'), 100), qty = null where id = {i}",
        7: f"update customers set first = 'F{i}', secret = 's' where id = {i % 300}",
        8: f"update customers set last = null where id = {i % 300}; update customers set last = 'back' where id = {i % 300}",
        9: f"delete from customers where id = {i % 300}",
        10: f"insert into customers values ({i % 300}, 'new', 'er', 'm', '1999-09-09') on conflict (id) do update set email = 'again'",
        11: f"update shop_a.items set label = 'A{i}' where id = {i % 60}; insert into shop_b.items values ({i % 100}, 'B{i}') on conflict (id) do update set label = 'u'",
        12: f"delete from shop_b.items where id = {i % 60}; update shop_a.items set id = id + 1000 where id = {i % 60} and not exists (select from shop_a.items where id = 1000 + {i % 60})",
        13: f"update journal set who = (who + {i}) % 9 where what = 'w{i % 11}'",
        14: f"insert into journal values ({i % 5}, 'w{i % 8}'); delete from journal where ctid in (select ctid from journal where who = {i % 7} limit 2)",
        15: f"update plain set a = a + 1, b = 'x' where id = {i % 100}; update plain set id = -id where id = {i % 100}",
    }
    connection.execute(statements[n])


def write_load(m, rng, transactions, sessions=3):
    failures = []

    def session(seed):
        own = random.Random(seed)
        try:
            with m.source.connect() as connection:
                for _ in range(transactions // sessions):
                    try:
                        change(own, connection)
                    except (errors.UniqueViolation, errors.DeadlockDetected):
                        pass  # of the application's own sessions
        except Exception as failure:  # shown by the test
            failures.append(failure)

    threads = [threading.Thread(target=session, args=(rng.random(),)) for _ in range(sessions)]
    for thread in threads:
        thread.start()
    return threads, failures


def test_everything_at_once_under_load_and_kill_9(migration, rng, is_long):
    m = make(migration)
    m.start()
    wait_live(m)
    assert_mapped(m)
    threads, failures = write_load(m, rng, 6000 if is_long else 900)
    m.source.poll("select count(*) > 50 from orders where big like 'x%' or tenant = 0", True)
    m.kill9()
    m.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    wait_caught_up(m)
    assert_mapped(m)
    m.source.execute("truncate shop_b.items; insert into shop_b.items values (1, 'after'); truncate orders;"
                     "insert into orders (id, tenant, total_cents) values (1, 1, 100), (2, 0, 100)")
    wait_caught_up(m)
    assert_mapped(m)
    m.stop()
    for db in m.targets():
        assert_balanced(m, db)


WRONG = {
    # what is changed (mapping, rules, source DDL, target DDL): the words of check's and run's message
    "unknown_table": ([{"from": "public.ordrs", "to": "sales.orders"}], [], "", "", ["schema_mapping.from", "public.ordrs", "public.orders"]),
    "unknown_column": ([{"from": "public.orders", "columns": {"cutsomer": "c"}}], [], "", "", ["cutsomer", "the nearest is \"customer\""]),
    "unknown_rule_table": ([], [{"table": "public.order", "column": "a", "as": "1"}], "", "", ["transformation_rules.table", "public.order", "public.orders"]),
    "does_not_parse": ([], [{"table": "public.orders", "column": "note", "as": "upper(note"}], "", "", ["does not parse", "syntax error"]),
    "no_such_column": ([], [{"table": "public.orders", "column": "note", "as": "upper(nota)"}], "", "", ["nota", "does not exist"]),
    "injected": ([], [{"table": "public.orders", "column": "note", "as": "note); drop table orders; --"}], "", "", ["does not parse"]),
    "volatile": ([], [{"table": "public.orders", "column": "note", "as": "note || random()"}], "", "", ["random()", "volatile", "immutable"]),
    "stable": ([], [{"table": "public.orders", "column": "note", "as": "note || now()"}], "", "", ["now()", "stable"]),
    "clock": ([], [{"table": "public.orders", "column": "note", "as": "note || current_date"}], "", "", ["the time"]),
    "clock_text": ([], [{"table": "public.orders", "column": "note", "as": "note || 'today'::date"}], "", "", ["clock"]),
    "reads_a_table": ([], [{"table": "public.orders", "column": "note", "as": "(select max(note) from public.orders)"}], "", "", ["subquery"]),
    "aggregate": ([], [{"table": "public.orders", "column": "note", "as": "max(note)"}], "", "", ["several rows"]),
    "wrong_type": ([], [{"table": "public.orders", "column": "customer", "as": "note"}], "", "", ["customer", "integer", "cast"]),
    "filter_type": ([], [{"table": "public.orders", "where": "customer"}], "alter table orders replica identity full", "", ["where", "boolean"]),
    "filter_breaks_updates": ([], [{"table": "public.orders", "where": "customer > 1"}], "", "", ["customer", "replica identity", "REPLICA IDENTITY FULL"]),
    "filter_toast": ([], [{"table": "public.orders", "where": "id > 1"}], "", "", ["note", "out of line", "REPLICA IDENTITY FULL"]),
    "several_toasted": ([], [{"table": "public.orders", "column": "note", "as": "note || customer"}], "", "", ["note", "out of line", "REPLICA IDENTITY FULL"]),
    "dropped_but_needed": ([{"from": "public.orders", "columns": {"note": None}}],
                           [{"table": "public.orders", "column": "big", "as": "upper(note)"}], "", "", ["reads column \"note\"", "{to: ~}"]),
    "dropped_key": ([{"from": "public.orders", "columns": {"id": None}}], [], "", "", ["\"id\" is part of the key"]),
    "key_rule": ([], [{"table": "public.orders", "column": "id", "as": "id + customer"}], "", "", ["part of the key", "key columns only"]),
    "two_into_one_column": ([{"from": "public.orders", "columns": {"note": "big"}}], [], "alter table orders add big text", "", ["would both be \"big\""]),
    "merged_without_origin": ([{"from": "public.other", "to": "public.orders"}], [], "", "", ["nothing tells their rows apart", "origin"]),
    "merged_same_origin": ([{"from": "public.other", "to": "public.orders", "origin": {"column": "o", "value": "x"}},
                            {"from": "public.orders", "to": "public.orders", "origin": {"column": "o", "value": "x"}}], [], "", "", ["different values"]),
    "merged_keys_collide": ([{"from": "public.other", "to": "public.orders", "origin": {"column": "big", "value": "x"}},
                             {"from": "public.orders", "to": "public.orders", "origin": {"column": "big", "value": "y"}}], [],
                            "", "", ["collide", "ADD PRIMARY KEY"]),
    "origin_is_taken": ([{"from": "public.orders", "to": "public.orders", "origin": {"column": "note", "value": "x"}}], [], "", "", ["origin", "\"note\"", "filled by"]),
    "type_only_the_source_has": ([], [{"table": "public.orders", "where": "size >= 'medium'"}],
                                 "create type size as enum ('small', 'medium'); alter table orders add size size; alter table orders replica identity full",
                                 "alter table orders add size text", ["\"size\"", "does not have", "create it there"]),
    "clock_array": ([], [{"table": "public.orders", "column": "note", "as": "note || ('{now}'::date[])::text"}], "", "", ["clock"]),
    "clock_made": ([], [{"table": "public.orders", "column": "note", "as": "(('no' || 'w')::timestamp)::text"}], "", "", ["could be"]),
    "regclass": ([], [{"table": "public.orders", "column": "note", "as": "note::regclass::text"}], "", "", ["regclass"]),
    "type_does_not_fit": ([{"from": "public.orders", "columns": {"customer": "day"}}], [], "", "alter table orders add day date", ["\"day\"", "date", "transformation rule"]),
    "target_wants_more": ([], [], "", "alter table orders add must int not null", ["\"must\"", "NOT NULL", "transformation rule"]),
    "target_lacks_column": ([], [{"table": "public.orders", "column": "more", "as": "customer"}], "", "", ["\"more\"", "ADD COLUMN"]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_instruction_is_refused_with_line_and_next_step(migration, wrong):
    mapping, rules, on_source, on_target, words = WRONG[wrong]
    m = migration(schema="exists", create_shadow=True, schema_mapping=mapping, transformation_rules=rules)
    tables = "create table orders (id int primary key, customer int, note text); create table other (id int primary key, customer int, note text);"
    m.source.execute(f"{tables}{on_source}")
    for db in m.targets():
        db.execute(f"{tables}alter table orders add big text;{on_target}")
    checked = m.run_cli("check")
    seen = m.run_cli("run", "--until", "caught-up")
    for text, code in ((checked.stdout, checked.returncode), (seen.stderr, seen.returncode)):
        missing = [word for word in words if word not in text]
        assert code in (2, 3) and not missing, f"exit code {code}, lacks {missing}\n{text}"
    assert f"{m.yaml}:" in seen.stderr or not (mapping or rules)
    assert not m.source.value("select exists (select from pg_replication_slots where slot_name = %s)", m.slot)
    assert m.source.value("select count(*) from orders") == 0


def test_a_mapping_that_changed_after_the_copy_is_refused(migration):
    m = migration(schema="exists", create_shadow=True,
                  transformation_rules=[{"table": "public.t", "column": "v", "as": "upper(v)"}])
    m.source.execute("create table t (id int primary key, v text); insert into t values (1, 'a')")
    for db in m.targets():
        db.execute("create table t (id int primary key, v text)")
    m.run_until()
    m.write({**m.config, "transformation_rules": [{"table": "public.t", "column": "v", "as": "lower(v)"}]})
    seen = m.run_cli("run", "--until", "caught-up")
    assert seen.returncode == 3 and "public.t are not those it was copied with" in seen.stderr and "migration.yaml:" in seen.stderr
    m.write({**m.config, "transformation_rules": [{"table": "public.t", "column": "v", "as": "upper(v)"}]})
    m.source.execute("update t set v = 'b'")
    m.run_until()
    assert [db.value("select v from t") for db in m.targets()] == ["B", "B"]


# Row filters by what they read and by the identity; every UPDATE and DELETE of the source must go through.
FILTERS = {
    "on_the_key": ("id int primary key, v int", "default", "id % 2 = 0"),
    "on_the_key_full": ("id int primary key, v int, big text", "full", "id % 2 = 0"),
    "beside_the_key_full": ("id int primary key, v int, big text", "full", "v % 2 = 0"),
    "on_toast_full": ("id int primary key, v int, big text", "full", "length(big) > 3000"),
    "keyless": ("id int, v int, big text", "full", "v % 2 = 0"),
    "index_identity": ("id int not null unique, v int", "using index t_id_key", "id > 10"),
    "further_unique": ("id int primary key, v int unique, big text", "full", "v % 2 = 0"),
    "null_is_not_true": ("id int primary key, v int, big text", "full", "v <> 1"),
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_row_crosses_its_filter_and_the_source_never_fails(migration, rng, name):
    columns, identity, where = FILTERS[name]
    has_big = "big" in columns
    m = migration(schema="exists", create_shadow=True, unique=None,
                  transformation_rules=[{"table": "public.t", "where": where}])
    ddl = f"create table t ({columns}); alter table t replica identity {identity}"
    m.source.execute(f"{ddl}; insert into t (id, v) select i, i from generate_series(1, 60) i; insert into t (id, v) values (-1, -1)"
                     + ("; update t set big = repeat(md5(id::text), 200)" if has_big else ""))
    for db in m.targets():
        db.execute(ddl)
    m.start()
    wait_live(m)
    with m.source.connect() as connection:
        for step in range(200):
            i = rng.randint(1, 80)
            statement = rng.choice([
                f"update t set v = v + 1000 + {step} where id = {i}",
                f"update t set v = null where id = {i}",
                f"update t set v = {2000 + step * 3} where id = {i}",
                f"update t set id = {10000 + step * 2 + i % 2} where id = {i}",
                f"delete from t where id = {i}",
                f"insert into t (id, v) select {i}, {100000 + step} where not exists (select from t where id = {i})",
                f"update t set id = {500 + step} where id = {i}; update t set v = {300000 + step} where id = {500 + step}; delete from t where id = {600 - step}",
            ] + ([f"update t set big = repeat('x', {rng.randint(1, 9000)}) where id = {i}"] if has_big else []))
            try:
                connection.execute(f"begin; {statement}; commit")
            except errors.UniqueViolation:  # two of the application's own values
                connection.execute("rollback")
    wait_caught_up(m)
    assert_mapped(m, {"select * from t": f"select * from t where {where}"})
    assert 0 < m.target.value("select count(*) from t") < m.source.value("select count(*) from t")
    m.stop()


def test_a_rule_over_a_column_that_was_not_sent_leaves_its_result(migration):
    m = migration(schema="exists", create_shadow=True,
                  schema_mapping=[{"from": "public.t", "columns": {"big": {"to": None}}}],
                  transformation_rules=[{"table": "public.t", "column": "size", "as": "length(big)"},
                                        {"table": "public.t", "column": "total", "as": "a + b"}])
    m.source.execute("create table t (id int primary key, a int, b int, big text);"
                     "insert into t select i, i, i, repeat(md5(i::text), 500) from generate_series(1, 20) i")
    for db in m.targets():
        db.execute("create table t (id int primary key, a bigint, b int, size int, total bigint)")
    m.start()
    wait_live(m)
    m.source.execute("update t set a = a + 1; begin; update t set big = 'short' where id = 3; update t set b = 7 where id = 3; commit;"
                     "update t set id = id + 100 where id > 15; update t set id = 200, a = 5 where id = 1; delete from t where id = 2")
    wait_caught_up(m)
    assert_mapped(m, {"select * from t": "select id, a, b, length(big), a + b from t"})
    m.stop()


ODD = ['"; DROP TABLE t; --', "%s%n%d", "$1", "new\nline", 'quo"te', "back\\slash", "select", "ünïçödé" + "é" * 25, "tab\tbed", "'single'",
       "$$dollar$$", "Camel.Dot", " leading", "{json}", "a" * 63]


def test_odd_names_travel_and_nothing_is_executed(migration):
    """Tables, columns, schemas and values of all kinds of names, mapped to other such names."""
    def quoted(name):
        return '"' + name.replace('"', '""') + '"'

    columns = [f"{name[:50]}{i}" for i, name in enumerate(ODD)]
    mapping = [{"from": f'public.{quoted(name)}', "to": f'{quoted("Odd " + ODD[0])}.{quoted(name[::-1][:60])}',
                "columns": {quoted(c): quoted("to " + c) for c in columns[1:4]}} for name in ODD if len(name.encode()) < 60]
    m = migration(schema="exists", create_shadow=True, schema_mapping=mapping,
                  transformation_rules=[{"table": f'{quoted("Odd " + ODD[0])}.{quoted(ODD[1][::-1])}', "column": quoted("to " + columns[2]),
                                         "as": f"upper({quoted(columns[2])}) || '{ODD[1]}'"}])
    listed = ", ".join(f"{quoted(c)} text" for c in columns)
    moved = ", ".join(f"{quoted('to ' + c if c in columns[1:4] else c)} text" for c in columns)
    for db in m.targets():
        db.execute(f"create schema {quoted('Odd ' + ODD[0])}")
    wanted = {}
    for name in ODD:
        mapped = len(name.encode()) < 60
        on_target = f"{quoted('Odd ' + ODD[0])}.{quoted(name[::-1][:60])}" if mapped else f"public.{quoted(name)}"
        m.source.execute(f"create table public.{quoted(name)} (id int primary key, {listed})")
        for db in m.targets():
            db.execute(f"create table {on_target} (id int primary key, {moved if mapped else listed})")
        third = f"upper({quoted(columns[2])}) || '{ODD[1]}'" if name == ODD[1] else quoted(columns[2])
        wanted[f"select * from {on_target}"] = (f"select id, {', '.join(third if i == 2 else quoted(c) for i, c in enumerate(columns))}"
                                                f" from public.{quoted(name)}")
    def insert(i):
        with m.source.connect() as connection:
            for name in ODD:
                connection.execute(f"insert into public.{quoted(name)} values ({', '.join(['%s'] * (len(columns) + 1))})".replace(
                    quoted(name), quoted(name).replace("%", "%%")), (i, *ODD))
                connection.execute(f"update public.{quoted(name)} set {quoted(columns[2])} = {quoted(columns[3])} where id = {i - 1}")
    insert(1)
    m.start()
    wait_live(m)
    insert(2)
    wait_caught_up(m)
    assert_mapped(m, wanted)
    report = m.json("check")
    assert report["ok"], report
    m.stop()


@pytest.mark.parametrize("mode", ["create", "exists"])
def test_hundreds_of_tables_and_of_columns(migration, is_long, mode):
    tables = 500 if is_long else 60
    m = migration(schema=mode, create_shadow=mode == "exists",
                  **({"schema_mapping": [{"from": "public.*", "to": "many.*"}]} if mode == "exists" else {}))
    wide = ", ".join(f"c{i} {('int', 'text', 'numeric(9,2)', 'timestamptz')[i % 4]}" for i in range(200))
    ddl = "; ".join(f"create table {{0}}t{i} (id int primary key, v text)" for i in range(tables)) + f"; create table {{0}}wide (id int primary key, {wide})"
    m.source.execute(ddl.format(""))
    m.source.execute("; ".join(f"insert into t{i} values (1, 'v{i}')" for i in range(tables)) + "; insert into wide (id, c1, c196) values (1, 'x', 5)")
    schema = "many." if mode == "exists" else ""
    if mode == "exists":
        for db in m.targets():
            db.execute("create schema many; " + ddl.format("many."))
    m.start()
    wait_live(m, timeout=300)
    m.source.execute("; ".join(f"insert into t{i} values (2, 'w{i}'); update t{i} set v = 'u' where id = 1" for i in range(tables))
                     + "; update wide set c199 = now(), c0 = 7; insert into wide (id) values (2)")
    wait_caught_up(m, timeout=300)
    assert_mapped(m, {f"select * from {schema}{t}": f"select * from {t}" for t in [f"t{i}" for i in range(tables)] + ["wide"]})
    m.stop()


@pytest.mark.parametrize("target_is_partitioned", [False, True])
def test_rows_move_between_partitions_through_a_mapping_and_a_filter(migration, target_is_partitioned):
    m = migration(schema="exists", create_shadow=True,
                  schema_mapping=[{"from": "public.p", "to": "far.q", "columns": {"day": "moment", "v": {"to": None}}}],
                  transformation_rules=[{"table": "far.q", "column": "label", "as": "upper(v)"},
                                        {"table": "far.q", "where": "v is distinct from 'hidden'"}])
    m.source.execute("create table p (id int, day int, v text, primary key (id, day)) partition by range (day);"
                     + "".join(f"create table p_{i} partition of p for values from ({i * 10}) to ({i * 10 + 10});"
                               f"alter table p_{i} replica identity full;" for i in range(3))
                     + "insert into p select i, i % 30, case when i % 5 = 0 then 'hidden' else 'v' || i end from generate_series(1, 200) i")
    for db in m.targets():
        db.execute("create schema far; create table far.q (id int, moment int, label text, primary key (id, moment))"
                   + (" partition by hash (id); create table far.q_0 partition of far.q for values with (modulus 2, remainder 0);"
                      "create table far.q_1 partition of far.q for values with (modulus 2, remainder 1)" if target_is_partitioned else ""))
    wanted = {"select * from far.q": "select id, day, upper(v) from p where v is distinct from 'hidden'"}
    m.start()
    wait_live(m)
    for script in ["update p set day = (day + 10) % 30 where id % 3 = 0", "update p set day = (day + 20) % 30, v = 'hidden' where id % 7 = 0",
                   "update p set v = 'shown', day = 5 where id % 10 = 0", "update p set id = id + 1000 where id between 20 and 30",
                   "delete from p where v = 'hidden' and id < 50", "truncate p_1", "insert into p values (1, 15, 'again'), (2, 16, 'hidden')",
                   "begin; truncate p_0; insert into p values (3, 3, 'three'); update p set day = 25 where id = 3; commit"]:
        m.source.execute(script)
        wait_caught_up(m)
        assert_mapped(m, wanted)
    m.source.execute("truncate p")
    wait_caught_up(m)
    assert_mapped(m, wanted)
    m.stop()


# One migration each, small: (mapping, rules, source, target, changes, wanted of the target, of the source).
STORIES = {
    "a_comment_in_a_filter_and_a_rule_that_only_fits_what_passes": (
        [], [{"table": "public.t", "column": "r", "as": "100 / q"}, {"table": "public.t", "where": "q <> 0 -- not those"}],
        "create table t (id int primary key, q int); alter table t replica identity full; insert into t select i, i - 1 from generate_series(1, 5) i",
        "create table t (id int primary key, q int, r int)", "insert into t values (10, 0), (11, 5); update t set q = 0 where id = 3; update t set q = 7 where id = 1",
        "select * from t", "select id, q, 100 / q from t where q <> 0"),
    "a_merged_table_refers_to_one_that_is_truncated": (
        [{"from": "public.a", "to": "public.items", "origin": {"column": "o", "value": "a"}},
         {"from": "public.b", "to": "public.items", "origin": {"column": "o", "value": "b"}}], [],
        "create table p (id int primary key); create table a (id int primary key, p int references p);"
        "create table b (id int primary key, p int references p); insert into p values (1); insert into a values (1, 1); insert into b values (1, 1)",
        "create table p (id int primary key); create table items (o text, id int, p int references p, primary key (o, id))",
        "truncate p cascade; insert into p values (2); insert into b values (5, 2)",
        "select * from items", "select 'a', id, p from a union all select 'b', id, p from b"),
    "a_collation_of_the_column_counts_in_rules": (
        [], [{"table": "public.t", "column": "up", "as": "upper(name)"}, {"table": "public.t", "where": "name < 'b'"}],
        'create table t (id int primary key, name text collate "en-x-icu"); alter table t replica identity full; insert into t values (1, \'Z\'), (2, \'a\'), (3, \'A\')',
        "create table t (id int primary key, name text, up text)", "insert into t values (4, 'Z'), (5, 'B'), (6, 'a'); update t set name = 'b' where id = 3",
        "select * from t", "select id, name, upper(name) from t where name < 'b'"),
    "an_enum_compares_as_an_enum": (
        [], [{"table": "public.t", "where": "size >= 'medium'"}],
        "create type size as enum ('small', 'medium', 'large'); create table t (id int primary key, size size); alter table t replica identity full;"
        "insert into t values (1, 'small'), (2, 'medium'), (3, 'large')",
        "create type size as enum ('small', 'medium', 'large'); create table t (id int primary key, size text)",
        "insert into t values (4, 'small'), (5, 'large'); update t set size = 'medium' where id = 1",
        "select * from t", "select * from t where size >= 'medium'"),
    "computed_keys_are_found_as_they_are_stored": (
        [], [{"table": "public.t", "column": "k", "as": "k::text"}, {"table": "public.u", "column": "at", "as": "at + interval '1 microsecond'"}],
        "create table t (k numeric primary key, v int); insert into t values (1.0, 1), (2, 2);"
        "create table u (at timestamp primary key, v int); insert into u values ('2024-01-01 10:00:00.1234', 1)",
        "create table t (k text primary key, v int); create table u (at timestamp(3) primary key, v int)",
        "update t set k = 1.00 where k = 1; update t set v = 5 where k = 1; delete from t where k = 2; update u set v = 2",
        "select k, v from t", "select k::text, v from t"),
}


@pytest.mark.parametrize("name", STORIES)
def test_story_of_a_mapping(migration, name):
    mapping, rules, source, target, changes, on_target, on_source = STORIES[name]
    m = migration(schema="exists", create_shadow=True, schema_mapping=mapping, transformation_rules=rules)
    m.source.execute(source)
    for db in m.targets():
        db.execute(target)
    m.start()
    wait_live(m)
    assert_mapped(m, {on_target: on_source})
    m.source.execute(changes)
    wait_caught_up(m)
    assert_mapped(m, {on_target: on_source})
    m.stop()


def test_the_mapping_follows_its_table(migration):
    """Altered and renamed tables: never by another mapping than before, never without it."""
    m = migration(schema="exists", create_shadow=True, schema_mapping=[{"from": "public.t", "columns": {"secret": None, "gone": None}}],
                  transformation_rules=[{"table": "public.t", "where": "tenant <> 0"}])
    m.source.execute("create table t (id int primary key, tenant int, secret text, gone int); alter table t replica identity full;"
                     "insert into t values (1, 1, 'canary', 1), (2, 0, 'canary', 1)")
    for db in m.targets():
        db.execute("create table t (id int primary key, tenant int, more int)")
    m.run_until()
    # A changed rule is not hidden by a changed table.
    m.source.execute("alter table t add more int; insert into t values (3, 1, 'canary', 1, 5)")
    m.write({**m.config, "transformation_rules": [{"table": "public.t", "where": "tenant <> 1"}]})
    seen = m.run_cli("run", "--until", "caught-up")
    assert seen.returncode == 3 and "are not those it was copied with" in seen.stderr, seen.stderr
    m.write({**m.config, "transformation_rules": [{"table": "public.t", "where": "tenant <> 0"}]})
    m.run_until()
    # A column that the mapping names may go.
    m.source.execute("alter table t drop gone; insert into t values (4, 1, 'canary', 6)")
    m.run_until()
    assert_mapped(m, {"select id, more from t": "select id, more from t where tenant <> 0"})
    # A renamed table is not taken for one without a mapping.
    m.source.execute("alter table t rename to u; alter table u add last int; insert into u values (5, 1, 'canary', 7, 8)")
    seen = m.run_cli("run", "--until", "caught-up")
    assert seen.returncode == 2 and "public.t" in seen.stderr, seen.stderr
    m.write({**m.config, "schema_mapping": [{"from": "public.u", "to": "public.t", "columns": {"secret": None, "last": None}}]})
    m.run_until()
    assert_mapped(m, {"select id, more from t": "select id, more from u where tenant <> 0"})
    assert not any(b"canary" in (record.value() or b"") for record in m.kafka.consume(m.topic("changes")))
    m.stop()


def test_sequences_of_merged_tables_never_go_back(migration):
    m = migration(schema="exists", create_shadow=True, schema_mapping=[
        {"from": f"public.{t}", "to": "public.items", "origin": {"column": "o", "value": t}} for t in "ab"])
    m.source.execute("create table a (id serial primary key); create table b (id serial primary key);"
                     "select setval('a_id_seq', 5020); select setval('b_id_seq', 3010)")
    for db in m.targets():
        db.execute("create table items (o text, id serial, primary key (o, id))")
    m.run_until()
    m.source.execute("select setval('a_id_seq', 50200); select setval('b_id_seq', 30100)")
    m.run_until()
    assert [db.value("select last_value from items_id_seq") for db in m.targets()] == [50200, 50200]
