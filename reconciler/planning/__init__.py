"""Plan, compile, report, preview: pure, from one snapshot of the world to a list of effects."""
