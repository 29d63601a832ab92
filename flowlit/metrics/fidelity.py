"""Kernel distance, Inception score, precision and recall, in torch-fidelity's implementations."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..errors import FlowlitError
from ..ranges import PositiveInt
from .base import FeatureBatch, FeatureMetric
from .report import Estimate


@dataclass
class KID(FeatureMetric):
    """Squared maximum mean discrepancy with the kernel (x·y / d + 1)³: mean and deviation over subsets.

    Bińkowski et al. 2018 (1801.01401); unbiased, so that it can be slightly negative. Unlike the Fréchet
    distance its expectation does not depend on the number of images: use it where there are few.

    Args:
        subsets: how many.
        subset_size: images of each kind in a subset; at most as many as there are.
    """

    subsets: PositiveInt = 100
    subset_size: PositiveInt = 1000
    needs_real = True
    numbers = ("kid",)

    def check(self, generated: int, real: int | None) -> None:
        if self.subset_size < 2:
            raise FlowlitError(f"{self}: expected subsets of at least 2 images")
        if real is not None and self.subset_size > min(generated, real):
            raise FlowlitError(
                f"KID: subsets of {self.subset_size} images, but there are {generated} generated and {real} "
                "real ones; lower subset_size (--vars.kid_subset in the shipped experiments), or generate "
                "more"
            )

    def __call__(self, generated: FeatureBatch, real: Tensor | None) -> dict[str, Estimate]:
        from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

        values = kid_features_to_metric(
            generated.features,
            real,
            kid_subsets=self.subsets,
            kid_subset_size=self.subset_size,
            verbose=False,
        )
        return {"kid": Estimate(values[KEY_METRIC_KID_MEAN], values[KEY_METRIC_KID_STD])}


@dataclass
class InceptionScore(FeatureMetric):
    """exp E KL( p(y|x) ‖ p(y) ) of the extractor's classes: mean and deviation over splits.

    Salimans et al. 2016 (1606.03498). It sees generated images only, and is an Inception score only with
    Inception's classes.

    Args:
        splits: parts of the images, after a fixed shuffle.
    """

    splits: PositiveInt = 10
    needs_logits = True
    numbers = higher = ("inception_score",)

    def check(self, generated: int, real: int | None) -> None:
        if generated < self.splits:
            raise FlowlitError(
                f"InceptionScore: {self.splits} splits of {generated} images; lower splits, or generate more"
            )

    def __call__(self, generated: FeatureBatch, real: Tensor | None) -> dict[str, Estimate]:
        from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

        values = isc_features_to_metric(generated.logits, self.splits)
        return {"inception_score": Estimate(values[KEY_METRIC_ISC_MEAN], values[KEY_METRIC_ISC_STD])}


@dataclass
class PrecisionRecall(FeatureMetric):
    """Shares of generated images among the real ones (precision), and of real among generated (recall).

    "Among" is nearer to one of them than its k-th neighbour of the same kind. Kynkäänniemi et al. 2019
    (1904.06991); compare only equal numbers of images. Its spread is not defined.

    Args:
        neighbourhood: k.
    """

    neighbourhood: PositiveInt = 3
    needs_real = True
    numbers = higher = ("precision", "recall")

    def check(self, generated: int, real: int | None) -> None:
        if real is not None and min(generated, real) <= self.neighbourhood:
            raise FlowlitError(
                f"PrecisionRecall: {self.neighbourhood} neighbours need more images than {generated} "
                f"generated and {real} real"
            )

    def __call__(self, generated: FeatureBatch, real: Tensor | None) -> dict[str, Estimate]:
        from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

        values = prc_features_to_metric(
            generated.features,
            real,
            prc_neighborhood=self.neighbourhood,
            prc_batch_size=1000,
            save_cpu_ram=True,
            verbose=False,
        )
        return {
            "precision": Estimate(values[KEY_METRIC_PRECISION]),
            "recall": Estimate(values[KEY_METRIC_RECALL]),
        }


OTHERWISE = {
    "fid": "frechet",
    "fid_extrapolated": "frechet_extrapolated",
    "kid": "kernel_distance",
    "inception_score": "classifier_score",
}
"""Names that are Inception's, and those of the same numbers in other features."""


def tag(features: str, name: str = "fid") -> str:
    """Name a number for its features; only Inception's are an FID, a KID, an Inception score.

    >>> tag("inception"), tag("digits"), tag("digits", "kid"), tag("digits", "recall")
    ('fid', 'frechet_digits', 'kernel_distance_digits', 'recall_digits')
    """
    if features == "inception":
        return name
    base, half, _ = name.partition("_half")
    return f"{OTHERWISE.get(base, base)}_{features}{half}"
