#!/usr/bin/env python3
"""The project's one tool: standard library only, no shell. ``python3 dev.py`` lists the words.

The environment is made when it is first needed, and again when a pyproject.toml changes. It is ``.venv``, or the folder
that ECHOKERNEL_DEV_ENV names. uv is used where it is installed, otherwise venv and pip.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys

if sys.version_info < (3, 11):  # noqa: UP036 - that is what this line is for
    sys.exit("echokernel needs Python 3.11 or newer; " + sys.executable + " is " + sys.version.split()[0])

import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENV = Path(os.environ.get("ECHOKERNEL_DEV_ENV") or ROOT / ".venv").absolute()
BIN = ENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
STAMP = ENV / "echokernel-dev.stamp"
QUICKSTART = ROOT / "contrib" / "examples" / "quickstart" / "config.toml"
VERSION = ".".join(map(str, sys.version_info[:2]))
HELP = """usage: python3 dev.py WORD [ARGUMENT ...]

  run       serve the quickstart; arguments go to `echokernel run`
  test      pytest over everything; arguments go to pytest
  matrix    tox over all Pythons that are here; arguments go to tox
  lint      ruff and mypy --strict
  WORD      anything else runs inside the environment: python3 dev.py echokernel --help
"""


def projects() -> list[Path]:
    """Return the folders of all distributions, the root's first."""
    return [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]


def requirements(level: str) -> list[str]:
    """Return what goes into the environment: every distribution, editable, and at level ``dev`` the tools as well."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    groups, tools, waiting = table["dependency-groups"], [], ["dev"] if level == "dev" else []
    while waiting:  # pip learned to read groups in 25.1; older ones are everywhere
        for entry in groups[waiting.pop()]:
            if isinstance(entry, dict):
                waiting.append(entry["include-group"])
            elif not entry.startswith("echokernel"):
                tools.append(entry)
    editable = [option for path in projects() for option in ("-e", str(path))]
    return [*editable, *tools, *table["project"]["optional-dependencies"]["speed"]]


def stamp(level: str) -> str:
    """Return what the environment depends on, as text: another text means that it is out of date."""
    digest = hashlib.sha256()
    for path in projects():
        digest.update(b"%s\0%s\0" % (bytes(path.relative_to(ROOT)), (path / "pyproject.toml").read_bytes()))
    return f"{level} {VERSION} {ROOT} {digest.hexdigest()}\n"


def is_fresh(level: str) -> bool:
    return PYTHON.exists() and STAMP.exists() and STAMP.read_text("utf-8") in (stamp("dev"), stamp(level))


def call(*command: "str | Path", check: bool = True, cwd: "Path | None" = None) -> int:
    """Run a command and return its exit code; a failure ends dev.py with it, unless ``check`` is off."""
    code = subprocess.run(command, cwd=cwd).returncode
    if check and code:
        sys.exit(code if code > 0 else 128 - code)
    return code if code >= 0 else 128 - code


def works(*command: "str | Path") -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Keep a second dev.py waiting while this one changes the environment."""
    ENV.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{ENV}.lock", "w") as file:
        try:
            import fcntl
        except ImportError:  # Windows
            pass
        else:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def ensure(level: str) -> None:
    """Make the environment, or bring it up to date."""
    if is_fresh(level):
        return
    with alone():
        if is_fresh(level):
            return
        uv = shutil.which("uv")
        os.environ["UV_PYTHON_DOWNLOADS"] = "never"
        if not works(PYTHON, "-c", f"import sys; sys.exit('%d.%d' % sys.version_info[:2] != '{VERSION}')"):
            print(f"dev.py: making {ENV} with Python {VERSION}", file=sys.stderr)
            if ENV.exists() and not (ENV / "pyvenv.cfg").exists() and any(ENV.iterdir()):
                sys.exit(f"dev.py: {ENV} is there and is no virtual environment; it was left alone")
            shutil.rmtree(ENV, ignore_errors=True)
            make(uv)
        print(f"dev.py: installing into {ENV}", file=sys.stderr)
        if uv:
            call(uv, "pip", "install", "--quiet", "--python", PYTHON, *requirements(level), cwd=ROOT)
        else:
            if not works(PYTHON, "-m", "pip", "--version"):
                bootstrap()
            options = ["--quiet", "--disable-pip-version-check"]
            call(PYTHON, "-m", "pip", "install", *options, *requirements(level), cwd=ROOT)
        STAMP.write_text(stamp(level), "utf-8")


def make(uv: "str | None") -> None:
    if uv:
        call(uv, "venv", "--quiet", "--python", sys.executable, ENV)
    elif not works(sys.executable, "-m", "venv", ENV):  # Debian's Python comes without what fills it with pip
        shutil.rmtree(ENV, ignore_errors=True)
        call(sys.executable, "-m", "venv", "--without-pip", ENV)
        bootstrap()


def bootstrap() -> None:
    """Put pip into the environment, from ensurepip or from the pip of the Python that runs this."""
    if not works(PYTHON, "-m", "ensurepip") and not works(
        sys.executable, "-m", "pip", "--python", PYTHON, "install", "--quiet", "pip"
    ):
        shutil.rmtree(ENV, ignore_errors=True)
        sys.exit("dev.py: this Python has neither ensurepip nor pip; on Debian and Ubuntu: apt install python3-venv")


def pythons() -> dict[str, Path]:
    """Return the folders of the Pythons that are here, by minor version: pyenv's newest ones, then those on PATH."""
    found: dict[str, tuple[int, Path]] = {}
    for path in Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv").glob("versions/3.*"):
        match = re.fullmatch(r"(3\.\d+)\.(\d+)", path.name)
        if match and (path / "bin" / "python3").exists() and int(match[2]) >= found.get(match[1], (0, path))[0]:
            found[match[1]] = (int(match[2]), path / "bin")
    folders = {minor: folder for minor, (_, folder) in found.items()}
    for minor in ("3.11", "3.12", "3.13"):
        on_path = shutil.which(f"python{minor}")
        if minor not in folders and on_path and works(on_path, "-c", ""):
            folders[minor] = Path(on_path).parent
    return folders


def matrix(arguments: list[str]) -> int:
    here = pythons()
    os.environ["UV_PYTHON_DOWNLOADS"] = "never"
    os.environ["PATH"] = os.pathsep.join([*(str(folder) for folder in here.values()), os.environ["PATH"]])
    if any(argument in ("list", "l") or argument.startswith("-e") for argument in arguments):
        return call(PYTHON, "-m", "tox", *arguments, check=False, cwd=ROOT)
    listed = subprocess.run([PYTHON, "-m", "tox", "list", "--no-desc", "-q"], cwd=ROOT, capture_output=True, text=True)
    chosen, missing = [], set()
    for name in listed.stdout.split():
        match = re.match(r"py3(\d+)", name)
        minor = f"3.{match[1]}" if match else VERSION
        if minor in here or minor == VERSION:
            chosen.append(name)
        else:
            missing.add(minor)
    if not chosen:
        sys.exit(f"dev.py: no environment of tox.ini can run here\n{listed.stdout}{listed.stderr}")
    warnings = [f"WARNING: Python {minor} is not here, so nothing was tested with it" for minor in sorted(missing)]
    print(*warnings, sep="\n", flush=True)
    how = ["run-parallel", "--parallel", "2", "--parallel-no-spinner"]  # much of the suites is waiting
    code = call(PYTHON, "-m", "tox", *how, "-e", ",".join(chosen), *arguments, check=False, cwd=ROOT)
    print(*warnings, sep="\n", flush=True)
    return code


def lint() -> int:
    ruff = call(PYTHON, "-m", "ruff", "check", check=False, cwd=ROOT)
    return call(PYTHON, "-m", "mypy", check=False, cwd=ROOT) or ruff


def main() -> int:
    word, *arguments = sys.argv[1:] or ["--help"]
    if word in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    ensure("run" if word in ("run", "echokernel") else "dev")  # serving needs no linter
    os.environ["VIRTUAL_ENV"] = str(ENV)
    os.environ["PATH"] = os.pathsep.join([str(BIN), os.environ.get("PATH", "")])
    os.environ.pop("PYTHONHOME", None)
    if word == "matrix":
        return matrix(arguments)
    if word == "lint":
        return lint()
    command = [word, *arguments]
    if word == "run":
        command = ["echokernel", "run", str(QUICKSTART), *arguments]
    elif word == "test":
        command = [str(PYTHON), "-m", "pytest", *arguments]
        os.chdir(ROOT)
    program = shutil.which(command[0])
    if program is None:
        print(f"dev.py: there is no command {command[0]!r}\n\n{HELP}", end="", file=sys.stderr)
        return 127
    if os.name != "nt":  # Ctrl-C, signals and the exit code go straight to and from the command
        sys.stdout.flush()
        os.execv(program, command)
    return call(*command, check=False)


if __name__ == "__main__":
    sys.exit(main())
