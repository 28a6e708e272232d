//! Every answer is the state at the revision that it names, rebuilt from all writes that anybody knows of.

use super::ledger::Ledger;
use super::{Found, History, Operation, Report, Rule, watches};

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
            check_compares(operation, step.key(), found, report);
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

/// The branch that was taken is the one that what was read calls for.
fn check_compares(operation: &Operation, key: &str, found: Option<&Found>, report: &mut Report) {
    let Some(answer) = operation.answer() else {
        return;
    };
    let holds = |expected: &Option<String>| expected.as_ref() == found.map(|found| &found.value);
    let mut compares = operation.request.compares().iter();
    if answer.succeeded && compares.any(|one| one.key == key && !holds(&one.expected)) {
        let what = format!("took the wrong branch: {operation}");
        report.add(Rule::StateAtRevision, what);
    }
}
