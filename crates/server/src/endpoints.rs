//! The flags every command that talks to a node takes: where the nodes are and how long to wait for them.

use crate::address::Address;
use crate::failure::{Failure, Outcome};
use clap::Args;
use std::time::Duration;

/// Where a command looks for a node when nothing says otherwise.
const DEFAULT_ENDPOINT: &str = "127.0.0.1:2379";

/// Read when `--endpoints` is not given, first one set wins. The second is etcdctl's.
const ENDPOINTS_VARIABLES: [&str; 2] = ["EAVES_ENDPOINTS", "ETCDCTL_ENDPOINTS"];

/// Seconds for `--command-timeout`: a server's own limit and a second for its answer, so that what it says, that there is no leader for
/// instance, is heard. etcdctl's 5 s end before etcd's.
const DEFAULT_COMMAND_TIMEOUT_SECONDS: u64 = eaves::REQUEST_TIMEOUT.as_secs() + 1;

/// `--endpoints` and `--command-timeout`.
#[derive(Args, Debug, Clone)]
pub struct EndpointArgs {
    /// Client addresses of nodes, tried in order [default: $EAVES_ENDPOINTS, $ETCDCTL_ENDPOINTS or 127.0.0.1:2379]
    #[arg(long, value_name = "HOST:PORT,...")]
    pub endpoints: Option<String>,

    /// Seconds to wait for one answer
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_COMMAND_TIMEOUT_SECONDS)]
    pub command_timeout: u64,
}

impl EndpointArgs {
    /// The addresses to use, from the flag, the environment, or the default.
    pub fn addresses(&self) -> Outcome<Vec<Address>> {
        choose(self.endpoints.as_deref(), |name| std::env::var(name).ok())
    }

    /// How long to wait for one answer.
    pub fn timeout(&self) -> Outcome<Duration> {
        match self.command_timeout {
            0 => Err(Failure::usage(
                "--command-timeout: 0 leaves no time for an answer; give at least 1 second",
            )),
            seconds => Ok(Duration::from_secs(seconds)),
        }
    }
}

fn choose(flag: Option<&str>, variable: impl Fn(&str) -> Option<String>) -> Outcome<Vec<Address>> {
    if let Some(text) = flag {
        return Address::parse_list("--endpoints", text);
    }
    for name in ENDPOINTS_VARIABLES {
        if let Some(text) = variable(name).filter(|text| !text.is_empty()) {
            return Address::parse_list(&format!("${name}"), &text);
        }
    }
    Address::parse_list("--endpoints", DEFAULT_ENDPOINT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_wins_over_the_environment_and_that_over_the_default() {
        let environment =
            |name: &str| (name == "ETCDCTL_ENDPOINTS").then(|| "http://b:2".to_string());
        assert_eq!(
            choose(Some("a:1"), environment).unwrap(),
            [Address::new("a", 1)]
        );
        assert_eq!(choose(None, environment).unwrap(), [Address::new("b", 2)]);
        assert_eq!(
            choose(None, |_| None).unwrap(),
            [Address::new("127.0.0.1", 2379)]
        );
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let error = choose(None, |_| Some("nowhere".to_string()))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("$EAVES_ENDPOINTS: "), "{error}");
    }
}
