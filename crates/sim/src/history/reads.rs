//! Every answer is the state at the revision that it names, rebuilt from all writes that anybody knows of.

use super::ledger::Ledger;
use super::{Found, History, Operation, Report, Request, Rule, watches};

pub fn check(history: &History, ledger: &Ledger, report: &mut Report) {
    for operation in &history.operations {
        let Some(answer) = operation.answer() else {
            continue;
        };
        // What a transaction or a deletion reads is the state before what it writes itself.
        let at = answer.revision - i64::from(operation.has_written());
        for (step, found) in operation.done() {
            if step.written().is_some() {
                continue;
            }
            report.verdict.checked.reads += 1;
            if !is_state(history, ledger, step.key(), at, found) {
                let known = ledger.state(step.key(), at);
                let what = format!("{} was {known:?} at revision {at}: {operation}", step.key());
                report.add(Rule::StateAtRevision, what);
            }
        }
        if !may_take_branch(history, ledger, operation, answer.succeeded, at) {
            let what = format!("took the wrong branch at revision {at}: {operation}");
            report.add(Rule::StateAtRevision, what);
        }
    }
}

fn is_state(
    history: &History,
    ledger: &Ledger,
    key: &str,
    revision: i64,
    found: Option<&Found>,
) -> bool {
    match (ledger.state(key, revision), found) {
        (Some((at, Some(value))), Some(found)) => at == found.mod_revision && *value == found.value,
        (Some((_, None)) | None, None) => true,
        (Some((_, None)) | None, Some(_)) => false,
        // Deleted unseen: only a watch would have told.
        (Some((_, Some(_))), None) => {
            !watches::covers(history, key, revision) && Ledger::may_be_deleted(history, key)
        }
    }
}

/// Whether a transaction takes this branch in the state that it met at `revision`, as far as that is known.
fn may_take_branch(
    history: &History,
    ledger: &Ledger,
    operation: &Operation,
    succeeded: bool,
    revision: i64,
) -> bool {
    let Request::Txn { compares, .. } = &operation.request else {
        return succeeded;
    };
    // None when it is not known.
    let mut hold = compares.iter().map(|compare| {
        let expected = compare.expected.as_deref();
        let met = match read_before_written(operation, &compare.key) {
            Some(found) => Some(found),
            None => ledger.certainly(history, &compare.key, revision),
        };
        met.map(|value| value == expected)
    });
    match succeeded {
        true => hold.all(|holds| holds != Some(false)),
        false => hold.any(|holds| holds != Some(true)),
    }
}

/// What a request read of a key, if it did: it reads no key that it has written.
fn read_before_written<'a>(operation: &'a Operation, key: &str) -> Option<Option<&'a str>> {
    let mut read = operation
        .done()
        .filter(|(step, _)| step.written().is_none() && step.key() == key);
    read.next()
        .map(|(_, found)| found.map(|found| found.value.as_str()))
}
