"""What stands on disk: how it is written, read strictly, and recognised again. No torch."""
