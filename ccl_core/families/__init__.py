"""The models that are known by name: one frozen row each."""

from .base import Family

FAMILIES: dict[str, Family] = {
    "ccl": Family("CCL", "cca"),
    "ovi": Family("Ovi", "fusion"),
    "mova": Family("MOVA", "bridge"),
}
