"""The program itself: how fast it starts, what it says without its extras, what it lists and how it ends."""

import os
import re
import subprocess
import sys
from pathlib import Path

import masche.__main__
from masche.cli.exits import Exit
from masche.cli.main import COMMANDS
from masche.version import VERSION

ROOT = Path(masche.__main__.__file__).parents[2]


def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, capture_output=True, text=True, timeout=30, check=False, env={**os.environ, **(env or {})}
    )


def test_help_imports_nothing_that_a_command_needs():
    script = (
        "import sys\nfrom masche.cli.main import cli\n"
        "cli(['--help'], standalone_mode=False)\n"
        "print(sorted({'rich', 'yaml', 'pydantic', 'msgspec', 'http.client', 'starlette', 'grpc'} & set(sys.modules)))"
    )
    assert run(sys.executable, "-c", script).stdout.endswith("[]\n")


def test_without_the_extras_one_line_says_how_to_get_them():
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); from masche.__main__ import main; main()"
    ended = run(sys.executable, "-S", "-c", script)
    assert ended.returncode == Exit.USAGE
    assert ended.stdout == ""
    assert ended.stderr == "the masche command needs more than the library: pip install 'masche[mesh]'\n"


def test_the_help_of_the_table_is_the_help_of_the_command():
    for name, lazy in COMMANDS.items():
        if lazy.is_there:
            command = lazy.load()
            assert command.name == name
            assert command.help, name


def test_a_command_whose_package_is_missing_is_not_listed_and_not_known():
    from masche.cli.lazy import Lazy, LazyGroup

    group = LazyGroup("x", lazy={"absent": Lazy("masche.cli.get:get", "", "masche.no.such")})
    assert group.get_command(None, "absent") is None  # type: ignore[arg-type]  # the context is not looked at


def test_every_exit_code_is_documented():
    text = (ROOT / "docs" / "exit-codes.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert documented == {int(code) for code in Exit}


def test_a_command_that_is_nearly_one_is_asked_back():
    ended = run(sys.executable, "-m", "masche", "aply", "-f", "x.yaml")
    assert ended.returncode == Exit.USAGE
    assert "did you mean apply?" in ended.stderr


def test_completion_is_printed_for_each_shell_and_completes_commands():
    for shell in ("bash", "zsh", "fish"):
        assert "_MASCHE_COMPLETE" in run(sys.executable, "-m", "masche", "completion", shell).stdout
    assert completed("masche desc") == ["plain,describe"]
    assert completed("masche desc", "zsh")[:2] == ["plain", "describe"]
    assert completed("masche desc", "fish")[0].startswith("plain,describe")


def test_a_shell_is_told_the_kinds_and_where_it_completes_files_itself():
    assert completed("masche get traf") == ["plain,trafficpolicy"]
    assert "plain,svc" in completed("masche describe s")
    assert not any(completed("masche describe svc s")), "a name is to follow"
    assert "plain,svc" in completed("masche delete svc/orders s")
    assert completed("masche apply -f my") == ["file,my"]
    assert completed("masche run --service x -- ./my") == ["file,./my"]


def completed(line: str, shell: str = "bash") -> list[str]:
    at = line.rsplit(maxsplit=1)[-1] if shell == "fish" else str(len(line.split()) - 1)
    env = {"_MASCHE_COMPLETE": f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": at}
    return run(sys.executable, "-c", "from masche.cli.main import run; run()", env=env).stdout.splitlines()


def test_the_version_is_an_option_too():
    assert run(sys.executable, "-m", "masche", "--version").stdout == f"masche {VERSION}\n"


def test_an_unknown_command_or_option_is_a_usage_error():
    for words in (["nonsense"], ["get", "--nonsense", "svc"], ["apply"], ["why", "web"], ["get", "svc", "-o", "xml"]):
        ended = run(sys.executable, "-m", "masche", *words)
        assert (ended.returncode, ended.stdout) == (Exit.USAGE, ""), words
        assert "Error: " in ended.stderr
