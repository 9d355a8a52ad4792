"""What /metrics tells, for Prometheus."""

from collections.abc import Callable

import prometheus_client

_SECONDS = (.005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 20, 50)


class Metrics:
  """The server's counters, in a registry of their own. See each one's help."""

  def __init__(self, max_batch: int, queue: Callable[[], float]):
    self.registry = registry = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=registry)
    self.requests = prometheus_client.Counter(
        'dss_requests', 'Requests to /predict by status; 499: the client went away.', ['status'],
        registry=registry)
    self.seconds = prometheus_client.Histogram(
        'dss_request_seconds', 'From the headers of a request to /predict to its answer.',
        buckets=_SECONDS, registry=registry)
    self.batch_seconds = prometheus_client.Histogram(
        'dss_batch_seconds', 'Time of one batch in the decoder.', buckets=_SECONDS,
        registry=registry)
    self.batch_size = prometheus_client.Histogram(
        'dss_batch_size', 'Inputs that were answered in one batch.', registry=registry,
        buckets=[size for i in range(31) if (size := 1 << i) < max_batch] + [max_batch])
    self.tokens = prometheus_client.Counter(
        'dss_tokens', 'Tokens of inputs as they were read, and of the texts that were written.',
        ['side'], registry=registry)
    self.in_flight = prometheus_client.Gauge(
        'dss_requests_in_flight', 'Requests to /predict that are not answered yet.',
        registry=registry)
    prometheus_client.Gauge(
        'dss_queue_length', 'Inputs that are in no batch yet.',
        registry=registry).set_function(queue)

  def text(self) -> bytes:
    """In Prometheus' text format."""
    return prometheus_client.generate_latest(self.registry)
