"""The models that are known by name: one frozen row each.

A new model of a known coupling is a new row and changes nothing else.
"""

from .base import Family
from .ccl import CCL
from .mova import MOVA
from .ovi import OVI
from .prism import PRISM
from .uniavgen import UNIAVGEN
from .wan import WAN

FAMILIES: dict[str, Family] = {
    "ccl": CCL,
    "ovi": OVI,
    "mova": MOVA,
    # Behind the one whose modules it has: a file that says nothing else is of the first.
    "prism": PRISM,
    "uniavgen": UNIAVGEN,
    "wan": WAN,
}
