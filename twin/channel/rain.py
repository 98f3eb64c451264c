"""Rain on the way, ITU-R P.838 and P.618."""

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import ArrayLike


class Rain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rain on the way: a scenario's [link.rain] table."""

    rate_mm_h: Annotated[float, Meta(ge=0, le=400, description="rain rate exceeded for 0.01 % of a year, mm/h")]
    percent: Annotated[
        float, Meta(ge=0.001, le=5, description="the attenuation exceeded for this share of a year, %")
    ] = 0.1


def rain_loss_db(elevation_deg: ArrayLike, carrier_hz: float, rain: Rain) -> np.ndarray:
    raise NotImplementedError
