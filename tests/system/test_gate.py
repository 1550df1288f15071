# SPDX-License-Identifier: Apache-2.0
"""Windows and the gate: the primary applies only what was found right on the shadow."""
import json
import re
import threading

import pytest
from confluent_kafka import KafkaError, KafkaException

from following import assert_follows, wait_live, where
from rig import wait_until
from test_http import Served, place

TABLES = """
create table t (id int primary key, v int not null, at pg_lsn);
create table pairs (a int, b text, v int, primary key (b, a));
create table log (n int, what text); alter table log replica identity full;
insert into t select i, 0 from generate_series(1, 1000) i;
insert into pairs select i % 10, 'b' || i, 0 from generate_series(1, 200) i;
insert into log select i, 'w' from generate_series(1, 50) i;
"""
DEBUG = {"FORESHADOW_DEBUG": "1"}


def lsn(text):
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def newest(m, key):
    """The newest value of a key in <m>.control; None: there is none yet."""
    if m.topic("control") not in m.kafka.topics(m.name):
        return None
    try:
        records = m.kafka.consume(m.topic("control"))
    except KafkaException as error:
        if error.args[0].code() == KafkaError.NOT_LEADER_FOR_PARTITION:
            return None  # the topic was made a moment ago
        raise
    values = [r.value() for r in records if r.key() == key.encode() and r.value()]
    return json.loads(values[-1]) if values else None


def gate(m):
    """0: there is none yet."""
    record = newest(m, "gate/shadow")
    return lsn(record["lsn"]) if record else 0


def bookmark(m):
    return newest(m, "windows/shadow")


def make(migration, window="300ms", scrub="2s", **config):
    m = migration(verify={"window": window, "scrub": scrub, "source_load": 1}, **config)
    m.source.execute(TABLES)
    return m


def start_roles(m, *roles, env=None):
    return {role: m.start(role=role, env={**DEBUG, **(env or {}).get(role, {})}) for role in roles}


ROLES = "ingest", "shadow", "primary", "reconcile"

def accept(m, n):
    """The difference of table t on the shadow, by a person."""
    partition, oid = m.shadow.sql("select c.partition, c.oid from foreshadow.progress p join foreshadow.counts c using (migration, partition)"
                                  " where p.topic = %s and c.oid = %s and p.ordinal <> (select sum(applied + covered + passed) from"
                                  " foreshadow.counts o where o.migration = c.migration and o.partition = c.partition)",
                                  m.topic("changes"), m.source.value("select 't'::regclass::oid::bigint"))[0]
    m.shadow.execute("update foreshadow.counts set accepted = accepted + %s where migration = %s and partition = %s and oid = %s",
                     n, m.name, partition, oid)


def wait_gate(m, at_least, timeout=60):
    wait_until(lambda: gate(m) >= at_least, timeout, lambda: f"the gate at {at_least:x}, it stands at {gate(m):x}\n{where(m)}")


def wait_open(m):
    """Past everything that is on the source now."""
    wait_gate(m, lsn(m.source.value("select pg_current_wal_insert_lsn()::text")))


class Load(threading.Thread):
    """Statements until stopped, about so many a second."""

    def __init__(self, m, statement, rate):
        super().__init__()
        self.m, self.statement, self.rate = m, statement, rate
        self.stopping, self.count, self.failure = threading.Event(), 0, None
        self.start()

    def run(self):
        try:
            with self.m.source.connect() as connection:
                while not self.stopping.wait(1 / self.rate):
                    connection.execute(self.statement(self.count))
                    self.count += 1
        except Exception as failure:
            self.failure = failure

    def end(self):
        self.stopping.set()
        self.join()
        assert not self.failure, self.failure


@pytest.mark.parametrize("order", ["key", "transaction"])
def test_the_primary_never_passes_the_gate(migration, order):
    """Rows say where the WAL was before they were committed: none on the primary is from behind the gate."""
    m = make(migration, order=order)
    m.start()
    load = Load(m, lambda n: "begin; select pg_current_xact_id(); insert into t select 100000 + "
                f"{n}, 1, pg_current_wal_insert_lsn(); update pairs set v = v + 1 where a = {n % 10}; commit", 60)
    try:
        wait_gate(m, 1)
        began, seen = gate(m), set()

        def is_behind():
            reached = lsn(str(m.target.value("select coalesce(max(at), '0/0') from t")))
            assert reached <= gate(m)
            seen.add(reached)
            return len(seen) > 8 and max(seen) > began
        wait_until(is_behind, 90, lambda: f"the primary to move on: {seen}\n{where(m)}")
    finally:
        load.end()
    assert_follows(m)
    m.stop()


def test_a_copy_that_began_after_the_mark(migration):
    """The copy's rows are as the source was when it ended, so the gate may not open at a mark from before: the primary
    would copy rows from behind it."""
    m = make(migration, window="10s")
    ingest = m.start(role="ingest", env={"FORESHADOW_FAILPOINTS": "ingest.copy_recorded=stop@1"})
    wait_until(ingest.is_stopped, 60, ingest.log)
    m.start(role="shadow")
    reconcile = m.start(role="reconcile", env={"FORESHADOW_FAILPOINTS": "windows.marked=stop@1"})
    wait_until(reconcile.is_stopped, 60, reconcile.log)
    m.source.execute("insert into t values (0, 0, pg_current_wal_insert_lsn())")
    ingest.sigcont()
    m.shadow.poll("select count(*) from foreshadow.copies where state = 'live'", 3, 60)
    reconcile.sigcont()
    wait_gate(m, 1)
    assert gate(m) >= lsn(str(m.source.value("select max(at) from t")))
    m.start(role="primary")
    assert_follows(m)
    m.stop()


def test_hot_rows_are_verified_and_little_is_read(migration):
    """Two rows change all the time, a thousand others now and then: the gate goes on, and a window reads no more
    than its keys."""
    pages = Served(place.free_port())
    m = make(migration, window="2s", http=f"127.0.0.1:{pages.port}")
    m.start(env=DEBUG)
    wait_gate(m, 1)
    load = Load(m, lambda n: f"update t set v = v + 1 where id = {n % 2 + 1}; update t set v = v + 1 where id = {n % 500 + 10}", 600)
    try:
        first = load.count
        for _ in range(4):
            wait_gate(m, lsn(m.source.value("select pg_current_wal_insert_lsn()::text")), 60)
        assert load.count > first
        # a window, and what it takes to compare it: under a sanitizer, on a busy machine
        wait_until(lambda: 2 <= pages.value("foreshadow_gate_lag_seconds") < 10, 60, "a lag of a window and what it takes")
        assert pages.value("foreshadow_coverage_ratio", role="shadow") == 1
        assert 0 < pages.value("foreshadow_verified_lsn", role="shadow") <= pages.value("foreshadow_gate_lsn") <= gate(m)
    finally:
        load.end()
    windows = [tuple(map(int, found)) for found in re.findall(r"window to \S+: (\d+) keys, (\d+) rows read, 0 of", m.log())]
    windows = [w for w in windows if w[0] > 100]
    assert len(windows) >= 2 and all(read <= 1.5 * keys for keys, read in windows), windows
    assert_follows(m)
    m.stop()


def test_windows_that_fall_behind_leave_out_what_the_file_allows(migration):
    pages = Served(place.free_port())
    m = migration(verify={"window": "100ms", "coverage": 0.5}, http=f"127.0.0.1:{pages.port}")
    m.source.execute("create table t (id int primary key, v int); insert into t select i, 0 from generate_series(1, 10000) i")
    m.start(env=DEBUG)
    wait_gate(m, 1)

    def coverage():
        return pages.value("foreshadow_coverage_ratio", role="shadow")

    assert coverage() == 1
    load = Load(m, lambda n: "update t set v = v + 1", 4)
    try:
        wait_until(lambda: 0.4 < coverage() < 0.6, 60, lambda: f"a thinned window\n{m.tail()}")
        wait_gate(m, lsn(m.source.value("select pg_current_wal_insert_lsn()::text")), 60)
    finally:
        load.end()
    wait_until(lambda: "are compared with the shadow again" in m.log(), 60, lambda: f"windows that are in time\n{m.tail()}")
    wait_until(lambda: coverage() == 1, 60, lambda: f"a window that leaves nothing out\n{m.tail()}")
    assert "of the next ones only 0.5 of the keys are compared" in m.log()
    assert_follows(m)
    m.stop()


def test_a_table_without_a_key_is_compared_as_often_as_the_load_allows(migration):
    """It is read as a whole, however little of it has changed: not in each window then, and the gate waits for it."""
    m = migration(verify={"window": "200ms", "source_load": 0.001})
    m.source.execute(TABLES)
    m.start(env=DEBUG)
    wait_gate(m, 1)
    scans = "select seq_scan from pg_stat_user_tables where relname = 'log'"
    before, seen = m.source.value(scans), m.log().count("window to")
    load = Load(m, lambda n: f"insert into log values ({n}, 'more')", 20)
    try:
        wait_until(lambda: m.log().count("window to") > seen + 25, 60, m.tail)
    finally:
        load.end()
    assert 0 < m.source.value(scans) - before < m.log().count("window to") - seen
    wait_gate(m, lsn(m.source.value("select pg_current_wal_insert_lsn()::text")), 600)
    assert "public.log is compared as a whole, which takes" in m.log()
    assert_follows(m, timeout=600)
    m.stop()


def test_tables_without_a_key_rest_together(migration):
    """Each on its own, there would hardly ever be a window in which none of them rests, and the gate would stand."""
    m = migration(verify={"window": "100ms", "source_load": 0.002})
    m.source.execute(TABLES + "create table long (n int, what text); alter table long replica identity full;"
                     "insert into long select i, repeat('w', 100) from generate_series(1, 5000) i")
    m.start(env=DEBUG)
    wait_gate(m, 1)
    began = len(m.log())
    load = Load(m, lambda n: f"insert into log values ({n}, 'more'); insert into long values ({n}, 'more')", 40)

    def windows(resting):
        return len(re.findall(rf"reconcile: window to .* {resting} resting", m.log()[began:]))

    try:
        wait_until(lambda: windows(2) > 80, 60, m.tail)
    finally:
        load.end()
    assert windows(1) * 10 < windows(2), (windows(1), windows(2))
    assert_follows(m, timeout=600)
    m.stop()


def test_a_table_that_cannot_be_compared_is_said_once_and_holds_the_gate(migration):
    m = make(migration)
    start_roles(m, *ROLES[:3])
    wait_live(m, [m.shadow])
    m.shadow.execute("alter table pairs drop column v")
    reconcile = start_roles(m, "reconcile")["reconcile"]
    wait_until(lambda: "public.pairs cannot be compared" in reconcile.log(), 30, reconcile.log)
    seen = reconcile.log().count("window to")
    wait_until(lambda: reconcile.log().count("window to") > seen + 5, 30, reconcile.log)
    said = [line for line in reconcile.log().splitlines() if "public.pairs cannot be compared" in line]
    assert len(said) == 1 and 'has no column "v"' in said[0] and "; or exclude the table" in said[0], said
    assert gate(m) == 0
    m.shadow.execute("alter table pairs add column v int; update pairs set v = 0")
    wait_open(m)
    assert_follows(m)
    m.stop()


def test_a_table_that_cannot_be_compared_stops_no_scrub(migration):
    """It is said once; the others are scrubbed again and again, and the gate moves as long as nobody writes it."""
    m = make(migration, scrub="1s")
    m.source.execute("create table texts (id int primary key, v text);"
                     " insert into texts select i, case i when 7000 then 'abc' else '7' end from generate_series(1, 8000) i")
    reconcile = start_roles(m, *ROLES, env={"reconcile": {"FORESHADOW_FAILPOINTS": "scrub.small=broken"}})["reconcile"]
    wait_open(m)
    m.shadow.execute("alter table texts alter v type int using 7")
    for _ in range(2):
        seen = reconcile.log().count("public.texts: it could not be compared on the shadow in this scrub")
        wait_until(lambda: reconcile.log().count("public.texts: it could not be compared on the shadow in this scrub") > seen, 60, reconcile.log)
    said = [line for line in reconcile.log().splitlines() if "public.texts cannot be compared" in line]
    assert len(said) == 1 and "invalid input syntax" in said[0] and "the gate stands" not in said[0], said
    m.shadow.execute("set session_replication_role = replica; update t set v = 9 where id = 900")
    wait_until(lambda: "public.t key {900}: mismatch on the shadow" in reconcile.log(), 60, reconcile.log)
    m.shadow.execute("set session_replication_role = replica; update t set v = 0 where id = 900")
    m.source.execute("update t set v = 1 where id = 7")
    wait_gate(m, lsn(m.source.value("select pg_current_wal_insert_lsn()::text")))
    m.target.poll("select v from t where id = 7", 1, 30)
    m.stop()


def test_an_excluded_table_is_compared_no_more(migration):
    m = make(migration)
    start_roles(m, *ROLES[:2])
    wait_live(m, [m.shadow])
    m.shadow.execute("alter table pairs drop column v")
    reconcile = start_roles(m, "reconcile")["reconcile"]
    wait_until(lambda: bookmark(m) and bookmark(m)["due"] == [["public", "pairs", True]], 60, lambda: f"{bookmark(m)}\n{reconcile.log()}")
    m.stop()
    m.write({**m.config, "tables": {**m.config["tables"], "exclude": ["public.pairs"]}})
    again = start_roles(m, *ROLES)["reconcile"]
    wait_open(m)
    wait_until(lambda: again.log().count("reconcile: scrub of 2 tables begins") > 1, 60, again.log)
    m.stop()


def test_what_a_scrub_has_found_is_found_again_after_kill_9(migration):
    """Nothing in the stream says it: the gate does not go past it before it is looked at again."""
    m = make(migration)
    roles = start_roles(m, *ROLES)
    wait_open(m)
    m.shadow.execute("set session_replication_role = replica; update t set v = 9 where id = 900")
    wait_until(lambda: "public.t key {900}: mismatch on the shadow" in roles["reconcile"].log(), 60, roles["reconcile"].log)
    wait_until(lambda: ["public", "t", True] in bookmark(m)["due"], 30, lambda: f"{bookmark(m)}")
    roles["reconcile"].kill9()
    stands = gate(m)
    m.write({**m.config, "verify": {**m.config["verify"], "scrub": "1h"}})
    again = start_roles(m, "reconcile")["reconcile"]
    wait_until(lambda: "public.t key {900}: mismatch on the shadow" in again.log(), 60, again.log)
    seen = again.log().count("window to")
    wait_until(lambda: again.log().count("window to") > seen + 3, 30, again.log)
    assert gate(m) == stands
    m.shadow.execute("set session_replication_role = replica; update t set v = 0 where id = 900")
    wait_gate(m, lsn(m.source.value("select pg_current_wal_insert_lsn()::text")))
    wait_until(lambda: ["public", "t", True] not in bookmark(m)["due"], 30, lambda: f"{bookmark(m)}")
    m.stop()


def test_a_lost_change_stops_the_gate_in_front_of_it(migration):
    m = make(migration)
    roles = start_roles(m, *ROLES, env={"shadow": {"FORESHADOW_FAILPOINTS": "collect.lose=error@1"}})
    wait_open(m)
    before = lsn(m.source.value("select pg_current_wal_insert_lsn()::text"))
    m.source.execute("update t set v = 7 where id = 5")
    wait_until(lambda: "mismatch on the shadow" in roles["reconcile"].log(), 30, lambda: f"the difference\n{where(m)}")
    assert re.search(r'public\.t key \{5\}: mismatch on the shadow', roles["reconcile"].log())
    stands = gate(m)
    m.source.execute("update t set v = 8 where id between 6 and 100")
    m.shadow.poll("select count(*) from t where v = 8", 95, 30)
    # several windows later
    seen = roles["reconcile"].log().count("window to")
    wait_until(lambda: roles["reconcile"].log().count("window to") > seen + 4, 30, "windows")
    assert gate(m) == stands == lsn(m.json("status")["gate"]["verified_lsn"])
    assert m.target.value("select count(*) from t where v <> 0") == 0
    assert m.target.value("select v from t where id = 5") == 0 and m.shadow.value("select v from t where id = 5") == 0
    assert roles["reconcile"].log().count("mismatch on the shadow") == 1, "said once"
    listed = [json.loads(text) for text in m.run_cli("incidents", "list", "--json").stdout.splitlines()]
    assert {"difference", "balance"} == {incident["class"] for incident in listed}, listed
    incident, = [incident for incident in listed if incident["class"] == "difference"]
    assert [incident[name] for name in ("class", "table", "key", "kind", "columns", "source", "target", "role")] == \
        ["difference", "public.t", {"id": "5"}, "mismatch", ["v"], {"v": "7"}, {"v": "0"}, "shadow"]
    assert lsn(incident["window_lsn"]) > stands
    line = m.run_cli("incidents", "list").stdout
    assert "public.t" in line and '{"id":"5"}' in line and "mismatch on the shadow" in line, line
    assert '{"v":"7"}' in m.run_cli("incidents", "show", incident["id"]).stdout
    # what was lost is put right; it stays lost, until a person says that this is enough: then all goes on
    m.shadow.execute("set session_replication_role = replica; update t set v = 7 where id = 5")
    seen = roles["reconcile"].log().count(" 0 of ")
    wait_until(lambda: roles["reconcile"].log().count(" 0 of ") > seen + 1, 30, "windows without a difference")
    assert gate(m) == stands
    accept(m, 1)
    wait_gate(m, before + 1)
    assert_follows(m)
    assert "what differed on the shadow is right now" in roles["reconcile"].log()
    m.stop()


def test_one_lost_change_of_many(migration, is_long):
    """Under load: it is named in the window that it happened in, and the primary never gets it or what comes behind."""
    many = 10000 if is_long else 500
    m = make(migration, window="1s")
    roles = start_roles(m, *ROLES, env={"shadow": {"FORESHADOW_FAILPOINTS": f"collect.lose=error@{many}"}})
    wait_open(m)
    load = Load(m, lambda n: f"insert into t values ({100000 + n}, {n}, pg_current_wal_insert_lsn())", 1000)
    try:
        wait_until(lambda: "missing on the shadow" in roles["reconcile"].log(), 240, lambda: f"the difference, {load.count} rows\n{where(m)}")
        seen = load.count
        wait_until(lambda: load.count > seen + 500, 60, "more load")
    finally:
        load.end()
    lost, = map(int, re.findall(r"public\.t key \{(\d+)\}: missing on the shadow", roles["reconcile"].log()))
    assert lost >= 100000
    behind = lsn(str(m.source.value(f"select at from t where id = {lost + 1}")))
    assert 0 < gate(m) < behind
    assert m.target.value(f"select count(*) from t where id >= {lost}") == 0
    m.shadow.poll(f"select count(*) from t where id between {lost} and {lost + 400}", 400, 60)
    m.kill9()


def test_without_reconcile_the_primary_stands(migration):
    m = make(migration)
    roles = start_roles(m, *ROLES)
    wait_open(m)
    assert_follows(m)
    roles["reconcile"].stop()
    stands = gate(m)
    m.source.execute("update t set v = 3; insert into log values (1, 'later'); delete from pairs where a = 1")
    m.shadow.poll("select count(*) from t where v = 3", 1000, 30)
    m.source.execute("truncate log")
    m.shadow.poll("select count(*) from log", 0, 30)
    assert gate(m) == stands
    assert m.target.sql("select (select count(*) from t where v = 3), (select count(*) from log), (select count(*) from pairs)") == [(0, 50, 200)]
    start_roles(m, "reconcile")
    assert_follows(m)
    m.stop()


def test_one_process_runs_the_windows(migration):
    m = make(migration)
    start_roles(m, *ROLES)
    wait_open(m)
    second = m.start(role="reconcile", instance="b")
    wait_until(lambda: "another process runs the windows" in second.log(), 30, second.log)
    m.processes[3].kill9()
    wait_open(m)
    assert_follows(m)
    m.stop()


def test_after_kill_9_of_everything_it_goes_on(migration):
    m = make(migration)
    m.start()
    load = Load(m, lambda n: f"update t set v = v + 1, at = pg_current_wal_insert_lsn() where id = {n % 100 + 1};"
                f"insert into log values ({n}, 'x')", 100)
    try:
        wait_gate(m, 1)
        for _ in range(2):
            m.kill9()
            stands = gate(m)
            m.start()
            wait_until(lambda: gate(m) > stands, 90, lambda: f"the gate to move\n{where(m)}")
            assert lsn(str(m.target.value("select coalesce(max(at), '0/0') from t"))) <= gate(m)
    finally:
        load.end()
    assert_follows(m)
    m.stop()


def test_until_waits_for_the_gate(migration):
    m = make(migration)
    m.run_until("caught-up")
    m.source.execute("update t set v = 5; delete from log; update pairs set a = -a, v = 1 where a > 5")
    m.run_until("caught-up")
    assert m.target.sql("select sum(v), (select count(*) from log), (select sum(v) from pairs) from t") == [(5000, 0, 80)]
    assert gate(m) > 0


def test_it_goes_on_when_servers_come_back(migration, new_postgres, new_kafka):
    """Source, target and Kafka are stopped, one after the other: whatever fails, the gate goes on afterwards."""
    servers = new_postgres("source"), new_postgres("target"), new_kafka()
    m = make(migration, source_server=servers[0], server=servers[1], kafka_server=servers[2])
    m.start()
    wait_open(m)
    for number, server in enumerate(servers):
        server.stop()
        server.start()
        m.source.execute(f"update t set v = {number + 1}")
        wait_open(m)
    assert_follows(m)
    m.stop()


def test_reconcile_without_windows_is_refused(migration):
    m = migration()
    refused = m.run_cli("run", "--role", "reconcile")
    assert refused.returncode == 2 and "verify: {window: 5s}" in refused.stderr, refused.stderr


def test_a_scrub_that_is_killed_goes_on_where_it_was(migration):
    """Kill -9 in the middle of the first scrub: what was compared before is not compared again, and the gate opens when the
    rest is; what was wrong in either part is found."""
    m = make(migration, window="300ms")
    m.source.execute("create table big as select i as id, 'row ' || i as v from generate_series(1, 60000) i; alter table big add primary key (id)")
    # chunks of 1,000 rows and more, with a pause behind each
    env = {"reconcile": {"FORESHADOW_FAILPOINTS": "scrub.small=broken"}}
    roles = start_roles(m, *ROLES, env=env)

    def is_half_way():
        seen = bookmark(m)
        return seen and seen["at"] and seen["at"][1] == "big" and seen["at"][2] and int(seen["at"][2]) > 10000
    wait_until(is_half_way, 90, lambda: f"the scrub: {bookmark(m)}\n{roles['reconcile'].log()}")
    roles["reconcile"].kill9()
    left = int(bookmark(m)["at"][2])
    assert gate(m) == 0
    m.shadow.execute("set session_replication_role = replica; update big set v = 'x' where id = 59999")
    again = start_roles(m, "reconcile", env={"reconcile": {"FORESHADOW_FAILPOINTS": "scrub.small=broken"}})["reconcile"]
    wait_until(lambda: "public.big key {59999}: mismatch on the shadow" in again.log(), 90, again.log)
    begun = [int(n) for n in re.findall(r"scrub of public\.big from (\d+)", again.log())]
    assert begun and begun[0] >= left, f"left at {left}, went on at {begun[:3]}"
    assert gate(m) == 0
    m.shadow.execute("set session_replication_role = replica; update big set v = 'row 59999' where id = 59999")
    wait_open(m)
    assert_follows(m)
    m.stop()


def test_the_stream_is_read_from_where_it_was_left(migration):
    """What changed while no reconcile ran is compared when it comes back, and not everything else."""
    m = make(migration, scrub="1h")
    roles = start_roles(m, *ROLES)
    wait_open(m)
    wait_until(lambda: bookmark(m) and not bookmark(m)["due"], 30, "a bookmark behind the first scrub")
    roles["reconcile"].kill9()
    m.source.execute("update t set v = 3 where id = 7")
    m.shadow.poll("select v from t where id = 7", 3, 30)
    m.shadow.execute("set session_replication_role = replica; update t set v = 4 where id = 7")
    again = start_roles(m, "reconcile")["reconcile"]
    wait_until(lambda: "public.t key {7}: mismatch on the shadow" in again.log(), 60, again.log)
    assert not re.search(r"reconcile: scrub of", again.log()), "everything is compared again"
    assert m.target.value("select v from t where id = 7") == 0
    m.source.execute("update t set v = 5 where id = 7")
    wait_open(m)
    assert_follows(m)
    m.stop()


def test_a_scrub_finds_what_no_window_touches(migration):
    m = make(migration)
    roles = start_roles(m, *ROLES)
    wait_open(m)
    assert_follows(m)
    m.shadow.execute("set session_replication_role = replica; update t set v = 9 where id = 900")
    wait_until(lambda: "public.t key {900}: mismatch on the shadow" in roles["reconcile"].log(), 60, roles["reconcile"].log)
    m.shadow.execute("set session_replication_role = replica; update t set v = 0 where id = 900")
    m.target.execute("set session_replication_role = replica; delete from pairs where a = 3 and b = 'b13'")
    wait_until(lambda: "public.pairs key {3,b13}: missing on the primary" in roles["reconcile"].log(), 60, roles["reconcile"].log)
    m.target.execute("set session_replication_role = replica; insert into pairs values (3, 'b13', 0)")
    wait_open(m)
    wait_until(lambda: "what differed on the primary is right now" in roles["reconcile"].log(), 60, roles["reconcile"].log)
    assert_follows(m)
    m.stop()


def test_a_verifier_that_is_blind_opens_no_gate(migration):
    """It plants a difference first, and does not find it."""
    m = make(migration)
    roles = start_roles(m, *ROLES, env={"reconcile": {"FORESHADOW_FAILPOINTS": "scrub.blind=broken"}})
    wait_until(lambda: "on the shadow was not found: what is compared proves nothing" in roles["reconcile"].log(), 60, roles["reconcile"].log)
    assert gate(m) == 0
    roles["reconcile"].stop()
    start_roles(m, "reconcile")
    wait_open(m)
    m.stop()


def test_reconcile_that_hangs_is_said_and_the_gate_stands(migration):
    pages = Served(place.free_port())
    m = make(migration, http=f"127.0.0.1:{pages.port}")
    m.start(env={"FORESHADOW_FAILPOINTS": "windows.turn=hang@40", "FORESHADOW_FAILPOINT_RELEASE": str(m.folder / "release")})
    wait_until(lambda: "failpoint windows.turn fired" in m.log(), 90, m.log)
    stands = gate(m)
    m.source.execute("update t set v = 3")
    m.shadow.poll("select count(*) from t where v = 3", 1000, 30)
    wait_until(lambda: pages.health()[0] == 503, 60, lambda: f"503, is {pages.health()}")
    reasons = {r["role"]: r.get("reason") for r in pages.health()[1]["roles"]}
    assert "the gate stands: nothing was compared for" in reasons["reconcile"], reasons
    assert gate(m) == stands and m.target.value("select count(*) from t where v = 3") == 0
    (m.folder / "release").touch()
    wait_open(m)
    wait_until(lambda: pages.health()[0] == 200, 30, lambda: pages.health())
    assert_follows(m)
    m.stop()
