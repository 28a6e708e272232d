//! Who was without an upstream for how long, and what finding one has cost: the figures of `scale`. Nothing here is checked, and
//! nothing depends on it.

use crate::engine::Micros;
use eaves_tree::Event;

/// A time without a chain of upstreams up to a voter, and how it ended.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    /// When the listener was started, lost its upstream, or heard that the chain above it broke.
    pub since: Micros,
    /// When it was attached again.
    pub until: Micros,
    /// It had to find an upstream itself; otherwise the chain above it was mended by somebody else.
    pub searched: bool,
    /// The questions it asked meanwhile (`S7`).
    pub questions: u32,
    /// Those, what it heard from whom it asked, its registrations, and what became of them.
    pub messages: u32,
}

#[derive(Clone, Copy, Default)]
struct Account {
    open: Option<Gap>,
}

/// The gaps of all listeners since the last [`Ledger::begin`].
pub struct Ledger {
    accounts: Vec<Account>,
    /// Gaps that have ended.
    pub gaps: Vec<Gap>,
    /// Heartbeats that leaders sent to listeners (`S2`).
    pub leader_heartbeats: u64,
    /// Entries that leaders pushed to listeners (`S1`).
    pub leader_entries: u64,
}

impl Ledger {
    /// For so many hosts.
    pub fn new(hosts: usize) -> Ledger {
        Ledger {
            accounts: vec![Account::default(); hosts],
            gaps: Vec::new(),
            leader_heartbeats: 0,
            leader_entries: 0,
        }
    }

    /// Forgets the gaps that have ended; those that go on go on.
    pub fn begin(&mut self) {
        self.gaps.clear();
    }

    /// How many gaps go on.
    pub fn open(&self) -> usize {
        let open = |account: &&Account| account.open.is_some();
        self.accounts.iter().filter(open).count()
    }

    /// A listener starts.
    pub(crate) fn started(&mut self, now: Micros, host: u32) {
        self.open_gap(now, host, true);
    }

    /// A process has ended; nobody waits for it.
    pub(crate) fn ended(&mut self, host: u32) {
        self.accounts[host as usize].open = None;
    }

    /// A node has said something for people to see.
    pub(crate) fn event(&mut self, now: Micros, host: u32, event: &Event) {
        match event {
            Event::Lost { .. } => self.open_gap(now, host, true),
            Event::Detached { .. } => self.open_gap(now, host, false),
            Event::Moved { .. } | Event::Attached { .. } => self.close_gap(now, host),
            _ => {}
        }
    }

    /// It asks somebody.
    pub(crate) fn asks(&mut self, host: u32) {
        if let Some(gap) = &mut self.accounts[host as usize].open {
            gap.questions += 1;
            gap.messages += 1;
        }
    }

    /// It sends or hears something else while it looks for an upstream.
    pub(crate) fn message(&mut self, host: u32) {
        if let Some(gap) = &mut self.accounts[host as usize].open {
            gap.messages += 1;
        }
    }

    fn open_gap(&mut self, now: Micros, host: u32, searched: bool) {
        let gap = self.accounts[host as usize].open.get_or_insert(Gap {
            since: now,
            until: now,
            searched,
            questions: 0,
            messages: 0,
        });
        gap.searched |= searched;
    }

    fn close_gap(&mut self, now: Micros, host: u32) {
        if let Some(gap) = self.accounts[host as usize].open.take() {
            self.gaps.push(Gap { until: now, ..gap });
        }
    }
}
