//! Drives the tree protocol: the one loop that owns this node's [`TreeNode`], feeds it what happens and does what it asks.
//!
//! Everything comes in as one closed [`Input`]; connections have tasks of their own (`links`) and report here. Positions that change with
//! every entry do not wake the loop: it reads them when it has something to say.

use crate::core::Core;
use crate::error::SteerError;
use crate::explain::explain;
use crate::former::FormerListeners;
use crate::intake;
use crate::links::{self, LinkCommand};
use crate::message::{AskCall, Call, Reply};
use crate::saved;
use crate::status::{NodeEvent, Role};
use crate::tree_handle::{Input, Inspection, LinkSender, PeerAt, Place, TreeEnds, Wish};
use eaves_tree::{
    Address, Answer, Event, Instant, Left, LinkId, LogPosition, Message, Output, Peer,
    RefuseReason, TreeNode,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// How often a voter's freshness is looked at (B8): half the time after which it counts as stale.
const FRESHNESS_INTERVAL: Duration = Duration::from_millis(500);

/// Runs until the node stops.
pub(crate) async fn run(
    core: Arc<Core>,
    tree: TreeNode,
    ends: TreeEnds,
    started: tokio::time::Instant,
) {
    let mut stopping = core.stopping.subscribe();
    let (saver, versions) = mpsc::unbounded_channel();
    tokio::spawn(saved::keep(core.clone(), versions));
    let mut run = Run {
        core,
        tree,
        place: ends.place,
        links: HashMap::new(),
        saver,
        started,
        handed: 0,
        kept: 0,
        waiting: Vec::new(),
        former: FormerListeners::default(),
    };
    let mut inputs = ends.inputs;
    let mut freshness = tokio::time::interval(FRESHNESS_INTERVAL);
    loop {
        run.perform();
        let timeout = run
            .tree
            .poll_timeout()
            .map_or(Duration::MAX, |at| at.since(run.now()));
        tokio::select! {
            input = inputs.recv() => match input {
                Some(input) => run.handle(input),
                None => return,
            },
            () = sleep(timeout) => run.timeout(),
            _ = freshness.tick() => run.refresh(),
            _ = stopping.wait_for(|stop| *stop) => return,
        }
    }
}

async fn sleep(duration: Duration) {
    match duration {
        Duration::MAX => std::future::pending().await,
        duration => tokio::time::sleep(duration).await,
    }
}

struct Run {
    core: Arc<Core>,
    tree: TreeNode,
    place: watch::Sender<Place>,
    links: HashMap<LinkId, LinkSender>,
    saver: mpsc::UnboundedSender<(u64, eaves_tree::Saved)>,
    started: tokio::time::Instant,
    /// The version handed to the saver last, and the last one on disk.
    handed: u64,
    kept: u64,
    /// Administrators who wait for a version to be on disk.
    waiting: Vec<(u64, oneshot::Sender<Result<(), SteerError>>)>,
    /// Listeners that are registered here no more.
    former: FormerListeners,
}

impl Run {
    fn now(&self) -> Instant {
        Instant(self.started.elapsed().as_micros() as u64)
    }

    fn handle(&mut self, input: Input) {
        let now = self.now();
        self.catch_up();
        match input {
            Input::Ask {
                from,
                zone,
                asked_at,
                answer,
            } => {
                self.core.tree.questions.taken(asked_at.elapsed());
                drop(answer.send(self.tree.handle_ask(now, from, zone.as_ref())))
            }
            Input::Answered { from, answer } => self.tree.handle_answer(now, &from, answer),
            Input::AskFailed { to } => self.tree.handle_ask_failed(now, &to),
            Input::AskedBusy { from, retry_after } => {
                self.tree.handle_busy(now, &from, retry_after)
            }
            Input::Register {
                link,
                register,
                verdict,
                commands,
            } => {
                self.links.insert(link, commands);
                self.tree.handle_register(now, link, register, verdict);
            }
            Input::Session { link, message } => {
                self.tree.handle_session_message(now, link, message)
            }
            Input::Closed { link } => {
                if self.links.remove(&link).is_some() {
                    self.tree.handle_link_closed(now, link);
                }
            }
            // What was said of the role that this node had a moment ago is of no use any more.
            Input::Voter(state) if !self.is_listener() => {
                self.tree.handle_voter_state(now, state);
                // It knows a leader because it has just heard it.
                self.refresh();
            }
            Input::Voters(voters) if self.is_listener() => self.tree.handle_voters(now, voters),
            Input::UpstreamList(upstreams) if self.is_listener() => {
                self.tree.handle_upstream_list(now, upstreams)
            }
            Input::Compared if self.is_listener() => self.tree.handle_log_compared(),
            Input::Voter(_) | Input::Voters(_) | Input::UpstreamList(_) | Input::Compared => {}
            Input::BecomeVoter { done } => {
                if self.is_listener() {
                    self.tree.become_voter(now);
                }
                self.perform();
                let _ = done.send(());
            }
            Input::BecomeListener { saved, done } => {
                if !self.is_listener() {
                    self.tree.become_listener(now, saved);
                }
                self.perform();
                let _ = done.send(());
            }
            Input::Wish { wish, answer } => match self.wish(now, wish) {
                Ok(()) => self.answer_when_kept(answer),
                // Who no longer waits needs no answer.
                Err(error) => drop(answer.send(Err(error))),
            },
            Input::Explain(answer) => drop(answer.send(explain(&self.tree, now))),
            Input::Kick { listener, answer } => drop(answer.send(self.tree.kick(now, listener))),
            Input::Persisted {
                version,
                saved: Ok(()),
            } => {
                self.tree.handle_persisted(now, version);
                self.kept = self.kept.max(version);
                self.answer_kept();
            }
            Input::Persisted {
                saved: Err(error), ..
            } => self.core.fail("write the upstream list", error),
            Input::Inspect(answer) => drop(answer.send(self.inspect())),
        }
    }

    fn is_listener(&self) -> bool {
        self.tree.role() == eaves_tree::Role::Listener
    }

    fn timeout(&mut self) {
        self.catch_up();
        self.tree.handle_timeout(self.now());
    }

    /// Tells the protocol what moved without waking the loop: the committed position, and who was heard.
    fn catch_up(&mut self) {
        let now = self.now();
        let committed = self
            .core
            .committed
            .get()
            .map_or(LogPosition::default(), |id| LogPosition {
                term: id.term,
                index: id.index,
            });
        self.tree.handle_committed(committed);
        for (link, sender) in &self.links {
            if sender.heard.swap(false, Ordering::Relaxed) {
                self.tree.handle_heard(now, *link);
            }
        }
    }

    /// Tells a voter's protocol side whether its leader was heard lately (B8).
    fn refresh(&mut self) {
        let Some(consensus) = self.core.consensus().filter(|_| !self.is_listener()) else {
            return;
        };
        let view = consensus.view();
        let leads = view.role == Role::Leader;
        let heard = view.leader.and_then(|leader| self.core.heard_ago(leader));
        if leads || heard.is_some_and(|ago| ago < 2 * FRESHNESS_INTERVAL) {
            self.tree.handle_leader_heard(self.now());
        }
        self.core.update_status(|status| {
            status.leader = self.core.live_leader(&view);
            status.role = self.core.live_role(&view);
        });
    }

    fn perform(&mut self) {
        while let Some(output) = self.tree.poll_output() {
            self.output(output);
        }
        let place = Place {
            upstream: self.tree.upstream().map(|upstream| peer_at(&upstream.peer)),
            depth: self.tree.depth(),
            // A root that lost its leader says so (B8): whoever it last followed leads no more, as far as anybody here knows.
            leader: self
                .tree
                .leader()
                .filter(|_| !self.tree.is_stale(self.now()))
                .map(|leader| leader.0),
        };
        self.place
            .send_if_modified(|known| std::mem::replace(known, place.clone()) != place);
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Ask { to } => drop(tokio::spawn(ask(self.core.clone(), to))),
            Output::Connect { to, link } => {
                let (sender, receiver) = links::channel();
                self.links.insert(link, sender.clone());
                // The upstream that it has may be feeding meanwhile.
                let end = self.core.flusher.log().end();
                let last = end.last.map_or(LogPosition::default(), |id| LogPosition {
                    term: id.term,
                    index: id.index,
                });
                let register = self.tree.register(eaves_tree::LogEnd {
                    position: last,
                    chain: end.chain.0,
                });
                tokio::spawn(intake::follow(
                    self.core.clone(),
                    to,
                    link,
                    register,
                    sender,
                    receiver,
                ));
            }
            Output::Send { link, message } => {
                if let Message::Refuse(refuse) = &message {
                    let reason = refuse.reason.name();
                    self.core.count(|counters| counters.refusals.add(reason));
                }
                self.command(link, LinkCommand::Send(message));
            }
            Output::StartFeeding { link, .. } => self.command(link, LinkCommand::Feed(true)),
            Output::StopFeeding { link } => self.command(link, LinkCommand::Feed(false)),
            Output::StartFollowing { link, .. } => {
                self.core.following.set(Some(link));
                self.command(link, LinkCommand::Follow);
            }
            Output::StopFollowing { link } => self.core.following.unset(link),
            Output::Close { link } => {
                self.command(link, LinkCommand::Close);
                if let Some(sender) = self.links.remove(&link) {
                    sender.end.notify_one();
                }
            }
            Output::Persist { version, saved } => {
                self.handed = version;
                // The saver lives as long as this loop.
                let _ = self.saver.send((version, saved));
            }
            Output::Event(event) => self.event(event),
        }
    }

    fn wish(&mut self, now: Instant, wish: Wish) -> Result<(), SteerError> {
        let of_listener = !matches!(wish, Wish::Drain(_));
        if of_listener && self.tree.role() != eaves_tree::Role::Listener {
            return Err(SteerError::Refused(format!(
                "{} is a voter: nobody feeds it; `eaves tree` shows the listeners",
                self.core.config.name
            )));
        }
        wish.grant(&mut self.tree, now)
            .map_err(|error| SteerError::Refused(error.to_string()))
    }

    /// Answers once all that the protocol wants kept is on disk.
    fn answer_when_kept(&mut self, answer: oneshot::Sender<Result<(), SteerError>>) {
        // What is to be kept must have been handed over before it can be waited for.
        self.perform();
        self.waiting.push((self.handed, answer));
        self.answer_kept();
    }

    fn answer_kept(&mut self) {
        let kept = self.kept;
        for (_, answer) in self.waiting.extract_if(.., |(version, _)| *version <= kept) {
            // Who no longer waits needs no answer.
            let _ = answer.send(Ok(()));
        }
    }

    fn command(&mut self, link: LinkId, command: LinkCommand) {
        if let Some(sender) = self.links.get(&link) {
            // A task that has ended has reported so, or will.
            let _ = sender.commands.send(command);
        }
    }

    fn event(&mut self, event: Event) {
        let now = self.now();
        self.former.note(now, &event, &self.tree);
        match event {
            Event::Lost { .. } => self.core.unfed.begin(),
            Event::Moved { why, .. } => self.core.count(|counters| counters.moves.add(why.name())),
            Event::Left { why, .. } => self.core.count(|counters| {
                counters.listeners_left.add(why.name());
                if let Left::Kicked(reason) = why {
                    counters.kicks.add(reason.name());
                }
            }),
            _ => {}
        }
        match event {
            // Time mends none of these: an administrator must look (B12).
            Event::Refused {
                reason:
                    RefuseReason::Cluster { .. }
                    | RefuseReason::Protocol { .. }
                    | RefuseReason::Log { .. },
                ..
            } => tracing::error!("{event}; the data stays as it is"),
            _ => tracing::info!("{event}"),
        }
        if let Event::Refused {
            reason: RefuseReason::Log { .. },
            ..
        } = event
        {
            self.core.differing.found(&event.to_string());
        }
        let _ = self.core.events.send(NodeEvent::Tree(event.to_string()));
    }

    fn inspect(&self) -> Inspection {
        let now = self.now();
        let upstream = self.tree.upstream();
        Inspection {
            upstream: upstream.map(|upstream| peer_at(&upstream.peer)),
            depth: self.tree.depth(),
            downstreams: self
                .tree
                .downstreams()
                .map(|downstream| peer_at(&downstream.peer))
                .collect(),
            former: self.former.told(now),
            fed_for: upstream.map(|upstream| now.since(upstream.since)),
            age: Some(self.tree.age(now)).filter(|age| *age != Duration::MAX),
            stale: self.tree.is_stale(now),
            steering: self.tree.steering().clone(),
        }
    }
}

pub(crate) fn peer_at(peer: &Peer) -> PeerAt {
    PeerAt {
        id: peer.id.0,
        address: peer.address.as_str().to_string(),
    }
}

/// How long the driver keeps a question open; when to give up on it is the protocol's business.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

async fn ask(core: Arc<Core>, to: Address) {
    let zone = Some(core.config.zone.clone()).filter(|zone| !zone.is_empty());
    let call = Call::Ask(AskCall { zone });
    let called = core.peers.ask_once(to.as_str(), call, ASK_TIMEOUT).await;
    let answered = match called {
        Ok(Reply::Answer(answer)) => Answer::try_from(answer).map_err(|error| error.to_string()),
        Ok(Reply::Busy(busy)) => {
            let retry_after = Duration::from_millis(busy.retry_after_ms.into());
            return core.tree.tell(Input::AskedBusy {
                from: to,
                retry_after,
            });
        }
        Ok(_) => Err("answered another question".into()),
        Err(error) => Err(error.to_string()),
    };
    match answered {
        Ok(answer) => core.tree.tell(Input::Answered { from: to, answer }),
        Err(error) => {
            tracing::info!("ask {to} for a place: {error}");
            core.tree.tell(Input::AskFailed { to });
        }
    }
}
