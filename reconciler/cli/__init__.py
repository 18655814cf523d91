"""The `heliostat` command."""
