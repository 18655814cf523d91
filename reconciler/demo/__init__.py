"""`heliostat demo`: the whole story on one machine, with a real cluster, a real daemon and real traffic."""
