//! What the protocol costs in memory, counted by an allocator that counts: nothing is allocated for a heartbeat that says
//! nothing new, a downstream takes less than a kibibyte, and a node with all its downstreams less than 40.

use eaves_tree::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

/// Counts what the current thread allocates; tests run side by side.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LIVE_BYTES: Cell<i64> = const { Cell::new(0) };
}

fn note(allocations: u64, bytes: i64) {
    // A thread that ends allocates after its counters are gone.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + allocations));
    let _ = LIVE_BYTES.try_with(|live| live.set(live.get() + bytes));
}

// Counting needs an allocator, and the trait is unsafe; this one passes everything on to the system's as it is.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(1, layout.size() as i64);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        note(0, -(layout.size() as i64));
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note(1, new_size as i64 - layout.size() as i64);
        unsafe { System.realloc(memory, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

fn live_bytes() -> i64 {
    LIVE_BYTES.with(Cell::get)
}

const UPSTREAM: NodeId = NodeId(2);
const LISTENER: NodeId = NodeId(3);

/// An address as long as they come.
fn address(id: u64) -> Address {
    let name = format!("listener-{id}.some-rack.some-data-centre.example.org:12345");
    Address::from(name.as_str())
}

fn peer(id: u64) -> Peer {
    Peer {
        id: NodeId(id),
        address: address(id),
    }
}

fn config(id: NodeId, capacity: u32) -> Config {
    let mut config = Config::new(id, address(id.0), ClusterId(1));
    config.capacity = capacity;
    config.zone = Some(Zone::from("a"));
    config
}

fn heartbeat(index: u64) -> Heartbeat {
    Heartbeat {
        path: Path::of(UPSTREAM),
        attached: true,
        stale: false,
        leader: Some(NodeId(1)),
        age: Duration::from_millis(30),
        draining: false,
        free_depth: Some(1),
        committed: LogPosition { term: 1, index },
    }
}

fn register(id: u64) -> Register {
    Register {
        listener: peer(id),
        zone: Some(Zone::from("a")),
        cluster: ClusterId(1),
        protocol: PROTOCOL_VERSION,
        last_log: LogEnd::default(),
        uncompared: false,
        free: FreePlaces {
            slots: 32,
            levels: 0,
        },
    }
}

/// Takes all outputs, and counts the messages among them.
fn drain(node: &mut TreeNode) -> usize {
    std::iter::from_fn(|| node.poll_output())
        .filter(|output| matches!(output, Output::Send { .. }))
        .count()
}

/// Listeners register with a node.
fn take_on(node: &mut TreeNode, now: Instant, count: u64) {
    for number in 0..count {
        let (link, register) = (LinkId::Down(number), register(1000 + number));
        node.handle_register(now, link, register, LogVerdict::Agrees);
        drain(node);
    }
}

/// A listener that is attached, and feeds `fed` others.
fn feeding_listener(now: Instant, fed: u64) -> (TreeNode, LinkId) {
    let saved = Saved {
        upstreams: vec![address(2)],
        learned: (40..40 + LEARNED_MAX as u64).map(peer).collect(),
        ..Saved::default()
    };
    let mut node = TreeNode::listener(now, config(LISTENER, fed as u32), saved, OwnLog::Empty, 7);
    drain(&mut node);
    let answer = Answer {
        role: Role::Follower,
        attached: true,
        stale: false,
        age: Duration::ZERO,
        draining: false,
        uncompared: false,
        path: Path::of(UPSTREAM),
        zone: Some(Zone::from("b")),
        capacity: 8,
        registered: 0,
        free: FreePlaces::default(),
        committed: LogPosition::default(),
        alternatives: Vec::new(),
    };
    node.handle_answer(now, &address(2), answer);
    // The other servers of the list have not answered: the settling time must pass.
    node.handle_timeout(now + Duration::from_secs(1));
    let link = std::iter::from_fn(|| node.poll_output()).find_map(|output| match output {
        Output::Connect { link, .. } => Some(link),
        _ => None,
    });
    let link = link.expect("it registers with the only one that answered");
    let accept = Accept {
        heartbeat: heartbeat(1),
        zone: Some(Zone::from("b")),
        voters: (1..=3).map(peer).collect(),
        ancestors: Vec::new(),
        siblings: (20..24).map(peer).collect(),
    };
    node.handle_session_message(now, link, Message::Accept(accept));
    for number in 0..fed {
        let down = LinkId::Down(number);
        node.handle_register(now, down, register(1000 + number), LogVerdict::Agrees);
        drain(&mut node);
    }
    assert!(node.is_attached());
    assert_eq!(u64::from(node.registered()), fed);
    (node, link)
}

#[test]
fn a_heartbeat_that_says_nothing_new_allocates_nothing() {
    const FED: u64 = 32;
    let mut now = Instant(1_000_000);
    let (mut node, up) = feeding_listener(now, FED);
    let beats: Vec<Message> = (0..20)
        .map(|beat| Message::Heartbeat(heartbeat(beat)))
        .collect();
    let mut counted = 0;
    for (number, beat) in beats.into_iter().enumerate() {
        now = now + Duration::from_secs(1);
        // The first few let the queues grow.
        let before = allocations();
        node.handle_session_message(now, up, beat);
        assert_eq!(
            drain(&mut node) as u64,
            FED + 1,
            "one for each downstream, and the answer"
        );
        for down in 0..FED {
            let ack = HeartbeatAck {
                committed: LogPosition::default(),
                free: FreePlaces {
                    slots: 32,
                    levels: 0,
                },
            };
            node.handle_session_message(now, LinkId::Down(down), Message::HeartbeatAck(ack));
        }
        assert_eq!(drain(&mut node), 0);
        if number >= 3 {
            counted += allocations() - before;
        }
    }
    assert_eq!(counted, 0);
}

#[test]
fn a_root_heartbeats_without_allocating() {
    const FED: u64 = 100;
    let mut now = Instant(1_000_000);
    let mut node = TreeNode::voter(config(UPSTREAM, FED as u32), Saved::default(), 7);
    take_on(&mut node, now, FED);
    let mut counted = 0;
    for beat in 0..20 {
        now = now + Duration::from_secs(1);
        let before = allocations();
        node.handle_leader_heard(now);
        node.handle_timeout(now);
        assert_eq!(drain(&mut node) as u64, FED);
        for down in 0..FED {
            node.handle_heard(now, LinkId::Down(down));
        }
        if beat >= 3 {
            counted += allocations() - before;
        }
    }
    assert_eq!(counted, 0);
}

#[test]
fn a_downstream_takes_less_than_a_kibibyte() {
    const FED: u64 = 1000;
    let now = Instant(1_000_000);
    let mut node = TreeNode::voter(config(UPSTREAM, FED as u32), Saved::default(), 7);
    let before = live_bytes();
    take_on(&mut node, now, FED);
    let each = (live_bytes() - before) / FED as i64;
    assert!(each > 0, "nothing was counted");
    assert!(each < 1024, "{each} bytes for each downstream");
}

#[test]
fn a_node_and_all_its_downstreams_take_less_than_40_kibibytes() {
    let before = live_bytes();
    let (node, _) = feeding_listener(Instant(1_000_000), 32);
    let taken = live_bytes() - before + size_of::<TreeNode>() as i64;
    assert!(taken < 40 * 1024, "{taken} bytes");
    drop(node);
    assert!(live_bytes() - before < 1024, "something is left");
}
