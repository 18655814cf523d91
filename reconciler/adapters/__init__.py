"""The outside world, translated into the words of `reconciler.ports`."""
