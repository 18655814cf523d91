"""The daemon's HTTP side: API, status page, metrics."""
