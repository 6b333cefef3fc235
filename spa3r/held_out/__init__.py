"""Ids of scenes that benchmarks ask about, one a line; read by spa3r.guard."""
