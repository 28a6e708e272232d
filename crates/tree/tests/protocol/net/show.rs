//! How the virtual network writes down what it sees.

use super::Net;
use eaves_tree::*;

/// A time in milliseconds, in a column.
pub fn time(now: Instant) -> String {
    format!("{:>8}", format!("{}ms", now.0 / 1000))
}

pub fn answer(answer: &Answer) -> String {
    let Answer {
        role,
        path,
        registered,
        capacity,
        ..
    } = answer;
    let state = match (answer.attached, answer.stale, answer.draining) {
        _ if answer.uncompared => " uncompared",
        (_, _, true) => " draining",
        (false, _, _) => " detached",
        (true, true, _) => " stale",
        (true, false, _) => "",
    };
    let zone = answer
        .zone
        .as_ref()
        .map_or(String::new(), |zone| format!(" zone={zone}"));
    format!(
        "answer {role}{state} {path}{zone} {registered}/{capacity}{}",
        alternatives(&answer.alternatives)
    )
}

pub fn register(register: &Register) -> String {
    let Register { last_log, free, .. } = register;
    let uncompared = if register.uncompared {
        " uncompared"
    } else {
        ""
    };
    format!(
        "register log={}{uncompared} free={}@{}",
        last_log.position, free.slots, free.levels
    )
}

pub fn message(message: &Message) -> String {
    match message {
        Message::Accept(accept) => format!(
            "accept {} voters={} ancestors={} siblings={}",
            heartbeat(&accept.heartbeat),
            peers(&accept.voters),
            peers(&accept.ancestors),
            peers(&accept.siblings)
        ),
        Message::Refuse(refuse) => format!(
            "refuse: {}{}",
            refuse.reason,
            alternatives(&refuse.alternatives)
        ),
        Message::Heartbeat(beat) => format!("heartbeat {}", heartbeat(beat)),
        Message::Kick(kick) => format!("kick: {}{}", kick.reason, alternatives(&kick.alternatives)),
        Message::HeartbeatAck(_) => "ack".into(),
        Message::Leave(reason) => format!("leave: {reason}"),
    }
}

fn heartbeat(heartbeat: &Heartbeat) -> String {
    let state = if heartbeat.attached { "" } else { " detached" };
    let draining = if heartbeat.draining { " draining" } else { "" };
    format!("{}{state}{draining}", heartbeat.path)
}

pub fn saved(saved: &Saved) -> String {
    let upstreams: Vec<String> = saved.upstreams.iter().map(Address::to_string).collect();
    let Steering {
        pin,
        avoided,
        draining,
    } = &saved.steering;
    let pin = pin.as_ref().map(|pin| format!(" pin={pin}"));
    let avoided: Vec<String> = avoided.iter().map(|id| format!(" avoid={id}")).collect();
    format!(
        "persists list=[{}] learned={}{}{}{}",
        upstreams.join(" "),
        peers(&saved.learned),
        pin.unwrap_or_default(),
        avoided.concat(),
        if *draining { " draining" } else { "" }
    )
}

pub fn peers(peers: &[Peer]) -> String {
    let names: Vec<String> = peers.iter().map(Peer::to_string).collect();
    format!("[{}]", names.join(" "))
}

fn alternatives(alternatives: &[Alternative]) -> String {
    let named = alternatives
        .iter()
        .map(|alternative| match alternative.place {
            Place::Voter => format!("{}", alternative.peer),
            Place::Leader => format!("{}:leader", alternative.peer),
            Place::Free => format!("{}:free", alternative.peer),
            Place::Full => format!("{}:full", alternative.peer),
        });
    let named: Vec<String> = named.collect();
    if named.is_empty() {
        String::new()
    } else {
        format!(", try {}", named.join(" "))
    }
}

pub fn tree(net: &Net) -> Vec<String> {
    let mut lines = Vec::new();
    let below = |id: u64| -> Vec<u64> {
        let node = net.node(id).expect("only running nodes are drawn");
        let mut ids: Vec<u64> = node
            .downstreams()
            .map(|downstream| downstream.peer.id.0)
            .collect();
        ids.sort_unstable();
        ids
    };
    let up: Vec<u64> = net.ids().into_iter().filter(|&id| net.is_up(id)).collect();
    let tops = up
        .iter()
        .filter(|&&id| net.node(id).is_some_and(|node| node.upstream().is_none()));
    for &top in tops {
        let mut stack = vec![(top, 0)];
        while let Some((id, level)) = stack.pop() {
            let node = net.node(id).unwrap();
            let state = match (node.is_attached(), node.is_stale(net.now)) {
                (false, _) => " detached",
                (true, true) => " stale",
                (true, false) => "",
            };
            lines.push(format!(
                "{}n{id} {}{state}",
                "  ".repeat(level),
                node.role()
            ));
            if level < 40 {
                stack.extend(
                    below(id)
                        .into_iter()
                        .rev()
                        .filter(|&id| net.is_up(id))
                        .map(|id| (id, level + 1)),
                );
            }
        }
    }
    lines
}
