"""A benchmark's items: fetched, found, read and checked. No torch."""
