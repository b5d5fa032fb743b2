"""What watches a run, or reckons for it, and never steers it."""
