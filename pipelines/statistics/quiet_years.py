"""Made-up references and years after them in which nothing changed, like a short series of dependent units.

Each statistic is a first-order autoregression with the dependence of its own units; all of them move together, since
the innovations of one moment are those of one real moment. How strong the dependence is, a short series does not know:
the estimate is freed of its bias (Marriott and Pope, "Bias in the estimation of autocorrelations", Biometrika 41,
1954), and each replay draws its own around it. Resampling blocks of the series would instead repeat what these few
units happened to do: too little of the slow ups and downs that cumulative sums take for a change.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_BURN_IN = 20
_MOST_DEPENDENT = 0.9


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
    before, after = standardised[:-1], standardised[1:]
    found = (before * after).sum(axis=0) / np.maximum(np.square(standardised).sum(axis=0), 1e-9)
    centre = np.clip(found + (1 + 3 * np.maximum(0.0, found)) / units, 0.0, _MOST_DEPENDENT)
    error = np.sqrt((1 - centre**2) / units)
    dependence = np.clip(centre + error * random.normal(size=(replays, 1)), 0.0, _MOST_DEPENDENT)
    innovations = _of_unit_size(after - centre * before) * standardised.std(axis=0)
    moments = random.integers(len(innovations), size=(_BURN_IN + units + later, replays))
    now = standardised[random.integers(units, size=replays)]
    share_of_new = np.sqrt(1 - dependence**2)
    series = np.empty((units + later, replays, statistics), dtype=np.float32)
    for place, drawn in enumerate(moments, start=-_BURN_IN):
        now = dependence * now + share_of_new * innovations[drawn]
        if place >= 0:
            series[place] = now
    return series


def _of_unit_size(values: Floats) -> Floats:
    centred = values - values.mean(axis=0)
    size = centred.std(axis=0)
    found: Floats = np.where(size > 1e-9, centred / np.maximum(size, 1e-9), 0.0)
    return found
