"""The vocabulary of Heliostat: frozen values and their text forms. No I/O, no clock, no randomness."""
