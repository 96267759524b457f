"""The token: found, compared, never shown."""

import pytest

from batchscope import ConfigurationError
from batchscope.tokens import allows, find_token

SECRET = "s3cret-Token.123"  # noqa: S105  (of this test)


def test_it_is_given_or_read_from_a_file_or_the_environment_in_this_order(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    environment = {"BATCHSCOPE_TOKEN": "other"}
    assert find_token("given", environment=environment) == b"given"
    assert find_token(token_file=file, environment=environment) == SECRET.encode()
    assert find_token(environment=environment) == b"other"
    assert find_token(environment={}) is None


@pytest.mark.parametrize("bad", ["", " ", "two words", "line\nbreak", "Ünïcode", "\0", "ends "])
def test_a_token_that_cannot_be_sent_is_refused_and_not_quoted(bad, tmp_path):
    with pytest.raises(ConfigurationError, match="visible ASCII") as caught:
        find_token(bad)
    file = tmp_path / "token"
    file.write_text(f"in {bad} side", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="visible ASCII") as from_file:
        find_token(token_file=file)
    for error in (caught, from_file):
        assert not bad.strip() or bad not in str(error.value)


def test_an_empty_file_or_variable_is_a_mistake_not_an_open_door(tmp_path):
    file = tmp_path / "token"
    file.write_text("\n")
    with pytest.raises(ConfigurationError, match="token_file"):
        find_token(token_file=file)
    with pytest.raises(ConfigurationError, match="BATCHSCOPE_TOKEN"):
        find_token(environment={"BATCHSCOPE_TOKEN": ""})
    with pytest.raises(ConfigurationError, match="No such file"):
        find_token(token_file=tmp_path / "missing", environment={})


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "it is empty"), ("a" * 5000, "at most 4096"), ("hush\ntwo", "nothing else"), ("\ufeffhush", "nothing else")],
)
def test_a_file_that_holds_no_token_is_named_and_its_contents_are_not(content, message, tmp_path):
    file = tmp_path / "token"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=message) as caught:
        find_token(token_file=file)
    assert str(file) in str(caught.value)
    assert "hush" not in str(caught.value)


def test_two_sources_at_once_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="not both"):
        find_token(SECRET, tmp_path / "token")


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        (f"Bearer {SECRET}".encode(), True),
        (f"bearer  {SECRET} ".encode(), True),
        (None, False),
        (b"", False),
        (b"Bearer", False),
        (SECRET.encode(), False),
        (f"Basic {SECRET}".encode(), False),
        (f"Bearer {SECRET}x".encode(), False),
        (f"Bearer {SECRET[:-1]}".encode(), False),
        (b"Bearer \xff\xfe", False),
    ],
)
def test_only_the_bearer_of_the_token_is_allowed(header, allowed):
    assert allows(SECRET.encode(), header) is allowed
    assert allows(None, header)
