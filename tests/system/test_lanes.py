# SPDX-License-Identifier: Apache-2.0
"""What a process takes of its machine and of a target: its threads, and how many lanes `auto` is."""
import os

from following import wait_live


def test_all_threads_wait_their_turn(migration):
    m = migration()
    m.source.execute("create table t (id int primary key)")
    process = m.start()
    wait_live(m)
    policies = {name: os.sched_getscheduler(int(tid)) for tid in os.listdir(f"/proc/{process.pid}/task")
                for name in [open(f"/proc/{process.pid}/task/{tid}/comm").read().strip() + tid]}
    assert len(policies) > 8 and set(policies.values()) == {os.SCHED_BATCH}, policies
