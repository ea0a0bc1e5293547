#!/usr/bin/python3 -IS
"""The container's health check: ends with 0 only if the listener hears, by its own /readyz."""

import http.client
import os
import sys

# As the listener was told; one that serves no metrics has no health to ask for.
port = int(os.environ.get("EDGE_LISTEN_METRICS", "9464").rpartition(":")[2])
try:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    connection.request("GET", "/readyz")
    answer = connection.getresponse()
    print(answer.read().decode(errors="replace")[:1000])
    sys.exit(answer.status != 200)
except OSError as error:
    sys.exit(f"no answer on port {port}: {error}")
