//! What the loop that drives the tree protocol is told and asked, and how the rest of the node reaches it.

use crate::error::SteerError;
use crate::explain::Explained;
use crate::links::LinkCommand;
use crate::message::FormerBytes;
use crate::questions::Questions;
use eaves_tree::{
    Address, Answer, BUSY_RETRY_AFTER, Instant, LinkId, LogVerdict, Message, NodeId, Peer,
    Register, TreeNode, VoterState, Zone,
};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// What happens, as the loop hears of it.
pub(crate) enum Input {
    Ask {
        from: NodeId,
        zone: Option<Zone>,
        asked_at: tokio::time::Instant,
        answer: oneshot::Sender<Answer>,
    },
    Answered {
        from: Address,
        answer: Answer,
    },
    AskFailed {
        to: Address,
    },
    AskedBusy {
        from: Address,
        retry_after: Duration,
    },
    Register {
        link: LinkId,
        register: Register,
        verdict: LogVerdict,
        commands: LinkSender,
    },
    Session {
        link: LinkId,
        message: Message,
    },
    Closed {
        link: LinkId,
    },
    Voter(VoterState),
    Voters(Vec<Peer>),
    /// The upstream has compared the listener's log, and feeds from its end on.
    Compared,
    UpstreamList(Vec<Address>),
    /// What an administrator wants of this node; answered once it is on disk.
    Wish {
        wish: Wish,
        answer: oneshot::Sender<Result<(), SteerError>>,
    },
    /// Why this node hangs where it hangs (B15).
    Explain(oneshot::Sender<Explained>),
    /// An administrator kicks a listener off (S12); answered with whether it was registered.
    Kick {
        listener: NodeId,
        answer: oneshot::Sender<bool>,
    },
    BecomeVoter {
        done: oneshot::Sender<()>,
    },
    BecomeListener {
        saved: eaves_tree::Saved,
        done: oneshot::Sender<()>,
    },
    Persisted {
        version: u64,
        saved: io::Result<()>,
    },
    Inspect(oneshot::Sender<Inspection>),
}

/// What an administrator may want of a node, to be kept on disk.
pub(crate) enum Wish {
    /// Another list of upstream servers (S14).
    Upstreams(Vec<Address>),
    /// One upstream before all others, or none (B16).
    Pin(Option<Peer>),
    /// Never to register with these, or again (B16).
    Avoid(Vec<NodeId>, bool),
    /// To hand its listeners over and take none, or to take them again (B16).
    Drain(bool),
}

impl Wish {
    /// Tells the protocol. A voter has no upstream, and is asked for nothing that concerns one.
    pub fn grant(self, tree: &mut TreeNode, now: Instant) -> Result<(), eaves_tree::SteerError> {
        match self {
            Wish::Upstreams(list) => tree.handle_upstream_list(now, list),
            Wish::Pin(upstream) => tree.pin(now, upstream)?,
            Wish::Avoid(nodes, on) => {
                for node in nodes {
                    tree.avoid(now, node, on)?;
                }
            }
            Wish::Drain(true) => tree.drain(now),
            Wish::Drain(false) => tree.undrain(now),
        }
        Ok(())
    }
}

/// The way to one link's task.
#[derive(Clone)]
pub(crate) struct LinkSender {
    pub commands: mpsc::UnboundedSender<LinkCommand>,
    /// Ends the task, also when it is stuck in a write.
    pub end: Arc<Notify>,
    /// Raised by the task whenever anything came from the peer.
    pub heard: Arc<AtomicBool>,
}

/// Where this node hangs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub upstream: Option<PeerAt>,
    pub depth: Option<u32>,
    pub leader: Option<u64>,
}

/// A node and its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerAt {
    pub id: u64,
    pub address: String,
}

/// What the protocol's state says, for people and for `describe`.
#[derive(Clone, Debug)]
pub(crate) struct Inspection {
    pub upstream: Option<PeerAt>,
    pub depth: Option<u32>,
    pub downstreams: Vec<PeerAt>,
    pub former: Vec<FormerBytes>,
    /// Since how long it has its upstream.
    pub fed_for: Option<Duration>,
    /// How old the last word from a leader is (B8).
    pub age: Option<Duration>,
    pub stale: bool,
    /// What an administrator asked of it (B16).
    pub steering: eaves_tree::Steering,
}

/// How the rest of the node reaches the loop.
pub(crate) struct TreeHandle {
    inputs: mpsc::UnboundedSender<Input>,
    place: watch::Receiver<Place>,
    /// The questions that wait for the loop.
    pub questions: Questions,
}

/// What becomes of a peer's question.
pub(crate) enum Asked {
    Answer(Answer),
    /// Too many are waiting: ask again after this long (B19).
    Busy(Duration),
}

/// The loop's own ends, made before the loop so that the node can be put together.
pub(crate) struct TreeEnds {
    pub inputs: mpsc::UnboundedReceiver<Input>,
    pub place: watch::Sender<Place>,
}

impl TreeHandle {
    pub fn new() -> (TreeHandle, TreeEnds) {
        let (inputs, receiver) = mpsc::unbounded_channel();
        let (place, watching) = watch::channel(Place::default());
        (
            TreeHandle {
                inputs,
                place: watching,
                questions: Questions::default(),
            },
            TreeEnds {
                inputs: receiver,
                place,
            },
        )
    }

    /// Tells the loop. A stopped loop is a stopped node.
    pub fn tell(&self, input: Input) {
        let _ = self.inputs.send(input);
    }

    /// Who feeds this listener.
    pub fn upstream(&self) -> Option<PeerAt> {
        self.place.borrow().upstream.clone()
    }

    /// Where this node hangs, as it changes.
    pub fn place(&self) -> watch::Receiver<Place> {
        self.place.clone()
    }

    /// Answers a peer's question (S7), or says that too many others are waiting, which costs nothing (B19). A stopped node
    /// answers none.
    pub async fn ask(&self, from: u64, zone: Option<&str>) -> Option<Asked> {
        if !self.questions.wait() {
            return Some(Asked::Busy(BUSY_RETRY_AFTER));
        }
        let (answer, wait) = oneshot::channel();
        self.tell(Input::Ask {
            from: NodeId(from),
            zone: zone.map(Zone::from),
            asked_at: tokio::time::Instant::now(),
            answer,
        });
        wait.await.ok().map(Asked::Answer)
    }

    /// The listener becomes a voter; returns when it has left its upstream.
    pub async fn become_voter(&self) -> io::Result<()> {
        self.turn(|done| Input::BecomeVoter { done }).await
    }

    /// The voter becomes a listener, and begins to look for an upstream with what `saved` says.
    pub async fn become_listener(&self, saved: eaves_tree::Saved) -> io::Result<()> {
        self.turn(|done| Input::BecomeListener { saved, done })
            .await
    }

    async fn turn(&self, input: impl FnOnce(oneshot::Sender<()>) -> Input) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.tell(input(done));
        wait.await
            .map_err(|_| io::Error::other("the node is stopping"))
    }

    pub async fn inspect(&self) -> Option<Inspection> {
        let (answer, wait) = oneshot::channel();
        self.tell(Input::Inspect(answer));
        wait.await.ok()
    }
}
