"""Verbs that decide: pure functions of one World."""
