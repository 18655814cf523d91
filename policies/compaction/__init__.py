"""Compaction: which nodes could go, where their replicas would live, and how sure that is. Pure."""
