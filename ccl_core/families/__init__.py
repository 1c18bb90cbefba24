"""The models that are known by name: one frozen row each.

A new model of a known coupling is a new row and changes nothing else.
"""

from .base import Family
from .ccl import CCL
from .mova import MOVA
from .ovi import OVI
from .wan import WAN

FAMILIES: dict[str, Family] = {
    "ccl": CCL,
    "ovi": OVI,
    "mova": MOVA,
    "wan": WAN,
}
