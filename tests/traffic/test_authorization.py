"""Who may call: the documented order of decisions, and that what cannot be seen never widens access."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.compiler.conditions import pattern
from masche.model.view import Attribute, Condition, Decision, Pattern, PatternKind, Policy, Rule
from masche.traffic.authorize import authorize
from masche.traffic.patterns import fits, is_address_in, matches
from masche.traffic.request import Connection, Request

WEB = "mesh.local/ns/shop/sa/web"
TEXT = st.text(alphabet="ab/*.+|\x00", max_size=5)
ATTRIBUTES = st.sampled_from(
    [Attribute.PRINCIPAL, Attribute.NAMESPACE, Attribute.METHOD, Attribute.PATH, Attribute.HOST]
)
PATTERNS = st.lists(st.sampled_from([WEB, "*", "shop", "GET", "/a*", "*web", "orders"]).map(pattern), max_size=2).map(
    tuple
)
CONDITIONS = st.builds(Condition, attribute=ATTRIBUTES, values=PATTERNS, not_values=PATTERNS)
GROUPS = st.lists(st.lists(CONDITIONS, max_size=2).map(tuple), max_size=2).map(tuple)
RULES = st.builds(
    Rule, name=st.just("r"), sources=GROUPS, operations=GROUPS, when=st.lists(CONDITIONS, max_size=2).map(tuple)
)
POLICIES = st.lists(
    st.builds(
        Policy, name=st.just("p"), decision=st.sampled_from(Decision), rules=st.lists(RULES, max_size=2).map(tuple)
    ),
    max_size=4,
).map(tuple)
CONNECTIONS = st.builds(Connection, peer=st.sampled_from([None, WEB, "mesh.local/ns/lab/sa/cli"]), port=st.just(80))
REQUESTS = st.builds(
    Request,
    method=st.sampled_from(["GET", "POST"]),
    target=st.sampled_from(["/", "/a", "/a/b?c"]),
    authority=st.sampled_from(["orders", "ORDERS"]),
    connection=CONNECTIONS,
)


def a_policy(decision: Decision, *conditions: Condition) -> Policy:
    return Policy(name="ns/p", decision=decision, rules=(Rule(name="ns/p rules[0]", when=conditions),))


def on(attribute: Attribute, *values: str, name: str = "", but: tuple[str, ...] = ()) -> Condition:
    return Condition(
        attribute=attribute, name=name, values=tuple(map(pattern, values)), not_values=tuple(map(pattern, but))
    )


@given(POLICIES, REQUESTS)
def test_a_verdict_is_istios_order_of_decisions(policies: tuple[Policy, ...], request_: Request):
    def any_matches(decision: Decision) -> bool:
        rules = [rule for policy in policies if policy.decision is decision for rule in policy.rules]
        alone = (Policy(name="p", decision=decision, rules=(rule,)) for rule in rules)
        return any(authorize((each,), request_).allowed is (decision is Decision.ALLOW) for each in alone)

    has_allow = any(policy.decision is Decision.ALLOW for policy in policies)
    expected = not any_matches(Decision.DENY) and (not has_allow or any_matches(Decision.ALLOW))
    verdict = authorize(policies, request_)
    assert verdict.allowed is expected
    assert verdict.status == (0 if expected else 403)
    assert verdict.sentence


@given(POLICIES, REQUESTS)
def test_another_deny_policy_never_lets_more_in(policies: tuple[Policy, ...], request_: Request):
    more = (*policies, a_policy(Decision.DENY, on(Attribute.METHOD, "POST")))
    assert not (authorize(more, request_).allowed and not authorize(policies, request_).allowed)


@given(POLICIES, REQUESTS)
def test_a_bare_connection_is_never_let_in_where_no_request_of_the_caller_would_be(
    policies: tuple[Policy, ...], request_: Request
):
    if authorize(policies, request_.connection).allowed:
        assert authorize(policies, request_).allowed


@given(POLICIES, REQUESTS)
def test_audit_decides_nothing(policies: tuple[Policy, ...], request_: Request):
    without = tuple(policy for policy in policies if policy.decision is not Decision.AUDIT)
    assert authorize(policies, request_) == authorize(without, request_)


def test_an_allow_policy_without_rules_lets_nobody_in_and_an_empty_rule_everybody():
    assert not authorize((Policy(name="p", decision=Decision.ALLOW),), Request()).allowed
    assert authorize((a_policy(Decision.ALLOW),), Request()).allowed
    assert authorize((), Request()).allowed


def test_a_denial_names_its_rule_and_an_implicit_one_what_was_considered():
    denied = authorize((a_policy(Decision.DENY),), Request())
    assert (denied.rule, denied.sentence) == ("ns/p rules[0]", "denied by ns/p rules[0]")
    implicit = authorize((Policy(name="ns/q", decision=Decision.ALLOW),), Request())
    assert implicit.rule == ""
    assert "ns/q" in implicit.sentence


@pytest.mark.parametrize("attribute", [Attribute.PRINCIPAL, Attribute.NAMESPACE, Attribute.SERVICE_ACCOUNT])
def test_who_proved_no_identity_has_none(attribute: Attribute):
    nobody = Request(connection=Connection(peer=None))
    assert not authorize((a_policy(Decision.ALLOW, on(attribute, "*")),), nobody).allowed
    assert authorize((a_policy(Decision.ALLOW, on(attribute, but=("*",))),), nobody).allowed


@pytest.mark.parametrize(
    "peer", ["mesh.local/ns/shop", "ns/shop/sa/web", "mesh.local/x/ns/shop/sa/web", "a/ns/shop/sa/web/b"]
)
def test_an_identity_of_another_form_has_no_namespace(peer: str):
    request = Request(connection=Connection(peer=peer))
    assert not authorize((a_policy(Decision.ALLOW, on(Attribute.NAMESPACE, "shop")),), request).allowed


def test_each_value_of_a_header_is_judged_alone_and_one_that_is_wanted_is_enough():
    condition = on(Attribute.HEADER, "good", name="x")
    both = Request(headers=(("x", "good"), ("x", "bad")))
    assert authorize((a_policy(Decision.ALLOW, condition),), both).allowed
    assert not authorize((a_policy(Decision.DENY, condition),), both).allowed
    assert not authorize((a_policy(Decision.ALLOW, on(Attribute.HEADER, "good,bad", name="x")),), both).allowed


def test_one_value_of_a_header_that_is_unwanted_is_enough_to_fail():
    unwanted = Condition(attribute=Attribute.HEADER, name="x", not_values=(Pattern(PatternKind.EXACT, "bad"),))
    both = Request(headers=(("x", "good"), ("x", "bad")))
    assert not authorize((a_policy(Decision.ALLOW, unwanted),), both).allowed
    assert authorize((a_policy(Decision.DENY, unwanted),), both).allowed


@pytest.mark.parametrize("joined", ["guest,admin", "admin, guest", "guest ,\tadmin"])
def test_what_a_server_joined_is_denied_if_it_would_be_as_one_value_or_as_several(joined: str):
    whole, part = (a_policy(Decision.DENY, on(Attribute.HEADER, each, name="x")) for each in (joined, "admin"))
    but = Condition(attribute=Attribute.HEADER, name="x", not_values=(Pattern(PatternKind.EXACT, "admin"),))
    request = Request(headers=(("x", joined),), method="guest,POST")
    assert authorize((part,), request).allowed
    for policy in (whole, part, a_policy(Decision.DENY, but)):
        assert not authorize((policy,), request, is_joined=True).allowed
    assert authorize((a_policy(Decision.DENY, on(Attribute.METHOD, "POST")),), request, is_joined=True).allowed


def test_what_a_server_joined_is_allowed_as_a_whole_alone():
    joined = Request(headers=(("x", "guest,admin"),))
    assert not authorize(
        (a_policy(Decision.ALLOW, on(Attribute.HEADER, "admin", name="x")),), joined, is_joined=True
    ).allowed
    assert authorize(
        (a_policy(Decision.ALLOW, on(Attribute.HEADER, "guest,admin", name="x")),), joined, is_joined=True
    ).allowed


def test_a_header_without_a_value_is_present():
    assert not authorize(
        (a_policy(Decision.DENY, on(Attribute.HEADER, "*", name="x")),), Request(headers=(("x", ""),))
    ).allowed


def test_hosts_compare_without_regard_to_case_and_paths_without_query():
    request = Request(authority="Orders", target="/a?b")
    assert authorize(
        (a_policy(Decision.ALLOW, on(Attribute.HOST, "orders"), on(Attribute.PATH, "/a")),), request
    ).allowed


@given(TEXT, TEXT)
def test_text_is_compared_as_text(literal: str, value: str):
    assert matches(Pattern(PatternKind.EXACT, literal), value) is (literal == value)
    assert matches(Pattern(PatternKind.PREFIX, literal), value) is value.startswith(literal)
    assert matches(Pattern(PatternKind.SUFFIX, literal), value) is value.endswith(literal)


@pytest.mark.parametrize(
    ("template", "path", "does_fit"),
    [
        ("/a/{*}", "/a/b", True),
        ("/a/{*}", "/a/", False),
        ("/a/{*}", "/a/b/c", False),
        ("/a/{**}/", "/a/b/", True),
        ("/a/{**}/", "/a/b/c.txt", False),
        ("/a/{**}/", "/a//", True),
        ("/a/{**}/", "/a/b", False),
        ("/{*}/b/{**}", "/x/b/", True),
        ("/{*}/b/{**}", "/x/b/c/d", True),
        ("/{*}/b/{**}", "/x/b", False),
    ],
)
def test_a_template_fits_segments(template: str, path: str, does_fit: bool):
    assert fits(template, path) is does_fit


@pytest.mark.parametrize(
    ("block", "address", "is_in"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("::1/128", "::1", True),
        ("10.0.0.0/8", "::1", False),
        ("10.0.0.0/8", "nonsense", False),
        ("nonsense", "10.1.2.3", False),
    ],
)
def test_addresses_lie_in_blocks(block: str, address: str, is_in: bool):
    assert is_address_in(Pattern(PatternKind.EXACT, block), address) is is_in


def test_ports_addresses_and_accounts_are_conditions_too():
    request = Request(connection=Connection(peer=WEB, source_ip="10.0.0.1", port=8080, sni="orders"))
    holds = (
        on(Attribute.DESTINATION_PORT, "8080"),
        on(Attribute.SOURCE_IP, "10.0.0.0/24"),
        on(Attribute.REMOTE_IP, "10.0.0.1"),
        on(Attribute.SERVICE_ACCOUNT, "shop/web"),
        on(Attribute.SNI, "orders"),
    )
    assert authorize((a_policy(Decision.ALLOW, *holds),), request).allowed
    for condition in holds:
        turned = replace(condition, values=(), not_values=condition.values)
        assert not authorize((a_policy(Decision.ALLOW, turned),), request).allowed
