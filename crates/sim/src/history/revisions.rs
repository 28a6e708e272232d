//! The order of revisions in real time.
//!
//! A revision is one point of the one history that all nodes tell of. So whatever somebody was told of before a write was asked for lies
//! before that write; and a linearizable read sees it.

use super::{Freshness, History, NodeRun, Operation, Report, Request, Rule};
use std::collections::HashMap;

pub fn check(history: &History, report: &mut Report) {
    let mut answered: Vec<&Operation> = history.operations.iter().collect();
    answered.retain(|operation| operation.answer().is_some());
    check_real_time(&answered, report);
    check_staleness(&answered, report);
    check_nodes(&answered, report);
    for operation in answered {
        check_min_revision(operation, report);
    }
}

/// Something that was answered, and the revision it told of.
type Told<'a> = (i64, &'a Operation);

/// For each of `asked`, in the order of the times that come with them, the latest revision that was told before its time.
fn told_before<'a>(
    answered: &[&'a Operation],
    mut asked: Vec<(u64, &'a Operation)>,
    mut each: impl FnMut(&'a Operation, Told<'a>),
) {
    let mut returned = answered.to_vec();
    returned.sort_by_key(|operation| operation.returned_ns);
    asked.sort_by_key(|(time_ns, _)| *time_ns);
    let mut returned = returned.into_iter().peekable();
    let mut latest: Option<Told<'a>> = None;
    for (time_ns, operation) in asked {
        while let Some(earlier) = returned.next_if(|earlier| earlier.returned_ns < time_ns) {
            let revision = revision_of(earlier);
            if latest.is_none_or(|(other, _)| other < revision) {
                latest = Some((revision, earlier));
            }
        }
        if let Some(latest) = latest {
            each(operation, latest);
        }
    }
}

fn revision_of(operation: &Operation) -> i64 {
    operation.answer().map_or(0, |answer| answer.revision)
}

fn check_real_time(answered: &[&Operation], report: &mut Report) {
    let linearizable = answered
        .iter()
        .filter(|operation| operation.is_linearizable());
    let asked = linearizable.map(|operation| (operation.invoked_ns, *operation));
    told_before(answered, asked.collect(), |operation, (before, earlier)| {
        let revision = revision_of(operation);
        // A write makes a revision of its own.
        let least = before + i64::from(operation.has_written());
        if revision < least {
            let what = format!("revision {revision} of: {operation}; came after: {earlier}");
            report.add(Rule::RevisionsInRealTime, what);
        }
    });
}

/// Only what was acknowledged counts: a serializable read may have told of something that is committed and not acknowledged yet, but
/// that was committed when it was told, so it counts too.
fn check_staleness(answered: &[&Operation], report: &mut Report) {
    let bounded = answered
        .iter()
        .filter_map(|operation| match operation.request {
            Request::Read {
                freshness: Freshness::WithinNs(bound_ns),
                ..
            } => Some((operation.invoked_ns.saturating_sub(bound_ns), *operation)),
            _ => None,
        });
    told_before(
        answered,
        bounded.collect(),
        |operation, (before, earlier)| {
            if revision_of(operation) < before {
                let what =
                    format!("misses revision {before}: {operation}; it was told by: {earlier}");
                report.add(Rule::MaxStaleness, what);
            }
        },
    );
}

/// Reads alone: a node may pass on the answer to a write a while before it has applied it.
fn check_nodes(answered: &[&Operation], report: &mut Report) {
    let mut nodes: HashMap<&NodeRun, Vec<&Operation>> = HashMap::new();
    for operation in answered {
        if operation.request.only_reads() {
            nodes.entry(&operation.node).or_default().push(operation);
        }
    }
    for operations in nodes.into_values() {
        let asked = operations.iter().map(|one| (one.invoked_ns, *one));
        told_before(
            &operations,
            asked.collect(),
            |operation, (before, earlier)| {
                let revision = revision_of(operation);
                if revision < before {
                    let what =
                        format!("revision {revision} of: {operation}; came after: {earlier}");
                    report.add(Rule::NodeNeverGoesBack, what);
                }
            },
        );
    }
}

fn check_min_revision(operation: &Operation, report: &mut Report) {
    if let Request::Read { min_revision, .. } = operation.request
        && revision_of(operation) < min_revision
    {
        report.add(Rule::MinRevision, operation.to_string());
    }
}
