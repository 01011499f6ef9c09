"""The verdict at the end of a report, in sentences."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from tl_keras.report.looks import FALSE_VERDICTS

LINE_LENGTH = 100


def conclude(
    runs: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    looks: Sequence[Sequence[int]] = (),
) -> list[str]:
    """Return the verdict as sentences, in lines of up to 100 characters.

    Args:
        runs: one per seed and arm, with "arm", and "converged" (bool or None) if it is known.
        summary: from `summary.summarise`.
        looks: the seeds of each look at the comparison. The last one is the current look.
    """
    text = f"Verdict: {_format_verdict(runs, summary)}"
    if len(looks) > 1 and summary["gain"] and summary["gain"]["ci95"]:
        text += (
            f" This is look {len(looks)} at the comparison, each with different seeds. Where seeds"
            f" are added until the verdict pleases, up to {FALSE_VERDICTS} % of the verdicts are"
            " false if there is no difference, not 5 %. Choose the seeds in advance."
        )
    return textwrap.wrap(text, LINE_LENGTH, break_long_words=False, break_on_hyphens=False)


def _format_verdict(runs: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> str:
    gain = summary["gain"]
    if not gain and summary["transfer"] and summary["scratch"]:
        return "none. No seed has both runs, so there is nothing to compare."
    if not gain:
        arm = "transfer" if summary["transfer"] else "scratch"
        return f"none. There are only {arm} runs, and nothing to compare them with."
    if not gain["ci95"]:
        return _explain_missing_interval(gain)
    over = f"over {gain['seeds']} seeds and {gain['images']} test images"
    if summary.get("covers"):
        over += f", {summary['covers']}"
    transfer = f"Transfer{_format_not_converged(runs, 'transfer')}"
    scratch = f"training from scratch{_format_not_converged(runs, 'scratch')}"
    # The clause is enclosed in commas.
    comma = "," * scratch.endswith(")")
    return {
        "positive": f"positive. {transfer} beats {scratch}{comma} {over}: the whole interval is"
        " above zero.",
        "negative": f"negative. {transfer} does worse than {scratch}{comma} {over}: the whole"
        " interval is below zero.",
        "inconclusive": f"inconclusive. {transfer} does not differ clearly from {scratch}{comma}"
        f" {over}: the interval contains zero. More seeds or more test images make it narrower.",
    }[summary["verdict"]]


def _explain_missing_interval(gain: Mapping[str, Any]) -> str:
    if gain["seeds"] > 1:
        return (
            "inconclusive. One test image has no interval: the gain may be the luck of this image."
            " Give more test images."
        )
    return (
        "inconclusive. One pair of runs has no interval: the gain may be the luck of this seed,"
        " which one seed cannot show. More seeds would tell, such as --seeds=0,1,2,3,4."
    )


def _format_not_converged(runs: Sequence[Mapping[str, Any]], arm: str) -> str:
    """Return the clause about runs of an arm that had not converged, or ""."""
    known = [
        run["converged"] for run in runs if run["arm"] == arm and run.get("converged") is not None
    ]
    if all(known):
        return ""
    clause = f", which had not converged ({known.count(False)} of {len(known)} runs)"
    return clause + "," * (arm == "transfer")
