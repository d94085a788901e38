"""Distribution metrics: the reference implementations on the same features, and cases with a known answer."""

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance
from vendi_score.vendi import score_dual

from pipeline.metrics.distribution import ClassSums, KernelDistance, extrapolated, frechet_distance
from pipeline.metrics.intervals import around, bootstrap, halves, percentiles
from pipeline.metrics.manifold import Neighbourhoods
from pipeline.metrics.moments import Moments
from pipeline.metrics.paired import psnr, ssim
from pipeline.metrics.variety import mean_distance, nearest, vendi_score

RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(300, 16)) @ RNG.normal(size=(16, 16))
MADE = RNG.normal(size=(260, 16)) @ RNG.normal(size=(16, 16)) + 0.3


class Features(torch.nn.Module):
    """Features that are given as they are, for metrics that want a network."""

    num_features = 16

    def forward(self, images):
        return images


def test_frechet_distance_is_torchmetrics_on_the_same_features():
    theirs = FrechetInceptionDistance(feature=Features(), normalize=True).set_dtype(torch.float64)
    theirs.used_custom_model = True
    theirs.update(torch.from_numpy(REAL), real=True)
    theirs.update(torch.from_numpy(MADE), real=False)
    assert frechet_distance(Moments.of(REAL), Moments.of(MADE)) == pytest.approx(float(theirs.compute()), rel=1e-4)


def test_frechet_distance_of_two_gaussians_is_known():
    """Of samples whose moments are exact: |m1 - m2|^2 + sum (s1 - s2)^2 for diagonal covariances."""
    exact = np.linalg.qr(RNG.normal(size=(400, 5)))[0]
    exact = np.linalg.qr(exact - exact.mean(axis=0))[0] * np.sqrt(399)
    one, two = exact * [1, 2, 3, 4, 5], exact * [2, 2, 1, 4, 0] + [1, 0, 0, 2, 0]
    assert frechet_distance(Moments.of(one), Moments.of(two)) == pytest.approx(5 + (1 + 4 + 25), rel=1e-9)
    assert frechet_distance(Moments.of(one), Moments.of(one)) == pytest.approx(0, abs=1e-6)


def test_moments_do_not_depend_on_the_partition():
    far = REAL + 1e4  # where sums of squares would cancel
    whole = Moments.of(far)
    for cuts in ([1, 2, 299], [100, 200], list(range(1, 300))):
        merged = Moments.merged(Moments.of(part) for part in np.split(far, cuts))
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-8)
        np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-8, atol=1e-8 * np.abs(whole.scatter).max())


def test_kernel_distance_is_torchmetrics_on_the_same_features():
    theirs = KernelInceptionDistance(feature=Features(), subsets=1, subset_size=260, normalize=True)
    theirs.used_custom_model = True
    real = REAL[:260]
    theirs.update(torch.from_numpy(real), real=True)
    theirs.update(torch.from_numpy(MADE), real=False)
    assert KernelDistance.of(real, MADE).value() == pytest.approx(float(theirs.compute()[0]), rel=1e-4)


def test_kernel_distance_of_subsets_is_that_of_their_rows_and_zero_within_one_gaussian():
    first, second = halves(300, 1, 3), halves(260, 2, 3)
    found = KernelDistance.of(REAL, MADE).of_subsets(first, second)
    for value, a, b in zip(found, first, second, strict=True):
        assert value == pytest.approx(KernelDistance.of(REAL[a], MADE[b]).value(), rel=1e-9)
    same = RNG.normal(size=(2, 2000, 8))
    assert abs(KernelDistance.of(*same).value()) < 0.02


def test_precision_recall_density_coverage_are_prdc_on_the_same_features():
    theirs = compute_prdc(REAL, MADE, nearest_k=5)
    ours = Neighbourhoods.of(REAL, MADE).measures(5)
    assert ours == pytest.approx({name: float(value) for name, value in theirs.items()}, rel=1e-4)


def test_far_apart_sets_have_no_precision_and_no_coverage():
    found = Neighbourhoods.of(REAL, MADE + 1e3).measures()
    assert found == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_inception_score_is_torchmetrics_and_known_of_one_hot_posteriors():
    logits = RNG.normal(size=(200, 7)) * 3
    theirs = InceptionScore(feature=Features(), splits=1)
    theirs.used_custom_model = True
    theirs.update(torch.from_numpy(logits))
    ours = ClassSums.of(torch.from_numpy(logits).softmax(dim=1).numpy())
    assert ours.inception_score() == pytest.approx(float(theirs.compute()[0]), rel=1e-4)
    assert ClassSums.of(np.eye(7)).inception_score() == pytest.approx(7)
    assert ClassSums.of(np.eye(7)[[2] * 9]).inception_score() == pytest.approx(1)
    parts = ClassSums.of(np.eye(7)[:3]).merge(ClassSums.of(np.eye(7)[3:]))
    assert parts.inception_score() == pytest.approx(7)


def test_a_set_is_at_no_distance_from_itself_even_with_fewer_rows_than_numbers():
    few = Moments.of(RNG.normal(size=(20, 50)))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)


def test_a_constant_image_is_one_image_however_often():
    same = np.tile(REAL[:1] / np.linalg.norm(REAL[:1]), (50, 1))
    assert vendi_score(Moments.of(same)) == pytest.approx(1)
    assert mean_distance(same) == pytest.approx(0, abs=1e-12)
    assert nearest(same, same, same=True) == pytest.approx(1)
    assert frechet_distance(Moments.of(same), Moments.of(same)) == pytest.approx(0, abs=1e-9)
    assert KernelDistance.of(same, same).value() == pytest.approx(0, abs=1e-12)
    picture = torch.full((1, 3, 64, 64), 0.3)
    assert float(psnr(picture, picture)) == 100
    assert float(ssim(picture, picture)) == pytest.approx(1)
    assert float(psnr(picture, picture + 0.1)) == pytest.approx(20, abs=1e-4)


def test_vendi_score_is_the_references_and_counts_kinds():
    unit = REAL / np.linalg.norm(REAL, axis=1, keepdims=True)
    assert vendi_score(Moments.of(unit)) == pytest.approx(score_dual(unit, normalize=False), rel=1e-4)
    assert vendi_score(Moments.of(np.eye(16)[[0, 3, 5, 3, 0, 5]])) == pytest.approx(3)
    assert vendi_score(Moments.of(unit[:1].repeat(4, axis=0))) == pytest.approx(1)


def test_mean_distance_and_nearest_are_those_of_all_pairs():
    unit = REAL[:20] / np.linalg.norm(REAL[:20], axis=1, keepdims=True)
    similar = unit @ unit.T
    assert mean_distance(unit) == pytest.approx(1 - similar[~np.eye(20, dtype=bool)].mean())
    np.fill_diagonal(similar, -1)
    np.testing.assert_allclose(nearest(unit, unit, same=True), similar.max(axis=1))


def test_a_line_in_one_over_n_is_followed_to_its_end():
    counts = [500, 1000, 2000, 4000]
    assert extrapolated(counts, [3.0 + 40 / n for n in counts]) == pytest.approx(3.0)


@pytest.mark.filterwarnings("error")
def test_of_a_handful_of_images_there_is_no_number_and_no_warning_of_numpy():
    assert np.isnan(extrapolated([1, 1, 1, 1], [3.0, 2.0, 2.5, 3.0]))
    alone, pair = np.eye(4, dtype=bool)[:1], np.ones((1, 4), bool)
    distance = KernelDistance.of(REAL[:4], MADE[:4])
    assert np.isnan(distance.of_subsets(alone, pair)).all()
    assert np.isnan(distance.of_subsets(pair, alone)).all()
    assert np.isfinite(distance.of_subsets(pair, pair)).all()


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """Of 200 means of 100 normals, between 90% and 99% of intervals hold 0."""
    held = {"bootstrap": 0, "halves": 0}
    for trial in range(200):
        values = np.random.default_rng(trial).normal(size=100)
        low, high = percentiles(bootstrap(values, np.ones(100), trial, draws=400))
        held["bootstrap"] += low < 0 < high
        low, high = around(values.mean(), [values[half].mean() for half in halves(100, trial, 40)])
        held["halves"] += low < 0 < high
    assert all(0.9 <= count / 200 <= 0.99 for count in held.values()), held


def test_a_bootstrap_draws_whole_prompts():
    """Ten rows of one prompt say no more than one: the interval is as wide as the prompts are few."""
    sums = np.array([0.0, 10.0])
    assert set(bootstrap(sums, np.array([10.0, 10.0]), 0, draws=100)) == {0.0, 0.5, 1.0}
