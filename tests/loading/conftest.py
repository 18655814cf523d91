"""No test reads or fills the cache of whoever runs it."""

from tests.unit.loaders.conftest import node_cache

__all__ = ["node_cache"]
