"""Where the pack's repository is: an install from the registry lacks its scripts and most of its pages."""

from __future__ import annotations

# The same as Repository in pyproject.toml; CONTRIBUTING.md, "Publish", says how it is filled in.
REPOSITORY = "https://github.com/PUBLISHER/ccl-audio-video"


def page(path: str) -> str:
    """The address of a page of the repository, such as docs/models.md."""
    return f"{REPOSITORY}/blob/main/{path}"
