"""Fixtures for every test."""

pytest_plugins = ["tests.ray_cluster"]
