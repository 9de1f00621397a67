"""Packs what a compute node without a network connection needs to run Procgen, for one Python version.

python tools/airgap_bundle.py --python 3.12 --out airgap     on this machine
. /path/to/airgap/env.sh                                     on the node, then train as usual

The folder contains `bundle.tar.xz`, `env.sh` and `README.txt`. The first time, sourcing `env.sh` unpacks the archive to
`site` (Python packages) and `lib` (system libraries) beside itself; packed, it is less than half as large.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
PACKAGES = (
    "envpool",
    "envpool-assets",
    "pyqt5-qt5",
    "gymnasium",
    "farama-notifications",
    "optree",
    "dm-env",
    "dm-tree",
    "tyro",
    "docstring-parser",
    "typeguard",
)
# pip matches tags literally, so older tags must be listed too.
PLATFORMS = tuple(f"manylinux{tag}_x86_64" for tag in ("_2_28", "_2_27", "_2_24", "_2_17", "_2_5", "2014", "1"))
QT_FOLDER = "PyQt5/Qt5/lib"
# As in bcvlr_fast/envs/pool.py, because this tool runs without the package installed.
QT_LIBRARIES = ("libicudata.so.56", "libicuuc.so.56", "libicui18n.so.56", "libQt5Core.so.5", "libQt5Gui.so.5")
# Prefixes of the paths that are kept of each wheel beside its metadata; other wheels are kept whole.
KEPT = {
    "envpool": ("envpool/__init__", "envpool/entry", "envpool/registration", "envpool/procgen/", "envpool/python/"),
    "envpool-assets": ("envpool_assets/__init__.py", "envpool_assets/procgen/"),
    "pyqt5-qt5": tuple(f"{QT_FOLDER}/{library}" for library in QT_LIBRARIES),
}
# A host that runs Python and PyTorch has these libraries and must use its own.
HOST_LIBRARIES = re.compile(r"lib(c|m|dl|pthread|rt|util|z|stdc\+\+|gcc_s)\.so\.|ld-linux|linux-vdso")
ARCHIVE = "bundle.tar.xz"
UNPACKED = ("lib", "site")
OWN_NAMES = {ARCHIVE, "env.sh", "README.txt", *UNPACKED}

ENV_SH = """\
# Source this file: . /path/to/this/env.sh
# bash names this file; other shells still have it open ($$ would be wrong in a subshell).
_airgap=${BASH_SOURCE:-}
if [ -z "$_airgap" ]; then
    for _file in /proc/$(exec sh -c 'echo $PPID')/fd/*; do
        _file=$(readlink "$_file" || :)
        if [ "${_file##*/}" = env.sh ] && [ -e "${_file%/*}/ARCHIVE" ]; then _airgap=$_file; fi
    done
fi
if [ -z "$_airgap" ]; then
    echo "env.sh: cannot find its own folder from this shell: source it from bash" >&2
    return 1
fi
_airgap=$(cd "$(dirname "$_airgap")" && pwd)
if [ ! -d "$_airgap/site" ]; then
    "$(command -v python3 || command -v python)" - "$_airgap" <<'END' || return 1
import os, sys, tempfile
folder = sys.argv[1]
try:
    import tarfile
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        with tarfile.open(f"{folder}/ARCHIVE", "r:xz") as archive:
            archive.extractall(scratch, filter="data")
        for part in ("lib", "site"):
            try:
                os.rename(f"{scratch}/{part}", f"{folder}/{part}")
            except OSError:
                # Another process may have unpacked the same files first.
                if not os.path.isdir(f"{folder}/{part}"):
                    raise
except (OSError, tarfile.TarError) as error:
    sys.exit(f"env.sh: cannot unpack {folder}/ARCHIVE: {error}")
END
fi
export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$_airgap/site"
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$_airgap/lib"
unset _airgap _file
""".replace("ARCHIVE", ARCHIVE)

README = """\
Procgen for bcvlr_fast without network: Python {python}, Linux x86-64, glibc {glibc} or newer.

    . /path/to/this/folder/env.sh
    python -m bcvlr_fast.train --env procgen:bossfight

The first line unpacks {archive} beside itself, once ({unpacked:.0f} MiB), and needs a writable folder.
The Python of the node provides torch, numpy, numba, matplotlib, rich, safetensors, cloudpickle, wrapt,
typing-extensions, absl-py and attrs. Packed: {packages}.
"""


class BundleError(Exception):
    """An error, described in one line."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="Python version of the node, e.g. 3.12")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument(
        "--platform", action="append", help=f"wheel platform; repeatable (default: {' '.join(PLATFORMS)})"
    )
    parser.add_argument(
        "--package", action="append", default=[], metavar="NAME==VERSION", help="additional package; repeatable"
    )
    parser.add_argument(
        "--max-mib", type=float, default=45.0, help="maximum size of the packed folder in MiB (default: 45)"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing bundle")
    args = parser.parse_args(argv)
    try:
        build(args.out, args.python, args.platform or PLATFORMS, args.package, args.max_mib, args.force)
    except BundleError as error:
        print(f"airgap_bundle: {error}", file=sys.stderr)
        return 2
    return 0


def build(
    out: Path, python: str, platforms: Sequence[str], packages: Sequence[str], max_mib: float, force: bool
) -> None:
    """Writes the bundle to `out`, which is unchanged if anything fails. Raises BundleError."""
    if not re.fullmatch(r"3\.\d+", python):
        raise BundleError(f"--python: expected a version such as 3.12, found {python}")
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise BundleError("system libraries are copied from this machine, which has to be Linux on x86-64")
    check_target(out, force)
    pins = requirements(packages)
    with tempfile.TemporaryDirectory(prefix="airgap-") as scratch:
        wheels, tree, packed = Path(scratch, "wheels"), Path(scratch, "tree"), Path(scratch, "packed")
        packed.mkdir()
        download(wheels, pins, python, platforms)
        for wheel in sorted(wheels.glob("*.whl")):
            unpack(wheel, tree / "site")
        trim_entry(tree / "site/envpool/entry.py")
        copy_system_libraries(tree / "site", tree / "lib")
        pack(tree, packed / ARCHIVE)
        (packed / "env.sh").write_text(ENV_SH)
        glibc = platform.libc_ver()[1]
        readme = README.format(
            python=python, glibc=glibc, archive=ARCHIVE, unpacked=size(tree) / MIB, packages=", ".join(pins)
        )
        (packed / "README.txt").write_text(readme)
        report(tree, packed)
        if size(packed) > max_mib * MIB:
            raise BundleError(f"{size(packed) / MIB:.1f} MiB packed, over the limit of {max_mib:g} (--max-mib)")
        clear(out)
        for file in packed.iterdir():
            shutil.move(file, out / file.name)


def check_target(out: Path, force: bool) -> None:
    """Raises BundleError if `out` is not empty; with `force`, if it contains anything but a bundle."""
    if out.exists() and not out.is_dir():
        raise BundleError(f"--out: {out} is a file; name a folder")
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    if names - OWN_NAMES:
        raise BundleError(
            f"--out: {out} holds {sorted(names - OWN_NAMES)[0]}, which is not part of a bundle; name a new folder"
        )
    if names and not force:
        raise BundleError(f"--out: {out} is not empty; name a new folder, or replace the bundle with --force")


def clear(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in OWN_NAMES:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)


def requirements(extra: Sequence[str]) -> list[str]:
    """`name==version` of each package, from `extra`, else constraints.txt, else the installed version."""
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines() if (ROOT / "constraints.txt").exists() else ():
        name, equals, version = line.partition("==")
        if equals:
            pins[normal(name)] = version.split("#")[0].split(";")[0].strip()
    chosen = {name: pins.get(name) or installed(name) for name in PACKAGES}
    for requirement in extra:
        name, equals, version = requirement.partition("==")
        if not (name and equals and version):
            raise BundleError(f"--package: expected NAME==VERSION, found {requirement}")
        chosen[normal(name)] = version
    return [f"{name}=={version}" for name, version in chosen.items()]


def installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise BundleError(f"no version known of {name}: neither in constraints.txt nor installed here") from None


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).strip().lower()


def download(wheels: Path, pins: Sequence[str], python: str, platforms: Sequence[str]) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp", "--dest", str(wheels)]
    command += [word for name in platforms for word in ("--platform", name)]
    done = subprocess.run([*command, *pins], capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or done.stderr.splitlines()
        raise BundleError(f"pip, for Python {python}: {errors[-1] if errors else 'failed without a message'}")


def unpack(wheel: Path, site: Path) -> None:
    kept = KEPT.get(normal(wheel.name.split("-")[0]))
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            path = PurePosixPath(entry.filename)
            metadata = path.parts[0].endswith(".dist-info")
            if entry.is_dir() or (kept and not metadata and not entry.filename.startswith(kept)):
                continue
            if path.parts[0].endswith(".data"):
                if path.parts[1] not in ("purelib", "platlib"):
                    continue
                entry.filename = str(PurePosixPath(*path.parts[2:]))
            archive.extract(entry, site)


def trim_entry(entry: Path) -> None:
    """Removes EnvPool's imports of suites other than Procgen, which are not in the bundle."""
    lines = entry.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("import envpool.") or "envpool.procgen." in line]
    if kept == lines or not any("envpool.procgen." in line for line in kept):
        raise BundleError("envpool/entry.py does not import its suites line by line: adapt trim_entry to this EnvPool")
    entry.write_text("".join(kept))


def copy_system_libraries(site: Path, lib: Path) -> None:
    """Copies the system libraries that the packages load, and their dependencies, to `lib`."""
    lib.mkdir()
    environment = {**os.environ, "LC_ALL": "C", "LD_LIBRARY_PATH": str(site / QT_FOLDER)}
    for library in sorted(path for path in site.rglob("*.so*") if path.is_file()):
        listed = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=False, env=environment)
        for name, path in re.findall(r"(\S+) => (not found|/\S+)", listed.stdout):
            if path == "not found":
                raise BundleError(f"{library.name} needs {name}, missing here (apt-get install libgl1 libglib2.0-0)")
            if not HOST_LIBRARIES.match(name) and not Path(path).is_relative_to(site) and not (lib / name).exists():
                shutil.copyfile(path, lib / name)


def pack(tree: Path, archive: Path) -> None:
    """Writes a reproducible archive: the same files give the same bytes."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o755 if entry.isdir() else 0o644
        return entry

    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for part in UNPACKED:
            tar.add(tree / part, part, filter=plain)


def report(tree: Path, packed: Path) -> None:
    for name, paths in parts(tree):
        print(f"{sum(map(size, paths)) / MIB:8.2f} MiB  {name}")
    print(f"{size(tree) / MIB:8.2f} MiB  total, unpacked")
    print(f"{size(packed) / MIB:8.2f} MiB  packed")


def parts(tree: Path) -> Iterator[tuple[str, list[Path]]]:
    yield "Qt and ICU", [tree / "site" / QT_FOLDER]
    yield "Procgen's pictures", [tree / "site/envpool_assets"]
    yield "EnvPool", [tree / "site/envpool"]
    named = {"PyQt5", "envpool_assets", "envpool"}
    yield "other packages and metadata", [path for path in (tree / "site").iterdir() if path.name not in named]
    yield "system libraries: " + " ".join(sorted(path.name for path in (tree / "lib").iterdir())), [tree / "lib"]


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


if __name__ == "__main__":
    sys.exit(main())
