"""A linear layer on fixed vectors, fitted to its optimum: what fine-tuning on a frozen encoder comes to."""

import torch
from torch import Tensor

from gloria.heads import GloriaForImageClassification

ROUNDS = 300  # of L-BFGS, at most


def fit_classifier(model: GloriaForImageClassification, vectors: Tensor, labels: Tensor) -> None:
    """Fit the classifier of a model, in place: L2-regularized logistic regression by L-BFGS, in float64.

    It minimizes the model's loss, a mean over what is labeled, plus |W|² / (2 N), on vectors that are standardized over
    the N rows: the default of scikit-learn's LogisticRegression, C = 1. There is one optimum, so nothing is drawn.

    Args:
        model: whose `classifier` is fitted.
        vectors: (N, C), as its `get_image_vectors` gives them.
        labels: of the N rows, as its `loss` takes them.
    """
    vectors = vectors.double()
    mean, spread = vectors.mean(0), vectors.std(0, correction=0)
    spread = spread.where(spread > 0, 1)  # a channel that never changes says nothing, and gets no weight
    standardized = (vectors - mean) / spread
    classes = model.classifier.out_features
    weight = torch.zeros(classes, vectors.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=ROUNDS, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def penalized() -> Tensor:
        optimizer.zero_grad()
        loss = model.loss(standardized @ weight.T + bias, labels) + weight.square().sum() / (2 * len(vectors))
        loss.backward()
        return loss

    optimizer.step(penalized)
    with torch.no_grad():
        model.classifier.weight.copy_(weight / spread)
        model.classifier.bias.copy_(bias - (weight / spread) @ mean)
