"""All claims, and those that cannot be measured here."""

from __future__ import annotations

from .adaptive import ADAPTIVE
from .claim import Claim
from .search import SEARCH

CLAIMS: tuple[Claim, ...] = (*SEARCH, *ADAPTIVE)

NOT_HERE = (
    (
        "hint-marginalization",
        "Rounds of hints beat self-consistency at equal calls",
        "Pal et al. 2024, arXiv:2412.13292 (233)",
        "the reasoner reads problems only, no hints",
    ),
    (
        "budget-forcing",
        "Taking back the end of thinking raises accuracy",
        "Muennighoff et al. 2025, arXiv:2501.19393",
        "the reasoner never learned to go on after an answer",
    ),
    (
        "meta-judge",
        "Sums of k sampled critiques prefer better as k grows",
        "Liu et al. 2025, arXiv:2504.02495 (255)",
        "the reasoner writes no critiques, and no judge of its size does",
    ),
    (
        "checklists",
        "One judging call over all candidates beats a reward model",
        "Khairi et al. 2025, arXiv:2506.20544 (280)",
        "needs a judge that reads instructions, and several languages",
    ),
)
