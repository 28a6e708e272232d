//! What a read may demand of the node's state, as metadata of the call: an age that is not passed, a revision that is there (B14).
//!
//! | metadata | value | the read |
//! | --- | --- | --- |
//! | `eaves-max-staleness-ms` | 0 or more | has every write acknowledged longer ago than so many milliseconds before it began |
//! | `eaves-min-revision` | 0 or more | has this revision |
//!
//! A read with `eaves-max-staleness-ms` is neither linearizable nor serializable, whatever its request says: what it demands stands
//! in between, and 0 is as good as linearizable. `eaves-min-revision` comes on top of any of the three. What is demanded is waited
//! for; what cannot be had is an error: `Unavailable`, on which etcd's clients go to another node, or `OutOfRange` for a revision
//! that nobody has.

use super::{errors::read_failed, replica::Replica};
use crate::store::KvError;
use eaves::ReadError;
use eaves_http2::Head;
use std::time::Duration;
use tonic::Status;

/// The greatest age a read allows, in milliseconds.
pub(crate) const MAX_STALENESS: &str = "eaves-max-staleness-ms";

/// The least revision a read takes.
pub(crate) const MIN_REVISION: &str = "eaves-min-revision";

/// In an answer to a read with [`MAX_STALENESS`]: how old the state was at most, in milliseconds.
pub(crate) const STALENESS: &str = "eaves-staleness-ms";

/// Of what a client sent, at most so much is repeated to it.
const MAX_SHOWN_BYTES: usize = 64;

/// What one read demands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    max_staleness: Option<Duration>,
    min_revision: i64,
}

impl Demand {
    /// Reads the metadata of a call; absent means nothing is demanded.
    pub fn of(head: &Head) -> Result<Demand, Status> {
        let max_staleness: Option<u64> = number(head, MAX_STALENESS)?;
        Ok(Demand {
            max_staleness: max_staleness.map(Duration::from_millis),
            min_revision: number(head, MIN_REVISION)?.unwrap_or(0),
        })
    }

    /// Whether a serializable read needs to wait for nothing.
    pub fn is_nothing(self) -> bool {
        self == Demand::default()
    }

    /// Waits until this node's state is what the read demands. Returns how old it is at most, if the read limits that.
    pub async fn met(
        self,
        replica: &Replica,
        serializable: bool,
    ) -> Result<Option<Duration>, Status> {
        if let Some(max_staleness) = self.max_staleness {
            // First what may take a while: the age that is told is that of the state which is read.
            self.reach_revision(replica).await?;
            let reached = replica.node.read_barrier_within(max_staleness).await;
            let staleness = reached.map_err(|error| too_stale(max_staleness, error))?;
            return Ok(Some(staleness));
        }
        if !serializable {
            replica.node.read_barrier().await.map_err(read_failed)?;
        }
        self.reach_revision(replica).await?;
        Ok(None)
    }

    /// Waits for the revision. Asks for a read index meanwhile: a revision that is not there once that is applied exists nowhere.
    async fn reach_revision(self, replica: &Replica) -> Result<(), Status> {
        let is_reached = || replica.store.revision() >= self.min_revision;
        if is_reached() {
            return Ok(());
        }
        let asked = tokio::select! {
            applied = replica.node.applied_until(is_reached) => return applied.map_err(|error| read_failed(error).into()),
            asked = replica.node.read_barrier() => asked,
        };
        match asked {
            Ok(()) if is_reached() => Ok(()),
            Ok(()) => Err(KvError::FutureRevision.into()),
            Err(error) => Err(not_yet(self.min_revision, replica.store.revision(), error)),
        }
    }
}

/// The number in a piece of metadata, if it is there.
fn number<N: std::str::FromStr>(head: &Head, name: &'static str) -> Result<Option<N>, Status> {
    let mut fields = head
        .fields
        .iter()
        .filter(|field| field.name == name.as_bytes());
    let Some(field) = fields.next() else {
        return Ok(None);
    };
    if fields.next().is_some() {
        return Err(Status::invalid_argument(format!(
            "eaves: metadata {name} is there more than once: give it once"
        )));
    }
    let text = shown(&field.value);
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits => Ok(Some(number)),
        _ => Err(Status::invalid_argument(format!(
            "eaves: metadata {name} is {text:?}: give a whole number, 0 or more"
        ))),
    }
}

/// A client's bytes as they are repeated to it: a part is enough to know them by, however many there are.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_SHOWN_BYTES)]);
    let rest = if bytes.len() > MAX_SHOWN_BYTES {
        ".."
    } else {
        ""
    };
    format!("{shown}{rest}")
}

fn too_stale(max_staleness: Duration, error: ReadError) -> Status {
    if matches!(error, ReadError::Stopped(_)) {
        return read_failed(error).into();
    }
    Status::unavailable(format!(
        "eaves: this node cannot tell that its state is at most {} ms old: {error}; allow more, or ask another node",
        max_staleness.as_millis()
    ))
}

fn not_yet(revision: i64, present: i64, error: ReadError) -> Status {
    if matches!(error, ReadError::Stopped(_)) {
        return read_failed(error).into();
    }
    Status::unavailable(format!(
        "eaves: this node is at revision {present}, not yet at {revision}: {error}; try again, or ask another node"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use eaves_http2::hpack::Field;
    use tonic::Code;

    fn demand(metadata: &[(&'static str, &str)]) -> Result<Demand, Status> {
        let fields = metadata.iter().map(|(name, value)| Field {
            name: name.as_bytes().into(),
            value: value.as_bytes().to_vec().into(),
        });
        Demand::of(&Head {
            fields: fields.collect(),
            ..Head::default()
        })
    }

    #[test]
    fn metadata_that_is_not_there_demands_nothing() {
        assert_eq!(demand(&[]).unwrap(), Demand::default());
        let both = demand(&[(MAX_STALENESS, "250"), (MIN_REVISION, "7")]).unwrap();
        assert_eq!(
            both,
            Demand {
                max_staleness: Some(Duration::from_millis(250)),
                min_revision: 7
            }
        );
        assert_eq!(
            demand(&[(MAX_STALENESS, "0")]).unwrap().max_staleness,
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn what_is_no_number_is_refused_by_name_and_value() {
        let long = "\u{fc}".repeat(2_000);
        let echoed = demand(&[(MIN_REVISION, &long)]).unwrap_err();
        assert!(echoed.message().len() < 300, "{echoed:?}");
        for value in ["", "-1", "+1", "1s", " 1", "0x1", "99999999999999999999"] {
            for name in [MAX_STALENESS, MIN_REVISION] {
                let status = demand(&[(name, value)]).unwrap_err();
                assert_eq!(status.code(), Code::InvalidArgument);
                let named = format!("metadata {name} is {value:?}");
                assert!(status.message().contains(&named), "{status:?}");
            }
        }
        let twice = demand(&[(MIN_REVISION, "1"), (MIN_REVISION, "2")]).unwrap_err();
        assert_eq!(twice.code(), Code::InvalidArgument);
    }
}
