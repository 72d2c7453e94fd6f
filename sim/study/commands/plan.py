"""`plan`: what each token does in each layer, and whether plans reproduce the papers' arithmetic."""

import argparse

from sim.plans.catalogue import model_named
from sim.plans.check import check_rows
from sim.plans.model import ModelShape
from sim.plans.plan import SkipPlan
from sim.plans.spec import strategy_named
from sim.study.html import Section, page
from sim.study.options import Parser, add_json
from sim.study.pictures import label, percent, plan_table
from sim.study.plan_facts import ceilings
from sim.study.plan_text import plan_table_text
from sim.study.terminal import console, say_json, show_table, write_text

EXAMPLE = """\
example:
  python -m sim plan --model llama-3.1-8b --strategy swift_kv:group=4
  python -m sim plan --check
"""


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Declare the command."""
    parser = commands.add_parser("plan", help="draw a plan, or check the papers' arithmetic", epilog=EXAMPLE)
    parser.add_argument("--model", default="llama-3.1-8b", help="catalogue name or folder with a config.json")
    parser.add_argument("--strategy", default="swift_kv", metavar="SPEC", help="name:key=value,…; join several with +")
    parser.add_argument("--check", action="store_true", help="recompute the published figures; exit 1 if one differs")
    output = add_json(parser)
    output.add_argument("--html", metavar="FILE", help="write the plan's picture as a self-contained page")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw or check."""
    if args.check:
        return check(as_json=args.json)
    model = model_named(args.model)
    plan = strategy_named(args.strategy, model)
    if args.html:
        write_text(args.html, _page(plan, model))
    if args.json:
        say_json(facts(plan, model))
        return 0
    out = console()
    text = plan_table_text(plan)
    title = f"{label(plan.name)} on {model.name}: A attention, F feed-forward, K keys and values written"
    show_table(out, title, text.columns, text.rows)
    rows = [(name.replace("_", " "), value) for name, value in ceilings(plan, model).items()]
    show_table(out, "dense / plan by arithmetic, for one sequence: 1 is no gain", ("", ""), rows)
    shares = (
        f"{percent(plan.prompt_skip)} of a prompt token's blocks, {percent(plan.nominal_skip)} of a generated one's"
    )
    out.print(f"plan {plan.digest} skips {shares}", soft_wrap=True)
    return 0


def facts(plan: SkipPlan, model: ModelShape) -> dict[str, object]:
    """The plan as data."""
    return {
        "model": model.name,
        "strategy": plan.name,
        "plan_digest": plan.digest,
        "layers": plan.layers,
        "prompt_skip": plan.prompt_skip,
        "decode_skip": plan.nominal_skip,
        "kv_caches": int(plan.caches.size),
        "ceilings": ceilings(plan, model),
        "flags": {"attention": 1, "ffn": 2, "kv": 4},
        "prompt": plan.prompt,
        "sampled": plan.sampled,
        "decode": plan.decode,
        "kv_input": plan.kv_input,
        "kv_owner": plan.kv_owner,
        "ffn_skip_rates": plan.gate.skip if plan.gate else None,
        "draft_tokens": plan.draft.tokens if plan.draft else 0,
    }


def check(*, as_json: bool) -> int:
    """The papers' figures beside ours; 1 where any differs."""
    rows = check_rows()
    wrong = [row for row in rows if not row.ok]
    if as_json:
        names = ("what", "setting", "expected", "computed", "tolerance", "source", "ok")
        say_json({"rows": [{name: getattr(row, name) for name in names} for row in rows], "differ": len(wrong)})
        return int(bool(wrong))
    body = [(r.what, r.setting, f"{r.expected:g}", f"{r.computed:.5g}", "ok" if r.ok else "DIFFERS") for r in rows]
    out = console()
    columns = ("", "setting", "expected", "computed", "")
    show_table(out, "published and derived figures, recomputed from plans", columns, body)
    out.print(f"{len(rows) - len(wrong)} of {len(rows)} figures agree" + (f", {len(wrong)} differ" if wrong else ""))
    return int(bool(wrong))


def _page(plan: SkipPlan, model: ModelShape) -> str:
    section = Section("What each token does", "Hover over a cell for the layer's keys and values.", plan_table(plan))
    return page(f"{label(plan.name)} on {model.name}", plan.note, [section], facts_short(plan, model))


def facts_short(plan: SkipPlan, model: ModelShape) -> dict[str, object]:
    """The plan's figures without its tables."""
    long = ("prompt", "sampled", "decode", "kv_input", "kv_owner", "ffn_skip_rates", "flags")
    return {name: value for name, value in facts(plan, model).items() if name not in long}
