# SPDX-License-Identifier: Apache-2.0
"""The rig of the system tests: real servers, the binary under test, and comparisons.

    postgres   Postgres (a server), Database (one database of it)
    kafka      Kafka (one broker)
    registry   Registry (Apicurio)
    foreshadow Foreshadow (a migration), whose start() returns a Process
    digest     differences, tables_equal, assert_equal
    wait       wait_until: the only place that sleeps
"""
from .digest import assert_equal, differences, tables_equal
from .foreshadow import Foreshadow
from .kafka import Kafka
from .postgres import Database, Postgres
from .process import Process
from .registry import Registry
from .wait import wait_until

__all__ = ["Database", "Foreshadow", "Kafka", "Postgres", "Process", "Registry",
           "assert_equal", "differences", "tables_equal", "wait_until"]
