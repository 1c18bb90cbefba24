"""A file becomes a MODEL: read, identify, assemble, configure, check, build."""
