"""A page with the results of a run, in one HTML file: figures, tables, the plan, commands and versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources

from qffs.errors import InvalidArgument
from qffs.files import Results
from qffs.graph.plan import Plan
from qffs.report.tables import joules, percent, verdict

MISSING = "a report needs plotly and jinja2: pip install 'qffs[report]'"


@dataclass(frozen=True)
class Table:
    """A table: rows under a head.

    ``folded``: a line that shows the table when it is clicked; empty for a table that is always shown. ``words``:
    whether cells hold text, which is aligned to the left and wraps.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    folded: str = ""
    words: bool = False


@dataclass(frozen=True)
class Section:
    """A section of a page: its title, then notes, figures, tables, text, and more text, in this order."""

    id: str
    title: str
    notes: Sequence[str] = ()
    figures: Sequence[str] = ()
    tables: Sequence[Table] = ()
    text: str = ""
    more: tuple[str, str] | None = None  # a line that shows a text when it is clicked, and the text


@dataclass(frozen=True)
class PageContents:
    """The contents of a page: the files of a run, and its plan; without a part, its section is left out.

    ``results`` and ``provenance``: results.json and run.json; ``noise`` and ``energy``: the results of `qffs noise` and
    `qffs energy`; ``recipe``: the text of recipe.yaml; ``commands``: the command lines that make these files again.
    """

    results: Results
    provenance: Results = field(default_factory=dict)
    noise: Results | None = None
    energy: Results | None = None
    plan: Plan | None = None
    recipe: str = ""
    commands: Sequence[str] = ()


def check() -> None:
    """Raise `InvalidArgument` if plotly or jinja2 is not installed."""
    try:
        import jinja2  # noqa: F401
        import plotly  # noqa: F401
    except ImportError as error:
        raise InvalidArgument(MISSING) from error


def page(of: PageContents) -> str:
    """Return the page as HTML; it needs no other file. Raises `InvalidArgument` as `check` does."""
    check()
    import jinja2

    from qffs.report import page_figures

    source = resources.files("qffs.report").joinpath("page.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)
    results = of.results
    sections = [_accuracy(of), _activity(of), _noise(of), _energy(of), _plan(of), _provenance(of)]
    text: str = template.render(
        title=f"{results['model']} on {results['data']}",
        subtitle=f"{results['images']:,} test images; spiking network of signed integrate-and-fire neurons.",
        tiles=_tiles(of),
        sections=[section for section in sections if section is not None],
        library=page_figures.library(),
    )
    return text.encode(errors="replace").decode()  # the commands may name files whose names are not UTF-8


def _tiles(of: PageContents) -> list[tuple[str, str, str]]:
    results, last = of.results, of.results["snn"][-1]
    tiles = []
    if "full_precision" in results:
        tiles.append(("full precision", percent(results["full_precision"]["accuracy"]), "accuracy"))
    if "qann" in results:
        bits = f"{results['bits']} bit" if isinstance(results.get("bits"), int) else "quantized"
        tiles.append((f"QANN, {bits}", percent(results["qann"]["accuracy"]), "accuracy"))
    for row in results["snn"]:
        if row["steps"] in {4, last["steps"]}:
            equal = f"{percent(row['agreement'])} equal to the QANN" if "agreement" in row else "accuracy"
            tiles.append((f"SNN, T = {row['steps']}", percent(row["accuracy"]), equal))
    tiles.append(("spikes per image", f"{last['spikes_per_image']:,.0f}", f"after {last['steps']} steps"))
    if of.energy is not None:
        energy = of.energy["energy_pj"]
        share = energy["SNN"] / energy["full precision"]
        tiles.append(("energy per image", joules(energy["SNN"]), f"{share:.3f} of full precision"))
    return tiles


def _accuracy(of: PageContents) -> Section:
    from qffs.report import page_figures

    rows = of.results["snn"]
    head = ["T", "accuracy", *(["equal to QANN"] if "agreement" in rows[0] else []), "spikes per image"]
    cells = [
        [str(row["steps"]), percent(row["accuracy"])]
        + ([percent(row["agreement"])] if "agreement" in row else [])
        + [f"{row['spikes_per_image']:,.0f}"]
        for row in rows
    ]
    figure = page_figures.html(page_figures.accuracy(of.results), "figure-accuracy")
    table = Table(head, cells, folded="Table: accuracy after each step")
    return Section("accuracy", "Accuracy against time steps", figures=[figure], tables=[table])


def _activity(of: PageContents) -> Section:
    from qffs.report import page_figures

    units = {each["layer"]: each["count"] for each in of.energy["units"]} if of.energy is not None else {}
    images = of.results["images"]
    rows = [
        [layer["layer"], f"{units[layer['layer']]:,}" if layer["layer"] in units else ""]
        + [f"{sum(layer[sign]) / images:,.0f}" for sign in ("positive", "negative")]
        + [str(max((t for t, n in enumerate(map(max, layer["positive"], layer["negative"]), 1) if n), default=0))]
        for layer in of.results["layers"]
    ]
    table = Table(
        ["layer", "neurons", "positive spikes", "negative spikes", "last spike at step"],
        rows,
        "spikes per image, over all test images",
    )
    note = "A negative spike takes back one that was sent too early."
    figure = page_figures.html(page_figures.activity(of.results, units), "figure-activity")
    return Section("activity", "Spikes by layer and step", notes=[note], figures=[figure], tables=[table])


def _noise(of: PageContents) -> Section | None:
    from qffs.report import page_figures

    if of.noise is None:
        return None
    rows = [["QANN", percent(of.noise["qann"]["accuracy"]), "", ""]] + [
        [
            "all remedies" if each["off"] == "nothing" else f"without {each['off']}",
            *(percent(each[key]) for key in ("accuracy", "agreement", "output_error")),
        ]
        for each in of.noise["remedies"]
    ]
    remedies = Table(
        ["remedies", "accuracy", "equal to QANN", "output error"],
        rows,
        f"{of.noise['images']:,} test images, after {of.noise['steps']} steps; the row without longer simulation, "
        "after the last charge step",
    )
    layers = Table(
        ["layer", "neurons", "settles at step (mean)", "settles at step (last image)"],
        [
            [each["layer"], f"{each['neurons']:,}", f"{each['settled']:.2f}", str(each["settled_last"])]
            for each in of.noise["noise"]
        ],
        folded="Table: when layers settle",
    )
    note = (
        "A neuron has occasional noise if it has sent too many spikes (over-fired) or its spikes are late "
        "(under-fired); supra-threshold noise if one spike per step is too few for its input; sub-threshold noise if "
        "it rounds its input differently from its quantizer; and rate-coding noise if its count is right for the input "
        "up to now, but the input is not yet complete."
    )
    figures = [
        page_figures.html(page_figures.noise(of.noise), "figure-noise"),
        page_figures.html(page_figures.noise_by_layer(of.noise), "figure-noise-layers"),
    ]
    return Section("noise", "Noise by step and layer", notes=[note], figures=figures, tables=[remedies, layers])


def _energy(of: PageContents) -> Section | None:
    from qffs.report import page_figures

    if of.energy is None:
        return None
    energy, bits, constants = of.energy["energy_pj"], of.energy["bits_sent"], of.energy["constants"]
    networks = Table(
        ["network", "energy", "share of full precision", "bits sent"],
        [[name, joules(pj), f"{pj / energy['full precision']:.3f}", _sent(bits, name)] for name, pj in energy.items()],
        f"{of.energy['images']:,} test images, {of.energy['steps']} steps; a multiply-add takes "
        f"{constants['multiply_add_pj']} pJ, an addition {constants['add_pj']} pJ",
    )
    layers = Table(
        ["operator", "kind", "synapses", "synaptic operations", "operations per synapse"],
        [
            [each["layer"], each["operator"], f"{each['count']:,}", f"{sum(each['events']):,.0f}", _share(each)]
            for each in of.energy["synapses"]
        ],
        folded="Table: synaptic operations of each operator",
    )
    notes = [
        verdict(energy) + " This counts only the arithmetic at synapses: memory and the updates of neurons are left "
        "out for all networks.",
        "QANN: a product with a level of b bits counts as b additions; zeros skipped: only the bits that are 1 count.",
    ]
    if of.energy["uncounted"]:
        notes.append(f"Not counted: {', '.join(of.energy['uncounted'])}.")
    figures = [
        page_figures.html(page_figures.energy(of.energy), "figure-energy"),
        page_figures.html(page_figures.operations(of.energy), "figure-operations"),
    ]
    return Section("energy", "Energy per image", notes=notes, figures=figures, tables=[networks, layers])


def _sent(bits: dict[str, float], network: str) -> str:
    key = "SNN, signs" if network == "SNN" else network
    return f"{bits[key]:,.0f}" if key in bits else ""


def _share(synapses: Results) -> str:
    if synapses["analog"]:
        return "analog, once"
    return f"{sum(synapses['events']) / synapses['count']:.3f}" if synapses["count"] else ""


def _plan(of: PageContents) -> Section | None:
    if of.plan is None:
        return None
    rows = [[row.site, row.operator, str(row.kind), row.why] for row in of.plan.rows]
    table = Table(["call", "operator", "becomes", "why"], rows, folded="Table: all operators", words=True)
    return Section("plan", "The plan of the conversion", notes=[of.plan.summary()], tables=[table])


def _provenance(of: PageContents) -> Section:
    facts = of.provenance | {"versions": of.results.get("versions", of.provenance.get("versions", {}))}
    rows = []
    for name, value in facts.items():
        if name != "command":
            several = isinstance(value, dict)
            cell = ", ".join(f"{key} {each}" for key, each in value.items()) if several else str(value)
            rows.append([name, cell])
    commands = "\n".join(filter(None, [of.provenance.get("command", ""), *of.commands]))
    recipe = ("recipe.yaml", of.recipe) if of.recipe else None
    table = Table(["", ""], rows, words=True)
    return Section("origin", "Commands and versions", tables=[table], text=commands, more=recipe)
