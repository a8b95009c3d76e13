"""Files, console and crashes, read back as an operator would."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from time import time

import pytest
from loguru import logger

from trt_worker.errors import ConfigError
from trt_worker.telemetry.logs import LARGEST_FILE, LONGEST_TEXT, colours, configure_logs
from trt_worker.telemetry.redact import LONGEST_SHAPE

KEY = "hunter22-hunter22-hunter22"
DAY = 24 * 3600
Configure = Callable[..., None]


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Sets logs up below `tmp_path`, and back again afterwards."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    handlers, level = logging.root.handlers[:], logging.root.level

    def sets_up(
        process: int | None = None, verbosity: int = 0, console: bool = False, limited: bool = False, files: bool = True
    ) -> None:
        configure_logs(
            tmp_path / "logs" if files else None,
            process=process,
            verbosity=verbosity,
            secrets=[KEY],
            console=console,
            limited=limited,
        )

    yield sets_up
    logger.remove()
    logger.configure(patcher=lambda _: None)
    logger.add(sys.__stderr__ or io.StringIO())
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def read(folder: Path, name: str = "bridge.log") -> str:
    return (folder / "logs" / name).read_text()


@pytest.mark.parametrize(
    ("process", "names"), [(None, {"bridge.log", "trace.log"}), (0, {"bridge_0.log", "trace_0.log"})]
)
def test_each_process_has_files_of_its_own(
    configure: Configure, tmp_path: Path, process: int | None, names: set[str]
) -> None:
    configure(process)

    assert {file.name for file in (tmp_path / "logs").iterdir()} == names


def test_the_trace_file_holds_warnings_and_errors_alone(configure: Configure, tmp_path: Path) -> None:
    configure()

    logger.info("calm")
    logger.warning("careful")
    logger.error("wrong")

    assert [line.rsplit(" - ")[-1] for line in read(tmp_path).splitlines()] == ["calm", "careful", "wrong"]
    assert [line.rsplit(" - ")[-1] for line in read(tmp_path, "trace.log").splitlines()] == ["careful", "wrong"]


@pytest.mark.parametrize(("verbosity", "written"), [(-1, "i"), (0, "i"), (1, "id"), (2, "idt"), (9, "idt")])
def test_every_v_shows_one_level_more(configure: Configure, tmp_path: Path, verbosity: int, written: str) -> None:
    configure(verbosity=verbosity)

    logger.info("i")
    logger.debug("d")
    logger.trace("t")

    assert "".join(line[-1] for line in read(tmp_path).splitlines()) == written


def test_setting_up_again_writes_no_line_twice(configure: Configure, tmp_path: Path) -> None:
    configure()
    configure()

    logger.info("once")

    assert read(tmp_path).count("once") == 1


def outer(key: str) -> None:
    try:
        raise ValueError(f"key {key} refused by https://r2.example/a?X-Amz-Signature=abcdef")
    except ValueError as error:
        raise ExceptionGroup(f"group of {key}", [RuntimeError({"key": key})]) from error


def test_no_secret_reaches_a_log_by_any_way(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(console=True)

    logger.info("message {}", KEY)
    logger.bind(key=KEY).info("dict {}", {"header": {"k": KEY}})
    logger.info("address {}", f"https://r2.example/a?X-Amz-Signature=abcdef&k={KEY}")
    logging.getLogger("library").warning("from a library: %s", KEY)
    try:
        outer(KEY)
    except ExceptionGroup as error:
        logger.opt(exception=error).error("exception {}", error)
        logger.exception("again")
        logging.getLogger("library").exception("from a library")
        sys.excepthook(type(error), error, error.__traceback__)
        threading.excepthook(
            threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread()))
        )

    for text in (read(tmp_path), read(tmp_path, "trace.log"), capsys.readouterr().err):
        assert "hunter22" not in text
        assert "abcdef" not in text
        assert text.count('raise ExceptionGroup(f"group of {key}"') == 5
        assert "MainThread ends" in text
    assert "library:" in read(tmp_path)


def test_a_log_line_of_braces_and_markup_is_written_as_it_is(configure: Configure, tmp_path: Path) -> None:
    configure()

    logger.info("{}", "<red>{message} {extra[x]}</red>")

    assert read(tmp_path).endswith(" - <red>{message} {extra[x]}</red>\n")


def test_a_log_line_that_is_no_valid_unicode_is_written_with_an_escape(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure()

    logger.info("half a pair: {}", "\udcff")

    assert read(tmp_path).endswith(" - half a pair: \\udcff\n")
    assert capsys.readouterr().err == ""


def test_sinks_of_others_get_redacted_records_too(configure: Configure) -> None:
    configure()
    lines: list[str] = []
    logger.add(lines.append, format="{message} {extra} {exception}")

    try:
        outer(KEY)
    except ExceptionGroup:
        logger.bind(k=KEY).exception(KEY)

    assert "hunter22" not in "".join(lines)


def test_a_crash_of_a_process_without_a_console_is_told_on_stderr_without_secrets(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom trt_worker.telemetry.logs import configure_logs\n"
        f"key = sys.stdin.read()\nconfigure_logs(Path({str(tmp_path)!r}) / 'logs', process=1, verbosity=0, "
        "secrets=[key], console=False)\nraise RuntimeError('refused: ' + key)\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", program], input=KEY, capture_output=True, text=True, check=False, timeout=60
    )

    assert ended.returncode == 1
    assert "RuntimeError: refused: [hidden]" in ended.stderr
    assert "RuntimeError: refused: [hidden]" in read(tmp_path, "trace_1.log")
    assert "hunter22" not in ended.stderr + ended.stdout + read(tmp_path, "bridge_1.log")


def test_the_console_is_plain_where_it_is_no_terminal(
    configure: Configure, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    configure(console=True, files=False)

    logger.error("plain")

    shown = capsys.readouterr().err
    assert shown.endswith("| ERROR    | plain\n")
    assert "\x1b" not in shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("no_colour", "coloured"), [(None, True), ("", True), ("1", False)])
def test_a_terminal_has_colours_unless_no_color_is_set(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, no_colour: str | None, coloured: bool
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("NO_COLOR", no_colour) if no_colour is not None else monkeypatch.delenv("NO_COLOR", False)
    configure(console=True, files=False)

    logger.error("shown")

    assert ("\x1b" in terminal.getvalue()) is coloured
    assert colours(terminal, no_colour) is coloured


def test_a_limited_console_shows_results_and_warnings_and_the_file_everything(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(console=True, limited=True)

    logger.info("detail")
    logger.success("result")
    logger.warning("careful")

    shown = capsys.readouterr().err
    assert "detail" not in shown
    assert "result" in shown
    assert "careful" in shown
    assert "detail" in read(tmp_path)


def aged(path: Path, days: float, text: str = "old\n") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    os.utime(path, (time() - days * DAY,) * 2)
    return path


def test_yesterdays_lines_are_put_aside_and_files_of_three_days_removed(configure: Configure, tmp_path: Path) -> None:
    aged(tmp_path / "logs" / "bridge.log", 1)
    gone = aged(tmp_path / "logs" / "bridge.2020-01-01_00-00-00_000000.log", 4)
    kept = aged(tmp_path / "logs" / "bridge.2020-01-03_00-00-00_000000.log", 2)
    other = aged(tmp_path / "logs" / "bridge_1.log", 4)
    configure()

    logger.info("new")

    assert read(tmp_path).endswith("new\n")
    assert "old" not in read(tmp_path)
    assert not gone.exists()
    assert kept.exists()
    assert other.exists()
    assert [file for file in (tmp_path / "logs").glob("bridge.*.log") if file != kept and file.read_text() == "old\n"]


def test_a_restart_on_the_same_day_goes_on_in_the_same_file(configure: Configure, tmp_path: Path) -> None:
    configure()
    logger.info("before")
    configure()
    logger.info("after")

    assert read(tmp_path).count("\n") == 2


def test_a_line_of_the_next_day_begins_a_new_file(configure: Configure, tmp_path: Path) -> None:
    configure()
    logger.info("today")
    tomorrow = datetime.now().astimezone() + timedelta(days=1)
    logger.patch(lambda record: record.update(time=tomorrow)).info("tomorrow")  # type: ignore[call-arg]

    assert "today" not in read(tmp_path)
    assert "tomorrow" in read(tmp_path)


def test_a_full_file_is_put_aside(configure: Configure, tmp_path: Path) -> None:
    configure()
    logger.info("first")
    with (tmp_path / "logs" / "bridge.log").open("r+b") as file:
        file.truncate(LARGEST_FILE)
    logger.info("second")

    assert read(tmp_path).count("\n") == 1


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path, configure: Configure) -> None:
    (tmp_path / "logs").write_text("a file in its place")

    with pytest.raises(ConfigError, match="Set log_dir"):
        configure()


FORGED = "x\n2026-01-01 00:00:00.000 | INFO     | trt_worker.app:_announce:1 - Job 1 paid\r\x1b[2K\u2028end"


def test_no_text_passes_itself_off_as_a_line_of_the_log(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(console=True)

    logger.warning("the grid says: {}", FORGED)
    try:
        raise ValueError(FORGED)
    except ValueError:
        logger.exception("and raises")
    logging.getLogger("library").warning("says %s", FORGED)

    for text in (read(tmp_path), capsys.readouterr().err):
        assert not [line for line in text.splitlines() if line.startswith("2026-01-01")]
        assert text.count("    2026-01-01") == 3
        assert not {"\r", "\x1b", "\u2028"} & set(text)


def test_a_long_text_is_cut_and_no_part_of_a_secret_is_left_at_the_cut(configure: Configure, tmp_path: Path) -> None:
    configure()

    for short_of in range(len(KEY) + 1):  # the secret begins so many characters before every place where a cut may be
        for place in (LONGEST_TEXT, LONGEST_TEXT + LONGEST_SHAPE):
            logger.info("{}", "a" * (place - short_of) + KEY + "b" * 100_000)
    # What is hidden before the cut moves the rest of the text forward.
    hides_much = "https://host/?" + "q" * 1000 + " "
    logger.info("{}", hides_much + "a" * (LONGEST_TEXT + LONGEST_SHAPE - len(hides_much) - 20) + KEY + "b" * 100_000)

    lines = read(tmp_path).splitlines()
    assert len(lines) == 2 * (len(KEY) + 1) + 1
    assert all(len(line) < LONGEST_TEXT + 200 and "characters)" in line for line in lines)
    assert "hunter" not in read(tmp_path)
