"""``masche get``: resources of a kind as a table, or as the YAML that would make them again."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from masche.cli.naming import kinds_like
from masche.cli.options import Label, data_option, namespace_option, output_option
from masche.cli.output import Form, emit, styled, table, to_yaml

if TYPE_CHECKING:
    from rich.text import Text

    from masche.api.messages import Condition, Item
    from masche.model.refs import Kind


@click.command()
@click.argument("kind", shell_complete=kinds_like)
@click.argument("name", required=False)
@namespace_option
@click.option("-A", "--all-namespaces", is_flag=True, help="In all namespaces.")
@click.option("-l", "--label", "labels", multiple=True, type=Label(), help="Only those with this label. Repeatable.")
@output_option
@data_option
def get(
    kind: str,
    name: str | None,
    *,
    namespace: str,
    all_namespaces: bool,
    labels: tuple[tuple[str, str], ...],
    form: Form | None,
    data: Path,
) -> None:
    """List resources of a KIND, or show the one called NAME.

    KIND is written in any case, singular, plural or short (svc, wl, route, authz, pa, tp, rl, gw, ns, mc).
    """
    from masche.api.client import Client
    from masche.cli.naming import CLUSTER_SCOPED, kind_of, refs_of

    client = Client.of(data)
    if name is not None or "/" in kind:
        ref = refs_of((kind, name) if name is not None else (kind,), namespace=namespace)[0]
        _show(ref.kind, (client.get(ref),), form=form, is_one=True, has_namespaces=bool(ref.namespace))
        return
    asked = kind_of(kind)
    is_everywhere = all_namespaces or asked in CLUSTER_SCOPED
    listing = client.list(asked, namespace=None if is_everywhere else namespace, labels=dict(labels))
    has_namespaces = all_namespaces and asked not in CLUSTER_SCOPED
    _show(asked, listing.items, form=form, is_one=False, has_namespaces=has_namespaces)


def _show(kind: "Kind", items: "tuple[Item, ...]", *, form: Form | None, is_one: bool, has_namespaces: bool) -> None:
    match form:
        case Form.YAML:
            click.echo("---\n".join(to_yaml(item.manifest) for item in items), nl=False)
        case Form.JSON if is_one:
            emit(items[0].manifest, form)
        case Form.JSON:
            emit({"apiVersion": "v1", "kind": "List", "items": [item.manifest for item in items]}, form)
        case None:
            _table(kind, items, has_namespaces=has_namespaces)


def _table(kind: "Kind", items: "tuple[Item, ...]", *, has_namespaces: bool) -> None:
    from masche.cli.columns import COLUMNS

    columns = COLUMNS[kind]
    headings = [
        *(["namespace"] if has_namespaces else []),
        "name",
        *(title for title, _ in columns),
        "revision",
        "status",
    ]
    rows = [
        [
            *([item.ref.namespace] if has_namespaces else []),
            item.ref.name,
            *(cell(item.manifest) for _, cell in columns),
            str(item.revision),
            verdict(item.conditions),
        ]
        for item in items
    ]
    table(headings, rows, empty=f"no {kind}")


def verdict(conditions: "tuple[Condition, ...]") -> "Text":
    """The first condition that does not hold, with its reason; ``ok`` when all do, nothing when there are none."""
    for condition in conditions:
        if not condition.is_true:
            return styled(f"not {condition.type}: {condition.reason}", "red")
    return styled("ok", "green") if conditions else styled("")
