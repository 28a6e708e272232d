//! Every message of the tree there and back, and what must be rejected on the way.

use super::*;
use eaves_tree::PATH_LIMIT;
use prost::Message as _;
use std::fmt::Debug;

fn a_peer(id: u64) -> Peer {
    Peer {
        id: NodeId(id),
        address: Address::from(format!("127.0.0.1:{id}").as_str()),
    }
}

fn peers(count: usize) -> Vec<Peer> {
    (1..=count as u64).map(a_peer).collect()
}

fn a_path(length: usize) -> Path {
    Path::try_from((1..=length as u64).map(NodeId).collect::<Vec<_>>()).unwrap()
}

fn alternatives(count: usize) -> Vec<Alternative> {
    let places = [Place::Voter, Place::Free, Place::Leader, Place::Full];
    peers(count)
        .into_iter()
        .zip(places.into_iter().cycle())
        .map(|(peer, place)| Alternative { peer, place })
        .collect()
}

fn position() -> LogPosition {
    LogPosition {
        term: 3,
        index: u64::MAX - 1,
    }
}

fn an_end() -> LogEnd {
    LogEnd {
        position: position(),
        chain: u64::MAX - 1,
    }
}

fn an_answer(role: Role) -> Answer {
    Answer {
        role,
        attached: true,
        stale: false,
        age: Duration::from_millis(700),
        draining: false,
        uncompared: role == Role::Listener,
        path: a_path(3),
        zone: Some(Zone::from("north")),
        capacity: 32,
        registered: 5,
        free: FreePlaces {
            slots: 27,
            levels: 0,
        },
        committed: position(),
        alternatives: alternatives(4),
    }
}

fn a_register() -> Register {
    Register {
        listener: a_peer(9),
        zone: Some(Zone::from("north")),
        cluster: ClusterId(u64::MAX),
        protocol: 1,
        last_log: an_end(),
        uncompared: true,
        free: FreePlaces {
            slots: 7,
            levels: 2,
        },
    }
}

fn a_heartbeat() -> Heartbeat {
    Heartbeat {
        path: a_path(2),
        attached: true,
        stale: false,
        leader: Some(NodeId(0)),
        age: Duration::from_micros(1_500_001),
        draining: false,
        free_depth: Some(3),
        committed: position(),
    }
}

/// Every variant of every enum, every field set and left out, every list at its limit.
fn messages() -> Vec<Message> {
    let heartbeats = [
        a_heartbeat(),
        Heartbeat {
            path: a_path(PATH_LIMIT),
            attached: false,
            stale: true,
            leader: None,
            draining: true,
            free_depth: None,
            ..a_heartbeat()
        },
        Heartbeat {
            age: Duration::MAX,
            committed: LogPosition::default(),
            ..a_heartbeat()
        },
        Heartbeat {
            age: Duration::ZERO,
            ..a_heartbeat()
        },
    ];
    let accepts = [0, 3, ALTERNATIVES_MAX].map(|count| {
        let (voters, ancestors, siblings) = (peers(count), peers(count / 2), peers(count / 3));
        Accept {
            heartbeat: a_heartbeat(),
            zone: (count > 0).then(|| Zone::from("south")),
            voters,
            ancestors,
            siblings,
        }
    });
    let refuses = [
        RefuseReason::Leader,
        RefuseReason::Full,
        RefuseReason::Detached,
        RefuseReason::Loop,
        RefuseReason::TooDeep,
        RefuseReason::Draining,
        RefuseReason::Uncompared,
        RefuseReason::Cluster { ours: ClusterId(0) },
        RefuseReason::Protocol { ours: 0 },
        RefuseReason::Log { ours: an_end() },
        RefuseReason::Log {
            ours: LogEnd::default(),
        },
    ]
    .map(|reason| Refuse {
        reason,
        alternatives: alternatives(5),
    });
    let reasons = [
        KickReason::Leader,
        KickReason::Silent,
        KickReason::Admin,
        KickReason::Drain,
        KickReason::Uncompared,
    ];
    let kicks = reasons.map(|reason| Kick {
        reason,
        alternatives: alternatives(ALTERNATIVES_MAX),
    });
    let acks = [
        HeartbeatAck {
            committed: position(),
            free: FreePlaces {
                slots: u32::MAX,
                levels: 1,
            },
        },
        HeartbeatAck {
            committed: LogPosition::default(),
            free: FreePlaces::default(),
        },
    ];
    use LeaveReason::*;
    let leaves = [
        Moved,
        Loop,
        TooDeep,
        Detached,
        NewList,
        BecameVoter,
        UnknownSession,
        NotBetter,
    ];
    heartbeats
        .into_iter()
        .map(Message::Heartbeat)
        .chain(accepts.into_iter().map(Message::Accept))
        .chain(refuses.into_iter().map(Message::Refuse))
        .chain(kicks.into_iter().map(Message::Kick))
        .chain(acks.into_iter().map(Message::HeartbeatAck))
        .chain(leaves.into_iter().map(Message::Leave))
        .collect()
}

/// Through real bytes and back.
fn assert_round_trip<D, B>(value: &D)
where
    D: TryFrom<B, Error = TreeWireError> + PartialEq + Debug,
    B: for<'a> From<&'a D> + prost::Message + Default,
{
    let bytes = B::from(value).encode_to_vec();
    assert_eq!(
        D::try_from(B::decode(&bytes[..]).unwrap()).as_ref(),
        Ok(value)
    );
}

#[test]
fn session_messages_round_trip() {
    for message in messages() {
        assert_round_trip::<Message, SessionBytes>(&message);
    }
}

#[test]
fn answers_registrations_and_saved_lists_round_trip() {
    for role in [Role::Leader, Role::Follower, Role::Listener] {
        assert_round_trip::<Answer, AnswerBytes>(&an_answer(role));
    }
    let bare = Answer {
        attached: false,
        stale: true,
        age: Duration::MAX,
        draining: true,
        zone: None,
        free: FreePlaces::default(),
        alternatives: vec![],
        ..an_answer(Role::Listener)
    };
    assert_round_trip::<Answer, AnswerBytes>(&bare);
    assert_round_trip::<Register, RegisterBytes>(&a_register());
    let bare = Register {
        zone: None,
        last_log: LogEnd::default(),
        uncompared: false,
        free: FreePlaces::default(),
        ..a_register()
    };
    assert_round_trip::<Register, RegisterBytes>(&bare);
    assert_round_trip::<Saved, SavedBytes>(&Saved::default());
    let upstreams = peers(UPSTREAMS_MAX)
        .into_iter()
        .map(|peer| peer.address)
        .collect();
    assert_round_trip::<Saved, SavedBytes>(&Saved {
        upstreams,
        learned: peers(LEARNED_MAX),
        steering: Steering {
            pin: Some(a_peer(7)),
            avoided: (1..=AVOIDED_MAX as u64).map(NodeId).collect(),
            draining: true,
        },
    });
}

#[test]
fn ages_are_cut_to_microseconds_and_the_longest_are_never() {
    let age_after = |age| {
        heartbeat(heartbeat_bytes(&Heartbeat {
            age,
            ..a_heartbeat()
        }))
        .unwrap()
        .age
    };
    assert_eq!(
        age_after(Duration::from_nanos(1_999)),
        Duration::from_micros(1)
    );
    assert_eq!(
        age_after(Duration::from_micros(NEVER - 1)),
        Duration::from_micros(NEVER - 1)
    );
    assert_eq!(
        age_after(Duration::from_micros(NEVER) + Duration::from_micros(1)),
        Duration::MAX
    );
}

#[test]
fn long_lists_of_ours_are_cut_to_what_a_reader_takes() {
    let long = Message::Kick(Kick {
        reason: KickReason::Admin,
        alternatives: alternatives(ALTERNATIVES_MAX + 1),
    });
    let cut = Message::Kick(Kick {
        reason: KickReason::Admin,
        alternatives: alternatives(ALTERNATIVES_MAX),
    });
    assert_eq!(Message::try_from(SessionBytes::from(&long)), Ok(cut));
}

#[test]
fn the_format_stays_as_it_is() {
    let ack = HeartbeatAck {
        committed: LogPosition {
            term: 3,
            index: 300,
        },
        free: FreePlaces {
            slots: 2,
            levels: 1,
        },
    };
    let bytes = SessionBytes::from(&Message::HeartbeatAck(ack)).encode_to_vec();
    assert_eq!(
        bytes,
        [
            0x2a, 13, 0x0a, 5, 0x08, 3, 0x10, 0xac, 2, 0x12, 4, 0x08, 2, 0x10, 1
        ]
    );
    let bytes = SessionBytes::from(&Message::Leave(LeaveReason::UnknownSession)).encode_to_vec();
    assert_eq!(bytes, [0x30, 7]);
}

#[track_caller]
fn assert_rejected<D: Debug>(read: Result<D, TreeWireError>, why: &str) {
    assert_eq!(read.unwrap_err().to_string(), why);
}

#[test]
fn answers_with_wrong_values_are_rejected() {
    let good = AnswerBytes::from(&an_answer(Role::Follower));
    let reject = |change: fn(&mut AnswerBytes), why| {
        let mut bytes = good.clone();
        change(&mut bytes);
        assert_rejected(Answer::try_from(bytes), why);
    };
    reject(|bytes| bytes.role = 0, "reject unknown role 0");
    reject(|bytes| bytes.role = 4, "reject unknown role 4");
    reject(|bytes| bytes.path.clear(), "reject a path without nodes");
    reject(
        |bytes| bytes.path = vec![1; PATH_LIMIT + 1],
        "reject a path of 65 nodes, the limit is 64",
    );
    reject(
        |bytes| bytes.committed = None,
        "reject bytes without a known committed position",
    );
    reject(
        |bytes| bytes.age_micros = None,
        "reject bytes without a known age",
    );
    reject(
        |bytes| bytes.free = None,
        "reject bytes without a known count of free places",
    );
    reject(
        |bytes| bytes.alternatives[0].peer = None,
        "reject bytes without a known alternative's peer",
    );
    reject(
        |bytes| bytes.alternatives[1].place = 9,
        "reject unknown place 9",
    );
    reject(
        |bytes| bytes.alternatives[2].peer = Some(PeerBytes::default()),
        "reject bytes without a known address",
    );
    reject(
        |bytes| bytes.alternatives = vec![bytes.alternatives[0].clone(); ALTERNATIVES_MAX + 1],
        "reject 65 alternatives, the limit is 64",
    );
}

#[test]
fn registrations_without_a_required_part_are_rejected() {
    let good = RegisterBytes::from(&a_register());
    let reject = |bytes, why| assert_rejected(Register::try_from(bytes), why);
    reject(
        RegisterBytes {
            listener: None,
            ..good.clone()
        },
        "reject bytes without a known listener",
    );
    reject(
        RegisterBytes {
            last_log: None,
            ..good.clone()
        },
        "reject bytes without a known end of the log",
    );
    let no_position = Some(LogEndBytes {
        position: None,
        chain: 1,
    });
    reject(
        RegisterBytes {
            last_log: no_position,
            ..good.clone()
        },
        "reject bytes without a known position of the log's end",
    );
    reject(
        RegisterBytes { free: None, ..good },
        "reject bytes without a known count of free places",
    );
}

#[test]
fn session_messages_with_wrong_values_are_rejected() {
    let reject = |message, why| assert_rejected(Message::try_from(SessionBytes { message }), why);
    let many = vec![peer_bytes(&a_peer(1)); ALTERNATIVES_MAX + 1];
    let beat = heartbeat_bytes(&a_heartbeat());
    let accepts = |accept| Some(SessionKind::Accept(accept));
    let accept = AcceptBytes {
        heartbeat: Some(beat.clone()),
        ..AcceptBytes::default()
    };
    let beats = |heartbeat| Some(SessionKind::Heartbeat(heartbeat));
    let acks = |ack| Some(SessionKind::HeartbeatAck(ack));
    let kick = |reason| {
        Some(SessionKind::Kick(KickBytes {
            reason,
            alternatives: vec![],
        }))
    };

    reject(None, "reject bytes without a known session message");
    reject(
        accepts(AcceptBytes::default()),
        "reject bytes without a known heartbeat",
    );
    reject(
        accepts(AcceptBytes {
            voters: many.clone(),
            ..accept.clone()
        }),
        "reject 65 voters, the limit is 64",
    );
    reject(
        accepts(AcceptBytes {
            ancestors: many.clone(),
            ..accept.clone()
        }),
        "reject 65 ancestors, the limit is 64",
    );
    reject(
        accepts(AcceptBytes {
            siblings: many,
            ..accept
        }),
        "reject 65 siblings, the limit is 64",
    );
    reject(
        Some(SessionKind::Refuse(RefuseBytes::default())),
        "reject bytes without a known refuse reason",
    );
    reject(
        beats(HeartbeatBytes {
            path: vec![],
            ..beat.clone()
        }),
        "reject a path without nodes",
    );
    reject(
        beats(HeartbeatBytes {
            age_micros: None,
            ..beat.clone()
        }),
        "reject bytes without a known age",
    );
    reject(
        beats(HeartbeatBytes {
            committed: None,
            ..beat
        }),
        "reject bytes without a known committed position",
    );
    reject(kick(0), "reject unknown kick reason 0");
    reject(kick(6), "reject unknown kick reason 6");
    reject(
        acks(HeartbeatAckBytes::default()),
        "reject bytes without a known committed position",
    );
    let no_free = HeartbeatAckBytes {
        committed: Some(position().into()),
        free: None,
    };
    reject(
        acks(no_free),
        "reject bytes without a known count of free places",
    );
    reject(Some(SessionKind::Leave(0)), "reject unknown leave reason 0");
    reject(Some(SessionKind::Leave(9)), "reject unknown leave reason 9");
}

#[test]
fn saved_lists_with_wrong_values_are_rejected() {
    let reject = |bytes, why| assert_rejected(Saved::try_from(bytes), why);
    let upstreams = |text: &str, count| SavedBytes {
        upstreams: vec![text.into(); count],
        ..SavedBytes::default()
    };
    reject(upstreams("", 1), "reject bytes without a known address");
    reject(
        upstreams("a:1", UPSTREAMS_MAX + 1),
        "reject 1025 upstream servers, the limit is 1024",
    );
    let learned = vec![peer_bytes(&a_peer(1)); LEARNED_MAX + 1];
    reject(
        SavedBytes {
            learned,
            ..SavedBytes::default()
        },
        "reject 17 learned peers, the limit is 16",
    );
    let avoided = SavedBytes {
        avoided: vec![1; AVOIDED_MAX + 1],
        ..SavedBytes::default()
    };
    reject(avoided, "reject 65 avoided nodes, the limit is 64");
    let nowhere = SavedBytes {
        pin: Some(PeerBytes::default()),
        ..SavedBytes::default()
    };
    reject(nowhere, "reject bytes without a known address");
}

#[test]
fn damaged_bytes_are_read_or_rejected_and_never_asserted() {
    for message in messages() {
        let bytes = SessionBytes::from(&message).encode_to_vec();
        for (at, flip) in (0..bytes.len()).flat_map(|at| [0x01, 0x08, 0x80].map(|flip| (at, flip)))
        {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            for damaged in [&bytes[..at], &damaged[..]] {
                let _: Result<_, _> = SessionBytes::decode(damaged).map(Message::try_from);
            }
        }
    }
}
