//! What an administrator may ask: orders as they come to a node, and the names and pictures that the commands work with. The pictures are
//! made of what nodes say about themselves, which may be anything too.

use super::read;
use crate::message::Rows;
use crate::names;
use crate::orders::{Order, OrderCall};
use crate::roles::RolesCall;
use crate::status::TreePicture;
use crate::survey::Survey;
use crate::tree_handle::Wish;
use crate::tree_wire::SavedBytes;
use crate::what_if::what_if_down;
use arbitrary::Unstructured;
use eaves_tree::{Address, ClusterId, Config, Instant, NodeId, Output, OwnLog, Saved, TreeNode};
use std::collections::BTreeSet;
use std::time::Duration;

/// What the fuzzer calls.
pub fn admin_requests(input: &[u8]) {
    let mut script = Unstructured::new(input);
    // A script that ends early asks for nothing more.
    let _ended = match script.arbitrary::<u8>().unwrap_or(0) % 3 {
        0 => orders(&mut script),
        1 => picture(&mut script),
        _ => {
            let _ = read::<RolesCall>(script.peek_bytes(script.len()).unwrap_or_default());
            Ok(())
        }
    };
}

/// Some bytes of the script, as many as it says.
fn bytes<'a>(script: &mut Unstructured<'a>) -> arbitrary::Result<&'a [u8]> {
    let count = usize::from(script.arbitrary::<u8>()?).min(script.len());
    script.bytes(count)
}

/// Orders to a listener, one after the other. Whatever is granted is on its disk in a form that it reads when it starts again.
fn orders(script: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let now = Instant(1_000_000_000);
    let config = Config::new(NodeId(1), Address::from("127.0.0.1:1"), ClusterId(7));
    let mut tree = TreeNode::listener(now, config.clone(), Saved::default(), OwnLog::Empty, 5);
    let mut now = now;
    while !script.is_empty() {
        now = now + Duration::from_millis(script.arbitrary::<u16>()?.into());
        let Some(call) = read::<OrderCall>(bytes(script)?) else {
            continue;
        };
        let before = tree.steering().clone();
        match call.order.and_then(wish) {
            Some(wish) => {
                let single = !matches!(&wish, Wish::Avoid(nodes, _) if nodes.len() > 1);
                if wish.grant(&mut tree, now).is_err() && single {
                    assert_eq!(
                        *tree.steering(),
                        before,
                        "a wish that was refused had effect"
                    );
                }
            }
            None => drop(tree.kick(now, NodeId(call.to))),
        }
        while let Some(output) = tree.poll_output() {
            if let Output::Persist { version, saved } = output {
                is_read_back(&saved);
                tree.handle_persisted(now, version);
            }
        }
        tree.handle_timeout(now);
        is_read_back(tree.saved());
    }
    let again = TreeNode::listener(now, config, tree.saved().clone(), OwnLog::Empty, 6);
    assert_eq!(again.steering(), tree.steering());
    Ok(())
}

/// The wish in an order; the others are no wishes.
fn wish(order: Order) -> Option<Wish> {
    match order {
        Order::SetUpstreams(order) => order.try_into().ok(),
        Order::Pin(order) => order.try_into().ok(),
        Order::Avoid(order) => Some(order.into()),
        Order::Drain(order) => Some(Wish::Drain(order.on)),
        Order::Kick(_) | Order::Explain(_) => None,
    }
}

/// What is written to a listener's disk is read when it starts again.
pub(super) fn is_read_back(saved: &Saved) {
    let read = Saved::try_from(SavedBytes::from(saved));
    assert_eq!(read.as_ref(), Ok(saved), "it would not start again");
}

/// A survey of nodes that say anything, and questions about the picture that comes of it.
fn picture(script: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let name = String::from_utf8_lossy(bytes(script)?).into_owned();
    let voters: BTreeSet<u64> = BTreeSet::from_iter(script.arbitrary::<[u8; 3]>()?.map(u64::from));
    let first = voters.iter().map(|id| {
        let peer = crate::message::PeerAtBytes {
            id: *id,
            address: format!("127.0.0.1:{id}"),
        };
        (peer, format!("v{id}"))
    });
    let mut survey = Survey::new(first);
    while let Some(peer) = survey.next() {
        match read::<Rows>(bytes(script)?) {
            Some(rows) => survey.answered(peer.id, rows),
            None => survey.failed(peer.id, "no rows"),
        }
    }
    let picture = survey.finish();
    is_whole(&picture);
    if let Ok(row) = names::find(&picture, &name) {
        assert!(row.name == name || names_the_id(&name, row.id));
    }
    for row in &picture.rows {
        let forecast = what_if_down(&picture, std::slice::from_ref(&voters), row.id);
        let forecast = forecast.expect("the picture shows it");
        for one in &forecast.moves {
            assert_ne!(
                one.to.as_ref().map(|to| to.id),
                Some(row.id),
                "moved to who is down"
            );
            assert_ne!(
                one.to.as_ref().map(|to| to.id),
                Some(one.listener),
                "moved to itself"
            );
        }
    }
    assert!(what_if_down(&picture, &[], u64::MAX - 7).is_none_or(|f| f.node.id == u64::MAX - 7));
    Ok(())
}

fn names_the_id(name: &str, id: u64) -> bool {
    name.parse() == Ok(id) || u64::from_str_radix(name, 16) == Ok(id)
}

/// Every node is in the picture once.
fn is_whole(picture: &TreePicture) {
    let ids: BTreeSet<u64> = picture.rows.iter().map(|row| row.id).collect();
    assert_eq!(ids.len(), picture.rows.len());
}
