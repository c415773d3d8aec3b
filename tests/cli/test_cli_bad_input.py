"""Bad input to every command: one message with what, why and a cure, a documented exit code, and never a traceback."""

from pathlib import Path

import pytest
from runner_types import Masche

from masche.api import access, explaining
from masche.api import messages as m
from masche.api.plane import Fault, PlaneError
from masche.cli.exits import Exit
from masche.testing.api import RunningApi
from masche.testing.plane import NO_FACTS, FakePlane

Wrong = tuple[bytes, Exit, str]

EVERY_COMMAND_THAT_ASKS = [
    ["apply", "-f", "ORDERS"],
    ["get", "svc"],
    ["get", "svc", "orders"],
    ["describe", "svc", "orders"],
    ["delete", "svc", "orders"],
    ["diff", "-f", "ORDERS"],
    ["status"],
    ["why", "a", "b"],
    ["top", "--once"],
    ["events"],
    ["dashboard"],
    ["token", "list"],
    ["token", "create", "-n", "x"],
    ["token", "revoke", "x"],
    ["cert", "show"],
    ["cert", "machines"],
    ["cert", "revoke", "x"],
]


def words_of(command: list[str], orders: str) -> list[str]:
    return [orders if word == "ORDERS" else word for word in command]


@pytest.mark.parametrize("command", [*EVERY_COMMAND_THAT_ASKS, ["check"]], ids=" ".join)
def test_without_a_control_plane_every_command_says_how_to_start_one(masche: Masche, orders: str, command: list[str]):
    result = masche(*words_of(command, orders))
    assert result.exit_code == Exit.UNREACHABLE
    assert "no control plane has run on" in result.output
    assert "masche up" in result.output


@pytest.mark.parametrize("command", EVERY_COMMAND_THAT_ASKS, ids=" ".join)
def test_a_token_of_another_control_plane_is_denied(masche: Masche, api: RunningApi, orders: str, command: list[str]):
    token = api.data / "api" / "token"
    token.write_text("x" * 43)
    result = masche(*words_of(command, orders))
    assert (result.exit_code, result.stdout) == (Exit.DENIED, "")
    assert "refuses" in result.stderr


@pytest.mark.parametrize("command", EVERY_COMMAND_THAT_ASKS, ids=" ".join)
def test_a_control_plane_that_cannot_answer_says_why(
    masche: Masche, api: RunningApi, plane: FakePlane, orders: str, command: list[str]
):
    if command == ["dashboard"]:
        assert masche(*command).exit_code == Exit.OK  # it does not need the store
        return
    plane.failure = PlaneError(Fault.UNAVAILABLE, "the store cannot be read", fix="free some disk")
    result = masche(*words_of(command, orders))
    assert result.exit_code == Exit.ERROR
    assert result.stderr == "masche: the store cannot be read\n  fix: free some disk\n"


@pytest.mark.usefixtures("api")
@pytest.mark.parametrize(
    "wrong",
    [
        (b"", Exit.INVALID, "there is nothing in"),
        (b"\n---\n", Exit.OK, ""),
        (b"kind: [", Exit.INVALID, "[no-resource]"),
        (b"kind: Nonsense\nmetadata: {name: x}", Exit.INVALID, "[no-resource]"),
        (b"\xff\xfe\x00", Exit.INVALID, "is not UTF-8"),
        (b"#" * (8 * 1024 * 1024 + 1), Exit.INVALID, "is larger than 8 MiB"),
        (b"\n" * (5 * 1024 * 1024) + b"#", Exit.INVALID, "are larger than 8 MiB together"),
    ],
    ids=["empty", "only separators", "wrong YAML", "unknown kind", "not text", "too large", "too large once escaped"],
)
@pytest.mark.parametrize("command", ["apply", "diff", "delete"])
def test_a_wrong_file_is_named(masche: Masche, plane: FakePlane, tmp_path: Path, command: str, wrong: Wrong):
    content, code, said = wrong
    file = tmp_path / "wrong.yaml"
    file.write_bytes(content)
    result = masche(command, "-f", str(file))
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert plane.revision == 0 or code == Exit.OK


@pytest.mark.parametrize("command", ["apply", "diff", "delete"])
def test_files_that_are_not_there_or_cannot_be_read_are_named(
    masche: Masche, api: RunningApi, tmp_path: Path, command: str
):
    missing = masche(command, "-f", str(tmp_path / "missing.yaml"))
    assert (missing.exit_code, "does not exist" in missing.stderr) == (Exit.ERROR, True)
    (tmp_path / "empty").mkdir()
    empty = masche(command, "-f", str(tmp_path / "empty"))
    assert (empty.exit_code, "holds no YAML" in empty.stderr) == (Exit.ERROR, True)
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    assert masche(command, "-f", str(tmp_path / "loop.yaml")).exit_code == Exit.ERROR


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["get", "nonsense"], Exit.USAGE, "there is no kind"),
        (["get", "svc", "missing"], Exit.NOT_FOUND, "there is no Service/default/missing"),
        (["get", "svc/a/b/c"], Exit.USAGE, "names no resource"),
        (["get", "svc", "-l", "x"], Exit.USAGE, "KEY=VALUE"),
        (["describe", "svc"], Exit.USAGE, "without a name"),
        (["describe", "svc", "a", "b"], Exit.USAGE, "takes one resource"),
        (["delete"], Exit.USAGE, "name resources"),
        (["delete", "svc", "missing"], Exit.NOT_FOUND, "there is no"),
        (["apply", "-f", "x", "--timeout", "soon"], Exit.USAGE, "is no duration"),
        (["apply", "-f", "x", "--timeout", "nan"], Exit.USAGE, "is no duration"),
        (["why", "a", "b", "--port", "0"], Exit.USAGE, "--port"),
        (["why", "a", "b", "--header", "x"], Exit.USAGE, "KEY=VALUE"),
        (["top", "--once", "--window", "0s"], Exit.USAGE, "--window"),
        (["events", "--after", "-1"], Exit.USAGE, "--after"),
        (["token", "create"], Exit.USAGE, "--namespace"),
        (["token", "create", "-n", "x", "--ttl", "9d"], Exit.INVALID, "is not allowed"),
        (["completion", "tcsh"], Exit.USAGE, "tcsh"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_question_is_answered_with_what_would_be_right(
    masche: Masche, api: RunningApi, words: list[str], code: Exit, said: str
):
    result = masche(*words)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert said in result.stderr


def test_a_defect_is_one_message_and_its_own_code(masche: Masche, api: RunningApi, monkeypatch: pytest.MonkeyPatch):
    from masche.api.client import Client

    def broken(_: Client) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(Client, "status", broken)
    result = masche("status")
    assert result.exit_code == Exit.DEFECT
    assert result.stderr.startswith("masche: a mistake in masche itself: KeyError: 'surprise'\n  fix: ")


def test_something_else_on_the_port_is_not_taken_for_a_control_plane(masche: Masche, tmp_path: Path):
    import http.server
    import threading

    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    folder = tmp_path / "data" / "api"
    folder.mkdir(parents=True)
    (folder / "address").write_text(f"127.0.0.1:{server.server_address[1]}")
    (folder / "token").write_text("x" * 43)
    (folder / "token").chmod(0o600)
    try:
        result = masche("status")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert result.exit_code == Exit.ERROR
    assert "not a masche control plane" in result.stderr


def test_names_with_control_sequences_and_markup_are_printed_literally(
    masche: Masche, plane: FakePlane, api: RunningApi
):
    evil = "\x1b[31m<script>[red]:smile:\u202e\x07\r\n"
    proxy = m.ProxyStatus(
        proxy=evil,
        workload=evil,
        service=evil,
        placement=evil,
        machine=evil,
        zone=evil,
        identity=evil,
        state=evil,
        certificate_expires_at=0.0,
        is_connected=True,
        is_in_sync=False,
        revision=1,
        last_error=evil,
        is_exposed=True,
        rejections=(m.Rejection(type_url=evil, name=evil, words=evil),),
    )
    plane.mesh_status = m.MeshStatus(plane=NO_FACTS, proxies=(proxy,))
    plane.happen(evil, evil, about=evil)
    plane.explanation = explaining.Explanation(
        verdict=explaining.Verdict.DENIED,
        summary=evil,
        source=evil,
        destination=evil,
        deciding_rule=evil,
        steps=(explaining.Step(stage=evil, is_passed=True, text=evil, rule=evil, origin=evil, details=(evil,)),),
    )
    finding = access.Finding(code=evil, title=evil, level=access.Level.WARNING, message=evil, fix=evil)
    plane.report = access.CheckReport(findings=(finding,))
    for words in (["status", "--wide"], ["events"], ["why", "a", "b"], ["get", "svc", evil], ["check"]):
        printed = masche(*words).output
        assert not {"\x1b", "\u202e", "\x07", "\r"} & set(printed), words
        assert "\\x1b[31m<script>[red]:smile:\\u202e\\x07\\r\\n" in printed, words


def test_up_says_what_is_wrong_with_its_folder_and_its_port(masche: Masche, api: RunningApi, tmp_path: Path):
    (tmp_path / "file").write_text("")
    unusable = masche("up", "--data", str(tmp_path / "file" / "below"))
    assert unusable.exit_code == Exit.ERROR
    assert unusable.stderr.startswith("masche: ")
    taken = masche(
        "up",
        "--data",
        str(tmp_path / "up"),
        "--api-port",
        str(api.listening.port),
        "--xds-port",
        "0",
        "--metrics-port",
        "0",
    )
    assert taken.exit_code == Exit.ERROR
    assert "is taken" in taken.stderr
    ended = masche("up", "--data", str(tmp_path / "up"), "--static", str(tmp_path / "missing"))
    assert ended.exit_code == Exit.USAGE


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["run", "--port", "x", "--", "true"],
        ["run", "--port", "70000", "--", "true"],
        ["run", "--port", "80/quic", "--", "true"],
        ["run", "--health", "ping", "--", "true"],
        ["run", "--label", "x", "--", "true"],
        ["run", "--", "..."],
    ],
    ids=" ".join,
)
def test_run_refuses_what_it_cannot_understand_before_anything_starts(masche: Masche, words: list[str]):
    result = masche(*words)
    assert (result.exit_code, result.stdout) == (Exit.USAGE, "")


@pytest.mark.parametrize("number", ["0", "2", "many"])
def test_a_number_of_machines_that_the_demonstration_has_not_is_refused_in_a_sentence(masche: Masche, number: str):
    result = masche("demo", "--machines", number)
    assert result.exit_code == Exit.USAGE
    assert f"{number} is no choice: 1 is this machine, 3 are simulated ones in three zones." in result.stderr


def test_the_help_of_the_demonstration_says_which_numbers_of_machines_there_are(masche: Masche):
    said = " ".join(masche("demo", "--help").output.split())
    assert "--machines [1|3] 1: this machine. 3: simulated ones in three zones" in said
