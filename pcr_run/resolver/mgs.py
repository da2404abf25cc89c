"""Modular gradient surgery."""

from __future__ import annotations

from pcr_run.resolver.pcgrad import PCGrad


class MGS(PCGrad):
    """Cai et al. 2026 (arXiv 2602.02301): PCGrad in each module on its own, in all of them.

    The rule is PCGrad's; what is new is where it decides, which its YAML sets: one decision per tensor, all modules.
    """
