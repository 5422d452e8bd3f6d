"""Continue a learning curve: the error of n images as c + a n^-b, and how far the forecast can be believed.

Source: Cortes et al., "Learning Curves: Asymptotic Values and Rate of Convergence", NeurIPS 1993; Viering and Loog,
"The Shape of Learning Curves: a Review", arXiv 2103.10948.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# from a curve that is nearly a straight line over the logarithm to one that has flattened out
EXPONENTS = np.linspace(0.05, 1.5, 30)
DRAWS = 500


def forecast(sizes: Floats, errors: Floats, wanted: Floats) -> Floats:
    """The errors (R, T) at T numbers of images, by the power law closest to each of R curves; a and c are not negative.

    Args:
        sizes: how many images each point was measured with (S,).
        errors: R curves (R, S), 0 to 1.
        wanted: (T,).
    """
    least, found = np.full(len(errors), np.inf), np.zeros((len(errors), len(wanted)))
    middle = errors.mean(1)
    for exponent in EXPONENTS:
        powers, ahead = ((each / sizes[-1]) ** -exponent for each in (sizes, wanted))
        centred = powers - powers.mean()
        slope = np.maximum((errors - middle[:, None]) @ centred / np.square(centred).sum(), 0)
        floor = middle - slope * powers.mean()
        alone = errors @ powers / np.square(powers).sum()
        slope, floor = np.where(floor < 0, alone, slope), np.maximum(floor, 0)
        missed = np.square(errors - slope[:, None] * powers - floor[:, None]).sum(1)
        better = missed < least
        least[better] = missed[better]
        found[better] = slope[better, None] * ahead + floor[better, None]
    return found


def draw_again(errors: Floats, seed: int) -> Floats:
    """DRAWS curves (DRAWS, S), each of N images drawn from the N again, with replacement.

    Args:
        errors: how often each image was mistaken at each point, 0 to 1 (S, N).
    """
    count = errors.shape[1]
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    return np.asarray(times @ errors.T / count)
