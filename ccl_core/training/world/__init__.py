"""The procedural world, its captions, its sounds and its judges."""
