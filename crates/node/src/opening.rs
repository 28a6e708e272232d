//! What is found out and checked before a node runs: whose directory this is, and whether log and state fit each other.
//!
//! Every refusal names the thing and says what to do. Nothing is changed before everything is checked, but for a log whose torn end is
//! dropped and one that follows an installed snapshot.

use crate::applier::Applier;
use crate::config::{Config, Founder, Group, StartAs, random_id};
use crate::error::StartError;
use crate::flusher::Flusher;
use crate::identity::Identity;
use crate::message::Purpose;
use crate::peer::client::{CallError, Me, connect};
use crate::position::Applied;
use crate::saved::{self, Kept};
use crate::snapshot::{Snapshots, is_full};
use crate::state_machine::StateMachine;
use eaves_log::{Base, Log, OpenError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Pause between attempts to meet a cluster.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How long an upstream may take to say at the start that it is of another cluster.
const CHECK_TIMEOUT: Duration = Duration::from_millis(500);

/// Finds out who this node is: from its directory, or anew.
pub(crate) async fn identify(config: &Config) -> Result<(Identity, Kept), StartError> {
    let (dir, path) = (&config.dir(), &config.data_dir);
    let found = Identity::load(dir)?;
    match &config.start_as {
        StartAs::Voter { group } => {
            let own = own_founder(group, &config.name)?;
            if let Some(found) = found {
                found.check(path, true, Some(group.cluster_id), Some(own.id))?;
                let (saved, _) = saved::load(dir)?;
                let new_list = None;
                return Ok((found, Kept { saved, new_list }));
            }
            let identity = Identity {
                cluster_id: Some(group.cluster_id),
                node_id: own.id,
                is_voter: true,
                began_as_voter: true,
                keep_below: None,
                name: config.name.clone(),
            };
            identity.save(dir)?;
            Ok((identity, Kept::default()))
        }
        StartAs::Listener { upstreams } => {
            let mut identity = found.unwrap_or_else(|| Identity {
                cluster_id: None,
                node_id: random_id(config.seed),
                is_voter: false,
                began_as_voter: false,
                keep_below: None,
                name: config.name.clone(),
            });
            identity.check(path, false, None, None)?;
            identity.check_name(path, &config.name)?;
            // S6: on disk before anybody on it is asked.
            let kept = saved::keep_upstreams(dir, upstreams)?;
            match identity.cluster_id {
                Some(_) if identity.is_voter => {}
                Some(cluster_id) => {
                    check_upstreams(config, cluster_id, identity.node_id, upstreams).await?
                }
                None => {
                    identity.save(dir)?;
                    identity.cluster_id =
                        Some(meet_cluster(config, identity.node_id, upstreams).await?);
                    identity.save(dir)?;
                }
            }
            Ok((identity, kept))
        }
    }
}

/// Says at the start what would otherwise be found out at every attempt: that an upstream is of another cluster. Those that do not
/// answer at once are left to the tree.
async fn check_upstreams(
    config: &Config,
    cluster_id: u64,
    node_id: u64,
    upstreams: &[String],
) -> Result<(), StartError> {
    let me = Me {
        cluster_id,
        node_id,
    };
    let greetings = upstreams.iter().map(async |address| {
        let greeting = connect(&*config.network, me, address, Purpose::Control);
        match tokio::time::timeout(CHECK_TIMEOUT, greeting).await {
            Ok(Err(CallError::Rejected(reject))) => {
                let (dir, text) = (config.data_dir.display().to_string(), reject.text);
                let advice = "correct --upstream, or choose another --data-dir";
                Err(StartError::State {
                    dir,
                    cause: format!("upstream {address} refuses this node: {text}; {advice}"),
                })
            }
            _ => Ok(()),
        }
    });
    futures_util::future::try_join_all(greetings)
        .await
        .map(|_| ())
}

fn own_founder<'a>(group: &'a Group, name: &str) -> Result<&'a Founder, StartError> {
    let names = || {
        group
            .founders
            .iter()
            .map(|founder| founder.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    group.founder(name).ok_or_else(|| StartError::State {
        dir: "the configuration".into(),
        cause: format!(
            "the name {name} is not among the founding members ({}); correct the name or the list",
            names()
        ),
    })
}

/// Asks the upstream list which cluster it belongs to, until somebody answers.
async fn meet_cluster(
    config: &Config,
    node_id: u64,
    upstreams: &[String],
) -> Result<u64, StartError> {
    let me = Me {
        cluster_id: 0,
        node_id,
    };
    let mut warned = false;
    loop {
        for address in upstreams {
            match connect(&*config.network, me, address, Purpose::Control).await {
                Ok(greeted) => return Ok(greeted.welcome.cluster_id),
                Err(CallError::Rejected(reject)) => {
                    return Err(StartError::Other(std::io::Error::other(format!(
                        "{address}: {}",
                        reject.text
                    ))));
                }
                Err(error) if !warned => {
                    tracing::warn!("meet the cluster: {error}; trying again until somebody answers")
                }
                Err(_) => {}
            }
        }
        warned = true;
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

pub(crate) fn open_state(
    config: &Config,
    machine: Arc<dyn StateMachine>,
) -> Result<Arc<Applier>, StartError> {
    Applier::open(machine, config.dir()).map_err(|error| StartError::State {
        dir: config.data_dir.display().to_string(),
        cause: error.to_string(),
    })
}

/// Opens the log and checks that it and the state fit each other. A voter that became a listener and did not come to the end of it
/// gets its log cut now.
pub(crate) async fn open_log(
    config: &Config,
    identity: &mut Identity,
    applier: &Arc<Applier>,
    snapshots: &Snapshots,
) -> Result<Arc<Flusher>, StartError> {
    let path = config.data_dir.join("log");
    let open = || Log::open(config.disk.clone(), &path, config.log);
    let (log, recovered) = match open() {
        Err(OpenError::Disk(error)) if is_full(error.kind) && snapshots.inbox.give_back() => {
            open()?
        }
        opened => opened?,
    };
    if recovered.torn_bytes > 0 {
        tracing::info!(
            "dropped {} bytes that a crash had torn off the log's end; none of them was acknowledged",
            recovered.torn_bytes
        );
    }
    let applied = applier.state();
    let flusher = Flusher::start(log, config.blocking)?;
    if applied.last > flusher.log().last_id() && !applier.is_ahead_of_log()? {
        flusher
            .log()
            .require_at_least(applied.index().unwrap_or(0))?;
    }
    let_log_follow(&flusher, applier).await?;
    check_prefix(&config.data_dir, flusher.log(), &applied)?;
    check_reach(config, identity.is_voter, &flusher, &applied)?;
    if let Some(end) = identity.keep_below {
        cut_tail(&flusher, end).await?;
        identity.keep_below = None;
        identity.save(&config.dir())?;
    }
    Ok(flusher)
}

/// Where a snapshot was installed and the log has not followed yet, it does now.
pub(crate) async fn let_log_follow(flusher: &Flusher, applier: &Applier) -> std::io::Result<()> {
    let applied = applier.state();
    if applied.last > flusher.log().last_id() {
        let base = Base {
            last: applied.last,
            chain: applied.chain,
        };
        let ticket = flusher.log().reset(base).map_err(std::io::Error::other)?;
        flusher.durable(ticket).await?;
    }
    // Whatever it said, the log has followed now.
    applier.log_follows()
}

/// Drops what a former voter's log holds from index `end` on, which is not known committed: a listener's log is a prefix of the
/// committed log (S5).
pub(crate) async fn cut_tail(flusher: &Flusher, end: u64) -> std::io::Result<()> {
    let cut = flusher
        .log()
        .truncate_after(end.checked_sub(1))
        .map_err(std::io::Error::other)?;
    flusher.durable(cut).await
}

/// The state must have been made from this very log.
pub(crate) fn check_prefix(dir: &Path, log: &Log, applied: &Applied) -> Result<(), StartError> {
    let Some(last) = applied.last else {
        return Ok(());
    };
    let chain = log.chain_at(last.index);
    match chain {
        Ok(Some(chain)) if chain != applied.chain => Err(StartError::State {
            dir: dir.display().to_string(),
            cause: format!(
                "the state at {last} was not made from this log (chain {:016x}, the log has {:016x}): log and state come from different \
                 backups; restore both together, or remove the directory and let the node join anew",
                applied.chain.0, chain.0
            ),
        }),
        // Gone from the log: nothing to compare with.
        _ => Ok(()),
    }
}

/// The log must go on where the state ends. It does not when somebody took the state away, or brought back an old one.
fn check_reach(
    config: &Config,
    is_voter: bool,
    flusher: &Flusher,
    applied: &Applied,
) -> Result<(), StartError> {
    let log = flusher.log();
    let stands_at = applied.last.map_or("nothing".into(), |id| id.to_string());
    match is_voter {
        // All of its log is committed, and its upstream has it, as log or as a snapshot (S5, B9).
        false if applied.next_index() < log.first_index() => {
            tracing::warn!(
                "the state stands at {stands_at} and the log begins at {} only: take what is between from an upstream",
                log.first_index()
            );
            log.reset(Base {
                last: applied.last,
                chain: applied.chain,
            })
            .map_err(std::io::Error::other)?;
            flusher.kick();
            Ok(())
        }
        // What it holds beyond may be acknowledged, so it must not be thrown away here.
        true if applied.last < log.purged() => Err(StartError::State {
            dir: config.data_dir.display().to_string(),
            cause: format!(
                "it stands at {stands_at}, and the log goes on after {} only: bring back the state that belongs to this log, or replace this \
                 node: remove it from the group, wipe its data directory and let it join anew",
                log.purged()
                    .map_or("its beginning".into(), |id| id.to_string())
            ),
        }),
        _ => Ok(()),
    }
}
