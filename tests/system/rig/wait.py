# SPDX-License-Identifier: Apache-2.0
"""Waiting for a condition: the only place of the rig and the tests that sleeps."""
import time


def wait_until(condition, timeout=30, what="the condition", interval=0.02, longest=0.25):
    """Calls condition() until it returns something true, and returns that.

    After timeout seconds raises TimeoutError with `what` (a string, or a function that says what
    was seen last). An exception of condition() is not swallowed: a condition that may fail
    meanwhile catches what it expects itself.
    """
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout} s for {what() if callable(what) else what}")
        time.sleep(interval)
        interval = min(interval * 1.5, longest)
