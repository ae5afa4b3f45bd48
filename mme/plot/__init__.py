"""Pictures of fits.

They need matplotlib (``pip install 'mme[plot]'``), which is imported when one is drawn.
"""

from .diagnostics import influence, pit, qq, residuals, scale_location
from .effects import caterpillar, coefficients
from .marginal import emmeans, interaction, partial
from .page import check
from .pictures import Pictures
from .profiles import profile

__all__ = [
    "Pictures",
    "caterpillar",
    "check",
    "coefficients",
    "emmeans",
    "influence",
    "interaction",
    "partial",
    "pit",
    "profile",
    "qq",
    "residuals",
    "scale_location",
]
