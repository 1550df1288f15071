# SPDX-License-Identifier: Apache-2.0
"""The bench harness: ratios of medians, ours and the peer alternating on the same backlog in one run.

    bench/run ingest-null   receive, decode, encode, no Kafka   against pg_recvlogical to the null device, TCP
    bench/run apply         updates of existing rows            against pipelined single prepared statements
    bench/run memory        peak RSS of all roles in one process, by workload
    bench/run stream        source to one target through Kafka  against native logical replication (binary, streaming)

Workloads: W1 one transaction of 1 M inserts (bigint key, int, 32 B text, numeric(12,2), timestamptz, 40 B text);
W2 transactions of 2 updates of random rows, 1 insert, 1 delete from 4 clients; W3 one-row transactions.
Absolute rates depend on the machine and its neighbours; the ratio is the median of the pairwise ratios.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from rig import Foreshadow, Kafka, Postgres, place
from rig.postgres import client_program
from rig.process import children_of
from rig.wait import wait_until

TOP = Path(__file__).resolve().parent.parent
BUILD = TOP / "build/release"
TICK = os.sysconf("SC_CLK_TCK")

TABLE = """create table bench (id bigint primary key, n int, a text, amount numeric(12,2), at timestamptz, b text);
create sequence bench_new start 100000001"""
ROW = "i, i % 1000, md5(i::text), (i % 100000) / 100.0, '2026-01-01'::timestamptz + i * interval '1 ms', md5(i::text) || 'b2345678'"
SETTINGS = {"shared_buffers": "512MB", "synchronous_commit": "off", "max_wal_size": "8GB", "checkpoint_timeout": "1h",
            "autovacuum": "off"}

W2 = """\\set id random(1, {rows})
\\set id2 random(1, {rows})
begin;
update bench set n = n + 1, a = md5(:id::text) where id = :id;
update bench set amount = amount + 1, b = md5(:id2::text) where id = :id2;
select nextval('bench_new') as new \\gset
insert into bench select :new::bigint, {values} from (select :id::bigint as i) x;
delete from bench where id = :new::bigint - 1000;
commit;
"""
W3 = """do $$ begin for i in {first}..{last} loop
insert into bench select nextval('bench_new'), {values};
commit;
end loop; end $$"""
VALUES = ROW.split(", ", 1)[1]


class Workload:
    """base: rows there before the copy; make(db, folder) writes the backlog."""

    def __init__(self, name, base, scale):
        self.name, self.base = name, base
        self.rows = max(int(1_000_000 * scale), 1000)
        self.transactions = max(int({"W2": 100_000, "W3": 1_000_000}.get(name, 0) * scale), 400)

    def prepare(self, db):
        db.execute(TABLE)
        if self.base:
            db.execute(f"insert into bench select {ROW} from generate_series(1, {self.base}) i")
        db.execute("vacuum analyze bench")

    def make(self, db, folder):
        if self.name == "W1":
            db.execute(f"insert into bench select {ROW} from generate_series({self.base} + 1, {self.base} + {self.rows}) i")
            return
        if self.name == "W3":
            self.make_single(db)
            return
        script = folder / "workload.sql"
        script.write_text(W2.format(rows=self.base, values=VALUES))
        script.chmod(0o644)
        db.pgbench("-n", "-M", "prepared", "-c", "4", "-t", str(self.transactions // 4), "-f", str(script))

    def make_single(self, db):
        """Four sessions side by side; a client would take minutes for so many transactions."""
        each = self.transactions // 4
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda first: db.execute(W3.format(values=VALUES, first=first, last=first + each - 1)),
                          range(1, 4 * each, each)))


CHOSEN = []


def workloads(scale):
    base = max(int(200_000 * scale), 2000)
    all_of_them = [Workload("W1", 0, scale), Workload("W2", base, scale), Workload("W3", 0, scale)]
    return [w for w in all_of_them if not CHOSEN or w.name in CHOSEN]


class Results:
    def __init__(self, path):
        self.file = open(path, "w") if path else None

    def figure(self, bench, workload, metric, unit, ours, peer=(), peer_name=None):
        """One figure: lists of what was measured, pair by pair."""
        row = {"bench": bench, "workload": workload, "metric": metric, "unit": unit,
               "ours": round(statistics.median(ours), 3), "peer": None, "peer_name": peer_name, "ratio": None,
               "n": len(ours), "spread": round((max(ours) - min(ours)) / statistics.median(ours), 3) if statistics.median(ours) else 0}
        if peer:
            row["peer"] = round(statistics.median(peer), 3)
            row["ratio"] = round(statistics.median(a / b for a, b in zip(ours, peer)), 3)
        against = f"  {peer_name} {row['peer']:>12,.2f}  ratio {row['ratio']:.2f}" if peer else ""
        print(f"{bench:<12}{workload:<4}{metric:<28}{row['ours']:>14,.2f} {unit:<12}{against}  n={row['n']} spread {row['spread']:.2f}",
              flush=True)
        if self.file:
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()


def timed(command):
    """Wall seconds, and user + system seconds of the process."""
    start = time.monotonic()
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate()
    wall = time.monotonic() - start
    if process.returncode:
        raise SystemExit(f"{command[0]}: exit code {process.returncode}\n{err}")
    return wall, out


def cpu_of(pid):
    """CPU seconds of a process, its children now, and those it has reaped."""
    def one(p, reaped):
        try:
            fields = Path(f"/proc/{p}/stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return sum(int(v) for v in fields[11:15 if reaped else 13]) / TICK
    return one(pid, True) + sum(one(child, False) for child in children_of(pid))


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
        ours, peer, changes = [], [], 0
        for turn in range(repeat + 1):  # the first pair warms up
            for slot in ("ours", "peer"):
                db.sql(f"select pg_copy_logical_replication_slot('base', '{slot}')")
            wall, out = timed([BUILD / "ingest_null", f.yaml, "ours", end])
            peer_wall, _ = timed([client_program("pg_recvlogical"), "-d", db.uri(), "-S", "peer", "--start", "-f", "/dev/null",
                                  "-o", "proto_version=1", "-o", "publication_names=foreshadow_bench", "-o", "binary=true",
                                  f"--endpos={end}", "--no-loop"])
            changes = json.loads(out)["changes"]
            if turn:
                ours.append(changes / wall)
                peer.append(changes / peer_wall)
            for slot in ("ours", "peer"):
                db.poll(f"select active from pg_replication_slots where slot_name = '{slot}'", False)
                db.sql(f"select pg_drop_replication_slot('{slot}')")
        results.figure("ingest-null", w.name, "rate", "changes/s", ours, peer, "pg_recvlogical")
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
                _, out = timed([BUILD / "apply_updates", who, db.uri(), rows, updates, batch])
                figure = json.loads(out)
                if turn:
                    rates[who].append(figure["changes"] / figure["seconds"])
                    cpu[who].append(figure["cpu_seconds"] / figure["changes"] * 1e6)
            db.execute("vacuum bench")
        results.figure("apply", "upd", "rate", "changes/s", rates["ours"], rates["peer"], "pipelined single")
        results.figure("apply", "upd", "client_cpu", "us/change", cpu["ours"], cpu["peer"], "pipelined single")
    server.remove()


# ---- stream ----

class StreamPair:
    """One repeat of one workload: databases, migration and subscription of its own, one backlog for both."""

    def __init__(self, source, target, kafka, w, number):
        self.w = w
        name = f"s{w.name.lower()}_{number + 1}"
        self.name = name
        self.db = source.createdb(name)
        self.ours, self.native = target.createdb(f"{name}_ours"), target.createdb(f"{name}_native")
        self.kafka = kafka
        w.prepare(self.db)
        self.native.execute(TABLE)
        self.f = Foreshadow({"migration": name, "source": {"uri": self.db.uri()}, "target": {"uri": self.ours.uri()},
                             "kafka": {"bootstrap.servers": kafka.bootstrap, "partitions": 12},
                             "tables": {"include": ["public.bench"]}, "risk": {"shadow_threshold": 0}},
                            BUILD / "foreshadow")

    def prepare(self):
        ingest, apply = self.f.start(role="ingest"), self.f.start(role="primary")
        wait_until(lambda: self.ours.value("select to_regclass('foreshadow.copies') is not null") and
                   self.ours.value("select count(*) > 0 and bool_and(state = 'live') from foreshadow.copies"), 120,
                   lambda: f"the copy\n{self.f.tail()}")
        self.f.stop()
        del ingest, apply
        self.db.execute("create publication native for table bench")
        self.native.execute(f"create subscription {self.name} connection '{self.db.uri()}' publication native"
                            " with (binary, streaming = on)")
        self.native.poll("select count(*) = 1 and bool_and(srsubstate = 'r') from pg_subscription_rel", True, 120)
        self.native.execute(f"alter subscription {self.name} disable")
        self.w.make(self.db, self.f.folder)
        self.db.execute("insert into bench values (-1, 0, 'last')")
        self.changes = {"W1": self.w.rows, "W2": self.w.transactions // 4 * 4 * 4, "W3": self.w.transactions // 4 * 4}[self.w.name] + 1
        self.db.execute("checkpoint")

    def applied(self):
        return self.ours.value("select sum(changes) from foreshadow.progress where topic like '%.changes'")

    def run_ours(self, servers):
        before = self.applied()
        apply = self.f.start(role="primary")
        wait_until(lambda: self.ours.value("select bool_and(a.pid is not null) from foreshadow.progress left join pg_stat_activity a"
                                           " on a.pid = owner_pid and a.backend_start = owner_start"), 60, "the primary to own its partitions")
        wanted = self.db.value("select count(*) from bench"), self.db.value("select sum(n), sum(amount) from bench")
        os.sync()  # what is left to be written of what was before is not this run's
        cpu = {name: cpu_of(pid) for name, pid in servers.items()}
        start = time.monotonic()
        ingest = self.f.start(role="ingest")
        with self.ours.connect() as c:
            wait_until(lambda: c.execute("select sum(changes) from foreshadow.progress where topic like %s",
                                         ("%.changes",)).fetchone()[0] - before >= self.expected(),
                       300, lambda: f"{self.expected()} changes, saw {self.applied() - before}\n{self.f.tail()}", interval=0.005, longest=0.01)
        seconds = time.monotonic() - start
        used = {name: cpu_of(pid) - cpu[name] for name, pid in servers.items()}
        used |= {"ingest": ingest.cpu_seconds(), "primary": apply.cpu_seconds()}
        rss = {"ingest": ingest.peak_rss(), "primary": apply.peak_rss()}
        self.f.stop()
        seen = self.ours.value("select count(*) from bench"), self.ours.value("select sum(n), sum(amount) from bench")
        assert seen == wanted, f"{self.name}: {seen}, source has {wanted}"
        return seconds, used, rss

    def expected(self):
        """W2 deletes the row of 1000 transactions before: the first ones hit nothing."""
        return self.changes if self.w.name != "W2" else self.changes - self.missed()

    def missed(self):
        if not hasattr(self, "_missed"):
            inserted = self.w.transactions // 4 * 4
            left = self.db.value("select count(*) from bench where id > 100000000")
            self._missed = inserted - (inserted - left)
        return self._missed

    def run_native(self, servers):
        os.sync()  # what is left to be written of what was before is not this run's
        cpu = {name: cpu_of(pid) for name, pid in servers.items()}
        start = time.monotonic()
        self.native.execute(f"alter subscription {self.name} enable")
        with self.native.connect() as c:
            wait_until(lambda: c.execute("select exists (select from bench where id = -1)").fetchone()[0], 600,
                       "the last change through native replication", interval=0.005, longest=0.01)
        return time.monotonic() - start, {name: cpu_of(pid) - cpu[name] for name, pid in servers.items()}

    def remove(self):
        self.native.execute(f"drop subscription {self.name}")
        self.f.run_cli("drop", "--yes")
        for db in (self.db, self.ours, self.native):
            db.drop()


def warm_up(kafka, records=3_000_000):
    """A broker that has just started spends more on compiling itself than on records, for minutes."""
    kafka.create_topic("warm_up", 12)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 1, "enable.idempotence": True, "compression.codec": "lz4"})
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "warm_up", "enable.auto.commit": False})
    consumer.assign([TopicPartition("warm_up", i, 0) for i in range(12)])
    sent = seen = 0
    deadline = time.monotonic() + 120
    while seen < records:
        assert time.monotonic() < deadline, f"the broker took {sent} records in 120 s and gave {seen}"
        for _ in range(1000 if sent < records else 0):
            producer.produce("warm_up", value=b"%0150d" % sent, partition=sent % 12)
            sent += 1
        producer.poll(0)
        while seen < sent - 5000 or (sent == records and seen < sent):
            producer.poll(0)
            seen += sum(not m.error() for m in consumer.consume(5000, 0.05))
            assert time.monotonic() < deadline, f"the broker took {sent} records in 120 s and gave {seen}"
    producer.flush()
    consumer.close()
    kafka.delete_topics("warm_up")


def bench_stream(results, repeat, scale):
    source = Postgres("source", 15, SETTINGS).init().start()
    target = Postgres("target", 15, SETTINGS).init().start()
    kafka = Kafka().format().start()
    servers = {"source": source.process.pid, "target": target.process.pid, "kafka": kafka.process.pid}
    warm_up(kafka)
    for w in workloads(scale):
        ours, native, cpu, native_cpu, rss = [], [], {}, {}, {}
        for number in range(-1, repeat):  # the first pair warms up
            pair = StreamPair(source, target, kafka, w, number)
            pair.prepare()
            if number % 2:  # neither is always the one that finds cold caches
                native_seconds, native_used = pair.run_native(servers)
            seconds, used, peak = pair.run_ours(servers)
            if number % 2 == 0:
                native_seconds, native_used = pair.run_native(servers)
            changes = pair.expected()
            if number < 0:
                pair.remove()
                continue
            ours.append(changes / seconds)
            native.append(changes / native_seconds)
            for into, figures in ((cpu, used), (native_cpu, native_used)):
                for name, value in figures.items():
                    into.setdefault(name, []).append(value / changes * 1e6)
            for name, value in peak.items():
                rss.setdefault(name, []).append(value / 1e6)
            pair.remove()
        results.figure("stream", w.name, "rate", "changes/s", ours, native, "native")
        for name in cpu:
            if name in native_cpu and min(native_cpu[name]) > 0:
                results.figure("stream", w.name, f"cpu_{name}", "us/change", cpu[name], native_cpu[name], "native")
            else:
                results.figure("stream", w.name, f"cpu_{name}", "us/change", cpu[name])
        for name in rss:
            results.figure("stream", w.name, f"peak_rss_{name}", "MB", rss[name])
    for server in (source, target, kafka):
        server.remove()


# ---- memory ----

def bench_memory(results, repeat, scale):
    """VmHWM of one process with all roles and both targets, 12 partitions; one run is enough: nothing races."""
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
        results.figure("memory", name, "peak_rss", "MB", [process.peak_rss() / 1e6])
        f.stop()
        f.run_cli("drop", "--yes")
    for server in (source, target, kafka):
        server.remove()


BENCHES = {"memory": bench_memory, "ingest-null": bench_ingest_null, "apply": bench_apply, "stream": bench_stream}


def main():
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=list(BENCHES), metavar="NAME")
    parser.add_argument("--json", metavar="FILE", help="a line per figure")
    parser.add_argument("--repeat", type=int, default=3, help="pairs (default 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the workloads' sizes (default 1)")
    parser.add_argument("--workload", action="append", choices=["W1", "W2", "W3"], help="only these")
    options = parser.parse_args()
    CHOSEN.extend(options.workload or [])
    results = Results(options.json)
    try:
        for name in options.names:
            BENCHES[name](results, options.repeat, options.scale)
    finally:
        place.remove_root()


if __name__ == "__main__":
    sys.exit(main())
