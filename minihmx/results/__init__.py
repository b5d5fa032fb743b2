"""Everything that only reads what is on disk: tables, statistics, audit, explanations. No torch."""
