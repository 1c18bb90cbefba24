"""The pack without its nodes."""
