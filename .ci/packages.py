#!/usr/bin/env python3
"""Checks what a package shows to its users: metadata, licence files, contents and links of the README.

Takes the JSON of `cargo metadata --no-deps`. With --release, the addresses must be set as well.
"""

import json
import os
import re
import subprocess
import sys

# The limits of crates.io
KEYWORDS = 5
KEYWORD = re.compile(r"[a-z0-9][a-z0-9_+-]{0,19}$")
CATEGORIES = {
    "asynchronous", "development-tools::testing", "encoding", "network-programming", "simulation",
    "web-programming::websocket",
}
# Files of a package besides those in src
FILES = {
    ".cargo_vcs_info.json", "CHANGELOG.md", "Cargo.lock", "Cargo.toml", "Cargo.toml.orig", "LICENSE-APACHE",
    "LICENSE-MIT", "README.md", "SECURITY.md",
}

with open(sys.argv[1]) as file:
    packages = json.load(file)["packages"]
release = "--release" in sys.argv
root = os.getcwd()
errors = []


def error(name, text):
    errors.append(f"{name}: {text}")


def anchors(path):
    """Returns the anchors of a page's titles, as GitHub makes them."""
    with open(path) as file:
        text = re.sub(r"(?ms)^```.*?^```", "", file.read())
    titles = re.findall(r"(?m)^#+ +(.*)$", text)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


def check_links(name, page):
    with open(page) as file:
        text = re.sub(r"(?ms)^```.*?^```", "", file.read())
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?m)^\[[^\]]+\]: (\S+)", text)
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        # crates.io resolves a relative link against the file's place in the repository
        file = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
        if not os.path.exists(file) or not os.path.abspath(file).startswith(root):
            error(name, f"{os.path.relpath(page)} links to {target}, which does not exist")
        elif anchor and file.endswith(".md") and anchor not in anchors(file):
            error(name, f"{os.path.relpath(page)} links to {target}, and {path or 'it'} has no such title")


for package in sorted(packages, key=lambda package: package["name"]):
    name = package["name"]
    if package["publish"] == []:
        continue
    folder = os.path.relpath(os.path.dirname(package["manifest_path"]))
    for key in ("description", "license", "rust_version", "readme"):
        if not package[key]:
            error(name, f"no {key.replace('_', '-')}")
    if release:
        for key in ("repository", "homepage", "documentation"):
            if not re.match(r"https://", package[key] or ""):
                error(name, f"no {key}: it is set once, in [workspace.package] of Cargo.toml")
    keywords, categories = package["keywords"], package["categories"]
    if not 3 <= len(keywords) <= KEYWORDS or not all(map(KEYWORD.match, keywords)):
        error(name, f"keywords that crates.io refuses, or fewer than three: {keywords}")
    if not categories or not set(categories) <= CATEGORIES:
        error(name, f"no categories, or one that this script does not know: {categories}")
    docs = (package["metadata"] or {}).get("docs", {}).get("rs", {})
    if docs.get("all-features") is not True or docs.get("rustdoc-args") != ["--cfg", "docsrs"]:
        error(name, "no settings for docs.rs")
    with open(os.path.join(folder, "src", "lib.rs")) as file:
        if "#![cfg_attr(docsrs, feature(doc_cfg))]" not in file.read():
            error(name, "src/lib.rs has no feature badges: #![cfg_attr(docsrs, feature(doc_cfg))]")
    for licence in ("LICENSE-MIT", "LICENSE-APACHE"):
        path = os.path.join(folder, licence)
        if not os.path.exists(path) or open(path).read() != open(licence).read():
            error(name, f"{licence} is missing or not that of the repository")
    listed = subprocess.run(
        ["cargo", "package", "--list", "--allow-dirty", "--locked", "--offline", "-p", name],
        check=True, capture_output=True, text=True,
    ).stdout.split()
    stray = [
        path for path in listed
        if not (re.fullmatch(r"src/.*\.(rs|md)", path) or path in FILES or re.fullmatch(r"docs/[\w-]+\.md", path))
    ]
    if stray:
        error(name, f"stray files in the package: {' '.join(stray)}")
    for path in ("README.md", "LICENSE-MIT", "LICENSE-APACHE"):
        if path not in listed:
            error(name, f"the package has no {path}")
    for path in listed:
        if path.endswith(".md"):
            page = os.path.join(folder, path)
            if path.startswith("src/"):
                continue
            check_links(name, page)
    print(f"{name}: {len(listed)} files")

for text in errors:
    print(f"error: {text}", file=sys.stderr)
sys.exit(bool(errors))
