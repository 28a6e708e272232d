//! The admin service's call that changes roles: what was asked, and the stream of what becomes of it.

use crate::admin::proto::change_role_request::Change;
use crate::admin::proto::{ChangeRoleProgress, ChangeRoleRequest};
use eaves::{Node, RoleChange, RoleChangeError};
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Status;

/// How often an asker is told that this node is still there while nothing happens.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// The change that a request asks for.
pub fn wanted(request: ChangeRoleRequest) -> Result<RoleChange, Status> {
    let change = match request.change {
        Some(Change::Promote(node)) => RoleChange::Promote { node },
        Some(Change::Demote(node)) => RoleChange::Demote { node },
        Some(Change::Replace(replace)) => RoleChange::Replace {
            old: replace.voter,
            new: replace.listener,
        },
        Some(Change::TransferLeader(transfer)) => RoleChange::TransferLeader {
            to: Some(transfer.to).filter(|to| !to.is_empty()),
        },
        None => {
            return Err(Status::invalid_argument(
                "eaves: a change of roles that this version does not know",
            ));
        }
    };
    Ok(change)
}

/// Has it carried out, and tells how far it is until it has ended or nobody listens.
pub async fn run(
    node: Node,
    change: RoleChange,
    progress: mpsc::Sender<Result<ChangeRoleProgress, Status>>,
) {
    let (tell, mut lines) = mpsc::unbounded_channel();
    let mut changing = std::pin::pin!(node.change_role(change, move |line| {
        // The receiver lives as long as this call.
        let _ = tell.send(line);
    }));
    let mut alive = tokio::time::interval(SIGN_OF_LIFE);
    let ended = loop {
        let line = tokio::select! {
            biased;
            Some(line) = lines.recv() => line,
            ended = &mut changing => break ended,
            _ = alive.tick() => String::new(),
        };
        if progress.send(Ok(said(line))).await.is_err() {
            return;
        }
    };
    while let Ok(line) = lines.try_recv() {
        let _ = progress.send(Ok(said(line))).await;
    }
    let last = match ended {
        Ok(done) => Ok(ChangeRoleProgress {
            line: String::new(),
            done,
        }),
        Err(RoleChangeError::Refused(text)) => Err(Status::failed_precondition(text)),
        Err(error @ RoleChangeError::Unfinished(_)) => Err(Status::unavailable(error.to_string())),
    };
    let _ = progress.send(last).await;
}

fn said(line: String) -> ChangeRoleProgress {
    ChangeRoleProgress {
        line,
        done: String::new(),
    }
}
