import torch

from harness.planning.meter import StorageMeter


def test_counts_storages_once_until_they_are_freed():
    with StorageMeter() as meter:
        meter.window = "first"
        a = torch.empty(10, device="meta")
        view = a.view(2, 5).t()
        a.add_(1)
        assert meter.live == {"other": 40}
        meter.window = "second"
        del a
        assert meter.live == {"other": 40}  # the view holds it
        del view
        assert meter.live == {"other": 0}
        torch.empty(3, device="meta")
        torch.empty(1000)  # of another device
    assert [(name, peak.total) for name, peak in meter.peaks.items()] == [("first", 40), ("second", 40)]


def test_a_window_begins_with_what_is_held_and_can_be_gone_on_with():
    with StorageMeter() as meter:
        kept = torch.empty(10, device="meta")
        meter.window = "a"
        torch.empty(5, device="meta")
        meter.window = "b"
        meter.window = "a"
        torch.empty(1, device="meta")
        more = torch.empty(9, device="meta")
    assert (meter.peaks["a"].total, meter.peaks["b"].total) == (76, 40)
    assert meter.peaks["a"].parts == {"other": 76}
    del kept, more


def test_labels_shares_and_what_is_left_out():
    old = torch.empty(100, device="meta")
    meter = StorageMeter(shares={"gradient": 0.25})
    meter.leave_out([old])
    with meter:
        meter.label = "x"
        since = meter.made
        a, b = torch.empty(8, device="meta"), torch.empty(8, device="meta")
        old.view(10, 10)
        meter.relabel(a, "gradient")
        meter.relabel_survivors(since, {"x": "y"})
        c = torch.empty(1, device="meta")
    assert {name: size for name, size in meter.live.items() if size} == {"gradient": 32, "y": 32, "x": 4}
    assert list(meter.peaks.values())[-1].parts == {"gradient": 8, "y": 32, "x": 4} or meter.peaks[None].total == 64
    del a, b, c


def test_real_tensors_too_and_lists_of_them():
    with StorageMeter("cpu") as meter:
        parts = torch.ones(6).split(2)
        copies = torch._foreach_add(list(parts), 1)
    assert meter.live == {"other": 24 + 24}
    del copies
    assert meter.live == {"other": 24}
