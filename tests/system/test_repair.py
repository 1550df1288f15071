# SPDX-License-Identifier: Apache-2.0
"""verify --repair: what differs becomes the source's row, written by its partition's owner, and nothing else changes."""
import json
import threading

import pytest

from following import assert_balanced, assert_follows, wait_caught_up, wait_live
from rig import assert_equal, wait_until
from test_foreign_keys import new as new_families
from test_mapping import assert_mapped, make as make_mapped
from test_verify import assert_clean, verify

SCHEMA = """
create table t (id int primary key, v text, n numeric(8,2), at timestamptz default '2024-01-01', big text);
alter table t alter big set storage external;
insert into t select i, 'v' || i, i / 3.0, '2024-01-01', repeat('x', 3000) from generate_series(1, 500) i;
"""


def repair(m, *args, env=None, timeout=300):
    """-> (exit code, {(role, table, key): line of the repair}, differences, summary, stderr)"""
    seen = m.run_cli("verify", "--repair", "--json", *args, env=env, timeout=timeout)
    lines = [json.loads(line) for line in seen.stdout.splitlines()]
    repairs = {(line["role"], line["table"], json.dumps(line["key"], sort_keys=True)): line for line in lines if "repaired" in line and "verdict" not in line}
    differences = [line for line in lines if "verdict" not in line and "repaired" not in line]
    return seen.returncode, repairs, differences, lines[-1] if lines else None, seen.stderr


def assert_repaired(m, count, *args, **kw):
    code, repairs, differences, summary, stderr = repair(m, *args, **kw)
    assert code == 0, f"{code} {summary} {[r for r in repairs.values() if not r['repaired']][:3]}\n{stderr}"
    assert len(repairs) == len(differences) == count == summary["repaired"] and summary["not_repaired"] == 0, (repairs, summary)
    assert all(r["repaired"] and r["reason"] is None for r in repairs.values())
    return repairs


def open_rows(db):
    return db.value("select count(*) from foreshadow.repairs where state in ('asked', 'held', 'ready', 'written') or row_values is not null")


def incidents(m):
    listed = [json.loads(line) for line in m.run_cli("incidents", "list", "--json").stdout.splitlines()]
    return [line for line in listed if line.get("class") == "repair"]


def start(migration, sql=SCHEMA, env=None, **kw):
    m = migration(**kw)
    m.source.execute(sql)
    m.start(env=env)
    wait_live(m)
    wait_caught_up(m)
    return m


DAMAGE = """
delete from t where id in (7, 8);
update t set v = 'wrong', n = null where id = 9;
update t set big = overlay(big placing 'y' from 2000 for 1) where id = 10;
insert into t values (9001, 'nobody''s "row"', 1, null, null);
"""


def test_every_kind_on_both_targets(migration):
    m = start(migration)
    for db in m.targets():
        db.execute(DAMAGE)
    code, repairs, differences, summary, stderr = repair(m, "--role", "shadow")
    assert code == 0 and summary["verdict"] == "repaired", f"{summary}\n{stderr}"
    assert {r["kind"] for r in repairs.values()} == {"missing", "mismatch", "extraneous"} and len(repairs) == 5
    assert_equal(m.source, m.shadow)
    assert m.target.value("select v from t where id = 9") == "wrong"
    assert_repaired(m, 5)
    assert_equal(m.source, m.target)
    assert_clean(m)
    m.source.execute("update t set v = v || '!'; delete from t where id = 8; insert into t values (9001, 'mine'), (8, 'new')")
    assert_follows(m)
    told = incidents(m)
    assert len(told) == 10 and {i["role"] for i in told} == {"shadow", "primary"}, told
    mismatch, = [i for i in told if i["role"] == "primary" and '"9"' in i["key"]]
    assert mismatch["table"] == "public.t" and mismatch["before"]["v"] == "wrong" and mismatch["before"]["n"] is None
    assert mismatch["after"]["v"] == "v9" and mismatch["after"]["n"] == "3.00"
    shown = json.loads(m.run_cli("incidents", "show", mismatch["id"], "--json").stdout)
    assert shown == mismatch, shown
    extra, = [i for i in told if i["role"] == "shadow" and '"9001"' in i["key"]]
    assert extra["after"] is None and extra["before"]["v"] == 'nobody\'s "row"'
    for db in m.targets():
        assert open_rows(db) == 0
        assert_balanced(m, db)
    assert m.run_cli("verify", "--repair", "--final").returncode == 2
    m.stop()


ODD = """
create type mood as enum ('sad', 'it''s "ok"', 'a,b');
create type pair as (n int, t text);
create extension if not exists citext;
create table pairs (v int, "b B" text, a int, primary key ("b B", a));
insert into pairs values (1, '', 1), (2, 'NULL', 1), (3, 'x,"y"\\z', 1), (4, E'new\\nline\\t', 1), (5, 'ünï – 日本', 2), (6, ' b ', 3), (7, '{}', 4);
create table by_char (k char(7) primary key, v text);
insert into by_char values ('a', 'one'), ('b  ', 'two'), ('', 'three');
create table by_numeric (k numeric primary key, v text);
insert into by_numeric values (1.0, 'one'), (2.50, 'two'), (-0.00, 'zero');
create table by_float (k float8 primary key, v text);
insert into by_float values (0, 'zero'), (1e300, 'large'), ('NaN', 'nan'), (0.1, 'tenth');
create table by_time (k timestamptz, u uuid, e mood, y bytea, d date, primary key (k, u, e, y, d), v text);
insert into by_time select '2024-01-01 00:00:00.000001'::timestamptz + i * interval '1 day', md5(i::text)::uuid,
  (enum_range(null::mood))[1 + i % 3], decode(md5(i::text), 'hex'), '2024-01-01'::date + i, 'v' from generate_series(1, 6) i;
create table by_citext (k citext primary key, v text);
insert into by_citext values ('Abc', 'one'), ('d', 'two');
create table parts (id int, region text, v text, primary key (region, id)) partition by list (region);
create table parts_a partition of parts for values in ('a');
create table parts_b (v text, region text not null, id int not null);
alter table parts attach partition parts_b for values in ('b');
insert into parts select i, case when i % 2 = 0 then 'a' else 'b' end, 'v' || i from generate_series(1, 20) i;
create table other (id int primary key, always bigint generated always as identity, made int generated always as (id * 2) stored, p pair, ms money,
  ta text[], j json, f float8, ch "char", iv interval, nothing text, flag bool, r int4range);
insert into other (id, p, ms, ta, j, f, ch, iv, flag, r) select i, row(i, 'a "b"')::pair, 1.5, array['NULL', null, 'a,b"c\\d', ''], '{"a":  1}', '-0', 'x', '1 day 2 h', i = 1, '[1,5)'
  from generate_series(1, 5) i;
create table large (id int primary key, big text, b bytea);
insert into large select i, repeat('0123456789', 600000) || i, decode(repeat('00ff5c22', 500000), 'hex') from generate_series(1, 2) i;
create table by_mood (m mood primary key);
insert into by_mood values ('sad');
create table only_key (a int, b int, primary key (a, b));
insert into only_key values (1, 1), (2, 2);
"""
ODD_DAMAGE = """
delete from pairs where v in (1, 3, 5); update pairs set v = -v where v > 1; insert into pairs values (0, 'x,"y"\\Z', 1);
delete from by_char where k = 'a'; update by_char set v = null where k = 'b'; insert into by_char values ('c', 'nobody');
update by_numeric set k = 1.00 where k = 1; update by_numeric set v = 'x' where k = 0; delete from by_numeric where k = 2.5; insert into by_numeric values (3, '');
update by_float set k = '-0' where k = 0; delete from by_float where k in (1e300, 'NaN'); update by_float set v = 'x' where k = 0.1;
update by_time set v = 'x' where d = '2024-01-02'; delete from by_time where d = '2024-01-03'; insert into by_time values (now(), gen_random_uuid(), 'sad', '\\x', '2000-01-01');
update by_citext set k = 'aBC' where k = 'abc'; update by_citext set v = 'x' where k = 'd';
update parts set v = 'x' where id in (1, 2); delete from parts where id in (3, 4); insert into parts values (100, 'a', ''), (101, 'b', '');
delete from other where id = 1; update other set p = row(0, null)::pair, ms = 2, ta = '{}', j = '{"a": 1}', f = 0, ch = null, iv = '26 h', nothing = '', flag = null, r = 'empty' where id = 2;
insert into other (id) values (77); update other set always = default where id = 3;
update large set big = overlay(big placing '!' from 5000000 for 1) where id = 1; delete from large where id = 2;
delete from only_key where a = 1; insert into only_key values (3, 3);
"""


def test_odd_keys_and_rows(migration):
    m = start(migration, ODD)
    for db in m.targets():
        db.execute(ODD_DAMAGE)
    # A key that no row of the source can have is left to a person.
    m.target.execute("alter type mood add value 'new'")
    m.target.execute("insert into by_mood values ('new')")
    code, repairs, differences, summary, stderr = repair(m, "--role", "primary")
    left, = [r for r in repairs.values() if not r["repaired"]]
    assert code == 4 and left["key"] == {"m": "new"} and "no row of the source can have its key" in left["reason"], f"{left} {summary}\n{stderr}"
    m.target.execute("delete from by_mood where m = 'new'")
    tables = ["pairs", "by_char", "by_numeric", "by_float", "by_time", "by_citext", "parts", "other", "large", "only_key"]
    assert_equal(m.source, m.target, tables)
    assert_repaired(m, len(repairs) - 1)
    assert_equal(m.source, m.shadow, tables)
    told = [i for i in incidents(m) if i["table"] == "public.large" and i["before"] and i["after"]]
    assert len(told) == 2 and all("bytes)" in i["after"]["big"] for i in told)
    m.source.execute("update pairs set v = v + 100; update by_numeric set v = 'n'; update by_float set v = 'f'; update by_time set v = 't'; delete from by_char;"
                     "update by_citext set v = 'c'; update parts set v = 'p'; update parts set region = 'a' where id < 5; delete from other where id < 3; update large set big = 'small'")
    assert_follows(m, tables)
    assert_clean(m)
    m.stop()


def test_through_mapping_rules_and_filters(migration):
    m = make_mapped(migration)
    m.start()
    wait_live(m)
    wait_caught_up(m)
    for db in m.targets():
        db.execute("update crm.people set name = 'x', email = 'y', added = 'mine' where person_id = 1; delete from crm.people where person_id = 2;"
                   "insert into crm.people (person_id, email) values (5000, 'z');"
                   "update sales.orders set total = 0, quantity = 5, at = null, size = -1, mood = null, customer_id = 8 where id = 1; delete from sales.orders where id = 2;"
                   "insert into sales.orders (id, total) values (3, 1), (9999, 1);"
                   "update items set label = 'x' where id = 7; delete from items where id = 8; insert into items values ('a', 900, 'y'), ('it''s b', 901, 'y');"
                   "update renamed set a = b, b = a where key = 4")
    code, repairs, differences, summary, stderr = repair(m)
    assert code == 0 and summary["repaired"] == 2 * 14, f"{code} {len(repairs)} {summary} {[r for r in repairs.values() if not r['repaired']]}\n{stderr}"
    for db in m.targets():
        assert db.value("select added from crm.people where person_id = 1") == "mine"
        assert db.value("select count(*) from sales.orders where id in (3, 9999)") == 0
        db.execute("update crm.people set added = 'here'")
    assert_mapped(m)
    m.source.execute("update customers set first = 'again' where id < 5; update orders set tenant = 1, qty = '7' where id < 10; update shop_a.items set label = 'n';"
                     "delete from shop_b.items where id < 10; update plain set a = 0 where id < 10")
    wait_caught_up(m)
    assert_mapped(m)
    # A row of a table without a key has no name: it is said, and nothing is touched.
    m.target.execute("delete from journal where ctid = (select min(ctid) from journal)")
    code, repairs, differences, summary, stderr = repair(m, "--role", "primary", "--table", "public.journal")
    line, = repairs.values()
    assert code == 4 and summary["not_repaired"] == 1 and not line["repaired"] and "no key" in line["reason"], (code, repairs)
    m.stop()


@pytest.mark.parametrize("order", ["key", "transaction"])
def test_while_everything_is_written(migration, order):
    more = {"order": "transaction"} if order == "transaction" else {}
    m = start(migration, SCHEMA + "create table busy as select id, v, n from t; alter table busy add primary key (id)", **more)
    stop, failures = threading.Event(), []

    def write(statement, pause):
        try:
            with m.source.connect() as connection:
                i = 0
                while not stop.wait(pause):
                    i += 1
                    connection.execute(statement.format(i=i, k=100 + i % 300))
        except Exception as failure:
            failures.append(failure)

    threads = [threading.Thread(target=write, args=args) for args in [
        ("update busy set n = {i}, v = 'w{i}' where id = {k}", 0.01),
        ("begin; update busy set n = {i} where id between {k} and {k} + 30; delete from busy where id = 10000 + {k};"
         "insert into busy (id, v) values (10000 + {k}, 'new'); commit", 0.1),
        ("update t set n = {i} where id = 5", 3)]]
    for db in m.targets():
        db.execute("update t set big = 'wrong' where id in (5, 6); delete from t where id = 7; insert into t values (9001)")
    for thread in threads:
        thread.start()
    try:
        code, repairs, differences, summary, stderr = repair(m, "--table", "public.t")
        assert code == 0 and len(repairs) == 8, f"{code} {summary} {repairs}\n{stderr}"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, failures
    m.source.execute("update t set v = 'end' where id < 10; delete from t where id = 6")
    assert_follows(m)
    for db in m.targets():
        assert_balanced(m, db)
    assert_clean(m)
    m.stop()


class Verify:
    """verify --repair in a thread of its own."""

    def __init__(self, m, *args, env=None):
        self.result = None
        self.thread = threading.Thread(target=self.run, args=(m, *args), kwargs={"env": env})
        self.thread.start()

    def run(self, m, *args, env=None):
        self.result = repair(m, *args, env=env)

    def end(self, timeout=240):
        self.thread.join(timeout)
        assert not self.thread.is_alive(), "verify --repair does not end"
        return self.result


def hanging(m):
    """An environment in which verify hangs in a hold until the file is there, and the file."""
    release = m.folder / "release"
    return {"FORESHADOW_FAILPOINTS": "repair.asked=hang", "FORESHADOW_FAILPOINT_RELEASE": str(release)}, release


def wait_state(db, state, count=1):
    db.poll(f"select count(*) >= {count} from foreshadow.repairs where state = '{state}'", True, timeout=120)


def test_a_hold_does_not_outlive_verify(migration):
    m = start(migration, kafka={"partitions": 2})
    m.target.execute(DAMAGE)
    seen = m.run_cli("verify", "--repair", "--role", "primary", env={"FORESHADOW_FAILPOINTS": "repair.asked=crash"}, timeout=240)
    assert seen.returncode == -9, seen
    m.source.execute("update t set n = n + 1 where id > 20")
    wait_caught_up(m)
    assert m.target.value("select count(*) from foreshadow.repairs where state in ('held', 'ready')") == 0
    # It hangs: the hold is over by itself, the partition goes on, and what it then says finds nobody.
    env, release = hanging(m)
    hung = Verify(m, "--role", "primary", env=env)
    wait_state(m.target, "held", 2)
    m.source.execute("update t set v = 'meanwhile' where id = 9; update t set n = n + 1 where id > 20")
    wait_caught_up(m)
    release.touch()
    code, repairs, _, summary, stderr = hung.end()
    assert code == 0 and len(repairs) == 5, f"{code} {summary} {repairs}\n{stderr}"
    assert m.target.value("select v from t where id = 9") == "meanwhile"
    assert_follows(m)
    assert open_rows(m.target) == 0
    m.stop()


def test_a_row_that_changes_in_a_hold_is_not_written(migration):
    """What the source has then is not what the target must have at its place: written, the next change would not apply."""
    m = start(migration)
    m.target.execute("update t set v = 'wrong' where id in (9, 10)")
    env, release = hanging(m)
    hung = Verify(m, "--role", "primary", env=env)
    wait_state(m.target, "held", 2)
    m.source.execute("delete from t where id = 9; update t set id = 9010 where id = 10")
    release.touch()
    code, repairs, _, summary, stderr = hung.end()
    assert code == 0 and len(repairs) == 2, f"{code} {summary} {repairs}\n{stderr}"
    assert_follows(m)
    m.stop()


@pytest.mark.parametrize("point", ["repair.held", "repair.before_commit", "repair.written"])
def test_the_owner_dies_on_the_way(migration, point):
    m = start(migration, env={"FORESHADOW_FAILPOINTS": f"{point}=crash"})
    m.target.execute(DAMAGE)
    asking = Verify(m, "--role", "primary")
    wait_until(lambda: not m.running(), 120, "the owner to die")
    m.start()
    code, repairs, _, summary, stderr = asking.end()
    assert code == 0 and len(repairs) == 5, f"{code} {summary} {repairs}\n{stderr}"
    assert_follows(m)
    m.target.poll("select count(*) from foreshadow.repairs where state = 'written'", 0, timeout=60)
    # At least once, and of each.
    assert len({i["key"] for i in incidents(m)}) == 5
    assert open_rows(m.target) == 0
    m.stop()


def test_a_repair_that_fails_harms_nothing(migration):
    m = start(migration, kafka={"partitions": 1})
    m.target.execute("delete from t where id in (7, 8); update t set v = 'wrong' where id = 9; create unique index only_one on t ((id < 9)) where id in (6, 7)")
    code, repairs, differences, summary, stderr = repair(m, "--role", "primary")
    assert code == 4 and summary["verdict"] == "diverged" and (summary["repaired"], summary["not_repaired"]) == (2, 1), f"{summary} {repairs}\n{stderr}"
    failed, = [r for r in repairs.values() if not r["repaired"]]
    assert failed["key"] == {"id": "7"} and "only_one" in failed["reason"], failed
    m.source.execute("update t set n = n + 1 where id <> 7")
    wait_caught_up(m)
    assert not m.target.sql("select id from t where id = 7") and len(incidents(m)) == 2
    m.target.execute("drop index only_one")
    assert_repaired(m, 1)
    m.source.execute("delete from t where id = 7")
    assert_follows(m)
    seen = m.run_cli("verify", "--repair")
    assert seen.returncode == 0 and "repaired 0, not repaired 0" in seen.stdout, seen.stdout
    m.stop()


def test_the_gate_goes_on_when_the_shadow_is_repaired(migration):
    m = start(migration, verify={"window": "500ms"})
    m.shadow.execute("update t set big = 'wrong' where id in (5, 6)")
    m.source.execute("update t set n = 1 where id in (4, 5)")
    wait_until(lambda: "the gate stands" in m.log(), 60, lambda: m.tail())
    assert_repaired(m, 2, "--role", "shadow", "--table", "public.t")
    assert_follows(m)
    assert_clean(m)
    m.stop()


def test_where_the_target_enforces_foreign_keys(migration):
    """Nothing cascades: a row that is wrong is updated, not made anew."""
    m = new_families(migration, False)
    m.start()
    wait_live(m)
    wait_caught_up(m)
    for db in m.targets():
        db.execute("set session_replication_role = replica; update orders set v = 'wrong' where id = 1; delete from orders where id = 2;"
                   "delete from items where ord = 3 and n = 1; insert into items values (4, 9, 'nobody'); update a set v = 'wrong' where id = 7; delete from b where id = 8")
    assert_repaired(m, 12)
    assert_follows(m)
    m.source.execute("delete from orders where id < 5; update orders set v = 'end'; update a set v = 'end'")
    assert_follows(m)
    assert_clean(m)
    m.stop()
