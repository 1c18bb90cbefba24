"""One clock for both streams: sizes, positions, and who sees whom, as numbers."""
