"""Contrastive losses of a batch over the ranks of a process group: words travel, images stay.

Rank r holds n_r images and their n_r texts; N is the sum. It scores its images with all N texts, so that every pair is
computed once, on one rank::

    agree       sizes and settings of every rank           4 integers a rank; any difference is an error on every rank
                lengths and report ids of every text       16 N bytes
    words       all packed words pass by, or are gathered  W D bytes an element (W = words of all texts, D wide)
    scores      its images x all texts, (n_r, N) float32   stays
    columns     log-sum-exp over n_r images of each text   to the owner of the text, which adds up R of them: 4 N
                log-sum-exp over all N images, its sums    from the owner to all: 4 N
    loss        rows are local; columns need only the log-sum-exp of each text. No scores travel.
                The sigmoid loss needs no columns: one number per rank replaces the log-sum-exps.
                Targets add their ids (8 N bytes), or their column sums, which take the way of the log-sum-exps.

Backward: the gradient of a score needs the score and the log-sum-exps of its row and column, which are all local. The
gradient of the regions stays; the gradient of the words goes back to their owner:

    gather      every rank sends each owner its share, in the dtype of the words: W D bytes an element
    ring        the words pass by again (W D bytes an element), and with each block, one step later, a float32 sum of
                its gradients, which is complete when it arrives at its owner: 4 W D

With gather, a rank holds all words and, in backward, two copies of their gradients. In the ring it holds two blocks of
words, since one arrives while the other is scored; in backward also the gradient of one block and the sums of two, for
any number of ranks. Only the scores and their gradient grow, 4 n_r N bytes each. Sums are taken in the order of the
ranks (gather) or of the ring, and not in the order of arrival, so the same inputs on the same ranks give the same bits.
"""

from gloria_ops.distributed.functional import global_contrastive_loss, local_contrastive_loss, local_sigmoid_loss
from gloria_ops.distributed.modules import GlobalContrastiveLoss, LocalContrastiveLoss, LocalSigmoidLoss
from gloria_ops.distributed.targets import contrasted_pairs

__all__ = [
    "GlobalContrastiveLoss",
    "LocalContrastiveLoss",
    "LocalSigmoidLoss",
    "contrasted_pairs",
    "global_contrastive_loss",
    "local_contrastive_loss",
    "local_sigmoid_loss",
]
