"""Servers that behave as origins do, well and badly, and files of weights to load from them."""
