# SPDX-License-Identifier: Apache-2.0
"""copy: the first copy of a table into one target, against native initial sync and against itself with a mapping."""
import time

from common import BUILD, SETTINGS, TABLE, Workload
from rig import Foreshadow, Kafka, Postgres
from rig.wait import wait_until
from stream import MAPPED, MAPPED_TABLE, warm_up


def copy_ours(source_db, target, kafka, name, mapped):
    """Seconds from the start of the processes until the table is live, all indexes included."""
    db = target.createdb(f"{name}_{'mapped' if mapped else 'ours'}")
    db.execute(MAPPED_TABLE if mapped else TABLE)  # as native's: making it is not measured
    f = Foreshadow({"migration": f"{name}_{'m' if mapped else 'o'}", "source": {"uri": source_db.uri()}, "target": {"uri": db.uri()},
                    "kafka": {"bootstrap.servers": kafka.bootstrap, "partitions": 12},
                    "tables": {"include": ["public.bench"]}, "risk": {"shadow_threshold": 0}, "verify": {"window": "off"},
                    **(MAPPED if mapped else {"schema": "exists"})},
                   BUILD / "foreshadow")
    start = time.monotonic()
    f.start(role="ingest"), f.start(role="primary")
    wait_until(lambda: db.value("select to_regclass('foreshadow.copies') is not null") and
               db.value("select count(*) > 0 and bool_and(state = 'live') from foreshadow.copies"), 300,
               lambda: f"the copy\n{f.tail()}", interval=0.02, longest=0.05)
    seconds = time.monotonic() - start
    f.stop()
    f.run_cli("drop", "--yes")
    rows = db.value(f"select count(*) from {'mapped.rows' if mapped else 'bench'}")
    db.drop()
    return seconds, rows


def copy_native(source_db, target, name):
    db = target.createdb(f"{name}_native")
    db.execute(TABLE)
    source_db.execute("create publication native for table bench")
    start = time.monotonic()
    db.execute(f"create subscription {name} connection '{source_db.uri()}' publication native with (binary)")
    wait_until(lambda: db.value("select count(*) = 1 and bool_and(srsubstate = 'r') from pg_subscription_rel"), 300,
               "the initial sync", interval=0.02, longest=0.05)
    seconds = time.monotonic() - start
    rows = db.value("select count(*) from bench")
    db.execute(f"drop subscription {name}")
    source_db.execute("drop publication native")
    db.drop()
    return seconds, rows


def bench_copy(results, repeat, scale):
    source = Postgres("source", 15, SETTINGS).init().start()
    target = Postgres("target", 15, SETTINGS).init().start()
    kafka = Kafka().format().start()
    warm_up(kafka)
    rows = max(int(1_000_000 * scale), 1000)
    source_db = source.createdb("copied")
    Workload("W1", rows, scale).prepare(source_db)
    rates = {"ours": [], "mapped": [], "native": []}
    for number in range(-1, repeat):  # the first round warms up
        name = f"c{number + 1}"
        turns = {"ours": lambda: copy_ours(source_db, target, kafka, name, False),
                 "mapped": lambda: copy_ours(source_db, target, kafka, name, True),
                 "native": lambda: copy_native(source_db, target, name)}
        for who in list(turns) if number % 2 else reversed(turns):
            seconds, seen = turns[who]()
            assert seen == rows, f"{who}: {seen} rows, the source has {rows}"
            if number >= 0:
                rates[who].append(rows / seconds)
    results.figure("copy", "W1", "rate", "rows/s", rates["ours"], rates["native"], "native sync")
    results.figure("copy", "W1", "mapped_rate", "rows/s", rates["mapped"], rates["ours"], "no mapping")
    for server in (source, target, kafka):
        server.remove()
