"""The one form in which paths are handed on, whoever makes them."""

from typing import NamedTuple

import numpy as np


class Paths(NamedTuple):
    """The paths of one link at n times.

    amplitude  (n, n_paths)       complex, Doppler against the direct path included; their mean powers sum to 1,
                                  less what link.polarisation takes
    arrival    (n, n_paths, 2)    direction cosines psi_x, psi_y in the terminal's frame
    departure  (n, n_paths, 2)    the same in the satellite's frame; (n, 1, 2) where all paths leave in one direction
    delay_s    (n, n_paths)       s, in excess of the direct path
    """

    amplitude: np.ndarray
    arrival: np.ndarray
    departure: np.ndarray
    delay_s: np.ndarray
