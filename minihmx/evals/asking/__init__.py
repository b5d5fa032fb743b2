"""Asking a model a benchmark's items: what is asked for, batches, likelihoods, and the results on disk."""
