"""The cross-entropy and the accuracy of a batch, against scikit-learn and NumPy in float64."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.metrics import log_loss

from tl_keras.training.task import CrossEntropy, accuracy

CLASSES = 5


def batch(count=40, seed=0):
    """Return labels (count,), mixtures (count, CLASSES) and logits (count, CLASSES)."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(count, CLASSES), scale=4).astype(np.float32)
    mixtures = generator.dirichlet(np.full(CLASSES, 0.5), count).astype(np.float32)
    return generator.integers(0, CLASSES, count), mixtures, logits


def reference(wanted, logits, smoothing=0.0, class_weights=None):
    """Return the mean of w_y (-sum_k q_k log p_k), q = (1 - e) y + e / K, all in float64."""
    wanted = np.eye(CLASSES)[wanted] if wanted.ndim == 1 else wanted.astype(np.float64)
    weights = wanted @ (np.ones(CLASSES) if class_weights is None else class_weights)
    smoothed = (1 - smoothing) * wanted + smoothing / CLASSES
    log_likelihoods = log_softmax(logits.astype(np.float64), axis=1)
    return np.mean(weights * -(smoothed * log_likelihoods).sum(axis=1))


WEIGHTS = np.float32([0.5, 2.0, 1.0, 0.0, 3.5])


@pytest.mark.parametrize("kind", ["labels", "mixtures"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.99])
@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["even", "weighted"])
def test_cross_entropy_equals_its_formula(kind, smoothing, class_weights):
    labels, mixtures, logits = batch()
    wanted = labels if kind == "labels" else mixtures
    found = CrossEntropy(smoothing, class_weights)(tf.constant(wanted), tf.constant(logits))
    assert (found.shape, found.dtype) == ((), tf.float32)
    expected = reference(wanted, logits, smoothing, class_weights)
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["even", "weighted"])
def test_cross_entropy_equals_that_of_scikit_learn(class_weights):
    labels, _, logits = batch()
    found = CrossEntropy(0.0, class_weights)(tf.constant(labels), tf.constant(logits))
    weights = None if class_weights is None else class_weights[labels]
    likelihoods = np.exp(log_softmax(logits.astype(np.float64), axis=1))
    # A sum over the batch's size, not over the sum of the weights, as log_loss divides.
    scale = 1.0 if weights is None else weights.mean(dtype=np.float64)
    expected = scale * log_loss(labels, likelihoods, sample_weight=weights, labels=range(CLASSES))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_of_labels_is_that_of_their_rows():
    labels, _, logits = batch()
    rows = tf.one_hot(labels, CLASSES)
    for loss in (CrossEntropy(), CrossEntropy(0.2), CrossEntropy(0.2, WEIGHTS)):
        sparse, dense = loss(tf.constant(labels), logits), loss(rows, logits)
        assert float(sparse) == pytest.approx(float(dense), rel=1e-6)


def test_cross_entropy_without_settings_is_the_sparse_one_to_the_bit():
    labels, _, logits = batch()
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    found = CrossEntropy()(tf.constant(labels), tf.constant(logits))
    assert float(found) == float(tf.reduce_mean(losses))


def test_cross_entropy_of_half_precision_is_computed_in_float32():
    labels, _, logits = batch()
    half = tf.cast(logits, tf.float16)
    for smoothing in (0.0, 0.1):
        found = CrossEntropy(smoothing)(tf.constant(labels), half)
        assert found.dtype == tf.float32
        expected = reference(labels, half.numpy(), smoothing)
        assert float(found) == pytest.approx(expected, rel=1e-5)


def test_smoothed_cross_entropy_is_least_at_the_smoothed_probabilities():
    """Its gradient vanishes there, and at (1 - e, 0, ...) it does not."""
    wanted = np.float32([[0.92, 0.02, 0.02, 0.02, 0.02]])
    for likelihoods, vanishes in ((wanted, True), (np.eye(5, dtype=np.float32)[:1] + 1e-6, False)):
        logits = tf.constant(np.log(likelihoods))
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = CrossEntropy(0.1)(tf.constant([0], tf.int64), logits)
        slope = np.abs(tape.gradient(loss, logits).numpy()).max()
        assert (slope < 1e-6) == vanishes


@given(st.integers(0, 1000))
def test_class_weights_leave_the_gradient_of_a_class_alone_but_for_its_scale(seed):
    labels, _, logits = batch(8, seed)
    gradients = []
    for weights in (None, WEIGHTS):
        watched = tf.constant(logits)
        with tf.GradientTape() as tape:
            tape.watch(watched)
            loss = CrossEntropy(0.1, weights)(tf.constant(labels), watched)
        gradients.append(tape.gradient(loss, watched).numpy())
    np.testing.assert_allclose(gradients[1], gradients[0] * WEIGHTS[labels][:, None], atol=1e-6)


def test_accuracy_is_the_part_that_is_right():
    logits = np.float32([[2, 1, 0], [0, 2, 1], [0, 1, 2], [5, 0, 0]])
    found = accuracy(tf.constant([0, 1, 0, 0], tf.int64), tf.constant(logits))
    assert (found.shape, found.dtype, float(found)) == ((), tf.float32, 0.75)


def test_accuracy_counts_the_larger_part_of_a_mixture():
    logits = np.float32([[2, 1, 0], [0, 2, 1], [0, 1, 2], [5, 0, 0]])
    rows = np.float32([[0.6, 0.4, 0], [0.6, 0.4, 0], [0, 0, 1], [0.1, 0.2, 0.7]])
    assert float(accuracy(tf.constant(rows), tf.constant(logits))) == 0.5
