"""Claims about searches and particle methods."""

from __future__ import annotations

from . import curves
from .claim import Claim, gain, saving

PF = "Puri et al. 2025, arXiv:2502.01618 (15)"
EPF = "Mitigating premature exploitation, 2025 (7)"
ASTAR = "A*-decoding, 2025 (17)"
REBASE = "Wu et al. 2024, arXiv:2408.00724 (REBASE)"
ABMCTS = "Inoue et al. 2025, arXiv:2503.04412"
PHI = "Xu et al. 2025, arXiv:2503.13288"
FK = "Singhal et al. 2025, arXiv:2501.06848"


SEARCH = (
    saving(
        "filter-beam",
        "A particle filter reaches beam search's accuracy with fewer tokens",
        PF,
        "particle-filter-published",
        "beam",
        "4 to 16x",
        4,
    ),
    saving(
        "filter-dvts",
        "A particle filter reaches DVTS's accuracy with fewer tokens",
        PF,
        "particle-filter-published",
        "dvts",
        "4 to 16x",
        4,
    ),
    saving(
        "filter-best",
        "A particle filter reaches best-of-N's accuracy with fewer tokens",
        PF,
        "particle-filter-published",
        "best-of-n",
        "4 to 16x",
        4,
    ),
    gain(
        "filter-weighted",
        "A particle filter beats the weighted vote at equal tokens",
        PF,
        "particle-filter",
        "weighted-best-of-n",
        "better",
        note="the filter with a fixed target against the strongest sampler",
    ),
    Claim(
        "entropic",
        "Entropic annealing beats the plain filter where the verifier is sure too early",
        EPF,
        ("overconfident-entropic", "overconfident-filter"),
        lambda f: curves.relative_gain(f["overconfident-entropic"], f["overconfident-filter"]),
        "relative",
        0.0,
        "up to 50 %",
        None,
    ),
    saving(
        "a-star-filter",
        "A*-decoding reaches a particle filter's accuracy with fewer tokens",
        ASTAR,
        "a-star",
        "particle-filter-published",
        "up to 3x",
        3,
    ),
    saving(
        "a-star-best",
        "A*-decoding reaches best-of-N's accuracy with fewer tokens",
        ASTAR,
        "a-star",
        "best-of-n",
        "up to 3x",
        3,
    ),
    saving(
        "a-star-calls",
        "A*-decoding reaches a particle filter's accuracy with fewer calls of the verifier",
        ASTAR,
        "a-star",
        "particle-filter-published",
        "30 % fewer (1.43x)",
        1.43,
        "verifier_calls",
    ),
    saving(
        "rebase-sampling",
        "REBASE reaches the weighted vote's accuracy with fewer tokens",
        REBASE,
        "rebase",
        "weighted-best-of-n",
        "2x fewer FLOPs",
        2,
        note="one model instead of two sizes",
    ),
    gain("rebase-mcts", "REBASE beats MCTS at equal tokens", REBASE, "rebase", "mcts", "better"),
    saving(
        "ets-memory",
        "ETS reads fewer keys and values than REBASE at equal accuracy",
        "Hooper et al. 2025, arXiv:2502.13575 (274)",
        "ets",
        "rebase",
        "1.8x",
        1.8,
        "kv_reads",
    ),
    saving(
        "early-rejection",
        "Rejecting half-written steps reaches beam search's accuracy with fewer FLOPs",
        "Partial reward models, 2025 (57)",
        "early-rejection",
        "beam",
        "1.4 to 9x",
        1.4,
        "flops",
    ),
    gain(
        "ab-sampling", "AB-MCTS-A beats repeated sampling at equal tokens", ABMCTS, "ab-mcts-a", "best-of-n", "better"
    ),
    gain("ab-mcts", "AB-MCTS-A beats MCTS at equal tokens", ABMCTS, "ab-mcts-a", "mcts", "better"),
    gain(
        "ab-m-sampling", "AB-MCTS-M beats repeated sampling at equal tokens", ABMCTS, "ab-mcts-m", "best-of-n", "better"
    ),
    gain(
        "phi-beam",
        "phi-decoding beats beam search at equal tokens",
        PHI,
        "phi-decoding",
        "beam",
        "better",
        note="beam search has a verifier here, phi-decoding has none",
    ),
    gain(
        "phi-mcts",
        "phi-decoding beats MCTS at equal tokens",
        PHI,
        "phi-decoding",
        "mcts",
        "better",
        note="MCTS has a verifier here, phi-decoding has none",
    ),
    gain(
        "mcts-best",
        "MCTS over steps beats best-of-N at equal tokens",
        "Qi et al. 2024, arXiv:2408.06195 (rStar)",
        "mcts",
        "best-of-n",
        "better",
        note="scored by the reward model, not by the agreement of a second model",
    ),
    gain(
        "beam-best",
        "Beam search beats best-of-N at equal tokens",
        "Snell et al. 2024, arXiv:2408.03314",
        "beam",
        "best-of-n",
        "better at small budgets",
    ),
    gain(
        "dvts-beam",
        "Independent subtrees beat one beam at equal tokens",
        "Beeching et al. 2024, search-and-learn",
        "dvts",
        "beam",
        "better at large budgets",
    ),
    gain(
        "self-eval",
        "Self-evaluation guided beam search beats self-consistency at equal tokens",
        "Xie et al. 2023, arXiv:2305.00633",
        "self-eval-beam",
        "self-consistency",
        "6.3 points (GSM8K)",
        note="the reward model's grade stands for self-evaluation",
    ),
    gain(
        "gibbs",
        "At small budgets more particles are worth more than more sweeps of Gibbs",
        PF,
        "particle-filter-published",
        "particle-gibbs",
        "more particles",
    ),
    gain(
        "tempering",
        "Parallel tempering beats one particle filter at equal tokens",
        PF,
        "parallel-tempering",
        "particle-filter-published",
        "better",
    ),
    gain(
        "metropolis",
        "Metropolis-Hastings over suffixes beats best-of-N at equal tokens",
        "Karan and Du 2025, arXiv:2510.14901",
        "metropolis-hastings",
        "best-of-n",
        "better",
    ),
    gain("steering", "Feynman-Kac steering beats best-of-N at equal tokens", FK, "steer", "best-of-n", "better"),
    gain(
        "best-first",
        "Best-first search over an environment beats one greedy walk, more so with more nodes",
        "Koh et al. 2024, arXiv:2407.01476 (20)",
        "best-first",
        "self-consistency",
        "39.7 % relative",
        note="on countdown as moves; compared with votes at equal tokens, which is harder",
    ),
)
