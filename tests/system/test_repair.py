# SPDX-License-Identifier: Apache-2.0
"""verify --repair: what differs becomes the source's row, written by its partition's owner, and nothing else changes."""
import json
import threading
import time

import pytest

from following import assert_balanced, assert_follows, wait_caught_up, wait_live
from rig import assert_equal, wait_until
from test_mapping import make as make_mapped
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
