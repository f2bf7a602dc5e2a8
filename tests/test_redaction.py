"""No secret is recorded or shown, wherever it stands in the arguments; and what is none stays readable."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tether import Process, SpecError
from tether.redaction import MOST_CHARACTERS, redact, scrub

SECRET = "hunter2X"


@pytest.mark.parametrize(
    "argv",
    [
        ["x", "--password", SECRET],
        ["x", "--hf-token=" + SECRET],
        ["x", "API_KEY=" + SECRET],
        ["x", "--secret", "-" + SECRET],
        ["x", "--secret", "--" + SECRET],
        ["x", "--pw", SECRET],
        ["x", "--db-pwd=" + SECRET],
        ["x", "--pat", SECRET],
        ["x", "--sas", SECRET],
        ["x", "--dbPass", SECRET],
        ["mysql", "-p" + SECRET],
        ["sshpass", "-p", SECRET, "ssh", "h"],
        ["curl", "-u", "user:" + SECRET],
        ["curl", "-uuser:" + SECRET],
        ["curl", "--user=user:" + SECRET],
        ["curl", "-H", "Authorization: Bearer " + SECRET],
        ["curl", "-H", "Authorization: Basic " + SECRET + "=="],
        ["curl", "-H", "X-Api-Key:" + SECRET],
        ["x", "--authorization", "Bearer", SECRET],
        ["psql", f"postgres://u:{SECRET}@h/db"],
        ["psql", f"postgres://u:p@ss/{SECRET}@h/db"],
        ["git", "clone", f"https://{SECRET}@github.com/x"],
        ["x", f"--url=redis://:{SECRET}@h:6379/0"],
        ["x", f"root:{SECRET}@tcp(h:3306)/db"],
        ["x", f"https://h/c?sv=1&sig={SECRET}&x=1"],
        ["x", f"jdbc:mysql://h/db?user=a&password={SECRET}"],
        ["psql", f"host=h password={SECRET} user=u"],
        ["x", f"Server=h;User Id=sa;Password={SECRET};Encrypt=yes"],
        ["x", f"Pwd={{{SECRET};z}};a=b"],
        ["x", f"AccountName=a;AccountKey={SECRET}==;EndpointSuffix=c"],
        ["x", f'{{"api_key": "{SECRET}", "a": 1}}'],
        ["x", f"ghp_{SECRET}{SECRET}{SECRET}"],
        ["sh", "-c", f"export HF_TOKEN={SECRET}; run --password {SECRET} -u a:{SECRET}; mysql -p{SECRET}"],
    ],
)
def test_a_secret_is_hidden(argv: list[str]) -> None:
    """In options, variables, headers, URLs, connection strings and scripts."""
    assert SECRET not in " ".join(redact(argv))
    spec = Process(argv)
    assert SECRET not in repr(spec.record())
    assert SECRET not in repr(spec)


@pytest.mark.parametrize(
    "argv",
    [
        ["llama-server", "-m", "tiny.gguf", "--port", "{port}"],
        ["vllm", "serve", "m", "--max-num-batched-tokens", "8192", "--tokenizer", "t/x"],
        ["ssh", "-p2222", "user@h"],
        ["docker", "run", "-p8080:80", "-p", "127.0.0.1:1:2/tcp", "-u", "1000:1000", "name:1@sha256:0a"],
        ["find", ".", "-print"],
        ["mkdir", "-p", "dir"],
        ["x", "http://127.0.0.1:8000/v1/@me"],
        ["git", "clone", "git@github.com:a/b"],
        ["sh", "-c", "while :; do sleep 1; done"],
    ],
)
def test_what_is_no_secret_stays(argv: list[str]) -> None:
    """Or nobody could tell what runs."""
    assert redact(argv) == argv


def test_arguments_are_capped() -> None:
    """In number and length, before a ledger or a page has to hold them; and quickly."""
    began = time.perf_counter()
    shown = redact(["x" * 2_000_000, *["y"] * 1000, "a=b;" * 10_000])
    assert len(shown) == 100
    assert len(shown[0]) < MOST_CHARACTERS + 50
    for hard in ("://a:" * 800, "key" * 6000, '"key":"' * 3000, "a.-" * 6000, "Bearer " * 3000, "x=" * 9000):
        redact([hard])
    assert time.perf_counter() - began < 5


@given(st.lists(st.text(max_size=60), max_size=6))
@settings(max_examples=200, deadline=None)
def test_any_arguments_can_be_redacted(argv: list[str]) -> None:
    """Each gives one that is shown."""
    assert len(redact(argv)) == len(argv)


def test_errors_and_free_text_show_none() -> None:
    """What a driver says of an address, and what is said of a spec that is refused."""
    assert scrub(f"GET https://u:{SECRET}@h/x failed") == "GET https://***@h/x failed"
    with pytest.raises(SpecError) as refused:
        Process(f"curl -u a:{SECRET} http://h")
    assert SECRET not in str(refused.value)
    with pytest.raises(SpecError) as refused:
        Process(["x", f"--password={SECRET}\0"])
    assert SECRET not in str(refused.value)
