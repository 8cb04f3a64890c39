import platform
from pathlib import Path

from harness import machine


def test_names_the_processor_as_the_kernel_does(monkeypatch, tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nmodel name : Made Up 3000 @ 2.0 GHz\nprocessor : 1\nmodel name : Another\n")
    read = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self, **kw: read(info if self == Path("/proc/cpuinfo") else self, **kw)
    )
    assert machine.processor_name() == "Made Up 3000 @ 2.0 GHz"


def test_falls_back_where_the_kernel_says_nothing(monkeypatch):
    def refuse(self, **kw):
        raise OSError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert machine.processor_name() == (platform.processor() or platform.machine())
