# SPDX-License-Identifier: Apache-2.0
"""A schema registry that speaks Confluent's API."""
import json
import os
import urllib.error
import urllib.request

from . import place
from .process import Process
from .wait import wait_until


class Registry:
    """Apicurio with its state in memory: what it holds is gone when it stops.

        registry.url           for schema.registry.url: serves /subjects/…, /schemas/ids/…
        registry.get(path)     -> decoded JSON;  registry.subjects()
        start(), stop(), kill9 through .process
    Registry.fetched() says whether tools/setup --registry was run.
    """

    def __init__(self, name="registry"):
        self.folder = place.folder(name)
        self.port = place.free_port()
        self.url = f"http://127.0.0.1:{self.port}/apis/ccompat/v7"
        self.process = None

    @staticmethod
    def fetched():
        return Registry._jar() is not None

    @staticmethod
    def _jar():
        return next((place.cache() / "apicurio-2.6.13").glob("*-runner.jar"), None)

    def start(self, timeout=180):
        env = {**os.environ, "QUARKUS_HTTP_PORT": str(self.port), "QUARKUS_HTTP_HOST": "127.0.0.1"}
        self.process = Process("registry", ["java", "-Xmx256m", "-jar", self._jar()], self.folder, env=env)

        def ready():
            assert self.process.running(), f"the registry ended:\n{self.process.tail()}"
            try:
                return self.subjects() is not None
            except (urllib.error.URLError, ConnectionError):
                return False
        wait_until(ready, timeout, lambda: f"the registry to answer:\n{self.process.tail()}")
        return self

    def stop(self, timeout=30):
        if self.process is not None and self.process.running():
            self.process.stop(timeout)

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)

    def subjects(self):
        return self.get("/subjects")
