"""What changed between two lists of shards, told to the user whose run was made with the first."""

from collections import Counter
from collections.abc import Sequence

from dvae.data.manifest import Shard


def data_differences(before: Sequence[Shard], now: Sequence[Shard]) -> list[str]:
    """What changed from one list of shards to another, in a few lines; [] where nothing did."""
    old, new = _by_name(before), _by_name(now)
    both = [name for name in new if name in old]
    found = {
        "removed": [name for name in old if name not in new],
        "added": [name for name in new if name not in old],
        "with another number of samples": [n for n in both if new[n].samples != old[n].samples],
        "with other bytes": [
            n for n in both if new[n].samples == old[n].samples and new[n] != old[n]
        ],
    }
    lines = [
        f"{len(names)} shards {what} ({_few(names)})" for what, names in found.items() if names
    ]
    kept = [name for name in old if name in new]
    moved = [(was, is_now) for was, is_now in zip(kept, both, strict=True) if was != is_now]
    if moved:
        lines.append(f"another order of the shards: {moved[0][1]} where {moved[0][0]} was")
    samples = [sum(shard.samples for shard in shards) for shards in (before, now)]
    if samples[0] != samples[1]:
        lines.append(f"{samples[0]} samples became {samples[1]}")
    return lines


def _by_name(shards: Sequence[Shard]) -> dict[str, Shard]:
    """Shards by their names; where folders hold equal ones, the later are numbered."""
    found: dict[str, Shard] = {}
    times: Counter[str] = Counter()
    for shard in shards:
        times[shard.name] += 1
        again = f" #{times[shard.name]}" if times[shard.name] > 1 else ""
        found[shard.name + again] = shard
    return found


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
