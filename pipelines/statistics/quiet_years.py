"""Made-up references and years after them in which nothing changed, like a short series of dependent units.

Each statistic is the sum of a slow part, which remembers (a first-order autoregression), and of each unit's own: days
of one season are alike, and days differ. An autoregression alone takes its memory from how like neighbours are, which
is little where most of a day is its own, and then believes that the slow ups and downs of weeks are changes.

How long the memory is, and how much of the variance is slow, a short series hardly knows. So each replay has both drawn
from what the series leaves possible: the posterior by Whittle's likelihood of the periodogram (Whittle, "Estimation and
information in stationary time series", Arkiv för Matematik 2, 1953), with the scale integrated out. The frequency 0 is
no part of it, so that the mean, which is estimated as well, gives it no bias. Before the series is seen every share
is as likely as another, and so is every correlation of neighbours up to that with which the series would count as
`_FEWEST_STRETCHES` independent units: what stays alike for longer is no memory but a change. All statistics move
together, since what is new in one unit are the values of one real unit.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_FEWEST_STRETCHES = 3  # that a mean and how much it varies take
_BURN_IN = 20
_GRID = 24


def quiet_years(standardised: Floats, later: int, replays: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Replays of as many units as `standardised` has (units × statistics) and `later` more.

    Args:
        standardised: with mean 0 and a standard deviation of at most 1; what is not known is 0.
        later: how many units follow those of the reference.
        replays: how many such series.

    Returns:
        (units + later) × replays × statistics, in the same scale.
    """
    units, statistics = standardised.shape
    memories, shares = dependence(standardised, replays, random)
    values, size = _of_unit_size(standardised), standardised.std(axis=0)
    slow_size, own_size, share_of_new = np.sqrt(shares) * size, np.sqrt(1 - shares) * size, np.sqrt(1 - memories**2)
    moments = random.integers(units, size=(2, _BURN_IN + units + later, replays))
    slow = values[random.integers(units, size=replays)]
    series = np.empty((units + later, replays, statistics), dtype=np.float32)
    for place, (new, own) in enumerate(zip(*moments, strict=True), start=-_BURN_IN):
        slow = memories * slow + share_of_new * values[new]
        if place >= 0:
            series[place] = slow_size * slow + own_size * values[own]
    return series


def dependence(standardised: Floats, draws: int, random: np.random.Generator) -> tuple[Floats, Floats]:
    """What the units (× statistics) may have of a slow part: `draws` × statistics of its correlation from one unit to
    the next, and of its share of the variance. One draw is as far up in the posterior of each statistic."""
    units = len(standardised)
    longest = (units - _FEWEST_STRETCHES) / (units + _FEWEST_STRETCHES)  # (1 + φ) / (1 − φ) units are as good as one
    steps = (np.arange(_GRID) + 0.5) / _GRID
    memories, shares = (each.ravel() for each in np.meshgrid(longest * steps, steps, indexing="ij"))
    frequencies = np.arange(1, (units - 1) // 2 + 1)
    found = np.square(np.abs(np.fft.rfft(standardised, axis=0)[frequencies])) / units
    cosines = np.cos(2 * np.pi * frequencies / units)
    slow = (1 - memories**2)[:, None] / (1 - 2 * memories[:, None] * cosines + memories[:, None] ** 2)
    spectra = 1 - shares[:, None] + shares[:, None] * slow
    scales = np.maximum((1 / spectra) @ found / len(frequencies), 1e-12)
    likelihood = -np.log(spectra).sum(axis=1)[:, None] - len(frequencies) * np.log(scales)
    summed = np.cumsum(np.exp(likelihood - likelihood.max(axis=0)), axis=0)
    heights = random.random(draws)
    places = np.column_stack([np.searchsorted(each / each[-1], heights) for each in summed.T])
    return memories[places], shares[places]


def _of_unit_size(values: Floats) -> Floats:
    centred = values - values.mean(axis=0)
    size = centred.std(axis=0)
    found: Floats = np.where(size > 1e-9, centred / np.maximum(size, 1e-9), 0.0)
    return found
