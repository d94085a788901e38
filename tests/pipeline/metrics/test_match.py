"""Text-image metrics and language metrics against references and by hand."""

import numpy as np
import pytest

from pipeline.metrics.language import distinct_n, words_of
from pipeline.metrics.match import clip_score, right_of_all, right_of_some, similarity


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


RNG = np.random.default_rng(0)
WORDS = unit(RNG.normal(size=(3000, 8)))


def test_similarity_is_the_cosine_and_clip_score_is_it_in_percent_cut_at_zero():
    images, words = unit(RNG.normal(size=(5, 8))), unit(RNG.normal(size=(5, 8)))
    found = similarity(images, words)
    np.testing.assert_allclose(found, [np.dot(a, b) for a, b in zip(images, words, strict=True)])
    assert (clip_score(found) == [max(0, 100 * value) for value in found]).all()


def test_images_that_are_their_words_are_right_and_others_by_chance():
    text = np.arange(3000)
    assert right_of_all(WORDS, WORDS, text).all()
    assert right_of_some(WORDS, WORDS, text, 0).all()
    chance = right_of_some(unit(RNG.normal(size=(3000, 8))), WORDS, text, 0)
    assert chance.mean() == pytest.approx(0.01, abs=0.006)
    assert right_of_all(np.roll(WORDS, 1, axis=0), WORDS, text).mean() == 0


def test_fewer_texts_than_asked_for_are_all_met():
    images, text = unit(RNG.normal(size=(40, 8))), np.arange(40) % 20
    assert (right_of_some(images, WORDS[:20], text, 3) == right_of_all(images, WORDS[:20], text)).all()


def test_more_texts_make_it_harder():
    images = unit(WORDS + 0.5 * RNG.normal(size=WORDS.shape))
    shares = [right_of_some(images, WORDS, np.arange(3000), 0, count).mean() for count in (2, 10, 100, 1000)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] > right_of_all(images, WORDS, np.arange(3000)).mean()


def test_words_are_latin_runs_and_single_han():
    assert words_of("A cat's 2 toys, 一只猫!") == ["a", "cat", "s", "2", "toys", "一", "只", "猫"]


def test_distinct_n_counts_different_runs_over_all():
    assert distinct_n(["a b a b", "a b"], 1) == pytest.approx(2 / 6)
    assert distinct_n(["a b a b", "a b"], 2) == pytest.approx(2 / 4)
    assert np.isnan(distinct_n(["a"], 2))
