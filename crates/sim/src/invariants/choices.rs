//! How listeners choose and when they may.
//!
//! - **fresh-first** (`B8`): nobody registers with a node that said it is stale while one that said it is not would have taken it.
//! - **subtree-together** (`B3`): below a detached head nobody searches before its patience is over.

use super::Broken;
use crate::engine::{Micros, SECOND};
use crate::host::{Host, host_at, id};
use eaves_tree::{Answer, Event, GRACE_LEVELS_MAX, NodeId, Verdict, Why};
use std::collections::BTreeMap;

/// For how long an answer is remembered: longer than a round takes.
const REMEMBERED_FOR: Micros = 30 * SECOND;

/// What is remembered of each node.
#[derive(Clone, Default)]
struct Remembered {
    /// When each node answered lately, and whether it was stale. An answer may come twice, and the older one last.
    answers: BTreeMap<u32, Vec<(Micros, bool)>>,
    /// Since when it is detached below this head, so many levels.
    detached: Option<(Micros, NodeId, u32)>,
}

/// What each node was told, and since when it has been detached.
pub struct Choices(Vec<Remembered>);

impl Choices {
    pub(super) fn new(hosts: usize) -> Choices {
        Choices(vec![Remembered::default(); hosts])
    }

    pub(super) fn forget(&mut self, number: u32) {
        self.0[number as usize] = Remembered::default();
    }

    /// A question of `number` was answered.
    pub(crate) fn answered(&mut self, now: Micros, number: u32, by: u32, answer: &Answer) {
        let answers = self.0[number as usize].answers.entry(by).or_default();
        answers.retain(|(at, _)| at + REMEMBERED_FOR > now);
        answers.push((now, answer.stale));
    }

    pub(super) fn event(&mut self, now: Micros, number: u32, event: &Event, host: &Host) {
        let remembered = &mut self.0[number as usize];
        match event {
            Event::Detached { head } => {
                let levels = host.node.as_ref().map_or(0, |node| node.path().depth());
                remembered.detached = Some((now, *head, levels));
            }
            Event::Attached { .. } | Event::Lost { .. } | Event::Moved { .. } => {
                remembered.detached = None
            }
            _ => {}
        }
    }

    /// A listener registers with `upstream`: is it right to?
    pub(super) fn chooses(&self, number: u32, upstream: u32, host: &Host) -> Result<(), Broken> {
        // An administrator's pin goes before all (B16).
        let node = host
            .node
            .as_ref()
            .filter(|node| !node.steering().is_pinned(id(upstream)));
        let search = node.and_then(|node| match node.is_attached() {
            true => node.last_look(),
            false => node.last_choice(),
        });
        let Some(choice) = search else {
            return Ok(());
        };
        let began = host.started_at + choice.began.0;
        let answers = &self.0[number as usize].answers;
        let said = |by: u32, stale: bool| {
            let answers = answers.get(&by).map_or(&[][..], Vec::as_slice);
            let mut in_this_round = answers.iter().filter(|(at, _)| *at >= began).peekable();
            in_this_round.peek().is_some() && in_this_round.all(|(_, was)| *was == stale)
        };
        let mut eligible = choice
            .considered
            .iter()
            .filter(|considered| considered.verdict == Verdict::Eligible);
        let fresher = eligible.find(|considered| said(host_at(&considered.address), false));
        match fresher {
            Some(fresher) if said(upstream, true) => {
                let what = format!(
                    "n{} chose n{}, which is stale, before {}, which is not",
                    number + 1,
                    upstream + 1,
                    fresher.address
                );
                Err(("fresh-first", what))
            }
            _ => Ok(()),
        }
    }

    /// A node asks somebody for a place.
    pub(super) fn may_search(&self, now: Micros, number: u32, host: &Host) -> Result<(), Broken> {
        let Some(node) = &host.node else {
            return Ok(());
        };
        let (Some((since, head, levels)), Some(_)) =
            (self.0[number as usize].detached, node.upstream())
        else {
            return Ok(());
        };
        // An administrator's list is followed at once.
        if node
            .last_choice()
            .is_some_and(|choice| choice.why == Why::NewList)
        {
            return Ok(());
        }
        let timeout = host.config.timeout.as_micros() as Micros;
        let patience = 2 * timeout * Micros::from(levels.min(GRACE_LEVELS_MAX));
        if now - since >= patience {
            return Ok(());
        }
        let what = format!(
            "n{}, {levels} levels below the detached {head}, searches after {} ms instead of {} ms",
            number + 1,
            (now - since) / 1000,
            patience / 1000
        );
        Err(("subtree-together", what))
    }
}
