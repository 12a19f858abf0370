"""Who imports whom, and how long things are: read from the source, nothing is run."""

import ast
import io
import tokenize

import pytest
from conftest import REPOSITORY

SCRIPTS = {"prepare_data", "model", "train", "evaluate", "downscale", "utils"}
SOURCES = {path.stem if path.parent == REPOSITORY else f"icesheet.{path.stem}": path.read_text()
           for path in [*REPOSITORY.glob("*.py"), *(REPOSITORY / "icesheet").glob("*.py")]}


def imports_of(source):
    """Names of the project's modules that a source imports, on whatever line."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names & SOURCES.keys()


IMPORTS = {name: imports_of(source) for name, source in SOURCES.items()}


def test_top_level_holds_the_six_scripts_and_nothing_else():
    assert {name for name in SOURCES if "." not in name} == SCRIPTS


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_imports_go_one_way(name):
    """Scripts import the package and utils, the package imports utils alone, utils nothing."""
    if name == "utils":
        assert not IMPORTS[name]
    elif name not in SCRIPTS:
        assert IMPORTS[name] & SCRIPTS <= {"utils"}
    reached, todo = set(), [name]
    while todo:
        todo += IMPORTS[todo.pop()] - reached
        reached |= set(todo)
    assert name not in reached  # no circle


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_nothing_is_longer_than_a_reader_likes(name):
    source = SOURCES[name]
    assert source.count("\n") <= (450 if name in SCRIPTS else 500)
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in ast.walk(ast.parse(source))
               if isinstance(node, ast.FunctionDef)}
    if name == "train":
        del lengths["train"]  # the loop is read in one go
    assert {function: lines for function, lines in lengths.items() if lines > 50} == {}


def test_comments_say_why_in_the_scripts():
    n_comments = len({(name, token.start[0]) for name in SCRIPTS for token in
                      tokenize.generate_tokens(io.StringIO(SOURCES[name]).readline)
                      if token.type == tokenize.COMMENT and "noqa" not in token.string})
    assert n_comments >= 0.06 * sum(SOURCES[name].count("\n") for name in SCRIPTS)
