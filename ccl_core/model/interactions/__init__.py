"""The couplings of the two streams, one file each, and the table that names them."""

from .asymmetric import Asymmetric
from .base import KV, Interaction, Link
from .bridge import Bridge
from .cca import CCA
from .fusion import Fusion

INTERACTIONS: dict[str, type[Interaction]] = {
    "cca": CCA,
    "fusion": Fusion,
    "bridge": Bridge,
    "asymmetric": Asymmetric,
}

__all__ = ["CCA", "INTERACTIONS", "KV", "Asymmetric", "Bridge", "Fusion", "Interaction", "Link"]
