"""Any bytes become a configuration or one clear error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trt_worker.config.load import Loaded, assemble, load_config
from trt_worker.config.schema import Config
from trt_worker.config.source import LARGEST_FILE, Setting, parse, read_environment
from trt_worker.errors import ConfigError

Load = Callable[..., Loaded]

BOMB = "a: &a [x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)

WORDS = st.sampled_from(
    [
        *Config.model_fields,
        "dreamer_worker_name",
        "temp_dir",
        "max_powr",
        "<<",
        "true",
        "null",
        "~",
        "-1",
        "1e9",
        "0x10",
    ]
)
MARKS = st.sampled_from(
    [
        ": ",
        ":\n  - ",
        "\n",
        "\n\n",
        "- ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "'",
        '"',
        "&a ",
        "*a",
        "!!int ",
        "!x ",
        "|\n  ",
        "> ",
        "# ",
        "? ",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "%TAG ! x\n",
        "\t",
        "\\",
        "@",
        "`",
        "\r",
        "\x85",
        "é",
        "😀",
    ]
)
SOUP = st.lists(WORDS | MARKS | st.text(max_size=3), max_size=30).map("".join)
VALUES = st.recursive(
    st.none() | st.text(max_size=12) | st.integers().map(str) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def outcome(*, text: bytes | None = None, settings: tuple[Setting, ...] = ()) -> Config | str:
    """The configuration, or the error's message; any other exception goes through."""
    try:
        return assemble([parse(text, "file") if text is not None else settings], source="file").config
    except ConfigError as error:
        return str(error)


def fits(result: Config | str, *, names: str) -> bool:
    """Whether it is a configuration that can be shown, or a message that names what it must."""
    return names in result if isinstance(result, str) else isinstance(result.redacted(), dict)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
@example(b"\xff\xfea\x00")
@example(b"\x00")
def test_any_bytes_are_a_configuration_or_a_config_error(data: bytes) -> None:
    assert fits(outcome(text=data), names="file")


@settings(max_examples=300, deadline=None)
@given(SOUP)
@example("[" * 20_000)
@example("- " * 20_000)
@example("a: &x [*x]")
@example("a: &a 1\nb: &a 2\n")
@example("!!binary x: y")
@example("%YAML 1.1\n---\na: 012\n")
@example("? {a: b}\n: c")
@example("max_batch: !!int x")
def test_any_text_that_looks_like_yaml_is_a_configuration_or_a_config_error(text: str) -> None:
    assert fits(outcome(text=text.encode("utf-8", "surrogatepass")), names="file")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(Config.model_fields)), VALUES)
def test_any_value_of_any_key_is_taken_or_a_config_error_that_names_the_key(key: str, value: object) -> None:
    setting = Setting(key=key, value=value, place="line 1")  # type: ignore[arg-type]

    assert fits(outcome(settings=(setting,)), names=key)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(WORDS.map(lambda word: f"AIWORKER_{word.upper()}"), st.text(max_size=20) | SOUP, max_size=4))
@example({"AIWORKER_CUSTOM_MODELS": "[" * 50_000})
@example({"AIWORKER_BLACKLIST": "\udcff"})
@example({"AIWORKER_CACHE_HOME": "a\0b"})
def test_any_environment_is_a_configuration_or_a_config_error(environ: dict[str, str]) -> None:
    assert fits(outcome(settings=read_environment(environ)), names="environment")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"max_batch: 1\n\tnsfw: true\n", "line 2, column 1: not valid YAML.*tab; YAML wants spaces"),
        (b'nsfw: true\ncache_home: "C:\\models"\n', "line 2, column 17.*backslash begins an escape"),
        (b"a: b: c\n", "line 1, column 5.*holds a colon needs quotes"),
        (b"a: 'b\n", "line 2.*quote is opened and not closed"),
        (b"a: 1\n---\nb: 2\n", "line 2.*Only one document"),
        (b"a: 1\nb: 2\na: 3\n", "line 3: 'a' stands in the file already, on line 1"),
        (b"- a\n- b\n", "line 1: the file must consist of lines like `key: value`"),
        (b"hello\n", "lines like `key: value`"),
        (b"[x]: 1\n", "line 1: a key must be a plain word"),
        (b"a: \xe9\n", "line 1: not UTF-8 text. Save the file as UTF-8"),
        ("a: b\n".encode("utf-16"), "saved as UTF-16"),
        (b"a: \x01\n", "not valid YAML"),
        (b"a: [[[[[[[[[[[[[[[[[[[[[[[[[", "nested more than"),
        (b"a: &x [*x]\n", "line 1: aliases .* expand without end"),
        (BOMB.encode(), "expand without end"),
        (b"#" * (LARGEST_FILE + 1), "larger than 256 kB"),
    ],
)
def test_a_file_that_cannot_be_read_is_explained_with_its_place(load: Load, text: bytes, said: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s)bridgeData.yaml.*{said}"):
        load(text, own=False)


def test_a_missing_file_says_what_to_copy_and_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml does not exist. Copy bridgeData_template.yaml.*api_key"):
        load_config(tmp_path / "none.yaml", environ={})


def test_a_folder_in_place_of_the_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path, environ={})


@pytest.mark.parametrize("text", [b"", b"# nothing\n", b"---\n", b"null\n", b"\xef\xbb\xbfmax_batch: 4\n"])
def test_an_empty_file_and_a_byte_order_mark_do_no_harm(load: Load, text: bytes) -> None:
    assert load(text, own=False).config == Config()


def test_variables_with_the_prefix_alone_are_read() -> None:
    assert [setting.key for setting in read_environment({"AIWORKER_NSFW": "1", "NSFW": "0", "AIWORKER_X": ""})] == [
        "nsfw"
    ]
