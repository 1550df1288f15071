# SPDX-License-Identifier: Apache-2.0
"""The command line as a person and a script meet it: drop, status, run and what is typed wrongly."""
import json
import re
import signal
import subprocess

import pytest
from confluent_kafka import Consumer

from following import assert_follows, wait_caught_up, wait_live
from rig import Process, assert_equal, place, wait_until

TABLE = "create table t (id int primary key, v text); insert into t select i, 'v' from generate_series(1, 10) i"
QUICK = {"session.timeout.ms": 6000}  # how long Kafka counts a member that has ended: the shortest that it allows
COMMANDS = ["check", "run", "status", "verify", "incidents", "drop"]


def role(m, name):
    return next(r for r in m.json("status")["roles"] if r["role"] == name)


# ---- drop ----

def slots(m):
    return m.source.sql("select slot_name::text from pg_replication_slots where database = current_database()"
                        " union all select pubname::text from pg_publication order by 1")


def groups(m):
    listed = m.kafka.admin().list_consumer_groups().result(10).valid
    return sorted(g.group_id for g in listed if g.group_id.startswith(f"{m.name}-"))


def rows_of_ours(m, db):
    """How many, in all tables of the schema."""
    tables = db.sql("select quote_ident(table_name) from information_schema.columns"
                    " where table_schema = 'foreshadow' and column_name = 'migration'")
    return sum(db.value(f"select count(*) from foreshadow.{table} where migration = %s", m.name) for table, in tables)


def is_whole(m):
    return len(slots(m)) == 2 and len(m.kafka.topics(f"{m.name}.")) == 4 and groups(m) == [f"{m.name}-primary", f"{m.name}-shadow"]


def beside(migration, m, table):
    """Another migration with the same targets."""
    other = migration(target={"uri": m.target.uri()}, shadow={"uri": m.shadow.uri()})
    other.source.execute(TABLE.replace(" t ", f" {table} "))
    other.target, other.shadow = m.target, m.shadow
    return other


def test_drop_takes_what_is_ours_and_nothing_else(migration):
    m = migration(kafka=QUICK)
    m.source.execute(TABLE)
    m.run_until()
    other = beside(migration, m, "u")
    other.run_until()
    listed = [m.slot, *(m.topic(kind) for kind in ("changes", "snapshot", "control", "incidents")), f"{m.name}-shadow", f"{m.name}-primary",
              "rows of this migration in schema foreshadow"]
    asked = m.run_cli("drop")
    assert asked.returncode == 3 and "nothing was dropped" in asked.stderr and "--yes" in asked.stderr
    assert all(word in asked.stdout for word in listed) and m.shadow.name not in asked.stdout, asked.stdout
    refused = m.run_cli("drop", "--json")
    assert (refused.returncode, refused.stdout) == (2, "") and "--yes" in refused.stderr
    assert is_whole(m) and rows_of_ours(m, m.target) > 0
    report = m.json("drop", "--yes")
    assert report["dropped"] and {m.slot, m.topic("control"), f"{m.name}-primary"} <= {item["name"] for item in report["removed"]}
    assert (slots(m), m.kafka.topics(f"{m.name}."), groups(m)) == ([], {}, [])
    for db in m.targets():
        assert rows_of_ours(m, db) == 0 and rows_of_ours(other, db) > 0
        assert_equal(m.source, db, ["public.t"])
    assert is_whole(other)
    other.source.execute("insert into u values (100, 'later')")
    other.run_until()
    assert_equal(other.source, m.target, ["public.u"])


def test_drop_refuses_while_a_process_runs(migration):
    """Each role by itself; nothing is dropped before that is known."""
    m = migration(verify={"window": "1s"}, kafka=QUICK)
    m.source.execute(TABLE)
    roles = {name: m.start(role=name) for name in ("ingest", "shadow", "primary", "reconcile")}
    wait_live(m)
    wait_caught_up(m)
    for name, words in [("ingest", "an ingest is running"), ("shadow", "writes to the shadow"), ("primary", "writes to the target"),
                        ("reconcile", "role reconcile")]:
        seen = m.run_cli("drop", "--yes")
        assert seen.returncode == 3 and words in seen.stderr and "SIGTERM" in seen.stderr, seen.stderr
        assert is_whole(m) and rows_of_ours(m, m.target) > 0
        assert roles[name].stop() == 0
    seen = m.run_cli("drop")
    assert "database that foreshadow created " + m.shadow.name in seen.stdout and "schema foreshadow (target)" in seen.stdout
    yes = subprocess.run([m.binary, "drop", m.yaml], input="y\n", env=m.environment(), capture_output=True, text=True, timeout=60)
    assert yes.returncode == 0 and yes.stdout.endswith("dropped\n"), yes.stderr
    assert (slots(m), m.kafka.topics(f"{m.name}."), groups(m)) == ([], {}, [])
    assert m.target.server.value("select count(*) from pg_database where datname = %s", m.shadow.name) == 0
    assert not m.target.value("select to_regnamespace('foreshadow') is not null")
    assert_equal(m.source, m.target)
    assert m.run_cli("drop", "--yes").returncode == 0, "what is not there is passed over"


@pytest.mark.long
def test_drop_removes_nothing_while_a_group_has_a_member(migration):
    """Of a consumer without a connection to its target, which only Kafka knows."""
    m = migration()
    m.source.execute(TABLE)
    m.run_until()
    member = Consumer({"bootstrap.servers": m.kafka.bootstrap, "group.id": f"{m.name}-primary"})
    member.subscribe([m.topic("changes")])
    wait_until(lambda: member.poll(0.1) is None and member.assignment(), 30, "the member to be one")
    seen = m.run_cli("drop", "--yes")
    assert seen.returncode == 3 and f"{m.name}-primary: it has members" in seen.stderr, seen.stderr
    assert len(slots(m)) == 2 and len(m.kafka.topics(f"{m.name}.")) == 4 and rows_of_ours(m, m.target) > 0
    member.close()
    m.write({**m.config, "kafka": {**m.config["kafka"], "bootstrap.servers": f"127.0.0.1:{place.free_port()}"}})
    seen = m.run_cli("drop", "--yes", timeout=120)
    assert seen.returncode == 1 and "slot and publication are removed, the rest is not" in seen.stderr and slots(m) == [], seen.stderr
    m.write({**m.config, "kafka": {**m.config["kafka"], "bootstrap.servers": m.kafka.bootstrap}})
    assert m.run_cli("drop", "--yes").returncode == 0 and rows_of_ours(m, m.target) == 0 and not m.kafka.topics(f"{m.name}.")


# ---- status ----

def test_status_has_no_lag_when_idle(migration):
    m = migration()
    m.source.execute(TABLE)
    m.start()
    wait_live(m)
    m.source.execute("update t set v = 'w'; insert into t select i from generate_series(100, 200) i")
    assert_follows(m)
    wait_until(lambda: all(r["lag_bytes"] == 0 and r["lag_seconds"] == 0 for r in m.json("status")["roles"]), 30, "no lag")
    text = m.run_cli("status").stdout
    assert text.count("lag 0 bytes 0.0 s") == 2, text
    assert len(re.findall(r"1/1 tables live, 10 (of about \d+ )?rows, ", text)) == 2, text
    with m.target.connect(autocommit=False) as reader:
        reader.execute("lock table t")
        m.source.execute("insert into t values (1000, 'x')")
        wait_until(lambda: role(m, "primary")["lag_bytes"] > 0 and role(m, "primary")["lag_seconds"] > 1, 30, "lag on the primary")
    wait_caught_up(m)


def test_status_before_the_first_run(migration):
    m = migration(verify=None)
    text = m.run_cli("status").stdout
    assert text.count("nothing applied yet") == 2, text
    assert f"there is no topic {m.topic('control')}: foreshadow run has not begun" in text, text


def test_status_shows_how_far_a_copy_is(migration):
    m = migration(copy={"jobs": 1})
    m.source.execute("create table t (id int primary key, v text);"
                     "insert into t select i, repeat('x', 100) from generate_series(1, 10000) i; analyze t")
    m.start(role="shadow")
    m.start(role="primary")
    ingest = m.start(role="ingest", env={"FORESHADOW_FAILPOINTS": "copy.row=stop@8000"})
    wait_until(ingest.is_stopped, 60, ingest.log)
    seen = []

    def is_partly_there():
        seen[:] = [role(m, "primary").get("copy", {"rows": 0})]
        return seen[0]["rows"] > 1000
    wait_until(is_partly_there, 30, lambda: f"rows of the copy, last seen {seen}")
    copy = seen[0]
    assert copy["rows"] < 8000 and (copy["tables"], copy["tables_live"], copy["estimated_rows"]) == (1, 0, 10000), copy
    assert 100 * copy["rows"] < copy["bytes"] < 130 * copy["rows"] and copy["estimated_bytes"] > 1_000_000, copy
    assert copy["eta_seconds"] > 0
    text = m.run_cli("status").stdout
    assert re.search(r"copy 0/1 tables live, \d+ of about 10000 rows, 0\.[1-9] MB of values \(the tables: 1\.\d MB\),"
                     r" about \d+ s to go", text), text
    ingest.sigcont()
    wait_live(m)
    for name in "shadow", "primary":
        copy = role(m, name)["copy"]
        assert (copy["rows"], copy["tables_live"], copy["eta_seconds"]) == (10000, 1, None), copy
        assert 1_000_000 < copy["bytes"] < 1_300_000, copy
    m.stop()
    for db in m.targets():
        db.execute("alter table foreshadow.copy_parts drop column bytes")  # as an older version has made it
    assert role(m, "primary")["copy"]["bytes"] == 0
    m.run_until()
    for db in m.targets():
        assert db.value("select sum(bytes) from foreshadow.copy_parts") == 0


def test_watch_repaints_until_it_is_told_to_end(migration):
    m = migration()
    m.source.execute(TABLE)
    painted = Process("painted", [m.binary, "status", m.yaml, "--watch"], m.folder, env=m.environment())
    lines = Process("lines", [m.binary, "status", m.yaml, "--watch", "--json"], m.folder, env=m.environment())
    wait_until(lambda: painted.out().count("\033[H\033[J") >= 3 and lines.out().count("\n") >= 3, 30, "three pictures")
    painted.signal(signal.SIGINT)
    assert painted.wait(10) == 0 and lines.stop(10) == 0
    pictures = painted.out().split("\033[H\033[J")[1:]
    picture = rf"migration {m.name}\nsource +wal .*, no slot yet\nshadow +nothing applied yet\nprimary +nothing applied yet\n"
    assert all(re.fullmatch(picture, p) for p in pictures), pictures
    assert {json.loads(line)["migration"] for line in lines.out().splitlines()} == {m.name} and "\033" not in lines.out()


# ---- run ----

def test_run_until_ends_there(migration):
    m = migration()
    m.source.execute(TABLE + "; create table large as select i as id, md5(i::text) as v from generate_series(1, 30000) i;"
                     "alter table large add primary key (id)")
    m.run_until(str(m.source.value("select pg_current_wal_lsn()")))  # the copies are to come then, and belong to it
    for db in m.targets():
        assert_equal(m.source, db)
    m.source.execute("insert into t select i, 'before' from generate_series(100, 500) i")
    lsn = str(m.source.value("select pg_current_wal_lsn()"))
    process = m.run_until(lsn, args=["--json"])
    for db in m.targets():
        assert_equal(m.source, db)
    events = [json.loads(line) for line in process.err().splitlines()]
    assert process.out() == "" and all(set(e) == {"time", "level", "role", "message"} for e in events)
    assert f"reached {lsn}, draining" in [e["message"] for e in events] and "ingest" in {e["role"] for e in events}
    assert not [e for e in events if e["level"] in ("warn", "error")], events


# ---- what is typed ----

def typed(binary, *args):
    return subprocess.run([binary, *args], capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)


def test_help_and_version_are_answers(binary):
    for args in [["--help"], ["help"], *([command, "--help"] for command in COMMANDS)]:
        seen = typed(binary, *args)
        assert (seen.returncode, seen.stderr) == (0, "") and seen.stdout.startswith("usage: foreshadow "), args
        assert all(len(line) <= 140 for line in seen.stdout.splitlines())
    assert all(command in typed(binary, "--help").stdout for command in COMMANDS)
    assert all(option in typed(binary, "run", "--help").stdout for option in ("--until LSN|caught-up", "--role ROLE", "--json"))
    assert "--watch" not in typed(binary, "run", "--help").stdout
    for args in [["--version"], *([command, "--version"] for command in COMMANDS)]:
        seen = typed(binary, *args)
        assert (seen.returncode, seen.stderr) == (0, "") and re.fullmatch(r"foreshadow \d+\.\d+\.\d+\n", seen.stdout), args


def test_what_is_typed_wrongly_is_said(binary, tmp_path):
    for args, words in [
            ([], ["usage: foreshadow COMMAND"]),
            (["stats", "m.yaml"], ["'stats'", "the nearest is status", "foreshadow --help"]),
            (["status", "m.yaml", "--wach"], ["--wach", "the nearest is --watch", "foreshadow status --help"]),
            (["run", "-x", "m.yaml"], ["unknown option -x", "foreshadow run --help"]),
            (["run", "m.yaml", "--until"], ["--until wants a value: LSN|caught-up"]),
            (["status", "m.yaml", "--json=1"], ["--json takes no value"]),
            (["run", "m.yaml", "--watch"], ["--watch is not an option of this command"]),
            (["run"], ["foreshadow run: wanted one migration.yaml, got 0"]),
            (["run", "a.yaml", "b.yaml"], ["wanted one migration.yaml, got 2"]),
            (["run", str(tmp_path / "none.yaml")], ["none.yaml", "No such file"])]:
        seen = typed(binary, *args)
        assert (seen.returncode, seen.stdout) == (2, "") and not [w for w in words if w not in seen.stderr], (args, seen.stderr)
    seen = typed(binary, "run", "--json", str(tmp_path / "none.yaml"))
    assert seen.returncode == 2 and json.loads(seen.stderr)["level"] == "error"


def test_values_of_run_that_mean_nothing(migration):
    m = migration()
    for args, word in [(("--until", "tomorrow"), "wanted an LSN such as"), (("--role", "primry"), "wanted ingest, shadow, primary")]:
        seen = m.run_cli("run", *args)
        assert seen.returncode == 2 and word in seen.stderr, seen.stderr
