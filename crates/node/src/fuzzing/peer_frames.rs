//! What a peer may send: a stream cut into packets, each read as whatever its kind says; the messages of the tree are given to a node of
//! the protocol, whose own invariants are asserted inside it.

use super::{read, read_as};
use crate::intake;
use crate::member::Membership;
use crate::message::{
    EntriesHead, FeedFrom, FeedStart, Hello, PositionHead, Reject, Request, Response, Welcome,
};
use crate::raft;
use crate::tree_wire::{AnswerBytes, RegisterBytes, SessionBytes};
use crate::wire::{Kind, MAX_GREETING_BYTES, MAX_PACKET_BYTES, Packet, split_packet};
use arbitrary::Unstructured;
use bytes::{BufMut, BytesMut};
use eaves_tree::{
    Address, Answer, ClusterId, Config, Instant, LinkId, LogEnd, LogVerdict, Message, NodeId,
    Output, OwnLog, Peer, Register, Saved, TreeNode, Voter, VoterState,
};
use std::time::Duration;

/// What the fuzzer calls. The first byte says whether the rest is a stream as it is, or packets whose lengths are made to fit, so that
/// a change of one does not garble those behind it.
pub fn peer_frames(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else {
        return;
    };
    let mut stream = BytesMut::new();
    let mut script = Unstructured::new(rest);
    match kind % 2 {
        0 => stream.extend_from_slice(rest),
        _ => while put_packet(&mut stream, &mut script).is_ok_and(|more| more) {},
    }
    strangers_get_little(stream.clone());
    let mut node = Node::new(kind / 2 % 2 == 0);
    let whole = stream.len();
    let mut taken = 0;
    // An error closes the connection, and half a packet at the end waits for the rest.
    while let Ok(Some(packet)) = split_packet(&mut stream, MAX_PACKET_BYTES) {
        taken += 12 + packet.head_bytes().len() + packet.tail.len();
        assert_eq!(
            taken + stream.len(),
            whole,
            "bytes got lost between packets"
        );
        judge(&packet, &mut node);
    }
}

/// Appends a packet of the script's choice; false at the end of the script.
fn put_packet(stream: &mut BytesMut, script: &mut Unstructured<'_>) -> arbitrary::Result<bool> {
    if script.is_empty() {
        return Ok(false);
    }
    let kind = script.int_in_range(1..=19u8)?;
    let head_bytes = usize::from(script.arbitrary::<u8>()?).min(script.len());
    let head = script.bytes(head_bytes)?;
    let tail_bytes = usize::from(script.arbitrary::<u8>()?).min(script.len());
    let tail = script.bytes(tail_bytes)?;
    stream.put_u32_le((head.len() + tail.len()) as u32);
    stream.put_slice(&[kind, 0, 0, 0]);
    stream.put_u32_le(head.len() as u32);
    stream.put_slice(head);
    stream.put_slice(tail);
    Ok(true)
}

/// Before the handshake no packet is longer than a greeting, and none makes us take memory for more.
fn strangers_get_little(mut stream: BytesMut) {
    let before = stream.capacity().max(stream.len());
    match split_packet(&mut stream, MAX_GREETING_BYTES) {
        Ok(Some(packet)) => {
            assert!(packet.head_bytes().len() + packet.tail.len() <= MAX_GREETING_BYTES);
        }
        Ok(None) => assert!(stream.capacity() <= 2 * (before + MAX_GREETING_BYTES)),
        Err(_) => {}
    }
}

/// Reads a packet as its receiver would.
fn judge(packet: &Packet, node: &mut Node) {
    let head = packet.head_bytes();
    match packet.kind {
        Kind::Hello => drop(read::<Hello>(head).map(|hello| hello.purpose())),
        Kind::Welcome => drop(read::<Welcome>(head)),
        Kind::Reject => drop(read::<Reject>(head)),
        Kind::Request => {
            if let Some(request) = read::<Request>(head) {
                raft::fuzzing::request(&request, packet.tail.clone());
            }
        }
        Kind::Response => {
            if let Some(response) = read::<Response>(head) {
                raft::fuzzing::response(&response);
                if let Some(crate::message::Reply::Answer(bytes)) = response.reply {
                    node.hear_answer(prost::Message::encode_to_vec(&bytes));
                }
            }
        }
        Kind::Append => {
            if let Some(head) = read(head) {
                raft::fuzzing::append(head, packet.tail.clone());
            }
        }
        Kind::Appended => drop(read(head).map(raft::fuzzing::appended)),
        Kind::Register => {
            if let Some(register) = read_as::<RegisterBytes, Register>(head) {
                node.register(register);
            }
        }
        Kind::Session => {
            if let Some(message) = read_as::<SessionBytes, Message>(head) {
                node.hear(message);
            }
        }
        Kind::FeedFrom => drop(read::<FeedFrom>(head)),
        Kind::FeedStart => drop(read::<FeedStart>(head)),
        Kind::Entries => {
            let _ = read::<EntriesHead>(head);
            entries(packet);
        }
        Kind::Position => drop(read::<PositionHead>(head)),
        // Snapshots have a target of their own. The rest of the input is the time that passes.
        _ => node.wait(packet.tail.first().copied().unwrap_or(1)),
    }
}

/// Frames as they come from an upstream: what is taken is what came, and every index has one after it.
fn entries(packet: &Packet) {
    let Ok(frames) = intake::frames(packet.tail.clone()) else {
        return;
    };
    let again: Vec<u8> = frames
        .iter()
        .flat_map(|frame| frame.as_bytes().to_vec())
        .collect();
    assert_eq!(packet.tail, again);
    for frame in frames {
        assert!(frame.id().index.checked_add(1).is_some());
        if let Ok(membership) = Membership::from_bytes(&frame.payload()) {
            let again = Membership::from_bytes(&membership.to_bytes());
            assert_eq!(again.expect("what was written is read"), membership);
        }
    }
}

/// A node of the protocol that hears all this.
struct Node {
    tree: TreeNode,
    now: Instant,
    /// The connections it has, ours to it and its to upstreams.
    links: Vec<LinkId>,
    asked: Vec<Address>,
}

impl Node {
    fn new(is_listener: bool) -> Node {
        let now = Instant(1_000_000_000);
        let address = Address::from("127.0.0.1:1");
        let config = Config::new(NodeId(1), address, ClusterId(7));
        let saved = Saved {
            upstreams: vec![Address::from("127.0.0.1:2"), Address::from("127.0.0.1:3")],
            ..Saved::default()
        };
        let tree = match is_listener {
            true => TreeNode::listener(now, config, saved, OwnLog::Empty, 5),
            false => {
                let mut voter = TreeNode::voter(config, saved, 5);
                let other = Peer {
                    id: NodeId(2),
                    address: Address::from("127.0.0.1:2"),
                };
                let state = VoterState {
                    leader: Some(other.id),
                    voters: vec![Voter {
                        peer: other,
                        heard: Some(Duration::ZERO),
                    }],
                };
                voter.handle_voter_state(now, state);
                voter.handle_leader_heard(now);
                voter
            }
        };
        let mut node = Node {
            tree,
            now,
            links: Vec::new(),
            asked: Vec::new(),
        };
        node.obey();
        node
    }

    fn register(&mut self, register: Register) {
        let link = LinkId::Down(self.links.len() as u64);
        self.links.push(link);
        self.tree
            .handle_register(self.now, link, register, LogVerdict::Agrees);
        self.obey();
    }

    fn hear(&mut self, message: Message) {
        if let Message::Heartbeat(heartbeat) = &message {
            let _ = intake::told_end(heartbeat);
        }
        // The newest connection is where it came from.
        let Some(link) = self.links.last().copied() else {
            return;
        };
        self.tree.handle_session_message(self.now, link, message);
        self.obey();
    }

    fn hear_answer(&mut self, bytes: Vec<u8>) {
        let Some(answer) = read_as::<AnswerBytes, Answer>(&bytes) else {
            return;
        };
        let from = self.asked.pop();
        let from = from.unwrap_or_else(|| Address::from("127.0.0.1:2"));
        self.tree.handle_answer(self.now, &from, answer);
        self.obey();
    }

    fn wait(&mut self, tens_of_ms: u8) {
        self.now = self.now + Duration::from_millis(10 * u64::from(tens_of_ms));
        self.tree.handle_timeout(self.now);
        self.obey();
    }

    /// Carries out what the protocol asks for, as far as a test can, and reads back what it would send.
    fn obey(&mut self) {
        while let Some(output) = self.tree.poll_output() {
            match output {
                Output::Ask { to } => self.asked.push(to),
                Output::Connect { link, .. } => {
                    let register = self.tree.register(LogEnd::default());
                    let bytes = RegisterBytes::from(&register);
                    assert_eq!(Register::try_from(bytes).as_ref(), Ok(&register));
                    self.links.push(link);
                }
                Output::Send { message, .. } => {
                    let bytes = SessionBytes::from(&message);
                    let read = Message::try_from(bytes);
                    assert!(
                        read.is_ok(),
                        "{message:?} is refused by who gets it: {read:?}"
                    );
                }
                Output::Persist { version, saved } => {
                    super::admin_requests::is_read_back(&saved);
                    self.tree.handle_persisted(self.now, version);
                }
                Output::Close { link } => self.links.retain(|open| *open != link),
                _ => {}
            }
        }
        let capacity = self.tree.config().capacity;
        assert!(self.tree.registered() <= capacity, "capacity");
    }
}
