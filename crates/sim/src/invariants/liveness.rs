//! What must come true when the faults are over.
//!
//! - **reattach**: every listener is attached, and holds what was committed when the faults stopped.
//! - **true-views**: what nodes believe about the tree is what it is; who follows somebody is registered there.
//! - **min-depth** (`B7`): no listener could register at a place strictly smaller in the order.

use crate::host::{Host, host_of, id};
use crate::world::World;
use eaves_tree::{NodeId, Role};

/// The path that a walk along the upstreams finds, root first; nothing if it does not end at a voter.
fn walk(hosts: &[Host], number: u32) -> Option<Vec<NodeId>> {
    let mut path = vec![id(number)];
    let mut at = number;
    loop {
        let node = hosts[at as usize].node.as_ref()?;
        let Some(upstream) = node.upstream() else {
            break;
        };
        if path.contains(&upstream.peer.id) {
            return None;
        }
        at = host_of(upstream.peer.id);
        path.push(upstream.peer.id);
    }
    path.reverse();
    hosts[at as usize].is_voter().then_some(path)
}

/// Listeners that must have a place: all but those whose log is of another history.
pub fn listeners(world: &World) -> impl Iterator<Item = u32> {
    world.numbers().filter(|&number| {
        let host = &world.hosts[number as usize];
        !host.is_voter() && !host.diverged
    })
}

/// Whether one listener is attached and holds the log up to an index.
pub fn is_fed(world: &World, number: u32, index: u64) -> bool {
    let host = &world.hosts[number as usize];
    let attached = host.node.as_ref().is_some_and(|node| node.is_attached());
    attached && host.log.last_index() >= index
}

/// What about one listener's place is not as it should be, if anything (true-views).
pub fn untrue(world: &World, number: u32) -> Option<String> {
    let name = number + 1;
    let host = &world.hosts[number as usize];
    let node = host.node.as_ref()?;
    let Some(path) = walk(&world.hosts, number) else {
        return Some(format!(
            "n{name} believes to be at {}, which ends at no voter",
            node.path()
        ));
    };
    if node.path().ids() != path {
        return Some(format!(
            "n{name} believes to be at {}, and is at {path:?}",
            node.path()
        ));
    }
    if node.is_stale(host.clock(world.now())) {
        return Some(format!("n{name} is stale"));
    }
    let upstream = node.upstream()?;
    let above = world.hosts[host_of(upstream.peer.id) as usize]
        .node
        .as_ref()?;
    let registered = above
        .downstreams()
        .any(|downstream| downstream.peer.id == id(number));
    (!registered).then(|| {
        format!(
            "n{name} follows {} and is not registered there",
            upstream.peer
        )
    })
}

/// How strictly places are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By what they cost in levels: their depth, and one more in another zone.
    Levels,
    /// By that, and the own zone before others that cost the same: the whole order (`S8`, `B6`).
    Whole,
}

/// The place of `upstream` in the order, for a listener. Stale ones do not come into it: nobody is stale when it is quiet.
pub fn rank(listener: &Host, upstream: &Host, order: Order) -> Option<(u32, bool)> {
    let node = upstream.node.as_ref()?;
    let other_zone = listener.config.zone.is_some() && listener.config.zone != upstream.config.zone;
    let levels = node.depth()? + u32::from(other_zone);
    Some((levels, other_zone && order == Order::Whole))
}

/// A listener that could register at a place strictly smaller in the order, and that place (min-depth). `B1` lets an attached
/// listener move only below a node whose (depth, id) is less than its own; the place it is pinned to is better than all (`B16`).
///
/// What must come true is [`Order::Levels`]. Of two places that cost as many levels the one in the own zone is smaller too, but
/// a listener cannot know of all of them: answers name what is near, and its zone may be hidden behind free places of others.
pub fn could_do_better(world: &World, order: Order) -> Option<String> {
    listeners(world).find_map(|number| {
        let host = &world.hosts[number as usize];
        let node = host.node.as_ref()?;
        let upstream = node.upstream()?.peer.id;
        if node.steering().is_pinned(upstream) {
            return None;
        }
        let current = rank(host, &world.hosts[host_of(upstream) as usize], order)?;
        let better = world.numbers().find(|&other| {
            let above = &world.hosts[other as usize];
            let Some(target) = &above.node else {
                return false;
            };
            let is_free = target.role() != Role::Leader
                && target.is_attached()
                && !target.path().contains(id(number))
                && target.registered() < above.config.capacity;
            let is_pin = node.steering().is_pinned(id(other));
            is_free && is_pin
                || is_free
                    && (target.depth(), id(other)) < (node.depth(), id(number))
                    && rank(host, above, order).is_some_and(|rank| rank < current)
        })?;
        Some(format!(
            "n{} at {} could register with n{} at {}",
            number + 1,
            node.path(),
            better + 1,
            world.hosts[better as usize].node.as_ref()?.path()
        ))
    })
}

/// A listener that is registered with another than it follows: it is just moving, and no place is as it seems.
pub fn moves(world: &World) -> Option<String> {
    world.numbers().find_map(|number| {
        let node = world.hosts[number as usize].node.as_ref()?;
        let gone_to = |listener: NodeId| {
            let follower = world.hosts[host_of(listener) as usize].node.as_ref();
            let upstream = follower.and_then(|follower| follower.upstream());
            upstream.is_none_or(|upstream| upstream.peer.id != id(number))
        };
        let moving = node
            .downstreams()
            .find(|downstream| gone_to(downstream.peer.id))?;
        Some(format!("{} is moving", moving.peer))
    })
}
