#!/usr/bin/python3 -IS
"""The container's health check: ends with 0 only if the listener hears, by its own /readyz."""

import http.client
import os
import sys

# As the listener was told; one that serves no metrics has no health to ask for. Empty counts as not set.
told = os.environ.get("EDGE_LISTEN_METRICS") or "9464"
port = told.rpartition(":")[2]
if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
    sys.exit(f"EDGE_LISTEN_METRICS is {told!r}; allowed: [ADDRESS:]PORT, such as 0.0.0.0:9464")
try:
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=4)
    connection.request("GET", "/readyz")
    answer = connection.getresponse()
    print(answer.read().decode(errors="replace")[:1000])
    sys.exit(answer.status != 200)
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"no answer on port {port}: {error}")
