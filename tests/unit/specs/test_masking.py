"""Nothing secret is shown of a spec; what is not secret stays readable."""

from __future__ import annotations

import time

import pytest

from specs.masking import masked, masked_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pw@host/x", "https://***@host/x"),
        ("https://tok3n@host/x", "https://***@host/x"),
        ("s3://bucket/a.zip?X-Amz-Signature=abc&v=1", "s3://bucket/a.zip?X-Amz-Signature=***&v=1"),
        ("https://h/a.zip?access_token=abc#top", "https://h/a.zip?access_token=***#top"),
        ("https://h/a.zip?sig=a%2Bb&se=2026", "https://h/a.zip?sig=***&se=2026"),
        ("--extra-index-url https://u:p@pip.example/simple", "--extra-index-url https://***@pip.example/simple"),
        ("Authorization: Bearer abcdefghijkl", "Authorization: Bearer ***"),
        ("ghp_0123456789abcdefghij", "***"),
        ("hf_0123456789abcdefghij", "***"),
        ("AIzaSyA0123456789abcdefghijabcdefghij", "***"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", "***"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "***"),
        ("DB_PASSWORD=hunter2 LEVEL=3", "DB_PASSWORD=*** LEVEL=3"),
        ("--api-key=abc --level=3", "--api-key=*** --level=3"),
        ("serve --hf-token abc --port 80", "serve --hf-token *** --port 80"),
        ("Server=x;Password=abc;Port=1", "Server=x;Password=***;Port=1"),
        ("password: abc", "password: ***"),
        ("--max-tokens=512 --tokenizer=fast", "--max-tokens=512 --tokenizer=fast"),
        ("--no-token --port 80", "--no-token --port 80"),
        ("a token of thanks: none", "a token of thanks: none"),
        ("gcs://bucket/app.zip", "gcs://bucket/app.zip"),
        ("mail ada@example.com about https://h/p?keyword=x", "mail ada@example.com about https://h/p?keyword=x"),
    ],
)
def test_addresses_lose_their_credentials_only(text: str, shown: str) -> None:
    assert masked_text(text) == shown


@pytest.mark.parametrize("begin", ["", "?", "--"])
@pytest.mark.parametrize(
    "again",
    ["token", "?token", "a.token-", "eyJaaaaaaaa-", "--token ", "password ", "-----BEGIN A", "://a:", " : ", "= "],
)
def test_no_text_takes_longer_than_its_length_is_worth(begin: str, again: str) -> None:
    text = begin + again * (100_000 // len(again))
    begun = time.process_time()
    masked_text(text)
    assert time.process_time() - begun < 2


def test_values_are_hidden_by_where_they_are_and_by_what_they_are_called() -> None:
    value = {
        "env_vars": {"REGION": "us", "N": 1},
        "args": {"api_key": "k", "hf_token": "t", "dbPassword": "p", "max_tokens": 512, "model": "small", "key": "k"},
        "more": {
            "openai_key": "k",
            "Authorization": "x",
            "credentials": {"user": "ada", "port": 5432, "deep": [{"x": "y"}]},
            "author": "ada",
            "sort_key": "name",
            "tokenizer": "fast",
        },
        "envFrom": {"HF_TOKEN": {"kubernetesSecret": {"namespace": "prod", "name": "hf", "key": "token"}}},
        "list": [{"env_vars": {"A": "b"}}, "https://a:b@c/"],
    }
    assert masked(value) == {
        "env_vars": {"REGION": "***", "N": "***"},
        "args": {
            "api_key": "***",
            "hf_token": "***",
            "dbPassword": "***",
            "max_tokens": 512,
            "model": "small",
            "key": "k",
        },
        "more": {
            "openai_key": "***",
            "Authorization": "***",
            "credentials": {"user": "***", "port": 5432, "deep": [{"x": "***"}]},
            "author": "ada",
            "sort_key": "name",
            "tokenizer": "fast",
        },
        "envFrom": {"HF_TOKEN": {"kubernetesSecret": {"namespace": "prod", "name": "hf", "key": "token"}}},
        "list": [{"env_vars": {"A": "***"}}, "https://***@c/"],
    }
