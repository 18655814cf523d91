"""The Heliostat daemon: observe, plan, act, report."""
