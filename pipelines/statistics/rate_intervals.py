"""The exact interval of a rate, for counts that are looked at once."""


def exact_interval(happened: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Lower and upper bound (Clopper and Pearson, "The use of confidence or fiducial limits", Biometrika 26, 1934).

    >>> exact_interval(0, 0)
    (0.0, 1.0)
    """
    from scipy.stats import beta

    tail = (1 - level) / 2
    low = float(beta.ppf(tail, happened, n - happened + 1)) if happened else 0.0
    high = float(beta.ppf(1 - tail, happened + 1, n - happened)) if happened < n else 1.0
    return low, high
