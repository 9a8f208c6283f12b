"""Settings come from the environment once; a wrong one ends the program with one line that names it."""

from pathlib import Path

import pytest

from service.settings import DEFAULT_FAL_QUEUE_URL, Settings, SettingsError, load_settings


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, field in Settings.model_fields.items():
        monkeypatch.delenv(str(field.validation_alias or f"ROUNDTRIP_{name.upper()}"), raising=False)


def test_without_an_environment_everything_has_its_default() -> None:
    settings = load_settings()
    assert (settings.database_url, settings.broker_url, settings.fal_key, settings.models) == (None, None, None, ())
    assert settings.fal_queue_url == DEFAULT_FAL_QUEUE_URL
    assert not settings.allow_private_networks
    assert not settings.uses_real_fal


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAL_KEY", "id:secret")
    monkeypatch.setenv("ROUNDTRIP_PUBLIC_URL", "https://rt.example/")
    monkeypatch.setenv("ROUNDTRIP_MODELS", "a/b, c/d  e/f/g")
    monkeypatch.setenv("ROUNDTRIP_ALLOW_PRIVATE_NETWORKS", "true")
    settings = load_settings()
    assert settings.fal_key is not None
    assert (settings.fal_key.get_secret_value(), settings.public_url) == ("id:secret", "https://rt.example")
    assert settings.models == ("a/b", "c/d", "e/f/g")
    assert settings.allow_private_networks
    assert settings.uses_real_fal


def test_an_empty_variable_is_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDTRIP_DATABASE_URL", "")
    monkeypatch.setenv("FAL_KEY", "")
    assert load_settings().database_url is None
    assert not load_settings().uses_real_fal


def test_what_the_program_says_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROUNDTRIP_DATA", "elsewhere")
    assert load_settings(data=tmp_path).artifacts_location == (tmp_path / "artifacts").as_uri()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_a_database_address_has_one_form(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("ROUNDTRIP_DATABASE_URL", f"{scheme}://u:p@h/d")
    assert load_settings().require_database_url() == "postgresql://u:p@h/d"


@pytest.mark.parametrize("url", ["redis://h", "rediss://h", "redis+socket:///x", "amqp://h", "amqps://h"])
def test_a_broker_may_be_any_that_celery_knows(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ROUNDTRIP_BROKER_URL", url)
    assert load_settings().require_broker_url() == url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ROUNDTRIP_DATABASE_URL", "mysql://h/d"),
        ("ROUNDTRIP_DATABASE_URL", "h/d"),
        ("ROUNDTRIP_BROKER_URL", "http://h"),
        ("ROUNDTRIP_PUBLIC_URL", "rt.example"),
        ("ROUNDTRIP_PUBLIC_URL", "ftp://rt.example"),
        ("ROUNDTRIP_FAL_QUEUE_URL", "http://"),
        ("ROUNDTRIP_ADMIN_KEY", "no-secret"),
        ("ROUNDTRIP_ADMIN_KEY", "id:short"),
        ("ROUNDTRIP_ALLOW_PRIVATE_NETWORKS", "perhaps"),
        ("ROUNDTRIP_MODELS", "no-owner"),
        ("ROUNDTRIP_MODELS", "a/<b>"),
        ("ROUNDTRIP_POLL_SECONDS", "0"),
        ("ROUNDTRIP_SUBMIT_TIMEOUT_SECONDS", "-1"),
        ("ROUNDTRIP_SWEEP_SECONDS", "soon"),
        ("ROUNDTRIP_SWEEP_SECONDS", "nan"),
        ("ROUNDTRIP_POLL_SECONDS", "inf"),
        ("ROUNDTRIP_PUBLIC_URL", "http://[::1"),
        ("ROUNDTRIP_PUBLIC_URL", "http://h:99999"),
        ("ROUNDTRIP_ARTIFACTS_URL", "ftp://h/x"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).startswith(f"{name} ")
    assert "\n" not in str(caught.value)
    assert caught.value.code == 2


@pytest.mark.parametrize("name", ["database", "broker"])
def test_a_missing_setting_is_named_in_one_line(name: str) -> None:
    settings = load_settings()
    with pytest.raises(SettingsError, match=f"^ROUNDTRIP_{name.upper()}_URL is not set"):
        settings.require_database_url() if name == "database" else settings.require_broker_url()


def test_a_secret_does_not_show_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAL_KEY", "id:planted-secret-of-it")
    monkeypatch.setenv("ROUNDTRIP_ADMIN_KEY", "id:planted-secret-of-it")
    assert "planted" not in repr(load_settings())
    assert "planted" not in str(load_settings())


def test_a_wrong_secret_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDTRIP_ADMIN_KEY", "planted")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "planted" not in str(caught.value)
