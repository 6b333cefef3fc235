"""Ids of scenes that benchmarks ask about, one a line; read by preprocessing.guard."""
