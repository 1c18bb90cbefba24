"""The couplings of the two streams, one file each, and the table that names them."""

from .base import Interaction, Link
from .cca import CCA

INTERACTIONS = {"cca": CCA}

__all__ = ["CCA", "INTERACTIONS", "Interaction", "Link"]
