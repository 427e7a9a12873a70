"""Later versions of the library, as copies of it in a folder: with migrations of their own, and code that fits them."""

import re
from pathlib import Path
from shutil import copytree, ignore_patterns

import sqlalchemy as sql

import holdfast

SOURCE = Path(holdfast.__file__).parent
_MIGRATE = "infrastructure/store/_sql_migrate.py"
_VERSIONS = "infrastructure/store/_migrations/versions"
_SCRIPT = """
import sqlalchemy as sa
from alembic import op
from holdfast.infrastructure.store._migrations.advance import ADVANCE
from holdfast.infrastructure.store._migrations.claim import CLAIM

revision = {revision!r}
down_revision = {before!r}

def upgrade():
    bind = op.get_bind()
{body}
"""
# What versions that only add do: those who do not know them can go on. Each leaves a row, as often as it is run.
_ADDS = {
    "next_1": """
    op.add_column("jobs", sa.Column("owner", sa.Text, server_default="", nullable=False))
    op.create_index("jobs_owner", "jobs", ["owner"])
    op.execute("UPDATE jobs SET owner = 'shop'")
    op.create_table("migrations", sa.Column("version", sa.Text), sa.Column("steps", sa.Integer))
    op.execute("INSERT INTO migrations SELECT 'next_1', count(*) FROM steps")
    """,
    "next_2": """
    op.add_column("steps", sa.Column("colour", sa.Text))
    op.execute("UPDATE steps SET colour = 'green' WHERE state = 'succeeded'")
    op.execute("INSERT INTO migrations SELECT 'next_2', count(*) FROM steps WHERE colour = 'green'")
    """,
}
# A version that renames a table: those who do not know it cannot go on.
_RENAMES = {
    "next_1": """
    op.rename_table("workers", "crew")
    if bind.dialect.name == "postgresql":
        schema = bind.scalar(sa.text("SELECT quote_ident(current_schema())"))
        for function in (ADVANCE, CLAIM):
            bind.exec_driver_sql(function.format(schema=schema))
    """,
}
_RENAMED = (("@workers", "@crew"), ("FROM workers", "FROM crew"), ("{schema}.workers", "{schema}.crew"))


def version_that_adds(folder: Path) -> Path:
    """Make a version that is two migrations ahead, which only add; return the folder to import it from."""
    return _made(folder / "adds", _ADDS)


def version_that_renames(folder: Path) -> Path:
    """Make a version whose migration renames a table, and whose code knows; return the folder to import it from."""
    root = _made(folder / "renames", _RENAMES)
    for path in (root / "holdfast" / "infrastructure" / "store").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for old, new in _RENAMED:
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
    return root


def _made(root: Path, migrations: dict[str, str]) -> Path:
    package = copytree(SOURCE, root / "holdfast", ignore=ignore_patterns("static", "*.pyi"))
    path = package / _MIGRATE
    text = path.read_text(encoding="utf-8")
    (before,) = re.findall(r'^HEAD = "(\w+)"$', text, re.MULTILINE)
    path.write_text(text.replace(f'HEAD = "{before}"', f'HEAD = "{list(migrations)[-1]}"'), encoding="utf-8")
    for revision, body in migrations.items():
        script = _SCRIPT.format(revision=revision, before=before, body=body)
        (package / _VERSIONS / f"{revision}.py").write_text(script, encoding="utf-8")
        before = revision
    return root


def migrations(url: str) -> list[str]:
    """Return the rows that migrations left in the default tenant's store: one for each, if each has run once."""
    schema = "holdfast_default." if url.startswith("postgresql") else ""
    engine = sql.create_engine(_as_engine(url))
    with engine.connect() as connection:
        found = connection.execute(sql.text(f"SELECT version FROM {schema}migrations ORDER BY version"))
        versions = [str(version) for (version,) in found]
    engine.dispose()
    return versions


def _as_engine(url: str) -> str:
    if url.startswith("postgresql"):
        return url.replace("postgresql://", "postgresql+psycopg://")
    return f"{url}default.db" if url.endswith("/") else url
