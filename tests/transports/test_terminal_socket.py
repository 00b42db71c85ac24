"""The terminal protocol over a real socket: the legacy frames first, then `run`, input, cancel and attach."""

import asyncio
import hashlib
import time

import pytest
from websockets.exceptions import ConnectionClosed

from tests.client import BATCH, LINES, assert_gapless, output, span, terminal
from tests.conftest import StartServer
from tests.serving import Server

REFUSED = {
    "rm file": "blocked.rm",
    "sudo ls": "blocked.sudo",
    "curl http://127.0.0.1/": "blocked.curl",
    "wget http://127.0.0.1/": "blocked.wget",
    "pip install x": "blocked.pip",
    "ls && pwd": "syntax.operator",
    "ls || pwd": "syntax.operator",
    "ls ; pwd": "syntax.operator",
    "ls;pwd": "syntax.operator",
    "ls & pwd": "syntax.operator",
    "ls | cat": "syntax.operator",
    "cat < welcome.txt": "syntax.operator",
    "echo x > file": "syntax.operator",
    "echo x >> file": "syntax.operator",
    "echo $(pwd)": "syntax.expansion",
    'echo "$(pwd)"': "syntax.expansion",
    "echo $HOME": "syntax.expansion",
    "echo `pwd`": "syntax.substitution",
    'echo "`pwd`"': "syntax.substitution",
    "ls\npwd": "syntax.newline",
    "cat ../x": "path.parent",
    "ls a/../..": "path.parent",
    "pyguard --out=../x": "path.parent",
    "cat /etc/passwd": "path.outside",
    "cat /proc/self/environ": "path.outside",
    "pyguard /etc/passwd": "path.outside",
    "ls --time-style=+x --zero": "option.unlisted",
    "python3 -c pass": "program.unlisted",
    "/bin/ls": "program.name",
    "./ls": "program.name",
    "X=1 ls": "program.name",
    "cat ~/x": "syntax.tilde",
    "echo {a,b}": "syntax.brace",
    "echo 'x": "syntax.quote",
    "echo x\\": "syntax.escape",
    "echo \x1b[31m": "syntax.character",
    "echo \u202e": "syntax.character",
    "echo " + "x" * 1000: "limits.characters",
    "echo" + " x" * 50: "limits.arguments",
}


class TestLegacy:
    """What the published clients do: `{"command": ...}`, n `stdout`, one `complete`."""

    async def test_ready_comes_first_and_waking_before_it_just_after_the_start(self, server: Server) -> None:
        async with terminal(server) as client:
            kinds = [message["type"] for message in client.greeting]
            assert kinds == (["waking", "ready"] if time.monotonic() - server.began < 9 else kinds[-1:])
            ready = client.greeting[-1]
            assert ready["message"].startswith("✅ Connected to ")
            assert (ready["service"], ready["profile"]) == ("Gatepost", "terminal")
            assert ready["version"]
            await client.quiet()

    async def test_the_lines_come_and_then_complete(self, server: Server) -> None:
        async with terminal(server) as client:
            replies = await client.command("cat welcome.txt")
            assert [reply["type"] for reply in replies] == ["started", "stdout", "complete"]
            assert replies[1]["line"].startswith("This is the folder")
            assert_gapless(replies)
            await client.quiet()

    async def test_a_command_is_trimmed(self, server: Server) -> None:
        async with terminal(server) as client:
            replies = await client.command("  pwd \t")
            assert output(replies) == f"{server.workspace}\n"
            assert replies[0]["command"] == "pwd"

    @pytest.mark.parametrize("line", ["", "   ", "\t"])
    async def test_an_empty_command_gets_no_reply(self, server: Server, line: str) -> None:
        async with terminal(server) as client:
            await client.send(command=line)
            await client.send(type="run", command=line)
            await client.quiet()

    async def test_frames_sent_before_ready_count(self, server: Server) -> None:
        async with terminal(server, greeted=False) as client:
            await client.send(command="echo early")
            replies = await client.until("complete")
            kinds = [reply["type"] for reply in replies]
            assert output(replies) == "early\n"
            assert kinds.index("ready") < kinds.index("started")

    async def test_several_commands_run_one_after_the_other(self, server: Server) -> None:
        async with terminal(server) as client:
            await client.send(command="pyguard sleep 0.3")
            for word in "abc":
                await client.send(command=f"echo {word}")
            replies = [message for _ in range(4) for message in await client.reply()]
            kinds = [reply["type"] for reply in replies]
            assert kinds == ["started", "complete"] + ["started", "stdout", "complete"] * 3
            assert output(replies) == "a\nb\nc\n"

    async def test_a_refusal_does_not_hold_up_the_commands_behind_it(self, server: Server) -> None:
        async with terminal(server) as client:
            for line in ("rm x", "echo a", "ls | cat", "echo b"):
                await client.send(command=line)
            first, second, third, fourth = [await client.reply() for _ in range(4)]
            assert [first[-1]["rule"], third[-1]["rule"]] == ["blocked.rm", "syntax.operator"]
            assert output([*second, *fourth]) == "a\nb\n"

    async def test_help_tells_in_plain_lines_what_may_be_run(self, server: Server) -> None:
        async with terminal(server) as client:
            text = output(await client.command("help"))
            for name in ("pyguard", "ls", "cat", "pwd", "echo", "clear", "help"):
                assert f"  {name} " in text
            assert "<" not in text

    async def test_clear_sends_the_line_that_the_old_page_clears_on(self, server: Server) -> None:
        async with terminal(server) as client:
            assert output(await client.command("clear")) == "CLEAR_SCREEN\n"

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("echo farm x", "farm x\n"),
            ('echo "a;b"', "a;b\n"),
            ("echo 'a | b && $(c) `d` > e'", "a | b && $(c) `d` > e\n"),
            (r"echo a\;b \$HOME", "a;b $HOME\n"),
            ("echo rm sudo curl", "rm sudo curl\n"),
            ("echo '<b>&amp;</b>'", "<b>&amp;</b>\n"),
            ("echo a...b ..c", "a...b ..c\n"),
            ("echo 'grüße 日本 🎉'", "grüße 日本 🎉\n"),
        ],
    )
    async def test_harmless_lines_run(self, server: Server, line: str, expected: str) -> None:
        async with terminal(server) as client:
            assert output(await client.command(line)) == expected

    @pytest.mark.parametrize(("line", "rule"), REFUSED.items())
    async def test_a_refused_line_gets_one_error_with_its_rule_and_no_complete(
        self, server: Server, line: str, rule: str
    ) -> None:
        async with terminal(server) as client:
            [error] = await client.command(line)
            assert error["rule"] == rule
            assert error["message"].startswith("❌ ")
            assert rule in error["message"]
            assert error["command"] == line
            assert "execution" not in error
            await client.quiet()

    async def test_blank_lines_and_trailing_spaces_survive(self, server: Server) -> None:
        text = "\n\na  \n\n b\t \n \n\n"
        (server.workspace / "blanks.txt").write_text(text)
        async with terminal(server) as client:
            replies = await client.command("cat blanks.txt")
            assert output(replies) == text
            assert [reply["line"] for reply in replies[1:-1]] == text.split("\n")[:-1]


class TestFrames:
    """Frames that are not messages, and the way on after them."""

    @pytest.mark.parametrize(
        "frame",
        [
            "{",
            "",
            "null",
            "[]",
            '"ls"',
            "7",
            "{}",
            '{"command": 5}',
            '{"command": null}',
            '{"type": "frobnicate"}',
            '{"type": 7, "command": "ls"}',
            '{"type": "run"}',
            '{"type": "run", "command": "ls", "timeout": 0}',
            '{"type": "run", "command": "ls", "timeout": -1}',
            '{"type": "run", "command": "ls", "timeout": NaN}',
            '{"type": "run", "command": "ls", "timeout": Infinity}',
            '{"type": "run", "command": "ls", "timeout": 1e400}',
            '{"type": "run", "command": "ls", "timeout": 1e308}',
            '{"type": "run", "command": "ls", "id": "' + "x" * 65 + '"}',
            '{"type": "attach", "execution": "../../etc/passwd"}',
            '{"type": "attach", "execution": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "after_seq": -1}',
            '{"type": "stdin"}',
            '{"command": "\\ud800"}',
            "[" * 30_000,
        ],
    )
    async def test_a_frame_that_is_no_message_is_answered_and_the_socket_stays(
        self, server: Server, frame: str
    ) -> None:
        async with terminal(server) as client:
            await client.socket.send(frame)
            error = await client.receive()
            assert (error["type"], error["rule"]) == ("error", "frame.invalid")
            assert output(await client.command("echo on")) == "on\n"

    async def test_a_binary_frame_is_answered_and_the_socket_stays(self, server: Server) -> None:
        async with terminal(server) as client:
            await client.socket.send(b'{"command":"ls"}')
            assert (await client.receive())["rule"] == "frame.invalid"
            assert output(await client.command("echo on")) == "on\n"

    async def test_unknown_fields_are_ignored(self, server: Server) -> None:
        async with terminal(server) as client:
            await client.send(command="echo on", colour="blue", shell=True)
            assert output(await client.reply()) == "on\n"

    async def test_a_frame_of_64_kib_is_read(self, server: Server) -> None:
        async with terminal(server) as client:
            head, tail = '{"command":"', '"}'
            await client.socket.send(head + "x" * (65536 - len(head) - len(tail)) + tail)
            assert (await client.receive())["rule"] == "limits.characters"

    async def test_a_frame_of_one_byte_more_closes_with_1009(self, server: Server) -> None:
        async with terminal(server) as client:
            await client.socket.send("x" * 65537)
            with pytest.raises(ConnectionClosed):
                await client.receive()
            assert client.socket.close_code == 1009

    async def test_a_ping_is_answered_with_its_id(self, server: Server) -> None:
        async with terminal(server) as client:
            await client.send(type="ping", id="7")
            assert await client.receive() == {"type": "pong", "id": "7"}
            await client.send(type="ping")
            assert await client.receive() == {"type": "pong"}

    async def test_a_visitor_who_shows_a_wrong_token_is_sent_away(self, server: Server) -> None:
        async with terminal(server) as client:
            await client.send(type="auth", token="x")
            assert (await client.receive())["rule"] == "auth.wrong"
            with pytest.raises(ConnectionClosed):
                await client.receive()
            assert client.socket.close_code == 4001


class TestRun:
    """`run`: beside others, with input, in a folder, for a time."""

    async def test_started_tells_what_runs(self, server: Server) -> None:
        async with terminal(server) as client:
            started, _, complete = await client.run("echo 'a b'  c", id="mine", timeout=7)
            assert started.pop("execution") == complete["execution"]
            assert started.pop("time").endswith("Z")
            assert started == {
                "type": "started",
                "seq": 1,
                "ms": started["ms"],
                "command": "echo 'a b'  c",
                "argv": ["echo", "a b", "c"],
                "risk": "safe",
                "rule": "allow.echo",
                "cwd": str(server.workspace),
                "timeout": 7,
                "dry_run": False,
                "id": "mine",
            }

    async def test_complete_tells_how_it_ended(self, server: Server) -> None:
        async with terminal(server) as client:
            complete = (await client.run("pyguard bash -c 'echo out; echo error >&2; exit 3'"))[-1]
            assert complete["duration_ms"] <= complete["ms"] + 1
            expected = {
                "type": "complete",
                "status": "failed",
                "exit_code": 3,
                "signal": None,
                "timed_out": False,
                "truncated": False,
                "stdout_bytes": 4,
                "stderr_bytes": 6,
            }
            assert expected.items() <= complete.items()

    @pytest.mark.parametrize(
        ("line", "status", "exit_code", "signal"),
        [
            ("pyguard true", "succeeded", 0, None),
            ("pyguard false", "failed", 1, None),
            ("pyguard bash -c 'exit 255'", "failed", 255, None),
            ("pyguard bash -c 'kill -KILL $$'", "failed", 137, "SIGKILL"),
            ("pyguard bash -c 'kill -SEGV $$'", "failed", 139, "SIGSEGV"),
            ("cat missing.txt", "failed", 1, None),
        ],
    )
    async def test_the_exit_code_is_the_commands_own(
        self, server: Server, line: str, status: str, exit_code: int, signal: str | None
    ) -> None:
        async with terminal(server) as client:
            complete = (await client.run(line))[-1]
            assert (complete["status"], complete["exit_code"], complete["signal"]) == (status, exit_code, signal)

    async def test_the_id_comes_back_in_a_refusal_too(self, server: Server) -> None:
        async with terminal(server) as client:
            [error] = await client.run("rm x", id="mine")
            assert (error["id"], error["rule"]) == ("mine", "blocked.rm")

    async def test_stderr_is_told_apart(self, server: Server) -> None:
        async with terminal(server) as client:
            replies = await client.run("pyguard bash -c 'echo out; echo wrong >&2'")
            assert (output(replies), output(replies, "stderr")) == ("out\n", "wrong\n")

    async def test_cwd_is_a_folder_of_the_workspace(self, server: Server) -> None:
        (server.workspace / "below").mkdir(exist_ok=True)
        (server.workspace / "out").unlink(missing_ok=True)
        (server.workspace / "out").symlink_to("/")
        async with terminal(server) as client:
            assert output(await client.run("pwd", cwd="below")) == f"{server.workspace}/below\n"
            rules = [
                (await client.run("pwd", cwd=cwd))[-1]["rule"]
                for cwd in ("nowhere", "..", "below/../..", "/etc", "out", "out/etc", "\0")
            ]
            assert rules == ["path.missing"] + ["path.outside"] * 6

    async def test_a_link_out_of_the_workspace_is_not_followed(self, server: Server) -> None:
        (server.workspace / "leak").unlink(missing_ok=True)
        (server.workspace / "leak").symlink_to("/etc/passwd")
        async with terminal(server) as client:
            assert (await client.run("cat leak"))[-1]["rule"] == "path.link"
            assert (await client.run("cat lea*"))[-1]["rule"] == "path.link"

    async def test_a_timeout_stops_the_command_with_124_and_says_so(self, server: Server) -> None:
        async with terminal(server) as client:
            replies = await client.run("pyguard sleep 30", timeout=0.4)
            error, complete = replies[-2:]
            assert (error["type"], error["rule"]) == ("error", "limits.timeout")
            assert error["execution"] == complete["execution"]
            assert "0.4 s" in error["message"]
            assert (complete["status"], complete["exit_code"], complete["timed_out"]) == ("timed_out", 124, True)
            assert 400 <= complete["duration_ms"] < 20_000

    async def test_more_time_than_a_command_gets_is_refused(self, server: Server) -> None:
        async with terminal(server) as client:
            assert (await client.run("pwd", timeout=61))[-1]["rule"] == "limits.timeout"

    async def test_a_dry_run_judges_and_starts_no_process(self, server: Server) -> None:
        async with terminal(server) as client:
            replies = await client.run("pyguard touch ran.txt", dry_run=True)
            assert [reply["type"] for reply in replies] == ["started", "complete"]
            assert replies[0]["dry_run"] is True
            assert (replies[1]["status"], replies[1]["exit_code"]) == ("succeeded", None)
            assert (await client.run("rm x", dry_run=True))[-1]["rule"] == "blocked.rm"
            assert not (server.workspace / "ran.txt").exists()

    async def test_a_program_that_is_not_installed_ends_with_127(self, server: Server) -> None:
        async with terminal(server) as client:
            replies = await client.run("pyguard no-such-program-anywhere")
            assert replies[-1]["exit_code"] == 127

    async def test_a_pyguard_that_is_not_installed_says_so(self, start_server: StartServer) -> None:
        server = start_server({"PYGUARD_COMMAND": "no-such-pyguard --flag"})
        async with terminal(server) as client:
            started, error, complete = await client.command("pyguard --help")
            assert (error["rule"], error["execution"]) == ("program.missing", started["execution"])
            assert "not installed" in error["message"]
            assert (complete["status"], complete["exit_code"]) == ("failed", 127)

    async def test_pyguard_stands_for_its_command_line(self, start_server: StartServer) -> None:
        server = start_server({"PYGUARD_COMMAND": "python3 'a tool.py'"})
        (server.workspace / "a tool.py").write_text("import sys; print(sys.argv)")
        async with terminal(server) as client:
            replies = await client.command("pyguard check 'x y' --deep")
            assert output(replies) == "['a tool.py', 'check', 'x y', '--deep']\n"
            assert replies[0]["argv"] == ["pyguard", "check", "x y", "--deep"]

    async def test_several_run_at_once_each_with_its_own_numbers(self, server: Server) -> None:
        script = "for i in 1 2 3 4 5 6; do echo {0}$i; sleep 0.05; done"
        async with terminal(server) as client:
            for name in "abc":
                await client.send(type="run", command=f"pyguard bash -c '{script.format(name)}'", id=name)
            replies = [message for _ in range(3) for message in await client.reply()]
            names = {reply["execution"]: reply["id"] for reply in replies if reply["type"] == "started"}
            order = [names[reply["execution"]] for reply in replies if reply["type"] == "stdout"]
            assert sorted(order) != order, "they ran one after the other"
            for execution, name in names.items():
                mine = [reply for reply in replies if reply["execution"] == execution]
                assert_gapless(mine)
                assert output(mine) == "".join(f"{name}{number}\n" for number in range(1, 7))


class TestInput:
    """Standard input, and the end of a command that is asked for."""

    async def test_cat_gives_back_what_it_is_given(self, server: Server) -> None:
        async with terminal(server) as client:
            await client.start("cat")
            await client.send(type="stdin", data="one\ntwo ü\n")
            assert output([await client.receive(), await client.receive()]) == "one\ntwo ü\n"
            await client.send(type="stdin", data="three")
            await client.send(type="stdin_close")
            replies = await client.reply()
            assert output(replies) == "three"
            assert replies[-1]["status"] == "succeeded"

    async def test_input_goes_to_the_execution_that_is_named(self, server: Server) -> None:
        async with terminal(server) as client:
            first = (await client.start("cat"))["execution"]
            second = (await client.start("cat"))["execution"]
            await client.send(type="stdin", data="for the first\n", execution=first)
            await client.send(type="stdin", data="for the newest\n")
            await client.send(type="stdin_close", execution=first)
            await client.send(type="stdin_close", execution=second)
            replies = [*await client.reply(), *await client.reply()]
            texts = {key: output([m for m in replies if m["execution"] == key]) for key in (first, second)}
            assert texts == {first: "for the first\n", second: "for the newest\n"}

    async def test_a_megabyte_of_input_arrives_whole(self, server: Server) -> None:
        async with terminal(server) as client:
            await client.start("pyguard sha256sum")
            for _ in range(20):
                await client.send(type="stdin", data="x" * 50_000)
            await client.send(type="stdin_close")
            expected = hashlib.sha256(b"x" * 1_000_000).hexdigest()
            assert output(await client.reply()) == f"{expected}  -\n"

    async def test_input_that_nobody_reads_is_bounded(self, server: Server) -> None:
        async with terminal(server) as client:
            await client.start("pyguard sleep 20")
            for _ in range(25):
                await client.send(type="stdin", data="x" * 60_000)
            assert (await client.receive())["rule"] == "stdin.full"
            await client.send(type="cancel")
            assert (await client.until("complete"))[-1]["status"] == "cancelled"

    async def test_a_legacy_command_has_no_input(self, server: Server) -> None:
        async with terminal(server) as client:
            replies = await client.command("cat")
            assert [reply["type"] for reply in replies] == ["started", "complete"]
            await client.send(command="pyguard sleep 5")
            await client.until("started")
            await client.send(type="stdin", data="x")
            assert (await client.receive())["rule"] == "stdin.closed"
            await client.send(type="cancel")
            await client.reply()

    @pytest.mark.parametrize("kind", [{"type": "cancel"}, {"type": "stdin", "data": "x"}, {"type": "stdin_close"}])
    async def test_where_nothing_runs_there_is_nothing_to_do(self, server: Server, kind: dict[str, str]) -> None:
        async with terminal(server) as client:
            await client.send(**kind)
            assert (await client.receive())["rule"] == "execution.not_running"

    async def test_cancel_stops_the_one_that_is_named_and_else_the_newest(self, server: Server) -> None:
        async with terminal(server) as client:
            ids = [(await client.start("pyguard sleep 30"))["execution"] for _ in range(3)]
            for named, expected in ((ids[1], ids[1]), (None, ids[2]), (None, ids[0])):
                await client.send(type="cancel", **({"execution": named} if named else {}))
                complete = (await client.reply())[-1]
                assert complete["execution"] == expected
                assert (complete["status"], complete["exit_code"], complete["signal"]) == ("cancelled", 143, "SIGTERM")

    async def test_a_command_of_another_connection_cannot_be_cancelled_without_watching_it(
        self, server: Server
    ) -> None:
        async with terminal(server) as owner, terminal(server) as other:
            execution = (await owner.start("pyguard sleep 30"))["execution"]
            await other.send(type="cancel", execution=execution)
            assert (await other.receive())["rule"] == "execution.not_running"
            await other.send(type="attach", execution=execution)
            await other.until("started")
            await other.send(type="cancel", execution=execution)
            assert (await owner.reply())[-1]["status"] == "cancelled"

    async def test_a_legacy_command_is_cancelled_and_the_next_one_runs(self, server: Server) -> None:
        async with terminal(server) as client:
            await client.send(command="pyguard sleep 30")
            await client.send(command="echo next")
            await client.until("started")
            await client.send(type="cancel")
            assert (await client.reply())[-1]["status"] == "cancelled"
            assert output(await client.reply()) == "next\n"


class TestOutput:
    """Output as it is: quick, whole, and whatever its bytes."""

    async def test_the_start_of_a_line_comes_before_its_end(self, server: Server) -> None:
        async with terminal(server, LINES) as client:
            await client.start("pyguard bash -c 'printf abc; sleep 1; echo def'")
            first = await client.receive(0.8)
            assert (first["line"], first["partial"]) == ("abc", True)
            second, _ = await client.reply()
            assert (second["line"], second.get("partial")) == ("def", None)

    async def test_progress_with_carriage_returns_comes_before_its_line_ends(self, server: Server) -> None:
        async with terminal(server, LINES) as client:
            await client.start("pyguard bash -c 'for i in 1 2 3 4; do printf \"$i%%\\r\"; read; done'")
            for number in range(1, 5):
                message = await client.receive()
                assert (message["type"], message["line"]) == ("stdout", f"{number}%\r")
                await client.send(type="stdin", data="\n")
            assert (await client.reply())[-1]["status"] == "succeeded"

    async def test_bytes_that_are_not_utf_8_become_replacement_characters(self, server: Server) -> None:
        (server.workspace / "bytes.bin").write_bytes(b'a\xffb\n\xc3\n\x00\x1b[31m\x7f"\\\n\xe2\x82\xac\n\xe2\x82')
        async with terminal(server) as client:
            text = output(await client.run("cat bytes.bin"))
            assert text == 'a\ufffdb\n\ufffd\n\x1b[31m"\\\n€\n\ufffd'

    async def test_a_character_that_is_cut_in_two_by_time_stays_whole(self, server: Server) -> None:
        async with terminal(server) as client:
            replies = await client.run('pyguard bash -c \'printf "x\\xe2\\x82"; sleep 0.4; printf "\\xac\\n"\'')
            assert output(replies) == "x€\n"

    @pytest.mark.parametrize("subprotocol", [None, LINES, BATCH])
    async def test_a_line_of_3_mb_arrives_in_parts_and_whole(self, server: Server, subprotocol: str | None) -> None:
        line = "".join(f"{number:07d}" for number in range(3 * 2**20 // 7))
        (server.workspace / "long.txt").write_text(f"before\n{line}\nafter\n")
        async with terminal(server, subprotocol) as client:
            replies = await client.run("cat long.txt")
            assert output(replies) == f"before\n{line}\nafter\n"
            if subprotocol:  # without one, what was joined has the number of its last part
                assert_gapless(replies)
            partial = [reply for reply in replies if reply.get("partial")]
            assert len(partial) >= 2
            pieces = [(part.get("lines") or [part["line"]])[0] for part in partial]
            assert max(map(len, pieces)) <= 2**20 + 32 * 1024

    async def test_output_over_the_limit_is_cut_and_the_command_stopped(self, server: Server) -> None:
        async with terminal(server, BATCH) as client:
            replies = await client.run("pyguard yes", bound=20)
            truncated, complete = replies[-2:]
            assert (truncated["type"], truncated["limit_bytes"]) == ("truncated", 10 * 2**20)
            assert len(output(replies)) == 10 * 2**20
            assert (complete["truncated"], complete["status"]) == (True, "failed")
            assert_gapless(replies)

    @pytest.mark.parametrize(
        ("subprotocol", "accepted"), [(None, None), (LINES, LINES), (BATCH, BATCH), ("other", None)]
    )
    async def test_the_subprotocol_is_chosen_from_those_that_are_known(
        self, server: Server, subprotocol: str | None, accepted: str | None
    ) -> None:
        async with terminal(server, subprotocol) as client:
            assert client.socket.subprotocol == accepted

    async def test_batches_hold_exactly_what_the_lines_hold(self, server: Server) -> None:
        mixed = "".join(f'{i} "q\\uote" grüße 🎉 \t<b>\n' if i % 7 == 0 else f"plain {i}\n" for i in range(5000))
        (server.workspace / "mixed.txt").write_text(mixed)
        async with terminal(server, BATCH) as batches, terminal(server, LINES) as lines:
            whole = await batches.run("cat mixed.txt")
            single = await lines.attach(whole[0]["execution"])
        taken_apart = [
            {key: value for key, value in batch.items() if key != "lines"} | {"line": line, "seq": seq}
            for batch in whole[1:-1]
            for seq, line in zip(span(batch), batch["lines"], strict=True)
        ]
        assert single[1:-1] == taken_apart
        assert (single[0], single[-1]) == (whole[0], whole[-1])
        assert output(single) == output(whole) == mixed
        assert len(whole) < 200


class TestAttach:
    """Watching an execution from any point, live and later."""

    async def test_the_whole_comes_again_after_the_end(self, server: Server) -> None:
        async with terminal(server) as client, terminal(server) as late:
            first = await client.run("pyguard seq 3000")
            assert await late.attach(first[0]["execution"]) == first

    @pytest.mark.parametrize("subprotocol", [LINES, BATCH])
    async def test_it_goes_on_exactly_after_the_number(self, server: Server, subprotocol: str) -> None:
        async with terminal(server, subprotocol) as client:
            execution = (await client.run("pyguard seq 5000"))[0]["execution"]
            for after_seq in (1, 2, 999, 1000, 1001, 3456, 5000, 5001):
                replies = await client.attach(execution, after_seq)
                assert_gapless(replies, after_seq)
                assert output(replies) == "".join(f"{number}\n" for number in range(after_seq, 5001))
                assert replies[-1]["seq"] == 5002

    async def test_a_second_viewer_joins_live(self, server: Server) -> None:
        async with terminal(server) as client, terminal(server) as viewer:
            execution = (await client.start("cat"))["execution"]
            await client.send(type="stdin", data="early\n")
            await client.until("stdout")
            await viewer.send(type="attach", execution=execution)
            assert output(await viewer.until("stdout")) == "early\n"
            await client.send(type="stdin", data="late\n")
            assert output(await viewer.until("stdout")) == "late\n"
            await client.send(type="stdin_close")
            assert (await viewer.reply())[-1] == (await client.reply())[-1]

    async def test_watching_twice_is_refused(self, server: Server) -> None:
        async with terminal(server) as client:
            execution = (await client.start("pyguard sleep 30"))["execution"]
            await client.send(type="attach", execution=execution)
            assert (await client.receive())["rule"] == "attach.twice"
            await client.send(type="cancel")
            await client.reply()
            assert (await client.attach(execution))[-1]["status"] == "cancelled"

    async def test_an_execution_that_is_not_kept_is_unknown(self, server: Server) -> None:
        async with terminal(server) as client:
            await client.send(type="attach", execution="01ARZ3NDEKTSV4RRFFQ69G5FAV")
            assert (await client.receive())["rule"] == "execution.unknown"

    async def test_many_viewers_see_the_same(self, server: Server) -> None:
        async with terminal(server) as client:
            execution = (await client.start("pyguard bash -c 'for i in 1 2 3 4 5; do seq 400; sleep 0.05; done'"))[
                "execution"
            ]

            async def watch(subprotocol: str) -> str:
                async with terminal(server, subprotocol) as viewer:
                    return output(await viewer.attach(execution))

            texts = await asyncio.gather(*(watch(name) for name in (LINES, BATCH) * 5))
            assert set(texts) == {output(await client.reply())}
