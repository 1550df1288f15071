# SPDX-License-Identifier: Apache-2.0
"""foreshadow verify: every planted difference is found and named, and nothing else ever is."""
import json
import threading
import time

import pytest

from following import wait_caught_up, wait_live
from test_mapping import make as make_mapped, write_load as write_mapped_load
from test_types import USER_TYPES, all_tables


def verify(m, *args, timeout=300):
    """-> (exit code, differences, summary, stderr)"""
    seen = m.run_cli("verify", "--json", *args, timeout=timeout)
    lines = [json.loads(line) for line in seen.stdout.splitlines()]
    differences = [line for line in lines if "verdict" not in line]
    return seen.returncode, differences, lines[-1] if lines else None, seen.stderr


def assert_clean(m, *args, timeout=300):
    code, differences, summary, stderr = verify(m, *args, timeout=timeout)
    assert (code, differences) == (0, []), f"{code} {differences[:5]} {summary}\n{stderr}"
    assert summary["verdict"] == "clean" and summary["coverage"] == 1 and summary["proof"], summary
    return summary


# ---- mutations ----

MANY = """
create type mood as enum ('sad', 'ok');
create type pair as (n int, t text);
create table many (id int primary key, i int, b bigint, t text, v varchar(20), c char(7), bp bpchar, num numeric, dec numeric(12,2),
  f4 real, f float8, flag bool, by bytea, u uuid, d date, ts timestamp, tz timestamptz, iv interval, j json, jb jsonb, x xml,
  m money, bits varbit, p point, ip inet, tv tsvector, mo mood, pa pair, arr int[], ta text[], r int4range, fa float8[], tt timetz, big text);
create table pairs (a int, b text, v int, primary key (b, a));
create table logs (who int, what text, at timestamp);
alter table logs replica identity full;
"""
ROWS = """
insert into many select i, i, i * 1000000000::bigint, 't' || i, 'v' || i, 'c' || i % 10, 'bp', i + 0.50, i / 7.0, i / 3.0, i / 3.0, i % 2 = 0,
  decode(md5(i::text), 'hex'), md5(i::text)::uuid, '2000-01-01'::date + i, '2000-01-01'::timestamp + i * interval '1 hour',
  '2000-01-01'::timestamptz + i * interval '1 hour', '1 day', '{"a": 1, "b": 2}', '{"a": 1, "b": 2}', '<a>x</a>', 1.5, '0101', '(1,2)',
  '10.0.0.1', 'a:1 b:2', 'sad', row(i, 'x'::text)::pair, array[i, 2], array['a', null], '[1,5)', '{0}', '12:00+00', 'b' || i
  from generate_series(1, 3000) i;
update many set f = 0, f4 = 0 where id = 10;
update many set num = 1.0, t = '', v = null where id = 11;
update many set t = 'NULL', v = '' where id = 12;
update many set big = repeat('0123456789', 500000) where id = 13;
update many set pa = null where id = 14;
insert into pairs select i % 50, 'b' || i / 50, i from generate_series(1, 2000) i;
insert into logs select i % 7, 'w' || i % 11, '2024-01-01'::timestamp + (i % 3) * interval '1 day' from generate_series(1, 2000) i;
"""

# name: (SQL on the target, the differences it makes as (table, kind, key, columns))
def one(table, kind, key, *columns):
    return {(table, kind, json.dumps(key, sort_keys=True), tuple(sorted(columns)))}


def value(column, id=20):
    return one("public.many", "mismatch", {"id": str(id)}, column)


MUTATIONS = {
    "flip_a_byte": ("update many set by = set_byte(by, 3, get_byte(by, 3) # 1) where id = 20", value("by")),
    "flip_a_character": ("update many set t = 'T20' where id = 20", value("t")),
    "drop_a_row": ("delete from many where id = 20", one("public.many", "missing", {"id": "20"})),
    "add_a_row": ("insert into many (id) values (99999)", one("public.many", "extraneous", {"id": "99999"})),
    "add_a_row_below": ("insert into many (id) values (-5)", one("public.many", "extraneous", {"id": "-5"})),
    "swap_two_values": ("update many x set i = y.i from many y where x.id + y.id = 41 and x.id in (20, 21)", value("i") | value("i", 21)),
    "swap_two_rows": ("update many set id = -1 where id = 20; update many set id = 20 where id = 21; update many set id = 21 where id = -1", None),
    "null_to_empty": ("update many set v = '' where id = 11", value("v", 11)),
    "empty_to_null": ("update many set t = null where id = 11", value("t", 11)),
    "text_null_to_null": ("update many set t = null where id = 12", value("t", 12)),
    "empty_to_text_null": ("update many set t = 'NULL' where id = 11", value("t", 11)),
    "trailing_space": ("update many set t = t || ' ' where id = 20", value("t")),
    "trailing_space_varchar": ("update many set v = v || ' ' where id = 20", value("v")),
    "trailing_space_bpchar": ("update many set bp = 'bp ' where id = 20", value("bp")),
    "zero_to_minus_zero": ("update many set f = '-0' where id = 10", value("f", 10)),
    "zero_to_minus_zero_real": ("update many set f4 = '-0' where id = 10", value("f4", 10)),
    "zero_in_an_array": ("update many set fa = '{-0}' where id = 20", value("fa")),
    "scale_of_numeric": ("update many set num = 1.00 where id = 11", value("num", 11)),
    "day_to_hours": ("update many set iv = '24 hours' where id = 20", value("iv")),
    "json_key_order": ("update many set j = '{\"b\": 2, \"a\": 1}' where id = 20", value("j")),
    "json_white_space": ("update many set j = '{\"a\":1, \"b\": 2}' where id = 20", value("j")),
    "jsonb_scale": ("update many set jb = '{\"a\": 1.0, \"b\": 2}' where id = 20", value("jb")),
    "one_bit_in_5_mb": ("update many set big = overlay(big placing '1' from 4000001 for 1) where id = 13", value("big", 13)),
    "composite_null": ("update many set pa = row(null, null) where id = 14", value("pa", 14)),
    "composite_field": ("update many set pa = row(20, null) where id = 20", value("pa")),
    "array_null": ("update many set ta = array['a', 'NULL'] where id = 20", value("ta")),
    "array_bounds": ("update many set arr = '[0:1]={20,2}' where id = 20", value("arr")),
    "enum": ("update many set mo = 'ok' where id = 20", value("mo")),
    "time_zone": ("update many set tt = '13:00+01' where id = 20", value("tt")),
    "microsecond": ("update many set tz = tz + interval '1 microsecond' where id = 20", value("tz")),
    "lexeme": ("update many set tv = 'a:1 b:3' where id = 20", value("tv")),
    "bit_length": ("update many set bits = '01010' where id = 20", value("bits")),
    "netmask": ("update many set ip = '10.0.0.1/31' where id = 20", value("ip")),
    "several_columns": ("update many set i = 0, flag = null, m = 2, p = '(1,-0)', x = '<a>y</a>', r = 'empty' where id = 20",
                        one("public.many", "mismatch", {"id": "20"}, "i", "flag", "m", "p", "x", "r")),
    "composite_key": ("update pairs set v = -1 where a = 7 and b = 'b3'", one("public.pairs", "mismatch", {"a": "7", "b": "b3"}, "v")),
    "composite_key_gone": ("delete from pairs where a = 7 and b = 'b3'", one("public.pairs", "missing", {"a": "7", "b": "b3"})),
    "many_rows": ("update pairs set v = v + 1 where a < 5", "200 of public.pairs"),
    "keyless_drop": ("delete from logs where ctid = (select ctid from logs where who = 3 limit 1)", one("public.logs", "missing", None)),
    "keyless_pair": ("insert into logs values (77, 'twice', null), (77, 'twice', null)", one("public.logs", "extraneous", None)),
    "keyless_duplicate": ("insert into logs select * from logs where who = 2 limit 1", one("public.logs", "extraneous", None)),
    "keyless_change": ("update logs set what = what || ' ' where ctid = (select ctid from logs where who = 3 limit 1)",
                       one("public.logs", "missing", None) | one("public.logs", "extraneous", None)),
    "keyless_swap": ("with x as (select min(ctid) a, max(ctid) b from logs where what in ('w1', 'w2'))"
                     " update logs set who = who + 100 * (case when ctid = x.a then 1 else -1 end) from x where ctid in (x.a, x.b)", "4 of public.logs"),
}


def named(differences):
    return {(d["table"], d["kind"], json.dumps(d["key"], sort_keys=True), tuple(sorted(d["columns"]))) for d in differences}


def check_mutations(m):
    """Each alone, on both targets at once; then put back."""
    for db in m.targets():
        db.execute("create schema kept; create table kept.many as table many; create table kept.pairs as table pairs;"
                   "create table kept.logs as table logs")
    wrong = {}
    for name, (sql, wanted) in MUTATIONS.items():
        for db in m.targets():
            db.execute(sql)
        code, differences, summary, stderr = verify(m)
        roles = {d["role"] for d in differences}
        if code != 4 or summary["verdict"] != "diverged" or roles != {"shadow", "primary"}:
            wrong[name] = (code, differences[:4], summary, stderr[-500:])
        elif isinstance(wanted, str):
            if f"{sum(d['role'] == 'shadow' for d in differences)} of {differences[0]['table']}" != wanted:
                wrong[name] = differences[:4]
        elif wanted is not None and named(differences) != wanted:
            wrong[name] = (named(differences), wanted)
        for db in m.targets():
            for table in {d["table"].split(".")[1] for d in differences}:
                db.execute(f"truncate {table}; insert into {table} table kept.{table}")
    assert not wrong, "\n".join(f"{name}: {seen}" for name, seen in wrong.items())


def start_many(migration, **kw):
    m = migration(**kw)
    m.source.execute(MANY + ROWS)
    m.start()
    wait_live(m)
    wait_caught_up(m)
    return m


def test_every_mutation_is_found_and_named(migration):
    m = start_many(migration)
    assert assert_clean(m)["rows"] == 2 * 7000
    check_mutations(m)
    assert_clean(m)
    seen = m.run_cli("verify")
    assert seen.returncode == 0 and "clean: 6 tables, 14000 rows" in seen.stdout, seen.stdout
    m.stop()


# ---- while both sides are written ----

LOAD = """
create table hot (id int primary key, v text, n int, big text);
create table comes (id int primary key, v int);
create table moves (id int primary key, v int);
create table logs (who int, what text);
alter table logs replica identity full;
create table cold (id int primary key, v text);
create table truncated (id int primary key, v int);
insert into hot select i, 'a', 0, repeat(md5(i::text), 200) from generate_series(1, 500) i;
insert into moves select i, i from generate_series(1, 200) i;
insert into logs select i % 7, 'w' || i % 11 from generate_series(1, 500) i;
insert into cold select i, 'c' || i from generate_series(1, 30000) i;
insert into truncated select i, i from generate_series(1, 100) i
"""


def load(rng):
    """A transaction: hot keys, A to B and back, rows that come and go, keys that move, values that are not sent."""
    i, n = rng.randint(1, 4), rng.randrange(10)
    return {
        0: f"update hot set v = 'b' where id = {i}; update hot set n = n + 1 where id = {i}",
        1: f"update hot set v = 'a' where id = {i}",
        2: f"update hot set n = n + 1 where id = {i}",
        3: f"update hot set big = repeat('{i}', {rng.randint(10, 9000)}), n = n + 1 where id = {i}",
        4: f"insert into comes values ({i}, 1) on conflict do nothing",
        5: f"delete from comes where id = {i}",
        6: f"update moves set id = -id where id in ({i}, {-i})",
        7: f"update hot set v = v || 'x' where id between 1 and 4 and length(v) < 50; update hot set v = 'a' where id = {i}",
        8: f"insert into logs values ({i}, 'new'); update logs set who = who + 1 where ctid = (select ctid from logs where who = {i} limit 1)",
        9: f"delete from logs where ctid in (select ctid from logs where what = 'new' limit 2)",
    }[n]


class Writers:
    """Sessions that write until stopped; a deadlock among them is theirs."""

    def __init__(self, m, rng, sessions=3, statement=load):
        import random
        self.stopping, self.failures, self.count = threading.Event(), [], 0

        def session(seed):
            own = random.Random(seed)
            with m.source.connect() as connection:
                while not self.stopping.is_set():
                    try:
                        connection.execute(f"begin; {statement(own)}; commit")
                        self.count += 1
                    except Exception as failure:
                        if "deadlock" not in str(failure) and "duplicate key" not in str(failure):
                            self.failures.append(failure)
                            return
                        connection.execute("rollback")
        self.threads = [threading.Thread(target=session, args=(rng.random(),)) for _ in range(sessions)]
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        assert not self.failures, self.failures


def runs_without_alarm(m, times):
    """How many of the runs were whole; none found a difference."""
    whole = 0
    for _ in range(times):
        code, differences, summary, stderr = verify(m)
        assert not differences, f"{differences[:5]}\n{summary}\n{stderr}"
        assert code in (0, 1), (code, stderr)
        whole += code == 0
        print(summary, stderr[-600:])
    return whole


def test_no_false_alarm_while_both_sides_are_written(migration, rng, is_long):
    m = migration()
    m.source.execute(LOAD)
    m.start()
    wait_live(m)
    writers = Writers(m, rng)
    with m.source.connect() as long_one, m.source.connect() as idle:
        # an old transaction that has written and stays open, and one that commits in between
        idle.execute("begin; update cold set v = 'held' where id = 77")
        long_one.execute("begin; update cold set v = 'later' where id < 100 and id <> 77")
        whole = runs_without_alarm(m, 2)
        long_one.execute("commit")
        m.source.execute("truncate truncated; insert into truncated values (1, 1)")
        whole += runs_without_alarm(m, 8 if is_long else 3)
        # a real difference is found under load, on a hot key and on a cold one
        for db in m.targets():
            db.execute("update cold set v = 'wrong' where id = 20000; delete from moves where id = 150")
        code, differences, summary, stderr = verify(m)
        assert code == 4 and named(differences) == (one("public.cold", "mismatch", {"id": "20000"}, "v")
                                                    | one("public.moves", "missing", {"id": "150"})), (differences, summary, stderr)
        idle.execute("rollback")
    writers.stop()
    assert whole >= 3 and writers.count > 100
    m.stop()
