"""The contrastive losses of a batch that is spread over the ranks of a process group: words travel, images stay.

Rank r holds n_r images and their n_r texts; N is the sum. It scores its own images with all N texts, so that every pair
is computed once, on one rank::

    agree       sizes and settings of every rank           4 integers a rank; any difference is an error on every rank
                lengths and report ids of every text       16 N bytes
    words       all packed words come by, or are gathered  W D bytes an element (W = words of all texts, D wide)
    scores      own images x all texts, (n_r, N) float32   stays
    columns     log-sum-exp over n_r images of each text   to the owner of the text, which adds up R of them: 4 N
                log-sum-exp over all N images, own sums    from the owner to all: 4 N
    loss        rows need only what is here; columns need only the log-sum-exp of each text. No scores travel.

Backward: the gradient of a score needs the score, its row's and its column's log-sum-exp, which are all here. The
gradient of the regions stays; that of the words goes back to their owner:

    gather      every rank sends each owner its share, in the dtype of the words: W D bytes an element
    ring        the words come by once more (W D bytes an element), and a float32 sum of gradients with each block, one
                step behind its words, which arrives at its owner complete: 4 W D

Gathered, a rank holds all words and, backward, their gradients twice. In the ring it holds two blocks of words, for
while one is scored the next one arrives; backward also the gradient of one block and two of sums; however many ranks
there are. What still grows is the scores and their gradient, 4 n_r N bytes each. Nothing depends on who is faster: sums
are taken in the order of the ranks (gather) or of the ring, so the same inputs on the same ranks give the same bits.
"""

from gloria_ops.distributed.crossentropy import contrasted_pairs
from gloria_ops.distributed.functional import global_contrastive_loss, local_contrastive_loss
from gloria_ops.distributed.modules import GlobalContrastiveLoss, LocalContrastiveLoss

__all__ = [
    "GlobalContrastiveLoss",
    "LocalContrastiveLoss",
    "contrasted_pairs",
    "global_contrastive_loss",
    "local_contrastive_loss",
]
