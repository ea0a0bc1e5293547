"""Prometheus metrics of the records that pass, and of the computer, served over HTTP beside the state of health."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, get_args

from edge.board import Board
from edge.errors import SinkError
from edge.extras import need
from edge.health import REASONS, State
from edge.records import CLIP_STATES, Record
from edge.settings import require

LATENCY_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # upper bounds of the histogram


@dataclass(frozen=True)
class MetricsConfig:
    """Where the metrics are served."""

    address: str = "127.0.0.1"  # 0.0.0.0: for other machines as well
    port: int = 9464

    def __post_init__(self) -> None:
        require(0 <= self.port <= 65_535, "port", self.port, "0 to 65535; 0: any that is free")


class Metrics:
    """Serves ``/metrics``, ``/healthz`` and ``/readyz``.

    Raises SinkError when the port cannot be had, or prometheus_client is not installed.
    """

    def __init__(
        self,
        config: MetricsConfig,
        drops: Callable[[], Mapping[str, Mapping[str, int]]] = dict,
        *,
        board: Board | None = None,
        folders: Sequence[Path] = (),
    ) -> None:
        """``drops`` tells of each sink its counts: ``dropped``, ``failed``, ``delivered``, ``queued``; ``board`` holds
        the health; ``folders`` are those whose disks matter.
        """
        need("prometheus_client", "metrics", SinkError)
        import prometheus_client as prometheus

        from edge.sinks.device import Device
        from edge.sinks.endpoints import Endpoints

        self._registry = prometheus.CollectorRegistry()
        self._make(prometheus)
        self._make_health(prometheus)
        self._registry.register(_Sinks(drops))
        self._registry.register(Device(folders))
        prometheus.ProcessCollector(registry=self._registry)
        self._models: dict[str, tuple[str, ...]] = {}  # of each source, the labels of edge_audio_model_info
        self._counted: dict[tuple[str, str], int] = {}  # (source, field) → what its last status said
        try:
            app = prometheus.make_wsgi_app(self._registry)
            self._endpoints = Endpoints(config.address, config.port, app, board or Board())
        except (OSError, OverflowError, UnicodeError) as error:
            where = f"{config.address}:{config.port}"
            raise SinkError(
                f"metrics cannot be served on {where}: {error}", remedy="choose another", retry=False
            ) from None
        self.port = self._endpoints.port

    def _make(self, prometheus: Any) -> None:
        of = {"registry": self._registry, "labelnames": ("source",)}
        counter, gauge = prometheus.Counter, prometheus.Gauge
        self._windows = counter("edge_audio_windows", "Windows that were decided on.", **of)
        self._unknown = counter("edge_audio_unknown_windows", "Windows that were none of the classes.", **of)
        self._events = counter(
            "edge_audio_events", "Events that have begun.", ("source", "label"), registry=self._registry
        )
        self._clips = counter(
            "edge_audio_clips", "What became of clips of events.", ("source", "state"), registry=self._registry
        )
        self._latency = prometheus.Histogram(
            "edge_audio_decision_latency_seconds",
            "From the conversion of a window's last sample to the decision.",
            buckets=LATENCY_SECONDS,
            **of,
        )
        self._status = {
            "overflows": counter("edge_audio_overflows", "Overflows that the device has flagged.", **of),
            "lost_samples": counter("edge_audio_lost_samples", "Samples that were lost; not those of outages.", **of),
            "late": counter("edge_audio_late_windows", "Windows that came later than a hop.", **of),
        }
        self._quality = {
            "clipped": gauge("edge_audio_clipped_ratio", "Share of the samples that are at full scale.", **of),
            "dc_offset": gauge("edge_audio_dc_offset_ratio", "Mean of the samples, of full scale.", **of),
            "dead_channels": gauge("edge_audio_dead_channels", "Channels that deliver only zeros.", **of),
            "drift_ppm": gauge(
                "edge_audio_clock_drift_ratio", "How much faster the device's clock is than the computer's.", **of
            ),
        }
        self._errors = counter("edge_audio_errors", "Errors that ended a source.", **of)
        self._level = gauge("edge_audio_level_dbfs", "RMS of the newest sound; 0 dB is full scale, -Inf silence.", **of)
        self._silent = gauge("edge_audio_silent", "1 while nothing but zeros arrives.", **of)
        self._load = gauge("edge_audio_load_ratio", "Share of the time between decisions that they take.", **of)
        self._last = gauge("edge_audio_last_window_timestamp_seconds", "When the newest sound was recorded.", **of)
        self._model = gauge(
            "edge_audio_model_info",
            "The model that listens.",
            ("source", "model", "precision", "provider", "version"),
            registry=self._registry,
        )

    def _make_health(self, prometheus: Any) -> None:
        of = {"registry": self._registry}
        self._health = prometheus.Gauge(
            "edge_audio_health", "1 for the state that a source is in.", ("source", "state"), **of
        )
        self._reason = prometheus.Gauge(
            "edge_audio_health_reason", "1 for each reason that holds.", ("source", "reason"), **of
        )
        self._outages = _Outages()
        self._registry.register(self._outages)

    def write(self, record: Record) -> None:
        """Count ``record``."""
        getattr(self, "_on_" + record["type"], lambda _: None)(record)

    def close(self) -> None:
        """Nothing is served any longer."""
        self._endpoints.close()

    def _on_start(self, record: Record) -> None:
        fields = ("source", "model", "precision", "provider", "version")
        with suppress(KeyError):  # where another model listened before
            self._model.remove(*self._models.pop(record["source"]))
        self._models[record["source"]] = tuple(record[name] for name in fields)
        self._model.labels(*(record[name] for name in fields)).set(1)
        for counter in (self._windows, self._unknown, self._errors, *self._status.values()):
            counter.labels(record["source"])  # there from the beginning, as 0: a rate needs that
        for label in record["event_labels"]:
            self._events.labels(record["source"], label)
        for state in CLIP_STATES:
            self._clips.labels(record["source"], state)

    def _on_health(self, record: Record) -> None:
        source, reasons = record["source"], record["reasons"]
        for state in get_args(State):
            self._health.labels(source, state).set(state == record["state"])
        for reason in REASONS:
            self._reason.labels(source, reason).set(reason in reasons)
        self._outages.change(source, lost=record["state"] == "lost")

    def _on_end(self, record: Record) -> None:
        if record["reason"] == "error":  # it stays lost
            return
        for state in get_args(State):
            self._health.labels(record["source"], state).set(0)
        self._outages.change(record["source"], lost=False)

    def _on_window(self, record: Record) -> None:
        from datetime import datetime

        source, level = record["source"], record["level_dbfs"]
        self._windows.labels(source).inc()
        self._unknown.labels(source).inc(record["unknown"])
        self._latency.labels(source).observe(record["latency_ms"] / 1000)
        self._level.labels(source).set(float("-inf") if level is None else level)
        self._last.labels(source).set(datetime.fromisoformat(record["time"]).timestamp())

    def _on_event(self, record: Record) -> None:
        if record["phase"] == "begin":
            self._events.labels(record["source"], record["label"]).inc()

    def _on_clip(self, record: Record) -> None:
        self._clips.labels(record["source"], record["state"]).inc()

    def _on_status(self, record: Record) -> None:
        source = record["source"]
        self._silent.labels(source).set(record["silent"])
        self._load.labels(source).set(record["load"])
        for name, counter in self._status.items():
            before = self._counted.get((source, name), 0)
            counter.labels(source).inc(max(0, record[name] - before))
            self._counted[source, name] = record[name]
        self._judge(record)

    def _judge(self, status: Record) -> None:
        """What the device delivers; of what is not known there is no value."""
        for name, gauge in self._quality.items():
            value = status[name]
            if value is None:
                with suppress(KeyError):
                    gauge.remove(status["source"])
                continue
            factor = 1e-6 if name == "drift_ppm" else 1
            gauge.labels(status["source"]).set(len(value) if name == "dead_channels" else factor * value)

    def _on_error(self, record: Record) -> None:
        self._errors.labels(record["source"]).inc()


class _Outages:
    """A collector: how often, and for how many seconds, sources were lost, up to now."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, Lock()
        self._known: dict[str, tuple[int, float, float | None]] = {}  # count, seconds, since when it goes on

    def change(self, source: str, *, lost: bool) -> None:
        """Whether ``source`` is lost from now on."""
        with self._lock:
            count, seconds, since = self._known.get(source, (0, 0.0, None))
            if lost and since is None:
                count, since = count + 1, self._clock()
            elif not lost and since is not None:
                seconds, since = seconds + self._clock() - since, None
            self._known[source] = count, seconds, since

    def collect(self) -> Iterable[Any]:
        """See prometheus-client."""
        from prometheus_client.core import CounterMetricFamily

        outages = CounterMetricFamily("edge_audio_outages", "Times that a source was lost.", labels=["source"])
        total = CounterMetricFamily("edge_audio_outage_seconds", "Seconds that it was lost for.", labels=["source"])
        with self._lock:
            for source, (count, seconds, since) in self._known.items():
                outages.add_metric([source], count)
                total.add_metric([source], seconds + (0.0 if since is None else self._clock() - since))
        return outages, total


class _Sinks:
    """A collector: what became of the records, by sink, asked for when somebody scrapes."""

    def __init__(self, drops: Callable[[], Mapping[str, Mapping[str, int]]]) -> None:
        self._drops = drops

    def collect(self) -> Iterable[Any]:
        """See prometheus-client."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        families: dict[str, Any] = {
            "delivered": CounterMetricFamily("edge_audio_sink_delivered", "Records delivered.", labels=["sink"]),
            "dropped": CounterMetricFamily("edge_audio_sink_dropped", "Records dropped: full queue.", labels=["sink"]),
            "failed": CounterMetricFamily("edge_audio_sink_failed", "Records given up.", labels=["sink"]),
            "queued": GaugeMetricFamily("edge_audio_sink_queued", "Records that wait.", labels=["sink"]),
        }
        for sink, counts in self._drops().items():
            for name, family in families.items():
                family.add_metric([sink], counts.get(name, 0))
        return families.values()
