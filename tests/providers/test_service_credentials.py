"""Where the token and the base URL come from, and that the token never shows."""

from __future__ import annotations

import json
import traceback
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.errors import CredentialsError, UsageError
from batcher.http.endpoint import PART_MIN_CHARS, Endpoint, Token
from batcher.http.network import is_loopback
from batcher.providers.runcomfy.credentials import (
    DEFAULT_BASE_URL,
    base_url,
    checked_base_url,
    find_token,
)

SECRET = "s3cr3t-Token-0123456789abcdef"


def write_token(folder: Path, text: str = SECRET, mode: int = 0o600) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "token.json"
    path.write_text(json.dumps({"access_token": text}))
    path.chmod(mode)
    return path


# --- the token ------------------------------------------------------------------------------------


def test_a_token_never_shows_itself() -> None:
    token = Token(SECRET)
    shown = [
        str(token),
        repr(token),
        f"{token}",
        str([token]),
        repr([token]),
        repr(Endpoint(DEFAULT_BASE_URL, token)),
    ]
    assert not any(SECRET in text for text in shown)
    with pytest.raises(TypeError):
        msgspec.json.encode(token)


def test_a_token_serves_its_header() -> None:
    assert Token(f"  {SECRET}\n").reveal() == SECRET
    assert Token(SECRET).reveal() == SECRET


def test_tokens_are_equal_by_their_text() -> None:
    assert Token("a") == Token(" a ")
    assert Token("a") != Token("b")
    assert Token("a") != "a"
    assert len({Token("a"), Token("a")}) == 1


@pytest.mark.parametrize(
    "text", ["", "  ", "a b", "a\nb", "a\r\nX-Evil: 1", "a\x00b", "a\x7fb", "tökén", "a\u2028b"]
)
def test_a_token_that_could_not_stand_in_a_header_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(CredentialsError) as caught:
        Token(text)
    assert not text.strip() or text not in str(caught.value)


REDACTIONS = {
    "all of it": (f"token {SECRET}!", "token ***!"),
    "twice": (f"{SECRET} {SECRET}", "*** ***"),
    "its beginning": (f"token {SECRET[:12]}...", "token ***..."),
    "its end": (f"ends in {SECRET[-8:]}", "ends in ***"),
    "two parts": (f"{SECRET[:8]}...{SECRET[-9:]}", "***...***"),
    "too little to tell": (f"token {SECRET[:7]}", f"token {SECRET[:7]}"),
    "nothing": ("bad request", "bad request"),
    "empty": ("", ""),
}


@pytest.mark.parametrize(("text", "expected"), REDACTIONS.values(), ids=REDACTIONS)
def test_redacting(text: str, expected: str) -> None:
    assert Token(SECRET).redact(text) == expected


@given(st.text(max_size=30), st.text(max_size=30), st.integers(0, 20), st.integers(PART_MIN_CHARS, 29))
def test_no_part_of_a_token_survives_redacting(before: str, after: str, start: int, size: int) -> None:
    left = Token(SECRET).redact(before + SECRET[start : start + size] + after)
    parts = (SECRET[at : at + PART_MIN_CHARS] for at in range(len(SECRET) - PART_MIN_CHARS + 1))
    assert not any(part in left for part in parts)


def test_a_short_token_is_redacted_as_a_whole() -> None:
    assert Token("abc").redact("abc abd") == "*** abd"


# --- finding it -----------------------------------------------------------------------------------


def test_the_variable_comes_first(tmp_path: Path) -> None:
    write_token(tmp_path / ".config/runcomfy", "other")
    found = find_token({"RUNCOMFY_TOKEN": f" {SECRET}\n", "YOUR_API_TOKEN": "last"}, tmp_path)
    assert (found.token, found.origin, found.warnings) == (Token(SECRET), "$RUNCOMFY_TOKEN", ())


def test_a_token_file_comes_before_the_last_resort(tmp_path: Path) -> None:
    path = write_token(tmp_path / ".config/runcomfy")
    found = find_token({"RUNCOMFY_TOKEN": "  ", "YOUR_API_TOKEN": "last"}, tmp_path)
    assert (found.token, found.origin) == (Token(SECRET), str(path))


def test_the_last_resort_comes_last(tmp_path: Path) -> None:
    found = find_token({"YOUR_API_TOKEN": SECRET}, tmp_path)
    assert (found.token, found.origin) == (Token(SECRET), "$YOUR_API_TOKEN")


FOLDERS = {
    "the configured folder": ({"RUNCOMFY_CONFIG_DIR": "{home}/a", "XDG_CONFIG_HOME": "{home}/x"}, "a"),
    "the XDG folder": ({"XDG_CONFIG_HOME": "{home}/x"}, "x/runcomfy"),
    "the home folder": ({}, ".config/runcomfy"),
    "the home folder for a relative XDG path": ({"XDG_CONFIG_HOME": "x"}, ".config/runcomfy"),
    "the home folder for empty variables": (
        {"RUNCOMFY_CONFIG_DIR": " ", "XDG_CONFIG_HOME": ""},
        ".config/runcomfy",
    ),
}


@pytest.mark.parametrize(("env", "folder"), FOLDERS.values(), ids=FOLDERS)
def test_the_token_file_is_in(env: dict[str, str], folder: str, tmp_path: Path) -> None:
    for other in ("a", "x/runcomfy", ".config/runcomfy"):
        write_token(tmp_path / other, "other-account")
    write_token(tmp_path / folder)
    filled = {name: value.format(home=tmp_path) for name, value in env.items()}
    assert find_token(filled, tmp_path).token == Token(SECRET)


def test_a_chosen_folder_without_a_token_is_not_another_account(tmp_path: Path) -> None:
    write_token(tmp_path / ".config/runcomfy")
    with pytest.raises(CredentialsError):
        find_token({"RUNCOMFY_CONFIG_DIR": str(tmp_path / "empty")}, tmp_path)


def test_a_missing_token_names_every_remedy(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError) as caught:
        find_token({}, tmp_path)
    assert "RUNCOMFY_TOKEN" in str(caught.value)
    assert str(tmp_path / ".config/runcomfy/token.json") in str(caught.value)
    assert caught.value.exit_code == 77


def test_a_folder_that_is_a_file_holds_no_token(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CredentialsError, match="no API token"):
        find_token({"RUNCOMFY_CONFIG_DIR": str(tmp_path / "file")}, tmp_path)


BROKEN = {
    "not JSON": f'{{"access_token": "{SECRET}"'.encode(),
    "not UTF-8": b'{"access_token": "\xff"}',
    "a list": b'["x"]',
    "without a token": b'{"token": "x"}',
    "a number for a token": b'{"access_token": 5}',
    "an empty token": b'{"access_token": "  "}',
    "a token with a line break": b'{"access_token": "s3cr3t\\nX-Evil: 1"}',
    "empty": b"",
    "too deep": b"[" * 60_000,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_token_file_is_named_and_not_passed_over(content: bytes, tmp_path: Path) -> None:
    path = write_token(tmp_path)
    path.write_bytes(content)
    with pytest.raises(CredentialsError) as caught:
        find_token({"RUNCOMFY_CONFIG_DIR": str(tmp_path), "YOUR_API_TOKEN": "last"}, tmp_path)
    assert str(path) in str(caught.value)
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))


def test_a_token_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "token.json").mkdir()
    with pytest.raises(CredentialsError, match=r"token\.json: can't read a token from it"):
        find_token({"RUNCOMFY_CONFIG_DIR": str(tmp_path)}, tmp_path)


def test_a_broken_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match=r"^RUNCOMFY_TOKEN: ") as caught:
        find_token({"RUNCOMFY_TOKEN": "s3cr3t two"}, tmp_path)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_token_file_open_to_others_is_used_with_a_warning(mode: int, tmp_path: Path) -> None:
    path = write_token(tmp_path, mode=mode)
    found = find_token({"RUNCOMFY_CONFIG_DIR": str(tmp_path)}, tmp_path)
    [warning] = found.warnings
    assert f"chmod 600 {path}" in warning
    assert f"{mode:04o}" in warning
    assert SECRET not in warning


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_private_token_file_brings_no_warning(mode: int, tmp_path: Path) -> None:
    write_token(tmp_path, mode=mode)
    assert find_token({"RUNCOMFY_CONFIG_DIR": str(tmp_path)}, tmp_path).warnings == ()


# --- the base URL ---------------------------------------------------------------------------------

GOOD_URLS = {
    "https://model-api.runcomfy.net/v1": "https://model-api.runcomfy.net/v1",
    "https://model-api.runcomfy.net/v1/": "https://model-api.runcomfy.net/v1",
    "https://proxy.example.com:8443/runcomfy/v1": "https://proxy.example.com:8443/runcomfy/v1",
    "http://localhost:8080/v1": "http://localhost:8080/v1",
    "http://127.0.0.1/v1": "http://127.0.0.1/v1",
    "http://127.8.9.1:1/v1": "http://127.8.9.1:1/v1",
    "http://[::1]:8080/v1": "http://[::1]:8080/v1",
}


@pytest.mark.parametrize(("text", "url"), GOOD_URLS.items(), ids=GOOD_URLS)
def test_a_base_url(text: str, url: str) -> None:
    assert checked_base_url(text) == url


BAD_URLS = {
    "": "empty",
    "model-api.runcomfy.net/v1": "host",
    "ftp://model-api.runcomfy.net/v1": "https://",
    "http://model-api.runcomfy.net/v1": "this machine only",
    "http://10.0.0.1/v1": "this machine only",
    "http://localhost.evil.com/v1": "this machine only",
    "http://127.0.0.1.evil.com/v1": "this machine only",
    "https://user:passw0rd@model-api.runcomfy.net/v1": "user name or password",
    "https://model-api.runcomfy.net@evil.com/v1": "user name or password",
    "https://model-api.runcomfy.net": "version",
    "https://model-api.runcomfy.net/v2": "version",
    "https://model-api.runcomfy.net/v1/models": "version",
    "https://model-api.runcomfy.net/xv1?a=b": "query",
    "https://model-api.runcomfy.net/v1#x": "fragment",
    "https:///v1": "host",
    "https://a:99999/v1": "port",
    "https://a:x/v1": "port",
    "https://[::1/v1": "host",
    "https://a b/v1": "spaces",
    "https://a/v1\r\nX-Evil: 1": "spaces",
}


@pytest.mark.parametrize(("text", "problem"), BAD_URLS.items(), ids=BAD_URLS)
def test_a_base_url_not_fit_for_a_token(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        checked_base_url(text)
    assert problem in str(caught.value)
    assert "passw0rd" not in str(caught.value)


def test_the_base_url_is_the_vendors_unless_the_variable_says_otherwise() -> None:
    assert base_url({}) == base_url({"RUNCOMFY_MODEL_API_BASE": " "}) == DEFAULT_BASE_URL
    assert base_url({"RUNCOMFY_MODEL_API_BASE": "http://localhost:9/v1/"}) == "http://localhost:9/v1"


def test_a_bad_base_url_names_its_variable() -> None:
    with pytest.raises(UsageError, match=r"^RUNCOMFY_MODEL_API_BASE: "):
        base_url({"RUNCOMFY_MODEL_API_BASE": "nonsense"})


def test_an_endpoint_checks_its_url_and_knows_its_origin() -> None:
    endpoint = Endpoint("https://API.Example.com:8443/x/v1/")
    assert (endpoint.base_url, endpoint.origin) == (
        "https://API.Example.com:8443/x/v1",
        "https://api.example.com:8443",
    )
    with pytest.raises(UsageError):
        Endpoint("http://example.com/v1")


@given(st.text(max_size=60))
def test_any_text_is_a_base_url_or_a_usage_error(text: str) -> None:
    with suppress(UsageError):
        assert checked_base_url(text).startswith(("https://", "http://"))


@pytest.mark.parametrize(
    ("host", "loopback"), [("LOCALHOST", True), ("::1", True), ("0.0.0.0", False), ("a.b", False)]
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_a_file_that_a_variable_names_holds_the_token_alone_or_as_the_vendor_writes_it(tmp_path):
    secret = tmp_path / "secret"
    named = {"RUNCOMFY_TOKEN_FILE": str(secret), "YOUR_API_TOKEN": "last"}
    for content in (f"{SECRET}\n", f"\ufeff{SECRET}", json.dumps({"access_token": SECRET})):
        secret.write_text(content, "utf-8")
        found = find_token(named, tmp_path)
        assert (found.token, found.origin) == (Token(SECRET), f"$RUNCOMFY_TOKEN_FILE ({secret})")
    assert find_token(named | {"RUNCOMFY_TOKEN": "first-of-all"}, tmp_path).origin == "$RUNCOMFY_TOKEN"


@pytest.mark.parametrize("content", [None, b"", b"{}", b"two words", b"\xff\xfe"])
def test_a_named_token_file_that_holds_none_is_an_error_and_no_reason_to_look_further(tmp_path, content):
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_bytes(content)
    with pytest.raises(CredentialsError, match="secret"):
        find_token({"RUNCOMFY_TOKEN_FILE": str(secret), "YOUR_API_TOKEN": SECRET}, tmp_path)
