# SPDX-License-Identifier: Apache-2.0
"""The bench harness: ratios of medians, ours and the peer alternating on the same backlog in one run.

    bench/run ingest-null   receive, decode, encode, no Kafka   against pg_recvlogical to the null device, TCP
    bench/run apply         updates of existing rows            against pipelined single prepared statements
    bench/run memory        peak RSS of all roles in one process, by workload
    bench/run stream        source to one target through Kafka  against native logical replication (binary, streaming)
    bench/run copy          the first copy into one target      against native initial sync; and with a mapping of five rules
    bench/run mapping       stream with a mapping of five rules against the same without
    bench/run reconcile     verify against count(*) and md5 in chunks; its memory; pgbench on the source beside reconcile

Workloads: W1 one transaction of 1 M inserts (bigint key, int, 32 B text, numeric(12,2), timestamptz, 40 B text);
W2 transactions of 2 updates of random rows, 1 insert, 1 delete from 4 clients; W3 one-row transactions. reconcile has
its own (full, md5, linear, memory, load): what each figure means stands in bench/reconcile.py.
Absolute rates depend on the machine and its neighbours; the ratio is the median of the pairwise ratios.
"""
import argparse
import json
import sys

from common import BUILD, CHOSEN, ROW, SETTINGS, Results, Workload, timed, workloads
from copying import bench_copy
from reconcile import WORKLOADS as OF_RECONCILE
from reconcile import bench_reconcile
from rig import Foreshadow, Kafka, Postgres, place
from rig.postgres import client_program
from rig.wait import wait_until
from stream import bench_mapping, bench_stream


# ---- ingest-null ----

def bench_ingest_null(results, repeat, scale):
    server = Postgres("source", 15, SETTINGS).init().start()
    for w in workloads(scale):
        db = server.createdb(f"null_{w.name.lower()}")
        w.prepare(db)
        db.execute("create publication foreshadow_bench for table bench")
        db.sql("select pg_create_logical_replication_slot('base', 'pgoutput')")
        w.make(db, place.folder("null"))
        end = str(db.value("select pg_current_wal_insert_lsn()"))
        db.execute("select pg_logical_emit_message(true, 'bench', 'end')")
        f = Foreshadow({"migration": "bench", "source": {"uri": db.uri()}, "target": {"uri": db.uri().replace("null_", "none_")},
                        "kafka": {"bootstrap.servers": "127.0.0.1:1"}, "tables": {"include": ["public.bench"]}},
                       BUILD / "foreshadow")
        ours, peer, cpu, peer_cpu = [], [], [], []
        for turn in range(repeat + 1):  # the first pair warms up
            for slot in ("ours", "peer"):
                db.sql(f"select pg_copy_logical_replication_slot('base', '{slot}')")
            wall, out, used = timed([BUILD / "ingest_null", f.yaml, "ours", end])
            peer_wall, _, peer_used = timed([client_program("pg_recvlogical"), "-d", db.uri(), "-S", "peer", "--start", "-f", "/dev/null",
                                             "-o", "proto_version=1", "-o", "publication_names=foreshadow_bench", "-o", "binary=true",
                                             f"--endpos={end}", "--no-loop"])
            changes = json.loads(out)["changes"]
            if turn:
                ours.append(changes / wall)
                peer.append(changes / peer_wall)
                cpu.append(used / changes * 1e6)
                peer_cpu.append(peer_used / changes * 1e6)
            for slot in ("ours", "peer"):
                db.poll(f"select active from pg_replication_slots where slot_name = '{slot}'", False)
                db.sql(f"select pg_drop_replication_slot('{slot}')")
        results.figure("ingest-null", w.name, "rate", "changes/s", ours, peer, "pg_recvlogical", at_least=1.0)
        results.figure("ingest-null", w.name, "client_cpu", "us/change", cpu, peer_cpu, "pg_recvlogical")
        db.sql("select pg_drop_replication_slot('base')")
    server.remove()


# ---- apply ----

def bench_apply(results, repeat, scale):
    server = Postgres("target", 15, SETTINGS).init().start()
    db = server.createdb("apply")
    rows, updates = max(int(500_000 * scale), 5000), max(int(200_000 * scale), 2000)
    Workload("W1", rows, scale).prepare(db)
    db.execute("create schema foreshadow; create function foreshadow.expect(seen bigint, wanted bigint, what text) returns void"
               " language plpgsql as $$ begin if seen is distinct from wanted then raise exception '% of % in %', seen, wanted, what; end if; end $$")
    for batch in (1000,):
        rates = {"ours": [], "peer": []}
        cpu = {"ours": [], "peer": []}
        for turn in range(repeat + 1):
            for who in ("ours", "peer"):
                _, out, _ = timed([BUILD / "apply_updates", who, db.uri(), rows, updates, batch])
                figure = json.loads(out)
                if turn:
                    rates[who].append(figure["changes"] / figure["seconds"])
                    cpu[who].append(figure["cpu_seconds"] / figure["changes"] * 1e6)
            db.execute("vacuum bench")
        results.figure("apply", "upd", "rate", "changes/s", rates["ours"], rates["peer"], "pipelined single", at_least=1.0)
        results.figure("apply", "upd", "client_cpu", "us/change", cpu["ours"], cpu["peer"], "pipelined single")
    server.remove()


# ---- memory ----

def bench_memory(results, repeat, scale):
    """VmHWM of one process with all roles, both targets, windows of the default length and 12 partitions. A transaction ten times
    as large may take 30 MB more; a value ten times its size."""
    source = Postgres("source", 15, SETTINGS).init().start()
    target = Postgres("target", 15, SETTINGS).init().start()
    kafka = Kafka().format().start()
    large = int(1_000_000 * scale)
    scripts = {
        "copy": (large, None),
        "W1": (0, f"insert into bench select {ROW} from generate_series(1, {large}) i"),
        "200k": (0, f"insert into bench select {ROW} from generate_series(1, {large // 5}) i"),
        "2M": (0, f"insert into bench select {ROW} from generate_series(1, {large * 2}) i"),
        "10MB": (0, "insert into bench values (1, 1, repeat('0123456789', 1000000)), (2, 2, repeat('abcdefghij', 1000000))"),
    }
    peaks = {}
    for name, (base, script) in scripts.items():
        db = source.createdb(f"mem_{name.lower()}")
        dst = target.createdb(f"mem_{name.lower()}_dst")
        Workload("W1", base, scale).prepare(db)
        f = Foreshadow({"migration": f"mem_{name.lower()}", "source": {"uri": db.uri()}, "target": {"uri": dst.uri()},
                        "kafka": {"bootstrap.servers": kafka.bootstrap, "partitions": 12},
                        "tables": {"include": ["public.bench"]}, "risk": {"shadow_threshold": 0}}, BUILD / "foreshadow")
        process = f.start()
        targets = [dst, target.database(f"{dst.name}_shadow")]

        def live():
            return all(target.value("select exists (select from pg_database where datname = %s)", t.name) and
                       t.value("select to_regclass('foreshadow.copies') is not null") and
                       t.value("select count(*) > 0 and bool_and(state = 'live') from foreshadow.copies") for t in targets)

        wait_until(live, 300, lambda: f"the copy\n{f.tail()}")
        if script:
            db.execute(script)
        rows = db.value("select count(*) from bench")
        wait_until(lambda: all(t.value("select count(*) from bench") == rows for t in targets), 600,
                   lambda: f"{rows} rows on the targets\n{f.tail()}")
        peaks[name] = process.peak_rss() / 1e6
        bound = {"2M": min(300, peaks.get("200k", 300) + 30), "10MB": 300 + 10 * 20}.get(name, 300)
        results.figure("memory", name, "peak_rss", "MB", [peaks[name]], at_most=round(bound))
        f.stop()
        f.run_cli("drop", "--yes")
    for server in (source, target, kafka):
        server.remove()


BENCHES = {"memory": bench_memory, "ingest-null": bench_ingest_null, "apply": bench_apply, "stream": bench_stream,
           "copy": bench_copy, "mapping": bench_mapping, "reconcile": bench_reconcile}


def main():
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=list(BENCHES), metavar="NAME")
    parser.add_argument("--json", metavar="FILE", help="a line per figure")
    parser.add_argument("--repeat", type=int, default=3, help="pairs (default 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the workloads' sizes (default 1)")
    parser.add_argument("--workload", action="append", choices=["W1", "W2", "W3", *OF_RECONCILE], help="only these")
    options = parser.parse_args()
    CHOSEN.extend(options.workload or [])
    results = Results(options.json)
    try:
        for name in options.names:
            BENCHES[name](results, options.repeat, options.scale)
    finally:
        place.remove_root()
    for line in results.missed:
        print(f"MISSED {line}", file=sys.stderr)
    return 1 if results.missed else 0


if __name__ == "__main__":
    sys.exit(main())
