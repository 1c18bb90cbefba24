"""What makes the shipped models."""
