"""Two losses of one model in; two gradients, their variances and one update of both out.

May import distributed, resolver.

Usable without the rest of pcr_run, on any loss pair of any transformers causal LM::

    names = select(model, "mlp")
    with TwoGradients(model, names, rows=8, group=4) as two:
        for ids in batch.split(4):                     # prompt-major: 4 responses of one prompt, then 4 of the next
            pla, sta = my_losses(model, ids)           # scalars whose sums over microbatches are the batch's losses
            two.backward(pla, sta, beta=0.04, rows=len(ids))
    two.resolve(make("pcr"), beta=0.04, granularity="layer")
    optimizer.step()                                   # .grad of every parameter is now the resolved gradient

Parameters outside ``names`` get the plain gradient of ``pla + beta * sta``, as one backward of the sum would give."""

from pcr_run.gradients.cut import Cotangents, cuttable, outermost
from pcr_run.gradients.groups import group_index, group_name, place, select
from pcr_run.gradients.moments import Resolution
from pcr_run.gradients.taps import tappable
from pcr_run.gradients.two import Metric, TwoGradients

__all__ = [
    "Cotangents",
    "Metric",
    "Resolution",
    "TwoGradients",
    "cuttable",
    "group_index",
    "group_name",
    "outermost",
    "place",
    "select",
    "tappable",
]
