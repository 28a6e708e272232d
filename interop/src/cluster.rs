//! Status, the member list, and what is not there yet.

use std::collections::BTreeSet;

use etcd_client::{Client, Error as ClientError};

use crate::Target;
use crate::checks::{Checks, Outcome, ensure, expect};

const UNIMPLEMENTED: i32 = 12;

pub async fn run(checks: &mut Checks, target: &mut Target) {
    checks.run("status", status(target)).await;
    checks
        .run("status of all nodes: one leader", one_leader(target))
        .await;
    checks.run("member_list", members(target)).await;
    checks
        .run("a client of all nodes at once", balanced(target))
        .await;
    if !target.etcd {
        checks
            .run(
                "lease_grant says that there are no leases",
                no_lease(target),
            )
            .await;
    }
}

async fn status(target: &mut Target) -> Outcome {
    let status = target.client.status().await?;
    ensure(status.version().starts_with("3."), || {
        format!("the version is {}", status.version())
    })?;
    let set = status.db_size() > 0 && status.raft_used_db_size() > 0;
    ensure(set, || "a size of the database is zero".to_owned())?;
    let set = status.leader() > 0
        && status.raft_term() > 0
        && status.raft_index() > 0
        && status.raft_applied_index() > 0;
    ensure(set, || {
        "the leader, the term or an index is zero".to_owned()
    })?;
    expect(status.errors(), &[])
}

async fn one_leader(target: &mut Target) -> Outcome {
    let (mut leaders, mut members) = (BTreeSet::new(), BTreeSet::new());
    for address in &target.addresses {
        let status = Client::connect([address], None).await?.status().await?;
        leaders.insert(status.leader());
        members.insert(status.header().map_or(0, |header| header.member_id()));
    }
    expect((leaders.len(), members.len()), (1, target.addresses.len()))?;
    ensure(leaders.is_subset(&members), || {
        format!("the leader {leaders:?} is none of {members:?}")
    })
}

async fn members(target: &mut Target) -> Outcome {
    let answer = target.client.member_list().await?;
    let found: BTreeSet<&str> = answer
        .members()
        .iter()
        .map(|member| member.name())
        .collect();
    let missing: Vec<_> = target
        .voters
        .iter()
        .filter(|name| !found.contains(name.as_str()))
        .collect();
    ensure(missing.is_empty(), || {
        format!("{missing:?} are not among {found:?}")
    })?;
    for member in answer.members() {
        let set =
            member.id() > 0 && !member.peer_urls().is_empty() && !member.client_urls().is_empty();
        ensure(set, || format!("an id or a URL of {member:?} is not set"))?;
    }
    Ok(())
}

async fn balanced(target: &mut Target) -> Outcome {
    let mut client = Client::connect(&target.addresses, None).await?;
    for number in 0..20 {
        let (key, value) = (crate::key("balanced"), number.to_string());
        client.put(key.clone(), value.clone(), None).await?;
        // Linearizable, whichever node answers.
        let answer = client.get(key, None).await?;
        expect(
            answer.kvs().first().map(|kv| kv.value().to_vec()),
            Some(value.into_bytes()),
        )?;
    }
    Ok(())
}

async fn no_lease(target: &mut Target) -> Outcome {
    match target.client.lease_grant(60, None).await {
        Err(ClientError::GRpcStatus(status)) => {
            expect(status.code() as i32, UNIMPLEMENTED)?;
            ensure(status.message().contains("lease"), || {
                format!("{:?} does not name leases", status.message())
            })
        }
        other => Err(format!("the answer is {other:?}, should be an error").into()),
    }
}
