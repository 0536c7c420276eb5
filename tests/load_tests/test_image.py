"""The image built in a plain directory: what is read of the Dockerfile; `make image-check` does it all."""

from __future__ import annotations

from pathlib import Path

import pytest

from load_tests.image import Build, ImageError, Instruction, instructions


def test_a_dockerfile_is_read_as_an_engine_reads_it(root: Path) -> None:
    text = '# syntax\nFROM a AS one\nRUN x \\\n    && y\n# between\nFROM one AS two\nCMD ["z"]\n'
    assert instructions(text) == [
        Instruction("one", "FROM", "a AS one"),
        Instruction("one", "RUN", "x && y"),
        Instruction("two", "FROM", "one AS two"),
        Instruction("two", "CMD", '["z"]'),
    ]
    known = {"FROM", "WORKDIR", "ENV", "COPY", "RUN", "VOLUME", "EXPOSE"}
    told = {"USER", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    found = instructions((root / "deploy" / "Dockerfile").read_text(encoding="utf-8"))
    assert {one.name for one in found} <= known | told


def test_steps_stay_below_the_root_and_a_failing_one_is_named(tmp_path: Path) -> None:
    build = Build(tmp_path, tmp_path / "python")
    build.carry_out(Instruction("build", "FROM", "python:3.12 AS build"))
    build.carry_out(Instruction("build", "WORKDIR", "/src"))
    build.carry_out(Instruction("build", "RUN", "mkdir -p /opt/weir && echo $PWD > /opt/weir/where"))
    assert (tmp_path / "opt/weir/where").read_text().strip() == str(tmp_path / "src")
    build.carry_out(Instruction("build", "COPY", "pyproject.toml README.md ./"))
    build.carry_out(Instruction("build", "COPY", "deploy/profiles /etc/weir/profiles"))
    assert (tmp_path / "src/README.md").is_file()
    assert (tmp_path / "etc/weir/profiles/cards/features.toml").is_file()
    build.carry_out(Instruction("weir", "COPY", "--from=build /opt/weir /opt/weir"))
    with pytest.raises(ImageError, match=r"the stage build has made no /opt/other"):
        build.carry_out(Instruction("weir", "COPY", "--from=build /opt/other /opt/other"))
    with pytest.raises(ImageError, match=r"RUN echo why; false: exit 1: why"):
        build.carry_out(Instruction("weir", "RUN", "echo why; false"))
    with pytest.raises(ImageError, match="there is no nothing"):
        build.carry_out(Instruction("weir", "COPY", "nothing ./"))
