"""Tables of loading.py: medians, ratios paired within a round, targets."""

import statistics
from collections.abc import Callable

Group = tuple[str, int, int]  # data set, pixels, workers
Results = dict[Group, dict[str, list[dict[str, float]]]]
RATE, CPU = "images_per_second", "cpu_microseconds"

# Ours as many times as fast as each, on the enlarged pictures at 127 (and 256) pixels.
TARGETS = {
    "original": {127: 9.0},
    "webdataset_stock": {127: 3.2, 256: 2.0},
    "webdataset_turbo": {127: 1.45},
    "dali": {127: 2.0},
    "ffcv": {127: 2.5},
}
SAME_DECODER = ["streaming", "litdata", "grain"]  # and as often `…_ours`: given our decoder
BEST_OF_SAME = 1.4


def _median(rounds: list[dict[str, float]], key: str) -> float:
    return statistics.median(values[key] for values in rounds)


def ratios(group: dict[str, list[dict[str, float]]], peer: str, key: str) -> list[float]:
    """How many times ours is as fast, or as cheap, as a peer: one a round."""
    pairs = zip(group["ours"], group[peer], strict=False)
    if key == RATE:
        return [ours[key] / other[key] for ours, other in pairs]
    return [other[key] / ours[key] for ours, other in pairs]


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):.2f} [{min(values):.2f}-{max(values):.2f}]"


def loaders_table(results: Results, key: Group) -> str:
    """One group's loaders; ours / peer is above 1 where ours is faster or cheaper."""
    group = results[key]
    name, size, workers = key
    lines = [
        f"\n{name}, {size} pixels, {workers} thread{'s' * (workers > 1)} or worker processes, medians",
        "| loader | images/s | CPU us/image | first batch ms | MB | ours is faster | ours is cheaper |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for loader, rounds in group.items():
        lines.append(
            f"| {loader} | {_median(rounds, RATE):.0f} | {_median(rounds, CPU):.0f} "
            f"| {_median(rounds, 'first_batch_ms'):.0f} | {_median(rounds, 'mb'):.0f} "
            f"| {_spread(ratios(group, loader, RATE))} | {_spread(ratios(group, loader, CPU))} |"
        )
    return "\n".join(lines)


def limits_table(results: Results, qualities: dict[tuple[str, int], dict[str, float]]) -> str:
    """What the bare decoder does, our share of it per CPU-second, and the quality."""
    lines = [
        "\nlimit: libjpeg-turbo alone, the same bytes at the same scale, one thread; PSNR against a full"
        "\ndecode and Pillow's antialiased resize of the same crop, snapped to the scaled grid",
        "| data | pixels | decoder, CPU us | ours, CPU us | share | PSNR mean | PSNR min, dB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (name, size), quality in qualities.items():
        group = results.get((name, size, 1), {})
        if not group.get("bare") or not group.get("ours"):
            continue
        shares = ratios(group, "bare", CPU)
        lines.append(
            f"| {name} | {size} | {_median(group['bare'], CPU):.0f} "
            f"| {_median(group['ours'], CPU):.0f} | {_spread(shares)} "
            f"| {quality['mean']:.1f} | {quality['min']:.1f} |"
        )
    return "\n".join(lines)


def stages_table(stages: dict[tuple[str, int], dict[str, float]]) -> str:
    """Where our time goes, CPU microseconds an image on one thread."""
    names = list(next(iter(stages.values())))
    lines = [
        "\nour stages, one thread, CPU us an image",
        f"| data | pixels | {' | '.join(names)} |",
        "| --- " * (len(names) + 2) + "|",
    ]
    for (name, size), values in stages.items():
        lines.append(f"| {name} | {size} | {' | '.join(f'{values[n]:.0f}' for n in names)} |")
    return "\n".join(lines)


def targets_table(results: Results, extra: dict[str, float]) -> str:
    """Each target, what was reached, by rate and by CPU time."""
    lines = ["\n| target | wanted | reached | by CPU time |", "| --- | --- | --- | --- |"]
    workers = max((key[2] for key in results), default=1)
    for peer, sizes in TARGETS.items():
        for size, wanted in sizes.items():
            reached = _reached(results, ("enlarged", size, workers), [peer])
            lines.append(f"| {peer} at {size} | {wanted} x | {reached(RATE)} | {reached(CPU)} |")
    reached = _reached(results, ("enlarged", 127, workers), SAME_DECODER)
    lines.append(
        f"| best of {', '.join(SAME_DECODER)} | {BEST_OF_SAME} x | {reached(RATE)} | {reached(CPU)} |"
    )
    for name in [f"{peer}_ours" for peer in ["webdataset", *SAME_DECODER]]:
        reached = _reached(results, ("enlarged", 127, workers), [name])
        lines.append(f"| {name}, our decoder | | {reached(RATE)} | {reached(CPU)} |")
    share = _reached(results, ("enlarged", 127, 1), ["bare"])
    first = results.get(("enlarged", 127, workers), {}).get("ours")
    return "\n".join(
        [
            *lines,
            f"| share of the decoder | 0.75 | | {share(CPU)} |",
            f"| first batch | < 150 ms | {_median(first, 'first_batch_ms') if first else 0:.0f} | |",
            f"| memory, 1 shard | < 400 MB | {extra['mb_1']:.0f} | |",
            f"| memory, 100,000 shards | < 400 MB | {extra['mb_100000']:.0f} | |",
            f"| first batch at step 10^6 over step 0 | < 1.1 | | {extra['resume']:.3f} |",
            f"| PSNR mean, least of all | >= 45 dB | {extra['psnr']:.1f} | |",
        ]
    )


def _reached(results: Results, key: Group, peers: list[str]) -> Callable[[str], str]:
    """The least ratio among some peers of a group, as text."""

    def text(measure: str) -> str:
        group = results.get(key, {})
        found = [
            statistics.median(values)
            for peer in peers
            if group.get("ours")
            and (values := ratios(group, peer, measure) if group.get(peer) else [])
        ]
        return f"{min(found):.2f}" if found else "-"

    return text
