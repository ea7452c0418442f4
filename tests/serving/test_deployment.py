"""`deploy/`: nginx in front of replicas, containers, the systemd unit, and the template for vLLM."""

import http.client
import json
import re
import shlex
import shutil
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from live_server import live_server

from glassgpt.cli.commands import build_app
from glassgpt.data.chat.chat_template import TRANSCRIPT
from glassgpt.serving.limits import ServerLimits
from small_models import attentive_model

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
LIMITS = ServerLimits()
INSTRUCTIONS = {
    "ARG", "FROM", "ENV", "WORKDIR", "RUN", "COPY", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD",
}  # fmt: skip


def parses(arguments):
    """Return whether the command line of glassgpt accepts these arguments; raises if not."""
    build_app(arguments).parse_args(arguments, exit_on_error=False, print_error=False)
    return True


def test_commands_in_the_documentation_parse():
    lines = re.findall(r"^glassgpt [^#\n]*", (ROOT / "docs" / "serving.md").read_text(), re.MULTILINE)
    assert len(lines) > 6
    assert all(parses(shlex.split(line)[1:]) for line in lines)


# Containers


@pytest.fixture(scope="module")
def instructions():
    """(name, rest) of each instruction of the Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def test_dockerfile_has_known_instructions_and_copies_what_exists(instructions):
    assert {name for name, _ in instructions} <= INSTRUCTIONS
    ignored = (ROOT / ".dockerignore").read_text().split()
    for rest in [rest for name, rest in instructions if name == "COPY" and "--from" not in rest]:
        for source in rest.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored, source


def test_dockerfile_installs_extras_and_versions_that_exist(instructions):
    pyproject = (ROOT / "pyproject.toml").read_text()
    extras = re.search(r'"\.\[([\w,]+)\]"', " ".join(rest for name, rest in instructions if name == "RUN"))[1]
    assert all(f"\n{extra} = [" in pyproject for extra in extras.split(","))
    assert "serve" in extras.split(",")
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    minimum = re.search(r'requires-python = ">=3\.(\d+)"', pyproject)[1]
    python = next(rest for name, rest in instructions if name == "ARG" and rest.startswith("PYTHON="))
    assert int(python.rpartition(".")[2]) >= int(minimum)


def test_container_runs_a_command_that_parses_as_an_ordinary_user(instructions):
    last = dict(instructions)
    assert json.loads(last["ENTRYPOINT"]) == ["glassgpt"]
    command = json.loads(last["CMD"])
    assert parses(command)
    assert command[command.index("--port") + 1] == last["EXPOSE"]
    assert int(last["USER"]) > 0  # a number, not root
    assert f":{last['EXPOSE']}/health" in last["HEALTHCHECK"]


def test_compose_file_mounts_what_the_container_reads(instructions):
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    server, nginx = services["services"]["glassgpt"], services["services"]["nginx"]
    command = json.loads(dict(instructions)["CMD"])
    assert server["volumes"][0].rpartition("}:")[2].split(":") == [command[1], "ro"]
    assert [f"/run/secrets/{name}" for name in server["secrets"]] == [command[command.index("--api-key") + 1]]
    assert set(server["secrets"]) == set(services["secrets"])
    assert (DEPLOY / server["build"]["context"] / server["build"]["dockerfile"]).is_file()
    assert set(server["build"]["args"]) <= {rest.partition("=")[0] for name, rest in instructions if name == "ARG"}
    assert server["deploy"]["replicas"] > 1
    for service in (server, nginx):
        assert float(service["stop_grace_period"].removesuffix("s")) > LIMITS.drain_seconds
    file, inside, _ = nginx["volumes"][0].split(":")
    assert (DEPLOY / file).is_file()
    assert inside == "/etc/nginx/nginx.conf"
    port = nginx["ports"][0].rpartition(":")[2]
    assert f"listen {port};" in (DEPLOY / "nginx.conf").read_text()


# systemd


def test_systemd_unit_starts_a_command_that_parses():
    unit = (DEPLOY / "glassgpt.service").read_text()
    line = re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)[1].replace("$ARGUMENTS", "").replace("${RUN}", "run")
    program, *arguments = shlex.split(line)
    assert Path(program).name == "glassgpt"
    assert parses(arguments)
    assert int(re.search(r"TimeoutStopSec=(\d+)", unit)[1]) > LIMITS.drain_seconds
    assert re.search(r"LoadCredential=(\w+):", unit)[1] == "api_keys"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path):
    unit = (DEPLOY / "glassgpt.service").read_text().replace("/opt/glassgpt/bin/glassgpt", "/bin/true")
    file = tmp_path / "glassgpt.service"
    file.write_text(unit)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", file], capture_output=True, text=True)
    found = [line for line in (done.stdout + done.stderr).splitlines() if "glassgpt" in line]
    assert found == []
    assert done.returncode == 0, done.stderr


# nginx


@pytest.fixture(scope="module")
def config():
    return (DEPLOY / "nginx.conf").read_text()


def test_limits_of_nginx_are_those_of_the_server(config):
    def value(name):
        return re.search(rf"^\s*{name} ([^;]*);", config, re.MULTILINE)[1]

    assert int(value("client_max_body_size").removesuffix("m")) << 20 == LIMITS.max_body_bytes
    assert int(value("large_client_header_buffers").split()[1].removesuffix("k")) << 10 == LIMITS.max_header_bytes
    assert float(value("client_header_timeout").removesuffix("s")) == LIMITS.header_seconds
    assert float(value("client_body_timeout").removesuffix("s")) == LIMITS.body_seconds
    assert float(value("proxy_read_timeout").removesuffix("s")) > LIMITS.request_seconds


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def proxied(config, tmp_path_factory):
    """Addresses of nginx and of the two servers behind it."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed")
    folder, model, port = tmp_path_factory.mktemp("nginx"), attentive_model(), free_port()
    folder.chmod(0o755)
    with live_server(model, names=("tiny",)) as one, live_server(model, names=("tiny",)) as two:
        servers = "".join(f"server {urlsplit(each).netloc} max_fails=2 fail_timeout=5s; " for each in (one, two))
        text = re.sub(r"server glassgpt:8000[^;]*;", servers, config)
        text = text.replace("listen 8080;", f"listen 127.0.0.1:{port};").replace(
            "worker_processes auto", "worker_processes 1"
        )
        text = text.replace("/tmp/", f"{folder}/").replace("/dev/stdout", f"{folder}/access.log")
        file = folder / "nginx.conf"
        file.write_text(text)
        command = [nginx, "-c", file, "-p", folder, "-g", "daemon off;"]
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
        process = subprocess.Popen(command, stderr=(folder / "error.log").open("w"))
        try:
            end = time.monotonic() + 20
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert process.poll() is None, (folder / "error.log").read_text()
                assert time.monotonic() < end
                time.sleep(0.02)
            yield f"127.0.0.1:{port}", urlsplit(one).netloc, urlsplit(two).netloc
        finally:
            process.terminate()
            process.wait(20)


def call(address, method, path, body=None, **headers):
    """Return status, headers and content."""
    connection = http.client.HTTPConnection(address, timeout=20)
    content = json.dumps(body) if isinstance(body, dict) else body
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, content, {"content-type": "application/json"} | given)
    response = connection.getresponse()
    found = response.status, dict(response.getheaders()), response.read()
    connection.close()
    return found


COMPLETION = {"prompt": "the cat", "max_tokens": 5, "seed": 1}


def generated(address):
    """Tokens that a server has generated."""
    text = call(address, "GET", "/metrics")[2].decode()
    return sum(float(each) for each in re.findall(r"^glassgpt:generation_tokens_total\S* (\S+)$", text, re.MULTILINE))


def test_answers_come_through_unchanged(proxied):
    nginx, one, _ = proxied
    direct, through = (call(address, "POST", "/v1/completions", COMPLETION) for address in (one, nginx))
    assert through[0] == direct[0] == 200
    assert json.loads(through[2])["choices"] == json.loads(direct[2])["choices"]
    assert through[1]["x-request-id"]
    assert "nginx/" not in through[1]["Server"]
    page = call(nginx, "GET", "/", origin=f"http://{nginx}")
    assert page[0] == 200
    assert b"page/main.js" in page[2]


def test_events_are_not_buffered_and_leaving_ends_the_request(proxied):
    nginx, *servers = proxied
    endless = {**COMPLETION, "max_tokens": 200_000, "overflow": "re-prefill", "ignore_eos": True, "stream": True}
    connection = http.client.HTTPConnection(nginx, timeout=20)
    connection.request("POST", "/v1/completions", json.dumps(endless), {"content-type": "application/json"})
    response = connection.getresponse()
    first = response.readline()  # long before the end
    assert first.startswith(b"data: {")
    response.close()
    connection.close()
    end = time.monotonic() + 10
    while any(b"num_requests_running{model_name=\"tiny\"} 0.0" not in call(each, "GET", "/metrics")[2] for each in servers):  # fmt: skip
        assert time.monotonic() < end
        time.sleep(0.05)


def test_session_stays_at_one_server_and_others_are_spread(proxied):
    nginx, *servers = proxied
    before = [generated(each) for each in servers]
    for _ in range(6):
        assert call(nginx, "POST", "/v1/completions", COMPLETION, x_session_id="mine")[0] == 200
    after = [generated(each) for each in servers]
    assert sorted(new - old for new, old in zip(after, before, strict=True)) == [0, 30]
    for number in range(24):
        call(nginx, "POST", "/v1/completions", COMPLETION, x_session_id=f"session {number}")
    spread = [generated(each) - old for each, old in zip(servers, after, strict=True)]
    assert min(spread) > 0


def test_oversized_requests_end_at_nginx(proxied):
    nginx, *_ = proxied
    status, headers, content = call(nginx, "POST", "/v1/completions", b"x" * (LIMITS.max_body_bytes + 1))
    assert (status, headers["Content-Type"]) == (413, "application/json")
    assert json.loads(content)["error"]["code"] == "too_large"
    assert call(nginx, "GET", "/health", x_large="x" * (LIMITS.max_header_bytes + 1))[0] in (400, 431)
    assert call(nginx, "GET", "/health")[0] == 200


def test_pages_of_other_sites_are_refused_behind_nginx_too(proxied):
    nginx, *_ = proxied
    assert call(nginx, "POST", "/v1/completions", COMPLETION, origin="http://elsewhere")[0] == 403


# vLLM


def test_template_for_vllm_gives_the_same_prompts():
    jinja2 = pytest.importorskip("jinja2")
    text = (DEPLOY / "transcript.jinja").read_text()
    messages = [("system", "Be brief."), ("user", "Hi {{ x }}"), ("assistant", "Yes"), ("user", "두 번째\nline")]
    as_dicts = [{"role": role, "content": content} for role, content in messages]
    # As transformers and vLLM set up their environment.
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    assert environment.from_string(text).render(messages=as_dicts) == TRANSCRIPT.prompt(messages)
