"""How long the project is: lines of code, docstrings, comments and blanks; `python scripts/size.py [FOLDER]`.

A line counts as code where a token of code stands on it, the inside of a string that is no docstring included.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

NOT_CODE = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}


def docstrings(tree: ast.Module) -> set[int]:
    """Lines of docstrings, those under attributes included: every string that is a statement of its own."""
    strings = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    return {line for string in strings for line in range(string.lineno, (string.end_lineno or string.lineno) + 1)}


def count(source: str) -> Counter[str]:
    """Lines of one file by kind."""
    docs = docstrings(ast.parse(source))
    code: set[int] = set()
    comments: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments.add(token.start[0])
        elif token.type not in NOT_CODE and token.start[0] not in docs:
            code.update(range(token.start[0], token.end[0] + 1))
    total = len(source.splitlines())
    found = Counter(all=total, code=len(code), docstrings=len(docs), comments=len(comments - code))
    found["blank"] = total - found["code"] - found["docstrings"] - found["comments"]
    return found


def main() -> None:
    """Print a table: Python by folder, then JavaScript and CSS, whole lines."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    kinds = ("code", "docstrings", "comments", "blank", "all")
    rows: dict[str, Counter[str]] = {}
    for folder in ("src", "tools"):
        for file in sorted((root / folder).rglob("*.py")):
            parts = file.relative_to(root / folder).parts
            name = "/".join((folder, *parts[:2][: len(parts) - 1]))
            counted = count(file.read_text(encoding="utf-8"))
            rows.setdefault(name, Counter()).update(counted)
            rows.setdefault("Python", Counter()).update(counted)
    rows["Python"] = rows.pop("Python", Counter())
    print(f"{'':28}" + "".join(f"{kind:>12}" for kind in kinds))
    for name, counted in rows.items():
        print(f"{name:28}" + "".join(f"{counted[kind]:12,}" for kind in kinds))
    for suffix in ("js", "css"):
        lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in (root / "src").rglob(f"*.{suffix}"))
        print(f"{suffix:28}{'':48}{lines:12,}")


if __name__ == "__main__":
    main()
