"""What is built to hurt the reader is refused at once and cheaply (reliability item G6)."""

import os
import subprocess
import sys
import time

import pytest

from masche.model.yaml import load

A_SECOND = 1.0 if os.environ.get("MASCHE_LONG") == "1" else 4.0
"""Of this process' own time; the short form leaves room for a machine that counts more while it is busy."""

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(9)
)
RULE = '{"matches": [{"path": {"value": "/a"}}]}'
BOMBS = {
    "billion laughs": (LAUGHS, "invalid-size"),
    "an alias to itself": ("a: &a [*a]\n", "invalid-alias"),
    "a million brackets": ("[" * 1_000_000, "invalid-size"),
    "a million dashes": ("- " * 500_000, "invalid-size"),
    "a million question marks": ("? " * 500_000, "invalid-size"),
    "a hundred megabytes": ("a: " + "x" * 100_000_000, "invalid-size"),
    "a document of two megabytes": ("a: '" + "x" * 2_000_000 + "'", "invalid-size"),
    "a python object": ("!!python/object/apply:os.system ['true']\n", "invalid-tag"),
    "a python name": ("a: !!python/name:os.system x\n", "invalid-scalar"),
    "two hundred thousand keys": ("".join(f"k{i}: 1\n" for i in range(100_000)), "invalid-size"),
    "the same key again and again": ("a: 1\n" * 200_000, "invalid-size"),
    "a merge key": ("a: &a {b: 1}\nc: {<<: *a}\n", "invalid-merge-key"),
    "a NUL": ("a: b\0c\n", "invalid-character"),
    "an escaped NUL": ('a: "b\\0c"\n', "invalid-scalar"),
    "invalid UTF-8": (b"a: \xff\xfe\n", "invalid-encoding"),
    "a lone surrogate": ("a: \ud800\n", "invalid-encoding"),
    "an escape sequence of a terminal": ("a: \x1b[31m\n", "invalid-character"),
    "a hundred thousand documents": ("---\na: 1\n" * 100_000, "invalid-size"),
    "an integer of a hundred digits": ("a: " + "9" * 100, "invalid-scalar"),
    "not a number": ("a: .nan\n", "invalid-scalar"),
    "an infinite number": ("a: -.inf\n", "invalid-scalar"),
    "a float beyond all bounds": ("a: 1e999\n", "invalid-scalar"),
    "a route of a million rules": (f'{{"kind": "HTTPRoute", "rules": [{",".join([RULE] * 200_000)}]}}', "invalid-size"),
    "an anchor on every value": ("".join(f"k{i}: &a{i} x\n" for i in range(60_000)), "invalid-size"),
    "a key of many kilobytes": ("x" * 500_000 + ": 1\n", "invalid-yaml"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_within_a_second(name: str):
    text, code = BOMBS[name]
    began = time.process_time()
    loaded = load(text, file="bomb.yaml")
    took = time.process_time() - began
    assert not loaded.resources
    assert code in {found.code for found in loaded.errors}
    assert took < A_SECOND


@pytest.mark.parametrize(
    "pattern", ["x" * 100_000, "(((((a{30}){30}){30}){30}){30})", "(a{1000}){1000}", "((((a+)+)+)+)+b\\1"]
)
def test_a_regular_expression_that_would_explode_is_refused_within_a_second(pattern: str):
    document = f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r}}
spec: {{rules: [{{matches: [{{headers: [{{name: a, type: RegularExpression, value: '{pattern}'}}]}}]}}]}}
"""
    began = time.process_time()
    assert load(document, file="bomb.yaml").errors
    assert time.process_time() - began < A_SECOND


MEASURE = """
import resource, sys
sys.path.insert(0, {folder!r})
from test_model_bounds import BOMBS
from masche.model.yaml import load
load("a: 1", file="warm.yaml")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for text, _ in BOMBS.values():
    assert load(text, file="bomb.yaml").errors
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_all_bombs_together_cost_less_than_fifty_megabytes(request: pytest.FixtureRequest):
    script = MEASURE.format(folder=str(request.path.parent))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 50


def test_aliases_in_moderation_are_read():
    text = """
apiVersion: v1
kind: Service
metadata: {name: a, namespace: shop, labels: &labels {app: a}}
spec: {selector: *labels, ports: [{port: 80}]}
"""
    loaded = load(text, file="f.yaml")
    assert not loaded.diagnostics
    assert loaded.resources[0].spec.selector == {"app": "a"}


def test_a_byte_order_mark_is_no_error():
    assert not load(b"\xef\xbb\xbfapiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n", file="f").diagnostics
