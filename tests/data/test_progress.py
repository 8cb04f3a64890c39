from harness.data.progress import Progress, remaining_text


def test_remaining_time():
    assert remaining_text(0, 2000, 5.0) == "0/2,000 clips"
    assert remaining_text(500, 2000, 30.0) == "500/2,000 clips, 1:30 left"
    assert remaining_text(2000, 2000, 30.0) == "2,000/2,000 clips, 0:00 left"


def test_lines_go_to_standard_error_at_the_end_and_not_too_often(capsys):
    progress = Progress("encode", 10, interval=60)
    for _ in range(5):
        progress.advance(2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "encode: 10/10 clips, 0:00 left\n"


def test_only_one_process_speaks(capsys):
    Progress("encode", 1, silent=True).advance(1)
    assert capsys.readouterr().err == ""
