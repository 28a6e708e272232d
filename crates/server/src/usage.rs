//! Wrong values on the command line: a line that names the flag, as for every other failure, where clap would answer with its own.

use crate::cli::Cli;
use crate::failure::Failure;
use crate::node_flags::SEGMENT_MIN_BYTES;
use crate::raft_flags::HEARTBEATS_PER_ELECTION;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory, FromArgMatches};
use std::error::Error;
use std::ffi::OsString;

/// Flags that do not take 0 either, and the least that they take: their own checks refuse what is less, and never see what is below 0.
const LEASTS: &[(&str, u64)] = &[
    ("--base-port", 1),
    ("--changes", 1),
    ("--clients", 1),
    ("--command-timeout", 1),
    ("--connections", 1),
    ("--heartbeat-interval", 1),
    ("--key-space", 1),
    ("--log-segment-bytes", SEGMENT_MIN_BYTES),
    ("--max-answer-memory", 2),
    ("--max-calls", 1),
    ("--max-connections", 1),
    ("--max-request-memory", 2),
    ("--max-watch-streams", 1),
    ("--rate", 1),
    ("--snapshot-count", 1),
    ("--total", 1),
    ("--voters", 1),
];

/// Why there is nothing to run.
pub enum Refusal {
    /// Ours to report.
    Failure(Failure),
    /// clap's to print: help, the version, an argument that does not exist.
    Clap(clap::Error),
}

/// Parses a command line.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, Refusal> {
    command(Cli::command())
        .try_get_matches_from(words)
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(|error| match wrong_value(&error) {
            Some(text) => Refusal::Failure(Failure::usage(text)),
            None => Refusal::Clap(error),
        })
}

/// Lets `-1` be the value of a flag, to be refused as such, and not an argument that clap does not know.
fn command(command: Command) -> Command {
    command
        .mut_args(|argument| match argument.get_action().takes_values() {
            true => argument.allow_negative_numbers(true),
            false => argument,
        })
        .mut_subcommands(self::command)
}

fn wrong_value(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::ValueValidation {
        return None;
    }
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    // As `--limit <N>`.
    let flag = text(ContextKind::InvalidArg)?.split(' ').next()?;
    let value = text(ContextKind::InvalidValue)?;
    if value.parse::<i128>().is_ok_and(|number| number < 0) {
        return Some(below_zero(flag, value));
    }
    let cause = error.source()?;
    Some(format!(
        "{flag}: {value:?}: {cause}; --help tells what it takes"
    ))
}

fn below_zero(flag: &str, value: &str) -> String {
    let bound = LEASTS.iter().find(|(name, _)| *name == flag);
    let bound = bound.map_or(0, |(_, least)| *least);
    let least = match flag {
        // What these take at least depends on another flag.
        "--election-timeout" => format!("{HEARTBEATS_PER_ELECTION} times --heartbeat-interval"),
        "--log-retention-bytes" => "--log-segment-bytes".to_owned(),
        _ => bound.to_string(),
    };
    format!("{flag}: {value} is below {bound}; give {least} or more")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(words: &[&str]) -> String {
        match parse(words.iter().map(OsString::from)) {
            Err(Refusal::Failure(failure)) => failure.to_string(),
            Err(Refusal::Clap(error)) => panic!("clap answers {words:?}: {error}"),
            Ok(cli) => panic!("{words:?} is {cli:?}"),
        }
    }

    #[test]
    fn negative_numbers_are_refused_by_the_name_of_their_flag() {
        let get = refused(&["eaves", "get", "k", "--limit", "-1"]);
        assert_eq!(get, "--limit: -1 is below 0; give 0 or more");
        let up = refused(&["eaves", "up", "--voters", "-3"]);
        assert_eq!(up, "--voters: -3 is below 1; give 1 or more");
        let serve = refused(&["eaves", "serve", "--max-watch-streams", "-1"]);
        assert_eq!(serve, "--max-watch-streams: -1 is below 1; give 1 or more");
        let log = refused(&["eaves", "listen", "--log-segment-bytes", "-1"]);
        let least = "--log-segment-bytes: -1 is below 1048576; give 1048576 or more";
        assert_eq!(log, least);
        let election = refused(&["eaves", "serve", "--election-timeout", "-1"]);
        let least = "--election-timeout: -1 is below 0; give 5 times --heartbeat-interval or more";
        assert_eq!(election, least);
        let retention = refused(&["eaves", "serve", "--log-retention-bytes", "-1"]);
        let least = "--log-retention-bytes: -1 is below 0; give --log-segment-bytes or more";
        assert_eq!(retention, least);
    }

    #[test]
    fn every_flag_with_a_least_exists() {
        fn flags(command: &Command) -> Vec<String> {
            let own = command.get_arguments().filter_map(|flag| flag.get_long());
            let own = own.map(|name| format!("--{name}"));
            own.chain(command.get_subcommands().flat_map(flags))
                .collect()
        }
        let flags = flags(&Cli::command());
        for (flag, _) in LEASTS {
            assert!(flags.iter().any(|known| known == flag), "{flag}");
        }
    }

    #[test]
    fn words_where_a_number_belongs_are_refused_by_the_name_of_their_flag() {
        let get = refused(&["eaves", "get", "k", "--limit", "many"]);
        assert!(get.starts_with("--limit: \"many\": "), "{get}");
    }

    #[test]
    fn a_key_may_be_a_negative_number() {
        assert!(parse(["eaves", "get", "-5"].map(OsString::from)).is_ok());
    }

    #[test]
    fn the_command_line_is_well_formed() {
        command(Cli::command()).debug_assert();
    }
}
