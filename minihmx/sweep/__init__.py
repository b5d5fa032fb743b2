"""A sweep: the job list of many runs, on a cluster or on one machine. No torch."""
