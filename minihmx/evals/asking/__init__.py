"""Asking a model the items of a benchmark, and keeping what it answered."""
