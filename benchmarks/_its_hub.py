"""its-hub's SelfConsistency against a server, run by the Python that has its-hub: each line of input asks for one run.

Arguments: the server's address, the number of samples, its concurrency. Answers each line with the seconds it took.
"""

import asyncio
import sys
import time

from its_hub import OpenAICompatibleLanguageModel, SelfConsistency
from its_hub.core.orchestrator import LMOrchestrator


def main(url: str, samples: int, at_once: int) -> None:
    model = OpenAICompatibleLanguageModel(url, "none", "toy", temperature=0.8, max_completion_tokens=512)
    program = SelfConsistency(orchestrator=LMOrchestrator(at_once))
    with asyncio.Runner() as runner:
        for _ in sys.stdin:
            start = time.perf_counter()
            runner.run(program.ainfer(model, "What is 6 times 7?", samples))
            sys.stdout.write(f"{time.perf_counter() - start}\n")
            sys.stdout.flush()
        runner.run(model.close())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
