"""Training of real models on cached clips."""
