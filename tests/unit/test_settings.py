from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.settings import Address, AllowedHost, GatewayMode, LogFormat, Settings, SettingsError, load_settings

STATE = Path("/state")


def load(flags: dict[str, object] | None = None, **environ: str) -> Settings:
    return load_settings(flags or {}, environ, default_state=STATE)


def test_a_repository_is_all_that_must_be_given() -> None:
    settings = load({"repo": "/srv/specs"})
    assert settings == Settings(repo="/srv/specs", state=STATE)
    assert settings.listen == Address(host="127.0.0.1", port=8484)
    assert settings.gateway == Address(host="127.0.0.1", port=8080)
    assert settings.public_url == "http://127.0.0.1:8080"
    assert settings.git_interval == timedelta(seconds=30)


def test_flags_win_over_variables_and_variables_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "heliostat.toml"
    config.write_text(
        'repo = "file"\nbranch = "file"\ncluster = "file"\ngit-interval = 45\nallowed_hosts = ["A.example"]'
    )
    settings = load(
        {"config": str(config), "repo": "flag", "branch": None},
        HELIOSTAT_REPO="variable",
        HELIOSTAT_BRANCH="variable",
        HELIOSTAT_SERVER="http://belongs.to.the.command.line",
    )
    assert (settings.repo, settings.branch, settings.cluster) == ("flag", "variable", "file")
    assert settings.git_interval == timedelta(seconds=45)
    assert settings.allowed_hosts == ("a.example",)
    assert load(HELIOSTAT_CONFIG=str(config)).repo == "file"


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    pem = tmp_path / "tls.pem"
    pem.write_text("x")
    settings = load(
        {
            "repo": "r",
            "listen": "[::]:9000",
            "gateway": "0.0.0.0:443",
            "gateway_tls": str(pem),
            "gateway_mode": "proxy",
            "gateway_lanes": "512",
            "zone": "us-east-1a",
            "path": "/services/",
            "log_format": "json",
            "git_interval": "1m30s",
            "ray": "http://head:8265/",
        }
    )
    assert settings.listen == Address(host="::", port=9000)
    assert settings.server == "http://[::1]:9000"
    assert settings.public_url == "https://127.0.0.1:443"
    assert (settings.gateway_mode, settings.gateway_lanes) == (GatewayMode.PROXY, 512)
    assert (settings.path, settings.log_format) == ("services", LogFormat.JSON)
    assert (settings.git_interval, settings.ray) == (timedelta(seconds=90), "http://head:8265")


def test_every_wrong_setting_is_listed_with_its_place() -> None:
    with pytest.raises(SettingsError) as caught:
        load(
            {"repo": "r", "listen": "8484", "gateway_lanes": "many", "cluster": "Prod US"},
            HELIOSTAT_GIT_INTERVAL="soon",
            HELIOSTAT_RAY="head:8265",
            HELIOSTAT_GATEWAY_TLS="/nowhere.pem",
            HELIOSTAT_GATEWAY_MODE="magic",
        )
    problems = str(caught.value).splitlines()
    assert len(problems) == 7
    for start in ("--listen: ", "--gateway-lanes: ", "--cluster: ", "HELIOSTAT_GIT_INTERVAL: ", "HELIOSTAT_RAY: "):
        assert any(problem.startswith(start) for problem in problems), start
    assert "HELIOSTAT_GATEWAY_MODE: write one of auto, direct, proxy" in problems


def test_a_missing_repository_says_how_to_give_it() -> None:
    with pytest.raises(SettingsError, match="--repo URL, HELIOSTAT_REPO"):
        load()
    assert load_settings({}, {}, default_state=STATE, needs_repo=False).repo == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [('rpeo = "x"', "unknown settings rpeo; known are"), ("repo = ", "Invalid value"), (None, "cannot read")],
)
def test_a_wrong_file_is_told(tmp_path: Path, content: str | None, message: str) -> None:
    config = tmp_path / "heliostat.toml"
    if content is not None:
        config.write_text(content)
    with pytest.raises(SettingsError, match=message):
        load({"config": str(config)})


def test_secrets_do_not_show(tmp_path: Path) -> None:
    settings = load({"repo": "https://bot:hunter2@git.example/specs.git"}, HELIOSTAT_RAY_TOKEN="s3cret-token")
    assert settings.ray_token is not None
    assert settings.ray_token.reveal() == "s3cret-token"
    assert settings.repo_shown == "https://git.example/specs.git"
    for text in (repr(settings), str(settings), f"{settings.ray_token!r}"):
        assert "s3cret-token" not in text
        assert "hunter2" not in text
    assert load({"repo": "ssh://git@git.example/x"}).repo_shown == "ssh://git@git.example/x"


def test_the_strongest_source_of_the_ray_token_wins(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    by_file = load({"repo": "r", "ray_token_file": str(file)}, HELIOSTAT_RAY_TOKEN="from-variable")
    assert by_file.ray_token is not None
    assert by_file.ray_token.reveal() == "from-file"
    config = tmp_path / "c.toml"
    config.write_text(f'repo = "r"\nray_token_file = "{file}"')
    by_variable = load({"config": str(config)}, HELIOSTAT_RAY_TOKEN="from-variable")
    assert by_variable.ray_token is not None
    assert by_variable.ray_token.reveal() == "from-variable"
    with pytest.raises(SettingsError, match="--ray-token-file: cannot read"):
        load({"repo": "r", "ray_token_file": str(tmp_path / "none")})


def test_hosts_that_may_be_called_are_read_from_everywhere(tmp_path: Path) -> None:
    config = tmp_path / "heliostat.toml"
    config.write_text('repo = "r"\nallow_hosts = ["Hooks.example", "[::1]:9000"]')
    wanted = (AllowedHost(host="hooks.example"), AllowedHost(host="::1", port=9000))
    assert load({"config": str(config)}).allow_hosts == wanted
    assert load({"config": str(config), "allow_hosts": ()}).allow_hosts == wanted
    assert load({"repo": "r"}, HELIOSTAT_ALLOW_HOSTS="hooks.example, [::1]:9000").allow_hosts == wanted
    assert load({"repo": "r", "allow_hosts": ("*.example:8443",)}).allow_hosts == (
        AllowedHost(host="*.example", port=8443),
    )
    assert [str(host) for host in wanted] == ["hooks.example", "[::1]:9000"]


@pytest.mark.parametrize("text", ["http://hooks.example", "hooks.example/path", "*", "a b", "h:0", "h:70000", "u@h"])
def test_what_is_no_host_is_refused_by_its_flag(text: str) -> None:
    with pytest.raises(SettingsError, match=r"--allow-host: .* is no host: write hooks\.example\.com"):
        load({"repo": "r", "allow_hosts": (text,)})


@pytest.mark.parametrize(
    ("rule", "host", "port", "allowed"),
    [
        (AllowedHost(host="hooks.example"), "Hooks.Example.", 443, True),
        (AllowedHost(host="hooks.example"), "hooks.example", 8080, False),
        (AllowedHost(host="hooks.example", port=8080), "hooks.example", 80, False),
        (AllowedHost(host="*.example"), "a.b.example", 80, True),
        (AllowedHost(host="*.example"), "example", 80, False),
    ],
)
def test_a_host_is_allowed_by_name_and_port(rule: AllowedHost, host: str, port: int, allowed: bool) -> None:
    assert rule.allows(host, port) is allowed


def test_credentials_of_the_metrics_server_are_not_shown() -> None:
    settings = load({"repo": "r", "prometheus": "http://ada:s3cret@prom.example:9090/"})
    assert settings.prometheus == "http://ada:s3cret@prom.example:9090"
    assert settings.prometheus_shown == "http://prom.example:9090"
    assert "s3cret" not in repr(settings)
