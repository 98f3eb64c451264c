"""Sine and cosine of half turns, written out so that loops over them run several numbers at a time.

Angles of arrays and phases of paths are multiples of pi by nature (antennas stand half a wavelength apart), and in
half turns the reduction to the first quadrant is exact, however large the number.
"""

import numpy as np
from numba import njit

# sin(pi r) / r and cos(pi r) in powers of r^2 for |r| <= 1/2, interpolated at Chebyshev nodes, within 4e-18
S0, S1, S2, S3 = 3.141592653589793, -5.167712780049969, 2.5501640398773007, -0.5992645293189447
S4, S5, S6, S7 = 0.0821458865731029, -0.007370430505916944, 0.0004662998161898394, -2.1903497074626018e-05
S8 = 7.697826768224191e-07
C0, C1, C2, C3 = 1.0, -4.934802200544676, 4.058712126416497, -1.335262768843447
C4, C5, C6, C7 = 0.23533063012953284, -0.025806888737002202, 0.0019295562724817132, -0.00010456655338748738
C8 = 4.149564353942586e-06


fused = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})


@fused
def sincos_half_turns(x):
    """Kernel: sin(pi x) and cos(pi x), within 3e-16."""
    whole = np.floor(x + 0.5)
    r, half = x - whole, 0.5 * whole
    sign = 1.0 - 4.0 * (half - np.floor(half))  # of whole half turns: -1 for odd ones
    q = r * r
    sine = S0 + q * (S1 + q * (S2 + q * (S3 + q * (S4 + q * (S5 + q * (S6 + q * (S7 + q * S8)))))))
    cosine = C0 + q * (C1 + q * (C2 + q * (C3 + q * (C4 + q * (C5 + q * (C6 + q * (C7 + q * C8)))))))
    return sign * r * sine, sign * cosine
