# SPDX-License-Identifier: Apache-2.0
"""stream: source to one target through Kafka, against native logical replication and against itself with a mapping."""
import os
import time

from confluent_kafka import Consumer, Producer, TopicPartition

from common import BUILD, SETTINGS, TABLE, cpu_of, workloads
from rig import Foreshadow, Kafka, Postgres
from rig.wait import wait_until


# What the ratio to native logical replication may not fall below.
FLOORS = {"W1": 0.6, "W2": 1.0, "W3": 1.2}

# Five rules, and names and a type that change: what a mapping costs.
MAPPED = {
    "schema": "exists",
    "schema_mapping": [{"from": "public.bench", "to": "mapped.rows", "columns": {"n": {"to": "number", "type": "bigint"}, "at": "moment"}}],
    "transformation_rules": [
        {"table": "mapped.rows", "column": "a", "as": "upper(a)"},
        {"table": "mapped.rows", "column": "amount", "as": "round(amount * 1.19, 2)"},
        {"table": "mapped.rows", "column": "moment", "as": "at + interval '1 hour'"},
        {"table": "mapped.rows", "column": "b", "as": "'x' || left(b, 30)"},
        {"table": "mapped.rows", "column": "twice", "as": "n * 2"},
    ],
}
MAPPED_TABLE = """create schema mapped;
create table mapped.rows (id bigint primary key, number bigint, a text, amount numeric(12,2), moment timestamptz, b text, twice int)"""


class StreamPair:
    """One repeat of one workload: databases, migration and subscription of its own, one backlog for both."""

    def __init__(self, source, target, kafka, w, number, mapped=False):
        self.w, self.mapped = w, mapped
        name = f"{'m' if mapped else 's'}{w.name.lower()}_{number + 1}"
        self.name = name
        self.db = source.createdb(name)
        self.ours, self.native = target.createdb(f"{name}_ours"), target.createdb(f"{name}_native")
        self.kafka = kafka
        w.prepare(self.db)
        if not mapped:
            self.native.execute(TABLE)
        self.f = Foreshadow({"migration": name, "source": {"uri": self.db.uri()}, "target": {"uri": self.ours.uri()},
                             "kafka": {"bootstrap.servers": kafka.bootstrap, "partitions": 12},
                             "tables": {"include": ["public.bench"]}, "risk": {"shadow_threshold": 0}, "verify": {"window": "off"},
                             **(MAPPED if mapped else {})},
                            BUILD / "foreshadow")
        if mapped:
            self.ours.execute(MAPPED_TABLE)

    def prepare(self):
        ingest, apply = self.f.start(role="ingest"), self.f.start(role="primary")
        wait_until(lambda: self.ours.value("select to_regclass('foreshadow.copies') is not null") and
                   self.ours.value("select count(*) > 0 and bool_and(state = 'live') from foreshadow.copies"), 120,
                   lambda: f"the copy\n{self.f.tail()}")
        self.f.stop()
        del ingest, apply
        if not self.mapped:
            self.prepare_native()
        self.w.make(self.db, self.f.folder)
        self.db.execute("insert into bench values (-1, 0, 'last')")
        self.changes = {"W1": self.w.rows, "W2": self.w.transactions // 4 * 4 * 4, "W3": self.w.transactions // 4 * 4}[self.w.name] + 1
        self.db.execute("checkpoint")

    def prepare_native(self):
        self.db.execute("create publication native for table bench")
        self.native.execute(f"create subscription {self.name} connection '{self.db.uri()}' publication native"
                            " with (binary, streaming = on)")
        self.native.poll("select count(*) = 1 and bool_and(srsubstate = 'r') from pg_subscription_rel", True, 120)
        self.native.execute(f"alter subscription {self.name} disable")

    def applied(self):
        return self.ours.value("select sum(changes) from foreshadow.progress where topic like '%.changes'")

    def run_ours(self, servers):
        before = self.applied()
        apply = self.f.start(role="primary")
        wait_until(lambda: self.ours.value("select bool_and(a.pid is not null) from foreshadow.progress left join pg_stat_activity a"
                                           " on a.pid = owner_pid and a.backend_start = owner_start"), 60, "the primary to own its partitions")
        wanted = self.db.sql("select count(*), sum(n) from bench")
        os.sync()  # what is left to be written of what was before is not this run's
        cpu = {name: cpu_of(pid) for name, pid in servers.items()}
        start = time.monotonic()
        ingest = self.f.start(role="ingest")
        with self.ours.connect() as c:  # asked as native is; the sum costs more, and another partition may be later
            wait_until(lambda: c.execute(f"select exists (select from {'mapped.rows' if self.mapped else 'bench'} where id = -1)").fetchone()[0],
                       600, lambda: f"the last change\n{self.f.tail()}", interval=0.02, longest=0.02)
            wait_until(lambda: c.execute("select sum(changes) from foreshadow.progress where topic like %s",
                                         ("%.changes",)).fetchone()[0] - before >= self.expected(),
                       300, lambda: f"{self.expected()} changes, saw {self.applied() - before}\n{self.f.tail()}", interval=0.02, longest=0.02)
        seconds = time.monotonic() - start
        used = {name: cpu_of(pid) - cpu[name] for name, pid in servers.items()}
        used |= {"ingest": ingest.cpu_seconds(), "primary": apply.cpu_seconds()}
        rss = {"ingest": ingest.peak_rss(), "primary": apply.peak_rss()}
        self.f.stop()
        seen = self.ours.sql(f"select count(*), sum({'number' if self.mapped else 'n'}) from {'mapped.rows' if self.mapped else 'bench'}")
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
                       "the last change through native replication", interval=0.02, longest=0.02)
        return time.monotonic() - start, {name: cpu_of(pid) - cpu[name] for name, pid in servers.items()}

    def remove(self):
        if not self.mapped:
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
        results.figure("stream", w.name, "rate", "changes/s", ours, native, "native", at_least=FLOORS[w.name])
        for name in cpu:
            if name in native_cpu and min(native_cpu[name]) > 0:
                results.figure("stream", w.name, f"cpu_{name}", "us/change", cpu[name], native_cpu[name], "native")
            else:
                results.figure("stream", w.name, f"cpu_{name}", "us/change", cpu[name])
        for name in rss:
            results.figure("stream", w.name, f"peak_rss_{name}", "MB", rss[name])
    for server in (source, target, kafka):
        server.remove()


def bench_mapping(results, repeat, scale):
    """The same backlog without and with a mapping of five rules."""
    source = Postgres("source", 15, SETTINGS).init().start()
    target = Postgres("target", 15, SETTINGS).init().start()
    kafka = Kafka().format().start()
    servers = {"source": source.process.pid, "target": target.process.pid, "kafka": kafka.process.pid}
    warm_up(kafka)
    for w in workloads(scale):
        rates, cpu = {False: [], True: []}, {False: [], True: []}
        for number in range(-1, repeat):  # the first pair warms up
            for mapped in (False, True) if number % 2 else (True, False):
                pair = StreamPair(source, target, kafka, w, number, mapped=mapped)
                pair.prepare()
                seconds, used, _ = pair.run_ours(servers)
                if number >= 0:
                    rates[mapped].append(pair.expected() / seconds)
                    cpu[mapped].append(used["target"] / pair.expected() * 1e6)
                pair.remove()
        results.figure("mapping", w.name, "rate", "changes/s", rates[True], rates[False], "no mapping")
        results.figure("mapping", w.name, "cpu_target", "us/change", cpu[True], cpu[False], "no mapping")
    for server in (source, target, kafka):
        server.remove()
