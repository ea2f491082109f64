"""The subcommand ``networks``: the trained networks that come with the library, and the card of each."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from qffs.cli.options import Json, print_json, say, show, show_rows

HEAD = ["name", "network", "accuracy", "SNN, T = 4", "MiB"]
NOTES = ["accuracy: of the network itself, on all test images.", "qffs networks NAME shows the card of one."]


def networks(
    name: Annotated[str | None, typer.Argument(help="Show the card of this network.", show_default="all")] = None,
    json: Json = False,
) -> None:
    """List the trained networks that come with qffs, or show the card of one: its accuracy, license and source.

    Each name can be given wherever a command takes a network.

    Example: `qffs networks digits-2bit`
    """
    from qffs.models import trained

    if name is None:
        cards = {each: trained.card(each) for each in trained.names()}
        if json:
            print_json([{"name": each} | card for each, card in cards.items()])
            return
        rows = [_row(each, card, trained.size(each)) for each, card in cards.items()]
        show_rows({"head": HEAD, "rows": rows, "notes": NOTES}, "networks")
        return
    card = trained.card(name)
    if json:
        print_json({"name": name} | card)
    else:
        _show(card)


def _row(name: str, card: dict[str, Any], size: int) -> list[str]:
    from qffs.report.tables import percent

    results = card["results"]
    accuracy = results["qann" if card["kind"] == "qann" else "full_precision"]["accuracy"]
    after = {row["steps"]: row["accuracy"] for row in results.get("snn", ())}
    return [name, card["title"], percent(accuracy), percent(after.get(4)), f"{size / 2**20:.2f}"]


def _show(card: dict[str, Any]) -> None:
    show({"snn": []} | card["results"], json=False)
    say(card["title"])
    for key in ("input", "classes", "license", "source"):
        say(f"{key}: {', '.join(card[key]) if isinstance(card[key], list) else card[key]}")
    run = card["run"]
    say(f"made by: {run['command']}")
    say(f"commit {run['commit']}, {run['device']}, {run['seconds'] / 60:.1f} min, torch {run['versions']['torch']}")
