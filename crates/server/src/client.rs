//! One client over several nodes: the first that can be reached answers, and a request that is safe to repeat goes on to the next
//! node when one cannot serve it.
//!
//! A write is repeated only when it certainly did not happen: when no connection was made, or the node said that it knew no leader.
//! Everything else is reported as what it is, an unknown outcome, because a second try could do it twice.

use crate::address::Address;
use crate::endpoints::EndpointArgs;
use crate::failure::{Failure, Outcome};
use std::error::Error;
use std::time::Duration;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// How long to wait for a TCP connection to one endpoint.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The largest answer taken: none is refused, as in etcd's own client.
pub const MAX_ANSWER_BYTES: usize = usize::MAX;

/// What etcd says when a request came before there was anybody to give it to.
const NO_LEADER: &str = "etcdserver: no leader";

/// What etcd says to a write of more than 1.5 MiB, and what gRPC says, first, to a message that is larger still.
const TOO_LARGE: &str = "etcdserver: request is too large";
const MESSAGE_TOO_LARGE: &str = "grpc: received message larger than max";

/// The nodes a command may talk to.
pub struct Client {
    addresses: Vec<Address>,
    timeout: Duration,
}

/// May a request be sent again to another node when its outcome is unknown?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Always,
    OnlyIfNotDone,
}

impl Client {
    /// A client as the flags describe it. Nothing is connected yet.
    pub fn new(args: &EndpointArgs) -> Outcome<Client> {
        Ok(Client {
            addresses: args.addresses()?,
            timeout: args.timeout()?,
        })
    }

    /// A client of known nodes.
    pub fn of(addresses: Vec<Address>, timeout: Duration) -> Client {
        Client { addresses, timeout }
    }

    /// The nodes, in the order they are tried.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// How long one answer is waited for.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A client of one of the nodes alone.
    pub fn only(&self, address: &Address) -> Client {
        Client::of(vec![address.clone()], self.timeout)
    }

    /// The same client, trying the nodes from another one on.
    pub fn starting_at(&self, number: usize) -> Client {
        let mut addresses = self.addresses.clone();
        addresses.rotate_left(number % self.addresses.len());
        Client::of(addresses, self.timeout)
    }

    /// Connects to the first node that can be reached, for a stream.
    pub async fn connect(&self) -> Outcome<(Address, Channel)> {
        let mut causes = Vec::new();
        for address in &self.addresses {
            match connect(address).await {
                Ok(channel) => return Ok((address.clone(), channel)),
                Err(cause) => causes.push(cause),
            }
        }
        Err(unreachable(&causes))
    }

    /// Sends a request that changes nothing. `what` is the beginning of the error message: a verb and its object.
    pub async fn read<T>(
        &self,
        what: &str,
        call: impl AsyncFn(Channel) -> Result<T, Status>,
    ) -> Outcome<T> {
        self.send(what, Repeat::Always, call).await
    }

    /// Sends a request that changes something.
    pub async fn write<T>(
        &self,
        what: &str,
        call: impl AsyncFn(Channel) -> Result<T, Status>,
    ) -> Outcome<T> {
        self.send(what, Repeat::OnlyIfNotDone, call).await
    }

    async fn send<T>(
        &self,
        what: &str,
        repeat: Repeat,
        call: impl AsyncFn(Channel) -> Result<T, Status>,
    ) -> Outcome<T> {
        let mut unreached = Vec::new();
        let mut refused = None;
        for address in &self.addresses {
            let channel = match connect(address).await {
                Ok(channel) => channel,
                Err(cause) => {
                    unreached.push(cause);
                    continue;
                }
            };
            let answer = timeout(self.timeout, call(channel))
                .await
                .unwrap_or_else(|_| {
                    Err(Status::deadline_exceeded(format!(
                        "no answer within {} s",
                        self.timeout.as_secs()
                    )))
                });
            match answer {
                Ok(answer) => return Ok(answer),
                Err(status) => {
                    let text = format!(
                        "{what}: {address}: {}; {}",
                        describe(&status),
                        advice(&status, repeat)
                    );
                    if !goes_on(&status, repeat) {
                        return Err(Failure::failed(text));
                    }
                    refused = Some(Failure::failed(text));
                }
            }
        }
        Err(refused.unwrap_or_else(|| unreachable(&unreached)))
    }
}

/// The failure of a stream or call to one node, in the words of every other.
pub fn call_failed(what: &str, address: &Address, status: &Status) -> Failure {
    Failure::failed(format!(
        "{what}: {address}: {}; {}",
        describe(status),
        advice(status, Repeat::Always)
    ))
}

async fn connect(address: &Address) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(address.url())
        .map_err(|error| format!("{address}: {error}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true);
    match timeout(CONNECT_TIMEOUT, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(format!("{address}: {}", root_cause(&error))),
        Err(_) => Err(format!(
            "{address}: no connection within {} s",
            CONNECT_TIMEOUT.as_secs()
        )),
    }
}

fn unreachable(causes: &[String]) -> Failure {
    Failure::failed(format!(
        "cannot reach a node: {}; start one (`eaves up` starts a whole group) or give --endpoints",
        causes.join(", ")
    ))
}

fn goes_on(status: &Status, repeat: Repeat) -> bool {
    match repeat {
        Repeat::Always => matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded),
        Repeat::OnlyIfNotDone => {
            status.code() == Code::Unavailable && status.message() == NO_LEADER
        }
    }
}

fn describe(status: &Status) -> String {
    match status.source() {
        Some(source) => root_cause(source),
        None if status.message().is_empty() => status.code().description().to_string(),
        None => status.message().to_string(),
    }
}

fn advice(status: &Status, repeat: Repeat) -> &'static str {
    let unknown_outcome = matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Unknown
            | Code::Cancelled
            | Code::Internal
    );
    if unknown_outcome && repeat == Repeat::OnlyIfNotDone && status.message() != NO_LEADER {
        return "it may or may not have been done: look before you repeat it";
    }
    if status.message() == TOO_LARGE || status.message().starts_with(MESSAGE_TOO_LARGE) {
        return "a write may have 1.5 MiB: split it";
    }
    match status.code() {
        Code::Unavailable => "try again, or give --endpoints of more nodes",
        Code::DeadlineExceeded => "look at `eaves status`, or raise --command-timeout",
        Code::OutOfRange => "ask for another revision; `eaves status` shows the newest",
        Code::InvalidArgument | Code::NotFound => "correct the request",
        Code::FailedPrecondition => "nothing was done",
        Code::ResourceExhausted => "ask for less at a time, or more slowly",
        Code::Unimplemented => "this server does not offer it",
        Code::Unknown | Code::Internal => {
            "is an etcd v3 server listening there? if so, its log says more"
        }
        _ => "the node's log says more",
    }
}

fn root_cause(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_goes_on_only_when_it_was_not_done() {
        let no_leader = Status::unavailable(NO_LEADER);
        let cut = Status::unavailable("connection reset");
        assert!(goes_on(&no_leader, Repeat::OnlyIfNotDone));
        assert!(!goes_on(&cut, Repeat::OnlyIfNotDone));
        assert!(goes_on(&cut, Repeat::Always));
        assert!(!goes_on(&Status::out_of_range("compacted"), Repeat::Always));
    }

    #[test]
    fn an_unknown_outcome_is_said_to_be_unknown() {
        let cut = Status::unavailable("connection reset");
        assert!(advice(&cut, Repeat::OnlyIfNotDone).contains("may or may not"));
        assert!(!advice(&cut, Repeat::Always).contains("may or may not"));
        assert!(
            !advice(
                &Status::invalid_argument("key is empty"),
                Repeat::OnlyIfNotDone
            )
            .contains("may or may not")
        );
    }

    #[test]
    fn who_sends_too_much_is_told_the_limit() {
        let large = Status::invalid_argument(TOO_LARGE);
        let larger = Status::resource_exhausted(format!("{MESSAGE_TOO_LARGE} (2097152 bytes)"));
        for status in [large, larger] {
            let advice = advice(&status, Repeat::OnlyIfNotDone);
            assert!(advice.contains("1.5 MiB"), "{advice}");
        }
    }

    #[tokio::test]
    async fn every_endpoint_that_cannot_be_reached_is_named() {
        // Bound and dropped: nobody listens there.
        let free = || {
            std::net::TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port()
        };
        let (a, b) = (free(), free());
        let client = Client {
            addresses: vec![Address::new("127.0.0.1", a), Address::new("127.0.0.1", b)],
            timeout: Duration::from_secs(5),
        };
        let failure = client
            .read("get", async |_| Ok(()))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            failure.contains(&format!(":{a}")) && failure.contains(&format!(":{b}")),
            "{failure}"
        );
        assert!(
            failure.contains("refused") && failure.contains("--endpoints"),
            "{failure}"
        );
    }
}
