import numpy as np
import pytest
from scipy.stats import binom

from pipelines.statistics.split import SplitEvidence


def highest(share: float, seed: int, looks: int = 60) -> float:
    random = np.random.default_rng(seed)
    evidence, found = SplitEvidence(), 0.0
    for _ in range(looks):
        new = int(random.binomial(40, share))
        evidence = evidence.after(new=new, reference_new=40 - new, share=0.25)
        found = max(found, evidence.log_e_value)
    return found


def test_a_split_as_configured_is_rarely_doubted_and_another_is_found_in_either_direction() -> None:
    doubted = sum(highest(0.25, seed) > np.log(20) for seed in range(200))
    assert doubted <= binom.ppf(0.999, 200, 0.05)
    assert highest(0.35, 0) > np.log(1000)
    assert highest(0.15, 0) > np.log(1000)


def test_a_share_of_one_splits_nothing_and_wrong_counts_are_refused() -> None:
    assert SplitEvidence().after(new=50, reference_new=0, share=1) == SplitEvidence()
    with pytest.raises(ValueError, match="found -1"):
        SplitEvidence().after(new=-1, reference_new=0, share=0.5)
