# SPDX-License-Identifier: Apache-2.0
"""order: transaction: a reader of a target never sees half of a source transaction."""
import threading
import time

import psycopg
import pytest

from following import assert_balanced, assert_follows, where, wait_caught_up, wait_live
from rig import wait_until

BALANCE = 1000


class Reader(threading.Thread):
    """Asks one thing of one target over and over: the different answers, and how often the target had moved between two."""

    def __init__(self, db, query):
        super().__init__(daemon=True)
        self.db, self.query = db, query
        self.answers = set()
        self.states = 0
        self.is_over = threading.Event()
        self.start()

    def run(self):
        query = f"select (select sum(changes)::bigint from foreshadow.progress), * from ({self.query}) q"
        last = None
        with self.db.connect() as connection:
            while not self.is_over.is_set():
                moved, *answer = connection.execute(query).fetchone()
                self.answers.add(tuple(answer))
                self.states += moved != last
                last = moved

    def seen(self):
        assert self.is_alive(), f"the reader of {self.db} has ended"
        return self.states

    def end(self):
        self.is_over.set()
        self.join(60)
        return self.answers


def readers(m, query):
    return [Reader(db, query) for db in m.targets()]


def wait_seen(pair, more, timeout=300):
    """Each reader has seen so many more states of its target."""
    goals = [reader.seen() + more for reader in pair]
    wait_until(lambda: all(r.seen() >= goal for r, goal in zip(pair, goals)), timeout,
               lambda: f"readers to see {goals} states; they saw {[r.states for r in pair]}")


def transfers(m, accounts):
    """A pgbench script for each number of accounts that take part, in one order, so that no two lock each other out."""
    paths = []
    for parties in range(2, 7):
        lines = ["\\set d random(1, 100)"]
        for i in range(parties):
            lines.append(f"\\set a{i} random({accounts * i // parties + 1}, {accounts * (i + 1) // parties})")
        lines.append("begin;")
        for i in range(parties):
            change = f"+ :d * {parties - 1}" if i == 0 else "- :d"
            lines.append(f"update accounts set balance = balance {change} where id = :a{i};")
        lines.append("commit;")
        path = m.folder / f"transfer{parties}.sql"
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o644)
        paths += ["-f", str(path)]
    return paths


def test_money(migration, is_long):
    """Clients move money, readers on both targets sum all of it, everything is killed in the middle."""
    accounts, clients, sums = (1000, 8, 1000) if is_long else (200, 4, 150)
    m = migration(order="transaction")
    m.source.execute("create table accounts (id int primary key, balance bigint not null);"
                     f"insert into accounts select i, {BALANCE} from generate_series(1, {accounts}) i")
    m.start()
    wait_live(m)
    rate = [] if is_long else ["-R", "400"]
    bench = m.source.start_pgbench("-n", "-c", str(clients), "-T", "600", *rate, *transfers(m, accounts))
    pair = readers(m, "select sum(balance), count(*) from accounts")
    wait_seen(pair, sums // 2)
    m.kill9()
    m.start()
    wait_seen(pair, sums // 2)
    assert bench.running(), bench.tail()
    bench.kill9()
    for reader in pair:
        assert reader.end() == {(accounts * BALANCE, accounts)}, reader.db
    assert_follows(m)
    for db in m.targets():
        parts = assert_balanced(m, db)
    assert [p for p in parts if parts[p].changes] == [0]
    m.stop()


LARGE = 20_000
STATE = "select min(v), max(v), count(*) from large"


def large_updates(m, times):
    for _ in range(times):
        m.source.execute("update large set v = v + 1; update small set v = v + 1")


def large_migration(migration, **more):
    m = migration(order="transaction", **more)
    m.source.execute("create table large (id int primary key, v int not null); create table small (id int primary key, v int);"
                     f"insert into large select i, 0 from generate_series(1, {LARGE}) i; insert into small values (1, 0)")
    return m


def assert_whole(pair):
    for reader in pair:
        halves = {answer for answer in reader.end() if answer[0] != answer[1] or answer[2] != LARGE}
        assert not halves, f"{reader.db} showed {halves} among {len(reader.answers)} states"


@pytest.mark.parametrize("point", ["none", "apply.before_first=crash@{0}", "apply.before_commit=crash@2"])
def test_a_transaction_larger_than_a_batch(migration, point):
    """Each changes every row; a crash between its rounds leaves nothing of it."""
    m = large_migration(migration)
    m.start(role="ingest")
    processes = {role: m.start(role=role) for role in ("shadow", "primary")}
    wait_live(m)
    if point != "none":
        # Rounds 2 to 4 of the second transaction, as the rows that are copied have gone before.
        processes["primary"].signal(15)
        assert processes["primary"].wait(60) == 0
        processes["primary"] = m.start(role="primary", env={"FORESHADOW_FAILPOINTS": point.format(8)})
    pair = readers(m, STATE)
    large_updates(m, 3)
    if point != "none":
        wait_until(lambda: not processes["primary"].running(), 60, lambda: f"the crash\n{processes['primary'].tail()}")
        assert m.target.sql(STATE)[0][0] < 3
        m.start(role="primary")
    wait_caught_up(m)
    assert_whole(pair)
    for db in m.targets():
        assert db.sql(STATE) == [(3, 3, LARGE)]
        assert_balanced(m, db)
    assert_follows(m)


def test_ingest_dies_in_the_middle_of_a_large_transaction(migration):
    """The consumers give their targets' transactions up while nothing comes; the next life of ingest, with its fence in
    the middle of the source's transaction, completes it."""
    m = large_migration(migration)
    ingest = m.start(role="ingest")
    m.start(role="shadow")
    m.start(role="primary")
    wait_live(m)
    ingest.signal(15)
    assert ingest.wait(60) == 0
    ingest = m.start(role="ingest", env={"FORESHADOW_FAILPOINTS": "publish.after_produce=crash@12000"})
    pair = readers(m, STATE)
    # The insert is what nothing after it makes good, should the beginning get lost.
    m.source.execute("insert into small values (2, 0); update large set v = v + 1; update small set v = 1 where id = 1;"
                     "update large set v = v + 1")
    is_open = (f"select count(*) > 0 from pg_stat_activity where datname = '{m.target.name}' and backend_xid is not null"
               " and application_name like 'foreshadow%'")
    m.target.poll(is_open, True)
    wait_until(lambda: not ingest.running(), 60, lambda: f"the crash\n{ingest.tail()}")
    m.target.poll(is_open, False)
    m.start(role="ingest")
    assert_follows(m)
    assert_whole(pair)
    for db in m.targets():
        assert db.sql(STATE) == [(2, 2, LARGE)]
        assert_balanced(m, db)


def test_a_process_that_stops_in_an_open_transaction_has_an_heir(migration):
    """What it had applied of the source's transaction is locked on the target until the heir has ended it."""
    m = large_migration(migration)
    m.start(role="ingest")
    first = m.start(role="primary", instance="zombie")
    wait_live(m, [m.target])
    first.kill9()
    zombie = m.start(role="primary", instance="zombie", env={"FORESHADOW_FAILPOINTS": "apply.before_first=stop@3"})
    reader = Reader(m.target, STATE)
    large_updates(m, 1)
    wait_until(zombie.is_stopped, 60, lambda: f"the third round\n{zombie.tail()}")
    assert m.target.sql(STATE) == [(0, 0, LARGE)]
    m.start(role="primary", instance="heir")
    wait_caught_up(m, [m.target])
    assert m.target.sql(STATE) == [(1, 1, LARGE)] and zombie.is_stopped()
    zombie.sigcont()
    wait_until(lambda: not zombie.running() or "did not run" in zombie.log(), 30,
               lambda: f"the zombie to notice\n{zombie.tail()}")
    large_updates(m, 1)
    assert_follows(m, dbs=[m.target])
    assert_whole([reader])
    assert_balanced(m, m.target)


def test_what_keeps_transactions_whole_is_seen_when_it_is_missing(migration):
    m = large_migration(migration, env={"FORESHADOW_FAILPOINTS": "part.cuts_transactions=broken"})
    m.start()
    wait_live(m)
    pair = readers(m, STATE)
    large_updates(m, 3)
    wait_caught_up(m)
    for reader in pair:
        assert any(low != high for low, high, _ in reader.end()), "no half of a transaction was seen: the test proves nothing"
    assert_follows(m)


def test_events_inside_a_transaction(migration):
    """TRUNCATE, a key swap, and changes of columns run in their place, and nobody sees them alone."""
    m = migration(order="transaction")
    m.source.execute("create table kept (id int primary key, n int not null); insert into kept select i, 1 from generate_series(1, 100) i;"
                     "create table swapped (id int primary key, n int not null); insert into swapped select i, i from generate_series(1, 10) i;"
                     "create table keyless (n int); alter table keyless replica identity full; insert into keyless values (100)")
    m.start()
    wait_live(m)
    # One statement, so one snapshot; what it needs is locked before it is taken.
    pair = readers(m, "select (select count(*) from kept), (select sum(n) from kept) + (select sum(n) from keyless),"
                      " (select sum(id * n) from swapped), (select count(*) from swapped)")
    for turn in range(10):
        m.source.execute(f"begin; update kept set n = n + 5 where id = 1; truncate kept;"
                         f"insert into kept select i, {turn} from generate_series(1, 100) i;"
                         f"update keyless set n = 200 - {turn} * 100; commit")
        m.source.execute("begin; update swapped set id = -1 where id = 1; update swapped set id = 1 where id = 2;"
                         "update swapped set id = 2 where id = -1; update swapped set n = 3 - n where id <= 2; commit")
        m.source.execute(f"begin; insert into kept select i, 0 from generate_series(1000, 1999) i; truncate kept, keyless;"
                         f"insert into keyless values (200 - {turn} * 100);"
                         f"insert into kept select i, {turn} from generate_series(1, 100) i; commit")
    assert_follows(m)
    for reader in pair:
        assert reader.end() == {(100, 200, 385, 10)}, reader.db
    for db in m.targets():
        assert_balanced(m, db)


@pytest.mark.parametrize("rows", [10, 12_000])
def test_a_change_of_columns_inside_a_transaction(migration, rows):
    """The targets lack the column: nothing of the transaction is there until somebody has added it."""
    m = migration(order="transaction")
    m.source.execute("create table t (id int primary key, v int not null); create table other (id int primary key);"
                     f"insert into t select i, 0 from generate_series(1, {rows}) i")
    process = m.start()
    wait_live(m)
    m.source.execute("insert into other values (1)")
    m.source.execute("begin; insert into other values (2); update t set v = 1; alter table t add column w int;"
                     "update t set w = v + 1; insert into other values (3); commit")
    m.source.execute("insert into other values (4)")
    process.wait_log("waits for the target's schema", 60)
    for db in m.targets():
        db.poll("select count(*) from other", 1)
        assert db.sql("select min(v), max(v) from t") == [(0, 0)]
    assert "ADD COLUMN" in process.log()
    wait_until(lambda: process.log().count("waits for the target's schema") >= 2, 60, process.tail)
    m.target.execute("select pg_sleep(3)")  # three looks at the target's columns
    for db in m.targets():  # what is rolled back counts
        tried = db.value("select n_tup_upd from pg_stat_user_tables where relname = 't'")
        assert tried <= rows, f"the transaction is applied and rolled back again and again while it waits: {tried} updates"
    assert process.log().count("waits for the target's schema") == 2
    pair = readers(m, "select min(v), max(v), (select count(*) from other) from t")
    for db in m.targets():
        db.execute("alter table t add column w int")
    assert_follows(m)
    for reader in pair:
        assert reader.end() <= {(0, 0, 1), (1, 1, 3), (1, 1, 4)}, reader.db
    for db in m.targets():
        assert_balanced(m, db)


@pytest.mark.parametrize("rows", [3, 12_000])
def test_what_a_target_refuses_stops_in_front_of_its_transaction(migration, rows):
    """The transaction before is there, nothing of the refused one is, and the report names the row."""
    m = migration(order="transaction", schema="exists", create_shadow=True)
    ddl = "create table t (id int primary key, v int not null{0}); create table other (id int primary key)"
    m.source.execute(ddl.format(""))
    m.source.execute(f"insert into t select i, 0 from generate_series(1, {rows}) i")
    for db in m.targets():
        db.execute(ddl.format(" check (v < 5)"))
    process = m.start()
    wait_live(m)
    m.source.execute("update t set v = 1; insert into other values (1)")
    with m.source.connect() as connection, connection.transaction():
        connection.execute("insert into other values (2)")
        connection.execute(f"update t set v = 2 where id < {rows}")
        connection.execute(f"update t set v = 7 where id = {rows}")
        connection.execute("insert into other values (3)")
    m.source.execute("insert into other values (4)")
    wait_until(lambda: process.log().count("-> stopped") >= 2, 120, lambda: where(m))
    for db in m.targets():  # it is said before what is in front of it is committed
        db.poll("select min(v) = 1 and max(v) = 1 from t")
        assert db.sql("select id from other") == [(1,)]
    assert f'"{rows}"' in process.log() and "t_v_check" in process.log()


def test_the_order_is_kept_as_it_began(migration):
    m = migration()
    m.source.execute("create table t (id int primary key)")
    m.start()
    wait_live(m)
    m.stop()
    m.write({**m.config, "order": "transaction"})
    process = m.start()
    assert process.wait(60) == 3
    assert "began with order: key" in process.log()


def test_an_isolated_transaction_does_not_wait_long(migration):
    """Nothing follows it but a barrier."""
    m = migration(order="transaction")
    m.source.execute("create table t (id int primary key)")
    m.start()
    wait_live(m)
    wait_caught_up(m)
    took = []
    with m.target.connect() as connection:
        for i in range(20):
            m.source.execute("insert into t values (%s)", i)
            began = time.monotonic()
            wait_until(lambda: connection.execute("select count(*) from t").fetchone() == (i + 1,), 60,
                       lambda: f"row {i}\n{where(m)}", interval=0.005, longest=0.005)
            took.append(time.monotonic() - began)
    assert sorted(took)[10] < 2, took
