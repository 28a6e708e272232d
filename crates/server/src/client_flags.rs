//! The flags that bound what all clients of a node take of it together. What is bounded, and what a node's memory comes to, is in
//! `docs/reliability.md`.

use crate::failure::{Failure, Outcome};
use clap::Args;
use eaves_kv::ClientLimits;
use std::ops::RangeInclusive;

/// The library's defaults.
const DEFAULT_CONNECTIONS: usize = 16 << 10;
const DEFAULT_CALLS: usize = 16 << 10;
const DEFAULT_WATCH_STREAMS: usize = 64 << 10;
const DEFAULT_REQUEST_MIB: usize = 128;
const DEFAULT_ANSWER_MIB: usize = 256;
/// Without any of one kind a node would serve nobody, its administrators included; a million of them are a slip of the finger: their
/// sockets and tasks alone would take 64 GiB.
const COUNTS: RangeInclusive<usize> = 1..=1 << 20;
/// The smallest that takes one request of the largest size, and gives the value in it to one watcher; the largest is for machines that
/// do nothing else.
const SIZES_MIB: RangeInclusive<usize> = 2..=64 << 10;

/// Flags of voters and listeners alike: each has clients.
#[derive(Args, Debug, Clone)]
pub struct ClientArgs {
    /// Connections of clients; one more is closed at once
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CONNECTIONS)]
    pub max_connections: usize,

    /// Calls of clients under way, watches not among them; one more is refused
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CALLS)]
    pub max_calls: usize,

    /// Watch streams of clients; one more is refused
    #[arg(long, value_name = "N", default_value_t = DEFAULT_WATCH_STREAMS)]
    pub max_watch_streams: usize,

    /// MiB of requests that were received and are not answered; one that needs more is refused
    #[arg(long, value_name = "MIB", default_value_t = DEFAULT_REQUEST_MIB)]
    pub max_request_memory: usize,

    /// MiB of answers and events that wait for their clients; beyond, the connection that holds most is closed
    #[arg(long, value_name = "MIB", default_value_t = DEFAULT_ANSWER_MIB)]
    pub max_answer_memory: usize,
}

impl ClientArgs {
    /// Refuses bounds with which a node could not serve, or that no machine could keep.
    pub fn check(&self) -> Outcome<ClientLimits> {
        for (flag, count) in [
            ("--max-connections", self.max_connections),
            ("--max-calls", self.max_calls),
            ("--max-watch-streams", self.max_watch_streams),
        ] {
            check_within(flag, "", count, &COUNTS)?;
        }
        for (flag, size) in [
            ("--max-request-memory", self.max_request_memory),
            ("--max-answer-memory", self.max_answer_memory),
        ] {
            check_within(flag, " MiB", size, &SIZES_MIB)?;
        }
        Ok(ClientLimits {
            connections: self.max_connections,
            calls: self.max_calls,
            watch_streams: self.max_watch_streams,
            request_bytes: self.max_request_memory << 20,
            answer_bytes: self.max_answer_memory << 20,
        })
    }
}

fn check_within(flag: &str, unit: &str, number: usize, range: &RangeInclusive<usize>) -> Outcome {
    if range.contains(&number) {
        return Ok(());
    }
    let (least, most) = (range.start(), range.end());
    Err(Failure::usage(format!(
        "{flag}: give {least} to {most}{unit}, not {number}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Wrapper {
        #[command(flatten)]
        clients: ClientArgs,
    }

    fn check(flags: &[&str]) -> Outcome<ClientLimits> {
        let words = std::iter::once("eaves").chain(flags.iter().copied());
        Wrapper::try_parse_from(words)
            .expect("clap takes the flags")
            .clients
            .check()
    }

    #[test]
    fn who_says_nothing_has_the_librarys_bounds() {
        assert_eq!(check(&[]).unwrap(), ClientLimits::default());
    }

    #[test]
    fn each_flag_sets_its_own_bound_in_its_unit() {
        let default = ClientLimits::default();
        for (flag, expected) in [
            (
                "--max-connections",
                ClientLimits {
                    connections: 7,
                    ..default
                },
            ),
            (
                "--max-calls",
                ClientLimits {
                    calls: 7,
                    ..default
                },
            ),
            (
                "--max-watch-streams",
                ClientLimits {
                    watch_streams: 7,
                    ..default
                },
            ),
            (
                "--max-request-memory",
                ClientLimits {
                    request_bytes: 7 << 20,
                    ..default
                },
            ),
            (
                "--max-answer-memory",
                ClientLimits {
                    answer_bytes: 7 << 20,
                    ..default
                },
            ),
        ] {
            assert_eq!(check(&[flag, "7"]).unwrap(), expected, "{flag}");
        }
    }

    #[test]
    fn what_cannot_be_names_its_flag_and_what_can() {
        for (flag, wrong, right) in [
            ("--max-connections", "0", "give 1 to 1048576, not 0"),
            ("--max-calls", "1048577", "give 1 to 1048576, not 1048577"),
            ("--max-watch-streams", "0", "give 1 to 1048576, not 0"),
            ("--max-request-memory", "1", "give 2 to 65536 MiB, not 1"),
            (
                "--max-answer-memory",
                "65537",
                "give 2 to 65536 MiB, not 65537",
            ),
        ] {
            let error = check(&[flag, wrong]).unwrap_err();
            let expected = format!("{flag}: {right}");
            assert!(
                matches!(&error, Failure::Usage(text) if *text == expected),
                "{error}"
            );
        }
    }

    /// A request of the largest size must find room.
    #[test]
    fn the_smallest_room_takes_the_largest_request() {
        assert!(SIZES_MIB.start() << 20 >= eaves_kv::services::validate::MAX_MESSAGE_BYTES);
    }
}
