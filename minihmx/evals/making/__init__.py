"""How RULER's items are made: their texts, and their lengths in a model's own tokens. No torch."""
