//! One change of roles as those see it who asked for it: which it is, what has happened so far, how it ended.

use super::super::message::{ChangeAsk, ChangeKind, ChangeState, ChangeTold, Target};
use crate::raft::ChangeError;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// How long an asker waits for news.
const NEWS_WAIT: Duration = Duration::from_secs(1);

/// The latest change that this node, as leader, was asked for.
#[derive(Default)]
pub(crate) struct Changes(Mutex<Option<Arc<Run>>>);

/// One change being carried out, or carried out.
pub(crate) struct Run {
    id: u64,
    pub(super) ask: ChangeAsk,
    news: watch::Sender<News>,
}

#[derive(Clone, Default)]
struct News {
    lines: Vec<String>,
    end: Option<(ChangeState, String)>,
    /// The node that this change may make a voter; it must not go back to listening meanwhile.
    bringing_in: Option<u64>,
}

/// Why a change stopped early.
pub(super) enum Stop {
    /// It cannot be, and was left, or put back, as it was.
    Refused(String),
    /// Who leads or what is committed is not certain: whoever leads looks again.
    LookAgain(String),
}

pub(super) type Outcome<T = ()> = Result<T, Stop>;

pub(super) fn refused<T>(text: impl Into<String>) -> Outcome<T> {
    Err(Stop::Refused(text.into()))
}

impl From<ChangeError> for Stop {
    fn from(error: ChangeError) -> Stop {
        match error {
            ChangeError::LookAgain(text) => Stop::LookAgain(text),
            ChangeError::Refused(text) => Stop::Refused(text),
        }
    }
}

impl Changes {
    /// Whether a change under way may make `node` a voter.
    pub fn is_bringing_in(&self, node: u64) -> bool {
        let latest = self.0.lock().unwrap();
        latest.as_ref().is_some_and(|run| {
            let news = run.news.borrow();
            news.end.is_none() && news.bringing_in == Some(node)
        })
    }

    pub(super) fn is_idle(&self) -> bool {
        let latest = self.0.lock().unwrap();
        latest
            .as_ref()
            .is_none_or(|run| run.news.borrow().end.is_some())
    }

    /// The run that this asker belongs to, and whether it has yet to be started. Another change under way is in the way.
    pub(super) fn join(&self, ask: &ChangeAsk, new_id: u64) -> Result<(Arc<Run>, bool), String> {
        let mut latest = self.0.lock().unwrap();
        if let Some(run) = &*latest {
            let is_over = run.news.borrow().end.is_some();
            if run.is_same(ask) && (!is_over || run.ask.attempt == ask.attempt) {
                return Ok((run.clone(), false));
            }
            if !is_over {
                return Err(format!(
                    "another change is under way, {}; wait for its end and ask again",
                    run.describe()
                ));
            }
        }
        let run = Arc::new(Run {
            id: new_id,
            ask: ask.clone(),
            news: watch::Sender::default(),
        });
        *latest = Some(run.clone());
        Ok((run, true))
    }
}

impl Run {
    fn is_same(&self, ask: &ChangeAsk) -> bool {
        let id = |target: &Option<Target>| target.as_ref().map(|target| target.id);
        (self.ask.kind, id(&self.ask.node), id(&self.ask.replaced))
            == (ask.kind, id(&ask.node), id(&ask.replaced))
    }

    fn describe(&self) -> String {
        let name = |target: &Option<Target>| target.as_ref().map_or(String::new(), Target::label);
        match self.ask.kind() {
            ChangeKind::Promote => format!("promote {}", name(&self.ask.node)),
            ChangeKind::Demote => format!("demote {}", name(&self.ask.node)),
            ChangeKind::Replace => format!(
                "replace {} {}",
                name(&self.ask.replaced),
                name(&self.ask.node)
            ),
            ChangeKind::TransferLeader => format!("transfer-leader {}", name(&self.ask.node)),
            ChangeKind::Learn => format!("learn {}", name(&self.ask.node)),
            ChangeKind::Unknown => "one that this version does not know".into(),
        }
    }

    pub(super) fn tell(&self, line: impl Into<String>) {
        let line = line.into();
        tracing::info!("{}: {line}", self.describe());
        self.news.send_modify(|news| news.lines.push(line));
    }

    pub(super) fn bring_in(&self, node: Option<u64>) {
        self.news.send_modify(|news| news.bringing_in = node);
    }

    pub(super) fn end(&self, outcome: Outcome<String>) {
        let end = match outcome {
            Ok(text) => (ChangeState::Done, text),
            Err(Stop::Refused(text)) => (ChangeState::Refused, text),
            Err(Stop::LookAgain(text)) => (ChangeState::GoOn, text),
        };
        tracing::info!("{}: {}", self.describe(), end.1);
        self.news.send_modify(|news| news.end = Some(end));
    }

    /// What the asker has not seen yet; waits a moment for it.
    pub(super) async fn news(&self, ask: &ChangeAsk) -> ChangeTold {
        let seen = if ask.run == self.id { ask.seen } else { 0 } as usize;
        let mut news = self.news.subscribe();
        let is_news = news.wait_for(|news| news.lines.len() > seen || news.end.is_some());
        let _ = tokio::time::timeout(NEWS_WAIT, is_news).await;
        let news = self.news.borrow().clone();
        let (state, text) = news.end.unwrap_or((ChangeState::Running, String::new()));
        ChangeTold {
            run: self.id,
            lines: news.lines.into_iter().skip(seen).collect(),
            state: state as i32,
            text,
            leader: 0,
        }
    }
}
