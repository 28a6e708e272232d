//! What happens, line by line: virtual time, machine, event. What the nodes themselves log is among it.
//!
//! There is one trace for each process, since there is one run; it lives on the thread that simulates. The last lines are kept for a
//! report, all go into a hash, and into a file if there is one.

use super::clock::Clock;
use crate::engine::Micros;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::hash::Hasher;
use std::io::Write;
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

/// Lines kept for a report.
const TAIL_LINES: usize = 40;

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::new(Trace::default());
    /// Whose turn it is: what is logged now is logged by it.
    static TURN: Cell<Turn> = const { Cell::new(Turn { machine: "", clock: None, now: 0 }) };
}

#[derive(Default)]
struct Trace {
    hash: u64,
    lines: u64,
    tail: VecDeque<String>,
    sink: Option<Box<dyn Write>>,
    /// Nodes' own log lines of this level and above are taken.
    level: Option<Level>,
}

#[derive(Clone, Copy)]
struct Turn {
    machine: &'static str,
    clock: Option<Clock>,
    now: Micros,
}

/// Begins the trace of this thread's run.
pub fn begin(sink: Option<Box<dyn Write>>, level: Level) {
    TRACE.with_borrow_mut(|trace| {
        *trace = Trace {
            sink,
            level: Some(level),
            ..Trace::default()
        }
    });
}

/// Takes what nodes log into the trace of whatever thread they run on. Once for each process; says whether it was the first time.
pub fn listen_to_nodes() -> bool {
    tracing::subscriber::set_global_default(Listening).is_ok()
}

/// It is this machine's turn, by this clock.
pub fn turn(machine: &'static str, clock: Option<Clock>, now: Micros) {
    TURN.set(Turn {
        machine,
        clock,
        now,
    });
}

/// Something happened on the machine whose turn it is, or to the world.
pub fn note(what: impl fmt::Display) {
    let turn = TURN.get();
    let inside = tokio::runtime::Handle::try_current().is_ok();
    let now = match turn.clock {
        Some(clock) if inside => clock.now(),
        _ => turn.now,
    };
    TRACE.with_borrow_mut(|trace| trace.line(now, turn.machine, &what));
}

/// The hash over all lines so far, and how many there are.
pub fn hash() -> (u64, u64) {
    TRACE.with_borrow(|trace| (trace.hash, trace.lines))
}

/// The last lines.
pub fn tail() -> Vec<String> {
    TRACE.with_borrow(|trace| trace.tail.iter().cloned().collect())
}

/// Writes what is not written yet.
pub fn flush() {
    TRACE.with_borrow_mut(|trace| {
        if let Some(sink) = &mut trace.sink {
            // A reader that has gone away is no reason to stop the run.
            let _ = sink.flush();
        }
    });
}

impl Trace {
    fn line(&mut self, now: Micros, machine: &str, what: &dyn fmt::Display) {
        let (seconds, millis) = (now / 1_000_000, now / 1_000 % 1_000);
        let line = format!("{seconds:>4}.{millis:03} {machine:<4} {what}");
        // FNV-1a: not SipHash, whose keys the standard library may change.
        let mut hash = Fnv(self.hash);
        hash.write(line.as_bytes());
        self.hash = hash.finish();
        self.lines += 1;
        if let Some(sink) = &mut self.sink {
            let _ = writeln!(sink, "{line}");
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }
}

struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// Takes what is logged.
struct Listening;

impl Subscriber for Listening {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let wanted = TRACE.try_with(|trace| trace.try_borrow().ok()?.level);
        let ours = metadata.target().starts_with("eaves") || *metadata.level() <= Level::WARN;
        matches!(wanted, Ok(Some(level)) if ours && *metadata.level() <= level)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(format!("{}", event.metadata().level()));
        event.record(&mut text);
        note(without_times(&text.0));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// The text without what the clock on the wall says: openraft writes moments of virtual time as it, and no run would be repeatable.
fn without_times(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let time_bytes = time_at(rest.as_bytes());
        match time_bytes {
            0 => kept.push(next),
            _ => kept.push_str("(a time)"),
        }
        rest = &rest[time_bytes.max(next.len_utf8())..];
    }
    kept
}

/// How long the time of day is that a text begins with, as in `16:28:10.031116`; 0 if it begins with none.
fn time_at(text: &[u8]) -> usize {
    const SHAPE: &[u8] = b"00:00:00.";
    let is_shaped = |(byte, shape): (&u8, &u8)| match shape {
        b'0' => byte.is_ascii_digit(),
        _ => byte == shape,
    };
    if text.len() < SHAPE.len() || !text.iter().zip(SHAPE).all(is_shaped) {
        return 0;
    }
    let fraction = text[SHAPE.len()..].iter();
    SHAPE.len() + fraction.take_while(|byte| byte.is_ascii_digit()).count()
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_clock_on_the_wall_says_is_left_out() {
        let text = "sending_time: 16:28:10.031116(heartbeat_round=4) to v1:2380 – 1:2:3, 00:10:20, 17:00:00.5";
        let expected =
            "sending_time: (a time)(heartbeat_round=4) to v1:2380 – 1:2:3, 00:10:20, (a time)";
        assert_eq!(without_times(text), expected);
    }
}
