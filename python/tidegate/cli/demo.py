"""
`tidegate demo`: starts everything on this machine, sends real requests through every path, and says how it went.

Prints and ends; the programs are `demo.programs`, the requests `demo.walk`.
"""

import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from tidegate.demo.programs import DemoError, Programs, join

if TYPE_CHECKING:
    from tidegate.demo.walk import Result, Step

__all__ = ["demo"]

INTERRUPTED = 130
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@click.option("--keep", is_flag=True, help="Stay up afterwards and say what to try; Ctrl-C ends everything.")
def demo(keep: bool) -> int:
    """
    Show that everything works: a gateway, a sample service, agents and a forward on free loopback ports.

    One port with TLS leads to an address, through a tunnel, and undecrypted to a service that ends TLS itself; one
    agent comes over QUIC and has a UDP service too. Sends real requests through every path and prints what came
    back and how long it took. Exit code 0 when all came back as they should, else 1.
    """
    # Its clients take a while to import, and --help need not wait.
    from tidegate.demo.walk import steps, take  # noqa: PLC0415

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    code = 1
    with tempfile.TemporaryDirectory(prefix="tidegate-demo-") as folder:
        programs = Programs(Path(folder))
        try:
            _start(programs)
            results = []
            plan = steps(programs)
            width = max(len(step.name) for step in plan)
            for step in plan:
                results.append(take(step))
                click.echo(_line(results[-1], width))
            code = _verdict(programs, results)
            if keep and code == 0:
                _stay(programs)
        except DemoError as problem:
            code = 1
            click.echo(f"\n{_mark(False)} {problem}", err=True)
            if problem.program is not None:
                _show_log(programs, [problem.program.name])
                if problem.program.ended:
                    del programs.running[problem.program.name]
        except KeyboardInterrupt as end:
            click.echo("\ninterrupted: ending what was started")
            code = end.code if isinstance(end, AskedToEnd) else INTERRUPTED
        finally:
            # From here on everything ends within bounds; a second Ctrl-C must not leave programs behind.
            for number in ENDING:
                signal.signal(number, signal.SIG_IGN)
            for trouble in programs.stop():
                click.echo(f"{_mark(False)} {trouble}", err=True)
                code = code or 1
    return code


class AskedToEnd(KeyboardInterrupt):
    """A signal other than Ctrl-C asked the demonstration to end."""

    def __init__(self, code: int) -> None:
        self.code = code


def _leave(number: int, _: object) -> NoReturn:
    raise AskedToEnd(128 + number)


def _start(programs: Programs) -> None:
    begun = time.perf_counter()
    click.echo("starting a gateway, a sample service, two agents and a forward ... ", nl=False)
    programs.start()
    click.echo(f"{time.perf_counter() - begun:.1f} s\n")


def _line(result: "Result", width: int) -> str:
    said = result.said if result.ok else click.style(result.said, fg="red")
    padding = " " * max(0, 62 - len(result.said))
    return f" {_mark(result.ok)} {result.step.name:<{width}}  {said}{padding}  {_time(result.seconds):>8}"


def _verdict(programs: Programs, results: "list[Result]") -> int:
    failed = [result.step for result in results if not result.ok]
    if not failed:
        click.echo(f"\nall {len(results)} came back as they should")
        return 0
    click.echo(f"\n{len(failed)} of {len(results)} failed: {', '.join(step.name for step in failed)}", err=True)
    _show_log(programs, _parts(failed))
    return 1


def _parts(failed: "list[Step]") -> list[str]:
    return list(dict.fromkeys(part for step in failed for part in step.parts))


def _show_log(programs: Programs, names: Iterable[str]) -> None:
    for name in names:
        click.echo(f"\nlast lines of the {name}:", err=True)
        for line in programs.running[name].tail() or ["(it said nothing)"]:
            click.echo(f"  {line}", err=True)


def _stay(programs: Programs) -> None:
    proxy, admin, agents = join(programs.proxy), join(programs.admin), join(programs.agents)
    named = f"http://web.localhost:{programs.proxy[1]}"
    click.echo(f"""
It stays up until Ctrl-C. Try in another terminal:
  curl {named}/
  curl -H 'x-tidegate-endpoint: web' http://{proxy}/
  curl -N {named}/events
  head -c 64M /dev/urandom | curl -T - {named}/upload
  curl -i -H 'x-tidegate-endpoint: nobody' http://{proxy}/
  curl --insecure https://app.localhost:{programs.secure[1]}/
  {_program()} status --url http://{admin}

A line of your own, through the forward and through the gateway's TCP listener:
  nc {programs.forward[0]} {programs.forward[1]}
  nc {programs.db[0]} {programs.db[1]}

The same, where CONNECT says which host and port is meant:
  nc -X connect -x {join(programs.out)} {programs.lines[0]} {programs.lines[1]}

Your own service, say on port 3000:
  {_program()} agent http mine 3000 --connect http://{agents}
  curl http://mine.localhost:{programs.proxy[1]}/""")
    try:
        while not any(program.ended for program in programs.running.values()):
            time.sleep(0.2)
    except KeyboardInterrupt:
        click.echo("\nending what was started")
        return
    gone = next(program for program in programs.running.values() if program.ended)
    raise DemoError(f"the {gone.name} ended by itself", gone)


def _program() -> str:
    name = Path(sys.argv[0])
    return str(name) if name.name == "tidegate" else f"{sys.executable} -m tidegate"


def _mark(ok: bool) -> str:
    tick, cross = "✓", "✗"
    try:
        (tick + cross).encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        tick, cross = "ok", "FAILED"
    return click.style(tick, fg="green") if ok else click.style(cross, fg="red")


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
