"""Named checks that print one line each.

The lines are the interface between a client under test and `run`, which counts them: `ok NAME` or `FAILED NAME: why`.
The Rust client prints the same.
"""

import traceback


class Checks:
    """Runs checks and reports them."""

    def __init__(self):
        self.failed = 0

    def check(self, name, body):
        """Runs `body`; whatever it raises is the reason why the check failed. Later checks run all the same."""
        try:
            body()
        except Exception as error:  # noqa: BLE001: a client may raise anything; that is then the finding
            self.failed += 1
            reason = str(error) or type(error).__name__
            if not isinstance(error, AssertionError):
                frames = traceback.extract_tb(error.__traceback__)
                reason = f"{type(error).__name__}: {reason} (line {frames[1].lineno if len(frames) > 1 else '?'})"
            print(f"FAILED {name}: {' | '.join(reason.splitlines())}", flush=True)
        else:
            print(f"ok {name}", flush=True)


def expect(got, wanted, what="it"):
    """Fails unless both are equal."""
    if got != wanted:
        raise AssertionError(f"{what} is {got!r}, should be {wanted!r}")


def expect_in(part, whole, what="it"):
    """Fails unless `whole` has `part` in it."""
    if part not in whole:
        raise AssertionError(f"{what} is {whole!r}, should have {part!r} in it")
