"""Train as `dvae.train` does, and write each step's ids and loss in full precision.

DVAE_RECORD names a folder; each process appends JSON lines to its own file there. DVAE_ENGINE: see
engines_on_cpu. DVAE_AT_STEP is JSON, {step: Python}, that each process runs before the step with its
`run`.
"""

import json
import os
import sys
from pathlib import Path

import dvae.train

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.engines_on_cpu import put_in_place

if __name__ == "__main__":
    folder = Path(os.environ["DVAE_RECORD"])
    put_in_place()
    add_up, count_good = dvae.train.add_up, dvae.train.count_good
    at_step = json.loads(os.environ.get("DVAE_AT_STEP", "{}"))
    ids = []

    def noted(run, batch):
        ids[:] = batch.ids.tolist()
        exec(at_step.get(str(run.state.step), ""), {"run": run})
        return count_good(run, batch)

    def recorded(run, sums, grad_norm, request):
        totals = add_up(run, sums, grad_norm, request)
        accelerator = run.accelerator
        line = {
            "step": run.state.step,
            "world": accelerator.num_processes,
            "ids": list(ids),
            "nll": totals.nll,
            "kl": totals.kl,
            "grad_norm": grad_norm,
        }
        with (folder / f"rank-{accelerator.process_index}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return totals

    dvae.train.count_good, dvae.train.add_up = noted, recorded
    sys.exit(dvae.train.main())
