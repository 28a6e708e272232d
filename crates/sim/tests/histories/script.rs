//! Histories in few words. Times are whole seconds, and every operation has a client of its own.

use eaves_sim::history::{
    Answer, Checked, Compare, Found, Freshness, History, NodeRun, Operation, Outcome, Request,
    Rule, Step, WatchEvent, WatchMessage, WatchPiece, WatchStream, check,
};

/// From when to when, in seconds.
pub type Seconds = (u64, u64);

/// A history that grows line by line.
#[derive(Default)]
pub struct Script(pub History);

pub fn node(name: &str) -> NodeRun {
    NodeRun {
        name: name.to_owned(),
        run: 1,
    }
}

pub fn put(key: &str, value: &str) -> Step {
    Step::Put {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

pub fn delete(key: &str) -> Step {
    Step::Delete {
        key: key.to_owned(),
    }
}

pub fn get(key: &str) -> Step {
    Step::Get {
        key: key.to_owned(),
    }
}

pub fn found(value: &str, mod_revision: i64) -> Option<Found> {
    Some(Found {
        value: value.to_owned(),
        mod_revision,
    })
}

pub fn ok(revision: i64, found: Vec<Option<Found>>) -> Outcome {
    Outcome::Ok(Answer {
        revision,
        succeeded: true,
        found,
    })
}

pub fn otherwise(revision: i64, found: Vec<Option<Found>>) -> Outcome {
    Outcome::Ok(Answer {
        revision,
        succeeded: false,
        found,
    })
}

pub fn unknown() -> Outcome {
    Outcome::Unknown("request timed out".to_owned())
}

pub fn failed() -> Outcome {
    Outcome::Failed("no leader".to_owned())
}

/// Reads `key` and puts `value` if it is as `expected`; reads it in either case.
pub fn swap(key: &str, expected: Option<&str>, value: &str) -> Request {
    Request::Txn {
        compares: vec![Compare {
            key: key.to_owned(),
            expected: expected.map(str::to_owned),
        }],
        then: vec![get(key), put(key, value)],
        or_else: vec![get(key)],
    }
}

/// All of `steps` as one.
pub fn all(steps: Vec<Step>) -> Request {
    Request::Txn {
        compares: Vec::new(),
        then: steps,
        or_else: Vec::new(),
    }
}

pub fn read(key: &str, freshness: Freshness, min_revision: i64) -> Request {
    Request::Read {
        key: key.to_owned(),
        freshness,
        min_revision,
    }
}

pub fn event(revision: i64, key: &str, value: Option<&str>) -> WatchEvent {
    WatchEvent {
        revision,
        key: key.to_owned(),
        value: value.map(str::to_owned),
    }
}

impl Script {
    pub fn at(
        mut self,
        node_name: &str,
        (begin, end): Seconds,
        request: Request,
        outcome: Outcome,
    ) -> Script {
        self.0.operations.push(Operation {
            client: self.0.operations.len() as u32,
            node: node(node_name),
            invoked_ns: begin * 1_000_000_000,
            returned_ns: end * 1_000_000_000,
            request,
            outcome,
        });
        self
    }

    pub fn put(self, time: Seconds, key: &str, value: &str, outcome: Outcome) -> Script {
        self.at("v1", time, Request::One(put(key, value)), outcome)
    }

    pub fn get(self, time: Seconds, key: &str, outcome: Outcome) -> Script {
        self.at("v1", time, Request::One(get(key)), outcome)
    }

    /// A watch of everything from the first change on, each piece on another node.
    pub fn watch(mut self, must_reach: i64, pieces: Vec<(i64, Vec<Vec<WatchEvent>>)>) -> Script {
        let pieces = pieces.into_iter().enumerate();
        let pieces = pieces.map(|(number, (start_revision, messages))| WatchPiece {
            node: node(&format!("l{number}")),
            start_revision,
            messages: messages.into_iter().map(WatchMessage::Events).collect(),
        });
        self.0.watches.push(WatchStream {
            client: 1000,
            from: String::new(),
            until: None,
            start_revision: 2,
            pieces: pieces.collect(),
            must_reach,
        });
        self
    }

    /// The rules that do not hold, each once, and how much was checked.
    pub fn verdict(&self) -> (Vec<Rule>, Checked) {
        verdict(&self.0)
    }

    #[track_caller]
    pub fn assert_right(&self) {
        let verdict = check(&self.0);
        assert!(verdict.holds(), "{:#?}", verdict.violations);
    }

    #[track_caller]
    pub fn assert_wrong(&self, rule: Rule) {
        let verdict = check(&self.0);
        let mut violations = verdict.violations.iter();
        assert!(
            violations.any(|violation| violation.rule == rule),
            "not found, but: {:#?}",
            verdict.violations
        );
    }
}

pub fn verdict(history: &History) -> (Vec<Rule>, Checked) {
    let verdict = check(history);
    let mut rules: Vec<Rule> = verdict.violations.iter().map(|one| one.rule).collect();
    rules.sort();
    rules.dedup();
    (rules, verdict.checked)
}
