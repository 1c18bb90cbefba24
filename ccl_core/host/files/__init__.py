"""A file becomes a MODEL: read, identify, assemble, build."""
