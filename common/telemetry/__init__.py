"""Logs and metrics. It knows no web framework; whoever serves /metrics calls `Metrics.render`."""
