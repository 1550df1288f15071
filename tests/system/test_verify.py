# SPDX-License-Identifier: Apache-2.0
"""foreshadow verify: what differs is named, and nothing else ever is. (Every kind of difference: test_mutations.py.)"""
import json
import re
import threading
import time

import pytest

from following import contains, wait_caught_up, wait_live, where
from rig import wait_until
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


def one(table, kind, key, *columns):
    return {(table, kind, json.dumps(key, sort_keys=True), tuple(sorted(columns)))}


def named(differences):
    return {(d["table"], d["kind"], json.dumps(d["key"], sort_keys=True), tuple(sorted(d["columns"]))) for d in differences}


# ---- while both sides are written ----

LOAD = """
create table hot (id int primary key, v text, n int, big text);
alter table hot alter big set storage external;
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
    """A transaction: hot keys, A to B and back, rows that come and go, keys that move, values that are
    not sent, also of a row whose key moves to another partition."""
    i, n = rng.randint(1, 4), rng.choice([*range(10)] * 10 + [10])
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
        10: "update hot set id = case when id < 1000 then id + 1000 else id - 1000 end where id in (5, 6, 1005, 1006)",
    }[n]


class Writers:
    """Sessions that write until stopped; a deadlock among them is theirs."""

    def __init__(self, m, rng, sessions=3, statement=load, pause=0.01):
        import random
        self.stopping, self.failures, self.count = threading.Event(), [], 0

        def session(seed):
            own = random.Random(seed)
            with m.source.connect() as connection:
                # the targets must be able to follow: a run waits for them again and again
                while not self.stopping.wait(pause):
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


def test_chunks_are_read_on_the_source_while_those_before_are_compared(migration, rng):
    """The first 20000 rows are at rest, so that the chunk behind them is read meanwhile. What changes in it is told from what differs."""
    m = migration()
    m.source.execute("create table chunked (id int primary key, n int, v text);"
                     "insert into chunked select i, 0, 'v' || i from generate_series(1, 150000) i")
    m.start()
    wait_live(m)
    planted = [20010, 60000, 110000, 149990]

    def write(own):  # not what is planted: that would be put right
        return f"update chunked set n = n + 1 where id = {own.choice((30000, 140000)) + own.randint(1, 9)}"

    writers = Writers(m, rng, statement=write)

    def is_explained():  # if there was a write while it was looked at
        seen = m.run_cli("verify", timeout=300)
        explained = [int(n) for n in re.findall(r"150000 rows, 0 differences, (\d+) explained", seen.stdout)]
        assert len(explained) == 2, seen.stdout + seen.stderr
        return max(explained) > 0

    wait_until(is_explained, 120, "a change that is told from a difference")
    for db in m.targets():
        db.execute("update chunked set v = 'wrong' where id = any (%s)", planted)
        db.execute("delete from chunked where id = 90000")
    code, differences, summary, stderr = verify(m)
    wanted = set().union(one("public.chunked", "missing", {"id": "90000"}),
                         *(one("public.chunked", "mismatch", {"id": str(i)}, "v") for i in planted))
    assert code == 4 and named(differences) == wanted and len(differences) == 2 * len(wanted), (differences, summary, stderr)
    writers.stop()
    wait_caught_up(m)
    code, differences, summary, stderr = verify(m)
    assert code == 4 and named(differences) == wanted and len(differences) == 2 * len(wanted), (differences, summary, stderr)
    m.stop()


def test_what_is_in_the_wal_and_not_visible_yet_raises_no_alarm(migration, new_postgres):
    """A commit that waits for a synchronous standby is on the targets before the source shows it."""
    source = new_postgres("standby_source")
    m = migration(source_server=source)
    m.source.execute("create table t (id int primary key, v text); insert into t select i, 'a' from generate_series(1, 2000) i")
    m.start()
    wait_live(m)
    source.set(synchronous_standby_names="nobody")
    m.source.poll("show synchronous_standby_names", "nobody")
    m.source.execute("checkpoint")  # who makes it has read the setting, which is what commits look at
    stuck = threading.Thread(target=lambda: m.source.execute("update t set v = 'stuck' where id = 5"))
    stuck.start()
    for db in m.targets():
        db.poll("select v from t where id = 5", "stuck")
    assert m.source.value("select v from t where id = 5") == "a"
    code, differences, summary, stderr = verify(m)
    assert (code, differences) == (1, []) and summary["verdict"] == "incomplete" and summary["coverage"] < 1, (code, differences, summary)
    assert "not judged" in stderr
    # the same without waiting for old transactions: the test would notice
    seen = m.run_cli("verify", env={"FORESHADOW_FAILPOINTS": "judge.settled=broken"}, timeout=300)
    assert seen.returncode == 4, seen.stdout + seen.stderr
    source.set(synchronous_standby_names=None)
    stuck.join()
    assert_clean(m)
    m.stop()


def test_without_judgement_there_would_be_alarms(migration, rng):
    """The load is one in which reading both sides alone finds differences that are none."""
    m = migration()
    m.source.execute(LOAD)
    m.start()
    wait_live(m)
    writers = Writers(m, rng)
    found = []
    for _ in range(5):
        seen = m.run_cli("verify", "--json", env={"FORESHADOW_FAILPOINTS": "judge.hasty=broken"}, timeout=300)
        found += [line for line in seen.stdout.splitlines() if '"kind"' in line]
        if found:
            break
    writers.stop()
    assert found
    m.stop()


def test_who_marks_gets_a_barrier_at_once(migration):
    """Else each mark waits for up to 200 ms. What says so are the moments at which barriers were made."""
    m = migration()
    m.source.execute("create table b (id int primary key)")
    m.start()
    wait_live(m)

    def mark():
        lsn = m.source.value("select pg_logical_emit_message(false, 'foreshadow', 'verify')::text from pg_current_xact_id()")
        wait_until(lambda: contains(m.shadow, m.name, lsn), 30, lambda: f"the mark on the shadow\n{where(m)}")
        return m.shadow.value("select max(barrier_at) from foreshadow.progress")

    made = [mark()]

    def sooner():
        made.append(mark())
        return 0 < (made[-1] - made[-2]).total_seconds() < 0.19

    wait_until(sooner, 120, lambda: f"two barriers less than 200 ms apart: {made}")
    m.stop()


def test_all_bits_of_a_bigint_count(migration):
    """PostgreSQL's hash of it is of 32 bits, the upper half in the lower: equal where both have changed alike."""
    m = migration()
    m.source.execute("create table b (id bigint primary key, v bigint); insert into b select i, 0 from generate_series(1, 1000) i;"
                     "create table k (v bigint); alter table k replica identity full; insert into k values (0), (1)")
    m.start()
    wait_live(m)
    assert m.source.value("select hashint8extended(0, 1) = hashint8extended(4294967297, 1)")
    m.shadow.execute("update b set v = 4294967297 where id = 500")
    m.target.execute("update k set v = 4294967297 where v = 0")
    assert verify(m, "--role", "shadow")[1] and verify(m, "--role", "primary")[1]
    _, differences, _, _ = verify(m)
    assert one("public.b", "mismatch", {"id": "500"}, "v") <= named(differences), differences
    assert {d["kind"] for d in differences if d["table"] == "public.k"} == {"missing", "extraneous"}
    m.stop()


def test_a_run_that_cannot_find_its_planted_difference_fails(migration):
    m = migration()
    m.source.execute("create table t (id int primary key, v text); insert into t select i, 'a' from generate_series(1, 100) i")
    m.start()
    wait_live(m)
    seen = m.run_cli("verify", env={"FORESHADOW_FAILPOINTS": "scrub.blind=broken"})
    assert seen.returncode == 1 and "on the shadow was not found: what is compared proves nothing" in seen.stderr, seen.stderr
    assert_clean(m)
    m.stop()


def test_source_down_says_what_is_not_verified(migration, new_postgres):
    source = new_postgres("down_source")
    m = migration(source_server=source)
    m.source.execute("create table a (id int primary key); create table b (id int primary key); insert into a values (1)")
    m.start()
    wait_live(m)
    source.stop()
    code, differences, summary, stderr = verify(m)
    assert code == 1 and not differences and summary["verdict"] == "incomplete" and summary["coverage"] == 0, (code, summary)
    assert "cannot connect to the source" in stderr
    for line in ("public.a on the shadow", "public.b on the primary"):
        assert any(line in said and "not verified" in said for said in stderr.splitlines()), stderr
    source.start()
    m.kill9()


def test_what_is_refused_of_one_table_does_not_keep_others_from_being_compared(migration):
    m = migration()
    m.source.execute("create table a (id int primary key, v text); create table b (id int primary key, v text);"
                     " insert into a values (1, 'abc'); insert into b select i, 'b' from generate_series(1, 100) i")
    m.start()
    wait_live(m)
    m.shadow.execute("alter table a alter v type int using 7")
    m.target.execute("update b set v = 'c' where id = 50")
    code, differences, summary, stderr = verify(m)
    assert code == 4 and named(differences) == one("public.b", "mismatch", {"id": "50"}, "v"), f"{code} {differences}\n{stderr}"
    m.target.execute("update b set v = 'b' where id = 50")
    code, differences, summary, stderr = verify(m)
    assert code == 1 and not differences and summary["verdict"] == "incomplete" and summary["coverage"] == 0.5, f"{code} {summary}\n{stderr}"
    for role in "shadow", "primary":
        assert any(f"public.a on the {role}" in line and 'not verified: ' in line and "invalid input syntax" in line for line in stderr.splitlines()), stderr
    m.stop()


def test_what_is_refused_while_it_is_judged_does_not_keep_others_from_being_compared(migration):
    """In the middle of a transaction on the target: it is ended, and the next table begins one of its own."""
    m = migration()
    m.source.execute("create table a (id int primary key, v text); create table b (id int primary key, v text);"
                     " insert into a values (1, 'a'); insert into b values (1, 'b')")
    m.start()
    wait_live(m)
    m.shadow.execute("update a set v = 'x'; update b set v = 'x'")
    seen = m.run_cli("verify", "--json", "--role", "shadow", env={"FORESHADOW_FAILPOINTS": "judge.refused=error@2"})  # behind the planted one
    lines = [json.loads(line) for line in seen.stdout.splitlines()]
    assert seen.returncode == 4 and named(lines[:-1]) == one("public.b", "mismatch", {"id": "1"}, "v"), f"{lines}\n{seen.stderr}"
    assert any("public.a on the shadow" in line and "not verified: " in line and "division by zero" in line for line in seen.stderr.splitlines()), seen.stderr
    m.stop()


def test_names_of_tables_and_roles(migration):
    m = migration()
    m.source.execute("create table a (id int primary key, v int); create table b (id int primary key); insert into a values (1, 1)")
    m.start()
    wait_live(m)
    m.target.execute("update a set v = 2")
    assert assert_clean(m, "--role", "shadow")["tables"] == 2
    seen = m.run_cli("verify", "--role", "shadow")
    assert seen.returncode == 0 and "clean: 2 tables, 1 rows" in seen.stdout, seen.stdout
    code, differences, summary, _ = verify(m, "--role", "primary", "--table", "a")
    assert code == 4 and summary["tables"] == 1
    assert differences[0] | {"since_lsn": None} == {
        "table": "public.a", "key": {"id": "1"}, "kind": "mismatch", "columns": ["v"], "source": {"v": "1"}, "target": {"v": "2"},
        "role": "primary", "since_lsn": None, "hop": None, "writer": "unknown", "written_at": None}
    assert m.run_cli("verify", "--table", "nowhere").returncode == 2
    assert m.run_cli("verify", "--role", "ingest").returncode == 2
    m.stop()


# ---- what lies between the sides ----

def test_every_type_towards_18(migration, target18):
    """No type looks different on the other version, alone or inside others; and of each a NULL is missed."""
    m = migration(server=target18)
    tables = all_tables()
    with m.source.connect() as c:
        c.execute(USER_TYPES)
        for t in tables:
            c.execute(t.setup())
            c.execute(t.insert(0))
    m.start()
    wait_live(m, timeout=240)
    with m.source.connect() as c:
        for t in tables:
            c.execute(t.insert(1000))
            c.execute(t.changes())
    wait_caught_up(m, timeout=240)
    assert_clean(m, timeout=500)
    with m.target.connect() as c:
        for t in tables:
            for column in t.columns:
                c.execute(f"update {t.table} set {column} = null where id = (select min(id) from {t.table} where {column} is distinct from null)")
    code, differences, _, stderr = verify(m, "--role", "primary", timeout=500)
    assert code == 4
    missed = {(t.table, column) for t in tables for column in t.columns} - {
        (d["table"].split(".")[1], column) for d in differences for column in d["columns"]}
    assert not missed, missed
    m.stop()


def test_mapping_rules_filters_and_merged_tables(migration, rng):
    m = make_mapped(migration)
    m.start()
    wait_live(m)
    assert_clean(m)
    threads, failures = write_mapped_load(m, rng, 900)
    runs_without_alarm(m, 2)
    for thread in threads:
        thread.join()
    assert not [f for f in failures if "deadlock" not in str(f)], failures
    wait_caught_up(m)
    assert_clean(m)
    for db in m.targets():
        db.execute("update crm.people set name = name || ' ' where person_id = (select min(person_id) from crm.people where name is not null);"
                   "update sales.orders set mood = 'happy', price = 0 where id = (select max(id) from sales.orders where mood = 'sad');"
                   "insert into sales.orders (id, tenant, total) values (-1, 0, 0);"
                   "insert into items values ('it''s b', -7, 'new'); delete from items where ctid = (select ctid from items where shop = 'a' limit 1);"
                   "update journal set shout = lower(shout) where ctid = (select ctid from journal where shout like 'W%' limit 1);"
                   "update renamed set a = 'b' where key = (select max(key) from renamed)")
    code, differences, _, stderr = verify(m, "--role", "primary")
    seen = sorted((d["table"], d["kind"], *d["columns"]) for d in differences)
    assert seen == sorted([
        ("crm.people", "mismatch", "name"), ("sales.orders", "mismatch", "mood", "price"), ("sales.orders", "extraneous"),
        ("public.items", "extraneous"), ("public.items", "missing"), ("public.journal", "missing"), ("public.journal", "extraneous"),
        ("public.renamed", "mismatch", "a")]), (seen, stderr)
    m.stop()


def test_other_collations_column_order_and_partitions(migration):
    """Partitioned on one side, another order of columns, collations that order and compare otherwise, wider types."""
    m = migration(schema="exists", create_shadow=True)
    m.source.execute("create table parted (id int, day date, v text, n numeric(10,2), primary key (day, id)) partition by range (day);"
                     "create table parted_a partition of parted for values from ('2024-01-01') to ('2024-02-01');"
                     "create table parted_b partition of parted for values from ('2024-02-01') to ('2024-03-01');"
                     "create table plain (name text primary key, v varchar(10), c char(5), t text)")
    for db in m.targets():
        db.execute("create collation loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
                   "create table parted (n numeric(12,4), v varchar(50), id bigint, day date, primary key (id, day));"
                   "create table plain (t text collate loose, c char(9), v text, name text collate \"C\" primary key) partition by hash (name);"
                   "create table plain_0 partition of plain for values with (modulus 2, remainder 0);"
                   "create table plain_1 partition of plain for values with (modulus 2, remainder 1)")
    m.source.execute("insert into parted select i, '2024-01-01'::date + i % 50, 'v' || i, i / 3.0 from generate_series(1, 3000) i;"
                     "insert into plain select chr(65 + i % 60) || i, 'V' || i, 'c' || i % 9, 'Text' || i from generate_series(1, 2000) i")
    m.start()
    wait_live(m)
    m.source.execute("update parted set n = n + 1 where id % 3 = 0; update plain set v = v || ' ' where v like 'V1%'; delete from parted where id = 9")
    wait_caught_up(m)
    assert_clean(m)
    for db in m.targets():
        db.execute("update plain set t = upper(t) where t = 'Text7'; update parted set n = n + 0.0001 where id = 10")
    code, differences, _, _ = verify(m, "--role", "shadow")
    assert code == 4 and {(d["table"], *d["columns"]) for d in differences} == {("public.plain", "t"), ("public.parted", "n")}, differences
    m.stop()
