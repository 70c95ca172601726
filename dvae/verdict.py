"""Who keeps the others waiting, told from what each process last said of itself.

All processes go through the same phases of a step in the same order, so their number says who is behind.
One that was stopped, killed or cut off says nothing any more; one that hangs speaks, and is behind.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median

SILENCE = 4.0  # seconds without a word, of a process that is lost
NAMED = 3  # processes, at most, in a message
PARTS = (
    8  # of the timeout; over half of them, but for its longest, a slow process must have been slow
)
SHARE = 0.1  # of a part, at least, that a slow process spends on work of its own


@dataclass(frozen=True)
class Beat:
    """What a process says of itself."""

    host: str
    number: int = 0  # of beats: it grows as long as the process lives
    step: int = 0  # steps that are done
    phases: int = 0  # of this step that it has entered
    phase: str = "starting"
    shard: str = ""  # that is being read
    seconds: float = 0.0  # in this phase
    busy: float = 0.0  # seconds in phases of its own that are over

    @property
    def place(self) -> tuple[int, int]:
        """How far it is."""
        return self.step, self.phases

    @property
    def doing(self) -> str:
        """As in "reading train-000000.tar at step 7"."""
        what = f"{self.phase} {self.shard}".rstrip()
        return f"{what} at step {self.step + 1}" if self.phases else what


def culprit(beats: Mapping[int, Beat], silent: Mapping[int, float], can_hear: bool) -> str:
    """A sentence that names the process that the others wait for.

    Args:
        beats: the last of each rank that is known.
        silent: seconds since each of them was heard.
        can_hear: whether the store, which is on the first process's machine, answers.
    """
    lost = [rank for rank in beats if silent[rank] > SILENCE] if can_hear else [0]
    if lost:
        beat, quiet = beats[lost[0]], silent[lost[0]]
        how = "was last heard of" if can_hear else "is out of reach, and was last heard of"
        return f"{names(lost, beats)} {how} {quiet:.0f} s ago, {beat.doing}"
    last = min(beat.place for beat in beats.values())
    behind = [rank for rank, beat in beats.items() if beat.place == last]
    beat = beats[behind[0]]
    if len(behind) < len(beats):
        return (
            f"{names(behind, beats)} has been {beat.doing} for {beat.seconds:.0f} s, and the others "
            "wait for it"
        )
    return (
        f"all processes live and have been {beat.doing} for {beat.seconds:.0f} s: what connects them, "
        "or a device, hangs"
    )


def names(ranks: list[int], beats: Mapping[int, Beat]) -> str:
    """As in "rank 8 on node2, rank 9 on node2 and 6 more"."""
    told = ", ".join(f"rank {rank} on {beats[rank].host}" for rank in ranks[:NAMED])
    return told + (f" and {len(ranks) - NAMED} more" if len(ranks) > NAMED else "")


class Pace:
    """Compares how long the processes take for what they do alone; kept by one process.

    Args:
        timeout: seconds; who was slow for half of them is named.
        factor: times the others' median that is slow; 0: nothing is.
    """

    def __init__(self, timeout: float, factor: float) -> None:
        self._part, self._factor = timeout / PARTS, factor
        self._marks = deque[tuple[float, dict[int, float]]](maxlen=PARTS // 2 + 1)  # time, work

    def verdict(self, beats: Mapping[int, Beat], now: float) -> str:
        """A sentence that names the slow one, or nothing.

        Args:
            beats: the last of each rank.
            now: seconds.
        """
        if not self._factor or (self._marks and now - self._marks[-1][0] < self._part):
            return ""
        self._marks.append((now, {rank: beat.busy for rank, beat in beats.items()}))
        if len(self._marks) <= PARTS // 2:
            return ""
        spent = {
            rank: sorted(
                b.get(rank, 0) - a.get(rank, 0) for (_, a), (_, b) in pairwise(self._marks)
            )
            for rank in beats
        }
        usual = {rank: mean(parts[:-1]) for rank, parts in spent.items()}  # one long read isn't
        worst = max(usual, key=lambda rank: usual[rank])
        others = median([mean(parts) for rank, parts in spent.items() if rank != worst])
        took = now - self._marks[0][0]
        if usual[worst] < max(self._factor * others, SHARE * took / len(spent[worst])):
            return ""
        return (
            f"{names([worst], beats)} has been slow for {took:.0f} s: it spent {sum(spent[worst]):.1f} "
            f"of them on reading and the forward pass, the others {others * len(spent[worst]):.1f}; "
            f"it is {beats[worst].doing}"
        )
